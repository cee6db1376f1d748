//! CD605: tasks that a restart of the broker loses.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::rabbitmq::{Queue, QueueType};
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static TRANSIENT_QUEUE: Rule = Rule {
    code: "CD605",
    name: "transient-queue",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "Tasks wait in a queue that is not durable, or were sent as transient messages. When the broker \
                  restarts, they are gone.",
        cause: "The queue was declared with durable=False, or the tasks are sent with delivery_mode=1, for example by \
                task_default_delivery_mode = 'transient' or by a queue's own setting.",
        read: "The queues by the management API: whether each is durable, and how many of its messages are \
               persistent.",
        confirm: "Run `rabbitmqctl list_queues name durable messages messages_persistent`.",
        mend: "Declare the queue as durable: a queue's kind can't be changed, so drain it, delete it, and let a worker \
               declare it anew.",
        prevent: "Leave durable and delivery_mode at Celery's defaults.",
        references: &["https://www.rabbitmq.com/docs/queues#durability"],
    },
    needs: &[Source::Management],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    evidence
        .task_queues(rabbit)
        .filter(|queue| queue.exclusive.seen() != Some(&true))
        .filter_map(|queue| Some(finding(rabbit, queue, &what(queue)?)))
        .collect()
}

/// What a restart loses.
fn what(queue: &Queue) -> Option<String> {
    let some = |count: Option<&u64>| count.is_some_and(|count| *count > 0);
    let holds_some = some(queue.ready.seen()) || some(queue.unacknowledged.seen());
    if queue.durable.seen() == Some(&false) {
        return holds_some.then(|| "it is not durable".to_owned());
    }
    // Quorum queues write every message to disk.
    if queue.kind.seen() != Some(&QueueType::Classic) {
        return None;
    }
    let (persistent, ready) = (queue.persistent.seen()?, queue.ready.seen()?);
    let all = ready.saturating_add(*queue.unacknowledged.seen()?);
    // The numbers come from different moments: only what can't be a delay counts.
    (*persistent == 0 && *ready > 0).then(|| format!("of its {all} messages none is persistent"))
}

fn finding(rabbit: &RabbitMq, queue: &Queue, what: &str) -> Finding {
    let name = queue.name.as_str();
    let mut finding = Finding::of(
        &TRANSIENT_QUEUE,
        format!("a restart of the broker loses the tasks in queue {name}: {what}"),
    )
    .evidence("queue", name)
    .confirm(rabbit.list_queues())
    .remedy("declare the queue as durable and send persistent messages, as Celery does by default")
    .subject("queue", name);
    if let Some(durable) = queue.durable.seen() {
        finding = finding.evidence("durable", *durable);
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};
    use crate::evidence::Observed;

    #[test]
    fn a_queue_that_is_not_durable_is_found() {
        let lab = Rabbit::new()
            .queue("celery", 3, 0)
            .with(|q| q.durable = Observed::Seen(false));
        assert_eq!(
            names(&lab.lab().check(&TRANSIENT_QUEUE, "")),
            ["transient-queue"]
        );
        let empty = Rabbit::new()
            .queue("celery", 0, 0)
            .with(|q| q.durable = Observed::Seen(false));
        assert!(empty.lab().check(&TRANSIENT_QUEUE, "").is_empty());
    }

    #[test]
    fn a_queue_that_only_another_program_consumes_is_clear() {
        let lab = |queue| {
            let lab = Rabbit::new().queue(queue, 3, 1);
            let lab = lab.with(|q| q.durable = Observed::Seen(false)).lab();
            lab.worker("w1", &["celery"])
        };
        assert_eq!(lab("celery").check(&TRANSIENT_QUEUE, "").len(), 1);
        assert!(lab("socketio.1").check(&TRANSIENT_QUEUE, "").is_empty());
    }

    #[test]
    fn transient_messages_in_a_durable_queue_are_found() {
        let lab = Rabbit::new()
            .queue("celery", 3, 0)
            .with(|q| q.persistent = Observed::Seen(0));
        assert_eq!(
            names(&lab.lab().check(&TRANSIENT_QUEUE, "")),
            ["transient-queue"]
        );
    }

    #[test]
    fn a_durable_queue_with_persistent_messages_is_clear() {
        assert!(
            Rabbit::new()
                .queue("celery", 3, 1)
                .lab()
                .check(&TRANSIENT_QUEUE, "")
                .is_empty()
        );
    }

    #[test]
    fn what_the_statistics_do_not_tell_is_clear() {
        let lab = Rabbit::new()
            .queue("celery", 3, 1)
            .with(|q| q.persistent = Observed::not_asked("a test"));
        assert!(lab.lab().check(&TRANSIENT_QUEUE, "").is_empty());
    }
}
