//! What a reading of every message counted: classes of messages that share their fate, each with one message for all.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{TaskEvidence, UnackedNames};

/// How many ids a class names.
pub const NAMED_IDS: usize = 10;

/// All messages and claims of a deployment, in classes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Census {
    /// The classes: of the messages in queues, of those in `unacked`, and of tasks that workers hold without a message.
    pub classes: Vec<Class>,
    /// Messages and reservations in no class, because there were too many classes.
    pub unclassed: u64,
    /// Ids that stand more than once: each has its copies in [`super::Evidence::tasks`].
    pub twice: Twice,
    /// Ids of tasks that drew attention by their results alone: each stands in [`super::Evidence::tasks`].
    pub by_result: BTreeSet<String>,
    /// How old the reservations are, by key prefix.
    pub ages: Vec<Ages>,
    /// What moved between two readings; none where there was but one.
    pub movement: Option<Movement>,
    /// What `report` says of each worker's software, by node.
    pub software: BTreeMap<String, Software>,
    /// Kept tasks do not hold every message, though every message was counted: the queues were read whole for an audit.
    pub counted_whole: bool,
    /// The same of what is unacknowledged.
    #[serde(default)]
    pub unacked_counted_whole: bool,
}

/// Messages with one fate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// The id of the message that stands for all: the next in turn, or the one that was delivered first.
    pub id: String,
    /// How many there are.
    pub count: u64,
    /// Ids of some of them, [`NAMED_IDS`] at most, the next in turn first.
    pub ids: Vec<String>,
    /// What was found about the message that stands for all.
    pub task: TaskEvidence,
}

/// Ids that stand more than once in the broker, or that several workers hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twice {
    /// Those that were looked at again and stood still, in [`super::Evidence::tasks`].
    pub ids: BTreeSet<String>,
    /// How many messages repeat the id of another that waits, as far as ids were compared.
    pub repeats: u64,
    /// Messages whose ids were compared with no other, because there were too many to remember.
    pub not_compared: u64,
}

/// The ages of the reservations under one key prefix and one set of names, in parts of the visibility timeout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ages {
    /// The `global_keyprefix`.
    pub prefix: String,
    /// The names of the keys.
    #[serde(default, skip_serializing_if = "UnackedNames::are_usual")]
    pub names: UnackedNames,
    /// The timeout that they were held against, in seconds.
    #[serde(serialize_with = "super::file::finite::number")]
    pub timeout_seconds: f64,
    /// Younger than a quarter of it, than a half, than three quarters, than all of it.
    pub quarters: [u64; 4],
    /// Older than it.
    pub beyond: u64,
    /// Without an entry in the index.
    pub unindexed: u64,
}

/// What moved between two readings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Movement {
    /// Seconds between the two.
    #[serde(serialize_with = "super::file::finite::number")]
    pub seconds: f64,
    /// The lists that held anything at the first.
    pub lists: Vec<ListMovement>,
    /// Workers that had a free slot and nothing reserved or scheduled at both, and began no task in between.
    pub idle_throughout: BTreeSet<String>,
    /// Workers that had reserved tasks and none active or scheduled at both.
    #[serde(default)]
    pub hanging_throughout: BTreeSet<String>,
    /// Workers that began nothing between, by their own count.
    #[serde(default)]
    pub began_none: BTreeSet<String>,
}

/// What became of one list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListMovement {
    /// The list's whole key.
    pub key: String,
    /// Its length at the first reading.
    pub before: u64,
    /// Its length at the second.
    pub after: u64,
    /// Whether the same message was next at both; never so on RabbitMQ, which shows none.
    pub same_next: bool,
    /// Whether messages were seen to be taken: the list was shorter at one of many looks than at the one before, or the
    /// statistics counted on. None on Redis.
    #[serde(default)]
    pub taken: Option<bool>,
}

/// The versions that a worker runs, by its own word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// Celery's version.
    pub celery: Option<String>,
    /// Kombu's version.
    pub kombu: Option<String>,
}
