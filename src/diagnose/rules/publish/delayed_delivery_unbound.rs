//! CD114: a queue that native delayed delivery can't reach.

use crate::diagnose::view::{Route, Routes, queues_command};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::{DELAYED_EXCHANGE, Queue, QueueType, Role};
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static DELAYED_DELIVERY_UNBOUND: Rule = Rule {
    code: "CD114",
    name: "delayed-delivery-unbound",
    severity: Severity::Error,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "Tasks with an ETA or a countdown wait in RabbitMQ's queues of native delayed delivery, and a task \
                  queue is not bound to the exchange that hands them on. A task that is sent there with an ETA is \
                  dropped when its time has come.",
        cause: "With quorum queues Celery sends tasks that have an ETA through the exchanges celery_delayed_27 to \
                celery_delayed_0 and then celery_delayed_delivery. Only a worker binds its queues to the last one, \
                when it starts. A queue that only a sender has declared is not bound.",
        read: "The bindings of the virtual host by the management API: whether celery_delayed_delivery leads to the \
               queue by the queue's routing key. It is asked of quorum queues for tasks while messages wait in the \
               queues of delayed delivery.",
        confirm: "Run `rabbitmqctl list_bindings source_name routing_key destination_name` and look for \
                  celery_delayed_delivery: it needs a binding `#.ROUTING_KEY` for the queue.",
        mend: "Start a worker that consumes the queue: it binds it. Do so before the ETA comes.",
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
    let waiting: u64 = rabbit
        .queues_of(Role::Delayed)
        .filter_map(|queue| queue.ready.seen())
        .sum();
    if waiting == 0 || rabbit.bindings.seen().is_none() {
        return Vec::new();
    }
    let routes = Routes::of(evidence, rabbit);
    evidence
        .task_queues(rabbit)
        .filter(|queue| queue.kind.seen() == Some(&QueueType::Quorum))
        .filter(|queue| !is_reached(&routes, rabbit, queue))
        .map(|queue| finding(rabbit, queue, waiting))
        .collect()
}

/// Whether delayed delivery leads to a queue: by the queue's name, or by a key with which another exchange leads to it.
fn is_reached(routes: &Routes<'_>, rabbit: &RabbitMq, queue: &Queue) -> bool {
    let bound = rabbit.bindings.seen().into_iter().flatten();
    let keys = bound
        .filter(|b| !b.to_exchange && b.destination == queue.name && b.source != DELAYED_EXCHANGE)
        .map(|b| b.routing_key.as_str());
    keys.chain([queue.name.as_str()])
        .any(|key| match routes.delayed(key) {
            Route::Queues(queues) => queues.contains(&queue.name),
            Route::Unknown(_) => true,
            Route::Nowhere => false,
        })
}

fn finding(rabbit: &RabbitMq, queue: &Queue, waiting: u64) -> Finding {
    let name = queue.name.as_str();
    Finding::of(
        &DELAYED_DELIVERY_UNBOUND,
        format!(
            "queue {name} is not bound to {DELAYED_EXCHANGE}, while {} for an ETA: one that is for this queue will \
             be dropped",
            plain::waiting(waiting)
        ),
    )
    .evidence("queue", name)
    .evidence("delayed_messages", waiting)
    .confirm(format!(
        "rabbitmqctl -p {} list_bindings source_name routing_key destination_name",
        plain::key(&rabbit.vhost)
    ))
    .confirm(queues_command(rabbit))
    .remedy(format!("start a worker with `-Q {name}`, which binds it, before the ETA comes"))
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
    fn a_bound_queue_is_clear() {
        let lab = delayed(Rabbit::new())
            .bound(DELAYED_EXCHANGE, "#.celery", "celery")
            .lab();
        assert!(lab.check(&DELAYED_DELIVERY_UNBOUND, "").is_empty());
    }

    #[test]
    fn without_delayed_messages_nothing_is_said() {
        let lab = Rabbit::new().quorum("celery", 0, 1).lab();
        assert!(lab.check(&DELAYED_DELIVERY_UNBOUND, "").is_empty());
    }
}
