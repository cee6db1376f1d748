//! CD405: a quorum queue drops what was delivered too often.

use crate::diagnose::view::{Routes, numbers};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::rabbitmq::{Queue, QueueType, Role};
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static DELIVERY_LIMIT: Rule = Rule {
    code: "CD405",
    name: "delivery-limit",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "A quorum queue counts how often each message was delivered and not acknowledged, and drops one that \
                  passes the limit. There is no dead-letter exchange that would keep it.",
        cause: "RabbitMQ 4.0 and later set a limit of 20 on every quorum queue; before, the argument or policy \
                delivery-limit does. A worker that dies while it holds a message, and one that rejects it with \
                requeue, both count. So a task that kills its worker disappears after some rounds, with STARTED as \
                its last word.",
        read: "The type, arguments and effective policy of each queue, and where its dead-letter exchange leads, by the \
               management API. The limit that RabbitMQ 4 sets by itself is worth knowing and no warning. How often \
               messages were redelivered is counted from the broker's start, and looks with --peek count too.",
        confirm: "Run `rabbitmqctl list_queues name type arguments effective_policy_definition`. In the management \
                  interface the queue's page shows its delivery limit.",
        mend: "Give the queue a dead-letter exchange with a queue bound to it: `rabbitmqctl set_policy`.",
        prevent: "Keep a dead-letter exchange on every quorum queue for tasks. Do not set \
                  task_reject_on_worker_lost for tasks that can kill their worker.",
        references: &[
            "https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling",
            "rabbitmq-server pull request 11937",
            "celery issue 9082",
        ],
    },
    needs: &[Source::Management, Source::Bindings],
    check: Check::Deployment(check),
};

/// The limit that RabbitMQ 4.0 sets where nothing else does.
const DEFAULT_LIMIT: i64 = 20;

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let routes = Routes::of(evidence, rabbit);
    rabbit
        .queues_of(Role::Tasks)
        .filter(|queue| queue.kind.seen() == Some(&QueueType::Quorum))
        .filter(|queue| matches!(routes.dead_letters(queue), Ok(None)))
        .filter_map(|queue| Some(finding(rabbit, queue, limit(rabbit, queue)?)))
        .collect()
}

/// The limit, and whether somebody set it.
fn limit(rabbit: &RabbitMq, queue: &Queue) -> Option<(i64, bool)> {
    if let Some(limit) = queue.number("delivery-limit") {
        // From RabbitMQ 4.0 on -1 is no limit.
        return (limit >= 0).then_some((limit, true));
    }
    let (major, _, _) = numbers(rabbit.version.seen()?)?;
    (major >= 4).then_some((DEFAULT_LIMIT, false))
}

fn finding(rabbit: &RabbitMq, queue: &Queue, (limit, set): (i64, bool)) -> Finding {
    let name = queue.name.as_str();
    let redelivered = queue.redelivered.seen().copied().unwrap_or_default();
    let whose = if set { "" } else { ", RabbitMQ's default" };
    let mut finding = Finding::of(
        &DELIVERY_LIMIT,
        format!(
            "quorum queue {name} drops a task that was delivered {limit} times and not acknowledged{whose}, and \
             keeps no dead letters"
        ),
    )
    .evidence("queue", name)
    .evidence("delivery_limit", limit)
    .evidence("set", set)
    .evidence("redelivered", redelivered)
    .confirm(rabbit.list_queues())
    .remedy("give the queue a dead-letter exchange with a queue bound to it")
    .subject("queue", name);
    if !set {
        finding.severity = Severity::Info;
    }
    finding
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};
    use crate::evidence::Observed;

    #[test]
    fn a_limit_that_was_set_without_dead_letters_is_found() {
        let lab = Rabbit::new()
            .quorum("celery", 0, 1)
            .argument("x-delivery-limit", json!(3))
            .lab();
        let found = lab.check(&DELIVERY_LIMIT, "");
        assert_eq!(names(&found), ["delivery-limit"]);
        assert_eq!(found[0].severity, Severity::Warning);
    }

    #[test]
    fn the_default_of_rabbitmq_4_is_information() {
        let found = Rabbit::new()
            .version("4.0.5")
            .quorum("celery", 0, 1)
            .with(|queue| queue.redelivered = Observed::Seen(3))
            .lab()
            .check(&DELIVERY_LIMIT, "");
        assert_eq!(found[0].severity, Severity::Info);
        let old = Rabbit::new().version("3.10.8").quorum("celery", 0, 1).lab();
        assert!(old.check(&DELIVERY_LIMIT, "").is_empty());
    }

    #[test]
    fn with_dead_letters_and_without_a_limit_it_is_clear() {
        let kept = Rabbit::new()
            .queue("dead", 0, 0)
            .quorum("celery", 0, 1)
            .argument("x-delivery-limit", json!(3))
            .argument("x-dead-letter-exchange", json!(""))
            .argument("x-dead-letter-routing-key", json!("dead"));
        assert!(kept.lab().check(&DELIVERY_LIMIT, "").is_empty());
        let endless = Rabbit::new()
            .version("4.0.5")
            .quorum("celery", 0, 1)
            .argument("x-delivery-limit", json!(-1));
        assert!(endless.lab().check(&DELIVERY_LIMIT, "").is_empty());
        let classic = Rabbit::new()
            .queue("celery", 0, 1)
            .argument("x-delivery-limit", json!(3));
        assert!(classic.lab().check(&DELIVERY_LIMIT, "").is_empty());
    }
}
