//! Says where a lost Celery task is, or how it was lost.
#![forbid(unsafe_code)]

pub mod celery;
pub mod cli;
pub mod collect;
pub mod config;
pub mod diagnose;
pub mod evidence;
pub mod report;
