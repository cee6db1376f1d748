//! The `CD6xx` rules: the broker itself.

pub mod memory_pressure;
pub mod no_publisher_confirms;
pub mod transient_queue;
