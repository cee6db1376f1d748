//! Small routing evidence for the tests of rules.

use crate::celery::routing::{Entry, Gap, Options, Pattern, Queue, Route, Router};
use crate::diagnose::{Judged, Rule, registry};
use crate::evidence::routing::{App, Location, RoutePlace, Routing, Task, Worker};

/// A project in the making: one app without settings, and no workers.
pub(crate) struct Project {
    pub(crate) routing: Routing,
}

pub(crate) fn gap(why: &str) -> Gap {
    Gap {
        why: why.to_owned(),
        file: "settings.py".to_owned(),
        line: 1,
    }
}

pub(crate) fn location(line: u32) -> Location {
    Location {
        file: "settings.py".to_owned(),
        line,
        column: 1,
        end_column: 2,
        text: "x".to_owned(),
    }
}

impl Project {
    pub(crate) fn new() -> Self {
        let app = App {
            name: "shop.celery:app".to_owned(),
            packages: ["shop".to_owned()].into(),
            ..App::default()
        };
        Self {
            routing: Routing {
                apps: vec![app],
                ..Routing::default()
            },
        }
    }

    pub(crate) fn app(&mut self) -> &mut App {
        &mut self.routing.apps[0]
    }

    /// A map of routes: patterns and options.
    pub(crate) fn routes(mut self, lines: &[(&str, Options)]) -> Self {
        let entries = lines
            .iter()
            .enumerate()
            .map(|(id, (pattern, options))| Entry {
                id,
                pattern: Pattern::of_text(pattern),
                route: Ok(Route {
                    options: options.clone(),
                    empty: false,
                }),
            });
        self.app().config.routers = Ok(vec![Router::Map(entries.collect())]);
        let line = |id: usize| RoutePlace {
            pattern: Some(location(u32::try_from(id).expect("few") + 1)),
            target: None,
        };
        self.app().routes = (0..lines.len()).map(line).collect();
        self
    }

    pub(crate) fn routed(self, lines: &[(&str, &str)]) -> Self {
        let lines: Vec<(&str, Options)> = lines
            .iter()
            .map(|(p, queue)| (*p, Options::to_queue(queue)))
            .collect();
        self.routes(&lines)
    }

    pub(crate) fn task(mut self, name: &str) -> Self {
        self.app().tasks.push(Task {
            name: name.to_owned(),
            location: Some(location(90)),
            ..Task::default()
        });
        self
    }

    pub(crate) fn queue(mut self, queue: Queue) -> Self {
        let app = self.app();
        app.queues.push(Some(location(50)));
        if let Ok(queues) = &mut app.config.queues {
            queues.push(Queue {
                id: Some(app.queues.len() - 1),
                ..queue
            });
        }
        self
    }

    pub(crate) fn worker(mut self, queues: &[&str]) -> Self {
        let named: Vec<String> = queues.iter().map(|name| (*name).to_owned()).collect();
        self.routing.workers.known.push(Worker {
            name: "Procfile:1".to_owned(),
            app: None,
            queues: Ok(Some(named).filter(|named| !named.is_empty())),
            excluded: Ok(Vec::new()),
            location: None,
        });
        self
    }

    pub(crate) fn judged(&self, rule: &Rule) -> Judged {
        let check = registry::routing().find(|(other, _)| other.code == rule.code);
        check.expect("it judges routing").1(&self.routing)
    }

    /// What a rule finds, by its sentences.
    pub(crate) fn found(&self, rule: &Rule) -> Vec<String> {
        let judged = self.judged(rule);
        judged
            .findings
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }
}
