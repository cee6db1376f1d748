//! Where an exchange and a routing key lead.

use std::collections::BTreeSet;

use super::worker::is_fanout;
use crate::celery::control::STARRED;
use crate::celery::exchange::{self, Binding, ExchangeType};
use crate::evidence::{Evidence, Source};

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
    /// Where kombu would send a message with this exchange and routing key (kombu 5.7 transport/virtual/base.py,
    /// `Channel._lookup`).
    pub fn route(&self, prefix: &str, exchange: &str, routing_key: &str) -> Route {
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
        if let Some(queue) = self.dead_letter_queue(prefix) {
            return Route::Queues(BTreeSet::from([queue.to_owned()]));
        }
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

    fn dead_letter_queue(&self, prefix: &str) -> Option<&str> {
        self.answered()
            .iter()
            .filter(|w| w.prefix == prefix)
            .filter_map(|w| w.stats.seen())
            .find_map(|stats| stats.transport.deadletter_queue.as_deref())
    }
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
