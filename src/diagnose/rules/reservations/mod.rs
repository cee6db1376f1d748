//! The `CD4xx` rules: messages that workers hold.

pub mod consumer_timeout;
pub mod delivery_limit;
pub mod eta_flood;
pub mod foreign_consumer;
pub mod orphaned_reservation;
pub mod prefetch_hoarding;
pub mod rate_limited;
pub mod silent_worker;
