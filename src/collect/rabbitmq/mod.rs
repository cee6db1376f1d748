//! Reading RabbitMQ: over AMQP, and by the management API.

mod queues;
pub(crate) mod rounds;

pub(crate) use self::rounds::collect;
