//! What the tool believes of Celery and kombu, held against the real libraries and servers.

mod amqp_routing;
mod exchanges;
mod pidbox;
mod queues;
mod reservations;
mod routing;
mod wire;
mod workers;
