//! Questions that several rules ask of routing.

use std::collections::BTreeSet;

use crate::celery::amqp_routing::topic_matches;
use crate::celery::routing::{
    DecidedBy, Entry, Exchange, Fault, Gap, Known, Pattern, Queue, Router, Sent, Target,
};
use crate::evidence::routing::{App, Location, Routing, Worker};

/// What a rule makes of routing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judged {
    /// What it found.
    pub findings: Vec<super::super::Finding>,
    /// What kept it from judging all there is.
    pub unknown: Vec<Gap>,
    /// What nobody gave it to judge by. This is no fault of what was read.
    pub missing: Option<String>,
}

impl Judged {
    /// Notes what kept it from judging something.
    pub(crate) fn unknown(&mut self, gap: &Gap) {
        if !self.unknown.contains(gap) {
            self.unknown.push(gap.clone());
        }
    }
}

/// One way in which an app sends tasks.
pub(crate) struct Use<'r> {
    pub app: &'r App,
    pub what: What<'r>,
    pub sent: Result<Sent, Fault>,
    /// The text that decides.
    pub location: Option<&'r Location>,
}

/// What sends.
#[derive(Clone, Copy)]
pub(crate) enum What<'r> {
    /// An entry of `task_routes`.
    Route(&'r Entry),
    /// A task by its own options, or without any by the routes and the defaults.
    Task(&'r str),
    /// A call, of a task by this name.
    Call(Option<&'r str>),
}

impl What<'_> {
    /// As the subject of a sentence.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Route(entry) => format!("the route {}", entry.pattern.text()),
            Self::Task(name) => format!("the task {name}"),
            Self::Call(Some(name)) => format!("a call of {name}"),
            Self::Call(None) => "a call".to_owned(),
        }
    }
}

/// A task name that stands for those that a route takes: it asks for the route's own answer and matches nothing else.
fn answer(app: &App, entry: &Entry) -> Result<Sent, Fault> {
    let route = entry.route.as_ref().map_err(Clone::clone)?;
    let only = crate::celery::routing::Config {
        routers: Ok(vec![Router::Map(vec![Entry {
            id: entry.id,
            pattern: Pattern::Name("a task".to_owned()),
            route: Ok(route.clone()),
        }])]),
        ..app.config.clone()
    };
    only.route("a task", &crate::celery::routing::Options::default())
}

impl App {
    /// The entries of `task_routes` that are known.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let routers = self.config.routers.iter().flatten();
        routers.flat_map(|router| match router {
            Router::Map(entries) => entries.as_slice(),
            Router::Opaque(_) => &[],
        })
    }

    /// All ways in which it sends tasks: each route, each task, each call.
    pub(crate) fn uses(&self) -> Vec<Use<'_>> {
        let mut uses = Vec::new();
        for entry in self.entries() {
            let place = self.routes.get(entry.id);
            uses.push(Use {
                app: self,
                what: What::Route(entry),
                sent: answer(self, entry),
                location: place.and_then(|place| place.target.as_ref().or(place.pattern.as_ref())),
            });
        }
        for task in &self.tasks {
            uses.push(Use {
                app: self,
                what: What::Task(&task.name),
                sent: self.config.route(&task.name, &task.options),
                location: task.target.as_ref().or(task.location.as_ref()),
            });
        }
        for call in &self.calls {
            let name = call.task.as_deref().ok();
            let sent = match &call.task {
                Ok(name) => self.config.route(name, &call.options),
                // Which queue a call names does not depend on the task that it calls.
                Err(gap) => match &call.options.queue {
                    Ok(Some(target)) => Ok(Sent {
                        queue: Some(target.name().to_owned()),
                        exchange: Err(gap.clone()),
                        exchange_type: Err(gap.clone()),
                        routing_key: Err(gap.clone()),
                        decided_by: DecidedBy::Options,
                    }),
                    _ => Err(Fault::Unknown(gap.clone())),
                },
            };
            uses.push(Use {
                app: self,
                what: What::Call(name),
                sent,
                location: call.target.as_ref().or(call.location.as_ref()),
            });
        }
        uses
    }

    /// The queues that it declares, and those that its routes, tasks and calls make Celery create.
    pub(crate) fn all_queues(&self) -> Vec<Queue> {
        let table = self.config.table();
        let mut queues: Vec<Queue> = table.declared().iter().flatten().cloned().collect();
        let of_entries = self
            .entries()
            .filter_map(|entry| entry.route.as_ref().ok())
            .map(|route| &route.options);
        let others = self.tasks.iter().map(|task| &task.options);
        let calls = self.calls.iter().map(|call| &call.options);
        for options in of_entries.chain(others).chain(calls) {
            let made = match &options.queue {
                Ok(Some(Target::Queue(queue))) => Some((**queue).clone()),
                Ok(Some(Target::Name(name))) => table.get(name).ok().flatten(),
                _ => None,
            };
            if let Some(queue) =
                made.filter(|queue| !queues.iter().any(|old| old.name == queue.name))
            {
                queues.push(queue);
            }
        }
        queues
    }

    /// Whether a name may be that of a task of the project: one that is defined, or one that may be.
    pub(crate) fn may_define(&self, name: &str) -> bool {
        self.maybe_tasks.contains(name)
            || self
                .tasks
                .iter()
                .any(|task| task.name == name || task.aliases.iter().any(|alias| alias == name))
    }
}

/// Which queues workers are told to consume.
pub(crate) enum Consumed {
    /// These, and no others.
    These(BTreeSet<String>),
    /// At least these; why there may be others.
    AtLeast(BTreeSet<String>, Gap),
    /// No worker is known.
    Nobody,
}

impl Routing {
    /// The queues that workers are told to consume.
    pub(crate) fn consumed(&self) -> Consumed {
        let mut queues = BTreeSet::new();
        let mut gap = self.workers.gaps.first().cloned();
        for worker in &self.workers.known {
            match self.consumed_by(worker) {
                Ok(these) => queues.extend(these),
                Err(why) => gap = gap.or(Some(why)),
            }
        }
        let of_broker = self
            .broker
            .as_ref()
            .and_then(|broker| broker.consumed.as_ref());
        if let Some(consumed) = of_broker {
            queues.extend(consumed.iter().cloned());
        }
        match gap {
            Some(gap) => Consumed::AtLeast(queues, gap),
            None if self.workers.known.is_empty() && of_broker.is_none() => Consumed::Nobody,
            None => Consumed::These(queues),
        }
    }

    /// The apps that a worker may run: those of its `-A`, or all where it has none or none fits.
    fn apps_of(&self, worker: &Worker) -> Vec<&App> {
        let fits = |app: &&App| {
            worker
                .app
                .as_deref()
                .is_some_and(|given| app.is_called(given))
        };
        let named: Vec<&App> = self.apps.iter().filter(fits).collect();
        if named.is_empty() {
            self.apps.iter().collect()
        } else {
            named
        }
    }

    /// The queues that one worker is told to consume.
    pub(crate) fn consumed_by(&self, worker: &Worker) -> Known<BTreeSet<String>> {
        let excluded = worker.excluded.as_ref().map_err(Clone::clone)?;
        let mut queues = BTreeSet::new();
        match worker.queues.as_ref().map_err(Clone::clone)? {
            Some(named) => {
                for name in named {
                    queues.insert(name.clone());
                    // A Broadcast goes by its alias.
                    for app in self.apps_of(worker) {
                        if let Ok(Some(queue)) = app.config.table().find(name) {
                            queues.insert(queue.name.clone());
                        }
                    }
                }
            }
            None => {
                for app in self.apps_of(worker) {
                    let table = app.config.table();
                    let declared = table.declared().as_ref().map_err(Clone::clone)?;
                    queues.extend(declared.iter().map(|queue| queue.name.clone()));
                }
            }
        }
        for name in excluded {
            queues.remove(name);
        }
        Ok(queues)
    }

    /// The queues that are bound to an exchange of this name, by the apps' own declarations and by the broker's word,
    /// with their keys.
    pub(crate) fn bound_to(&self, exchange: &str) -> Vec<(Exchange, String, String)> {
        let mut bound = Vec::new();
        for app in &self.apps {
            for queue in app.all_queues() {
                let own = queue.bound_by().filter(|(to, _)| to.name == exchange);
                bound.extend(own.map(|(to, key)| (to.clone(), key.to_owned(), queue.name.clone())));
            }
        }
        if let Some(broker) = &self.broker {
            let kind = broker.exchanges.get(exchange);
            for binding in broker
                .bindings
                .iter()
                .filter(|binding| binding.source == exchange)
            {
                let to = Exchange {
                    name: exchange.to_owned(),
                    kind: kind.cloned().unwrap_or_else(|| "direct".to_owned()),
                };
                bound.push((to, binding.routing_key.clone(), binding.destination.clone()));
            }
        }
        bound
    }
}

impl App {
    /// Whether `celery -A` with this text means this app (Celery 5.7 `app/utils.py`, `find_app`).
    pub(crate) fn is_called(&self, given: &str) -> bool {
        let (module, variable) = self.name.split_once(':').unwrap_or((&self.name, ""));
        let (wanted, attribute) = given.split_once(':').unwrap_or((given, ""));
        let module_fits = module == wanted
            || module.strip_suffix(".celery") == Some(wanted)
            || wanted.strip_suffix(&format!(".{variable}")) == Some(module);
        module_fits && (attribute.is_empty() || attribute == variable)
    }
}

/// Whether an exchange of this type sends a message with this key to a queue that is bound by another. None for types
/// that go by more than the key.
pub(crate) fn carries(kind: &str, bound_by: &str, key: &str) -> Option<bool> {
    match kind {
        "direct" => Some(bound_by == key),
        "fanout" => Some(true),
        "topic" => Some(topic_matches(bound_by, key)),
        _ => None,
    }
}

/// How much alike a misspelt name must be to be offered.
const ALIKE: f64 = 0.85;

/// The name that is most like this one, where one is.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    known
        .into_iter()
        .filter(|other| *other != name)
        .map(|other| {
            (
                strsim::normalized_damerau_levenshtein(name, other)
                    .max(strsim::jaro_winkler(name, other) - 0.07),
                other,
            )
        })
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics() {
        for (pattern, key, carried) in [
            ("mail.#", "mail", true),
            ("mail.#", "mail.a.b", true),
            ("mail.*", "mail", false),
            ("*.pay", "shop.pay", true),
            ("#", "", true),
            ("a.#.b", "a.b", true),
            ("a.#.b", "a.c.c", false),
        ] {
            assert_eq!(
                carries("topic", pattern, key),
                Some(carried),
                "{pattern} {key}"
            );
        }
        assert_eq!(carries("headers", "", ""), None);
    }

    #[test]
    fn near_misses() {
        assert_eq!(nearest("emials", ["emails", "reports"]), Some("emails"));
        assert_eq!(nearest("video", ["emails", "reports"]), None);
        assert_eq!(
            nearest("shop.taks.send", ["shop.tasks.send"]),
            Some("shop.tasks.send")
        );
    }

    #[test]
    fn apps_by_the_name_that_a_worker_is_given() {
        let app = App {
            name: "shop.celery:app".to_owned(),
            ..App::default()
        };
        for given in ["shop", "shop.celery", "shop.celery:app", "shop.celery.app"] {
            assert!(app.is_called(given), "{given}");
        }
        assert!(!app.is_called("bill") && !app.is_called("shop.celery:other"));
    }
}
