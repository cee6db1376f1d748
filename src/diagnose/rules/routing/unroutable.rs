//! CD102, by a project's files: an exchange and a routing key that lead to no queue.

use super::{at, did_you_mean};
use crate::celery::routing::{Fault, Sent};
use crate::diagnose::Finding;
use crate::diagnose::rules::publish::unroutable::UNROUTABLE;
use crate::diagnose::view::routing::{Judged, Use, What, carries, nearest};
use crate::evidence::routing::Routing;

/// Checks a project's routing. An exchange that neither the project nor the broker binds to anything may be another
/// program's, unless all of the broker's bindings are known.
pub fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    for app in &routing.apps {
        for one in app.uses() {
            let sent = match &one.sent {
                Ok(sent) => sent,
                Err(Fault::Unknown(gap)) => {
                    judged.unknown(gap);
                    continue;
                }
                Err(Fault::QueueNotFound(..)) => continue,
            };
            // What a route decides is said once, at the route.
            let by_route = matches!(sent.decided_by, crate::celery::routing::DecidedBy::Route(_));
            if by_route && !matches!(one.what, What::Route(_)) {
                continue;
            }
            match (&sent.exchange, &sent.routing_key) {
                (Ok(exchange), Ok(key)) => {
                    let key = key.as_deref();
                    judged
                        .findings
                        .extend(look(routing, &one, sent, exchange, key));
                }
                (Err(gap), _) | (_, Err(gap)) if sent.queue.is_none() => judged.unknown(gap),
                _ => {}
            }
        }
    }
    judged
}

fn look(
    routing: &Routing,
    one: &Use<'_>,
    sent: &Sent,
    exchange: &str,
    key: Option<&str>,
) -> Option<Finding> {
    let words = one.what.words();
    if exchange.is_empty() {
        if sent.queue.is_some() || key.is_some_and(|key| !key.is_empty()) {
            return None;
        }
        let message = format!(
            "{words} names an exchange without a routing key: Celery then sends to no queue at all"
        );
        let finding = Finding::of(&UNROUTABLE, message)
            .evidence("app", one.app.name.as_str())
            .remedy("name a queue, or a routing key besides the exchange")
            .subject("task", words);
        return Some(at(finding, one.location));
    }
    let key = key.unwrap_or_default();
    let bound = routing.bound_to(exchange);
    let whole = routing.broker.as_ref().is_some_and(|broker| broker.whole);
    if bound.is_empty() && !whole {
        return None;
    }
    // A binding of a type that goes by more than the key may carry it, and an exchange may lead to another.
    let carried = bound
        .iter()
        .any(|(to, bound_by, _)| carries(&to.kind, bound_by, key) != Some(false));
    if carried {
        return None;
    }
    let keys: Vec<&str> = bound
        .iter()
        .map(|(_, bound_by, _)| bound_by.as_str())
        .collect();
    let near = nearest(key, keys.iter().copied());
    let names: Vec<&str> = match &routing.broker {
        Some(broker) => broker.exchanges.keys().map(String::as_str).collect(),
        None => Vec::new(),
    };
    let near = near.or_else(|| nearest(exchange, names).filter(|_| bound.is_empty()));
    let message = if bound.is_empty() {
        format!(
            "{words} sends to exchange {exchange}, to which nothing is bound: the message is dropped"
        )
    } else {
        format!(
            "{words} sends to exchange {exchange} with routing key {key}, which no binding takes: the message is \
             dropped"
        )
    };
    let finding = Finding::of(&UNROUTABLE, message)
        .evidence("exchange", exchange)
        .evidence("routing_key", key)
        .evidence("bound_by", keys)
        .evidence("app", one.app.name.as_str())
        .remedy(format!(
            "{}bind a queue to exchange {exchange} with this routing key, or route by queue",
            did_you_mean(near)
        ))
        .subject("exchange", exchange);
    Some(at(finding, one.location))
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Project;
    use super::*;
    use crate::celery::routing::{Exchange, Options, Queue};
    use crate::evidence::routing::BrokerFacts;

    fn through(exchange: &str, key: Option<&str>) -> Options {
        Options {
            exchange: Ok(Some(exchange.to_owned())),
            routing_key: Ok(key.map(str::to_owned)),
            ..Options::default()
        }
    }

    fn media() -> Queue {
        Queue {
            exchange: Exchange {
                name: "media".to_owned(),
                kind: "topic".to_owned(),
            },
            routing_key: "video.#".to_owned(),
            ..Queue::named("videos")
        }
    }

    #[test]
    fn a_key_that_no_binding_takes_is_found() {
        let routes = [
            ("a", through("media", Some("vidoe.cut"))),
            ("b", through("media", Some("video.cut"))),
        ];
        let project = Project::new().queue(media()).routes(&routes);
        let judged = project.judged(&UNROUTABLE);
        assert_eq!(judged.findings.len(), 1);
        assert_eq!(judged.findings[0].name, "unroutable");
        assert!(judged.findings[0].message.contains("vidoe.cut"));
    }

    #[test]
    fn an_exchange_of_others_is_judged_only_by_a_whole_broker() {
        let mut project = Project::new().routes(&[("a", through("theirs", Some("k")))]);
        assert!(project.found(&UNROUTABLE).is_empty());
        project.routing.broker = Some(BrokerFacts {
            whole: true,
            ..BrokerFacts::default()
        });
        assert_eq!(project.found(&UNROUTABLE).len(), 1);
    }

    #[test]
    fn an_exchange_without_a_key_leads_nowhere() {
        let project = Project::new().routes(&[("a", through("media", None))]);
        assert!(project.found(&UNROUTABLE)[0].contains("no queue at all"));
    }
}
