//! What Celery and kombu put on the wire and into Redis. Total functions, no input or output.

pub mod amqp_routing;
mod body;
pub mod canvas;
pub mod control;
pub mod exchange;
mod finder;
pub mod glance;
mod loose;
pub mod message;
mod mould;
mod pickle;
pub mod result;
pub mod routing;
#[cfg(test)]
mod samples;
mod skim;
pub mod task_id;
pub mod unacked;
pub mod when;
