//! CD206: a queue that is longer, or older, than the user wants it.

use std::collections::BTreeMap;

use crate::diagnose::command::worker;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, List, Place, Source};

/// The rule.
pub static BACKLOG: Rule = Rule {
    code: "CD206",
    name: "backlog",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "More messages wait in a queue than you allow, or one waits for longer.",
        cause: "Workers are too few or too slow for what is sent, they are held up by long tasks, or something sends \
                far more than usual.",
        read: "The lengths of the queue's lists. A message on Redis says nowhere when it was sent: its age is known \
               only where its ETA has passed, as the time since then. Without --max-backlog or --max-age, or a limit \
               in the settings file, nothing is said.",
        confirm: "Run `redis-cli LLEN QUEUE` twice, and look whether it falls; `celery-doctor audit --sample 10s` says \
                  how fast.",
        mend: "Start more workers with `-Q QUEUE`. See whether the ones that are there run anything: `celery -A APP \
               inspect --timeout 3 active`.",
        prevent: "Scale workers by the length of the queue, give long tasks a queue of their own, and send with \
                  `expires` what is worth nothing later.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/optimizing.html"],
    },
    needs: &[Source::Queues],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, thresholds: &Thresholds) -> Vec<Finding> {
    let mut queues: BTreeMap<(&str, &str), Vec<&List>> = BTreeMap::new();
    for list in evidence.lists.seen().into_iter().flatten() {
        queues
            .entry((&list.prefix, &list.queue))
            .or_default()
            .push(list);
    }
    queues
        .into_iter()
        .flat_map(|((_, queue), lists)| {
            let long = too_long(evidence, thresholds, queue, &lists);
            let old = too_old(evidence, thresholds, queue, &lists);
            long.into_iter().chain(old)
        })
        .collect()
}

fn too_long(
    evidence: &Evidence,
    thresholds: &Thresholds,
    queue: &str,
    lists: &[&List],
) -> Option<Finding> {
    let limit = thresholds.max_backlog.of(queue)?;
    let lengths = lists
        .iter()
        .map(|list| list.length.saturating_sub(list.malformed));
    let waiting = lengths.fold(0, u64::saturating_add);
    if waiting <= limit {
        return None;
    }
    let message = format!(
        "{} in queue {queue}, more than {limit}",
        plain::waiting(waiting)
    );
    let mut finding = finding(evidence, message, queue, lists)
        .evidence("messages", waiting)
        .evidence("max_backlog", limit);
    finding.count = waiting;
    Some(finding)
}

fn too_old(
    evidence: &Evidence,
    thresholds: &Thresholds,
    queue: &str,
    lists: &[&List],
) -> Option<Finding> {
    let limit = thresholds.max_age.of(queue)?;
    let classes = evidence
        .census
        .as_ref()
        .map(|census| census.classes.as_slice());
    let due = classes.unwrap_or_default().iter().flat_map(|class| {
        let copies = class.task.copies.iter();
        copies.filter_map(move |copy| match &copy.place {
            Place::Queue { key, .. } if lists.iter().any(|list| list.key == *key) => {
                let since = -copy.envelope.eta?.seconds_until(evidence.taken_at);
                (since > limit).then_some((since, class))
            }
            _ => None,
        })
    });
    let (since, class) = due.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let message = format!(
        "a message in queue {queue} has been due for {}, longer than {}",
        plain::duration(since),
        plain::duration(limit)
    );
    let finding = finding(evidence, message, queue, lists)
        .evidence("due_seconds", since)
        .evidence("max_age_seconds", limit)
        .task(&class.id);
    Some(finding)
}

fn finding(evidence: &Evidence, message: String, queue: &str, lists: &[&List]) -> Finding {
    let consumers = lists
        .first()
        .map_or(0, |list| evidence.consumers(list).len());
    let mut finding = Finding::of(&BACKLOG, message)
        .evidence("queue", queue)
        .evidence("consumers", consumers)
        .remedy("start more workers on the queue, or see what holds up the ones that are there")
        .mend(worker(queue))
        .subject("queue", queue);
    if let Some(list) = lists.first() {
        finding = finding.confirm(evidence.depth(list));
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::message::Envelope;
    use crate::celery::when::When;
    use crate::diagnose::testkit::{Lab, NOW, envelope, names};
    use crate::diagnose::thresholds::Limit;

    fn found(lab: &Lab, thresholds: &Thresholds) -> Vec<String> {
        let found = check(&lab.evidence, thresholds);
        found.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn more_than_the_limit_is_found_and_just_the_limit_is_not() {
        let lab = Lab::new().queued("t1", "celery").queued("t2", "celery");
        let limit = |limit| Thresholds {
            max_backlog: Limit::all(limit),
            ..Thresholds::default()
        };
        assert_eq!(
            found(&lab, &limit(Some(1))),
            ["2 messages wait in queue celery, more than 1"]
        );
        assert_eq!(names(&check(&lab.evidence, &limit(Some(1)))), ["backlog"]);
        assert!(found(&lab, &limit(Some(2))).is_empty());
        assert!(found(&lab, &limit(None)).is_empty());
    }

    #[test]
    fn a_message_that_has_been_due_for_too_long_is_found() {
        let due = |seconds: f64| {
            let message = Envelope {
                eta: When::from_epoch(NOW - seconds),
                ..envelope("t1")
            };
            Lab::new().queued_as("celery", message).counted()
        };
        let limits = Thresholds {
            max_age: Limit::all(Some(60.0)),
            ..Thresholds::default()
        };
        assert_eq!(
            found(&due(120.0), &limits),
            ["a message in queue celery has been due for 2m, longer than 1m"]
        );
        assert!(found(&due(30.0), &limits).is_empty());
        assert!(found(&Lab::new().queued("t1", "celery").counted(), &limits).is_empty());
    }
}
