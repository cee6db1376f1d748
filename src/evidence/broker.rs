//! Facts about the broker: its server, its queues, what it holds for workers.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};

use super::Observed;
use crate::celery::control::TransportOptions;
use crate::celery::exchange::Binding;

/// A Redis server and how it was reached, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisEndpoint {
    /// Where it listens. By way of sentinels, the master that they named.
    pub address: RedisAddress,
    /// The database.
    pub database: u32,
    /// The user, where one logged in by name.
    pub username: Option<String>,
    /// Whether a password was sent.
    pub password: bool,
    /// How TLS was spoken; none on a plain connection.
    pub tls: Option<RedisTls>,
}

/// Where a Redis server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisAddress {
    /// On a host and port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// On a Unix socket of this path.
    Socket(String),
}

/// What a client needs besides to speak TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisTls {
    /// Whether the server's certificate was checked.
    pub checked: bool,
    /// The file of its authority, where not the system's were used.
    pub ca: Option<String>,
    /// The file of the client's certificate.
    pub cert: Option<String>,
    /// The file of its key.
    pub key: Option<String>,
}

/// What the server says of itself. Every field may be refused or missing on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `redis_version`.
    pub version: Observed<String>,
    /// `uptime_in_seconds`.
    pub uptime_seconds: Observed<u64>,
    /// `role`: `master` or `slave`.
    pub role: Observed<String>,
    /// `connected_slaves`.
    pub connected_replicas: Observed<u64>,
    /// Whether `aof_enabled` is 1.
    pub append_only: Observed<bool>,
    /// Whether CONFIG GET `save` names any snapshot.
    pub rdb_saves: Observed<bool>,
    /// `maxmemory` in bytes; 0 is no limit.
    pub maxmemory: Observed<u64>,
    /// `maxmemory_policy`.
    pub maxmemory_policy: Observed<String>,
    /// `used_memory` in bytes.
    pub used_memory: Observed<u64>,
    /// `evicted_keys` since the start.
    pub evicted_keys: Observed<u64>,
    /// Seconds by which the server's clock is ahead of this machine's; unseen where TIME was refused.
    #[serde(deserialize_with = "clock_ahead")]
    pub clock_ahead_seconds: Observed<f64>,
    /// Connections that wait in BRPOP, by database; from CLIENT LIST.
    pub clients: Observed<Vec<ClientFacts>>,
    /// What only matters for the deployment as a whole.
    #[serde(default)]
    pub health: Health,
}

/// Readings from before a clock could be unseen have a number alone.
fn clock_ahead<'de, D: Deserializer<'de>>(from: D) -> Result<Observed<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Noted {
        Number(f64),
        Observed(Observed<f64>),
    }
    Ok(match Noted::deserialize(from)? {
        Noted::Number(seconds) => Observed::Seen(seconds),
        Noted::Observed(clock) => clock,
    })
}

/// How well the server is. Snapshots of single tasks from before there was an audit have none of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `connected_clients`.
    pub connections: Observed<u64>,
    /// `maxclients`; INFO has it since Redis 6.2.
    pub max_connections: Observed<u64>,
    /// `rejected_connections` since the start.
    pub rejected_connections: Observed<u64>,
    /// Whether `rdb_last_bgsave_status` is `ok`.
    pub last_rdb_save_ok: Observed<bool>,
    /// Whether `aof_last_write_status` is `ok`.
    pub last_aof_write_ok: Observed<bool>,
    /// `mem_not_counted_for_evict`: bytes of `used_memory` that do not count against `maxmemory`.
    #[serde(default = "untold")]
    pub not_counted: Observed<u64>,
    /// Whether CONFIG GET `stop-writes-on-bgsave-error` is `yes`.
    #[serde(default = "untold")]
    pub stops_writes: Observed<bool>,
    /// Of a replica: whether `master_link_status` is `up`.
    pub master_link_up: Observed<bool>,
    /// Of a master: its replicas, from the lines `slave0` and so on.
    pub replicas: Observed<Vec<Replica>>,
    /// Whether it was a replica once and became a master: `second_repl_offset` is set beside `master_replid2`.
    #[serde(default = "untold")]
    pub promoted: Observed<bool>,
}

fn untold<T>() -> Observed<T> {
    Observed::not_asked("it was not asked for")
}

/// One replica, as its master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Whether its `state` is `online`.
    pub online: bool,
    /// Seconds since it last spoke; none where the line has no `lag`.
    pub lag_seconds: Option<u64>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            connections: untold(),
            max_connections: untold(),
            rejected_connections: untold(),
            last_rdb_save_ok: untold(),
            last_aof_write_ok: untold(),
            master_link_up: untold(),
            replicas: untold(),
            promoted: untold(),
            not_counted: untold(),
            stops_writes: untold(),
        }
    }
}

/// One connection of CLIENT LIST, as far as it tells of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFacts {
    /// The peer's address without its port.
    pub host: String,
    /// The selected database; none where that could not be read, so that it may be any.
    pub database: Option<u32>,
    /// The last command.
    pub command: String,
    /// Whether it is still in that command, waiting for an answer (`flags` has `b`).
    pub blocked: bool,
    /// Number of pattern subscriptions.
    pub pattern_subscriptions: u64,
    /// Seconds since it connected; none in a reading that did not note it.
    #[serde(default)]
    pub age_seconds: Option<u64>,
    /// Seconds since the last command; none in a reading that did not note it.
    #[serde(default)]
    pub idle_seconds: Option<u64>,
    /// Its number on the server; none in a reading that did not note it.
    #[serde(default)]
    pub id: Option<u64>,
    /// Whether it was blocked in BRPOP while messages stood in lists: it takes from none of these, or it would have been
    /// served at once.
    #[serde(default)]
    pub blocked_throughout: bool,
    /// Who it is.
    #[serde(default)]
    pub identity: ClientIdentity,
}

/// Who is behind a connection of CLIENT LIST, as far as is told; nothing in a reading that did not note it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientIdentity {
    /// Its address with its port.
    pub address: Option<String>,
    /// The name that it gave itself (CLIENT SETNAME).
    pub name: Option<String>,
    /// The user who logged in (since Redis 6.0).
    pub user: Option<String>,
    /// The library that speaks for it, as it says (since Redis 7.2), and its version.
    pub library: Option<String>,
}

/// One exchange's binding table, `_kombu.binding.E`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BindingTable {
    /// The `global_keyprefix` before the key.
    pub prefix: String,
    /// The exchange.
    pub exchange: String,
    /// What stands between the parts of its members: the transport option `sep` of who wrote them.
    pub sep: String,
    /// Its bindings.
    pub bindings: Vec<Binding>,
}

/// One list of the database: a queue, or one of its priority sub-lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct List {
    /// The whole key, with prefix, queue and priority.
    pub key: String,
    /// The `global_keyprefix` before the queue's name.
    pub prefix: String,
    /// The queue.
    pub queue: String,
    /// What stands between the queue's name and the priority, and the priority; none for the queue's own list.
    pub priority: Option<(String, i64)>,
    /// Whether a binding, a worker or a flag names the queue. A list that only the scan found may be another
    /// program's.
    pub named: bool,
    /// Its length, at the time it was read; 0 where there is no such key (Redis deletes empty lists).
    pub length: u64,
    /// Messages in it that are not Celery's.
    pub malformed: u64,
    /// How much of it was read; unseen where it could not be (another type, refused, cut off).
    pub read: Observed<()>,
}

/// The names of the three keys of reservations, without the `global_keyprefix`: the transport options `unacked_key`,
/// `unacked_index_key` and `unacked_mutex_key` (kombu 5.7 transport/redis.py, `Channel`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnackedNames {
    /// The hash.
    pub hash: String,
    /// The sorted set.
    pub index: String,
    /// The lock of the sweep.
    pub mutex: String,
}

impl Default for UnackedNames {
    fn default() -> Self {
        Self::of(&TransportOptions::default())
    }
}

impl UnackedNames {
    /// The names that a worker with these options uses.
    pub fn of(options: &TransportOptions) -> Self {
        let [hash, index, mutex] = names(options).map(str::to_owned);
        Self { hash, index, mutex }
    }

    /// Whether a worker with these options uses them.
    pub fn are_of(&self, options: &TransportOptions) -> bool {
        names(options) == [&self.hash, &self.index, &self.mutex]
    }

    /// Whether they are kombu's own.
    pub fn are_usual(&self) -> bool {
        self.are_of(&TransportOptions::default())
    }
}

fn names(options: &TransportOptions) -> [&str; 3] {
    [
        options.unacked_key.as_deref().unwrap_or("unacked"),
        (options.unacked_index_key.as_deref()).unwrap_or("unacked_index"),
        (options.unacked_mutex_key.as_deref()).unwrap_or("unacked_mutex"),
    ]
}

/// The reservations of one key prefix, and of workers with one set of names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reservations {
    /// The `global_keyprefix` before the keys.
    pub prefix: String,
    /// The names of the keys.
    #[serde(default, skip_serializing_if = "UnackedNames::are_usual")]
    pub names: UnackedNames,
    /// Entries of `unacked`.
    pub unacked: u64,
    /// Entries of `unacked_index`.
    pub indexed: u64,
    /// Entries of `unacked` that are not what kombu writes.
    pub malformed: u64,
    /// Lowest score of `unacked_index`: Unix seconds, the oldest delivery.
    #[serde(serialize_with = "super::file::finite::option")]
    pub oldest: Option<f64>,
    /// Highest score of `unacked_index`: Unix seconds, the newest delivery by its worker's clock.
    #[serde(serialize_with = "super::file::finite::option")]
    pub newest: Option<f64>,
    /// `unacked_mutex`: none where there is no such key, else its TTL in seconds, or none for a key without a TTL.
    pub mutex: Option<MutexTtl>,
}

/// How long the sweep's lock lasts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MutexTtl {
    /// It goes away after so many seconds.
    Seconds(#[serde(serialize_with = "super::file::finite::number")] f64),
    /// It never goes away by itself.
    Never,
}

/// Another database of the broker's server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OtherDatabase {
    /// Its number.
    pub database: u32,
    /// Lists in it that hold Celery messages.
    pub lists: Vec<List>,
    /// Worker mailboxes that its binding table names (`_kombu.binding.celery.pidbox`).
    pub mailboxes: Vec<String>,
    /// Tasks that its workers say they have or that are unacknowledged in it, of those that nothing accounts for here
    /// and whose results name a worker of the broker's own database. None where its workers were not asked, or not all
    /// of them answered.
    #[serde(default)]
    pub claimed: Option<BTreeSet<String>>,
}
