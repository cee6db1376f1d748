//! CD113: a queue is declared with arguments other than those that it has.

use std::collections::BTreeMap;

use serde_json::Value;

use super::at;
use crate::celery::routing::{Gap, Queue};
use crate::diagnose::command::Command;
use crate::diagnose::view::routing::Judged;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::routing::{QueueFacts, Routing};

/// The rule.
pub static QUEUE_ARGUMENTS_CONFLICT: Rule = Rule {
    code: "CD113",
    name: "queue-arguments-conflict",
    severity: Severity::Error,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "The project declares a queue with arguments that differ from those that it has in RabbitMQ. The \
                  declaration is refused with 406 PRECONDITION_FAILED: a worker can't start on it, and sending to it \
                  fails.",
        cause: "RabbitMQ never changes the arguments of a queue. When x-queue-type, x-max-priority, a limit or \
                durability is changed in the settings, the old queue has to be deleted first.",
        read: "The queues of the project's settings with their arguments, and those of the broker: its definitions, a \
               snapshot, or the broker itself.",
        confirm: "Run `rabbitmqctl list_queues name durable auto_delete arguments`.",
        mend: "Set the arguments back, or drain the queue, delete it, and let a worker declare it anew.",
        prevent: "Set limits by a policy, which can be changed at any time, and give a queue with new arguments a new \
                  name.",
        references: &[
            "celery issue 8260",
            "https://www.rabbitmq.com/docs/queues#property-equivalence",
        ],
    },
    needs: &[],
    check: Check::Routing(check),
};

/// The arguments that RabbitMQ compares (`rabbit_amqqueue`, `assert_args_equivalence`).
const COMPARED: [&str; 12] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-delivery-limit",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-queue-mode",
    "x-queue-type",
    "x-single-active-consumer",
];

const TYPE: &str = "x-queue-type";

fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    let Some(broker) = &routing.broker else {
        judged.missing =
            Some("broker: its queues are not known; --definitions or --live gives them".to_owned());
        return judged;
    };
    for app in &routing.apps {
        for queue in app.all_queues() {
            let Some(there) = broker.queues.get(&queue.name) else {
                continue;
            };
            let differences = differences(&queue, there, &mut judged);
            if let Some(kind) = type_by_default(&queue, there) {
                judged.unknown(&Gap {
                    why: format!(
                        "queue {} has x-queue-type {kind} there, which the virtual host's default may have given it",
                        queue.name
                    ),
                    file: broker.source.clone(),
                    line: 0,
                });
            }
            if differences.is_empty() {
                continue;
            }
            let place = queue.id.and_then(|id| app.queues.get(id)?.as_ref());
            let message = format!(
                "queue {} is declared with {}: RabbitMQ refuses the declaration",
                queue.name,
                differences.join(", ")
            );
            let finding = Finding::of(&QUEUE_ARGUMENTS_CONFLICT, message)
                .evidence("queue", queue.name.as_str())
                .evidence("differences", differences)
                .evidence("source", broker.source.as_str())
                .evidence("app", app.name.as_str())
                .confirm(Command::of("rabbitmqctl list_queues name durable auto_delete arguments"))
                .remedy(format!(
                    "declare queue {} as it is, or drain and delete it before the change is deployed",
                    plain::key(&queue.name)
                ))
                .subject("queue", queue.name.as_str());
            judged.findings.push(at(finding, place));
        }
    }
    judged
}

/// What differs, as `x-max-priority 10 (the broker has none)`.
fn differences(queue: &Queue, there: &QueueFacts, judged: &mut Judged) -> Vec<String> {
    let mut all = Vec::new();
    for (name, ours, theirs) in [
        ("durable", &queue.durable, there.durable),
        ("auto_delete", &queue.auto_delete, there.auto_delete),
    ] {
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) if *ours != theirs => {
                all.push(format!("{name} {ours} (the broker has {theirs})"));
            }
            (Err(gap), Some(_)) => judged.unknown(gap),
            _ => {}
        }
    }
    let (ours, theirs) = match (&queue.arguments, &there.arguments) {
        (Ok(ours), Some(theirs)) => (ours, theirs),
        (Err(gap), Some(_)) => {
            judged.unknown(gap);
            return all;
        }
        (_, None) => return all,
    };
    let ours: BTreeMap<&str, &Value> = ours
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    for name in COMPARED {
        let (mine, other) = (ours.get(name).copied(), theirs.get(name));
        // Null stands for an argument that is unknown.
        if mine == Some(&Value::Null) || same(name, mine, other) {
            continue;
        }
        let word = |value: Option<&Value>| {
            value.map_or("none".to_owned(), |value| {
                value.to_string().replace('"', "")
            })
        };
        all.push(match mine {
            Some(_) => format!("{name} {} (the broker has {})", word(mine), word(other)),
            None => format!("no {name} (the broker has {})", word(other)),
        });
    }
    all
}

/// The type of a queue that the broker has with one and we declare without: where that is the default type of the
/// virtual host, RabbitMQ adds it to a declaration before it compares (RabbitMQ 3.10 to 4.1 `rabbit_channel.erl`,
/// `augment_declare_args`).
fn type_by_default<'q>(queue: &Queue, there: &'q QueueFacts) -> Option<&'q str> {
    let ours = queue.arguments.as_ref().ok()?;
    let theirs = there.arguments.as_ref()?.get(TYPE)?.as_str()?;
    let untold = ours.iter().all(|(name, _)| name != TYPE);
    (untold && theirs != "classic").then_some(theirs)
}

fn same(name: &str, ours: Option<&Value>, theirs: Option<&Value>) -> bool {
    match (ours, theirs) {
        (Some(a), Some(b)) => a == b || (a.as_f64().is_some() && a.as_f64() == b.as_f64()),
        (None, None) => true,
        (None, Some(_)) => name == TYPE,
        // A queue of the default type may or may not have been given it by name.
        (Some(one), None) => name == TYPE && one == "classic",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testkit::{Project, gap};
    use super::*;
    use crate::evidence::routing::BrokerFacts;

    fn project(ours: &[(&str, Value)], theirs: &[(&str, Value)]) -> Project {
        let own = |pair: &(&str, Value)| (pair.0.to_owned(), pair.1.clone());
        let queue = Queue {
            arguments: Ok(ours.iter().map(own).collect()),
            ..Queue::named("mail")
        };
        let mut project = Project::new().queue(queue);
        let facts = QueueFacts {
            durable: Some(true),
            arguments: Some(theirs.iter().map(own).collect()),
            ..QueueFacts::default()
        };
        project.routing.broker = Some(BrokerFacts {
            queues: [("mail".to_owned(), facts)].into(),
            ..BrokerFacts::default()
        });
        project
    }

    #[test]
    fn arguments_that_differ_are_found() {
        assert_eq!(QUEUE_ARGUMENTS_CONFLICT.name, "queue-arguments-conflict");
        let found = project(&[("x-max-priority", json!(10))], &[]).found(&QUEUE_ARGUMENTS_CONFLICT);
        assert!(
            found[0].contains("x-max-priority 10 (the broker has none)"),
            "{found:?}"
        );
        let classic = [("x-queue-type", json!("classic"))];
        let found = project(&[("x-queue-type", json!("quorum"))], &classic)
            .found(&QUEUE_ARGUMENTS_CONFLICT);
        assert!(
            found[0].contains("x-queue-type quorum (the broker has classic)"),
            "{found:?}"
        );
        let found = project(&[], &[("x-expires", json!(1000))]).found(&QUEUE_ARGUMENTS_CONFLICT);
        assert!(
            found[0].contains("no x-expires (the broker has 1000)"),
            "{found:?}"
        );
    }

    #[test]
    fn a_type_that_may_be_the_virtual_host_s_default_is_unknown() {
        let quorum = [("x-queue-type", json!("quorum"))];
        let judged = project(&[], &quorum).judged(&QUEUE_ARGUMENTS_CONFLICT);
        assert!(judged.findings.is_empty());
        assert!(
            judged.unknown[0].why.contains("quorum"),
            "{:?}",
            judged.unknown
        );
    }

    #[test]
    fn equivalent_arguments_are_clear() {
        for (ours, theirs) in [
            (
                vec![("x-expires", json!(1000))],
                vec![("x-expires", json!(1000.0))],
            ),
            (vec![], vec![("x-queue-type", json!("classic"))]),
            (vec![("x-max-priority", Value::Null)], vec![]),
        ] {
            assert!(
                project(&ours, &theirs)
                    .found(&QUEUE_ARGUMENTS_CONFLICT)
                    .is_empty()
            );
        }
        let mut project = project(&[], &[("x-max-priority", json!(3))]);
        if let Ok(queues) = &mut project.app().config.queues {
            queues[0].arguments = Err(gap("a variable"));
        }
        let judged = project.judged(&QUEUE_ARGUMENTS_CONFLICT);
        assert!(judged.findings.is_empty() && judged.unknown == [gap("a variable")]);
    }
}
