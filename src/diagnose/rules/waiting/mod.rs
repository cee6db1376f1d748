//! The `CD2xx` rules: messages that wait in a queue.

pub mod backlog;
pub mod content_refused;
pub mod duplicate_message;
pub mod expired;
pub mod malformed_message;
pub mod mixed_registries;
pub mod not_registered;
pub mod queue_broken;
pub mod queue_limits;
pub mod revoked;
pub mod stalled_consumer;
