//! The `CD6xx` rules: the broker itself.

pub mod broker_restarted;
pub mod connections_refused;
pub mod eviction_enabled;
pub mod evictions_happened;
pub mod failover_risk;
pub mod memory_pressure;
pub mod no_persistence;
pub mod no_publisher_confirms;
pub mod transient_queue;
pub mod writes_refused;
