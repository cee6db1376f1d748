//! Reading RabbitMQ: over AMQP, and by the management API.

pub(crate) mod amqp;
pub(crate) mod control;
mod decode;
mod frames;
mod http;
mod looks;
pub(super) mod management;
mod may_peek;
mod message;
pub(crate) mod peek;
mod policies;
mod queues;
pub(crate) mod rounds;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use self::rounds::collect;
