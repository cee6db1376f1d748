//! CD406: tasks that wait for their ETA fill a worker.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::{Consumer, Queue, Role};
use crate::evidence::{Evidence, RabbitMq, Source, Worker};

/// How many tasks beyond its usual prefetch a worker may hold before it is worth a word.
const MANY: u64 = 1_000;

/// The rule.
pub static ETA_FLOOD: Rule = Rule {
    code: "CD406",
    name: "eta-flood",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A worker holds a thousand or more tasks that wait for their ETA or countdown. They fill its memory, \
                  all come back at once when it dies, and those further off than the visibility timeout run more \
                  than once. Or fewer of them fill its prefetch count on RabbitMQ: then it sits idle, and what waits \
                  in its queue waits until the first of them is due.",
        cause: "Celery has no scheduler in the broker: a worker takes a task with an ETA at once, keeps it in memory \
                unacknowledged until its time, and raises its prefetch count by one for each, so that it can go on \
                taking others. Retries with a countdown are such tasks too. The prefetch count can't go beyond \
                65,535; from there on the worker takes without limit. It can't be raised at all on quorum queues, \
                nor on any queue of RabbitMQ 4, where a consumer keeps the prefetch count it began with.",
        read: "The worker's own statistics: prefetch_count against its concurrency times worker_prefetch_multiplier; \
               and where it was asked, how many tasks it has scheduled. On RabbitMQ also the prefetch counts of its \
               consumers, and what waits in their queues.",
        confirm: "Run `celery -A APP inspect --timeout 3 stats` and look at prefetch_count; run `celery -A APP inspect \
                  --timeout 3 scheduled`.",
        mend: "Start more workers on the queue, so that new messages spread. Do not restart the full one: it would \
               have to take all of them again.",
        prevent: "Keep what is due later than some minutes in a database, and send it from a periodic task when its \
                  time has come. Set worker_eta_task_limit (Celery 5.6 and later).",
        references: &[
            "celery issues 3267, 9849",
            "kombu issue 271",
            "celery issues 6067, 9149",
            "https://docs.celeryq.dev/en/stable/userguide/calling.html#eta-and-countdown",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let found = |worker: &Worker| blocked(evidence, worker).or_else(|| flooded(evidence, worker));
    evidence.answered().iter().filter_map(found).collect()
}

/// Tasks that wait for their ETA are all that a worker may hold, and others wait for it and its like.
fn blocked(evidence: &Evidence, worker: &Worker) -> Option<Finding> {
    let rabbit = evidence.rabbitmq.as_ref()?;
    let room = room(evidence, rabbit, &worker.node)?;
    let scheduled = *worker.scheduled.seen()?;
    let waiting = rabbit.queues_of(Role::Tasks).find(|queue| {
        worker.consumes(&queue.name)
            && queue.ready.seen().is_some_and(|ready| *ready > 0)
            && all_full(evidence, rabbit, queue)
    });
    let queue = waiting.filter(|_| scheduled >= room)?;
    let node = &worker.node;
    let ready = queue.ready.seen().copied().unwrap_or_default();
    let message = format!(
        "{node} holds {} until their ETA, and may hold no more than {room}: {} in {} for the first of them to be due",
        plain::count(scheduled, "task"),
        plain::waiting(ready),
        queue.name,
    );
    Some(
        Finding::of(&ETA_FLOOD, message)
            .evidence("worker", node.as_str())
            .evidence("scheduled", scheduled)
            .evidence("prefetch_count", room)
            .evidence("queue", queue.name.as_str())
            .evidence("messages", ready)
            .confirm(evidence.inspect("scheduled").map(|ask| ask.on(node)))
            .remedy(
                "start another worker on the queue; give tasks with an ETA a quorum queue with a topic exchange, for \
                 which Celery has native delayed delivery, or raise worker_prefetch_multiplier",
            )
            .subject("worker", node.as_str()),
    )
}

/// Whether every consumer of a queue is a worker's that holds nothing but tasks until their ETA, as many as it may.
fn all_full(evidence: &Evidence, rabbit: &RabbitMq, queue: &Queue) -> bool {
    let full = |worker: &&Worker| {
        let room = room(evidence, rabbit, &worker.node);
        let scheduled = worker.scheduled.seen().copied();
        matches!((room, scheduled), (Some(room), Some(scheduled)) if scheduled >= room)
    };
    let takers = evidence.answered().iter();
    let full = takers.filter(|w| w.consumes(&queue.name)).filter(full);
    queue.consumers.seen() == Some(&(full.count() as u64))
}

/// How many messages a worker may hold, all its consumers together; none where that is not known, or without limit.
fn room(evidence: &Evidence, rabbit: &RabbitMq, node: &str) -> Option<u64> {
    let connections = evidence.connections_of_workers(rabbit);
    let own = |consumer: &&Consumer| {
        consumer.ack_required && connections.get(consumer.connection.as_str()) == Some(&node)
    };
    let mut room = 0_u64;
    for consumer in rabbit.consumers.seen()?.iter().filter(own) {
        room = room.saturating_add(consumer.prefetch.filter(|count| *count > 0)?);
    }
    (room > 0).then_some(room)
}

fn flooded(evidence: &Evidence, worker: &Worker) -> Option<Finding> {
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
            .confirm(evidence.inspect("stats").map(|ask| ask.on(node)))
            .confirm(evidence.inspect("scheduled").map(|ask| ask.on(node)))
            .remedy("keep what is due much later in a database and send it when its time has come; set worker_eta_task_limit")
            .subject("worker", node.as_str()),
    )
}

/// By how much its prefetch count is above concurrency × multiplier (Celery 5.7 worker/consumer/consumer.py,
/// `initial_prefetch_count`). A multiplier of 0 is no limit, and its prefetch count stays 0.
fn beyond_usual(worker: &Worker) -> Option<u64> {
    let stats = worker.stats.seen()?;
    let multiplier = worker.conf.seen()?.worker_prefetch_multiplier?;
    if multiplier == 0 {
        return None;
    }
    let usual = stats.concurrency?.saturating_mul(multiplier);
    Some(stats.prefetch_count?.saturating_sub(usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit, names};
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

    /// A worker whose consumer may hold four, with this many tasks until their ETA and messages in its queue.
    fn narrow(scheduled: u64, ready: u64, consumers: u64) -> Lab {
        let mut lab = Rabbit::new()
            .queue("celery", ready, consumers)
            .queue("w1.celery.pidbox", 0, 1)
            .lab()
            .worker("w1", &["celery"])
            .with_worker(|worker| worker.scheduled = Observed::Seen(scheduled));
        let facts = lab.evidence.rabbitmq.as_mut().expect("a RabbitMQ");
        for consumer in facts.consumers.seen_mut().expect("seen") {
            consumer.ack_required = consumer.queue == "celery";
            consumer.prefetch = Some(4).filter(|_| consumer.ack_required);
        }
        lab
    }

    #[test]
    fn a_worker_that_is_full_of_them_while_others_wait_is_found() {
        let found = narrow(4, 7, 1).check(&ETA_FLOOD, "");
        assert_eq!(
            found[0].message,
            "w1 holds 4 tasks until their ETA, and may hold no more than 4: 7 messages wait in celery for the first \
             of them to be due"
        );
    }

    #[test]
    fn one_with_room_or_help_or_nothing_to_do_is_clear() {
        for (scheduled, ready, consumers) in [(3, 7, 1), (4, 7, 2), (4, 0, 1)] {
            let lab = narrow(scheduled, ready, consumers);
            assert!(lab.check(&ETA_FLOOD, "").is_empty(), "{scheduled} {ready}");
        }
        let mut unlimited = narrow(9, 7, 1);
        let facts = unlimited.evidence.rabbitmq.as_mut().expect("a RabbitMQ");
        for consumer in facts.consumers.seen_mut().expect("seen") {
            consumer.prefetch = Some(0);
        }
        assert!(unlimited.check(&ETA_FLOOD, "").is_empty());
    }

    #[test]
    fn nothing_is_said_without_the_settings() {
        let lab = lab(5_000).with_worker(|worker| worker.conf = Observed::not_asked("a test"));
        assert!(lab.check(&ETA_FLOOD, "").is_empty());
    }
}
