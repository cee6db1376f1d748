//! Results that draw attention in an audit: nobody asked for their tasks.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Everything;
use super::notes::task;
use super::related;
use super::results::Results;
use crate::evidence::{Evidence, Observed, Reason, StoredResult, Why};

/// More suspects than these are not looked at one by one.
pub(super) const MOST_SUSPECTS: usize = 1_000;

/// Tasks that nothing has accounted for yet, with their results; without one, a task that another one sent.
pub(super) type Suspects = BTreeMap<String, Option<StoredResult>>;

/// Results that draw attention: those of unfinished tasks, of tasks that were lost, and of tasks that sent others which
/// have none.
pub(super) async fn look_through(
    evidence: &mut Evidence,
    results: &mut Results,
    wanted: &Everything,
    limit: Option<Instant>,
) -> (Suspects, Result<u64, Why>) {
    let scan = match results.scan(wanted.result_keys, limit).await {
        Ok(scan) => scan,
        Err(why) => {
            if matches!(why.reason, Reason::TimedOut | Reason::Unreachable) {
                results.give_up(&why);
            }
            return (Suspects::new(), Err(why));
        }
    };
    let looked_through = if scan.cut {
        let what = "more results draw attention than are kept, or the deadline came first";
        Err(Why::new(Reason::Truncated, what))
    } else {
        Ok(scan.results)
    };
    // One member of each chord leads to all that is known of it.
    for group in scan.chords {
        if let Some(member) = related::waiting_chord(evidence, results, &group).await {
            let census = evidence.census.get_or_insert_default();
            census.by_result.insert(member);
        }
    }
    let (ended, open): (BTreeMap<_, _>, BTreeMap<_, _>) =
        scan.drawn.into_iter().partition(|(_, r)| r.doc.ready);
    for (id, result) in ended.into_iter().take(MOST_SUSPECTS).chain(scan.parents) {
        let task = task(evidence, &id);
        task.children.clone_from(&result.doc.children);
        task.first_result = Observed::Seen(Some(result.clone()));
        task.result = Observed::Seen(Some(result));
        evidence.census.get_or_insert_default().by_result.insert(id);
    }
    let open = open.into_iter();
    let mut suspects: Suspects = open.map(|(id, result)| (id, Some(result))).collect();
    suspects.extend(scan.children.into_iter().map(|id| (id, None)));
    (suspects, looked_through)
}

/// Drops the tasks that others sent and that have a result by now.
pub(super) async fn drop_ended(suspects: &mut Suspects, results: &mut Results) {
    let sent = suspects.iter().filter(|(_, result)| result.is_none());
    let ids: Vec<String> = sent.map(|(id, _)| id.clone()).collect();
    for (id, result) in results.read(&ids).await {
        if !matches!(result, Observed::Seen(None)) {
            suspects.remove(&id);
        }
    }
}
