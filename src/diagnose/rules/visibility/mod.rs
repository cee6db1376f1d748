//! The `CD3xx` rules: the visibility timeout.

pub mod clock_skew;
pub mod eta_beyond_visibility;
pub mod foreign_sweep;
pub mod nobody_restores;
pub mod redelivered;
pub mod run_beyond_visibility;
pub mod stuck_mutex;
pub mod unacked_without_index;
pub mod visibility_conflict;
pub mod visibility_expired;
