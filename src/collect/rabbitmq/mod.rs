//! Reading RabbitMQ: over AMQP, and by the management API.

mod decode;
mod http;
pub(super) mod management;
mod queues;
pub(crate) mod rounds;

pub(crate) use self::rounds::collect;
