//! A RabbitMQ virtual host in the making, for the tests of rules.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Lab;
use crate::evidence::rabbitmq::{
    Alarm, AmqpBinding, Channel, Consumer, Exchange, Overview, Queue, QueueType,
};
use crate::evidence::{List, Observed, RabbitMq, Read, ReadStatus, Reason, Source, Why};

/// A virtual host. Everything is complete and healthy until a test breaks it.
pub(crate) struct Rabbit {
    facts: RabbitMq,
}

impl Rabbit {
    /// An empty virtual host of RabbitMQ 3.10.8 that was read whole.
    pub(crate) fn new() -> Self {
        Self {
            facts: RabbitMq {
                vhost: "/".to_owned(),
                product: Observed::Seen("RabbitMQ".to_owned()),
                version: Observed::Seen("3.10.8".to_owned()),
                management_url: Some("http://localhost:15672".to_owned()),
                overview: Observed::Seen(Overview {
                    drop_unroutable: Observed::Seen(0),
                    return_unroutable: Observed::Seen(0),
                    cluster: None,
                    user_tags: vec!["monitoring".to_owned()],
                }),
                nodes: Observed::Seen(Vec::new()),
                alarms: Observed::Seen(Vec::new()),
                queues: Observed::Seen(Vec::new()),
                exchanges: Observed::Seen(Vec::new()),
                bindings: Observed::Seen(Vec::new()),
                consumers: Observed::Seen(Vec::new()),
                channels: Observed::Seen(Vec::new()),
                connections: Observed::Seen(Vec::new()),
                shovels: Observed::Seen(Vec::new()),
            },
        }
    }

    /// Sets the server's version.
    pub(crate) fn version(mut self, version: &str) -> Self {
        self.facts.version = Observed::Seen(version.to_owned());
        self
    }

    /// Lets the node have dropped so many publishes.
    pub(crate) fn dropped(mut self, count: u64) -> Self {
        let overview = self.facts.overview.seen_mut().expect("seen");
        overview.drop_unroutable = Observed::Seen(count);
        self
    }

    /// Adds an exchange with what came in and what went out.
    pub(crate) fn exchange(mut self, name: &str, kind: &str, came: u64, went: u64) -> Self {
        self.facts
            .exchanges
            .seen_mut()
            .expect("seen")
            .push(Exchange {
                name: name.to_owned(),
                kind: kind.to_owned(),
                durable: true,
                auto_delete: false,
                internal: false,
                alternate: None,
                published_in: Observed::Seen(came),
                published_out: Observed::Seen(went),
                settled: true,
            });
        self
    }

    /// Binds a queue to an exchange.
    pub(crate) fn bound(self, exchange: &str, routing_key: &str, queue: &str) -> Self {
        self.binding(exchange, routing_key, queue, false)
    }

    /// Binds an exchange to another one.
    pub(crate) fn bound_exchange(self, exchange: &str, routing_key: &str, other: &str) -> Self {
        self.binding(exchange, routing_key, other, true)
    }

    fn binding(mut self, source: &str, key: &str, destination: &str, to_exchange: bool) -> Self {
        let bindings = self.facts.bindings.seen_mut().expect("seen");
        bindings.push(AmqpBinding {
            source: source.to_owned(),
            destination: destination.to_owned(),
            to_exchange,
            routing_key: key.to_owned(),
            arguments: BTreeMap::new(),
        });
        self
    }

    /// Adds a durable classic queue with so many persistent messages and consumers.
    pub(crate) fn queue(mut self, name: &str, ready: u64, consumers: u64) -> Self {
        let queue = Queue {
            kind: Observed::Seen(QueueType::Classic),
            durable: Observed::Seen(true),
            auto_delete: Observed::Seen(false),
            exclusive: Observed::Seen(false),
            arguments: Observed::Seen(BTreeMap::new()),
            policy: Observed::Seen(BTreeMap::new()),
            ready: Observed::Seen(ready),
            unacknowledged: Observed::Seen(0),
            consumers: Observed::Seen(consumers),
            persistent: Observed::Seen(ready),
            delivered: Observed::Seen(0),
            redelivered: Observed::Seen(0),
            acknowledged: Observed::Seen(0),
            published: Observed::Seen(0),
            state: Some("running".to_owned()),
            ..Queue::named(name)
        };
        self.facts.queues.seen_mut().expect("seen").push(queue);
        let consumers = (0..consumers).map(|n| Consumer {
            queue: name.to_owned(),
            connection: format!("connection {n}"),
            channel: format!("connection {n} (1)"),
            ack_required: true,
            active: Some(true),
            prefetch: Some(0),
            timeout_ms: Observed::not_asked("RabbitMQ 3 does not tell"),
        });
        self.facts
            .consumers
            .seen_mut()
            .expect("seen")
            .extend(consumers);
        self
    }

    /// As [`Rabbit::queue`], a quorum queue.
    pub(crate) fn quorum(self, name: &str, ready: u64, consumers: u64) -> Self {
        self.queue(name, ready, consumers)
            .with(|queue| queue.kind = Observed::Seen(QueueType::Quorum))
    }

    /// Changes the queue that was added last.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Queue)) -> Self {
        let queues = self.facts.queues.seen_mut().expect("seen");
        change(queues.last_mut().expect("a queue was added"));
        self
    }

    /// Declares the queue that was added last with an argument.
    pub(crate) fn argument(self, name: &str, value: Value) -> Self {
        self.with(|queue| {
            queue
                .arguments
                .seen_mut()
                .expect("seen")
                .insert(name.to_owned(), value);
        })
    }

    /// Sets something on the queue that was added last by policy.
    pub(crate) fn policy(self, name: &str, value: Value) -> Self {
        self.with(|queue| {
            queue
                .policy
                .seen_mut()
                .expect("seen")
                .insert(name.to_owned(), value);
        })
    }

    /// Adds a channel that has published.
    pub(crate) fn channel(mut self, name: &str, published: u64, confirms: bool) -> Self {
        self.facts.channels.seen_mut().expect("seen").push(Channel {
            name: name.to_owned(),
            connection: format!("connection of {name}"),
            unacknowledged: Observed::Seen(0),
            prefetch: Observed::Seen(0),
            confirms: Observed::Seen(confirms),
            published: Observed::Seen(published),
            drop_unroutable: Observed::Seen(0),
            acknowledged: Observed::Seen(0),
            consumers: Observed::Seen(0),
            idle_since: None,
        });
        self
    }

    /// Sets an alarm off.
    pub(crate) fn alarm(mut self, resource: &str) -> Self {
        self.facts.alarms.seen_mut().expect("seen").push(Alarm {
            node: "rabbit@localhost".to_owned(),
            resource: resource.to_owned(),
        });
        self
    }

    /// The evidence: no queue was looked into.
    pub(crate) fn lab(self) -> Lab {
        let mut lab = Lab::new();
        let evidence = &mut lab.evidence;
        "amqp://guest:***@localhost:5672//".clone_into(&mut evidence.broker.url);
        "rabbitmq".clone_into(&mut evidence.broker.kind);
        evidence.broker.endpoint = None;
        let unsupported = || Why::new(Reason::Unsupported, "RabbitMQ has none");
        evidence.reservations = Observed::Unseen(unsupported());
        let whole = |ready: u64| ready == 0;
        let queues = self.facts.queues.seen().expect("seen");
        let lists: Vec<List> = self
            .facts
            .queues_of(crate::evidence::rabbitmq::Role::Tasks)
            .map(|queue| {
                let ready = queue.ready.seen().copied().unwrap_or_default();
                List {
                    key: queue.name.clone(),
                    prefix: String::new(),
                    queue: queue.name.clone(),
                    priority: None,
                    named: true,
                    length: ready,
                    malformed: 0,
                    read: if whole(ready) {
                        Observed::Seen(())
                    } else {
                        Observed::not_asked("queues are looked into only with --peek")
                    },
                }
            })
            .collect();
        let all_empty = queues
            .iter()
            .all(|q| q.ready.seen().is_none_or(|ready| whole(*ready)));
        evidence.lists = Observed::Seen(lists);
        evidence.reads.retain(|read| {
            ![Source::Clients, Source::Unacked, Source::OtherDatabases].contains(&read.source)
        });
        for read in &mut evidence.reads {
            if read.source == Source::Queues && !all_empty {
                (read.status, read.reason) = (ReadStatus::Skipped, Some(Reason::NotAsked));
            }
        }
        evidence.reads.push(Read {
            source: Source::Management,
            status: ReadStatus::Complete,
            detail: "read whole".to_owned(),
            elapsed_ms: 1,
            reason: None,
        });
        evidence.rabbitmq = Some(self.facts);
        lab
    }
}
