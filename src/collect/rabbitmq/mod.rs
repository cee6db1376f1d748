//! Reading of a RabbitMQ broker over AMQP 0-9-1.

pub(crate) mod amqp;
mod wire;
