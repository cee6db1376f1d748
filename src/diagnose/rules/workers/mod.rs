//! The `CD7xx` rules: workers.

pub mod no_workers;
