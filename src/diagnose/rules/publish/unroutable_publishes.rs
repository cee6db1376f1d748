//! CD107: RabbitMQ counts publishes that it dropped, because no queue was bound for them.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::Exchange;
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static UNROUTABLE_PUBLISHES: Rule = Rule {
    code: "CD107",
    name: "unroutable-publishes",
    severity: Severity::Error,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "Messages were published to an exchange, and none of them reached a queue. RabbitMQ dropped them \
                  without a word, and apply_async returned an id for each as if all were well.",
        cause: "The task was sent with `exchange=` and `routing_key=`, by a route or by hand, and no queue is bound \
                to that exchange with a matching key: the worker that would bind it never ran, or the key is \
                misspelt. Publisher confirms do not help: RabbitMQ confirms what it drops. Only `mandatory` \
                publishes are returned.",
        read: "The statistics of the management API: for each exchange how many messages came in and how many copies \
               went out to queues, and how many publishes the node dropped. Exchanges that Celery uses for events \
               and remote control are left out, and so are fanout exchanges, because nobody need listen there; and those \
               of a plugin's type, which may send on later.",
        confirm: "Run `rabbitmqctl list_bindings source_name routing_key destination_name` and look for the \
                  exchange. In the management interface the exchange's page shows publishes in and none out.",
        mend: "Bind a queue: start a worker that declares it with this exchange and routing key. What was dropped is \
               gone and has to be sent again.",
        prevent: "Route by `queue`, so that Celery declares and binds it each time it sends. Set the transport options \
                  confirm_publish and mandatory both, so that a publish that no queue takes is an error; or give the \
                  exchange an alternate exchange by policy.",
        references: &[
            "https://www.rabbitmq.com/docs/publishers#unroutable",
            "kombu issue 572",
        ],
    },
    needs: &[Source::Management],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let exchanges = rabbit.exchanges.seen().into_iter().flatten();
    exchanges
        .filter(|exchange| exchange.should_hand_on())
        .filter_map(|exchange| Some((exchange, swallowed(rabbit, exchange)?)))
        .map(|(exchange, count)| finding(evidence, rabbit, exchange, count))
        .collect()
}

/// How many messages came into an exchange of which none went out: the statistics leave the second number out while it is
/// nothing. Where something is bound they may not be counted yet, so that the numbers must have settled, and the node's own
/// count of dropped publishes must have room for all. Where some went out the difference proves nothing: the two are counted at different moments.
fn swallowed(rabbit: &RabbitMq, exchange: &Exchange) -> Option<u64> {
    let came = *exchange.published_in.seen()?;
    let went = exchange.published_out.seen().copied().unwrap_or_default();
    let mut bindings = rabbit.bindings.seen()?.iter();
    let bound = bindings.any(|binding| binding.source == exchange.name);
    let dropped = rabbit
        .overview
        .seen()
        .and_then(|o| o.drop_unroutable.seen());
    let certain = !bound || (exchange.settled && dropped.is_some_and(|dropped| *dropped >= came));
    (came > 0 && went == 0 && certain && exchange.alternate.is_none()).then_some(came)
}

fn finding(evidence: &Evidence, rabbit: &RabbitMq, exchange: &Exchange, count: u64) -> Finding {
    let bindings = rabbit.bindings.seen();
    let bound = bindings.map(|all| all.iter().filter(|b| b.source == exchange.name).count());
    let shown = &exchange.name;
    let mut finding = Finding::of(
        &UNROUTABLE_PUBLISHES,
        format!(
            "{} to {shown} reached no queue, and {} dropped",
            plain::count(count, "publish").replace("publishs", "publishes"),
            if count == 1 { "was" } else { "were" }
        ),
    )
    .evidence("exchange", exchange.name.as_str())
    .evidence("type", exchange.kind.as_str())
    .evidence("published_in", count)
    .evidence("published_out", 0)
    .confirm(rabbit.list_bindings())
    .remedy(
        "bind a queue to the exchange with the routing key that is used, or route by queue; send again what was \
         dropped",
    )
    .subject("exchange", exchange.name.as_str());
    if let (Some(bound), true) = (bound, evidence.complete(Source::Bindings)) {
        finding = finding.evidence("bindings", bound);
    }
    finding.count = count;
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};

    #[test]
    fn an_exchange_that_swallows_is_found() {
        let lab = Rabbit::new()
            .exchange("orders", "direct", 5, 0)
            .dropped(6)
            .lab();
        let found = lab.check(&UNROUTABLE_PUBLISHES, "");
        assert_eq!(names(&found), ["unroutable-publishes"]);
        assert_eq!(found[0].count, 5);
    }

    #[test]
    fn the_default_exchange_is_not_judged() {
        let lab = Rabbit::new().exchange("", "direct", 5, 0).dropped(6).lab();
        assert!(lab.check(&UNROUTABLE_PUBLISHES, "").is_empty());
    }

    #[test]
    fn what_reaches_a_queue_is_clear() {
        let lab = Rabbit::new()
            .exchange("orders", "direct", 5, 3)
            .dropped(6)
            .lab();
        assert!(lab.check(&UNROUTABLE_PUBLISHES, "").is_empty());
    }

    #[test]
    fn events_that_nobody_hears_are_clear() {
        let lab = Rabbit::new()
            .exchange("celeryev", "topic", 900, 0)
            .dropped(900)
            .lab();
        assert!(lab.check(&UNROUTABLE_PUBLISHES, "").is_empty());
    }

    #[test]
    fn a_bound_exchange_that_swallows_is_found_once_its_numbers_have_settled() {
        let rabbit = Rabbit::new().exchange("orders", "topic", 5, 0).dropped(6);
        let mut lab = rabbit.bound("orders", "new", "celery").lab();
        assert_eq!(lab.check(&UNROUTABLE_PUBLISHES, "").len(), 1);
        let rabbit = lab.evidence.rabbitmq.as_mut().expect("RabbitMQ");
        for exchange in rabbit.exchanges.seen_mut().expect("seen") {
            exchange.settled = false;
        }
        assert!(lab.check(&UNROUTABLE_PUBLISHES, "").is_empty());
    }

    #[test]
    fn types_that_send_later_or_to_whoever_listens_are_clear() {
        for kind in ["x-delayed-message", "fanout"] {
            let lab = Rabbit::new()
                .exchange("orders", kind, 5, 0)
                .dropped(6)
                .lab();
            assert!(lab.check(&UNROUTABLE_PUBLISHES, "").is_empty());
        }
    }

    #[test]
    fn what_the_node_did_not_count_is_clear() {
        let lab = Rabbit::new()
            .exchange("orders", "direct", 5, 0)
            .bound("orders", "new", "celery")
            .dropped(0)
            .lab();
        assert!(lab.check(&UNROUTABLE_PUBLISHES, "").is_empty());
    }
}
