//! The `CD1xx` rules: publishing and routing.

pub mod default_queue_unconsumed;
pub mod key_prefix_mismatch;
pub mod no_consumer;
pub mod priority_not_consumed;
pub mod restore_black_hole;
pub mod unroutable;
pub mod wrong_database;
