//! The `CD1xx` rules: publishing and routing.

pub mod default_queue_unconsumed;
pub mod delayed_delivery_unbound;
pub mod key_prefix_mismatch;
pub mod no_consumer;
pub mod priority_not_consumed;
pub mod restore_black_hole;
pub mod unbound_exchange;
pub mod unroutable;
pub mod unroutable_publishes;
pub mod wrong_database;
