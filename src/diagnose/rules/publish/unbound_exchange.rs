//! CD108: a task exchange to which nothing is bound.

use std::collections::BTreeSet;

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::rabbitmq::is_own_exchange;
use crate::evidence::{Evidence, Source};

/// The rule.
pub static UNBOUND_EXCHANGE: Rule = Rule {
    code: "CD108",
    name: "unbound-exchange",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "An exchange that tasks are sent to has no binding at all: no queue and no other exchange takes \
                  anything from it. What is published there is dropped.",
        cause: "The exchange was declared by a sender, and the worker that binds a queue to it never ran in this \
                virtual host; or its queue was deleted, and its bindings went with it.",
        read: "The exchanges and the bindings of the virtual host by the management API. An exchange counts as one \
               for tasks where messages were published to it and it is no fanout exchange, or where a live worker's \
               route names it.",
        confirm: "Run `rabbitmqctl list_bindings source_name destination_name` and look for the exchange.",
        mend: "Start a worker that consumes a queue bound to this exchange.",
        prevent: "Route by `queue`, so that Celery declares and binds it each time it sends; or declare exchanges, \
                  queues and bindings together, in one place.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/routing.html"],
    },
    needs: &[Source::Management, Source::Bindings],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let (Some(exchanges), Some(bindings)) = (rabbit.exchanges.seen(), rabbit.bindings.seen())
    else {
        return Vec::new();
    };
    let bound: BTreeSet<&str> = bindings.iter().map(|b| b.source.as_str()).collect();
    let routed: BTreeSet<&str> = evidence
        .answered()
        .iter()
        .filter_map(|worker| worker.conf.seen()?.task_routes.as_deref())
        .flatten()
        .filter_map(|route| route.exchange.as_deref())
        .collect();
    exchanges
        .iter()
        .filter(|exchange| !exchange.name.is_empty() && !is_own_exchange(&exchange.name))
        .filter(|exchange| !bound.contains(exchange.name.as_str()) && exchange.alternate.is_none())
        .filter(|exchange| {
            // Who sends to a fanout exchange does not count on somebody who listens.
            let used = exchange.published_in.seen().is_some_and(|count| *count > 0);
            used && exchange.kind != "fanout" || routed.contains(exchange.name.as_str())
        })
        .map(|exchange| {
            let name = exchange.name.as_str();
            Finding::of(
                &UNBOUND_EXCHANGE,
                format!("nothing is bound to exchange {name}: what is sent there is dropped"),
            )
            .evidence("exchange", name)
            .evidence("type", exchange.kind.as_str())
            .evidence("named_by_a_route", routed.contains(name))
            .confirm(rabbit.list_bindings())
            .remedy(format!(
                "start a worker that consumes a queue bound to {name}, or take the route away"
            ))
            .subject("exchange", name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};

    #[test]
    fn an_exchange_in_use_without_a_binding_is_found() {
        let lab = Rabbit::new().exchange("orders", "topic", 1, 0).lab();
        assert_eq!(
            names(&lab.check(&UNBOUND_EXCHANGE, "")),
            ["unbound-exchange"]
        );
    }

    #[test]
    fn a_bound_exchange_and_one_that_nobody_uses_are_clear() {
        let bound = Rabbit::new()
            .exchange("orders", "topic", 1, 1)
            .bound("orders", "o.#", "celery");
        assert!(bound.lab().check(&UNBOUND_EXCHANGE, "").is_empty());
        let fanout = Rabbit::new().exchange("socketio", "fanout", 1, 0);
        assert!(fanout.lab().check(&UNBOUND_EXCHANGE, "").is_empty());
        let idle = Rabbit::new().exchange("orders", "topic", 0, 0);
        assert!(idle.lab().check(&UNBOUND_EXCHANGE, "").is_empty());
    }
}
