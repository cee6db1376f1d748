//! CD114: a queue that native delayed delivery can't reach.

use crate::diagnose::command::worker;
use crate::diagnose::view::{Route, Routes};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::{DELAYED_EXCHANGE, Queue, QueueType, Role};
use crate::evidence::{Evidence, Observed, RabbitMq, Source};

/// The rule.
pub static DELAYED_DELIVERY_UNBOUND: Rule = Rule {
    code: "CD114",
    name: "delayed-delivery-unbound",
    severity: Severity::Error,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "Tasks with an ETA or a countdown wait in RabbitMQ's queues of native delayed delivery, and a task \
                  queue is not bound to the exchange that hands them on. When the time of a task has come that is sent \
                  there with an ETA, it is not delivered: where the queues of delayed delivery are quorum queues, \
                  which is the default, RabbitMQ 3.10 and later keep it inside the last of them, and try again every \
                  few minutes; else it is dropped.",
        cause: "With quorum queues Celery sends tasks that have an ETA through the exchanges celery_delayed_27 to \
                celery_delayed_0 and then celery_delayed_delivery. Only a worker binds its queues to the last one, \
                when it starts. A queue that only a sender has declared is not bound.",
        read: "The bindings of the virtual host by the management API: whether celery_delayed_delivery leads to the \
               queue by the queue's routing key. It is asked of quorum queues for tasks while messages wait in the \
               queues of delayed delivery, or are held inside them (messages_dlx), where nobody can look.",
        confirm: "Run `rabbitmqctl list_bindings source_name routing_key destination_name` and look for \
                  celery_delayed_delivery: it needs a binding `#.ROUTING_KEY` for the queue.",
        mend: "Start a worker that consumes the queue, or restart one: it binds the queue when it starts. What is held \
               inside is then delivered within some minutes. Don't send the task again before: it would run twice.",
        prevent: "Consume every queue that tasks with an ETA are sent to. Upgrade to Celery 5.6.3 or later, where a \
                  retry of such a task is no longer dropped.",
        references: &[
            "celery issues 9960, 9912, 9867",
            "kombu 5.7 transport/native_delayed_delivery.py",
        ],
    },
    needs: &[Source::Management, Source::Bindings],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let sum = |count: fn(&Queue) -> &Observed<u64>| {
        let queues = rabbit.queues_of(Role::Delayed);
        queues.filter_map(|queue| count(queue).seen()).sum::<u64>()
    };
    let mut delayed = Delayed {
        waiting: sum(|queue| &queue.ready),
        held: sum(|queue| &queue.held_dead_letters),
        inside: Vec::new(),
        are_kept: rabbit
            .queues_of(Role::Delayed)
            .all(Queue::keeps_dead_letters),
    };
    if delayed.waiting + delayed.held == 0 || rabbit.bindings.seen().is_none() {
        return Vec::new();
    }
    let holds = |queue: &&Queue| queue.held_dead_letters.seen().is_some_and(|held| *held > 0);
    let inside = rabbit.queues_of(Role::Delayed).filter(holds);
    delayed.inside = inside.map(|queue| queue.name.clone()).collect();
    let routes = Routes::of(evidence, rabbit);
    evidence
        .task_queues(rabbit)
        .filter(|queue| queue.kind.seen() == Some(&QueueType::Quorum))
        .filter(|queue| !is_reached(&routes, rabbit, queue))
        .map(|queue| finding(rabbit, queue, &delayed))
        .collect()
}

/// What the queues of delayed delivery have.
struct Delayed {
    /// Messages whose time has not come.
    waiting: u64,
    /// Messages whose time has come and that nothing took.
    held: u64,
    /// The queues that hold those inside.
    inside: Vec<String>,
    /// Whether what nothing takes is kept inside, and not dropped.
    are_kept: bool,
}

/// Whether delayed delivery leads to a queue: by the queue's name, or by a key with which another exchange leads to it.
fn is_reached(routes: &Routes<'_>, rabbit: &RabbitMq, queue: &Queue) -> bool {
    let bound = rabbit.bindings.seen().into_iter().flatten();
    let keys = bound
        .filter(|b| {
            !b.to_exchange && b.destination == queue.name && !b.source.ends_with(DELAYED_EXCHANGE)
        })
        .map(|b| b.routing_key.as_str());
    keys.chain([queue.name.as_str()])
        .any(|key| match routes.delayed(key) {
            Route::Queues(queues) => queues.contains(&queue.name),
            Route::Unknown(_) => true,
            Route::Nowhere => false,
        })
}

fn finding(rabbit: &RabbitMq, queue: &Queue, delayed: &Delayed) -> Finding {
    let name = queue.name.as_str();
    let mut there = Vec::new();
    if delayed.waiting > 0 {
        let then = if delayed.are_kept {
            "will not be delivered before it is"
        } else {
            "will be dropped"
        };
        there.push(format!(
            "while {} for an ETA: one that is for this queue {then}",
            plain::waiting(delayed.waiting)
        ));
    }
    if delayed.held > 0 {
        let (are, their) = if delayed.held == 1 {
            ("is", "its")
        } else {
            ("are", "their")
        };
        there.push(format!(
            "and {} {are} held inside {}, {their} ETA past: what of it is for this queue is kept there until it is \
             bound",
            plain::count(delayed.held, "message"),
            plain::names(&delayed.inside)
        ));
    }
    let remedy = if delayed.held > 0 {
        "start a worker on this queue, or restart the one that consumes it, which binds it; RabbitMQ then delivers what \
         it holds within some minutes, so do not send the task again"
    } else {
        "before the ETA comes, start a worker on this queue, which binds it"
    };
    Finding::of(
        &DELAYED_DELIVERY_UNBOUND,
        format!(
            "queue {name} is not bound to {DELAYED_EXCHANGE}, {}",
            there.join(", ")
        ),
    )
    .evidence("queue", name)
    .evidence("delayed_messages", delayed.waiting)
    .evidence("held_inside", delayed.held)
    .confirm(rabbit.list_bindings())
    .confirm(rabbit.list_queues())
    .remedy(remedy)
    .mend(worker(name))
    .subject("queue", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};

    fn delayed(lab: Rabbit) -> Rabbit {
        lab.quorum("celery", 0, 1)
            .quorum("celery_delayed_9", 1, 0)
            .exchange(DELAYED_EXCHANGE, "topic", 0, 0)
    }

    #[test]
    fn a_queue_that_delayed_delivery_does_not_reach_is_found() {
        let lab = delayed(Rabbit::new()).lab();
        assert_eq!(
            names(&lab.check(&DELAYED_DELIVERY_UNBOUND, "")),
            ["delayed-delivery-unbound"]
        );
    }

    #[test]
    fn what_is_held_inside_is_not_called_dropped() {
        let held = |bound: bool| {
            let rabbit = Rabbit::new()
                .quorum("celery", 0, 1)
                .quorum("celery_delayed_0", 0, 0)
                .argument("x-overflow", "reject-publish".into())
                .argument("x-dead-letter-strategy", "at-least-once".into())
                .with(|queue| queue.held_dead_letters = Observed::Seen(1))
                .exchange(DELAYED_EXCHANGE, "topic", 0, 0);
            let rabbit = if bound {
                rabbit.bound(DELAYED_EXCHANGE, "#.celery", "celery")
            } else {
                rabbit
            };
            rabbit.lab().check(&DELAYED_DELIVERY_UNBOUND, "")
        };
        let found = held(false);
        assert_eq!(names(&found), ["delayed-delivery-unbound"]);
        let message = &found[0].message;
        assert!(
            message.contains("1 message is held inside celery_delayed_0")
                && !message.contains("dropped"),
            "{message}"
        );
        assert!(held(true).is_empty());
    }

    #[test]
    fn a_bound_queue_is_clear() {
        let lab = delayed(Rabbit::new())
            .bound(DELAYED_EXCHANGE, "#.celery", "celery")
            .lab();
        assert!(lab.check(&DELAYED_DELIVERY_UNBOUND, "").is_empty());
    }

    #[test]
    fn a_queue_that_is_bound_under_a_prefix_is_clear() {
        let lab = Rabbit::new()
            .quorum("celery", 0, 1)
            .quorum("shop_celery_delayed_9", 1, 0)
            .exchange("shop_celery_delayed_delivery", "topic", 0, 0)
            .bound("shop_celery_delayed_delivery", "#.celery", "celery")
            .lab();
        assert!(lab.check(&DELAYED_DELIVERY_UNBOUND, "").is_empty());
    }

    #[test]
    fn without_delayed_messages_nothing_is_said() {
        let lab = Rabbit::new().quorum("celery", 0, 1).lab();
        assert!(lab.check(&DELAYED_DELIVERY_UNBOUND, "").is_empty());
    }
}
