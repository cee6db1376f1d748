//! CD406: tasks that wait for their ETA fill a worker.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Source, Worker};

/// How many tasks beyond its usual prefetch a worker may hold before it is worth a word.
const MANY: u64 = 1_000;

/// Celery 5.7 app/defaults.py: `worker_prefetch_multiplier`.
const DEFAULT_MULTIPLIER: u64 = 4;

/// The rule.
pub static ETA_FLOOD: Rule = Rule {
    code: "CD406",
    name: "eta-flood",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A worker holds a thousand or more tasks that wait for their ETA or countdown. They fill its memory, \
                  all come back at once when it dies, and those further off than the visibility timeout run more \
                  than once.",
        cause: "Celery has no scheduler in the broker: a worker takes a task with an ETA at once, keeps it in memory \
                unacknowledged until its time, and raises its prefetch count by one for each, so that it can go on \
                taking others. Retries with a countdown are such tasks too. The prefetch count can't go beyond \
                65,535; from there on the worker takes without limit.",
        read: "The worker's own statistics: prefetch_count against its concurrency times worker_prefetch_multiplier; \
               and where it was asked, how many tasks it has scheduled.",
        confirm: "Run `celery -A APP inspect --timeout 3 stats` and look at prefetch_count; run `celery -A APP inspect \
                  --timeout 3 scheduled`.",
        mend: "Start more workers on the queue, so that new messages spread. Do not restart the full one: it would \
               have to take all of them again.",
        prevent: "Keep what is due later than some minutes in a database, and send it from a periodic task when its \
                  time has come. Set worker_eta_task_limit (Celery 5.6 and later).",
        references: &[
            "celery issues 3267, 9849",
            "kombu issue 271",
            "https://docs.celeryq.dev/en/stable/userguide/calling.html#eta-and-countdown",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    evidence.answered().iter().filter_map(finding).collect()
}

fn finding(worker: &Worker) -> Option<Finding> {
    let scheduled = worker
        .scheduled
        .seen()
        .copied()
        .filter(|number| *number >= MANY);
    let beyond = beyond_usual(worker).filter(|number| *number >= MANY);
    let node = &worker.node;
    let message = match (scheduled, beyond) {
        (Some(scheduled), _) => format!(
            "{node} holds {} until their ETA",
            plain::count(scheduled, "task")
        ),
        (None, Some(beyond)) => format!(
            "{node} takes {} beyond its usual prefetch: it holds about as many until their ETA",
            plain::count(beyond, "message")
        ),
        (None, None) => return None,
    };
    let prefetch_count = worker.stats.seen().and_then(|stats| stats.prefetch_count);
    Some(
        Finding::of(&ETA_FLOOD, message)
            .evidence("worker", node.as_str())
            .evidence("scheduled", worker.scheduled.seen().copied())
            .evidence("prefetch_count", prefetch_count)
            .evidence("concurrency", worker.stats.seen().and_then(|stats| stats.concurrency))
            .confirm(format!("celery -A APP inspect --timeout 3 stats -d {node}"))
            .confirm(format!("celery -A APP inspect --timeout 3 scheduled -d {node}"))
            .remedy("keep what is due much later in a database and send it when its time has come; set worker_eta_task_limit")
            .subject("worker", node.as_str()),
    )
}

/// By how much its prefetch count is above concurrency × multiplier (Celery 5.7 worker/consumer/consumer.py,
/// `initial_prefetch_count`). A multiplier of 0 is no limit, and its prefetch count stays 0.
fn beyond_usual(worker: &Worker) -> Option<u64> {
    let stats = worker.stats.seen()?;
    let multiplier = worker
        .conf
        .seen()?
        .worker_prefetch_multiplier
        .unwrap_or(DEFAULT_MULTIPLIER);
    if multiplier == 0 {
        return None;
    }
    let usual = stats.concurrency?.saturating_mul(multiplier);
    Some(stats.prefetch_count?.saturating_sub(usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn lab(prefetch_count: u64) -> Lab {
        Lab::new().worker("w1", &["celery"]).with_worker(|worker| {
            worker.stats.seen_mut().expect("seen").prefetch_count = Some(prefetch_count);
        })
    }

    #[test]
    fn a_high_prefetch_count_is_found() {
        assert_eq!(names(&lab(1_004).check(&ETA_FLOOD, "")), ["eta-flood"]);
    }

    #[test]
    fn many_scheduled_tasks_are_found() {
        let lab = lab(4).with_worker(|worker| worker.scheduled = Observed::Seen(1_000));
        let findings = lab.check(&ETA_FLOOD, "");
        assert_eq!(findings[0].message, "w1 holds 1000 tasks until their ETA");
    }

    #[test]
    fn the_usual_prefetch_and_some_etas_are_clear() {
        for count in [0, 4, 1_003] {
            assert!(lab(count).check(&ETA_FLOOD, "").is_empty(), "{count}");
        }
    }

    #[test]
    fn a_large_prefetch_on_purpose_is_clear() {
        let lab = lab(5_000).with_worker(|worker| {
            worker
                .conf
                .seen_mut()
                .expect("seen")
                .worker_prefetch_multiplier = Some(5_000);
        });
        assert!(lab.check(&ETA_FLOOD, "").is_empty());
    }

    #[test]
    fn nothing_is_said_without_the_settings() {
        let lab = lab(5_000).with_worker(|worker| worker.conf = Observed::not_asked("a test"));
        assert!(lab.check(&ETA_FLOOD, "").is_empty());
    }
}
