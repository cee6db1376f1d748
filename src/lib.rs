//! Says where a lost Celery task is, or how it was lost.
#![forbid(unsafe_code)]

pub mod celery;
pub mod cli;
mod collect;
mod config;
pub mod diagnose;
pub mod evidence;
mod report;
pub mod routes;
