//! Facts about one task id.

use serde::{Deserialize, Serialize};

use super::{Observed, UnackedNames, WorkerClaim};
use crate::celery::message::Envelope;
use crate::celery::result::ResultDoc;

/// What was found about one id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskEvidence {
    /// Its messages in the broker, those that stood still when looked at again.
    pub copies: Vec<Copy>,
    /// Workers that say they hold it.
    pub claims: Vec<WorkerClaim>,
    /// Nodes in whose list of revoked tasks it stands.
    pub revoked_by: Vec<String>,
    /// The result as it stood before the queues were read: a copy seen later than a final state is a second run to
    /// come, not one that had just ended.
    pub first_result: Observed<Option<StoredResult>>,
    /// The result as it stood after everything else was read.
    pub result: Observed<Option<StoredResult>>,
    /// The chord that it is part of, by its group id.
    pub chord: Observed<Option<ChordParts>>,
    /// Tasks that follow it: the next link of its chain and other children, by their ids, as far as its result names
    /// them. Each has its own entry in [`super::Evidence::tasks`].
    pub children: Vec<String>,
    /// The tasks of a group whose result was saved under this id; none where there is no such key, or it was not looked
    /// for, as where the id was found otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_group: Option<Vec<String>>,
    /// Locks that hold this id, as those of celery-singleton do. Looked for only where the id was not found otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
}

/// A key whose value is the id of a task, so that another one like it is not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The key.
    pub key: String,
    /// Whether it stands in the result backend's database, and not in the broker's.
    pub in_results: bool,
}

/// One message in the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// Where it stands.
    pub place: Place,
    /// Its envelope.
    pub envelope: Envelope,
}

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "place")]
pub enum Place {
    /// In a list of the broker's database.
    Queue {
        /// The list's whole key, as in [`super::List::key`].
        key: String,
        /// How many deliveries away it is: 1 is next.
        position: u64,
        /// The list's length.
        of: u64,
    },
    /// In a dead-letter queue of RabbitMQ.
    DeadLetter {
        /// The queue in which it stands now.
        queue: String,
        /// How many deliveries away it is: 1 is next.
        position: u64,
        /// How many messages wait in the queue.
        of: u64,
        /// How it came there, where a header says so.
        death: Option<Death>,
    },
    /// In a queue of RabbitMQ without consumers, which sends it on when its time has come: one of native delayed
    /// delivery, `celery_delayed_N` (Celery 5.5, kombu 5.5 `transport/native_delayed_delivery.py`), or one with a time
    /// to live and a dead-letter exchange.
    Delayed {
        /// The queue in which it waits now.
        queue: String,
        /// The routing key with which native delayed delivery sends it on, else the queue to which it goes; empty where
        /// that is none.
        target: String,
    },
    /// In `unacked`.
    Unacked {
        /// The `global_keyprefix` before the key.
        prefix: String,
        /// The names of the keys.
        #[serde(default, skip_serializing_if = "UnackedNames::are_usual")]
        names: UnackedNames,
        /// The delivery tag, the field's name.
        tag: String,
        /// The score in `unacked_index`: Unix seconds of the delivery by the worker's clock. None where the index has
        /// no such entry.
        #[serde(serialize_with = "super::file::finite::option")]
        delivered_at: Option<f64>,
        /// The exchange through which a restore would send it.
        exchange: String,
        /// The routing key with which a restore would send it.
        routing_key: String,
    },
    /// In a list of another database of the same server, or in its `unacked`.
    OtherDatabase {
        /// The database.
        database: u32,
        /// The list's whole key, or that of `unacked`.
        key: String,
        /// How many deliveries away it is: 1 is next, 0 is delivered.
        position: u64,
        /// The list's length; 0 for `unacked`.
        of: u64,
    },
}

/// Why a message stands in a dead-letter queue: the newest entry of its `x-death` header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Death {
    /// `rejected`, `expired`, `maxlen` or `delivery_limit`.
    pub reason: String,
    /// The queue that it came from.
    pub queue: String,
    /// How often this happened to it there.
    pub count: u64,
    /// Unix seconds of the last time.
    pub at: Option<i64>,
}

/// A result as it stands in the backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredResult {
    /// What it says, without the result itself.
    pub doc: ResultDoc,
    /// Seconds until it expires; none where it never does.
    #[serde(serialize_with = "super::file::finite::option")]
    pub ttl_seconds: Option<f64>,
}

/// A chord's counters in the result backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChordParts {
    /// The group's id.
    pub group_id: String,
    /// `.s`: how many header tasks there are; none where the key is gone or was never written.
    pub size: Option<u64>,
    /// `.j`: how many header results have come in.
    pub joined: u64,
    /// Ids in `.j`, with their states.
    pub members: Vec<(String, String)>,
}

/// What of the canvases that messages carry was not looked through for the ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanvasGap {
    /// Compressed bodies that were not unpacked, because there were too many.
    pub packed: u64,
    /// Messages that lead to one of the ids and were not kept, because there were too many.
    pub leads: u64,
}

impl CanvasGap {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
