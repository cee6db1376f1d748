//! The envelope of a task message, protocols 1 and 2, as kombu's virtual transports keep it in Redis and as AMQP
//! carries it.
//!
//! Layout: Celery 5.7 `app/amqp.py` (`as_task_v1`, `as_task_v2`) and kombu 5.7 `transport/virtual/base.py`
//! (`prepare_message`, `basic_publish`).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::body::{self, Serializer};
pub use super::body::{MAX_UNPACKED as BODY_MAX, Unreadable};
use super::canvas::{CHORD_UNLOCK, Embed, Signatures, Step, Unlock};
pub use super::finder::{IdFinder, Match};
use super::loose::{Owned, Scalar, loose_map, loose_seq, read_python_json};
use super::when::When;

/// The two layouts of a task message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Everything is in the body (Celery 3, or `task_protocol = 1`).
    One,
    /// Meta data in the headers (the default since Celery 4).
    Two,
}

/// What a message says about its task, without the task's data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The layout it was read from.
    pub protocol: Protocol,
    /// The task's id.
    pub id: String,
    /// The task's name.
    pub task: Option<String>,
    /// Not to run before then.
    pub eta: Option<When>,
    /// Not to run after then.
    pub expires: Option<When>,
    /// How many retries came before.
    pub retries: Option<u64>,
    /// The first task of the workflow (protocol 2).
    pub root_id: Option<String>,
    /// The task that sent this one (protocol 2).
    pub parent_id: Option<String>,
    /// The group that it belongs to.
    pub group: Option<String>,
    /// The process that published it (protocol 2).
    pub origin: Option<String>,
    /// Celery sets it to the task's id.
    pub correlation_id: Option<String>,
    /// Where an RPC result goes.
    pub reply_to: Option<String>,
    /// The key of its reservation in `unacked`.
    pub delivery_tag: Option<String>,
    /// The exchange it was published to; empty for the default one.
    pub exchange: Option<String>,
    /// The routing key it was published with.
    pub routing_key: Option<String>,
    /// It has been restored at least once.
    pub redelivered: bool,
    /// Its priority as published, not clamped.
    pub priority: Option<i64>,
    /// The serialisation of the body.
    pub content_type: Option<String>,
    /// The encoding of the serialised body.
    pub content_encoding: Option<String>,
    /// The compression of the body.
    pub compression: Option<String>,
    /// Its result is not stored (protocol 2).
    pub ignore_result: Option<bool>,
    /// The hard time limit in seconds.
    pub time_limit: Option<f64>,
    /// The id of the chord body that waits for this task.
    pub chord: Option<String>,
    /// The id of the next link of the chain (protocol 2).
    pub chain_next: Option<String>,
    /// What is sent after it, as far as its message carries that. A reading of some ids leaves what leads to them, and
    /// keeps it in [`crate::evidence::Evidence::canvases`].
    #[serde(skip)]
    pub canvas: Vec<Step>,
    /// The size of the body, compressed as it came.
    pub body_bytes: usize,
    /// The reprs of the arguments, if they were asked for.
    pub args: Option<String>,
}

/// Whether private data is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The envelope alone.
    Envelope,
    /// The reprs of the arguments too.
    Args,
}

/// Why something is no task message. Never holds any of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not text.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// Ends in the middle.
    #[error("it is cut off")]
    Truncated,
    /// Not JSON.
    #[error("it is not JSON")]
    NotJson,
    /// Nested deeper than can be read.
    #[error("it is nested too deep")]
    TooDeep,
    /// A key stands twice, so that readers disagree on its value.
    #[error("a key of it stands twice")]
    DuplicateKey,
    /// JSON, and not an object.
    #[error("it is not an object")]
    NotAnObject,
    /// Not the triple that kombu keeps in `unacked`.
    #[error("it is not a list of message, exchange and routing key")]
    NotAReservation,
    /// There is no id where the protocol has it.
    #[error("it has no task id")]
    NoTaskId,
    /// Protocol 1 has the id in the body alone.
    #[error("it follows protocol 1, and its body is unreadable: {0}")]
    Body(Unreadable),
}

impl Malformed {
    /// Whether Celery can have written it, and only this tool does not read it.
    pub fn may_be_celerys(self) -> bool {
        matches!(self, Self::Body(Unreadable::Yaml | Unreadable::TooLarge))
    }
}

loose_map!(
    /// A message as it stands in a queue.
    Message<'a> {
        body: Scalar<'a> = "body",
        content_type: Scalar<'a> = "content-type",
        content_encoding: Scalar<'a> = "content-encoding",
        headers: Headers<'a> = "headers",
        properties: Properties<'a> = "properties",
    }
);

loose_map!(Headers<'a> {
    id: Scalar<'a> = "id",
    task: Scalar<'a> = "task",
    eta: Scalar<'a> = "eta",
    expires: Scalar<'a> = "expires",
    retries: Scalar<'a> = "retries",
    root_id: Scalar<'a> = "root_id",
    parent_id: Scalar<'a> = "parent_id",
    group: Scalar<'a> = "group",
    origin: Scalar<'a> = "origin",
    redelivered: Scalar<'a> = "redelivered",
    compression: Scalar<'a> = "compression",
    ignore_result: Scalar<'a> = "ignore_result",
    time_limits: TimeLimits = "timelimit",
    argsrepr: Scalar<'a> = "argsrepr",
    kwargsrepr: Scalar<'a> = "kwargsrepr",
});

loose_map!(Properties<'a> {
    correlation_id: Scalar<'a> = "correlation_id",
    reply_to: Scalar<'a> = "reply_to",
    delivery_tag: Scalar<'a> = "delivery_tag",
    priority: Scalar<'a> = "priority",
    body_encoding: Scalar<'a> = "body_encoding",
    delivery_info: DeliveryInfo<'a> = "delivery_info",
});

loose_map!(DeliveryInfo<'a> {
    exchange: Scalar<'a> = "exchange",
    routing_key: Scalar<'a> = "routing_key",
    redelivered: Scalar<'a> = "redelivered",
});

loose_map!(
    /// The body of protocol 1.
    BodyOne {
        id: Owned = "id",
        task: Owned = "task",
        eta: Owned = "eta",
        expires: Owned = "expires",
        retries: Owned = "retries",
        group: Owned = "group",
        taskset: Owned = "taskset",
        time_limits: TimeLimits = "timelimit",
        callbacks: Signatures = "callbacks",
        errbacks: Signatures = "errbacks",
        chain: Signatures = "chain",
        chord: Signatures = "chord",
    }
);

/// `[hard, soft]`.
#[derive(Debug, Default)]
pub(super) struct TimeLimits {
    hard: Option<f64>,
}

/// `[args, kwargs, embed]`, of which the first two are skipped.
#[derive(Debug, Default)]
struct BodyTwo {
    embed: Embed,
}

loose_seq!(TimeLimits, |seq| {
    TimeLimits {
        hard: seq.next_element::<Owned>()?.and_then(|hard| hard.float()),
    }
});

loose_seq!(BodyTwo, |seq| {
    seq.next_element::<serde::de::IgnoredAny>()?;
    seq.next_element::<serde::de::IgnoredAny>()?;
    BodyTwo {
        embed: seq.next_element()?.unwrap_or_default(),
    }
});

/// Reads a message as it stands in a queue.
pub fn parse(message: &[u8], keep: Keep) -> Result<Envelope, Malformed> {
    check_start(message, b'{', Malformed::NotAnObject)?;
    read_json(message, |json| {
        serde_json::from_slice(json).map(|message: Message<'_>| message.envelope(keep))
    })?
}

/// Rejects what does not start as it must: the readers take any other value for an empty one.
pub(super) fn check_start(json: &[u8], start: u8, otherwise: Malformed) -> Result<(), Malformed> {
    std::str::from_utf8(json).map_err(|error| {
        if error.error_len().is_none() {
            Malformed::Truncated
        } else {
            Malformed::NotUtf8
        }
    })?;
    match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(&first) if first == start => Ok(()),
        Some(b'{' | b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n') => {
            match serde_json::from_slice::<serde::de::IgnoredAny>(json) {
                Ok(_) => Err(otherwise),
                Err(error) => Err(malformed(&error)),
            }
        }
        Some(_) => Err(Malformed::NotJson),
        None => Err(Malformed::Truncated),
    }
}

pub(super) fn read_json<T>(
    json: &[u8],
    read: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
) -> Result<T, Malformed> {
    read_python_json(json, read).map_err(|error| malformed(&error))
}

fn malformed(error: &serde_json::Error) -> Malformed {
    match error.classify() {
        serde_json::error::Category::Eof => Malformed::Truncated,
        serde_json::error::Category::Data => Malformed::DuplicateKey,
        _ if error.to_string().starts_with("recursion limit") => Malformed::TooDeep,
        _ => Malformed::NotJson,
    }
}

impl Message<'_> {
    pub(super) fn envelope(&self, keep: Keep) -> Result<Envelope, Malformed> {
        let parts = Parts {
            body: Body::Text(
                self.body.str().unwrap_or_default(),
                self.properties.body_encoding.str(),
            ),
            content_type: &self.content_type,
            content_encoding: &self.content_encoding,
            headers: &self.headers,
            properties: &self.properties,
        };
        parts.envelope(keep)
    }
}

/// A message as AMQP carries it: kombu's properties, headers and body are AMQP's own (kombu 5.7
/// `transport/pyamqp.py`, `prepare_message`).
#[derive(Clone, Copy, Debug)]
pub struct AmqpMessage<'a> {
    /// The property `content-type`.
    pub content_type: Option<&'a str>,
    /// The property `content-encoding`.
    pub content_encoding: Option<&'a str>,
    /// The property `correlation-id`.
    pub correlation_id: Option<&'a str>,
    /// The property `reply-to`.
    pub reply_to: Option<&'a str>,
    /// The property `priority`.
    pub priority: Option<u8>,
    /// The exchange of the delivery.
    pub exchange: &'a str,
    /// The routing key of the delivery.
    pub routing_key: &'a str,
    /// Whether the server delivered it before.
    pub redelivered: bool,
    /// The header table, as JSON.
    pub headers: &'a serde_json::Value,
    /// The body as it came.
    pub body: &'a [u8],
}

/// Reads a message that AMQP delivered.
pub fn from_amqp(message: &AmqpMessage<'_>, keep: Keep) -> Result<Envelope, Malformed> {
    let text = |text: Option<&'_ str>| {
        text.map_or(Scalar::Absent, |text| Scalar::Text(text.to_owned().into()))
    };
    // No header is of a wrong type for it, and a table has no key twice.
    let headers = Headers::deserialize(message.headers).unwrap_or_default();
    let properties = Properties {
        correlation_id: text(message.correlation_id),
        reply_to: text(message.reply_to),
        delivery_tag: Scalar::Absent,
        priority: message
            .priority
            .map_or(Scalar::Absent, |priority| Scalar::Int(priority.into())),
        body_encoding: Scalar::Absent,
        delivery_info: DeliveryInfo {
            exchange: text(Some(message.exchange)),
            routing_key: text(Some(message.routing_key)),
            redelivered: Scalar::Bool(message.redelivered),
        },
    };
    let parts = Parts {
        body: Body::Bytes(message.body),
        content_type: &text(message.content_type),
        content_encoding: &text(message.content_encoding),
        headers: &headers,
        properties: &properties,
    };
    parts.envelope(keep)
}

/// The parts of a message, whatever carried them.
struct Parts<'m> {
    body: Body<'m>,
    content_type: &'m Scalar<'m>,
    content_encoding: &'m Scalar<'m>,
    headers: &'m Headers<'m>,
    properties: &'m Properties<'m>,
}

/// A body: text in an encoding on Redis, bytes over AMQP.
#[derive(Clone, Copy)]
enum Body<'m> {
    Text(&'m str, Option<&'m str>),
    Bytes(&'m [u8]),
}

impl<'m> Body<'m> {
    fn len(self) -> usize {
        match self {
            Body::Text(text, encoding) => body::decoded_len(text, encoding),
            Body::Bytes(bytes) => bytes.len(),
        }
    }

    fn decoded(self) -> Result<Cow<'m, [u8]>, Unreadable> {
        match self {
            Body::Text(text, encoding) => body::decoded(text, encoding),
            Body::Bytes(bytes) if bytes.len() > BODY_MAX => Err(Unreadable::TooLarge),
            Body::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
        }
    }
}

impl Parts<'_> {
    /// A worker takes a message for protocol 2 if its headers have a key `task` (Celery 5.7,
    /// `worker/consumer/consumer.py`, `on_task_received`).
    fn envelope(&self, keep: Keep) -> Result<Envelope, Malformed> {
        if self.headers.task == Scalar::Absent {
            self.protocol_one()
        } else {
            self.protocol_two(keep)
        }
    }

    fn protocol_two(&self, keep: Keep) -> Result<Envelope, Malformed> {
        let headers = self.headers;
        // The embedded signatures are worth having, and no reason to call a message malformed.
        let embed = self.read_body::<BodyTwo>().unwrap_or_default().embed;
        let id = headers.id.filled().ok_or(Malformed::NoTaskId)?;
        let mut canvas = embed.steps(&id, headers.group.str());
        if headers.task.str() == Some(CHORD_UNLOCK) {
            canvas.extend(self.read_body::<Unlock>().unwrap_or_default().steps(&id));
        }
        Ok(Envelope {
            protocol: Protocol::Two,
            task: headers.task.filled(),
            eta: headers.eta.when(),
            expires: headers.expires.when(),
            retries: headers.retries.count(),
            group: headers.group.filled(),
            time_limit: headers.time_limits.hard,
            chord: embed.chord_body(),
            chain_next: embed.next_link(),
            canvas,
            args: (keep == Keep::Args).then(|| self.args()).flatten(),
            ..self.common(id)
        })
    }

    fn protocol_one(&self) -> Result<Envelope, Malformed> {
        let body = self.read_body::<BodyOne>().map_err(Malformed::Body)?;
        let id = body.id.filled().ok_or(Malformed::NoTaskId)?;
        let group = body.group.filled().or_else(|| body.taskset.filled());
        let embed = Embed {
            callbacks: body.callbacks,
            errbacks: body.errbacks,
            chain: body.chain,
            chord: body.chord,
        };
        Ok(Envelope {
            protocol: Protocol::One,
            task: body.task.filled(),
            eta: body.eta.when(),
            expires: body.expires.when(),
            retries: body.retries.count(),
            time_limit: body.time_limits.hard,
            chord: embed.chord_body(),
            chain_next: None,
            canvas: embed.steps(&id, group.as_deref()),
            group,
            ..self.common(id)
        })
    }

    fn common(&self, id: String) -> Envelope {
        let Parts {
            headers,
            properties,
            ..
        } = self;
        let route = &properties.delivery_info;
        Envelope {
            protocol: Protocol::Two,
            id,
            task: None,
            eta: None,
            expires: None,
            retries: None,
            root_id: headers.root_id.filled(),
            parent_id: headers.parent_id.filled(),
            group: None,
            origin: headers.origin.filled(),
            correlation_id: properties.correlation_id.filled(),
            reply_to: properties.reply_to.filled(),
            delivery_tag: properties.delivery_tag.filled(),
            exchange: route.exchange.text(),
            routing_key: route.routing_key.text(),
            redelivered: is_redelivered(headers, properties),
            priority: properties.priority.python_int(),
            content_type: self.content_type.filled(),
            content_encoding: self.content_encoding.filled(),
            compression: headers.compression.filled(),
            ignore_result: headers.ignore_result.bool(),
            time_limit: None,
            chord: None,
            chain_next: None,
            canvas: Vec::new(),
            body_bytes: self.body.len(),
            args: None,
        }
    }

    fn args(&self) -> Option<String> {
        match (self.headers.argsrepr.str(), self.headers.kwargsrepr.str()) {
            (None, None) => None,
            (args, kwargs) => Some(
                [args, kwargs]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        }
    }

    fn read_body<T: serde::de::DeserializeOwned>(&self) -> Result<T, Unreadable> {
        let bytes = self.body.decoded()?;
        let bytes = body::decompressed(bytes, self.headers.compression.str())?;
        let serializer =
            Serializer::of_content_type(self.content_type.str().unwrap_or("application/json"));
        serializer.ok_or(Unreadable::ContentType)?.read(&bytes)
    }
}

/// Set by kombu on a restore, in one place or the other (kombu 5.7 transport/virtual/base.py and transport/redis.py).
fn is_redelivered(headers: &Headers<'_>, properties: &Properties<'_>) -> bool {
    [&headers.redelivered, &properties.delivery_info.redelivered]
        .iter()
        .any(|flag| flag.bool() == Some(true))
}

#[cfg(test)]
mod tests;
