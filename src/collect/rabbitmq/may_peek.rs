//! Which queues may be looked into, and how far. AMQP has no way to read a message without taking it: every look holds
//! messages and gives them back, and some queues lose or reorder what is given back. Measured on RabbitMQ 3.10.8 and 4.0.5.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::evidence::Observed;
use crate::evidence::rabbitmq::{Queue, QueueType};

/// As many as are held for less than a second.
pub(crate) const SHORT: u64 = 1_000;

/// What a quorum queue hands out to one consumer, and what giving it back was measured with.
const QUORUM: u64 = 2_000;

/// From a queue that goes with its last consumer, one message is got at a time.
pub(super) const ONE_BY_ONE: u64 = 200;

/// What one look holds at most, whatever is asked for.
const MOST: u64 = 1_000_000;

/// Messages that could come in while others are held for a second. A queue with less room than that could be full
/// when they go back, and drop them.
const ROOM: u64 = 10_000;

/// How many messages may be looked at. The refusal says why, for a person who asked for it.
///
/// # Errors
/// Where a look could cost a message, change the order for good, or where nobody can tell.
pub(crate) fn may_peek(queue: &Queue, server_version: Option<&str>) -> Result<u64, String> {
    let unknown = || {
        "what it would do with messages that are given back is not known: only the management API tells a queue's type, arguments and policy".to_owned()
    };
    let (Some(kind), Some(auto_delete), Some(exclusive), Some(arguments), Some(policy)) = (
        queue.kind.seen(),
        queue.auto_delete.seen(),
        queue.exclusive.seen(),
        queue.arguments.seen(),
        queue.policy.seen(),
    ) else {
        return Err(unknown());
    };
    if *exclusive {
        return Err("it is exclusive: only its own connection may read it".to_owned());
    }
    if let Some(state) = &queue.state
        && ["down", "crashed", "stopped", "minority"].contains(&state.as_str())
    {
        return Err(format!("its state is {state}"));
    }
    if let Some((members, online)) = &queue.members
        && online.len() * 2 <= members.len()
    {
        return Err(format!(
            "it lacks the majority of its members ({} of {} are online), and hands nothing out",
            online.len(),
            members.len()
        ));
    }
    let limits = Limits { arguments, policy };
    if arguments.get("x-single-active-consumer") == Some(&Value::Bool(true)) {
        return Err(
            "it has a single active consumer, for which the order matters: that would run on with later messages"
                .to_owned(),
        );
    }
    let kind = match kind {
        QueueType::Stream => return Err("it is a stream; streams are not consumed".to_owned()),
        QueueType::Other(kind) => {
            return Err(format!("queues of type {kind} are not known well enough"));
        }
        QueueType::Classic => QUORUM_NOT,
        QueueType::Quorum => QUORUM_IS,
    };
    deliveries(kind, &limits, server_version)?;
    let mut most = if kind == QUORUM_IS { QUORUM } else { MOST };
    if let Some(room) = room(queue, &limits)? {
        most = most.min(room).min(SHORT);
    }
    if limits.number("message-ttl").is_some() {
        // What expires while it is held expires when it goes back: held for a moment, no later than without us.
        most = most.min(SHORT);
    }
    if queue.consumers.seen() != Some(&0) {
        // Workers wait, and later messages overtake, for as long as the look takes.
        most = most.min(SHORT);
    }
    if *auto_delete {
        most = most.min(ONE_BY_ONE);
    }
    Ok(most)
}

const QUORUM_IS: bool = true;
const QUORUM_NOT: bool = false;

/// Whether a delivery more could be the last one of a message. How often a message was delivered can't be read
/// without delivering it once more, so that any limit may be reached by a look.
fn deliveries(quorum: bool, limits: &Limits<'_>, version: Option<&str>) -> Result<(), String> {
    let limit = limits.signed("delivery-limit");
    if !quorum {
        // RabbitMQ's classic queues have none, LavinMQ's do.
        return match limit {
            Some(limit) => Err(delivery_limit(limit, "")),
            None => Ok(()),
        };
    }
    let major = version
        .and_then(|version| version.split('.').next())
        .and_then(|major| major.parse::<u64>().ok());
    match (limit, major) {
        (_, None) => Err(
            "it is a quorum queue, and the server's version is not known: since RabbitMQ 4.0 a message is dropped after 20 deliveries"
                .to_owned(),
        ),
        (Some(-1), Some(..4)) => Err(
            "its delivery limit is -1, which before RabbitMQ 4.0 drops a message at its first return"
                .to_owned(),
        ),
        (Some(-1), Some(_)) => Err(
            "its delivery limit is -1, and what is given back without a limit may lose its place in the order"
                .to_owned(),
        ),
        (Some(limit), _) => Err(delivery_limit(limit, "")),
        (None, Some(4..)) => Err(delivery_limit(20, ", the default since RabbitMQ 4.0")),
        (None, Some(_)) => Ok(()),
    }
}

fn delivery_limit(limit: i64, origin: &str) -> String {
    format!(
        "its delivery limit is {limit}{origin}; a look counts as a delivery, and a message that was delivered {limit} times before would be dropped or dead-lettered; how often each was delivered can't be known beforehand"
    )
}

/// How many fit into the queue beyond what waits there; none where it has no limit that drops from the head.
fn room(queue: &Queue, limits: &Limits<'_>) -> Result<Option<u64>, String> {
    let by_bytes = limits.number("max-length-bytes");
    let by_count = limits.number("max-length");
    if by_bytes.is_none() && by_count.is_none() {
        return Ok(None);
    }
    if limits
        .text("overflow")
        .is_some_and(|overflow| overflow.starts_with("reject-publish"))
    {
        // Then the newest are turned away; what goes back is taken.
        return Ok(None);
    }
    if let Some(bytes) = by_bytes {
        return Err(format!(
            "it drops its oldest messages beyond {bytes} bytes, and might be full when they are given back"
        ));
    }
    let (Some(limit), Some(ready)) = (by_count, queue.ready.seen()) else {
        return Err(
            "it drops its oldest messages beyond a limit, and how full it is is not known"
                .to_owned(),
        );
    };
    let room = limit.saturating_sub(*ready);
    if room < ROOM {
        return Err(format!(
            "it drops its oldest messages beyond {limit}, has {ready}, and might be full when they are given back: there should be room for {ROOM}"
        ));
    }
    Ok(Some(room))
}

/// Arguments and policy together: the lower number of both is in force.
struct Limits<'a> {
    arguments: &'a BTreeMap<String, Value>,
    policy: &'a BTreeMap<String, Value>,
}

impl Limits<'_> {
    fn both(&self, key: &str) -> [Option<&Value>; 2] {
        [
            self.arguments.get(&format!("x-{key}")),
            self.policy.get(key),
        ]
    }

    fn signed(&self, key: &str) -> Option<i64> {
        let values = self.both(key).into_iter().flatten();
        values.filter_map(Value::as_i64).min()
    }

    fn number(&self, key: &str) -> Option<u64> {
        let values = self.both(key).into_iter().flatten();
        values.filter_map(Value::as_u64).min()
    }

    /// An argument wins over a policy.
    fn text(&self, key: &str) -> Option<&str> {
        self.both(key).into_iter().flatten().find_map(Value::as_str)
    }
}

/// Whether a queue goes with its last consumer, so that none may be attached to it.
pub(super) fn goes_with_its_consumer(queue: &Queue) -> bool {
    !matches!(queue.auto_delete, Observed::Seen(false))
}

#[cfg(test)]
mod tests;
