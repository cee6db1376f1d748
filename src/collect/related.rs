//! What results lead to: the key prefix, the tasks that follow, the chords.

use std::collections::BTreeSet;

use super::Plan;
use super::notes::{task, traced};
use super::results::{ById, Results};
use crate::celery::control::STARRED;
use crate::config::url::ResultBackend;
use crate::evidence::{Evidence, Reason, TaskEvidence, Why};

/// Learns the key prefix of the results: from a flag, from the workers, else from the keys themselves.
pub(super) async fn settle_prefix(plan: &Plan, evidence: &Evidence, results: &mut Results) {
    let mut told: Vec<String> = evidence
        .answered()
        .iter()
        .filter_map(|worker| worker.conf.seen()?.result_key_prefix.clone())
        .collect();
    // A prefix goes before none, as where only some have one.
    told.sort_by_key(String::is_empty);
    match (&plan.result_key_prefix, told.first()) {
        (Some(given), _) => results.set_prefix(given),
        (None, Some(none)) if none.is_empty() => {}
        (None, Some(told)) if told != STARRED => results.set_prefix(told),
        // There is one and it is starred, or nobody is there to tell.
        (None, _) => results.find_prefix(&traced(plan)).await,
    }
    if let Some(why) = other_database(plan, evidence) {
        results.doubt(why);
    }
}

/// Why results can stand elsewhere: every worker that names a database of Redis for them names another one. Hosts are not
/// compared, because one server has many names.
fn other_database(plan: &Plan, evidence: &Evidence) -> Option<Why> {
    let Some(ResultBackend::Redis(given)) = &plan.result_backend else {
        return None;
    };
    let told = evidence.answered().iter().filter_map(|w| w.conf.seen());
    let mut told = told.filter_map(|conf| conf.result_database).peekable();
    let theirs = *told.peek()?;
    told.all(|database| database != given.db).then(|| {
        Why::new(
            Reason::Unsupported,
            format!(
                "the workers keep results in database {theirs}, and database {} was read; give theirs with \
                 --result-backend",
                given.db
            ),
        )
    })
}

/// Notes the results as they stood after everything else was read.
pub(super) fn note_last_results(evidence: &mut Evidence, results: ById) {
    for (id, result) in results {
        let children = result
            .seen()
            .and_then(Option::as_ref)
            .map(|r| r.doc.children.clone());
        let task = task(evidence, &id);
        task.result = result;
        task.children = children.unwrap_or_default();
    }
}

/// The tasks that follow a finished one and are not known yet, with their results.
pub(super) async fn children(evidence: &mut Evidence, results: &mut Results) -> BTreeSet<String> {
    let named: BTreeSet<String> = evidence
        .tasks
        .values()
        .flat_map(|task| task.children.iter().cloned())
        .filter(|id| !evidence.tasks.contains_key(id))
        .collect();
    let ids: Vec<String> = named.into_iter().collect();
    let mut open = BTreeSet::new();
    for (id, result) in results.read(&ids).await {
        if result.seen().is_some_and(Option::is_none) {
            open.insert(id.clone());
        }
        let task = task(evidence, &id);
        task.first_result = result.clone();
        task.result = result;
    }
    open
}

/// Reads the counters of the chords that tasks are part of.
pub(super) async fn read_chords(evidence: &mut Evidence, results: &mut Results) {
    let group = |task: &TaskEvidence| {
        let of_message = task
            .copies
            .iter()
            .find_map(|copy| copy.envelope.group.clone());
        let stored = task.result.seen().and_then(Option::as_ref);
        of_message.or_else(|| stored?.doc.group_id.clone())
    };
    let groups: Vec<(String, String)> = evidence
        .tasks
        .iter()
        .filter_map(|(id, task)| Some((id.clone(), group(task)?)))
        .collect();
    for (id, group) in groups {
        let chord = results.chord(&group).await;
        task(evidence, &id).chord = chord;
    }
}
