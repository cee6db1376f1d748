//! The queues of an app, as `app.amqp.queues` holds them (Celery 5.7 `app/amqp.py`, `Queues`).

use serde_json::Value;

use super::{Config, Gap, Known};

/// An exchange, as an app declares it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exchange {
    /// Its name; empty where none is given.
    pub name: String,
    /// `direct`, `topic`, `fanout`, `headers`, or one of a plugin.
    pub kind: String,
}

impl Exchange {
    /// An exchange of kombu's default type.
    pub fn direct(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: "direct".to_owned(),
        }
    }
}

/// A queue, as an app declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Its name; of a Broadcast without a `queue` that of its exchange, since each consumer makes up one of its own.
    pub name: String,
    /// Its exchange.
    pub exchange: Exchange,
    /// The key by which it is bound; empty where none is given.
    pub routing_key: String,
    /// Further exchanges and keys by which it is bound.
    pub bindings: Vec<(Exchange, String)>,
    /// Another name for it.
    pub alias: Option<String>,
    /// Whether it is kombu's `Broadcast`.
    pub broadcast: bool,
    /// `durable`.
    pub durable: Known<bool>,
    /// `auto_delete`.
    pub auto_delete: Known<bool>,
    /// `queue_arguments`, with those that kombu makes of `max_length` and the like; null for one that is unknown.
    pub arguments: Known<Vec<(String, Value)>>,
    /// The number by which the caller knows it.
    pub id: Option<usize>,
}

impl Queue {
    /// A queue with kombu's defaults.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            exchange: Exchange::direct(""),
            routing_key: String::new(),
            bindings: Vec::new(),
            alias: None,
            broadcast: false,
            durable: Ok(true),
            auto_delete: Ok(false),
            arguments: Ok(Vec::new()),
            id: None,
        }
    }

    /// The exchanges and keys that it is bound by, once it is declared. The default exchange needs no binding.
    pub fn bound_by(&self) -> impl Iterator<Item = (&Exchange, &str)> {
        let own = (&self.exchange, self.routing_key.as_str());
        let more = self
            .bindings
            .iter()
            .map(|(exchange, key)| (exchange, key.as_str()));
        std::iter::once(own)
            .chain(more)
            .filter(|(exchange, _)| !exchange.name.is_empty())
    }
}

/// The queues of an app, by name.
#[derive(Debug, Clone)]
pub struct Table<'c> {
    config: &'c Config,
    declared: Known<Vec<Queue>>,
}

impl<'c> Table<'c> {
    pub(super) fn of(config: &'c Config) -> Self {
        let declared = config.queues.clone().and_then(|queues| {
            if queues.is_empty() {
                let name = config.default_queue.clone()?;
                if name.is_empty() {
                    return Ok(Vec::new());
                }
                let mut queue = Queue::named(&name);
                queue.arguments = of_type(&config.default_queue_type);
                return Ok(vec![complete(config, queue)?]);
            }
            queues
                .into_iter()
                .map(|queue| complete(config, queue))
                .collect()
        });
        Self { config, declared }
    }

    /// The queues that are declared: those of `task_queues`, or else the default queue.
    pub fn declared(&self) -> &Known<Vec<Queue>> {
        &self.declared
    }

    /// The queue of this name, which is created where it is missing and may be. None where it may not.
    ///
    /// # Errors
    /// Where the queues, or whether they are created, are unknown.
    pub fn get(&self, name: &str) -> Known<Option<Queue>> {
        if let Some(queue) = self.find(name)? {
            return Ok(Some(queue.clone()));
        }
        if !self.config.create_missing.clone()? {
            return Ok(None);
        }
        let kind = self.config.missing_exchange_type.clone()?;
        let made = Queue {
            exchange: Exchange {
                name: name.to_owned(),
                kind: kind
                    .filter(|kind| !kind.is_empty())
                    .unwrap_or_else(|| "direct".to_owned()),
            },
            routing_key: name.to_owned(),
            arguments: of_type(&self.config.missing_queue_type),
            ..Queue::named(name)
        };
        complete(self.config, made).map(Some)
    }

    /// The declared queue of this name or alias.
    ///
    /// # Errors
    /// Where the queues are unknown.
    pub fn find(&self, name: &str) -> Result<Option<&Queue>, Gap> {
        let declared = self.declared.as_ref().map_err(Clone::clone)?;
        let by_alias = declared
            .iter()
            .rfind(|queue| queue.alias.as_deref() == Some(name));
        Ok(by_alias.or_else(|| declared.iter().rfind(|queue| queue.name == name)))
    }
}

/// What `Queues.add` fills in.
fn complete(config: &Config, mut queue: Queue) -> Known<Queue> {
    if queue.exchange.name.is_empty() {
        queue.exchange = config.default_exchange()?;
    }
    if queue.routing_key.is_empty() {
        queue.routing_key = config.default_key()?;
    }
    queue.arguments = queue.arguments.and_then(|mut arguments| {
        let set = arguments.iter().any(|(name, _)| name == "x-max-priority");
        if let (Some(priority), false) = (config.max_priority.clone()?, set) {
            arguments.push(("x-max-priority".to_owned(), priority.into()));
        }
        Ok(arguments)
    });
    Ok(queue)
}

/// The arguments of a queue that Celery makes by itself: only a quorum queue has one.
fn of_type(kind: &Known<String>) -> Known<Vec<(String, Value)>> {
    let quorum = kind.clone()? == "quorum";
    let argument = ("x-queue-type".to_owned(), Value::from("quorum"));
    Ok(quorum.then_some(argument).into_iter().collect())
}
