//! Ids in reach that may be meant by one that nothing knows: cut short, or mistyped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cleanup::Cleanup;
use super::results::Results;
use super::{Everything, MOST_RESULT_KEYS, Plan, Progress, Question, Target, collect};
use crate::evidence::{Evidence, TaskEvidence};

/// So long the look may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Longer queues are not looked through a second time.
pub(crate) const MOST_MESSAGES: u64 = 100_000;

/// Where an id stands, in a word: `queue`, `unacked`, `worker` or `result`.
pub(crate) type Ids = BTreeMap<String, &'static str>;

/// Looks for ids that may be meant, in queues, `unacked`, workers and results. No queue of RabbitMQ is peeked into again.
pub(crate) async fn ids(
    plan: &Plan,
    cleanup: &Cleanup,
    progress: Progress<'_>,
    is_meant: &dyn Fn(&str) -> bool,
) -> Ids {
    let mut plan = plan.clone();
    plan.question = Question::Everything(Everything {
        keep: Some(MOST_MESSAGES),
        result_keys: 0,
        sample: None,
        deadline: Some(PATIENCE),
    });
    if let Target::RabbitMq(target) = &mut plan.broker {
        target.peek = None;
    }
    let evidence = collect(&plan, cleanup, progress).await;
    let mut found = in_evidence(&evidence, is_meant);
    let results = async {
        let results = Results::connect(plan.result_backend.as_ref(), PATIENCE).await;
        results.ids(MOST_RESULT_KEYS, is_meant).await
    };
    // What can't be read of the results was said by the reading itself.
    if let Ok(Ok(ids)) = tokio::time::timeout(PATIENCE, results).await {
        for id in ids {
            found.entry(id).or_insert("result");
        }
    }
    found
}

/// Those of one reading.
pub(crate) fn in_evidence(evidence: &Evidence, is_meant: &dyn Fn(&str) -> bool) -> Ids {
    let tasks = evidence.tasks.iter().filter(|(id, _)| is_meant(id));
    let active = evidence.answered().iter().filter_map(|w| w.active.seen());
    let active = active.flatten().filter(|claim| is_meant(&claim.id));
    let mut found: Ids = active.map(|claim| (claim.id.clone(), "worker")).collect();
    found.extend(tasks.filter_map(|(id, task)| Some((id.clone(), place(task)?))));
    found
}

fn place(task: &TaskEvidence) -> Option<&'static str> {
    use crate::evidence::Place;
    if !task.claims.is_empty() {
        return Some("worker");
    }
    if let Some(copy) = task.copies.first() {
        return Some(match copy.place {
            Place::Unacked { .. } => "unacked",
            _ => "queue",
        });
    }
    let stored = [&task.result, &task.first_result];
    let mut stored = stored.into_iter().filter_map(|result| result.seen());
    stored.any(Option::is_some).then_some("result")
}
