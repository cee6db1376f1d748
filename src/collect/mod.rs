//! All input: connections, timeouts, the order of reading. Nothing here judges.

mod audience;
mod broker;
mod census;
pub(crate) mod cleanup;
mod connect;
mod counting;
mod deadline;
mod holdings;
mod mailbox;
mod movement;
mod name;
pub(crate) mod near;
mod notes;
mod other_databases;
mod rabbitmq;
mod redis;
mod related;
mod reservations;
mod results;
mod rounds;
mod suspects;
mod wanted;
mod workers;

use std::time::Duration;

pub(crate) use self::rounds::collect;
use crate::celery::message::Keep;
use crate::config::url::amqp::{AmqpServers, ManagementServer};
use crate::config::url::{RedisServer, ResultBackend};

/// How long a server may keep silent before it counts as gone. Generous, because a busy broker is not a broken one.
pub(crate) const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Results are looked through where their database has no more keys than this, unless the user says otherwise: it takes
/// about a second.
pub(crate) const MOST_RESULT_KEYS: u64 = 100_000;

/// What to read, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The broker.
    pub broker: Target,
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

/// The broker to read.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A database of a Redis server.
    Redis(RedisServer),
    /// A virtual host of RabbitMQ.
    RabbitMq(Box<RabbitTarget>),
}

/// How to read a virtual host of RabbitMQ.
#[derive(Debug, Clone)]
pub(crate) struct RabbitTarget {
    /// Its AMQP servers, in the order in which they are tried.
    pub servers: AmqpServers,
    /// Its management API.
    pub management: ManagementServer,
    /// How many messages of each queue may be looked at; none where no queue may be looked into.
    pub peek: Option<u64>,
}

impl Target {
    /// Its kind, as the report names it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::RabbitMq(_) => "rabbitmq",
        }
    }

    /// Its database number; RabbitMQ has none.
    fn database(&self) -> u32 {
        match self {
            Self::Redis(server) => server.db,
            Self::RabbitMq(_) => 0,
        }
    }
}

impl Plan {
    /// Whether one server is broker and result backend.
    fn one_server(&self) -> bool {
        matches!(
            (&self.broker, &self.result_backend),
            (Target::Redis(broker), Some(ResultBackend::Redis(server))) if server.endpoint == broker.endpoint
        )
    }
}

/// What to look for.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// These ids.
    Ids(Vec<String>),
    /// Every message.
    Everything(Everything),
}

/// What a reading of everything goes into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Everything {
    /// How many messages are kept one by one; none where classes are enough.
    pub(crate) keep: Option<u64>,
    /// Results are looked through where their database has no more keys.
    pub(crate) result_keys: u64,
    /// How long after the first reading a second one tells what moves.
    pub(crate) sample: Option<Duration>,
    /// When the reading has to be over, counted from its start.
    pub(crate) deadline: Option<Duration>,
}

/// Told what is being read, how far it is and how much there is.
pub(crate) type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);
