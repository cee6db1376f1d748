//! What a broker has, from an export of its definitions or from a reading of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::definitions::{Definitions, DestinationType};
use crate::evidence::rabbitmq::AmqpBinding;
use crate::evidence::routing::{BrokerFacts, QueueFacts};
use crate::evidence::{Evidence, Observed};

/// What an export of RabbitMQ's definitions tells. Which policy of several applies to a queue is left open.
pub(crate) fn of_definitions(definitions: &Definitions, source: &str) -> BrokerFacts {
    let queues = definitions.queues.iter().map(|queue| {
        let arguments = queue
            .arguments
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        let facts = QueueFacts {
            durable: Some(queue.durable),
            auto_delete: Some(queue.auto_delete),
            arguments: Some(arguments.collect()),
            policy: policy(definitions, &queue.name),
        };
        (queue.name.clone(), facts)
    });
    let bindings = definitions.bindings.iter().map(|binding| AmqpBinding {
        source: binding.source.clone(),
        destination: binding.destination.clone(),
        to_exchange: binding.destination_type == DestinationType::Exchange,
        routing_key: binding.routing_key.clone(),
        arguments: binding
            .arguments
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    });
    BrokerFacts {
        source: source.to_owned(),
        queues: queues.collect(),
        exchanges: definitions
            .exchanges
            .iter()
            .map(|exchange| (exchange.name.clone(), exchange.kind.clone()))
            .collect(),
        bindings: bindings.collect(),
        whole: true,
        consumed: None,
        unread: None,
    }
}

/// What the policies may set on a queue: that of every one whose pattern fits. Of several only the one of the highest
/// priority counts, but a dead-letter exchange that one may set silences what its absence would prove.
fn policy(definitions: &Definitions, queue: &str) -> Option<BTreeMap<String, Value>> {
    let mut set = BTreeMap::new();
    for policy in &definitions.policies {
        if policy.apply_to.as_deref() == Some("exchanges") {
            continue;
        }
        let fits = regex::RegexBuilder::new(&policy.pattern)
            .size_limit(1 << 20)
            .build()
            .ok()?;
        if fits.is_match(queue) {
            set.extend(
                policy
                    .definition
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone())),
            );
        }
    }
    Some(set)
}

/// What a reading of a live broker, or a snapshot of one, tells. None where its queues were not read.
pub(crate) fn of_evidence(evidence: &Evidence, source: &str) -> Option<BrokerFacts> {
    let of_workers = evidence.all_workers_answered().then(|| {
        let queues = evidence
            .answered()
            .iter()
            .filter_map(|worker| worker.queues.seen());
        queues
            .flatten()
            .map(|queue| queue.name.clone())
            .collect::<BTreeSet<String>>()
    });
    let Some(rabbitmq) = &evidence.rabbitmq else {
        // kombu's own tables on Redis say what is bound, and have no arguments.
        let tables = evidence.bindings.seen()?;
        let bindings = tables.iter().flat_map(|table| {
            table.bindings.iter().map(|binding| AmqpBinding {
                source: table.exchange.clone(),
                destination: binding.queue.clone(),
                to_exchange: false,
                routing_key: binding.routing_key.clone(),
                arguments: BTreeMap::new(),
            })
        });
        return Some(BrokerFacts {
            source: source.to_owned(),
            bindings: bindings.collect(),
            consumed: of_workers,
            ..BrokerFacts::default()
        });
    };
    let queues = rabbitmq.queues.seen()?;
    let exchanges = rabbitmq.exchanges.seen();
    let bindings = rabbitmq.bindings.seen();
    let seen = |fact: &Observed<BTreeMap<String, Value>>| fact.seen().cloned();
    let of_queues = match rabbitmq.consumers.seen() {
        Some(consumers) => Some(
            consumers
                .iter()
                .map(|consumer| consumer.queue.clone())
                .collect(),
        ),
        None => of_workers,
    };
    Some(BrokerFacts {
        source: source.to_owned(),
        queues: queues
            .iter()
            .map(|queue| {
                let facts = QueueFacts {
                    durable: queue.durable.seen().copied(),
                    auto_delete: queue.auto_delete.seen().copied(),
                    arguments: seen(&queue.arguments),
                    policy: seen(&queue.policy),
                };
                (queue.name.clone(), facts)
            })
            .collect(),
        exchanges: exchanges
            .into_iter()
            .flatten()
            .map(|exchange| (exchange.name.clone(), exchange.kind.clone()))
            .collect(),
        bindings: bindings.cloned().unwrap_or_default(),
        whole: exchanges.is_some() && bindings.is_some(),
        consumed: of_queues,
        unread: None,
    })
}
