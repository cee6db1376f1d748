//! CD208: a queue that may drop messages, with nowhere for them to go.

use crate::diagnose::view::Routes;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::Queue;
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static QUEUE_LIMITS: Rule = Rule {
    code: "CD208",
    name: "queue-limits",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "A queue of tasks has a time to live, a limit on its length, or an expiry, and no dead-letter \
                  exchange that leads anywhere. What passes the limit is dropped, and nothing tells of it.",
        cause: "The queue was declared with message_ttl, expires, max_length or max_length_bytes, or a policy sets \
                one of them on all queues. By default a full queue drops its oldest messages. With \
                overflow=reject-publish it refuses new ones, which no dead-letter exchange keeps: a sender without \
                confirms never learns of it, and one with confirms gets an error.",
        read: "The arguments and the effective policy of each queue by the management API, and where its dead-letter \
               exchange leads.",
        confirm: "Run `rabbitmqctl list_queues name arguments policy effective_policy_definition`.",
        mend: "Give the queue a dead-letter exchange by policy, with a queue bound to it: `rabbitmqctl set_policy`. \
               With overflow=reject-publish set confirm_publish in the senders' broker_transport_options, or (for \
               classic queues) overflow=reject-publish-dlx.",
        prevent: "Let no limit apply to task queues without a dead-letter exchange. Set `expires` on tasks rather than \
                  a time to live on queues: a worker then stores REVOKED as the result.",
        references: &[
            "https://www.rabbitmq.com/docs/ttl",
            "https://www.rabbitmq.com/docs/maxlength",
            "https://www.rabbitmq.com/docs/dlx",
        ],
    },
    needs: &[Source::Management, Source::Bindings],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let routes = Routes::of(evidence, rabbit);
    evidence
        .task_queues(rabbit)
        .filter_map(|queue| {
            let limits = limits(queue);
            let dropped = matches!(routes.dead_letters(queue), Ok(None));
            // What stands in a queue that expires goes with it, and what a full queue refuses never was in it,
            // dead-letter exchange or not.
            let kept_nowhere = queue.number("expires").is_some() || refuses(queue);
            (!limits.is_empty() && (dropped || kept_nowhere))
                .then(|| finding(rabbit, queue, &limits))
        })
        .collect()
}

/// Whether it refuses messages beyond a length.
fn refuses(queue: &Queue) -> bool {
    let lengths = ["max-length", "max-length-bytes"];
    queue.refuses_when_full() && lengths.iter().any(|limit| queue.number(limit).is_some())
}

/// The limits that can drop messages, in words.
fn limits(queue: &Queue) -> Vec<String> {
    let mut limits = Vec::new();
    let milliseconds = |number: i64| {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a time in milliseconds is far below 2^52"
        )]
        plain::duration(number as f64 / 1e3)
    };
    if let Some(ttl) = queue.number("message-ttl") {
        limits.push(format!("messages live for {}", milliseconds(ttl)));
    }
    // A full queue that rejects publishes loses them just as well: without confirms nobody learns of it.
    let then = if queue.refuses_when_full() {
        ", and refuses what comes then"
    } else {
        ""
    };
    if let Some(length) = queue.number("max-length") {
        limits.push(format!("it holds {length} messages at most{then}"));
    }
    if let Some(bytes) = queue.number("max-length-bytes") {
        limits.push(format!("it holds {bytes} bytes at most{then}"));
    }
    if let Some(expires) = queue.number("expires") {
        limits.push(format!(
            "it is deleted when unused for {}",
            milliseconds(expires)
        ));
    }
    limits
}

fn finding(rabbit: &RabbitMq, queue: &Queue, limits: &[String]) -> Finding {
    let name = queue.name.as_str();
    let mut finding = Finding::of(
        &QUEUE_LIMITS,
        format!(
            "queue {name} can drop tasks without a trace: {}",
            limits.join(", ")
        ),
    )
    .evidence("queue", name)
    .evidence("limits", limits.to_vec())
    .confirm(rabbit.list_queues())
    .confirm(rabbit.list_declarations())
    .remedy(if refuses(queue) {
        "set broker_transport_options = {'confirm_publish': True} where tasks are sent, so that a refusal is an error \
         there, or take the limit away: a dead-letter exchange keeps nothing of what is refused"
    } else {
        "give the queue a dead-letter exchange with a queue bound to it, or take the limit away"
    })
    .subject("queue", name);
    if let Some(ready) = queue.ready.seen() {
        finding = finding.evidence("messages", *ready);
    }
    if let Some(exchange) = queue.dead_letter_exchange() {
        finding = finding.evidence("dead_letter_exchange", exchange);
    }
    finding
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};

    #[test]
    fn a_limit_without_a_way_for_what_it_drops_is_found() {
        let limits = [
            ("x-message-ttl", 60_000),
            ("x-max-length", 10),
            ("x-expires", 60_000),
        ];
        for (name, value) in limits {
            let lab = Rabbit::new()
                .queue("celery", 0, 1)
                .argument(name, json!(value))
                .lab();
            assert_eq!(
                names(&lab.check(&QUEUE_LIMITS, "")),
                ["queue-limits"],
                "{name}"
            );
        }
    }

    #[test]
    fn a_limit_by_policy_is_found_too() {
        let lab = Rabbit::new()
            .queue("celery", 0, 1)
            .policy("max-length", json!(10))
            .lab();
        assert_eq!(names(&lab.check(&QUEUE_LIMITS, "")), ["queue-limits"]);
    }

    #[test]
    fn a_limit_whose_dead_letters_are_kept_is_clear() {
        let lab = Rabbit::new()
            .queue("dead", 0, 0)
            .queue("celery", 0, 1)
            .argument("x-max-length", json!(10))
            .argument("x-dead-letter-exchange", json!(""))
            .argument("x-dead-letter-routing-key", json!("dead"))
            .lab();
        assert!(lab.check(&QUEUE_LIMITS, "").is_empty());
    }

    #[test]
    fn what_a_full_queue_refuses_is_in_no_dead_letter_queue() {
        let found = |overflow: &str| {
            let lab = Rabbit::new()
                .queue("dead", 0, 0)
                .queue("celery", 0, 1)
                .policy("max-length", json!(10))
                .policy("overflow", json!(overflow))
                .policy("dead-letter-exchange", json!(""))
                .policy("dead-letter-routing-key", json!("dead"))
                .lab();
            lab.check(&QUEUE_LIMITS, "")
        };
        let refused = found("reject-publish");
        assert_eq!(names(&refused), ["queue-limits"]);
        assert!(refused[0].message.ends_with("refuses what comes then"));
        assert!(refused[0].remedy.contains("confirm_publish"));
        assert!(found("reject-publish-dlx").is_empty());
        assert!(found("drop-head").is_empty());
    }

    #[test]
    fn dead_letters_that_lead_nowhere_are_found() {
        let lab = Rabbit::new()
            .queue("celery", 0, 1)
            .argument("x-max-length", json!(10))
            .argument("x-dead-letter-exchange", json!("gone"))
            .lab();
        assert_eq!(names(&lab.check(&QUEUE_LIMITS, "")), ["queue-limits"]);
    }

    #[test]
    fn queues_without_limits_and_queues_of_celery_s_own_are_clear() {
        let lab = Rabbit::new()
            .queue("celery", 0, 1)
            .queue("w1@h.celery.pidbox", 0, 1)
            .argument("x-expires", json!(10_000))
            .lab();
        assert!(lab.check(&QUEUE_LIMITS, "").is_empty());
    }
}
