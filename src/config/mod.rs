//! Settings, merged from flags, the environment and `celery-doctor.toml`, and the URLs that kombu and Celery take.
//! Nothing here connects to anything.

pub(crate) mod deployments;
mod duration;
pub(crate) mod file;
pub(crate) mod flags;
pub(crate) mod input;
mod peek;
pub(crate) mod policy;
pub(crate) mod secret;
pub(crate) mod settings;
pub(crate) mod url;
