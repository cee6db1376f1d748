//! CD108: an exchange of the project to which the broker has nothing bound.

use super::at;
use crate::diagnose::view::routing::Judged;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::routing::Routing;

/// The rule.
pub static UNBOUND_EXCHANGE: Rule = Rule {
    code: "CD108",
    name: "unbound-exchange",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "An exchange through which the project sends tasks exists in the broker, and nothing is bound to it. \
                  Until a worker binds a queue, what is sent by exchange and routing key alone is dropped.",
        cause: "A queue is bound when a worker that consumes it starts, or when a task is sent to it by name. An \
                exchange that was declared, and whose queues were deleted or never declared, stands alone.",
        read: "The exchanges that the project's queues name, held against the broker's: its definitions, a snapshot, or \
               the broker itself.",
        confirm: "Run `rabbitmqctl list_bindings source_name destination_name routing_key` and look for the exchange.",
        mend: "Start a worker that consumes a queue of this exchange.",
        prevent: "Route by queue: Celery then declares and binds the queue each time it sends.",
        references: &[
            "https://docs.celeryq.dev/en/stable/userguide/routing.html#exchanges-queues-and-routing-keys",
        ],
    },
    needs: &[],
    check: Check::Routing(check),
};

fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    let Some(broker) = routing.broker.as_ref().filter(|broker| broker.whole) else {
        judged.missing = Some(
            "broker: its bindings are not known; --definitions or --live gives them".to_owned(),
        );
        return judged;
    };
    for app in &routing.apps {
        let mut seen = std::collections::BTreeSet::new();
        for queue in app.config.table().declared().iter().flatten() {
            for (exchange, _) in queue.bound_by() {
                let name = exchange.name.as_str();
                let bound = broker.bindings.iter().any(|binding| binding.source == name);
                // A message to a queue with a direct exchange goes through the default exchange.
                let used = exchange.kind != "direct";
                if used
                    && !bound
                    && broker.exchanges.contains_key(name)
                    && seen.insert(name.to_owned())
                {
                    let message = format!("nothing is bound to exchange {name} in the broker");
                    let place = queue.id.and_then(|id| app.queues.get(id)?.as_ref());
                    let finding = Finding::of(&UNBOUND_EXCHANGE, message)
                        .evidence("exchange", name)
                        .evidence("source", broker.source.as_str())
                        .evidence("app", app.name.as_str())
                        .remedy(format!(
                            "start a worker with -Q {}: it binds the queue",
                            plain::key(&queue.name)
                        ))
                        .subject("exchange", name);
                    judged.findings.push(at(finding, place));
                }
            }
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Project;
    use super::*;
    use crate::celery::routing::{Exchange, Queue};
    use crate::evidence::routing::BrokerFacts;

    #[test]
    fn an_exchange_without_bindings_is_found() {
        assert_eq!(UNBOUND_EXCHANGE.name, "unbound-exchange");
        let queue = Queue {
            exchange: Exchange {
                name: "media".to_owned(),
                kind: "topic".to_owned(),
            },
            ..Queue::named("videos")
        };
        let mut project = Project::new().queue(queue);
        let judged = project.judged(&UNBOUND_EXCHANGE);
        assert!(judged.findings.is_empty() && judged.missing.is_some());
        project.routing.broker = Some(BrokerFacts {
            whole: true,
            exchanges: [("media".to_owned(), "topic".to_owned())].into(),
            ..BrokerFacts::default()
        });
        assert_eq!(project.found(&UNBOUND_EXCHANGE).len(), 1);
        if let Some(broker) = &mut project.routing.broker {
            broker.exchanges.clear();
        }
        assert!(project.found(&UNBOUND_EXCHANGE).is_empty());
    }
}
