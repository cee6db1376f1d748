//! CD102: an exchange and a routing key in use lead to no queue.

use std::collections::BTreeSet;

use super::restore_black_hole;
use crate::celery::control::STARRED;
use crate::diagnose::view::Route;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static UNROUTABLE: Rule = Rule {
    code: "CD102",
    name: "unroutable",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "An exchange and a routing key in use match no binding. What is sent there is dropped without an \
                  error and without a trace, by kombu on Redis and by RabbitMQ itself: apply_async returns an id as \
                  if all were well.",
        cause: "Celery declares and binds a queue only when a task is sent with `queue=`, or when a worker consumes \
                it. A task sent with `exchange=` and `routing_key=` alone goes through bindings that exist already. \
                If none matches, the message is dropped (since kombu 5.2.0 also where the exchange has no bindings \
                at all). A task that came through such an exchange while it was bound is lost later: \
                its retry is sent with the same exchange and routing key.",
        read: "The exchange and the routing key of the message or of the worker's claim, held against kombu's \
               binding tables on Redis, or against RabbitMQ's bindings, with the matching of the exchange's type. Where the id was found nowhere: the entries \
               of task_routes of the workers that answered which have an exchange, a routing key and no queue.",
        confirm: "Run `redis-cli SMEMBERS _kombu.binding.EXCHANGE`: each member is a routing key, a pattern and a \
                  queue. Or run `rabbitmqctl list_bindings source_name routing_key destination_name`. None matches \
                  the routing key.",
        mend: "Start a worker that consumes a queue bound to this exchange and routing key: it writes the binding \
               when it starts. What was dropped is gone and has to be sent again.",
        prevent: "Route by `queue`, not by exchange and routing key: Celery then declares and binds the queue each \
                  time it sends. Or set the transport option deadletter_queue, so that kombu keeps what a direct \
                  exchange cannot route.",
        references: &[
            "kombu 5.7 transport/virtual/exchange.py, DirectExchange.deliver",
            "kombu commit 73b10a93 (5.2.0)",
            "https://docs.celeryq.dev/en/stable/userguide/routing.html#exchanges-queues-and-routing-keys",
        ],
    },
    needs: &[Source::Bindings, Source::Queues, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = retries(case);
    if findings.is_empty() && case.is_unheard_of() {
        findings = routes(case);
    }
    findings
}

/// The task is somewhere, and a retry of it would be dropped. A copy in `unacked` is restore-black-hole's.
fn retries(case: &Case<'_>) -> Vec<Finding> {
    if !case.held().is_empty() {
        return Vec::new();
    }
    let queued = case.queued().into_iter().filter_map(|copy| {
        let prefix = copy.list.map_or("", |list| list.prefix.as_str());
        Some((
            prefix,
            copy.envelope.exchange.as_deref()?,
            copy.envelope.routing_key.as_deref()?,
        ))
    });
    let claimed = case.task.claims.iter().filter_map(|holder| {
        let worker = case.evidence.answered().iter();
        let prefix = worker
            .filter(|w| w.node == holder.node)
            .map(|w| w.prefix.as_str())
            .next()?;
        let claim = &holder.claim;
        Some((
            prefix,
            claim.exchange.as_deref()?,
            claim.routing_key.as_deref()?,
        ))
    });
    let addresses: BTreeSet<(&str, &str, &str)> = queued.chain(claimed).collect();
    addresses
        .into_iter()
        .filter(|(prefix, exchange, key)| {
            case.evidence.route(prefix, exchange, key) == Route::Nowhere
        })
        .map(|(prefix, exchange, key)| {
            let restored = case.evidence.rabbitmq.is_none()
                && case.evidence.way_back(prefix, exchange, key) != Route::Nowhere;
            let what = if restored {
                "a retry"
            } else {
                "a retry or a restore"
            };
            let message = format!(
                "it came through exchange {exchange} with routing key {key}, which lead to no queue any more: \
                 {what} of it will be dropped"
            );
            finding(case, message, prefix, exchange, key)
        })
        .collect()
}

/// The task is nowhere, and a route of a worker leads nowhere. Which tasks the route takes is not said: nobody knows
/// the name that belongs to the id.
fn routes(case: &Case<'_>) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for worker in case.evidence.answered() {
        let routes = worker.conf.seen().and_then(|c| c.task_routes.as_deref());
        for route in routes.unwrap_or_default() {
            // Without a routing key Celery takes the default exchange (Celery 5.7 app/amqp.py, send_task_message).
            let (None, Some(exchange), Some(key)) =
                (&route.queue, &route.exchange, &route.routing_key)
            else {
                continue;
            };
            let nowhere = case.evidence.route(&worker.prefix, exchange, key) == Route::Nowhere;
            if nowhere && seen.insert((&worker.prefix, &route.pattern, exchange, key)) {
                let to = if key == STARRED {
                    format!("exchange {exchange}, to which no queue is bound")
                } else {
                    format!("exchange {exchange} with routing key {key}, which lead to no queue")
                };
                let message = format!(
                    "the route {} sends to {to}: what it sends is dropped in silence",
                    route.pattern
                );
                let found = finding(case, message, &worker.prefix, exchange, key);
                findings.push(
                    found
                        .evidence("route", route.pattern.as_str())
                        .evidence("worker", worker.node.as_str()),
                );
            }
        }
    }
    findings
}

fn finding(case: &Case<'_>, message: String, prefix: &str, exchange: &str, key: &str) -> Finding {
    Finding::of(&UNROUTABLE, message)
        .evidence("exchange", exchange)
        .evidence("routing_key", key)
        .evidence("key_prefix", prefix)
        .confirm(restore_black_hole::members(case, prefix, exchange))
        .remedy(format!(
            "start a worker that consumes a queue bound to exchange {} with {}, or route by queue \
             instead of by exchange; send again what was dropped",
            plain::key(exchange),
            if key == STARRED {
                "the route's routing key".to_owned()
            } else {
                format!("routing key {}", plain::key(key))
            }
        ))
        .subject("exchange", exchange)
        .task(case.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control;
    use crate::celery::exchange::{Binding, DEFAULT_SEP};
    use crate::diagnose::testkit::{Lab, envelope, names};
    use crate::evidence::{BindingTable, Observed, Reason};

    fn routed(exchange: &str, key: &str) -> Lab {
        let mut message = envelope("t1");
        message.exchange = Some(exchange.to_owned());
        message.routing_key = Some(key.to_owned());
        Lab::new()
            .worker("w1", &["celery"])
            .queued_as("celery", message)
    }

    fn with_route(queue: Option<&str>) -> Lab {
        let route = control::Route {
            pattern: "shop.*".to_owned(),
            queue: queue.map(str::to_owned),
            exchange: Some("shop".to_owned()),
            routing_key: Some("mail".to_owned()),
        };
        Lab::new().worker("w1", &["celery"]).with_worker(|w| {
            w.conf.seen_mut().expect("seen").task_routes = Some(vec![route]);
        })
    }

    #[test]
    fn a_message_whose_retry_would_be_dropped_is_found() {
        let lab = routed("orders", "new");
        assert_eq!(names(&lab.check(&UNROUTABLE, "t1")), ["unroutable"]);
    }

    #[test]
    fn a_topic_exchange_leaves_the_dead_letter_queue_out() {
        let lab = |kind: &str| {
            routed("orders", "new").with_worker(|w| {
                let stats = w.stats.seen_mut().expect("seen");
                stats.transport.deadletter_queue = Some("dead".to_owned());
                let queue = &mut w.queues.seen_mut().expect("seen")[0];
                queue.exchange = Some("orders".to_owned());
                queue.exchange_type = Some(kind.to_owned());
            })
        };
        assert!(lab("direct").check(&UNROUTABLE, "t1").is_empty());
        let found = lab("topic").check(&UNROUTABLE, "t1");
        assert_eq!(names(&found), ["unroutable"]);
        assert!(
            found[0]
                .message
                .ends_with(": a retry of it will be dropped")
        );
    }

    #[test]
    fn a_message_that_came_through_the_default_exchange_is_clear() {
        assert!(routed("", "celery").check(&UNROUTABLE, "t1").is_empty());
    }

    #[test]
    fn a_route_that_leads_nowhere_is_told_where_an_id_is_unknown() {
        let lab = with_route(None).absent("t1");
        assert_eq!(names(&lab.check(&UNROUTABLE, "t1")), ["unroutable"]);
    }

    #[test]
    fn of_a_starred_key_only_the_exchange_counts() {
        let starred = |bindings| {
            let mut lab = with_route(None).absent("t1").with_worker(|w| {
                let routes = &mut w.conf.seen_mut().expect("seen").task_routes;
                routes.as_mut().expect("a route")[0].routing_key = Some(STARRED.to_owned());
            });
            lab.evidence.bindings = Observed::Seen(vec![BindingTable {
                prefix: String::new(),
                exchange: "shop".to_owned(),
                sep: DEFAULT_SEP.to_owned(),
                bindings,
            }]);
            lab
        };
        let bound = Binding {
            routing_key: "mail".to_owned(),
            pattern: String::new(),
            queue: "mail".to_owned(),
        };
        assert!(starred(vec![bound]).check(&UNROUTABLE, "t1").is_empty());
        let found = starred(Vec::new()).check(&UNROUTABLE, "t1");
        assert_eq!(names(&found), ["unroutable"]);
        assert!(!found[0].message.contains(STARRED));
    }

    #[test]
    fn a_route_says_nothing_about_a_task_that_is_known() {
        let lab = with_route(None).queued("t1", "celery");
        assert!(lab.check(&UNROUTABLE, "t1").is_empty());
    }

    #[test]
    fn a_route_with_a_queue_is_clear() {
        let lab = with_route(Some("mail")).absent("t1");
        assert!(lab.check(&UNROUTABLE, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_without_the_whole_bindings() {
        let lab = routed("orders", "new").unread(Source::Bindings, Reason::Refused);
        assert!(lab.check(&UNROUTABLE, "t1").is_empty());
        let lab = routed("orders", "new").read_only_part(Source::Bindings, Reason::Truncated);
        assert!(lab.check(&UNROUTABLE, "t1").is_empty());
    }
}
