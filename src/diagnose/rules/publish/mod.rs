//! The CD1xx rules: publishing and routing.

pub mod no_consumer;
