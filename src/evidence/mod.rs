//! The facts of one reading of a deployment. Plain data: nothing here judges, and nothing here reads.
//!
//! Messages move queue → unacked → worker → result, and are read in that order, so that a message which moves
//! meanwhile is seen twice rather than never.

mod broker;
mod census;
pub mod file;
mod observed;
pub mod rabbitmq;
pub mod routing;
mod task;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::broker::{
    BindingTable, ClientFacts, ClientIdentity, Health, List, MutexTtl, OtherDatabase, RedisAddress,
    RedisEndpoint, RedisTls, Replica, Reservations, ServerFacts, UnackedNames,
};
pub use self::census::{Ages, Census, Class, ListMovement, Movement, NAMED_IDS, Software, Twice};
pub use self::observed::{Observed, Reason, Why};
pub use self::rabbitmq::RabbitMq;
pub use self::task::{CanvasGap, ChordParts, Copy, Death, Lock, Place, StoredResult, TaskEvidence};
pub use self::workers::{Silence, Worker, WorkerClaim, Workers};
use crate::celery::canvas::Step;

/// A number with its noun: `1 message`, `3 messages`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Everything that one reading found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The moment of the reading by the broker's clock: the only "now" that a rule may know. Where the broker was
    /// not reached, this machine's clock.
    pub taken_at: Timestamp,
    /// Which messages were looked for.
    pub scope: Scope,
    /// The broker.
    pub broker: Broker,
    /// The result backend.
    pub result_backend: ResultBackend,
    /// Kombu's binding tables, by key prefix and exchange.
    pub bindings: Observed<Vec<BindingTable>>,
    /// Every list of the broker's database that holds, or may hold, task messages.
    pub lists: Observed<Vec<List>>,
    /// The `unacked` halves, one entry for each key prefix and each set of names in use.
    pub reservations: Observed<Vec<Reservations>>,
    /// Other databases of the same server. Looked into only where an id was not found in the broker's own.
    pub other_databases: Observed<Vec<OtherDatabase>>,
    /// The virtual host, where the broker is RabbitMQ; none on Redis. Its task queues stand in `lists` too.
    pub rabbitmq: Option<RabbitMq>,
    /// The workers, by their own word.
    pub workers: Observed<Workers>,
    /// What was found about each id, traced or related.
    pub tasks: BTreeMap<String, TaskEvidence>,
    /// What messages carry that is sent after their own task, by the id of that task: as far as it leads to the traced ids,
    /// and the beginning of it where messages were kept for later questions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub canvases: BTreeMap<String, Vec<Step>>,
    /// What of the canvases was not looked through.
    #[serde(default, skip_serializing_if = "CanvasGap::is_none")]
    pub canvas_gap: CanvasGap,
    /// Tasks of the result backend that lead to a chord which waits for the rest of its parts. Looked for where nothing
    /// knows a traced id, which may be that of the chord's body. Each stands in `tasks`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub of_waiting_chords: BTreeSet<String>,
    /// All messages in classes, where every message was read; none where a few ids were looked for.
    #[serde(default)]
    pub census: Option<Census>,
    /// What was read, how completely, and how long it took.
    pub reads: Vec<Read>,
    /// The visibility timeout in seconds that the user gave, which wins over what the workers say.
    #[serde(serialize_with = "file::finite::option")]
    pub visibility_timeout_given: Option<f64>,
}

/// Which messages a reading looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// These ids, and those related to them.
    Ids(Vec<String>),
    /// Every message, as a snapshot for later questions does.
    Everything,
}

/// The broker as far as its address and its server go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    /// The URL with its secrets masked.
    pub url: String,
    /// `redis` or `rabbitmq`, as the report names it.
    pub kind: String,
    /// The database number; 0 on RabbitMQ, which has none.
    pub database: u32,
    /// The Redis server that was read, for commands; none where none was reached, or where it was not noted.
    #[serde(default)]
    pub endpoint: Option<RedisEndpoint>,
    /// Facts about the server; unseen where the broker could not be read.
    pub server: Observed<ServerFacts>,
}

/// The result backend as far as its address goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultBackend {
    /// The URL with its secrets masked; none where none was given.
    pub url: Option<String>,
    /// `redis`, or the scheme of a backend that is not read, or `none`.
    pub kind: String,
    /// Whether it could be read.
    pub readable: Observed<()>,
    /// The Redis server that was read, for commands; none where none was reached, or where it was not noted.
    #[serde(default)]
    pub endpoint: Option<RedisEndpoint>,
    /// `global_keyprefix` of its keys, as far as it is known.
    #[serde(default)]
    pub key_prefix: String,
}

/// One line of what was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// What.
    pub source: Source,
    /// How completely.
    pub status: ReadStatus,
    /// In words, with numbers.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// The obstacle, where there was one.
    pub reason: Option<Reason>,
}

impl Read {
    /// Whether something is missing that could be wanted. What was left out because there was no need is not: no
    /// obstacle is named then, while what a flag left out has one.
    pub fn falls_short(&self) -> bool {
        let needless = self.status == ReadStatus::Skipped && self.reason.is_none();
        self.status != ReadStatus::Complete && !needless
    }
}

/// The places that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The broker's server: INFO, TIME, CONFIG.
    Server,
    /// Kombu's binding tables.
    Bindings,
    /// The queues' lists.
    Queues,
    /// `unacked`, `unacked_index`, `unacked_mutex`.
    Unacked,
    /// The workers, by remote control.
    Workers,
    /// The result backend.
    Results,
    /// CLIENT LIST.
    Clients,
    /// The server's other databases.
    OtherDatabases,
    /// RabbitMQ's management API: server, nodes, alarms, consumers, channels, connections.
    Management,
}

impl Source {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Bindings => "bindings",
            Self::Queues => "queues",
            Self::Unacked => "unacked",
            Self::Workers => "workers",
            Self::Results => "results",
            Self::Clients => "clients",
            Self::OtherDatabases => "other_databases",
            Self::Management => "management",
        }
    }
}

/// How completely a place was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadStatus {
    /// The whole of it.
    Complete,
    /// A part of it.
    Partial,
    /// Nothing of it.
    Unavailable,
    /// Left out on purpose, or needless.
    Skipped,
}

impl ReadStatus {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Unavailable => "unavailable",
            Self::Skipped => "skipped",
        }
    }
}

impl Evidence {
    /// The line about a place, where it was read or tried.
    pub fn read(&self, source: Source) -> Option<&Read> {
        self.reads.iter().find(|read| read.source == source)
    }

    /// Whether a place was read whole, so that "absent" may be said of it.
    pub fn complete(&self, source: Source) -> bool {
        self.read(source)
            .is_some_and(|read| read.status == ReadStatus::Complete)
    }

    /// The workers that answered; empty where nobody did or nobody was asked.
    pub fn answered(&self) -> &[Worker] {
        self.workers
            .seen()
            .map_or(&[], |workers| workers.answered.as_slice())
    }

    /// Whether the workers were asked and every one that is subscribed answered, from the beginning to the end.
    pub fn all_workers_answered(&self) -> bool {
        self.workers
            .seen()
            .is_some_and(|workers| workers.silent == 0 && workers.are_settled())
    }

    /// Why the server's clock is not known, where Redis would tell it and did not: the moment of the reading is this
    /// machine's then. RabbitMQ has no clock to ask for.
    pub fn unknown_clock(&self) -> Option<&Why> {
        let server = self.broker.server.seen()?;
        let clock = server.clock_ahead_seconds.unseen();
        clock.filter(|_| self.rabbitmq.is_none())
    }

    /// Whether only some ids were looked for.
    pub fn is_of_ids(&self) -> bool {
        matches!(self.scope, Scope::Ids(_))
    }

    /// Leaves of a reading of everything what an audit looks at: single messages that were kept for traces stand in the
    /// classes too, and that not all were kept does not matter to it.
    pub fn for_audit(&mut self) {
        let Some(census) = &self.census else {
            return;
        };
        let wanted = |id: &String| census.by_result.contains(id) || census.twice.ids.contains(id);
        self.tasks.retain(|id, _| wanted(id));
        let lists = self.lists.seen_mut().into_iter().flatten();
        for list in lists.filter(|_| census.counted_whole) {
            list.read = Observed::Seen(());
        }
        let whole = |source: Source| match source {
            Source::Queues => census.counted_whole,
            Source::Unacked => census.unacked_counted_whole,
            _ => false,
        };
        for read in self.reads.iter_mut().filter(|read| whole(read.source)) {
            read.status = ReadStatus::Complete;
            read.reason = None;
        }
    }

    /// Notes that a reading of every message did not meet this id. Its result was not looked up.
    pub fn note_absent(&mut self, id: &str) {
        let unread = "the snapshot looked up the results of the tasks that it met only";
        self.tasks
            .entry(id.to_owned())
            .or_insert_with(|| TaskEvidence {
                copies: Vec::new(),
                claims: Vec::new(),
                revoked_by: Vec::new(),
                first_result: Observed::not_asked(unread),
                result: Observed::not_asked(unread),
                chord: Observed::not_asked(unread),
                children: Vec::new(),
                saved_group: None,
                locks: Vec::new(),
            });
    }
}
