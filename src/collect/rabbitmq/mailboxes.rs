//! Whose mailboxes are there: who should answer, and who is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::amqp::{AmqpClient, Depth};
use crate::celery::control;
use crate::collect::mailbox::Replies;
use crate::evidence::{RabbitMq, Why, Workers};

/// What a worker's mailbox is called, after its node (kombu 5.7 pidbox.py).
pub(super) const MAILBOX: &str = ".celery.pidbox";

/// A worker that is gone, since the management API was read or since an earlier question, is no silent one: its mailbox
/// is gone too. One that nobody reads is left over from a worker under `control_queue_durable`.
pub(super) async fn forget_the_dead(client: &AmqpClient, workers: &mut Workers) -> Result<(), Why> {
    let mut living = Vec::new();
    for node in workers.unanswered_names.clone() {
        match client.depth(&format!("{node}{MAILBOX}")).await? {
            Depth::There { consumers: 0, .. } => {}
            Depth::Missing => {
                if !workers.unsettled.contains(&node) {
                    workers.unsettled.push(node);
                }
            }
            Depth::Locked | Depth::Untold(_) | Depth::There { .. } => living.push(node),
        }
    }
    workers.silent = living.len() as u64;
    workers.unanswered_names = living;
    Ok(())
}

/// The nodes whose mailboxes are bound: these workers should answer. Bindings are told as they are now, while consumers
/// come with the statistics, seconds later. None where the bindings were not read.
pub(super) fn nodes_with_a_mailbox(rabbit: &RabbitMq) -> Option<BTreeSet<String>> {
    let bindings = rabbit.bindings.seen()?;
    let nodes = bindings
        .iter()
        .filter(|binding| binding.source == "celery.pidbox" && !binding.to_exchange)
        .filter_map(|binding| binding.destination.strip_suffix(MAILBOX))
        .map(str::to_owned);
    Some(nodes.collect())
}

/// Whether the workers that answered are all the consumers that these queues have. Nothing is explained where there are
/// none: a worker may consume another queue.
pub(super) fn explains(replies: &Replies, consumers: &BTreeMap<String, u64>) -> bool {
    let Some(answers) = replies.get("active_queues") else {
        return false;
    };
    let of_node: Vec<BTreeSet<String>> = answers
        .by_node
        .values()
        .map(|given| {
            let queues = given.iter().flat_map(control::decode_active_queues);
            queues.map(|queue| queue.name).collect()
        })
        .collect();
    let counted =
        |queue: &String| of_node.iter().filter(|names| names.contains(queue)).count() as u64;
    consumers.values().any(|count| *count > 0)
        && consumers
            .iter()
            .all(|(queue, count)| counted(queue) >= *count)
}
