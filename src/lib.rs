//! Says where a lost Celery task is, or how it was lost.
#![forbid(unsafe_code)]

pub mod celery;
