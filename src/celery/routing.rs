//! Where Celery sends a task: its router, and what the producer makes of the router's answer (Celery 5.7
//! `app/routes.py`, and `Queues` and `send_task_message` in `app/amqp.py`). What a program would have to be run for stays
//! unknown, and so does everything that depends on it.

mod pattern;
mod queues;

use serde::{Deserialize, Serialize};

pub use self::pattern::{Glob, Pattern, python_regex};
pub use self::queues::{Exchange, Queue, Table};

/// What could not be known without running the program, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    /// One plain sentence part.
    pub why: String,
    /// The file, relative to the folder that was read.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.why),
            line => write!(f, "{}:{line}: {}", self.file, self.why),
        }
    }
}

/// A fact, or what kept it from being known.
pub type Known<T> = Result<T, Gap>;

/// The settings that decide where tasks go.
#[derive(Debug, Clone)]
pub struct Config {
    /// `task_default_queue`.
    pub default_queue: Known<String>,
    /// `task_default_exchange`; none is the name of the default queue.
    pub default_exchange: Known<Option<String>>,
    /// `task_default_exchange_type`.
    pub default_exchange_type: Known<String>,
    /// `task_default_routing_key`; none is the name of the default queue.
    pub default_routing_key: Known<Option<String>>,
    /// `task_create_missing_queues`.
    pub create_missing: Known<bool>,
    /// `task_create_missing_queue_exchange_type`; none is direct.
    pub missing_exchange_type: Known<Option<String>>,
    /// `task_queue_max_priority`, which all queues get that name no other.
    pub max_priority: Known<Option<i64>>,
    /// `task_default_queue_type`.
    pub default_queue_type: Known<String>,
    /// `task_create_missing_queue_type`.
    pub missing_queue_type: Known<String>,
    /// `task_queues`; empty where none are set, and then there is the default queue alone.
    pub queues: Known<Vec<Queue>>,
    /// `task_routes`, in order.
    pub routers: Known<Vec<Router>>,
}

impl Default for Config {
    /// Celery's defaults (Celery 5.7 `app/defaults.py`).
    fn default() -> Self {
        Self {
            default_queue: Ok("celery".to_owned()),
            default_exchange: Ok(None),
            default_exchange_type: Ok("direct".to_owned()),
            default_routing_key: Ok(None),
            create_missing: Ok(true),
            missing_exchange_type: Ok(None),
            max_priority: Ok(None),
            default_queue_type: Ok("classic".to_owned()),
            missing_queue_type: Ok("classic".to_owned()),
            queues: Ok(Vec::new()),
            routers: Ok(Vec::new()),
        }
    }
}

/// One router of `task_routes`.
#[derive(Debug, Clone)]
pub enum Router {
    /// A dict, or a list of pairs: Celery's `MapRoute`.
    Map(Vec<Entry>),
    /// A function, a class, or the name of one: it would have to be called.
    Opaque(Gap),
}

/// One line of a map of routes.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The number by which the caller knows it.
    pub id: usize,
    /// Which names it takes.
    pub pattern: Pattern,
    /// Where they go.
    pub route: Known<Route>,
}

/// The value of a line of a map of routes.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its options.
    pub options: Options,
    /// Whether it has no key at all: Celery takes such a route for none.
    pub empty: bool,
}

/// The options of a route, of a task or of a call, as far as they say where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// `queue`.
    pub queue: Known<Option<Target>>,
    /// `exchange`, by name.
    pub exchange: Known<Option<String>>,
    /// `exchange_type`.
    pub exchange_type: Known<Option<String>>,
    /// `routing_key`.
    pub routing_key: Known<Option<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: Ok(None),
            exchange: Ok(None),
            exchange_type: Ok(None),
            routing_key: Ok(None),
        }
    }
}

impl Options {
    /// Options that name a queue and nothing else.
    pub fn to_queue(name: &str) -> Self {
        Self {
            queue: Ok(Some(Target::Name(name.to_owned()))),
            ..Self::default()
        }
    }

    /// Whether they say anything about where a task goes.
    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }

    /// These, with those of `other` where it has any: Celery's `lpmerge`, which passes over None.
    #[must_use]
    pub fn overridden_by(self, other: &Self) -> Self {
        Self {
            queue: over(self.queue, &other.queue),
            exchange: over(self.exchange, &other.exchange),
            exchange_type: over(self.exchange_type, &other.exchange_type),
            routing_key: over(self.routing_key, &other.routing_key),
        }
    }
}

fn over<T: Clone>(under: Known<Option<T>>, over: &Known<Option<T>>) -> Known<Option<T>> {
    match over {
        Ok(None) => under,
        other => other.clone(),
    }
}

/// A queue in options: its name, or a declaration of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The name of a queue of `task_queues`, or of one to be created.
    Name(String),
    /// A `Queue(...)`.
    Queue(Box<Queue>),
}

impl Target {
    /// The queue's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Queue(queue) => &queue.name,
        }
    }
}

/// Where a task goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The queue that Celery declares before it sends; none where only an exchange is named.
    pub queue: Option<String>,
    /// The exchange of the message; empty for the default exchange.
    pub exchange: Known<String>,
    /// The type that Celery takes the exchange for.
    pub exchange_type: Known<String>,
    /// The routing key of the message; none only where nothing names one.
    pub routing_key: Known<Option<String>>,
    /// What decided.
    pub decided_by: DecidedBy,
}

/// What decided where a task goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DecidedBy {
    /// Options of the call or of the task, which win over any route.
    Options,
    /// The entry of `task_routes` with this id.
    Route(usize),
    /// `task_default_queue`.
    Default,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// It depends on what could not be known.
    Unknown(Gap),
    /// Celery raises `QueueNotFound`: the queue is missing from `task_queues`, and missing ones are not created. With
    /// the entry of `task_routes` that names it, where one does.
    QueueNotFound(String, Option<usize>),
}

impl From<Gap> for Fault {
    fn from(gap: Gap) -> Self {
        Self::Unknown(gap)
    }
}

/// Which entry of `task_routes` takes a task, if one does.
pub enum Taken<'c> {
    /// This one.
    By(&'c Entry),
    /// None.
    Nobody,
}

impl Config {
    /// The entry of `task_routes` that Celery finds for a name (`Router.lookup_route`).
    pub fn lookup(&self, task: &str) -> Known<Taken<'_>> {
        for router in self.routers.as_ref().map_err(Clone::clone)? {
            match router {
                Router::Opaque(gap) => return Err(gap.clone()),
                Router::Map(entries) => {
                    if let Some(entry) = find(entries, task)? {
                        return Ok(Taken::By(entry));
                    }
                }
            }
        }
        Ok(Taken::Nobody)
    }

    /// Where a task of this name goes with these options, which are those of the call over those of the task.
    ///
    /// # Errors
    /// Where Celery itself refuses to send it, or what decides is unknown.
    pub fn route(&self, task: &str, options: &Options) -> Result<Sent, Fault> {
        let table = self.table();
        let named = |target: &Known<Option<Target>>, entry: Option<usize>| match target {
            Err(gap) => Err(Fault::Unknown(gap.clone())),
            Ok(None) => Ok(None),
            Ok(Some(Target::Name(name))) if name.is_empty() => Ok(None),
            Ok(Some(Target::Queue(queue))) => Ok(Some((queue.name.clone(), Ok((**queue).clone())))),
            Ok(Some(Target::Name(name))) => match table.get(name) {
                Ok(Some(queue)) => Ok(Some((queue.name.clone(), Ok(queue)))),
                Ok(None) => Err(Fault::QueueNotFound(name.clone(), entry)),
                Err(gap) => Ok(Some((name.clone(), Err(gap)))),
            },
        };
        let mut queue = named(&options.queue, None)?;
        let mut rest = options.clone();
        let mut decided_by = if queue.is_some() {
            DecidedBy::Options
        } else {
            DecidedBy::Default
        };
        let mut routed = false;
        if let Taken::By(entry) = self.lookup(task)? {
            let route = entry.route.as_ref().map_err(Clone::clone)?;
            if !route.empty {
                routed = true;
                let there = named(&route.options.queue, Some(entry.id))?;
                rest = route.options.clone().overridden_by(options);
                if queue.is_none() {
                    queue = there;
                    decided_by = DecidedBy::Route(entry.id);
                }
            }
        }
        let default = || {
            let name = self.default_queue.as_ref().map_err(Clone::clone)?;
            named(&Ok(Some(Target::Name(name.clone()))), None)
        };
        if queue.is_none() && (!routed || rest.exchange == Ok(None)) {
            queue = default()?;
        }
        if !options.is_silent() && options.queue == Ok(None) && !routed {
            // An exchange or a key in the call or the task, with the default queue beside it.
            decided_by = DecidedBy::Options;
        }
        Ok(self.sent(queue, &rest, decided_by))
    }

    /// What the producer makes of the router's answer (`send_task_message`).
    fn sent(
        &self,
        queue: Option<(String, Known<Queue>)>,
        options: &Options,
        decided_by: DecidedBy,
    ) -> Sent {
        let name = queue.as_ref().map(|(name, _)| name.clone());
        let declared = queue.map(|(_, queue)| queue).transpose();
        let address = declared.and_then(|queue| {
            let exchange = options.exchange.clone()?;
            let key = options.routing_key.clone()?;
            let kind = match (options.exchange_type.clone()?, &queue) {
                (Some(kind), _) => kind,
                (None, Some(queue)) => queue.exchange.kind.clone(),
                (None, None) => "direct".to_owned(),
            };
            let blank = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
            if (blank(&exchange) || blank(&key)) && kind == "direct" {
                return Ok((String::new(), kind, name.clone()));
            }
            let Some(queue) = queue.filter(|_| exchange.is_none()) else {
                return Ok((exchange.unwrap_or_default(), kind, key));
            };
            let to = if queue.exchange.name.is_empty() {
                self.default_exchange_name()?
            } else {
                queue.exchange.name
            };
            let first = [key, Some(queue.routing_key)];
            let key = match first.into_iter().flatten().find(|key| !key.is_empty()) {
                Some(key) => key,
                None => self.default_key()?,
            };
            Ok((to, kind, Some(key)))
        });
        match address {
            Ok((exchange, kind, key)) => Sent {
                queue: name,
                exchange: Ok(exchange),
                exchange_type: Ok(kind),
                routing_key: Ok(key),
                decided_by,
            },
            Err(gap) => Sent {
                queue: name,
                exchange: Err(gap.clone()),
                exchange_type: Err(gap.clone()),
                routing_key: Err(gap),
                decided_by,
            },
        }
    }

    /// `app.amqp.default_exchange.name`.
    fn default_exchange_name(&self) -> Known<String> {
        match self.default_exchange.clone()? {
            Some(name) => Ok(name),
            None => self.default_queue.clone(),
        }
    }

    /// `conf.task_default_routing_key`.
    fn default_key(&self) -> Known<String> {
        match self.default_routing_key.clone()? {
            Some(key) => Ok(key),
            None => self.default_queue.clone(),
        }
    }

    /// The exchange of queues that name none.
    fn default_exchange(&self) -> Known<Exchange> {
        Ok(Exchange {
            name: self.default_exchange_name()?,
            kind: self.default_exchange_type.clone()?,
        })
    }

    /// The queues, as `app.amqp.queues` holds them.
    pub fn table(&self) -> Table<'_> {
        Table::of(self)
    }
}

/// Celery's `MapRoute`: a name before any pattern, then the patterns in order.
fn find<'r>(entries: &'r [Entry], task: &str) -> Known<Option<&'r Entry>> {
    let exact = entries
        .iter()
        .find(|entry| matches!(&entry.pattern, Pattern::Name(name) if name == task));
    if exact.is_some() {
        return Ok(exact);
    }
    for entry in entries {
        if entry.pattern.takes(task)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Adds a line to a map of routes as a Python dict would: a key that is there already keeps its place and gets the new
/// value.
pub fn insert(entries: &mut Vec<Entry>, new: Entry) {
    match entries.iter_mut().find(|old| old.pattern == new.pattern) {
        Some(old) => *old = new,
        None => entries.push(new),
    }
}

#[cfg(test)]
mod tests;
