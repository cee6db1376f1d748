//! CD209: one id stands more than once in the broker.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnose::view::Route;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Copy, Place, Source};

/// The rule.
pub static DUPLICATE_MESSAGE: Rule = Rule {
    code: "CD209",
    name: "duplicate-message",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The broker holds more than one message with this id. Unless one of them is dropped, the task runs \
                  as often as there are messages.",
        cause: "A retry is sent under the same id before the first message is acknowledged; if that acknowledgement \
                never comes, both stay. Or the caller set task_id itself and sent twice. Or a message was restored \
                while another copy of it remained: it then carries the same delivery tag.",
        read: "Every queue and `unacked`, twice: copies that moved between the two looks do not count. On RabbitMQ, the \
               queues that were looked into: copies in one queue, or in several that nobody consumes. A retry that \
               was just sent by a run that is still to be acknowledged, and an exchange that sends to several queues \
               on purpose, are not reported.",
        confirm: "Trace the id again: both copies are still there. Look for `received` with this id in the workers' \
                  logs, more than once.",
        mend: "If the task may run twice, let it be. If not, take one of the messages out of its list (`redis-cli LREM \
               LIST 1 MESSAGE`), or revoke the id, which drops all of them.",
        prevent: "Make tasks idempotent: Celery promises at least one delivery, not exactly one. Set the visibility \
                  timeout above the longest run and ETA, and do not send twice under one task_id.",
        references: &[
            "celery issue 6358",
            "celery issue 3270",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[Source::Queues, Source::Unacked],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let copies = at_one_time(case);
    if copies.len() < 2 || is_fresh_retry(case) || is_by_design(case) {
        return Vec::new();
    }
    let tags: BTreeSet<_> = copies
        .iter()
        .map(|copy| &copy.envelope.delivery_tag)
        .collect();
    let retries: BTreeSet<u64> = copies
        .iter()
        .map(|copy| copy.envelope.retries.unwrap_or(0))
        .collect();
    // Tags of kombu's own; a message of RabbitMQ has none.
    let how = if tags.len() == 1 && !tags.contains(&None) {
        "with one delivery tag: it was sent once and restored or copied".to_owned()
    } else if retries.len() > 1 {
        let retries: Vec<String> = retries.iter().map(u64::to_string).collect();
        format!(
            "with retries {}: a retry was sent and what it repeats was not acknowledged",
            retries.join(", ")
        )
    } else if tags.contains(&None) {
        "with the same number of retries: it was sent more than once under this id, or copied"
            .to_owned()
    } else {
        "with different delivery tags: it was sent more than once under this id".to_owned()
    };
    let places: Vec<String> = copies.iter().map(|copy| place(case, copy)).collect();
    vec![
        Finding::of(
            &DUPLICATE_MESSAGE,
            format!(
                "its id stands {} times in the broker ({}), {how}",
                copies.len(),
                plain::names(&places)
            ),
        )
        .evidence("copies", places)
        .evidence("delivery_tags", tags.len())
        .evidence("retries", retries.into_iter().collect::<Vec<u64>>())
        .look(format!("look for {} in the workers' logs", case.id))
        .remedy("if the task must not run twice, take one of the messages out of its list, or revoke the id")
        .subject("task", case.name().unwrap_or("unknown"))
        .task(case.id),
    ]
}

/// The copies that stand in the broker at one time. RabbitMQ's queues are looked into one after another, so that one
/// message may be seen in two of them: only what nobody takes out meanwhile is counted together.
fn at_one_time<'c>(case: &Case<'c>) -> Vec<&'c Copy> {
    let copies = case.task.copies.iter();
    let copies = copies.filter(|copy| !matches!(copy.place, Place::OtherDatabase { .. }));
    let Some(rabbit) = &case.evidence.rabbitmq else {
        return copies.collect();
    };
    let mut resting: Vec<&Copy> = Vec::new();
    let mut moving: BTreeMap<&str, Vec<&Copy>> = BTreeMap::new();
    for copy in copies {
        let queue = match &copy.place {
            Place::Queue { key: queue, .. }
            | Place::DeadLetter { queue, .. }
            | Place::Delayed { queue, .. } => queue.as_str(),
            Place::OtherDatabase { .. } | Place::Unacked { .. } => continue,
        };
        let rests = rabbit.queue(queue).is_some_and(|queue| {
            queue.consumers.seen() == Some(&0) && queue.number("message-ttl").is_none()
        });
        if rests {
            resting.push(copy);
        } else {
            moving.entry(queue).or_default().push(copy);
        }
    }
    let sets = moving.into_values().chain([resting]);
    sets.max_by_key(Vec::len).unwrap_or_default()
}

fn place(case: &Case<'_>, copy: &Copy) -> String {
    match &copy.place {
        Place::Queue { key, .. } | Place::OtherDatabase { key, .. } => {
            let queue = case.evidence.list(key).map_or(key, |list| &list.queue);
            format!("queue {queue}")
        }
        Place::DeadLetter { queue, .. } => format!("dead-letter queue {queue}"),
        Place::Delayed { queue, .. } => format!("queue {queue}"),
        Place::Unacked { prefix, names, .. } => format!("{prefix}{}", names.hash),
    }
}

/// A late acknowledging task sends its retry first and is acknowledged a moment later: all is well while it runs.
fn is_fresh_retry(case: &Case<'_>) -> bool {
    let (held, waiting) = (case.held(), case.queued());
    let ([held], [queued]) = (held.as_slice(), waiting.as_slice()) else {
        return false;
    };
    let run = held.envelope.retries.unwrap_or(0);
    case.is_running() && queued.envelope.retries == run.checked_add(1)
}

/// Copies with one delivery tag in just the queues to which the exchange sends it, one in each.
fn is_by_design(case: &Case<'_>) -> bool {
    let queued = case.queued();
    let Some(first) = queued.first() else {
        return false;
    };
    let envelope = first.envelope;
    let (Some(exchange), Some(key)) = (&envelope.exchange, &envelope.routing_key) else {
        return false;
    };
    let lists: Vec<_> = queued.iter().filter_map(|copy| copy.list).collect();
    let here: BTreeSet<String> = lists.iter().map(|list| list.queue.clone()).collect();
    let one_each = case.held().is_empty() && here.len() == queued.len();
    let one_tag = queued
        .iter()
        .all(|copy| copy.envelope.delivery_tag == envelope.delivery_tag);
    let prefix = first.list.map_or("", |list| list.prefix.as_str());
    match case.evidence.route(prefix, exchange, key) {
        Route::Queues(bound) => one_each && one_tag && here.is_subset(&bound),
        Route::Nowhere | Route::Unknown(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::celery::exchange::Binding;
    use crate::celery::message::Envelope;
    use crate::diagnose::testkit::{Lab, NOW, Rabbit, envelope, names};
    use crate::evidence::{BindingTable, Observed};

    fn tagged(tag: &str, retries: u64) -> Envelope {
        Envelope {
            delivery_tag: Some(tag.to_owned()),
            retries: Some(retries),
            ..envelope("t1")
        }
    }

    fn retried() -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .queued_as("celery", tagged("b", 1))
            .unacked_as(tagged("a", 0), Some(NOW - 10.0))
    }

    #[test]
    fn two_copies_are_found_and_told_apart() {
        for (lab, how) in [
            (retried(), "with retries 0, 1"),
            (
                Lab::new()
                    .queued_as("celery", tagged("a", 0))
                    .queued_as("mail", tagged("a", 0)),
                "with one delivery tag",
            ),
            (
                Lab::new()
                    .queued_as("celery", tagged("a", 0))
                    .queued_as("celery", tagged("b", 0)),
                "sent more than once",
            ),
        ] {
            let found = lab.check(&DUPLICATE_MESSAGE, "t1");
            assert_eq!(names(&found), ["duplicate-message"]);
            assert!(found[0].message.contains(how), "{}", found[0].message);
        }
    }

    #[test]
    fn on_rabbitmq_a_message_may_have_moved_from_one_look_to_the_next() {
        let lab = |consumers, second: &str| {
            let lab = Rabbit::new()
                .queue("celery", 2, consumers)
                .queue("mail", 1, consumers)
                .lab();
            let untagged = || Envelope {
                retries: Some(0),
                ..envelope("t1")
            };
            lab.queued_as("celery", untagged())
                .queued_as(second, untagged())
        };
        let found = |lab: Lab| lab.check(&DUPLICATE_MESSAGE, "t1").len();
        assert_eq!(found(lab(1, "celery")), 1);
        assert_eq!(found(lab(1, "mail")), 0);
        assert_eq!(found(lab(0, "mail")), 1);
    }

    #[test]
    fn one_copy_is_clear() {
        let lab = Lab::new().queued("t1", "celery");
        assert!(lab.check(&DUPLICATE_MESSAGE, "t1").is_empty());
    }

    #[test]
    fn a_retry_that_its_run_has_just_sent_is_clear() {
        let lab = retried().claimed("t1", "w1", ClaimState::Active);
        assert!(lab.check(&DUPLICATE_MESSAGE, "t1").is_empty());
    }

    #[test]
    fn an_exchange_that_sends_to_both_queues_is_clear() {
        let message = Envelope {
            exchange: Some("orders".to_owned()),
            routing_key: Some("new".to_owned()),
            ..tagged("a", 0)
        };
        let binding = |queue: &str| Binding {
            routing_key: "new".to_owned(),
            pattern: "^new$".to_owned(),
            queue: queue.to_owned(),
        };
        let mut lab = Lab::new()
            .queued_as("celery", message.clone())
            .queued_as("mail", message);
        lab.evidence.bindings = Observed::Seen(vec![BindingTable {
            prefix: String::new(),
            exchange: "orders".to_owned(),
            sep: crate::celery::exchange::DEFAULT_SEP.to_owned(),
            bindings: vec![binding("celery"), binding("mail")],
        }]);
        assert!(lab.check(&DUPLICATE_MESSAGE, "t1").is_empty());
        // It would take only what the bindings do not.
        let lab = lab.worker("w1", &["celery"]).with_worker(|w| {
            let stats = w.stats.seen_mut().expect("seen");
            stats.transport.deadletter_queue = Some("dead".to_owned());
        });
        assert!(lab.check(&DUPLICATE_MESSAGE, "t1").is_empty());
    }
}
