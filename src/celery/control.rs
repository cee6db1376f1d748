//! Remote control: what kombu's pidbox puts on the wire, and what Celery's workers answer.
//!
//! kombu 5.7 `pidbox.py` and `transport/redis.py`, Celery 5.7 `worker/control.py`.

mod claims;
mod settings;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::body::{self, MAX_UNPACKED, Serializer};
use super::exchange::DEFAULT_SEP;
use super::loose::{Scalar, loose_map, read_python_json};

pub use claims::{
    Claim, ClaimState, decode_active, decode_query_task, decode_reserved, decode_revoked,
    decode_scheduled,
};
pub use settings::{
    ActiveQueue, Conf, DISABLED, Route, Stats, TaskTraits, TransportOptions, decode_active_queues,
    decode_conf, decode_registered, decode_stats,
};

/// The exchange that workers answer to.
pub const REPLY_EXCHANGE: &str = "reply.celery.pidbox";
/// The set that announces reply queues.
pub const REPLY_BINDINGS: &str = "_kombu.binding.reply.celery.pidbox";
/// The set with one member for each worker that ever listened: see [`node_of_mailbox`].
pub const MAILBOXES: &str = "_kombu.binding.celery.pidbox";
/// The task attributes that [`decode_registered`] reads: the argument `taskinfoitems` of `registered`.
pub const TASK_INFO_ITEMS: [&str; 7] = settings::TRAITS;

/// What `conf` shows in place of a setting whose name, or the name of a part of it, contains `KEY` and the like:
/// `routing_key` in a route and `global_keyprefix` too (Celery 5.7 app/utils.py, `filter_hidden_settings`).
pub const STARRED: &str = "********";

/// The channel of a fanout exchange that workers of this database listen on (`fanout_prefix` at its default, `/{db}.`).
pub fn channel(db: i64, exchange: &str) -> String {
    format!("/{db}.{exchange}")
}

/// The member of [`REPLY_BINDINGS`] that makes workers' replies reach the list [`reply_list`]. A worker splits it by its
/// own transport option `sep`, and fails to reply where that gives no three parts (kombu 5.7 transport/redis.py,
/// `get_table`).
pub fn reply_binding(oid: &str, sep: &str) -> String {
    format!("{oid}{sep}{sep}{}", reply_list(oid))
}

/// The list that workers push their replies to.
pub fn reply_list(oid: &str) -> String {
    format!("{oid}.{REPLY_EXCHANGE}")
}

/// The worker that a member of [`MAILBOXES`] stands for.
pub fn node_of_mailbox(member: &[u8]) -> Option<String> {
    let member = std::str::from_utf8(member).ok()?;
    let queue = member.rsplit(DEFAULT_SEP).next()?;
    queue
        .strip_suffix(".celery.pidbox")
        .filter(|node| !node.is_empty())
        .map(str::to_owned)
}

/// The body of a request. Workers answer through `exchange` with the routing key `reply_to`; through the default
/// exchange they reach a queue of that name.
#[allow(
    clippy::needless_pass_by_value,
    reason = "callers make the arguments on the spot"
)]
pub fn request_body(
    method: &str,
    arguments: Value,
    ticket: &str,
    exchange: &str,
    reply_to: &str,
) -> String {
    let body = json!({
        "method": method,
        "arguments": arguments,
        "destination": null,
        "pattern": null,
        "matcher": null,
        "ticket": ticket,
        "reply_to": {"exchange": exchange, "routing_key": reply_to},
    });
    body.to_string()
}

/// The message to publish on [`channel`]. `expires` is Unix time; workers ignore what comes later than that.
pub fn request(
    method: &str,
    arguments: Value,
    ticket: &str,
    reply_to: &str,
    expires: f64,
) -> String {
    let body = request_body(method, arguments, ticket, REPLY_EXCHANGE, reply_to);
    let message = json!({
        "body": STANDARD.encode(body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 1, "expires": expires},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            // Any text does; kombu makes a random UUID. The ticket is one already, and no clock or chance is needed here.
            "delivery_tag": Uuid::parse_str(ticket).unwrap_or_default().to_string(),
        },
    });
    message.to_string()
}

/// What [`decode_report`] reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of Celery.
    pub celery: Option<String>,
    /// The version of kombu.
    pub kombu: Option<String>,
    /// The URL of the result backend, its password starred; [`DISABLED`] where there is none.
    pub results: Option<String>,
}

/// The versions and the result backend in the answer to `report`, which begins with `software -> celery:5.7.0 (name)
/// kombu:5.7.0 py:3.11.2` and has a line `settings -> transport:redis results:redis://shop/1` (Celery 5.7 app/utils.py,
/// `BUGREPORT_INFO`). The rest, other settings among it, is not looked at.
pub fn decode_report(answer: &Value) -> Report {
    let text = answer.get("ok").and_then(Value::as_str).unwrap_or_default();
    let after = |start: &str, of: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(start))?;
        let mut words = line.split_whitespace();
        words.find_map(|word| word.strip_prefix(of))
    };
    let version = |of: &str| {
        let version = after("software ->", of)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        let is_one =
            version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(plain);
        is_one.then(|| version.to_owned())
    };
    Report {
        celery: version("celery:"),
        kombu: version("kombu:"),
        results: after("settings ->", "results:")
            .filter(|url| !url.is_empty())
            .map(str::to_owned),
    }
}

/// One worker's answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request it belongs to.
    pub ticket: String,
    /// The worker.
    pub node: String,
    /// What it says, without arguments of tasks.
    pub answer: Value,
    /// The content type that it came with, where that is none of kombu's: the app has a serializer of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
}

/// What came in answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A reply.
    Reply(Reply),
    /// A reply that can't be read: who sent it stands in what can't be read.
    Unreadable {
        /// The request it belongs to.
        ticket: String,
        /// The content type that it names.
        content_type: String,
    },
}

loose_map!(Message<'a> {
    body: Scalar<'a> = "body",
    content_type: Scalar<'a> = "content-type",
    headers: Headers<'a> = "headers",
    properties: Properties<'a> = "properties",
});
loose_map!(Headers<'a> { ticket: Scalar<'a> = "ticket", compression: Scalar<'a> = "compression", });
loose_map!(Properties<'a> { body_encoding: Scalar<'a> = "body_encoding", });

/// Reads an item of [`reply_list`]. Arguments of tasks are dropped here, before anyone can see them.
pub fn parse_reply(message: &[u8]) -> Option<Heard> {
    if message.len() > 2 * MAX_UNPACKED {
        return None;
    }
    let read =
        |json: &[u8]| serde_json::from_slice(json).map(|message: Message<'_>| message.reply());
    read_python_json(message, read).ok()?
}

impl Message<'_> {
    fn reply(&self) -> Option<Heard> {
        let bytes = body::decoded(self.body.str()?, self.properties.body_encoding.str()).ok()?;
        let ticket = self.headers.ticket.filled()?;
        Some(read_reply(
            ticket,
            self.content_type.str(),
            self.headers.compression.str(),
            &bytes,
        ))
    }
}

/// Reads the body of a reply that AMQP carried, as [`parse_reply`] does. A worker replies in its `task_serializer` (Celery
/// 5.7 app/control.py, `Control`), which can be one of the app's own.
pub fn read_reply(
    ticket: String,
    content_type: Option<&str>,
    compression: Option<&str>,
    body: &[u8],
) -> Heard {
    let content_type = content_type.unwrap_or("application/json");
    let Some((dialect, (node, mut answer))) = answer_in(content_type, compression, body) else {
        return Heard::Unreadable {
            ticket,
            content_type: shown(content_type),
        };
    };
    drop_arguments(&mut answer);
    Heard::Reply(Reply {
        ticket,
        node,
        answer,
        dialect,
    })
}

/// The content type where it is none of kombu's, and the only node with its answer.
fn answer_in(
    content_type: &str,
    compression: Option<&str>,
    body: &[u8],
) -> Option<(Option<String>, (String, Value))> {
    if body.len() > 2 * MAX_UNPACKED {
        return None;
    }
    let bytes = body::decompressed(Cow::Borrowed(body), compression).ok()?;
    let known = Serializer::of_content_type(content_type);
    let serializer = known.or_else(|| Serializer::sniffed(&bytes))?;
    let Ok(Value::Object(answers)) = serializer.read(&bytes) else {
        return None;
    };
    let dialect = known.is_none().then(|| shown(content_type));
    // What an app wraps its data in is no reply of a node, whose name always holds an `@`.
    let alone = answers.len() == 1 && answers.keys().all(|node| node.contains('@'));
    if dialect.is_some() && !alone {
        return None;
    }
    Some((dialect, answers.into_iter().next()?))
}

/// A content type, as far as one may be shown.
fn shown(content_type: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || "/+-._".contains(*c);
    content_type.chars().filter(plain).take(80).collect()
}

/// The recursion is bounded by the readers, which refuse what is nested deeper than 128.
fn drop_arguments(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("args");
            map.remove("kwargs");
            map.values_mut().for_each(drop_arguments);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_arguments),
        _ => {}
    }
}

/// The worker failed to answer (`Node.dispatch`: `{"error": repr}`). The text may hold private data, and is not given.
pub fn is_error(answer: &Value) -> bool {
    answer
        .as_object()
        .is_some_and(|map| map.len() == 1 && map.get("error").is_some_and(Value::is_string))
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
