//! Result documents, and the keys that hold them (Celery 5.7, `backends/base.py`, `backends/redis.py`, `result.py`).

use serde::{Deserialize, Serialize};

use super::body::{Serializer, Unreadable};
use super::loose::{Owned, loose_map, loose_seq};
use super::when::When;

/// The states after which nothing follows (Celery 5.7, `states.py`, `READY_STATES`).
pub const READY_STATES: [&str; 3] = ["SUCCESS", "FAILURE", "REVOKED"];
/// The states whose `result` is an exception (Celery 5.7, `states.py`, `EXCEPTION_STATES`).
const EXCEPTION_STATES: [&str; 3] = ["RETRY", "FAILURE", "REVOKED"];

/// Celery's words for why a task is REVOKED (Celery 5.7 worker/request.py, `_announce_revoked`).
pub const REVOKED_FOR: [&str; 3] = ["expired", "revoked", "terminated"];

/// What a result document says, without the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultDoc {
    /// The task's state.
    pub state: String,
    /// When it came to a final state.
    pub date_done: Option<When>,
    /// The class of the exception, where the state has one.
    pub exc_type: Option<String>,
    /// The worker that runs it (state STARTED), or ran it (`result_extended`).
    pub worker: Option<String>,
    /// The process that runs it (state STARTED).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// The task that sent this one.
    pub parent_id: Option<String>,
    /// The group that it belongs to.
    pub group_id: Option<String>,
    /// The tasks that it sent, those within groups too.
    pub children: Vec<String>,
    /// The task's name (`result_extended`), or that of a task which its worker did not know.
    pub name: Option<String>,
    /// The routing key it came with (`result_extended`).
    pub queue: Option<String>,
    /// How many retries came before (`result_extended`).
    pub retries: Option<u64>,
    /// Why Celery dropped it, in the state REVOKED: one of [`REVOKED_FOR`].
    #[serde(default)]
    pub revoked_for: Option<String>,
    /// The state is final.
    pub ready: bool,
}

/// Why a result document can't be read. Never holds any of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadResult {
    /// Not in a serialisation that is read.
    #[error("the result is unreadable: {0}")]
    Unreadable(Unreadable),
    /// Not a result document.
    #[error("the result has no state")]
    NoState,
}

loose_map!(Meta {
    status: Owned = "status",
    date_done: Owned = "date_done",
    result: StateMeta = "result",
    worker: Owned = "worker",
    parent_id: Owned = "parent_id",
    group_id: Owned = "group_id",
    children: Children = "children",
    name: Owned = "name",
    queue: Owned = "queue",
    retries: Owned = "retries",
});

loose_map!(
    /// What `result` holds besides results.
    StateMeta {
        exc_type: Owned = "exc_type",
        exc_message: Arguments = "exc_message",
        hostname: Owned = "hostname",
        pid: Owned = "pid",
    }
);

/// The first argument of an exception.
#[derive(Debug, Default)]
pub(super) struct Arguments(Option<String>);

loose_seq!(Arguments, |seq| {
    Arguments(
        seq.next_element::<Owned>()?
            .and_then(|first| first.filled()),
    )
});

/// The tasks of a list of results, each as `as_tuple` writes it: `[[id, parent], null]` for a task, `[[id, parent], [results]]`
/// for a group. A task whose place a group takes has no id of its own here.
#[derive(Debug, Default)]
pub(super) struct Children(Vec<String>);

loose_seq!(Children, |seq| {
    let mut ids = Vec::new();
    while let Some(Child(tasks)) = seq.next_element()? {
        ids.extend(tasks);
    }
    Children(ids)
});

#[derive(Debug, Default)]
pub(super) struct Child(Vec<String>);

loose_seq!(Child, |seq| {
    let head = seq.next_element::<Head>()?.unwrap_or_default();
    match seq.next_element::<Option<Children>>()? {
        Some(Some(Children(tasks))) => Child(tasks),
        Some(None) => Child(head.0.into_iter().collect()),
        None => Child(Vec::new()),
    }
});

/// `[id, parent]`.
#[derive(Default)]
struct Head(Option<String>);

loose_seq!(Head, |seq| {
    Head(seq.next_element::<Owned>()?.and_then(|id| id.filled()))
});

/// A member of a chord's `.j`.
#[derive(Debug, Default)]
struct ChordPart {
    id: Owned,
    state: Owned,
}

loose_seq!(ChordPart, |seq| {
    seq.next_element::<serde::de::IgnoredAny>()?;
    ChordPart {
        id: seq.next_element()?.unwrap_or_default(),
        state: seq.next_element()?.unwrap_or_default(),
    }
});

fn read<T: serde::de::DeserializeOwned>(document: &[u8]) -> Result<T, BadResult> {
    let serializer =
        Serializer::sniffed(document).ok_or(BadResult::Unreadable(Unreadable::ContentType))?;
    serializer.read(document).map_err(BadResult::Unreadable)
}

/// Reads the value of a `celery-task-meta-ID`.
pub fn parse_result(document: &[u8]) -> Result<ResultDoc, BadResult> {
    let meta: Meta = read(document)?;
    let state = meta.status.filled().ok_or(BadResult::NoState)?;
    // In any other state, `result` is what the task returned, and no business of ours.
    let failed = EXCEPTION_STATES.contains(&state.as_str());
    let exc_type = if failed {
        meta.result
            .exc_type
            .filled()
            .filter(|name| is_class_name(name))
    } else {
        None
    };
    let started = state == "STARTED";
    let started_by = started.then(|| meta.result.hostname.filled()).flatten();
    // Messages of exceptions are private, save what Celery itself says in two of them (Celery 5.7
    // worker/consumer/consumer.py, `on_unknown_task`, and backends/base.py, `mark_as_revoked`).
    let said = meta.result.exc_message.0;
    let unknown_task = said
        .clone()
        .filter(|_| exc_type.as_deref() == Some("NotRegistered"))
        .filter(|name| is_task_name(name));
    let revoked_for = said
        .filter(|_| state == "REVOKED")
        .filter(|why| REVOKED_FOR.contains(&why.as_str()));
    Ok(ResultDoc {
        ready: READY_STATES.contains(&state.as_str()),
        date_done: meta.date_done.when(),
        exc_type,
        worker: meta.worker.filled().or(started_by),
        pid: started.then(|| meta.result.pid.int()).flatten(),
        parent_id: meta.parent_id.filled(),
        group_id: meta.group_id.filled(),
        children: meta.children.0,
        name: meta.name.filled().or(unknown_task),
        queue: meta.queue.filled(),
        retries: meta.retries.count(),
        revoked_for,
        state,
    })
}

/// Whether this can be the name of a class, perhaps with its module. Any other text is none that Celery writes, and may
/// hold what is private.
fn is_class_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_alphanumeric() || c == '_' || c == '.')
}

loose_map!(GroupMeta {
    result: Child = "result",
});

/// Reads the value of a `celery-taskset-meta-ID`: the tasks of a group whose result was saved (Celery 5.7
/// backends/base.py, `_save_group`).
pub fn parse_group(document: &[u8]) -> Option<Vec<String>> {
    let meta: GroupMeta = read(document).ok()?;
    (!meta.result.0.is_empty()).then_some(meta.result.0)
}

/// Whether this can be the name of a task: a sentence is none.
fn is_task_name(text: &str) -> bool {
    text.len() <= 255 && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Reads a member of a chord's `.j`, `[1, task id, state, result]`: the task and its state.
pub fn parse_chord_part(member: &[u8]) -> Option<(String, String)> {
    let part: ChordPart = read(member).ok()?;
    Some((part.id.filled()?, part.state.filled()?))
}

/// The key of a task's result. `prefix` is `global_keyprefix` of `result_backend_transport_options`, empty for none.
pub fn key_for_task(prefix: &str, id: &str) -> String {
    format!("{}celery-task-meta-{id}", key_prefix(prefix))
}

/// The key of a group's result; a chord's counters stand under the same key with `.j`, `.t` or `.s` added.
pub fn key_for_group(prefix: &str, group: &str) -> String {
    format!("{}celery-taskset-meta-{group}", key_prefix(prefix))
}

/// `_add_global_keyprefix`: a `_` is put between unless the prefix ends in a separator.
fn key_prefix(prefix: &str) -> String {
    if prefix.is_empty() || prefix.ends_with([':', '_', '-', '.']) {
        prefix.to_owned()
    } else {
        format!("{prefix}_")
    }
}

#[cfg(test)]
mod tests;
