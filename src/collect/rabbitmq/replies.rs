//! Results of the backend `rpc://`: messages in the reply queue of whoever sent the task. They are there until the sender
//! takes them, or the queue expires. One that is not there may have been taken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lapin::message::Delivery;

use super::amqp::AmqpClient;
use super::peek::is_unread;
use crate::celery::result::parse_result;
use crate::evidence::rabbitmq::Role;
use crate::evidence::{RabbitMq, Reason, StoredResult, Why};

/// How long the messages of one reply queue may be held at most.
const BUDGET: Duration = Duration::from_millis(500);
/// More reply queues are not looked into: each sender has one.
const MOST: usize = 200;

/// What a look into reply queues brought.
#[derive(Debug, Default)]
pub(super) struct Replies {
    pub(super) found: BTreeMap<String, StoredResult>,
    messages: u64,
    queues: u64,
}

/// Why there is no more to know of such results. `looked` is none where nobody asked for a look. Queues that were named
/// and declared without the management API are not all of them.
pub(super) fn unread(rabbit: &RabbitMq, all_queues_known: bool, looked: Option<&Replies>) -> Why {
    let known = if all_queues_known {
        let waiting: Vec<u64> = rabbit
            .queues_of(Role::Replies)
            .filter_map(|queue| queue.ready.seen().copied())
            .collect();
        let messages: u64 = waiting.iter().sum();
        format!("{messages} wait in {} reply queues", waiting.len())
    } else {
        "which reply queues there are is not known".to_owned()
    };
    let more = match looked {
        None => "--peek looks whose they are".to_owned(),
        Some(looked) => format!(
            "{} in {} of them were looked at, given back and marked as redelivered, and these queues expire later by that",
            looked.messages, looked.queues
        ),
    };
    Why::new(
        Reason::Unsupported,
        format!(
            "results of rpc:// are messages to their senders, who may have taken them: {known}; {more}"
        ),
    )
}

/// Looks for the results of these ids.
///
/// # Errors
/// Where the broker went away.
pub(super) async fn look(
    client: &AmqpClient,
    rabbit: &RabbitMq,
    limit: u64,
    ids: &BTreeSet<String>,
) -> Result<Replies, Why> {
    let mut looked = Replies::default();
    // How many wait there is not asked: the statistics are seconds old.
    let queues = rabbit
        .queues_of(Role::Replies)
        // Who waits for results takes them as they come.
        .filter(|queue| queue.consumers.seen() == Some(&0));
    for queue in queues.take(MOST) {
        if ids.iter().all(|id| looked.found.contains_key(id)) {
            break;
        }
        let found = &mut looked.found;
        let held = client.hold(queue, limit, BUDGET, |delivery| {
            if let Some((id, result)) = result_of(delivery, ids) {
                // A later one is a newer state.
                found.insert(id, result);
            }
        });
        match held.await {
            Ok(held) => {
                looked.messages += held.messages;
                looked.queues += u64::from(held.messages > 0);
            }
            Err(why) if why.reason == Reason::TimedOut => return Err(why),
            // It went away, or may not be looked into: the others are read all the same.
            Err(_) => {}
        }
    }
    Ok(looked)
}

/// The result in a message, where it is that of one of the ids (Celery 5.7 backends/rpc.py, `store_result`: the correlation
/// id is the task's).
fn result_of(delivery: &Delivery, ids: &BTreeSet<String>) -> Option<(String, StoredResult)> {
    let id = delivery.properties.correlation_id().as_ref()?.as_str();
    if is_unread(delivery) || !ids.contains(id) {
        return None;
    }
    let doc = parse_result(&delivery.data).ok()?;
    let ttl_seconds = None;
    Some((id.to_owned(), StoredResult { doc, ttl_seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Rabbit;

    #[test]
    fn reply_queues_are_counted_only_where_all_queues_are_known() {
        let rabbit = Rabbit::new().queue("celery", 0, 1).lab().evidence.rabbitmq;
        let rabbit = rabbit.expect("a RabbitMQ");
        let detail = |all| unread(&rabbit, all, None).detail;
        assert!(detail(true).contains("0 wait in 0 reply queues"));
        assert!(detail(false).contains("which reply queues there are is not known"));
    }
}
