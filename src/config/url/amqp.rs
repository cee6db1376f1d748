//! AMQP servers and RabbitMQ's management API, as URLs name them.

use super::{Secret, Tls};

/// One AMQP server, and how to log in. A list of broker URLs has several; they are tried in their order, as kombu's
/// default failover strategy does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpServer {
    pub host: String,
    pub port: u16,
    /// The virtual host's name, decoded; `/` by default.
    pub vhost: String,
    pub username: String,
    pub password: Secret,
    /// `None`: a plain connection.
    pub tls: Option<Tls>,
}

/// RabbitMQ's management API, and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManagementServer {
    pub host: String,
    pub port: u16,
    /// What stands before `/api`, where a proxy or `management.path_prefix` puts something there; empty by default.
    pub path_prefix: String,
    pub username: String,
    pub password: Secret,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// The user named it, so that its absence is worth a warning; else it was guessed from the broker's host.
    pub given: bool,
}
