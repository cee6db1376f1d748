//! Facts about a RabbitMQ virtual host: from AMQP itself, and from the management API where it can be read. A field
//! that a version does not have, or whose statistics are switched off, is unseen and never zero.

mod roles;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::roles::{DELAYED_EXCHANGE, Role, is_own_exchange, role_by_name};
use super::{Observed, Why};

/// A virtual host and the node or cluster around it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RabbitMq {
    /// The virtual host's name, `/` by default.
    pub vhost: String,
    /// What the server calls itself when a client connects: `RabbitMQ`, `LavinMQ`.
    pub product: Observed<String>,
    /// Its version.
    pub version: Observed<String>,
    /// The management API's URL with its secrets masked; none where there is none to ask.
    pub management_url: Option<String>,
    /// Whether the management API answered, and what it says of itself.
    pub overview: Observed<Overview>,
    /// The nodes of the cluster.
    pub nodes: Observed<Vec<Node>>,
    /// Alarms in effect. While there is one, publishers are blocked, and with them remote control.
    pub alarms: Observed<Vec<Alarm>>,
    /// Queues of the virtual host. Without the management API those that could be named and passively declared.
    pub queues: Observed<Vec<Queue>>,
    /// Exchanges of the virtual host.
    pub exchanges: Observed<Vec<Exchange>>,
    /// Bindings of the virtual host, those of the default exchange left out.
    pub bindings: Observed<Vec<AmqpBinding>>,
    /// Consumers of the virtual host.
    pub consumers: Observed<Vec<Consumer>>,
    /// Channels of the virtual host.
    pub channels: Observed<Vec<Channel>>,
    /// Connections of the virtual host, this tool's own left out.
    pub connections: Observed<Vec<Connection>>,
    /// Shovels that are set up as parameters and take from this virtual host, or from one of another server.
    #[serde(default = "untold")]
    pub shovels: Observed<Vec<Shovel>>,
}

/// A shovel (`GET /api/parameters`), which takes messages from a queue and publishes them elsewhere. Its addresses hold
/// passwords and are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shovel {
    /// Its name.
    pub name: String,
    /// The queue from which it takes (`src-queue`).
    pub queue: String,
}

/// `GET /api/overview`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// Publishes that reached no queue, dropped without a word, since the node's start (`drop_unroutable`). Events and
    /// remote control that nobody listens to are among them.
    pub drop_unroutable: Observed<u64>,
    /// Publishes that were returned to their mandatory publisher (`return_unroutable`).
    pub return_unroutable: Observed<u64>,
    /// The cluster's name.
    pub cluster: Option<String>,
    /// The tags of the management user, which decide what it is shown.
    pub user_tags: Vec<String>,
}

/// One node: `GET /api/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, such as `rabbit@host`.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
    /// The memory alarm.
    pub memory_alarm: Observed<bool>,
    /// The disk alarm.
    pub disk_alarm: Observed<bool>,
    /// Bytes in use.
    pub memory_used: Observed<u64>,
    /// Bytes at which the alarm goes off.
    pub memory_limit: Observed<u64>,
    /// Bytes free on disk.
    pub disk_free: Observed<u64>,
    /// Bytes at which the alarm goes off.
    pub disk_free_limit: Observed<u64>,
    /// Nodes that it lost sight of.
    pub partitions: Vec<String>,
    /// Sockets or file descriptors in use, whichever is closer to its limit, and the limit.
    pub descriptors: Observed<(u64, u64)>,
    /// Milliseconds since its start.
    pub uptime_ms: Observed<u64>,
}

/// One alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The node that has it.
    pub node: String,
    /// `memory` or `disk`.
    pub resource: String,
}

/// What a queue is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// A classic queue, with or without priorities.
    Classic,
    /// A quorum queue.
    Quorum,
    /// A stream, which is never consumed.
    Stream,
    /// Another type, by its name.
    Other(String),
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its type; unseen without the management API.
    pub kind: Observed<QueueType>,
    /// Whether a restart keeps it.
    pub durable: Observed<bool>,
    /// Whether it goes away with its last consumer.
    pub auto_delete: Observed<bool>,
    /// Whether only its own connection may use it.
    pub exclusive: Observed<bool>,
    /// The arguments it was declared with.
    pub arguments: Observed<BTreeMap<String, Value>>,
    /// What policies set on it (`effective_policy_definition`), keys without `x-`.
    pub policy: Observed<BTreeMap<String, Value>>,
    /// Messages that wait, by a passive declaration, which is exact, else by the statistics.
    pub ready: Observed<u64>,
    /// Messages delivered and not acknowledged; seconds old.
    pub unacknowledged: Observed<u64>,
    /// Dead letters that a quorum queue keeps inside until their target has taken them, by the statistics
    /// (`messages_dlx`; RabbitMQ 3.10 and later, `x-dead-letter-strategy: at-least-once`). They are in none of the other
    /// numbers.
    #[serde(default = "untold")]
    pub held_dead_letters: Observed<u64>,
    /// Consumers, by a passive declaration, else by the statistics.
    pub consumers: Observed<u64>,
    /// Messages that a restart keeps, of all.
    pub persistent: Observed<u64>,
    /// Deliveries since the start.
    pub delivered: Observed<u64>,
    /// Deliveries of messages that had been delivered before.
    pub redelivered: Observed<u64>,
    /// Acknowledgements.
    pub acknowledged: Observed<u64>,
    /// Publishes that came in.
    pub published: Observed<u64>,
    /// `running`, or what else it is.
    pub state: Option<String>,
    /// For a quorum queue: its members, and those that are online.
    pub members: Option<(Vec<String>, Vec<String>)>,
    /// For a quorum queue: the member that leads; empty where none does, and none where that is not told.
    #[serde(default)]
    pub leader: Option<String>,
    /// When nothing has happened in it since; RFC 3339 or the server's own form.
    pub idle_since: Option<String>,
    /// How far it was looked into.
    pub peeked: Observed<Peeked>,
}

/// What a look into a queue cost and brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peeked {
    /// Messages looked at, from the head.
    pub messages: u64,
    /// Whether these were all that waited.
    pub whole: bool,
    /// Messages that are not Celery's.
    pub malformed: u64,
    /// Messages that were counted before and did not come, while the queue was emptied: workers took them, or their
    /// time to live was over, and the server dropped them in place of delivering them.
    pub gone: u64,
    /// For how long they were held, in milliseconds.
    pub held_ms: u64,
    /// Whether as many messages waited afterwards as before. Workers may have taken some.
    pub given_back: bool,
}

/// One exchange.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, as the server tells it"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Its name; empty for the default exchange.
    pub name: String,
    /// `direct`, `topic`, `fanout`, `headers`, or a plugin's.
    pub kind: String,
    /// Whether a restart keeps it.
    pub durable: bool,
    /// Whether it goes away with its last binding.
    pub auto_delete: bool,
    /// Whether only other exchanges publish to it.
    pub internal: bool,
    /// The exchange that takes what this one can't route: by its argument, else by policy.
    pub alternate: Option<String>,
    /// Publishes that came in (`publish_in`).
    pub published_in: Observed<u64>,
    /// Copies that went out to queues (`publish_out`).
    pub published_out: Observed<u64>,
    /// Messages had come in so long before that copies of them would be counted too. It is looked at only where messages
    /// came in, none went out, and something is bound.
    #[serde(default)]
    pub settled: bool,
}

/// One binding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AmqpBinding {
    /// The exchange from which.
    pub source: String,
    /// The queue or exchange to which.
    pub destination: String,
    /// Whether that is an exchange.
    pub to_exchange: bool,
    /// The routing key or pattern.
    pub routing_key: String,
    /// Its arguments, which a headers exchange goes by.
    pub arguments: BTreeMap<String, Value>,
}

/// One consumer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consumer {
    /// The queue.
    pub queue: String,
    /// The connection's name, which joins it to its worker; empty where the server does not tell.
    pub connection: String,
    /// The channel's name; empty where the server does not tell.
    pub channel: String,
    /// Whether its messages wait for an acknowledgement.
    pub ack_required: bool,
    /// Whether messages are sent to it now; none before RabbitMQ 3.8.
    pub active: Option<bool>,
    /// How many messages it may hold unacknowledged, by its own prefetch count; 0 is no limit. RabbitMQ 3 keeps what
    /// Celery asks for classic queues with the channel, and has 0 here.
    #[serde(default)]
    pub prefetch: Option<u64>,
    /// `consumer_timeout` in milliseconds that is in force for it, none where it is switched off; unseen before
    /// RabbitMQ 4.0, whose management API does not tell.
    pub timeout_ms: Observed<Option<u64>>,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// Its connection's name; empty where the server does not tell.
    pub connection: String,
    /// Messages delivered on it and not acknowledged.
    pub unacknowledged: Observed<u64>,
    /// Its prefetch count, global or not; 0 is no limit.
    pub prefetch: Observed<u64>,
    /// Whether it publishes with confirms.
    pub confirms: Observed<bool>,
    /// Publishes on it.
    pub published: Observed<u64>,
    /// Of these, those that reached no queue.
    pub drop_unroutable: Observed<u64>,
    /// Acknowledgements on it.
    pub acknowledged: Observed<u64>,
    /// Consumers on it.
    pub consumers: Observed<u64>,
    /// When nothing has happened on it since; the server's own form.
    pub idle_since: Option<String>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its name: addresses and ports of both ends.
    pub name: String,
    /// `running`, `blocked` (by an alarm, having published) or `blocking` (on its next publish).
    pub state: Option<String>,
    /// The client's product, such as `py-amqp`.
    pub product: Option<String>,
    /// The product's version.
    #[serde(default)]
    pub product_version: Option<String>,
    /// What the client calls the connection (`connection_name`); shovels and federation links do, Celery does not.
    #[serde(default)]
    pub client_name: Option<String>,
    /// The user who logged in.
    #[serde(default)]
    pub user: Option<String>,
    /// The client's address.
    pub peer_host: Option<String>,
    /// The client's port.
    pub peer_port: Option<u64>,
    /// The heartbeat in seconds that was agreed on; 0 is none.
    pub heartbeat_seconds: Option<u64>,
}

impl RabbitMq {
    /// A virtual host of which nothing was read yet, for this reason.
    pub fn unread(vhost: &str, detail: &str) -> Self {
        fn unread<T>(detail: &str) -> Observed<T> {
            Observed::not_asked(detail)
        }
        Self {
            vhost: vhost.to_owned(),
            product: unread(detail),
            version: unread(detail),
            management_url: None,
            overview: unread(detail),
            nodes: unread(detail),
            alarms: unread(detail),
            queues: unread(detail),
            exchanges: unread(detail),
            bindings: unread(detail),
            consumers: unread(detail),
            channels: unread(detail),
            connections: unread(detail),
            shovels: unread(detail),
        }
    }

    /// The first of what the management API tells that was not read, and why. Nodes are shown only to users with the tag
    /// `monitoring`, and nothing else needs them.
    pub fn first_unseen(&self) -> Option<(&'static str, &Why)> {
        [
            ("queues", self.queues.unseen()),
            ("exchanges", self.exchanges.unseen()),
            ("bindings", self.bindings.unseen()),
            ("consumers", self.consumers.unseen()),
            ("channels", self.channels.unseen()),
            ("alarms", self.alarms.unseen()),
            ("overview", self.overview.unseen()),
            ("connections", self.connections.unseen()),
            ("nodes", self.nodes.unseen()),
        ]
        .into_iter()
        .find_map(|(what, why)| Some((what, why?)))
    }
}

/// What a file does not tell that was written before it was asked for.
fn untold<T>() -> Observed<T> {
    Observed::not_asked("it was not read")
}

impl Queue {
    /// A queue of which nothing is known but its name.
    pub fn named(name: &str) -> Self {
        fn unknown<T>() -> Observed<T> {
            Observed::not_asked("only the management API tells")
        }
        Self {
            name: name.to_owned(),
            kind: unknown(),
            durable: unknown(),
            auto_delete: unknown(),
            exclusive: unknown(),
            arguments: unknown(),
            policy: unknown(),
            ready: unknown(),
            unacknowledged: unknown(),
            held_dead_letters: unknown(),
            consumers: unknown(),
            persistent: unknown(),
            delivered: unknown(),
            redelivered: unknown(),
            acknowledged: unknown(),
            published: unknown(),
            state: None,
            members: None,
            leader: None,
            idle_since: None,
            peeked: Observed::not_asked("queues are looked into only with --peek"),
        }
    }
}
