//! All input: connections, timeouts, the order of reading. Nothing here judges.

mod broker;
pub(crate) mod cleanup;
mod connect;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the order of reading RabbitMQ will call it")
)]
mod rabbitmq;
mod redis;
mod results;
mod rounds;
mod workers;

use std::time::Duration;

pub(crate) use self::rounds::collect;
use crate::celery::message::Keep;
use crate::config::url::{RedisServer, ResultBackend};

/// How long a server may keep silent before it counts as gone. Generous, because a busy broker is not a broken one.
pub(crate) const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// What to read, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The broker.
    pub broker: RedisServer,
    /// Its URL with its secrets masked.
    pub broker_url: String,
    /// The result backend, where one was given.
    pub result_backend: Option<ResultBackend>,
    /// Its URL with its secrets masked.
    pub result_backend_url: Option<String>,
    /// What to look for.
    pub question: Question,
    /// `global_keyprefix` of the broker, where the user named it.
    pub key_prefix: Option<String>,
    /// `global_keyprefix` of the result backend, where the user named it.
    pub result_key_prefix: Option<String>,
    /// Queues to look into besides those found.
    pub queues: Vec<String>,
    /// How long a worker may stay silent.
    pub timeout: Duration,
    /// Whether to ask the workers at all.
    pub ask_workers: bool,
    /// The visibility timeout that the user gave.
    pub visibility_timeout: Option<Duration>,
    /// Whether to keep the arguments of the tasks found.
    pub keep: Keep,
}

impl Plan {
    /// Whether one server is broker and result backend.
    fn one_server(&self) -> bool {
        matches!(&self.result_backend, Some(ResultBackend::Redis(server)) if server.endpoint == self.broker.endpoint)
    }
}

/// What to look for.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// These ids.
    Ids(Vec<String>),
    /// Every message, up to so many.
    Everything {
        /// More than these are not kept.
        limit: u64,
    },
}

/// Told what is being read, how far it is and how much there is.
pub(crate) type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);
