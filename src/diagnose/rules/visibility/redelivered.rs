//! CD304: the message has been restored at least once.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity};
use crate::evidence::Source;

/// The rule.
pub static REDELIVERED: Rule = Rule {
    code: "CD304",
    name: "redelivered",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The message carries the mark of a message that was delivered before and put back. The task may \
                  have begun to run, or have run, before.",
        cause: "kombu marks a message when it restores it: because the visibility timeout had passed, because a \
                worker stopped and gave back what it held, because its connection broke, or because the task was \
                rejected with requeue. RabbitMQ marks whatever it delivered before, to a worker or to somebody who \
                looked into the queue, as --peek does.",
        read: "The header `redelivered` of the message, and what the worker that holds it says of its delivery. \
               kombu before 5.2.4 does not set the mark in the headers.",
        confirm: "Look in the workers' logs for `received` with this id, more than once.",
        mend: "Nothing needs to be done for the mark itself. If the task must not run twice, see whether it did.",
        prevent: "Make tasks idempotent: Celery promises at least one delivery, not exactly one.",
        references: &[
            "kombu 5.7 transport/redis.py, _do_restore_message",
            "kombu issue 1484",
        ],
    },
    needs: &[Source::Queues, Source::Unacked],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let copies = case
        .task
        .copies
        .iter()
        .map(|copy| copy.envelope.redelivered);
    let claims = case.task.claims.iter().map(|claim| claim.claim.redelivered);
    if !copies.chain(claims).any(|redelivered| redelivered) {
        return Vec::new();
    }
    let message = if case.evidence.rabbitmq.is_some() {
        "it was delivered before, to a worker or to somebody who looked into its queue: where it was a worker, it may \
         run, or have run, a second time"
    } else {
        "it was delivered before and put back at least once: it may run, or have run, a second time"
    };
    vec![
        Finding::of(&REDELIVERED, message)
            .evidence("redelivered", true)
            .remedy("none needed; see that the task may run twice")
            .subject("task", case.name().unwrap_or("unknown"))
            .task(case.id),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::celery::message::Envelope;
    use crate::diagnose::testkit::{Lab, envelope, names};
    use crate::evidence::Reason;

    #[test]
    fn a_marked_message_is_found() {
        let message = Envelope {
            redelivered: true,
            ..envelope("t1")
        };
        let lab = Lab::new().queued_as("celery", message);
        assert_eq!(names(&lab.check(&REDELIVERED, "t1")), ["redelivered"]);
    }

    #[test]
    fn a_worker_that_says_so_is_believed() {
        let mut lab = Lab::new()
            .worker("w1", &["celery"])
            .claimed("t1", "w1", ClaimState::Active);
        lab.task("t1").claims[0].claim.redelivered = true;
        assert_eq!(names(&lab.check(&REDELIVERED, "t1")), ["redelivered"]);
    }

    #[test]
    fn a_first_delivery_is_clear() {
        let lab = Lab::new().queued("t1", "celery");
        assert!(lab.check(&REDELIVERED, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_of_what_was_not_read() {
        let lab = Lab::new()
            .absent("t1")
            .unread(Source::Queues, Reason::Refused);
        assert!(lab.check(&REDELIVERED, "t1").is_empty());
    }
}
