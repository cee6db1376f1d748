//! CD101: messages wait where no live worker takes them.

use crate::diagnose::{Brokers, Case, Check, Fate, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static NO_CONSUMER: Rule = Rule {
    code: "CD101",
    name: "no-consumer",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Messages wait in a queue from which no live worker takes. They stay there until one does.",
        cause: "A queue's name was misspelt when the task was sent: Celery creates the queue and fills it, because \
                task_create_missing_queues is on by default. Or no worker was started with -Q and this queue, or the \
                one that was has died.",
        read: "The queue's lists, and the word of every live worker about the queues that it consumes. Nothing is \
               said while a worker that could consume the queue stays silent.",
        confirm: "Run `celery -A APP inspect active_queues` and look for the queue. Run `redis-cli LLEN QUEUE` twice: \
                  the number does not fall.",
        mend: "Start a worker with `-Q QUEUE`, or tell a running one: `celery -A APP control add_consumer QUEUE`. If \
               the name is a mistake, let a worker drain the queue this way once, and correct the route.",
        prevent: "Declare task_queues and set task_create_missing_queues to False, so that a misspelt queue is an \
                  error where the task is sent.",
        references: &[
            "celery issue 6692",
            "https://docs.celeryq.dev/en/stable/userguide/routing.html",
        ],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let consumed: Vec<&str> = case
        .evidence
        .answered()
        .iter()
        .filter_map(|worker| worker.queues.seen())
        .flatten()
        .map(|queue| queue.name.as_str())
        .collect();
    case.queued()
        .into_iter()
        // A whole key prefix without workers is another fault with another cure: key-prefix-mismatch says it.
        .filter(|copy| !copy.list.is_some_and(|list| case.evidence.is_foreign_prefix(&list.prefix)))
        // A message that will be dropped anyway still waits where nobody takes it: both are said.
        .filter(|copy| case.fate_of_place(copy) == Fate::NobodyReads)
        .filter_map(|copy| Some((copy, copy.list?)))
        .map(|(copy, list)| {
            let queue = &list.queue;
            Finding::of(
                &NO_CONSUMER,
                format!(
                    "queue {queue} holds {} and no live worker consumes it",
                    plain::count(list.length, "message")
                ),
            )
            .evidence("queue", queue.as_str())
            .evidence("messages", list.length)
            .evidence("position", copy.position)
            .evidence("consumed_queues", consumed.clone())
            .confirm("celery -A APP inspect active_queues")
            .confirm(
                case.evidence
                    .redis_cli(&format!("LLEN {}", plain::key(&list.key))),
            )
            .remedy(format!(
                "start a worker with `-Q {queue}`, or run `celery -A APP control add_consumer {queue}`; if the \
                 queue's name is a mistake, correct the route as well"
            ))
            .subject("queue", queue.as_str())
            .task(case.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};

    #[test]
    fn a_queue_that_nobody_consumes_is_found() {
        let lab = Lab::new().worker("w1", &["celery"]).queued("t1", "emials");
        assert_eq!(names(&lab.check(&NO_CONSUMER, "t1")), ["no-consumer"]);
    }

    #[test]
    fn a_consumed_queue_is_clear() {
        let lab = Lab::new().worker("w1", &["celery"]).queued("t1", "celery");
        assert!(lab.check(&NO_CONSUMER, "t1").is_empty());
    }

    #[test]
    fn a_broadcast_queues_list_is_read_by_nobody() {
        let lab = Lab::new()
            .worker("w1", &["bcast.1"])
            .with_worker(|w| {
                for queue in w.queues.seen_mut().expect("seen") {
                    queue.exchange_type = Some("fanout".to_owned());
                }
            })
            .queued("t1", "bcast.1");
        assert_eq!(names(&lab.check(&NO_CONSUMER, "t1")), ["no-consumer"]);
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .silent("w2")
            .queued("t1", "emials");
        assert!(lab.check(&NO_CONSUMER, "t1").is_empty());
    }
}
