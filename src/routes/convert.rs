//! From Python values to queues, routes and options.

use std::rc::Rc;

use super::python::{Kind, Place, Project, Value};
use crate::celery::routing::{
    self, Entry, Exchange, Gap, Known, Options, Pattern, Queue, Route, Router, Target, python_regex,
};
use crate::evidence::routing::{App, RoutePlace};

/// A text, or None; none where it is something else.
#[allow(
    clippy::option_option,
    reason = "None of Python and none of Rust are two things here"
)]
pub(super) fn text_of(value: &Value) -> Option<Option<String>> {
    match &value.kind {
        Kind::None => Some(None),
        Kind::Str(text) => Some(Some(text.to_string())),
        _ => None,
    }
}

pub(super) fn why(project: &Project, value: &Value, otherwise: &str) -> Gap {
    match value.gap() {
        Some(gap) => (**gap).clone(),
        None => (*project.gap(value.at, otherwise)).clone(),
    }
}

pub(super) fn queues(project: &mut Project, app: &mut App, value: &Value) -> Known<Vec<Queue>> {
    let mut made = Vec::new();
    if let Kind::None = value.kind {
        return Ok(made);
    }
    let pairs: Vec<(Option<Value>, Value)> = match &value.kind {
        Kind::Dict(dict) => {
            let dict = dict.borrow();
            if let Some(gap) = &dict.spoiled {
                return Err((**gap).clone());
            }
            dict.entries
                .iter()
                .map(|(key, value)| (Some(key.clone()), value.clone()))
                .collect()
        }
        _ => match value.items() {
            Some(items) => items.into_iter().map(|item| (None, item)).collect(),
            None => return Err(why(project, value, "what task_queues is is not worked out")),
        },
    };
    for (key, value) in pairs {
        let value = project.settle(value);
        let at = value.at;
        let mut queue = match (&value.kind, &key) {
            (Kind::Queue(queue), _) => (**queue).clone(),
            (Kind::Dict(_), Some(key)) => by_dict(project, key, &value)?,
            _ => return Err(why(project, &value, "this queue is not worked out")),
        };
        queue.id = Some(app.queues.len());
        app.queues.push(project.location(at));
        made.push(queue);
    }
    Ok(made)
}

/// A queue of a dict of dicts (kombu 5.7 `entity.py`, `Queue.from_dict`, and Celery's `add_compat`).
fn by_dict(project: &Project, key: &Value, value: &Value) -> Known<Queue> {
    let Some(name) = key.text() else {
        return Err(why(
            project,
            key,
            "the name of this queue is not worked out",
        ));
    };
    let Kind::Dict(dict) = &value.kind else {
        return Err(why(project, value, "this queue is not worked out"));
    };
    let dict = dict.borrow();
    if let Some(gap) = &dict.spoiled {
        return Err((**gap).clone());
    }
    let text = |name: &str| match dict.get(name) {
        None => Ok(None),
        Some(value) => text_of(value).ok_or_else(|| why(project, value, "this is not worked out")),
    };
    let mut queue = Queue::named(name);
    let kind = text("exchange_type")?.filter(|kind| !kind.is_empty());
    queue.exchange = Exchange {
        name: text("exchange")?.unwrap_or_default(),
        kind: kind.unwrap_or_else(|| "direct".to_owned()),
    };
    let by = match text("routing_key")? {
        Some(key) => Some(key),
        None => text("binding_key")?,
    };
    queue.routing_key = match text("binding_key")?.filter(|key| !key.is_empty()) {
        Some(key) => key,
        None => by.unwrap_or_else(|| name.to_owned()),
    };
    if dict.get("queue_arguments").is_some() {
        queue.arguments =
            Err((*project.gap(value.at, "the arguments of this queue are not worked out")).clone());
    }
    Ok(queue)
}

pub(super) fn routers(project: &mut Project, app: &mut App, value: &Value) -> Vec<Router> {
    let opaque = |project: &Project, value: &Value| {
        Router::Opaque(why(project, value, "this router would have to be called"))
    };
    match &value.kind {
        Kind::None => Vec::new(),
        Kind::Dict(_) => vec![map(project, app, value)],
        Kind::List(_) | Kind::Tuple(_) => match value.items() {
            None => vec![Router::Opaque(spoiled(project, value))],
            Some(items) => {
                let mut all = Vec::new();
                for item in items {
                    let item = project.settle(item);
                    all.push(match &item.kind {
                        Kind::Dict(_) | Kind::List(_) | Kind::Tuple(_) => map(project, app, &item),
                        _ => opaque(project, &item),
                    });
                }
                all
            }
        },
        _ => vec![opaque(project, value)],
    }
}

/// Why a list or a dict may hold other things.
fn spoiled(project: &Project, value: &Value) -> Gap {
    let gap = match &value.kind {
        Kind::List(list) => list.borrow().spoiled.clone(),
        Kind::Dict(dict) => dict.borrow().spoiled.clone(),
        _ => None,
    };
    match gap {
        Some(gap) => (*gap).clone(),
        None => why(project, value, "this is not worked out"),
    }
}

fn map(project: &mut Project, app: &mut App, value: &Value) -> Router {
    let pairs: Option<Vec<(Value, Value)>> = match &value.kind {
        Kind::Dict(dict) => {
            let dict = dict.borrow();
            dict.spoiled.is_none().then(|| dict.entries.clone())
        }
        _ => value.items().and_then(|items| {
            let pair = |item: &Value| <[Value; 2]>::try_from(item.items()?).ok();
            items
                .iter()
                .map(|item| pair(item).map(|[key, value]| (key, value)))
                .collect()
        }),
    };
    let Some(pairs) = pairs else {
        return Router::Opaque(spoiled(project, value));
    };
    let mut entries = Vec::new();
    for (key, value) in pairs {
        let (key, value) = (project.settle(key), project.settle(value));
        let pattern = match &key.kind {
            Kind::Str(text) => Pattern::of_text(text),
            Kind::Regex(source, flags) => Pattern::Regex {
                source: source.to_string(),
                regex: python_regex(source).filter(|_| !flags).ok_or_else(|| {
                    (*project.gap(key.at, "this regular expression is not worked out")).clone()
                }),
            },
            _ => {
                return Router::Opaque(why(
                    project,
                    &key,
                    "what this route is for is not worked out",
                ));
            }
        };
        let (route, target) = route(project, &value);
        let id = app.routes.len();
        app.routes.push(RoutePlace {
            pattern: project.location(key.at),
            target: project.location(target),
        });
        routing::insert(&mut entries, Entry { id, pattern, route });
    }
    Router::Map(entries)
}

/// The value of a route, and where its queue is named.
fn route(project: &mut Project, value: &Value) -> (Known<Route>, Place) {
    let at = value.at;
    match &value.kind {
        Kind::Str(text) => {
            let empty = text.is_empty();
            let options = if empty {
                Options::default()
            } else {
                Options::to_queue(text)
            };
            (Ok(Route { options, empty }), at)
        }
        Kind::Dict(dict) => {
            let (entries, spoiled) = {
                let dict = dict.borrow();
                (dict.entries.clone(), dict.spoiled.clone())
            };
            if let Some(gap) = spoiled {
                return (Err((*gap).clone()), at);
            }
            let named: Vec<(Rc<str>, Value)> = entries
                .iter()
                .filter_map(|(key, value)| match &key.kind {
                    Kind::Str(key) => Some((key.clone(), value.clone())),
                    _ => None,
                })
                .collect();
            let options = options(project, &named);
            let empty = entries.is_empty();
            (Ok(Route { options, empty }), target(&named).unwrap_or(at))
        }
        _ => (Err(why(project, value, "this route is not worked out")), at),
    }
}

/// Where a queue, or else an exchange, is named.
pub(super) fn target(options: &[(Rc<str>, Value)]) -> Option<Place> {
    let of = |name: &str| {
        options
            .iter()
            .rfind(|(key, _)| &**key == name)
            .map(|(_, value)| value.at)
    };
    of("queue")
        .or_else(|| of("exchange"))
        .or_else(|| of("routing_key"))
}

pub(super) fn options(project: &mut Project, given: &[(Rc<str>, Value)]) -> Options {
    let mut made = Options::default();
    for (name, value) in given {
        let value = project.settle(value.clone());
        let text = |project: &Project| match &value.kind {
            Kind::Exchange(exchange) if &**name == "exchange" => Ok(Some(exchange.name.clone())),
            _ => text_of(&value).ok_or_else(|| why(project, &value, "this is not worked out")),
        };
        match &**name {
            "queue" => {
                made.queue = match &value.kind {
                    Kind::Queue(queue) => Ok(Some(Target::Queue(Box::new((**queue).clone())))),
                    _ => text(project).map(|name| name.map(Target::Name)),
                };
            }
            "exchange" => made.exchange = text(project),
            "exchange_type" => made.exchange_type = text(project),
            "routing_key" => made.routing_key = text(project),
            _ => {}
        }
    }
    made
}
