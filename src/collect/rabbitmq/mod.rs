//! Reading of a RabbitMQ broker over AMQP 0-9-1.

pub(crate) mod amqp;
pub(crate) mod control;
mod may_peek;
mod message;
pub(crate) mod peek;
mod wire;

#[cfg(test)]
mod tests;
