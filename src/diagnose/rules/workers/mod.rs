//! The `CD7xx` rules: workers.

pub mod config_drift;
pub mod duplicate_node_name;
pub mod early_ack;
pub mod known_bad_version;
pub mod late_ack_without_reject;
pub mod long_running;
pub mod no_workers;
pub mod saturated;
