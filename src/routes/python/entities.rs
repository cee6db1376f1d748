//! Queues and exchanges, as kombu makes them.

use std::rc::Rc;

use serde_json::Value as Json;

use super::Walk;
use super::calls::Arguments;
use super::value::{Kind, Place, Value};
use crate::celery::routing::{Exchange, Gap, Queue};

impl Walk<'_, '_> {
    pub(super) fn exchange(&mut self, arguments: &Arguments, at: Place) -> Value {
        let name = optional_text(arguments.get(0, "name"));
        let kind = optional_text(arguments.get(1, "type"));
        match (name, kind, &arguments.spoiled) {
            (Ok(name), Ok(kind), None) => {
                let kind = kind.filter(|kind| !kind.is_empty());
                Value::new(
                    Kind::Exchange(Rc::new(Exchange {
                        name: name.unwrap_or_default().to_owned(),
                        kind: kind.unwrap_or("direct").to_owned(),
                    })),
                    at,
                )
            }
            (Err(value), _, _) | (_, Err(value), _) => self.because(value, at),
            (.., Some(gap)) => Value::new(Kind::Unknown(gap.clone()), at),
        }
    }

    pub(super) fn queue(&mut self, arguments: &Arguments, at: Place) -> Value {
        match self.queue_of(arguments) {
            Ok(queue) => Value::new(Kind::Queue(Rc::new(queue)), at),
            Err(gap) => Value::new(Kind::Unknown(gap), at),
        }
    }

    fn queue_of(&self, arguments: &Arguments) -> Result<Queue, Rc<Gap>> {
        if let Some(gap) = &arguments.spoiled {
            return Err(gap.clone());
        }
        let why = |value: &Value| {
            value
                .gap()
                .cloned()
                .unwrap_or_else(|| self.project.gap(value.at, "this is not worked out"))
        };
        let name = optional_text(arguments.get(0, "name")).map_err(why)?;
        let mut queue = Queue::named(name.unwrap_or_default());
        if let Some(exchange) = arguments.get(1, "exchange") {
            match &exchange.kind {
                Kind::None => {}
                Kind::Str(name) => queue.exchange = Exchange::direct(name),
                Kind::Exchange(exchange) => queue.exchange = (**exchange).clone(),
                _ => return Err(why(exchange)),
            }
        }
        let key = optional_text(arguments.get(2, "routing_key")).map_err(why)?;
        key.unwrap_or_default().clone_into(&mut queue.routing_key);
        if let Some(bindings) = arguments.keyword("bindings") {
            return Err(why(bindings));
        }
        let flag = |name: &str, default: bool| match arguments.keyword(name) {
            None => Ok(default),
            Some(value) => value.truth().ok_or_else(|| (*why(value)).clone()),
        };
        queue.durable = flag("durable", true);
        queue.auto_delete = flag("auto_delete", false);
        queue.arguments = self.queue_arguments(arguments);
        Ok(queue)
    }

    /// `queue_arguments`, and what kombu makes of its own options (kombu 5.7 `utils/amqp`, `to_rabbitmq_queue_arguments`).
    fn queue_arguments(&self, arguments: &Arguments) -> Result<Vec<(String, Json)>, Gap> {
        let mut all: Vec<(String, Json)> = Vec::new();
        match arguments.keyword("queue_arguments") {
            None => {}
            Some(value) => match &value.kind {
                Kind::None => {}
                Kind::Dict(dict) => {
                    let dict = dict.borrow();
                    if let Some(gap) = &dict.spoiled {
                        return Err((**gap).clone());
                    }
                    for (key, value) in &dict.entries {
                        if let Some(key) = key.text() {
                            all.push((key.to_owned(), json(value)));
                        }
                    }
                }
                Kind::Unknown(gap) => return Err((**gap).clone()),
                _ => {
                    let gap = self.project.gap(value.at, "this is not worked out");
                    return Err((*gap).clone());
                }
            },
        }
        for (name, key, factor) in [
            ("expires", "x-expires", 1000.0),
            ("message_ttl", "x-message-ttl", 1000.0),
            ("max_length", "x-max-length", 1.0),
            ("max_length_bytes", "x-max-length-bytes", 1.0),
            ("max_priority", "x-max-priority", 1.0),
        ] {
            let number = match arguments.keyword(name).map(|value| &value.kind) {
                None | Some(Kind::None) => continue,
                #[allow(clippy::cast_precision_loss, reason = "no limit is that large")]
                Some(Kind::Int(number)) => Some(*number as f64 * factor),
                Some(Kind::Float(number)) => Some(number * factor),
                Some(_) => None,
            };
            #[allow(clippy::cast_possible_truncation, reason = "Python's int() cuts too")]
            let number = number.map_or(Json::Null, |number| (number as i64).into());
            all.retain(|(old, _)| old != key);
            all.push((key.to_owned(), number));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    pub(super) fn broadcast(&mut self, arguments: &Arguments, at: Place) -> Value {
        let name = optional_text(arguments.get(0, "name"));
        let queue = optional_text(arguments.get(1, "queue"));
        let (Ok(Some(name)), Ok(queue)) = (name, queue) else {
            return self.unknown(at, "this Broadcast is not worked out");
        };
        let exchange = match arguments.get(4, "exchange").map(|exchange| &exchange.kind) {
            None | Some(Kind::None) => Exchange {
                name: name.to_owned(),
                kind: "fanout".to_owned(),
            },
            Some(Kind::Exchange(exchange)) => (**exchange).clone(),
            Some(_) => return self.unknown(at, "this Broadcast is not worked out"),
        };
        let made = Queue {
            exchange,
            alias: Some(name.to_owned()),
            broadcast: true,
            auto_delete: Ok(true),
            ..Queue::named(queue.unwrap_or(name))
        };
        Value::new(Kind::Queue(Rc::new(made)), at)
    }
}

/// A text or None; the value itself where it is something else.
fn optional_text(value: Option<&Value>) -> Result<Option<&str>, &Value> {
    match value.map(|value| (&value.kind, value)) {
        None | Some((Kind::None, _)) => Ok(None),
        Some((Kind::Str(text), _)) => Ok(Some(text)),
        Some((_, value)) => Err(value),
    }
}

/// A plain value as JSON; null for what is unknown.
fn json(value: &Value) -> Json {
    match &value.kind {
        Kind::Bool(truth) => (*truth).into(),
        Kind::Int(number) => (*number).into(),
        Kind::Float(number) => (*number).into(),
        Kind::Str(text) => (**text).into(),
        _ => Json::Null,
    }
}
