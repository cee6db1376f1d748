//! CD208: a limit of a queue can drop its messages, and nothing takes them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::at;
use crate::diagnose::view::routing::Judged;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::routing::Routing;

/// The rule.
pub static QUEUE_LIMITS: Rule = Rule {
    code: "CD208",
    name: "queue-limits",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "A queue has a time to live, a length limit or an expiry, and no dead-letter exchange. RabbitMQ drops \
                  what exceeds the limit without a word.",
        cause: "x-message-ttl drops messages that wait too long, x-max-length and x-max-length-bytes the oldest ones of a \
                long queue, and x-expires the whole queue once it has had no consumer for so long: a night without \
                workers is enough.",
        read: "The arguments of the project's queues, and where the broker is known those that it has, with its policies.",
        confirm: "Run `rabbitmqctl list_queues name arguments policy`.",
        mend: "Give the queue an x-dead-letter-exchange, best by a policy, which needs no new queue.",
        prevent: "Let tasks expire by `expires`, which Celery reports, rather than by the queue.",
        references: &[
            "https://www.rabbitmq.com/docs/ttl",
            "https://www.rabbitmq.com/docs/maxlength",
            "https://www.rabbitmq.com/docs/dlx",
        ],
    },
    needs: &[],
    check: Check::Routing(check),
};

/// The arguments that drop messages.
const LIMITS: [&str; 4] = [
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-message-ttl",
];

fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    for app in &routing.apps {
        for queue in app.all_queues() {
            // Each consumer of a Broadcast has a queue of its own, which is meant to go away.
            if queue.broadcast {
                continue;
            }
            let Ok(ours) = &queue.arguments else {
                continue;
            };
            let mut arguments: BTreeMap<String, Value> = ours.iter().cloned().collect();
            let there = routing
                .broker
                .as_ref()
                .and_then(|broker| broker.queues.get(&queue.name));
            if let Some(policy) = there.and_then(|there| there.policy.as_ref()) {
                for (name, value) in policy {
                    arguments
                        .entry(format!("x-{name}"))
                        .or_insert_with(|| value.clone());
                }
            }
            let kept = arguments.contains_key("x-dead-letter-exchange");
            let refuses = arguments
                .get("x-overflow")
                .and_then(Value::as_str)
                .is_some_and(|overflow| overflow.starts_with("reject-publish"));
            let limits: Vec<&str> = LIMITS
                .into_iter()
                .filter(|name| {
                    arguments.contains_key(*name) && !(refuses && name.starts_with("x-max-length"))
                })
                .collect();
            if kept || limits.is_empty() {
                continue;
            }
            let place = queue.id.and_then(|id| app.queues.get(id)?.as_ref());
            let message = format!(
                "queue {} has {} and no dead-letter exchange: what exceeds it is dropped",
                queue.name,
                plain::names(&limits)
            );
            let finding = Finding::of(&QUEUE_LIMITS, message)
                .evidence("queue", queue.name.as_str())
                .evidence("limits", limits)
                .evidence("app", app.name.as_str())
                .remedy(format!(
                    "give queue {} an x-dead-letter-exchange, or take the limit away",
                    plain::key(&queue.name)
                ))
                .subject("queue", queue.name.as_str());
            judged.findings.push(at(finding, place));
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testkit::Project;
    use super::*;
    use crate::celery::routing::Queue;

    fn found(arguments: &[(&str, Value)]) -> Vec<String> {
        let arguments = arguments
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let queue = Queue {
            arguments: Ok(arguments.collect()),
            ..Queue::named("mail")
        };
        Project::new().queue(queue).found(&QUEUE_LIMITS)
    }

    #[test]
    fn a_limit_without_a_dead_letter_exchange_is_found() {
        assert_eq!(QUEUE_LIMITS.name, "queue-limits");
        assert_eq!(found(&[("x-message-ttl", json!(1000))]).len(), 1);
        assert!(found(&[("x-max-priority", json!(10))]).is_empty());
        assert!(
            found(&[
                ("x-message-ttl", json!(1)),
                ("x-dead-letter-exchange", json!("dlx"))
            ])
            .is_empty()
        );
        assert!(
            found(&[
                ("x-max-length", json!(1)),
                ("x-overflow", json!("reject-publish"))
            ])
            .is_empty()
        );
    }
}
