//! Results looked through for what nothing else shows: tasks that began and did not end, tasks whose worker died or did
//! not know them, tasks that sent others which have no result, chords that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use memchr::memmem;
use redis::{Cmd, Value, cmd};

use super::{PAGE, Results, stored};
use crate::celery::result::{key_for_group, key_for_task};
use crate::collect::redis::client::{Client, decode};
use crate::evidence::{Reason, StoredResult, Why};

/// How Celery's JSON begins for what needs no look: `status` is the first key (Celery 5.7 backends/base.py,
/// `_get_result_meta`).
const ENDED_WELL: &[u8] = b"{\"status\": \"SUCCESS\"";
/// The end of such a document tells whether the task sent others: `children` comes after the result itself.
const END: i64 = 1024;
const CHILDREN: &[u8] = b"\"children\": [";
/// Larger documents are not fetched.
const LARGEST: u64 = 64 * 1024;
/// More than these are counted and not kept.
const MOST_DRAWN: usize = 10_000;
/// So many tasks without a result, of those that others sent, are looked for elsewhere.
const MOST_CHILDREN: usize = 100;
/// More chords are not looked at.
const MOST_CHORDS: usize = 100;
/// Exceptions that Celery's worker stores in the place of a task that it lost or threw away.
const LOST: [&str; 2] = ["WorkerLostError", "NotRegistered"];

/// What a look through the results brought.
#[derive(Debug, Default)]
pub(in crate::collect) struct Scan {
    /// Results that have not ended, or tell of a loss.
    pub(in crate::collect) drawn: BTreeMap<String, StoredResult>,
    /// Results of tasks that ended well and sent others, of which some have no result.
    pub(in crate::collect) parents: BTreeMap<String, StoredResult>,
    /// Those others.
    pub(in crate::collect) children: BTreeSet<String>,
    /// How many results there are.
    pub(in crate::collect) results: u64,
    /// Groups that have chord counters.
    pub(in crate::collect) chords: BTreeSet<String>,
    /// Whether a limit ended it.
    pub(in crate::collect) cut: bool,
}

impl Results {
    /// Looks through all results, where the database has no more than so many keys.
    pub(in crate::collect) async fn scan(
        &self,
        most_keys: u64,
        deadline: Option<Instant>,
    ) -> Result<Scan, Why> {
        let client = match (&self.client, &self.unsure) {
            (Err(why), _) | (_, Some(why)) => return Err(why.clone()),
            (Ok(client), None) => client,
        };
        let keys: u64 = client.ask(&cmd("DBSIZE")).await?;
        if keys > most_keys {
            return Err(Why::new(
                Reason::NotAsked,
                format!(
                    "the results were not looked through: their database has {keys} keys, more than {most_keys}; \
                     --result-keys sets another limit"
                ),
            ));
        }
        let tasks = key_for_task(&self.prefix, "");
        let groups = key_for_group(&self.prefix, "");
        let mut scan = Scan::default();
        let mut cursor = 0_u64;
        loop {
            let mut command = cmd("SCAN");
            command.arg(cursor).arg("COUNT").arg(1_000);
            command.arg("MATCH").arg(pattern(&tasks, &groups));
            let (next, page): (u64, Vec<Vec<u8>>) = client.ask(&command).await?;
            let page = page
                .into_iter()
                .filter_map(|key| String::from_utf8(key).ok());
            let (results, others): (Vec<String>, Vec<String>) =
                page.partition(|key| key.starts_with(&tasks));
            let chords = others.iter().filter_map(|key| {
                let group = key.strip_prefix(&groups)?.strip_suffix(".j")?;
                Some(group.to_owned())
            });
            scan.chords.extend(chords);
            scan.results += results.len() as u64;
            for page in results.chunks(PAGE) {
                let parents = look(client, &tasks, page, &mut scan).await?;
                look_for_children(client, &tasks, parents, &mut scan).await?;
            }
            scan.cut |= deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if next == 0 || scan.cut {
                while scan.chords.len() > MOST_CHORDS {
                    scan.chords.pop_last();
                }
                return Ok(scan);
            }
            cursor = next;
        }
    }
}

impl Results {
    /// The ids of results that may be meant, where the database has no more than so many keys. Results are looked for
    /// under every prefix.
    pub(in crate::collect) async fn ids(
        &self,
        most_keys: u64,
        is_meant: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>, Why> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let mut ids = Vec::new();
        if client.ask::<u64>(&cmd("DBSIZE")).await? > most_keys {
            return Ok(ids);
        }
        let name = key_for_task("", "");
        let mut cursor = 0_u64;
        loop {
            let mut command = cmd("SCAN");
            command.arg(cursor).arg("COUNT").arg(1_000);
            command.arg("MATCH").arg(format!("*{name}*"));
            let (next, page): (u64, Vec<Vec<u8>>) = client.ask(&command).await?;
            for key in page
                .into_iter()
                .filter_map(|key| String::from_utf8(key).ok())
            {
                let id = key.split_once(&name).map(|(_, id)| id);
                ids.extend(id.filter(|id| is_meant(id)).map(str::to_owned));
            }
            if next == 0 {
                return Ok(ids);
            }
            cursor = next;
        }
    }
}

/// What the keys of tasks and of groups have in common, for MATCH.
fn pattern(tasks: &str, groups: &str) -> String {
    let common = tasks.chars().zip(groups.chars());
    let common = common.take_while(|(a, b)| a == b).map(|(a, _)| a);
    let mut pattern = String::new();
    for c in common {
        if "*?[]\\^".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('*');
    pattern
}

/// Looks at results, and returns those of tasks that ended well and sent others.
async fn look(
    client: &Client,
    tasks: &str,
    keys: &[String],
    scan: &mut Scan,
) -> Result<Vec<(String, StoredResult)>, Why> {
    let ends: Vec<Cmd> = keys
        .iter()
        .flat_map(|key| {
            let part = || cmd("GETRANGE").arg(key).take();
            let start = part().arg(0).arg(ENDED_WELL.len() - 1).take();
            let end = part().arg(-END).arg(-1).take();
            [start, end, cmd("STRLEN").arg(key).take()]
        })
        .collect();
    let mut answers = client.ask_all(&ends).await?.into_iter();
    let mut open: Vec<&String> = Vec::new();
    for key in keys {
        let (Some(start), Some(end), Some(length)) =
            (answers.next(), answers.next(), answers.next())
        else {
            break;
        };
        // A key of another type is no result.
        let Ok(start) = start.and_then(|start| decode::<Vec<u8>>(start, "GETRANGE")) else {
            continue;
        };
        let end: Vec<u8> = decode(end?, "GETRANGE")?;
        let length: u64 = decode(length?, "STRLEN")?;
        if (start != ENDED_WELL || has_children(&end)) && length <= LARGEST {
            open.push(key);
        }
    }
    let commands: Vec<Cmd> = open
        .iter()
        .flat_map(|key| {
            let (mut get, mut ttl) = (cmd("GET"), cmd("PTTL"));
            get.arg(*key);
            ttl.arg(*key);
            [get, ttl]
        })
        .collect();
    let mut answers: std::vec::IntoIter<Result<Value, Why>> =
        client.ask_all(&commands).await?.into_iter();
    let mut parents = Vec::new();
    for key in open {
        let (Some(document), Some(ttl)) = (answers.next(), answers.next()) else {
            break;
        };
        // What can't be read as a result tells nothing.
        let Ok(Some(result)) = stored(document, ttl) else {
            continue;
        };
        let lost = result.doc.state == "FAILURE"
            && result
                .doc
                .exc_type
                .as_deref()
                .is_some_and(|exc| LOST.contains(&exc));
        let Some(id) = key.strip_prefix(tasks) else {
            continue;
        };
        if result.doc.state == "SUCCESS" && !result.doc.children.is_empty() {
            parents.push((id.to_owned(), result));
        } else if result.doc.ready && !lost {
            // Nothing more is to be learnt from it.
        } else if scan.drawn.len() < MOST_DRAWN {
            scan.drawn.insert(id.to_owned(), result);
        } else {
            scan.cut = true;
        }
    }
    Ok(parents)
}

/// Whether the end of a document of Celery's names tasks that this one sent. In a text within it the quotes would be
/// escaped.
fn has_children(end: &[u8]) -> bool {
    memmem::rfind(end, CHILDREN)
        .and_then(|at| end.get(at + CHILDREN.len()))
        .is_some_and(|next| *next != b']')
}

/// Notes which of the tasks that these sent have no result.
async fn look_for_children(
    client: &Client,
    tasks: &str,
    parents: Vec<(String, StoredResult)>,
    scan: &mut Scan,
) -> Result<(), Why> {
    for (id, result) in parents {
        let room = MOST_CHILDREN.saturating_sub(scan.children.len());
        let children = result.doc.children.iter().take(room);
        let there: Vec<Cmd> = children
            .clone()
            .map(|child| cmd("EXISTS").arg(format!("{tasks}{child}")).take())
            .collect();
        let mut missing = false;
        for (child, answer) in children.zip(client.ask_all(&there).await?) {
            if !decode::<bool>(answer?, "EXISTS")? {
                scan.children.insert(child.clone());
                missing = true;
            }
        }
        if missing {
            scan.parents.insert(id, result);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pattern_takes_the_keys_of_tasks_and_of_groups() {
        let of = |prefix: &str| pattern(&key_for_task(prefix, ""), &key_for_group(prefix, ""));
        assert_eq!(of(""), "celery-task*");
        assert_eq!(of("a*b"), "a\\*b_celery-task*");
    }

    #[test]
    fn the_end_of_a_document_tells_whether_there_are_children() {
        let child =
            br#"null, "traceback": null, "children": [[["t2", null], null]], "date_done": "#;
        assert!(has_children(child));
        assert!(!has_children(
            br#""traceback": null, "children": [], "date_done": "#
        ));
        assert!(!has_children(
            br#"{"result": "\"children\": [1]", "children": []"#
        ));
        assert!(!has_children(br#""children": ["#) && !has_children(b""));
    }
}
