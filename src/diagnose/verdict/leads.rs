//! What knows an id that is in no message, with no worker and in no result.

use super::Verdict;
use crate::diagnose::plain;
use crate::diagnose::view::Case;

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

/// An id of which a group's result was saved.
pub(super) fn group(case: &Case<'_>) -> Option<(Verdict, String)> {
    let tasks = case.task.saved_group.as_ref()?;
    Some((
        Verdict::Undetermined,
        format!(
            "it is no task but a group of {}, whose result was saved: trace its tasks, such as {}",
            plain::count(tasks.len() as u64, "task"),
            tasks.first()?
        ),
    ))
}
