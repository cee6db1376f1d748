//! Where an exchange and a routing key lead.

use std::collections::BTreeSet;

use serde_json::Value;

use super::worker::is_fanout;
use crate::celery::amqp_routing::{self, Destination, Refusal, Routed, Topology};
use crate::celery::control::STARRED;
use crate::celery::exchange::{self, Binding, ExchangeType};
use crate::evidence::rabbitmq::{DELAYED_EXCHANGE, Queue};
use crate::evidence::{Evidence, RabbitMq, Source};

/// Where an exchange and a routing key lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To these queues.
    Queues(BTreeSet<String>),
    /// To none: what is sent there is dropped.
    Nowhere,
    /// It can't be told; why.
    Unknown(String),
}

impl Evidence {
    /// Where the broker sends a message with this exchange and routing key: on Redis as kombu does (kombu 5.7
    /// transport/virtual/exchange.py), on RabbitMQ as the server does.
    pub fn route(&self, prefix: &str, exchange: &str, routing_key: &str) -> Route {
        if let Some(rabbit) = &self.rabbitmq {
            return Routes::of(self, rabbit).to(exchange, routing_key);
        }
        match self.by_bindings(prefix, exchange, routing_key) {
            Route::Nowhere => match self.exchange_type(prefix, exchange) {
                Some(ExchangeType::Direct) => self.undeliverable(prefix),
                // `TopicExchange.deliver` leaves the dead-letter queue out, and a fanout looks nothing up.
                Some(ExchangeType::Topic | ExchangeType::Fanout) => Route::Nowhere,
                None if self.undeliverable(prefix) == Route::Nowhere => Route::Nowhere,
                None => Route::Unknown(format!("the type of exchange {exchange} is not known")),
            },
            other => other,
        }
    }

    /// Where a worker on Redis puts a message back that was delivered under this exchange and routing key (kombu 5.7
    /// transport/redis.py, `_do_restore_message`). What no binding takes any more goes to the dead-letter queue, whatever
    /// the type of the exchange.
    pub(in crate::diagnose) fn way_back(
        &self,
        prefix: &str,
        exchange: &str,
        routing_key: &str,
    ) -> Route {
        match self.by_bindings(prefix, exchange, routing_key) {
            Route::Nowhere => self.undeliverable(prefix),
            other => other,
        }
    }

    /// The queues on Redis whose bindings take a message.
    fn by_bindings(&self, prefix: &str, exchange: &str, routing_key: &str) -> Route {
        if exchange.is_empty() {
            return Route::Queues(BTreeSet::from([routing_key.to_owned()]));
        }
        let Some(tables) = self.bindings.seen() else {
            return Route::Unknown("the bindings were not read".to_owned());
        };
        let table: &[Binding] = tables
            .iter()
            .find(|table| table.prefix == prefix && table.exchange == exchange)
            .map_or(&[], |table| table.bindings.as_slice());
        // Of a starred key no more can be said than of the exchange: bound to nothing, it takes no key.
        if routing_key == STARRED && !table.is_empty() {
            return Route::Unknown(
                "workers do not tell the routing keys of their routes".to_owned(),
            );
        }
        let kinds: &[ExchangeType] = match self.exchange_type(prefix, exchange) {
            Some(kind) => &[kind],
            None => &[ExchangeType::Direct, ExchangeType::Topic],
        };
        let queues: BTreeSet<String> = kinds
            .iter()
            .flat_map(|kind| exchange::lookup(*kind, table, routing_key))
            .map(str::to_owned)
            .collect();
        let may_be_fanout = kinds.len() > 1 && table.iter().any(|b| b.pattern.is_empty());
        match (queues.is_empty(), may_be_fanout) {
            (false, _) => Route::Queues(queues),
            (true, true) => Route::Unknown(format!("the type of exchange {exchange} is not known")),
            (true, false) if self.complete(Source::Bindings) => Route::Nowhere,
            (true, false) => Route::Unknown("the bindings were not read whole".to_owned()),
        }
    }

    /// Where native delayed delivery sends a message when its time has come; see [`Routes::delayed`].
    pub(in crate::diagnose) fn route_of_delayed(&self, routing_key: &str) -> Route {
        match &self.rabbitmq {
            Some(rabbit) => Routes::of(self, rabbit).delayed(routing_key),
            None => Route::Unknown("Redis has no native delayed delivery".to_owned()),
        }
    }

    /// Whether a worker says that an exchange is a broadcast, which gives each worker a copy of every message.
    pub fn is_broadcast(&self, exchange: &str) -> bool {
        let declared = self
            .answered()
            .iter()
            .filter_map(|w| w.queues.seen())
            .flatten();
        declared
            .filter(|queue| is_fanout(queue))
            .any(|queue| queue.exchange.as_deref() == Some(exchange))
    }

    /// The type of an exchange, by the word of a worker that declares it.
    fn exchange_type(&self, prefix: &str, exchange: &str) -> Option<ExchangeType> {
        self.answered()
            .iter()
            .filter(|w| w.prefix == prefix)
            .filter_map(|w| w.queues.seen())
            .flatten()
            .find(|queue| queue.exchange.as_deref() == Some(exchange))
            .and_then(|queue| exchange_type_of(queue.exchange_type.as_deref()?))
    }

    /// Where kombu puts what no binding takes: into the transport option `deadletter_queue`, else nowhere (kombu 5.7
    /// transport/virtual/base.py, `Channel._lookup`).
    fn undeliverable(&self, prefix: &str) -> Route {
        let told: BTreeSet<Option<&str>> = self.dead_letter_queues(prefix).collect();
        let queues: BTreeSet<String> = told.iter().flatten().map(|q| (*q).to_owned()).collect();
        match (queues.is_empty(), told.contains(&None)) {
            (true, _) => Route::Nowhere,
            (false, false) => Route::Queues(queues),
            (false, true) => Route::Unknown(
                "some workers have a deadletter_queue for it, and others have none".to_owned(),
            ),
        }
    }

    /// Whether a queue on Redis is one for what no binding takes. It needs no consumer.
    pub(in crate::diagnose) fn is_dead_letter_queue(&self, prefix: &str, queue: &str) -> bool {
        self.rabbitmq.is_none()
            && self
                .dead_letter_queues(prefix)
                .any(|own| own == Some(queue))
    }

    /// The transport option `deadletter_queue` of each worker that told its options.
    fn dead_letter_queues(&self, prefix: &str) -> impl Iterator<Item = Option<&str>> {
        self.answered()
            .iter()
            .filter(move |w| w.prefix == prefix)
            .filter_map(|w| w.stats.seen())
            .map(|stats| stats.transport.deadletter_queue.as_deref())
    }
}

/// The routes of a RabbitMQ virtual host, for many questions.
pub(in crate::diagnose) struct Routes<'e> {
    topology: Option<Topology<'e>>,
    /// Whether the bindings were read whole, so that "nowhere" may be said.
    whole: bool,
    /// The exchanges that hand delayed messages on: with kombu's prefixes there can be several.
    delivery: Vec<&'e str>,
}

impl<'e> Routes<'e> {
    /// The routes of this virtual host.
    pub(in crate::diagnose) fn of(evidence: &Evidence, rabbit: &'e RabbitMq) -> Self {
        Self {
            topology: topology(rabbit),
            whole: evidence.complete(Source::Bindings),
            delivery: (rabbit.exchanges.seen().into_iter().flatten())
                .map(|exchange| exchange.name.as_str())
                .filter(|name| name.ends_with(DELAYED_EXCHANGE) && *name != DELAYED_EXCHANGE)
                .chain([DELAYED_EXCHANGE])
                .collect(),
        }
    }

    /// Where the server sends a message with this exchange and routing key.
    pub(in crate::diagnose) fn to(&self, exchange: &str, routing_key: &str) -> Route {
        let Some(topology) = &self.topology else {
            return Route::Unknown("exchanges and bindings were not read".to_owned());
        };
        if routing_key == STARRED {
            return Route::Unknown(
                "workers do not tell the routing keys of their routes".to_owned(),
            );
        }
        match topology.route(exchange, routing_key, None) {
            Routed::Queues(queues) => {
                Route::Queues(queues.into_iter().map(str::to_owned).collect())
            }
            Routed::Nowhere | Routed::Refused(Refusal::NoExchange) if self.whole => Route::Nowhere,
            Routed::Nowhere | Routed::Refused(Refusal::NoExchange) => {
                Route::Unknown("the bindings were not read whole".to_owned())
            }
            Routed::Refused(_) => Route::Unknown(format!("{exchange} takes no publishes")),
            Routed::Unknown(why) => Route::Unknown(why),
        }
    }

    /// Where native delayed delivery sends a message, when its time has come, that was sent with this routing key: it
    /// comes with the bits of its delay before the key (kombu 5.7 `transport/native_delayed_delivery.py`,
    /// `calculate_routing_key`).
    pub(in crate::diagnose) fn delayed(&self, routing_key: &str) -> Route {
        let key = format!("0.{routing_key}");
        let routes = self.delivery.iter().map(|exchange| self.to(exchange, &key));
        let rank = |route: &Route| match route {
            Route::Queues(_) => 0,
            Route::Unknown(_) => 1,
            Route::Nowhere => 2,
        };
        routes.min_by_key(rank).unwrap_or(Route::Nowhere)
    }

    /// The queues to which a queue's dead letters go. None where it has no dead-letter exchange or this leads nowhere:
    /// what it drops is gone.
    ///
    /// # Errors
    /// Why this can't be told.
    pub(in crate::diagnose) fn dead_letters(
        &self,
        queue: &Queue,
    ) -> Result<Option<BTreeSet<String>>, String> {
        let Some(exchange) = queue.dead_letter_exchange() else {
            return match queue.arguments.unseen().or(queue.policy.unseen()) {
                None => Ok(None),
                Some(why) => Err(why.detail.clone()),
            };
        };
        let told = queue
            .setting("dead-letter-routing-key")
            .and_then(Value::as_str);
        // Without one of its own a dead letter keeps the key that it came with; by default that is the queue's name.
        match self.to(exchange, told.unwrap_or(&queue.name)) {
            Route::Queues(queues) => Ok(Some(queues)),
            Route::Nowhere => Ok(None),
            Route::Unknown(why) => Err(why),
        }
    }
}

fn topology(rabbit: &RabbitMq) -> Option<Topology<'_>> {
    let exchanges = rabbit.exchanges.seen()?.iter();
    let queues = rabbit.queues.seen()?.iter();
    let bindings = rabbit.bindings.seen()?.iter();
    Some(Topology::new(
        exchanges.map(|exchange| amqp_routing::Exchange {
            name: &exchange.name,
            kind: &exchange.kind,
            internal: exchange.internal,
            alternate: exchange.alternate.as_deref(),
        }),
        queues.map(|queue| queue.name.as_str()),
        bindings.map(|binding| amqp_routing::Binding {
            source: &binding.source,
            destination: if binding.to_exchange {
                Destination::Exchange(&binding.destination)
            } else {
                Destination::Queue(&binding.destination)
            },
            routing_key: &binding.routing_key,
            arguments: &binding.arguments,
        }),
    ))
}

/// The exchange type of this name; none for a type that kombu's virtual transports do not have.
fn exchange_type_of(name: &str) -> Option<ExchangeType> {
    match name {
        "direct" => Some(ExchangeType::Direct),
        "topic" => Some(ExchangeType::Topic),
        "fanout" => Some(ExchangeType::Fanout),
        _ => None,
    }
}
