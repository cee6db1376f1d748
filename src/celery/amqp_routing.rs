//! Where an exchange of RabbitMQ sends a message, as the broker itself decides it. kombu's own matching, which Redis gets, is
//! in [`super::exchange`]; the two differ in what `*` and `#` take.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What matching goes by: the message's headers, or a binding's arguments.
pub type Arguments = BTreeMap<String, Value>;

/// One exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type: `direct`, `topic`, `fanout`, `headers`, or a plugin's.
    pub kind: &'a str,
    /// Whether only other exchanges may publish to it.
    pub internal: bool,
    /// The exchange that takes what this one can't route.
    pub alternate: Option<&'a str>,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination<'a> {
    /// A queue.
    Queue(&'a str),
    /// Another exchange.
    Exchange(&'a str),
}

/// One binding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Binding<'a> {
    /// The exchange from which.
    pub source: &'a str,
    /// To where.
    pub destination: Destination<'a>,
    /// The routing key or pattern.
    pub routing_key: &'a str,
    /// The arguments, which a headers exchange goes by.
    pub arguments: &'a Arguments,
}

/// The whole of a virtual host that routing goes by.
#[derive(Clone, Debug, Default)]
pub struct Topology<'a> {
    exchanges: BTreeMap<&'a str, Exchange<'a>>,
    queues: BTreeSet<&'a str>,
    bindings: BTreeMap<&'a str, Vec<Binding<'a>>>,
    doubts: BTreeMap<&'a str, String>,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed<'a> {
    /// It goes to these queues, at least one.
    Queues(BTreeSet<&'a str>),
    /// It goes to no queue: it is dropped, or returned where it is mandatory.
    Nowhere,
    /// The server refuses it and closes the channel.
    Refused(Refusal),
    /// It can't be known, for this reason.
    Unknown(String),
}

/// Why a server refuses a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such exchange (404 `NOT_FOUND`).
    NoExchange,
    /// The exchange is internal (403 `ACCESS_REFUSED`).
    Internal,
    /// A `CC` or `BCC` header is no list (406 `PRECONDITION_FAILED`).
    Copies,
}

impl<'a> Topology<'a> {
    /// Takes all the exchanges, queues and bindings of a virtual host. Of the default exchange nothing need be told.
    pub fn new(
        exchanges: impl IntoIterator<Item = Exchange<'a>>,
        queues: impl IntoIterator<Item = &'a str>,
        bindings: impl IntoIterator<Item = Binding<'a>>,
    ) -> Self {
        let mut topology = Self {
            exchanges: exchanges.into_iter().map(|e| (e.name, e)).collect(),
            queues: queues.into_iter().collect(),
            bindings: BTreeMap::new(),
            doubts: BTreeMap::new(),
        };
        for binding in bindings {
            let from = topology.bindings.entry(binding.source);
            from.or_default().push(binding);
        }
        topology
    }

    /// Says that an exchange may have an alternate exchange that is not known, and why.
    #[must_use]
    pub fn doubt(mut self, exchange: &'a str, why: impl Into<String>) -> Self {
        self.doubts.insert(exchange, why.into());
        self
    }

    /// Where a message goes that is published with this exchange and routing key (RabbitMQ 3.10 and 4.0
    /// `rabbit_exchange.erl`, `route`). Its headers decide in a headers exchange, and their `CC` and `BCC` are further
    /// routing keys; `None` where they are not known, which are taken to have no copies.
    pub fn route(
        &self,
        exchange: &str,
        routing_key: &str,
        headers: Option<&Arguments>,
    ) -> Routed<'a> {
        let Some(keys) = routing_keys(routing_key, headers) else {
            return Routed::Refused(Refusal::Copies);
        };
        if exchange.is_empty() {
            return self.by_default(&keys);
        }
        let Some(first) = self.exchanges.get(exchange) else {
            return Routed::Refused(Refusal::NoExchange);
        };
        if first.internal {
            return Routed::Refused(Refusal::Internal);
        }
        match self.follow(first, &keys, headers) {
            Err(why) => Routed::Unknown(why),
            Ok(queues) if queues.is_empty() => Routed::Nowhere,
            Ok(queues) => Routed::Queues(queues),
        }
    }

    /// In the default exchange the routing key is the queue.
    fn by_default(&self, keys: &[&str]) -> Routed<'a> {
        if keys.iter().any(|key| key.starts_with(DIRECT_REPLY)) {
            return Routed::Unknown("a direct reply goes to a channel, not to a queue".to_owned());
        }
        let queues: BTreeSet<&str> = keys
            .iter()
            .filter_map(|key| self.queues.get::<str>(key).copied())
            .collect();
        if queues.is_empty() {
            Routed::Nowhere
        } else {
            Routed::Queues(queues)
        }
    }

    /// Follows bindings between exchanges, each exchange once.
    fn follow(
        &self,
        first: &Exchange<'a>,
        keys: &[&str],
        headers: Option<&Arguments>,
    ) -> Result<BTreeSet<&'a str>, String> {
        let mut queues = BTreeSet::new();
        let mut seen = BTreeSet::from([first.name]);
        let mut waiting = vec![*first];
        while let Some(exchange) = waiting.pop() {
            let mut next = self.destinations(&exchange, keys, headers)?;
            // A binding that matches keeps the message from the alternate exchange, even where it leads nowhere itself.
            if next.is_empty() {
                if let Some(why) = self.doubts.get(exchange.name) {
                    return Err(why.clone());
                }
                next.extend(exchange.alternate.map(Destination::Exchange));
            }
            for destination in next {
                match destination {
                    Destination::Queue(name) => {
                        queues.extend(self.queues.get(name));
                    }
                    Destination::Exchange(name) => {
                        let known = self.exchanges.get(name);
                        waiting.extend(known.filter(|_| seen.insert(name)));
                    }
                }
            }
        }
        Ok(queues)
    }

    /// Where the bindings of one exchange lead.
    fn destinations(
        &self,
        exchange: &Exchange<'a>,
        keys: &[&str],
        headers: Option<&Arguments>,
    ) -> Result<BTreeSet<Destination<'a>>, String> {
        let takes = |binding: &Binding<'_>| match exchange.kind {
            "direct" => Ok(keys.contains(&binding.routing_key)),
            "topic" => {
                let mut keys = keys.iter();
                Ok(keys.any(|key| topic_matches(binding.routing_key, key)))
            }
            "fanout" => Ok(true),
            _ => headers_match(binding.arguments, headers).ok_or_else(|| {
                let name = exchange.name;
                format!("exchange {name} goes by headers that are not known well enough")
            }),
        };
        if !matches!(exchange.kind, "direct" | "topic" | "fanout" | "headers") {
            return Err(format!(
                "exchange {} is of type {}, whose routing is not known",
                exchange.name, exchange.kind
            ));
        }
        let mut destinations = BTreeSet::new();
        for binding in self.bindings.get(exchange.name).into_iter().flatten() {
            if takes(binding)? {
                destinations.insert(binding.destination);
            }
        }
        Ok(destinations)
    }
}

/// Queues of this name are channels that wait for a direct reply.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

/// The routing key and those of the copies; `None` where the server refuses them.
fn routing_keys<'a>(routing_key: &'a str, headers: Option<&'a Arguments>) -> Option<Vec<&'a str>> {
    let mut keys = vec![routing_key];
    for name in ["CC", "BCC"] {
        match headers.and_then(|headers| headers.get(name)) {
            None => {}
            Some(Value::Array(copies)) => keys.extend(copies.iter().filter_map(Value::as_str)),
            Some(_) => return None,
        }
    }
    Some(keys)
}

/// Whether the pattern of a topic binding takes a routing key: `*` takes one word, `#` any number of words, none included.
/// Words stand between dots and may be empty; a key without any character has no words (`rabbit_db_topic_exchange.erl`).
pub fn topic_matches(pattern: &str, routing_key: &str) -> bool {
    let pattern: Vec<&str> = words(pattern).collect();
    // Each place in the pattern that the words so far can have led to.
    let mut places = vec![false; pattern.len() + 1];
    places[0] = true;
    skip_hashes(&pattern, &mut places);
    for word in words(routing_key) {
        let mut next = vec![false; places.len()];
        for (at, wanted) in pattern.iter().enumerate() {
            if places[at] {
                match *wanted {
                    "#" => next[at] = true,
                    "*" => next[at + 1] = true,
                    wanted if wanted == word => next[at + 1] = true,
                    _ => {}
                }
            }
        }
        skip_hashes(&pattern, &mut next);
        places = next;
    }
    places[pattern.len()]
}

fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').filter(|_| !key.is_empty())
}

/// A `#` may take nothing.
fn skip_hashes(pattern: &[&str], places: &mut [bool]) {
    for (at, wanted) in pattern.iter().enumerate() {
        if places[at] && *wanted == "#" {
            places[at + 1] = true;
        }
    }
}

/// Whether a headers binding takes a message (`rabbit_exchange_type_headers.erl`); `None` where that can't be known.
fn headers_match(arguments: &Arguments, headers: Option<&Arguments>) -> Option<bool> {
    let mode = arguments.get("x-match").and_then(Value::as_str);
    let with_x = matches!(mode, Some("all-with-x" | "any-with-x"));
    let mut wanted = arguments
        .iter()
        .filter(|(name, _)| *name != "x-match" && (with_x || !name.starts_with("x-")))
        .map(|(name, wanted)| match headers {
            None => None,
            Some(headers) => match headers.get(name) {
                None => Some(false),
                Some(_) if wanted.is_null() => Some(true),
                Some(value) => same(wanted, value),
            },
        });
    // One that decides wins over one that is not known.
    let (decides, otherwise) = match mode {
        Some("any" | "any-with-x") => (true, false),
        _ => (false, true),
    };
    let mut unknown = false;
    for matches in wanted.by_ref() {
        match matches {
            Some(it) if it == decides => return Some(decides),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(otherwise)
}

/// Whether two values are the same to the broker. Seen as JSON it can't always be told: lists and tables can hide different
/// types, and 1 is 1.0 to RabbitMQ before 3.13 only.
fn same(wanted: &Value, value: &Value) -> Option<bool> {
    match (wanted, value) {
        (Value::Number(one), Value::Number(two)) if one.is_f64() != two.is_f64() => {
            (one.as_f64() != two.as_f64()).then_some(false)
        }
        (Value::Array(_) | Value::Object(_), _) => (wanted != value).then_some(false),
        _ => Some(wanted == value),
    }
}

#[cfg(test)]
mod tests;
