//! Settings, merged from flags, the environment and `celery-doctor.toml`, and the URLs that kombu and Celery take.
//! Nothing here connects to anything.

pub mod file;
pub mod secret;
pub mod settings;
pub mod url;
