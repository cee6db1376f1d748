//! Settings, merged from flags, the environment and `celery-doctor.toml`, and the URLs that kombu and Celery take.
//! Nothing here connects to anything.

mod duration;
pub mod file;
pub mod flags;
pub mod secret;
pub mod settings;
pub mod url;
