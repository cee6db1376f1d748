//! What moves between two readings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use redis::cmd;

use super::counting::mark;
use super::redis::client::{Client, decode};
use super::workers::Begun;
use crate::evidence::{Evidence, ListMovement, Movement, Why, Worker};

/// So many lists are watched.
const MOST_LISTS: usize = 10_000;
/// Lists looked at in one go.
const PAGE: usize = 100;

/// The first of two readings.
pub(super) struct Watch {
    begun: Instant,
    lists: Vec<First>,
    idle: BTreeSet<String>,
    hanging: BTreeSet<String>,
}

/// A list at the first reading.
struct First {
    key: String,
    length: u64,
    next: Option<u64>,
}

impl Watch {
    /// Looks at the ends of the lists that hold anything, and at who is idle.
    pub(super) async fn begin(client: &Client, evidence: &Evidence) -> Result<Self, Why> {
        let lists = evidence.lists.seen().into_iter().flatten();
        let keys: Vec<&String> = lists
            .filter(|list| list.length > 0)
            .map(|list| &list.key)
            .take(MOST_LISTS)
            .collect();
        let begun = Instant::now();
        let mut first = Vec::new();
        for page in keys.chunks(PAGE) {
            let commands: Vec<_> = page
                .iter()
                .flat_map(|key| [length(key), item(key, -1)])
                .collect();
            let mut answers = client.ask_all(&commands).await?.into_iter();
            for key in page {
                let (Some(length), Some(next)) = (answers.next(), answers.next()) else {
                    break;
                };
                // A list that is none any more has nothing to say.
                let Ok(length) = length.and_then(|length| decode(length, "LLEN")) else {
                    continue;
                };
                let next: Option<Vec<u8>> = decode(next?, "LINDEX")?;
                first.push(First {
                    key: (*key).clone(),
                    length,
                    next: next.map(|message| mark(&String::from_utf8_lossy(&message))),
                });
            }
        }
        Ok(Self {
            begun,
            lists: first,
            idle: nodes(evidence, is_idle),
            hanging: nodes(evidence, seems_to_hang),
        })
    }

    /// Looks again, and tells what moved. `begun` is how many tasks each worker has begun by now.
    pub(super) async fn end(
        self,
        client: &Client,
        evidence: &Evidence,
        begun: &BTreeMap<String, Begun>,
    ) -> Result<Movement, Why> {
        let mut lists = Vec::new();
        for page in self.lists.chunks(PAGE) {
            let commands: Vec<_> = page
                .iter()
                .flat_map(|first| [length(&first.key), item(&first.key, -1)])
                .collect();
            let mut answers = client.ask_all(&commands).await?.into_iter();
            for first in page {
                let (Some(length), Some(next)) = (answers.next(), answers.next()) else {
                    break;
                };
                let Ok(after) = length.and_then(|length| decode(length, "LLEN")) else {
                    continue;
                };
                let next: Option<Vec<u8>> = decode(next?, "LINDEX")?;
                let next = next.map(|message| mark(&String::from_utf8_lossy(&message)));
                lists.push(ListMovement {
                    key: first.key.clone(),
                    before: first.length,
                    after,
                    same_next: next.is_some() && next == first.next,
                    taken: None,
                });
            }
        }
        let began_none = evidence.answered().iter().filter(|worker| {
            let before = worker.stats.seen().and_then(Begun::of);
            before.is_some() && before == begun.get(&worker.node).copied()
        });
        let began_none = began_none.map(|worker| worker.node.clone());
        let both = |before: &BTreeSet<String>, wanted: fn(&Worker) -> bool| {
            let after = nodes(evidence, wanted);
            before.intersection(&after).cloned().collect()
        };
        Ok(Movement {
            seconds: self.begun.elapsed().as_secs_f64(),
            lists,
            idle_throughout: both(&self.idle, is_idle),
            hanging_throughout: both(&self.hanging, seems_to_hang),
            began_none: began_none.collect(),
        })
    }
}

pub(super) fn nodes(evidence: &Evidence, wanted: impl Fn(&Worker) -> bool) -> BTreeSet<String> {
    let workers = evidence.answered().iter().filter(|worker| wanted(worker));
    workers.map(|worker| worker.node.clone()).collect()
}

/// A free slot, and nothing reserved or scheduled.
pub(super) fn is_idle(worker: &Worker) -> bool {
    let slots = worker.stats.seen().and_then(|stats| stats.concurrency);
    let busy = worker.active.seen().map(|active| active.len() as u64);
    let free = slots.zip(busy).is_some_and(|(slots, busy)| busy < slots);
    let waiting = [&worker.reserved, &worker.scheduled];
    free && waiting.iter().all(|number| number.seen() == Some(&0))
}

/// Tasks are reserved, none waits for its ETA, and no process has any.
pub(super) fn seems_to_hang(worker: &Worker) -> bool {
    let none_active = worker.active.seen().is_some_and(Vec::is_empty);
    let reserved = worker.reserved.seen().is_some_and(|number| *number > 0);
    none_active && reserved && worker.scheduled.seen() == Some(&0)
}

fn length(key: &str) -> redis::Cmd {
    let mut command = cmd("LLEN");
    command.arg(key);
    command
}

fn item(key: &str, at: i64) -> redis::Cmd {
    let mut command = cmd("LINDEX");
    command.arg(key).arg(at);
    command
}
