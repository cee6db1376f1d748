//! Reading RabbitMQ.

mod decode;
mod http;
pub(super) mod management;
