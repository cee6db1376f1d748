//! Facts about the workers, by their own word.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Observed;
use crate::celery::control::{ActiveQueue, Claim, Conf, Stats, TaskTraits};

/// The answers to the remote-control requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// Those that answered.
    pub answered: Vec<Worker>,
    /// How many are subscribed and gave no answer in time that could be read.
    pub silent: u64,
    /// How many of these answered what can't be read, by the content types of their answers: an app can have a serializer
    /// of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unreadable: BTreeMap<String, u64>,
    /// Nodes that declared a mailbox and did not answer. Among them are the silent ones; dead ones stay in the table
    /// for a while, so that there can be more names than silent workers.
    pub unanswered_names: Vec<String>,
    /// Nodes that came or left while the reading went on: they were not asked everything.
    #[serde(default)]
    pub unsettled: Vec<String>,
    /// Whether workers came or left meanwhile whose names nobody told.
    #[serde(default)]
    pub others_unsettled: bool,
    /// How long they were given, in seconds.
    #[serde(serialize_with = "super::file::finite::number")]
    pub timeout_seconds: f64,
}

/// Who is silent, as far as names go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence<'a> {
    /// Nobody.
    None,
    /// Exactly these nodes.
    Named(&'a [String]),
    /// So many, among these names or unnamed.
    Among(u64, &'a [String]),
}

/// One worker that answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its node name, such as `celery@host`.
    pub node: String,
    /// The `global_keyprefix` under which it was reached.
    pub prefix: String,
    /// More than one worker answers to this name; their answers are joined.
    pub twins: bool,
    /// The content type in which it answers, where that is none of kombu's: that of the `task_serializer` with which it
    /// sends tasks (Celery 5.7 app/control.py, `Control`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// The queues that it consumes.
    pub queues: Observed<Vec<ActiveQueue>>,
    /// The tasks that it knows, built-in ones included, with the attributes that matter.
    pub registered: Observed<BTreeMap<String, TaskTraits>>,
    /// Pool, prefetch and transport options.
    pub stats: Observed<Stats>,
    /// The settings that differ from Celery's defaults and matter here.
    pub conf: Observed<Conf>,
    /// What it runs.
    pub active: Observed<Vec<Claim>>,
    /// How many tasks it has reserved beyond those that it runs.
    pub reserved: Observed<u64>,
    /// How many tasks wait for their ETA; asked only where an id could not be accounted for without it.
    pub scheduled: Observed<u64>,
}

/// A worker's word about one id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerClaim {
    /// The node.
    pub node: String,
    /// What it says.
    pub claim: Claim,
    /// How many more of the same task it has by its own lists, running or waiting: a worker that lost its connection is
    /// given again what it runs.
    #[serde(default)]
    pub again: u64,
}

impl Worker {
    /// Whether it did not say what it runs, or how much it has reserved.
    pub fn keeps_its_work_to_itself(&self) -> bool {
        self.active.seen().is_none() || self.reserved.seen().is_none()
    }
}

impl Workers {
    /// Whether the same workers were there from the beginning of the reading to its end.
    pub fn are_settled(&self) -> bool {
        self.unsettled.is_empty() && !self.others_unsettled
    }

    /// How many answered what can't be read.
    pub fn answered_unreadably(&self) -> u64 {
        let all = self.unreadable.values().copied();
        all.fold(0, u64::saturating_add).min(self.silent)
    }

    /// What is to be said of one that gave no answer that could be read.
    pub fn unheard_how(&self) -> &'static str {
        if self.answered_unreadably() < self.silent {
            "did not answer"
        } else {
            "answered in a serialisation that is not read"
        }
    }

    /// Names those that answered nothing at all as exactly as can be told.
    pub fn silence(&self) -> Silence<'_> {
        let names = self.unanswered_names.as_slice();
        let unreadable = self.answered_unreadably();
        match self.silent.saturating_sub(unreadable) {
            0 => Silence::None,
            silent if unreadable == 0 && silent == names.len() as u64 => Silence::Named(names),
            silent => Silence::Among(silent, names),
        }
    }
}
