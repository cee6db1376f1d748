//! CD104: a message waits in a priority's list that no worker polls.

use std::collections::BTreeSet;

use crate::celery::exchange::{DEFAULT_SEP, DEFAULT_STEPS};
use crate::diagnose::{Brokers, Case, Check, Fate, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Source, Worker};

/// The rule.
pub static PRIORITY_NOT_CONSUMED: Rule = Rule {
    code: "CD104",
    name: "priority-not-consumed",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "A message waits in the list of a priority from which no worker takes, though workers consume its \
                  queue. It stays there until a worker with the sender's settings starts.",
        cause: "Redis has no priorities. kombu keeps a list for each of the transport option priority_steps (0, 3, 6 \
                and 9 unless set), named by the queue, the option sep and the step. The sender decides by its own \
                settings into which list a message goes; a worker takes only from the lists that its own settings \
                name. If the two differ, messages go where nobody looks.",
        read: "The list in which the message stands, and the word of every live worker about its queues and its \
               transport options. Nothing is said while a worker stays silent.",
        confirm: "Run `redis-cli LLEN` on the list twice: the number does not fall. Run `celery -A APP inspect stats` \
                  and look at broker.transport_options.",
        mend: "Start a worker that has the sender's broker_transport_options (priority_steps and sep) on this queue, \
               until the list is empty.",
        prevent: "Give every process, senders and workers, the same broker_transport_options, best from one module.",
        references: &[
            "kombu 5.7 transport/redis.py, _q_for_pri and _brpop_start",
            "https://docs.celeryq.dev/en/stable/userguide/routing.html#redis-message-priorities",
        ],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.queued()
        .into_iter()
        .filter(|copy| case.fate_of_place(copy) == Fate::PriorityNotPolled)
        .filter_map(|copy| Some((copy, copy.list?)))
        .map(|(copy, list)| {
            let consumers = case.evidence.consumers(list);
            let polled: BTreeSet<String> = consumers.iter().map(|w| polls(w)).collect();
            let polled: Vec<String> = polled.into_iter().collect();
            let queue = &list.queue;
            let key = plain::key(&list.key);
            let place = match &list.priority {
                Some((sep, priority)) => {
                    format!("list of priority {priority} (separator {})", plain::key(sep))
                }
                None => "own list".to_owned(),
            };
            Finding::of(
                &PRIORITY_NOT_CONSUMED,
                format!(
                    "{} in queue {queue}'s {place}, from which no worker takes; they poll {}",
                    plain::waiting(list.length),
                    plain::names(&polled)
                ),
            )
            .evidence("queue", queue.as_str())
            .evidence("list", key.as_str())
            .evidence("messages", list.length)
            .evidence("position", copy.position)
            .evidence("polled", polled)
            .confirm(case.evidence.redis_cli("LLEN").name(&list.key))
            .confirm(case.evidence.inspect("stats"))
            .remedy(format!(
                "give the workers of {queue} the sender's priority_steps and sep in broker_transport_options, and \
                 restart them"
            ))
            .subject("queue", queue.as_str())
            .task(case.id)
        })
        .collect()
}

/// The steps and the separator that a worker's settings make it poll.
fn polls(worker: &Worker) -> String {
    let transport = worker.stats.seen().map(|stats| &stats.transport);
    let steps = transport.and_then(|t| t.priority_steps.as_deref());
    let sep = transport.and_then(|t| t.sep.as_deref());
    let steps: Vec<String> = steps
        .unwrap_or(DEFAULT_STEPS)
        .iter()
        .map(i64::to_string)
        .collect();
    format!(
        "steps {} (separator {})",
        steps.join(", "),
        plain::key(sep.unwrap_or(DEFAULT_SEP))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, envelope, names};
    use crate::evidence::{Copy, Place};

    fn queued_in(sep: &str, priority: i64) -> Lab {
        let mut lab = Lab::new().worker("w1", &["celery"]);
        let key = format!("celery{sep}{priority}");
        lab.list(&key, "celery", Some((sep.to_owned(), priority)));
        lab.task("t1").copies.push(Copy {
            place: Place::Queue {
                key,
                position: 1,
                of: 1,
            },
            envelope: envelope("t1"),
        });
        lab
    }

    #[test]
    fn a_step_or_a_separator_that_nobody_polls_is_found() {
        for lab in [queued_in(DEFAULT_SEP, 5), queued_in(":", 3)] {
            let found = lab.check(&PRIORITY_NOT_CONSUMED, "t1");
            assert_eq!(names(&found), ["priority-not-consumed"]);
            assert!(found[0].message.contains("steps 0, 3, 6, 9"));
        }
    }

    #[test]
    fn a_step_that_is_polled_is_clear() {
        let lab = queued_in(DEFAULT_SEP, 9);
        assert!(lab.check(&PRIORITY_NOT_CONSUMED, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent() {
        let lab = queued_in(":", 3).silent("w2");
        assert!(lab.check(&PRIORITY_NOT_CONSUMED, "t1").is_empty());
    }

    #[test]
    fn a_worker_that_does_not_tell_its_options_decides_nothing() {
        let lab = queued_in(":", 3).with_worker(|w| {
            w.stats = crate::evidence::Observed::not_asked("a test");
        });
        assert!(lab.check(&PRIORITY_NOT_CONSUMED, "t1").is_empty());
    }
}
