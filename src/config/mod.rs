//! Settings, merged from flags, the environment and `celery-doctor.toml`, and the URLs that kombu and Celery take.
//! Nothing here connects to anything.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "audit and routes check are to use it")
)]
pub(crate) mod deployments;
mod duration;
pub(crate) mod file;
pub(crate) mod flags;
mod peek;
#[allow(dead_code, reason = "audit is to use the thresholds")]
pub(crate) mod policy;
pub(crate) mod secret;
pub(crate) mod settings;
pub(crate) mod url;
