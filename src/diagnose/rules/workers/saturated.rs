//! CD705: every slot is busy, and more waits.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, List, Source};

/// The rule.
pub static SATURATED: Rule = Rule {
    code: "CD705",
    name: "saturated",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Every worker of the queue has all its slots busy, and messages wait behind them. That is how a queue \
                  works; it is worth knowing when the waiting gets long.",
        cause: "As much is sent as the workers can do, or more; or long tasks hold the slots.",
        read: "What each worker of the queue runs, how many slots it has, and the length of the queue.",
        confirm: "Run `celery -A APP inspect --timeout 3 active` and `celery -A APP inspect --timeout 3 stats`.",
        mend: "Start more workers, if the messages wait for too long.",
        prevent: "Scale workers by the length of the queue, and set --max-backlog to hear of it as a warning.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/optimizing.html"],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    if !evidence.all_workers_answered() {
        return Vec::new();
    }
    let lists = evidence.lists.seen().into_iter().flatten();
    lists
        .filter(|list| list.length > 0)
        .filter_map(|list| finding(evidence, list))
        .collect()
}

fn finding(evidence: &Evidence, list: &List) -> Option<Finding> {
    let readers = evidence.readers(list);
    let slots: Option<u64> = readers
        .iter()
        .map(|worker| worker.stats.seen()?.concurrency)
        .sum();
    let all_busy = readers.iter().all(|worker| worker.free_slots() == Some(0));
    if readers.is_empty() || !all_busy {
        return None;
    }
    let queue = &list.queue;
    let workers = plain::count(readers.len() as u64, "worker");
    let mut finding = Finding::of(
        &SATURATED,
        format!(
            "{} in queue {queue} behind {workers} without a free slot",
            plain::waiting(list.length)
        ),
    )
    .evidence("queue", queue.as_str())
    .evidence("messages", list.length)
    .evidence("workers", readers.len())
    .evidence("slots", slots)
    .confirm(evidence.inspect("active"))
    .remedy("start more workers, if the messages wait for too long")
    .subject("queue", queue.as_str());
    finding.count = list.length;
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::diagnose::testkit::{Lab, names};

    fn busy() -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .claimed("t1", "w1", ClaimState::Active)
    }

    #[test]
    fn a_queue_behind_busy_workers_is_found() {
        let found = busy().queued("t2", "celery").check(&SATURATED, "");
        assert_eq!(names(&found), ["saturated"]);
    }

    #[test]
    fn an_empty_queue_and_a_free_slot_are_clear() {
        let free = busy().worker("w2", &["celery"]).queued("t2", "celery");
        for lab in [busy(), free, Lab::new().queued("t2", "celery")] {
            assert!(lab.check(&SATURATED, "").is_empty());
        }
    }
}
