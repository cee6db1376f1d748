//! What results lead to: the key prefix, the tasks that follow, the chords.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::notes::{task, traced};
use super::results::{ById, Results};
use super::wanted::Wanted;
use super::{MOST_RESULT_KEYS, Plan};
use crate::celery::control::STARRED;
use crate::config::url::ResultBackend;
use crate::evidence::{Copy, Evidence, Observed, Reason, TaskEvidence, Why};

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

/// Notes what messages carry, which stays true when the messages have gone on.
pub(super) fn note_canvases(evidence: &mut Evidence, copies: &mut [Copy]) {
    for copy in copies {
        let canvas = std::mem::take(&mut copy.envelope.canvas);
        if !canvas.is_empty() {
            let id = copy.envelope.id.clone();
            evidence.canvases.entry(id).or_insert(canvas);
        }
    }
}

/// Notes what a look left out of the canvases; the largest gap of all looks counts.
pub(super) fn note_gap(evidence: &mut Evidence, wanted: &Wanted) {
    let (gap, more) = (&mut evidence.canvas_gap, wanted.gap());
    gap.packed = gap.packed.max(more.packed);
    gap.leads = gap.leads.max(more.leads);
}

/// Reads the counters of the chords that tasks are part of, and of those whose group was asked for.
pub(super) async fn read_chords(evidence: &mut Evidence, results: &mut Results) {
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (id, task) in &evidence.tasks {
        let of_message = task.copies.iter().find_map(|c| c.envelope.group.clone());
        let stored = task.result.seen().and_then(Option::as_ref);
        let Some(group) = of_message.or_else(|| stored?.doc.group_id.clone()) else {
            continue;
        };
        let of_group = groups.entry(group.clone()).or_default();
        of_group.insert(id.clone());
        if evidence.tasks.contains_key(&group) {
            of_group.insert(group);
        }
    }
    for (group, ids) in groups {
        let chord = results.chord(&group).await;
        for id in ids {
            task(evidence, &id).chord = chord.clone();
        }
    }
}

/// Whether nothing at all is known of an id.
pub(super) fn is_unheard_of(task: &TaskEvidence) -> bool {
    task.copies.is_empty() && task.claims.is_empty() && matches!(task.result, Observed::Seen(None))
}

/// Looks for chords that wait, where nothing knows an id that was asked for: the id of a chord's body stands nowhere but
/// in the messages of its header.
pub(super) async fn look_for_chords(evidence: &mut Evidence, results: &mut Results, plan: &Plan) {
    let carried: BTreeSet<&str> = evidence
        .canvases
        .values()
        .flatten()
        .map(|step| step.id.as_str())
        .collect();
    let in_question = |id: &String| {
        let task = evidence.tasks.get(id);
        task.is_some_and(is_unheard_of) && !carried.contains(id.as_str())
    };
    if !traced(plan).iter().any(in_question) {
        return;
    }
    // What can't be looked through is said where results are read.
    let limit = Instant::now() + LOOK_FOR_CHORDS;
    let Ok(scan) = results.scan(MOST_RESULT_KEYS, Some(limit)).await else {
        return;
    };
    for group in scan.chords {
        if let Some(member) = waiting_chord(evidence, results, &group).await {
            evidence.of_waiting_chords.insert(member);
        }
    }
}

/// For how long chords are looked for in a trace.
const LOOK_FOR_CHORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// Reads a chord, and where it waits the result of one of the tasks that reported to it, which leads to all that is known
/// of it: returns that task.
pub(super) async fn waiting_chord(
    evidence: &mut Evidence,
    results: &mut Results,
    group: &str,
) -> Option<String> {
    let chord = results.chord(group).await;
    let parts = chord.seen().and_then(Option::as_ref);
    let waits = parts.filter(|c| c.size.is_some_and(|size| c.joined <= size));
    let (member, _) = waits?.members.first()?.clone();
    let result = results.read(std::slice::from_ref(&member)).await;
    let result = result.into_values().next();
    let task = task(evidence, &member);
    task.chord = chord;
    if let Some(result) = result {
        task.first_result = result.clone();
        task.result = result;
    }
    Some(member)
}
