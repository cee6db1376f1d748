//! Reading RabbitMQ: over AMQP, and by the management API.

pub(crate) mod amqp;
mod census;
pub(crate) mod control;
mod decode;
mod http;
mod looks;
pub(super) mod management;
mod may_peek;
mod message;
pub(crate) mod peek;
mod queues;
pub(crate) mod rounds;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use self::rounds::collect;
