//! The `CD5xx` rules: results.

pub mod chain_broken;
pub mod chord_stuck;
pub mod discarded_not_registered;
pub mod duplicate_run;
pub mod result_expires;
pub mod result_not_stored;
pub mod retry_vanished;
pub mod vanished_while_running;
pub mod worker_lost;
