//! What else knows an id that no message, no worker and no result does: a saved group, a lock.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Cmd, cmd};

use super::super::redis::client::{Client, decode};
use super::super::rounds::Reading;
use super::Results;
use crate::celery::result::{key_for_group, parse_group};
use crate::evidence::{Lock, TaskEvidence};

/// How the keys of locks begin: celery-singleton's, whose value is the task's id, and celery-once's.
const LOCKS: [&str; 2] = ["SINGLETONLOCK_", "qo_"];
/// A pattern for all of them, so that one pass will do.
const ANY_LOCK: &str = "[Sq][Io]*";
/// How many pages of keys are looked through for locks, and how many locks are looked at.
const SCANS: u32 = 200;
const MOST_LOCKS: usize = 2_000;
const PAGE: usize = 200;
/// No id is longer than this.
const LONGEST: i64 = 255;

impl Reading<'_> {
    /// Looks for what else knows the ids that were found nowhere.
    pub(in crate::collect) async fn follow_leads(&mut self) {
        let open = |task: &TaskEvidence| {
            let ended = task
                .result
                .seen()
                .and_then(Option::as_ref)
                .is_some_and(|r| r.doc.ready);
            task.copies.is_empty() && task.claims.is_empty() && !ended
        };
        let tasks = self.evidence.tasks.iter();
        let ids: BTreeSet<String> = (tasks.filter(|(_, task)| open(task)))
            .map(|(id, _)| id.clone())
            .collect();
        if ids.is_empty() {
            return;
        }
        for id in &ids {
            if self.task(id).result.seen().is_some_and(Option::is_none) {
                self.task(id).saved_group = self.results.saved_group(id).await;
            }
        }
        let mut places = vec![(false, locks(&self.broker.client, &ids).await)];
        if let Ok(client) = &self.results.client {
            places.push((true, locks(client, &ids).await));
        }
        for (in_results, found) in places {
            for (id, key) in found {
                // Broker and results may have one database.
                let task = self.task(&id);
                if task.locks.iter().all(|lock| lock.key != key) {
                    task.locks.push(Lock { key, in_results });
                }
            }
        }
    }
}

impl Results {
    /// The tasks of a group that was saved under this id; none where there is none, or it can't be read.
    async fn saved_group(&self, id: &str) -> Option<Vec<String>> {
        let client = self.client.as_ref().ok()?;
        let key = key_for_group(&self.prefix, id);
        let document: Option<Vec<u8>> = client.ask(cmd("GET").arg(key)).await.ok()?;
        parse_group(&document?)
    }
}

/// Keys of locks by the id that they hold. A lead more, and no place that is read: what can't be read has none.
async fn locks(client: &Client, ids: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut held = BTreeMap::new();
    let mut cursor = 0_u64;
    let mut looked_at = 0;
    for _ in 0..SCANS {
        let mut scan = cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(ANY_LOCK)
            .arg("COUNT")
            .arg(1_000);
        let Ok((next, keys)) = client.ask::<(u64, Vec<Vec<u8>>)>(&scan).await else {
            break;
        };
        let keys: Vec<String> = keys
            .into_iter()
            .filter_map(|key| String::from_utf8(key).ok())
            .filter(|key| LOCKS.iter().any(|start| key.starts_with(start)))
            .collect();
        looked_at += keys.len();
        for page in keys.chunks(PAGE) {
            // A key of another type is an error of its own.
            let value =
                |key: &String| -> Cmd { cmd("GETRANGE").arg(key).arg(0).arg(LONGEST).take() };
            let commands: Vec<Cmd> = page.iter().map(value).collect();
            let Ok(values) = client.ask_all(&commands).await else {
                return held;
            };
            for (key, value) in page.iter().zip(values) {
                let id = value.and_then(|value| decode::<String>(value, "GETRANGE"));
                if let Some(id) = id.ok().filter(|id| ids.contains(id)) {
                    held.insert(id, shown(key));
                }
            }
        }
        cursor = next;
        if cursor == 0 || looked_at >= MOST_LOCKS {
            break;
        }
    }
    held
}

/// The key of a lock, as far as it may be shown: celery-once writes the task's arguments into it.
fn shown(key: &str) -> String {
    if key.starts_with(LOCKS[1]) {
        format!("{}*", LOCKS[1])
    } else {
        key.to_owned()
    }
}
