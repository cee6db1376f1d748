//! Where tasks go, and who would consume them: the answers of `routes explain` and `routes graph`.

use super::view::routing::carries;
use crate::celery::routing::{DecidedBy, Fault, Options, Router};
use crate::evidence::routing::{App, Location, Routing};

/// Where one task goes, as one app sends it.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The app.
    pub app: String,
    /// The task's name.
    pub task: String,
    /// Whether the project defines it.
    pub defined: bool,
    /// The queue that is named.
    pub queue: Option<String>,
    /// The exchange, empty for the default exchange.
    pub exchange: Option<String>,
    /// Its type.
    pub exchange_type: Option<String>,
    /// The routing key.
    pub routing_key: Option<String>,
    /// What decided, in words.
    pub decided_by: String,
    /// The entry of `task_routes` that decided.
    pub rule: Option<Ruled>,
    /// Patterns that came before it and did not match.
    pub passed: Vec<String>,
    /// The queues that the message reaches, as far as the bindings are known.
    pub reaches: Vec<String>,
    /// The workers that consume one of these.
    pub consumers: Vec<String>,
    /// Why there is no answer, or not all of one.
    pub error: Option<String>,
}

/// The entry of `task_routes` that decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruled {
    /// Its pattern.
    pub pattern: String,
    /// Where it stands.
    pub location: Option<Location>,
}

/// Where a task goes, as each app sends it. An app that does not define it is left out where another does.
pub fn explain(routing: &Routing, task: &str) -> Vec<Explained> {
    let defining: Vec<&App> = routing
        .apps
        .iter()
        .filter(|app| app.tasks.iter().any(|one| one.name == task))
        .collect();
    let apps = if defining.is_empty() {
        routing.apps.iter().collect()
    } else {
        defining
    };
    apps.into_iter()
        .map(|app| of_app(routing, app, task))
        .collect()
}

fn of_app(routing: &Routing, app: &App, name: &str) -> Explained {
    let task = app.tasks.iter().find(|task| task.name == name);
    let options = task.map_or_else(Options::default, |task| task.options.clone());
    let mut explained = Explained {
        app: app.name.clone(),
        task: name.to_owned(),
        defined: task.is_some(),
        queue: None,
        exchange: None,
        exchange_type: None,
        routing_key: None,
        decided_by: String::new(),
        rule: None,
        passed: Vec::new(),
        reaches: Vec::new(),
        consumers: Vec::new(),
        error: None,
    };
    let sent = match app.config.route(name, &options) {
        Ok(sent) => sent,
        Err(Fault::Unknown(gap)) => {
            explained.error = Some(gap.to_string());
            return explained;
        }
        Err(Fault::QueueNotFound(queue, _)) => {
            explained.error = Some(format!(
                "sending fails: queue {queue} is not in task_queues, and missing queues are not created"
            ));
            return explained;
        }
    };
    let decisive = match sent.decided_by {
        DecidedBy::Route(id) => Some(id),
        _ => None,
    };
    explained.decided_by = match sent.decided_by {
        DecidedBy::Options => "options of the task".to_owned(),
        DecidedBy::Route(_) => "task_routes".to_owned(),
        DecidedBy::Default => "task_default_queue".to_owned(),
    };
    for router in app.config.routers.iter().flatten() {
        let Router::Map(entries) = router else {
            continue;
        };
        let found = entries.iter().find(|entry| Some(entry.id) == decisive);
        if let Some(entry) = found {
            let place = app.routes.get(entry.id);
            explained.rule = Some(Ruled {
                pattern: entry.pattern.text().to_owned(),
                location: place.and_then(|place| place.pattern.clone()),
            });
        }
        // A name is looked up before any pattern is tried.
        let exact = found.is_some_and(|entry| entry.pattern.text() == name);
        if !exact {
            let before = entries
                .iter()
                .take_while(|entry| Some(entry.id) != decisive);
            explained
                .passed
                .extend(before.map(|entry| entry.pattern.text().to_owned()));
        }
        if found.is_some() {
            break;
        }
    }
    explained.queue.clone_from(&sent.queue);
    explained.exchange = sent.exchange.as_ref().ok().cloned();
    explained.exchange_type = sent.exchange_type.as_ref().ok().cloned();
    // Celery takes an exchange that is given by name alone for a direct one; what counts is how it was declared.
    if let Some(exchange) = explained
        .exchange
        .as_deref()
        .filter(|name| !name.is_empty())
        && let Some((declared, ..)) = routing.bound_to(exchange).into_iter().next()
    {
        explained.exchange_type = Some(declared.kind);
    }
    explained.routing_key = sent.routing_key.as_ref().ok().cloned().flatten();
    explained.error = sent.exchange.as_ref().err().map(ToString::to_string);
    explained.reaches = reaches(routing, &explained);
    for worker in &routing.workers.known {
        if let Ok(queues) = routing.consumed_by(worker)
            && explained.reaches.iter().any(|queue| queues.contains(queue))
        {
            explained.consumers.push(worker.name.clone());
        }
    }
    let live = routing
        .broker
        .as_ref()
        .and_then(|broker| broker.consumed.as_ref());
    if let Some(consumed) = live
        && explained
            .reaches
            .iter()
            .any(|queue| consumed.contains(queue))
    {
        explained
            .consumers
            .push("the broker's consumers".to_owned());
    }
    explained
}

fn reaches(routing: &Routing, explained: &Explained) -> Vec<String> {
    match (
        explained.exchange.as_deref(),
        explained.routing_key.as_deref(),
    ) {
        (Some(""), Some(key)) => vec![key.to_owned()],
        (Some(exchange), key) if !exchange.is_empty() => {
            let mut queues: Vec<String> = routing
                .bound_to(exchange)
                .into_iter()
                .filter(|(to, bound_by, _)| {
                    carries(&to.kind, bound_by, key.unwrap_or_default()) == Some(true)
                })
                .map(|(_, _, queue)| queue)
                .collect();
            queues.sort();
            queues.dedup();
            queues
        }
        _ => explained.queue.iter().cloned().collect(),
    }
}
