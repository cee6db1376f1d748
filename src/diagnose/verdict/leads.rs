//! What knows an id that is in no message, with no worker and in no result.

use super::Verdict;
use crate::diagnose::view::Case;
use crate::diagnose::{later, plain};

/// What keeps an id that is lost from being sent again.
pub(super) fn locked(case: &Case<'_>) -> String {
    let keys: Vec<&str> = case
        .task
        .locks
        .iter()
        .map(|lock| lock.key.as_str())
        .collect();
    if keys.is_empty() {
        return String::new();
    }
    format!(
        "; a lock holds the id ({}): while it stands, a task like it is not sent, and its sender is given this id",
        plain::names(&keys)
    )
}

/// An id under which a group's result was saved. Its tasks that were met are only some of them.
pub(super) fn group(case: &Case<'_>) -> Option<(Verdict, String)> {
    let tasks = case.task.saved_group.as_ref()?;
    let met = match later::of_group(case) {
        Some((_, met)) => format!("; {met}"),
        None => format!(", such as {}", tasks.first()?),
    };
    Some((
        Verdict::Undetermined,
        format!(
            "it is no task but a group of {}, whose result was saved: trace its tasks{met}",
            plain::count(tasks.len() as u64, "task")
        ),
    ))
}
