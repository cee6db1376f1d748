//! RabbitMQ definitions as the management API and `rabbitmqctl export_definitions` write them: what a virtual host has, without
//! a broker at hand. An export has no exclusive queues and no bindings of such, and none of the exchanges that every virtual
//! host is born with; these are added.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use thiserror::Error;

use crate::celery::amqp_routing::{self, Arguments, Destination, Topology};

/// Larger files are not read, in bytes. 10,000 queues with their bindings take some 5 MB.
const LARGEST: usize = 64 << 20;
/// What a policy's pattern may take when it is compiled, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;

/// Why a file can't be used as definitions.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DefinitionsError {
    /// It is too large.
    #[error("it has {0} bytes, and more than {LARGEST} are not read")]
    TooLarge(usize),
    /// It is no JSON, or a value in it is not what it should be; the parser's words, with the line.
    #[error("it is not the JSON of a definitions export: {0}")]
    NotJson(String),
    /// It is JSON of another kind.
    #[error(
        "it is JSON, but has none of the lists exchanges, queues and bindings; export it with \
         `rabbitmqctl export_definitions FILE`, or from /api/definitions"
    )]
    NotDefinitions,
    /// The virtual host is not in it.
    #[error("it has no virtual host {wanted}; it has {}", names(.there))]
    NoSuchVhost {
        /// The one that was asked for.
        wanted: String,
        /// Those that it has.
        there: Vec<String>,
    },
    /// It has several virtual hosts, and none was asked for.
    #[error("it has several virtual hosts; name one of {}", names(.there))]
    SeveralVhosts {
        /// Those that it has.
        there: Vec<String>,
    },
}

fn names(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// What one virtual host has.
#[derive(Debug, Clone, PartialEq)]
pub struct Definitions {
    /// Its name; none where the export of a single virtual host does not tell.
    pub vhost: Option<String>,
    /// Its exchanges, with those that are always there; the default exchange is left out.
    pub exchanges: Vec<Exchange>,
    /// Its queues.
    pub queues: Vec<Queue>,
    /// Its bindings.
    pub bindings: Vec<Binding>,
    /// Its policies.
    pub policies: Vec<Policy>,
}

/// One exchange.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// `direct`, `topic`, `fanout`, `headers`, or a plugin's.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether a restart keeps it.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Whether it goes away with its last binding.
    #[serde(default)]
    pub auto_delete: bool,
    /// Whether only other exchanges publish to it.
    #[serde(default)]
    pub internal: bool,
    /// The arguments it was declared with.
    #[serde(default, deserialize_with = "table")]
    pub arguments: Arguments,
    #[serde(default)]
    vhost: Option<String>,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Whether a restart keeps it.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Whether it goes away with its last consumer.
    #[serde(default)]
    pub auto_delete: bool,
    /// The arguments it was declared with.
    #[serde(default, deserialize_with = "table")]
    pub arguments: Arguments,
    #[serde(default)]
    vhost: Option<String>,
}

/// One binding.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Binding {
    /// The exchange from which.
    pub source: String,
    /// The queue or exchange to which.
    pub destination: String,
    /// What that is.
    pub destination_type: DestinationType,
    /// The routing key or pattern.
    #[serde(default)]
    pub routing_key: String,
    /// Its arguments, which a headers exchange goes by.
    #[serde(default, deserialize_with = "table")]
    pub arguments: Arguments,
    #[serde(default)]
    vhost: Option<String>,
}

/// What a binding leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationType {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// The regular expression of the names that it applies to.
    pub pattern: String,
    /// `all`, `queues`, `exchanges`, or one type of queues.
    #[serde(default, rename = "apply-to")]
    pub apply_to: Option<String>,
    /// What it sets, keys without `x-`.
    #[serde(default, deserialize_with = "table")]
    pub definition: Arguments,
    /// The highest one wins.
    #[serde(default)]
    pub priority: i64,
    #[serde(default)]
    vhost: Option<String>,
}

#[derive(Deserialize)]
struct File {
    vhosts: Option<Vec<Vhost>>,
    /// Since RabbitMQ 4.0, in the export of a single virtual host.
    original_vhost_name: Option<String>,
    exchanges: Option<Vec<Exchange>>,
    queues: Option<Vec<Queue>>,
    bindings: Option<Vec<Binding>>,
    policies: Option<Vec<Policy>>,
}

#[derive(Deserialize)]
struct Vhost {
    name: String,
}

fn yes() -> bool {
    true
}

/// Older servers write an empty list for an empty table.
fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arguments, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Table {
        Map(Arguments),
        Empty([Value; 0]),
        Nothing(()),
    }
    Ok(match Table::deserialize(deserializer)? {
        Table::Map(map) => map,
        Table::Empty([]) | Table::Nothing(()) => Arguments::new(),
    })
}

/// Reads an export of the whole broker or of one virtual host. Of the whole broker `vhost` names the one that counts;
/// none need be named where there is only one.
pub fn parse(json: &[u8], vhost: Option<&str>) -> Result<Definitions, DefinitionsError> {
    if json.len() > LARGEST {
        return Err(DefinitionsError::TooLarge(json.len()));
    }
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let file: File = serde_json::from_slice(json)
        .map_err(|error| DefinitionsError::NotJson(error.to_string()))?;
    if file.exchanges.is_none() && file.queues.is_none() && file.bindings.is_none() {
        return Err(DefinitionsError::NotDefinitions);
    }
    let name = chosen(&file, vhost)?;
    let here = |of: &Option<String>| of.is_none() || of.as_ref() == name.as_ref();
    let mut exchanges = file.exchanges.unwrap_or_default();
    let mut queues = file.queues.unwrap_or_default();
    let mut bindings = file.bindings.unwrap_or_default();
    let mut policies = file.policies.unwrap_or_default();
    exchanges.retain(|exchange| here(&exchange.vhost) && !exchange.name.is_empty());
    queues.retain(|queue| here(&queue.vhost));
    bindings.retain(|binding| here(&binding.vhost) && !binding.source.is_empty());
    policies.retain(|policy| here(&policy.vhost));
    for (always, kind, internal) in ALWAYS {
        if !exchanges.iter().any(|exchange| exchange.name == always) {
            exchanges.push(Exchange {
                name: always.to_owned(),
                kind: kind.to_owned(),
                durable: true,
                auto_delete: false,
                internal,
                arguments: Arguments::new(),
                vhost: name.clone(),
            });
        }
    }
    Ok(Definitions {
        vhost: name,
        exchanges,
        queues,
        bindings,
        policies,
    })
}

/// The exchanges that a virtual host is born with: name, type, and whether it is internal (RabbitMQ 3.10 `rabbit_vhost.erl`).
const ALWAYS: [(&str, &str, bool); 6] = [
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
    ("amq.topic", "topic", false),
];

/// The virtual host that counts.
fn chosen(file: &File, wanted: Option<&str>) -> Result<Option<String>, DefinitionsError> {
    let there = vhosts(file);
    match (wanted, there.as_slice()) {
        // An export of one virtual host that does not tell its name is taken for the one that was asked for.
        (wanted, []) => Ok(wanted.map(str::to_owned)),
        (None, [only]) => Ok(Some(only.clone())),
        (None, _) => Err(DefinitionsError::SeveralVhosts { there }),
        (Some(wanted), _) if there.iter().any(|name| name == wanted) => Ok(Some(wanted.to_owned())),
        (Some(wanted), _) => Err(DefinitionsError::NoSuchVhost {
            wanted: wanted.to_owned(),
            there,
        }),
    }
}

/// The names of all virtual hosts in the file.
fn vhosts(file: &File) -> Vec<String> {
    let mut names: BTreeSet<&String> = file.original_vhost_name.iter().collect();
    names.extend(file.vhosts.iter().flatten().map(|vhost| &vhost.name));
    let exchanges = file
        .exchanges
        .iter()
        .flatten()
        .filter_map(|e| e.vhost.as_ref());
    let queues = file
        .queues
        .iter()
        .flatten()
        .filter_map(|q| q.vhost.as_ref());
    let bindings = file
        .bindings
        .iter()
        .flatten()
        .filter_map(|b| b.vhost.as_ref());
    names.extend(exchanges.chain(queues).chain(bindings));
    // Of RabbitMQ 3 the policies alone name the virtual host of an export that is of one only.
    if names.is_empty() {
        names.extend(
            file.policies
                .iter()
                .flatten()
                .filter_map(|p| p.vhost.as_ref()),
        );
    }
    names.into_iter().cloned().collect()
}

/// The exchange that takes what another one can't route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alternate {
    /// There is none.
    None,
    /// This one.
    To(String),
    /// It can't be told, for this reason.
    Unknown(String),
}

impl Definitions {
    /// The alternate exchange of every exchange: by its argument, else by the policy with the highest priority among those
    /// that apply to it (RabbitMQ 3.10 `rabbit_policy.erl`, `get_arg` and `match`).
    pub fn alternates(&self) -> BTreeMap<&str, Alternate> {
        let applies = |policy: &&Policy| {
            let to = policy.apply_to.as_deref().unwrap_or("all");
            matches!(to, "all" | "exchanges")
        };
        let mut policies: Vec<&Policy> = self.policies.iter().filter(applies).collect();
        // Without one that sets it there is nothing to decide.
        if policies
            .iter()
            .all(|policy| set_by(&policy.definition).is_none())
        {
            policies.clear();
        }
        policies.sort_by_key(|policy| Reverse(policy.priority));
        let policies: Vec<(&Policy, Option<Regex>)> = policies
            .into_iter()
            .map(|policy| (policy, compiled(&policy.pattern)))
            .collect();
        let exchanges = self.exchanges.iter();
        exchanges
            .map(|exchange| (exchange.name.as_str(), alternate(exchange, &policies)))
            .collect()
    }

    /// What routing goes by; `alternates` are those of [`Definitions::alternates`].
    pub fn topology<'a>(&'a self, alternates: &'a BTreeMap<&'a str, Alternate>) -> Topology<'a> {
        let exchanges = self
            .exchanges
            .iter()
            .map(|exchange| amqp_routing::Exchange {
                name: &exchange.name,
                kind: &exchange.kind,
                internal: exchange.internal,
                alternate: match alternates.get(exchange.name.as_str()) {
                    Some(Alternate::To(to)) => Some(to),
                    _ => None,
                },
            });
        let queues = self.queues.iter().map(|queue| queue.name.as_str());
        let bindings = self.bindings.iter().map(|binding| amqp_routing::Binding {
            source: &binding.source,
            destination: match binding.destination_type {
                DestinationType::Queue => Destination::Queue(&binding.destination),
                DestinationType::Exchange => Destination::Exchange(&binding.destination),
            },
            routing_key: &binding.routing_key,
            arguments: &binding.arguments,
        });
        let mut topology = Topology::new(exchanges, queues, bindings);
        for (name, alternate) in alternates {
            if let Alternate::Unknown(why) = alternate {
                topology = topology.doubt(name, why.as_str());
            }
        }
        topology
    }
}

fn set_by(table: &Arguments) -> Option<String> {
    let name = table.get("alternate-exchange");
    name.and_then(Value::as_str).map(str::to_owned)
}

/// A policy's pattern. `None` for what only the server's own engine understands.
fn compiled(pattern: &str) -> Option<Regex> {
    let mut regex = RegexBuilder::new(pattern);
    regex.size_limit(LARGEST_PATTERN).build().ok()
}

/// The alternate exchange of one exchange; the policies in the order of their priorities.
fn alternate(exchange: &Exchange, policies: &[(&Policy, Option<Regex>)]) -> Alternate {
    if let Some(to) = set_by(&exchange.arguments) {
        return Alternate::To(to);
    }
    let name = &exchange.name;
    let mut first: Option<&Policy> = None;
    for (policy, pattern) in policies {
        if first.is_some_and(|first| first.priority > policy.priority) {
            break;
        }
        let Some(pattern) = pattern else {
            return Alternate::Unknown(format!(
                "the pattern of policy {} can't be read, and the policy may give exchange {name} an alternate exchange",
                policy.name
            ));
        };
        match first {
            _ if !pattern.is_match(name) => {}
            None => first = Some(policy),
            Some(other) if set_by(&other.definition) == set_by(&policy.definition) => {}
            Some(other) => {
                return Alternate::Unknown(format!(
                    "policies {} and {} have the same priority, and which one applies to exchange {name} is not fixed",
                    other.name, policy.name
                ));
            }
        }
    }
    let to = first.and_then(|policy| set_by(&policy.definition));
    to.map_or(Alternate::None, Alternate::To)
}

#[cfg(test)]
mod tests;
