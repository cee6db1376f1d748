//! Reading RabbitMQ: over AMQP, and by the management API.

pub(crate) mod amqp;
mod asking;
mod audit;
mod census;
pub(crate) mod control;
mod decode;
mod frames;
mod http;
mod leaderless;
mod looks;
mod mailboxes;
pub(super) mod management;
mod may_peek;
mod message;
mod movement;
pub(crate) mod peek;
mod policies;
mod queues;
mod replies;
pub(crate) mod rounds;
mod wire;

#[cfg(test)]
#[path = "../../../tests/live/lab/rabbit_node.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "made for the live tests, which use all of it"
)]
mod rabbit_node;
#[cfg(test)]
mod tests;

pub(crate) use self::rounds::collect;
