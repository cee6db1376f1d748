//! Looking into queues, only where the user asked for it: the dead letters first, then the queues of tasks, the shortest
//! first, until every id is found.

use std::collections::BTreeSet;
use std::time::Duration;

use super::amqp::AmqpClient;
use super::peek::Found;
use super::queues::note_consumers;
use crate::celery::message::Keep;
use crate::collect::Progress;
use crate::collect::wanted::Wanted;
use crate::evidence::rabbitmq::{Queue, Role};
use crate::evidence::{Copy, Observed, Place, RabbitMq, Reason, Why};

/// How long the messages of one queue may be held at most, unless there are very many. A consumer of the queue starves
/// meanwhile.
const BUDGET: Duration = Duration::from_millis(900);

/// The first segment of a delayed message's routing key that is not a bit of its delay (kombu 5.7
/// `transport/native_delayed_delivery.py`, `MAX_NUMBER_OF_BITS_TO_USE`).
const BITS: usize = 28;

/// The order in which queues are looked into.
fn order(rabbit: &RabbitMq) -> Vec<Queue> {
    let roles = [Role::DeadLetters, Role::Tasks, Role::Waiting, Role::Delayed];
    let mut queues = Vec::new();
    for role in roles {
        let mut some: Vec<&Queue> = rabbit
            .queues_of(role)
            .filter(|queue| queue.ready.seen().is_some_and(|ready| *ready > 0))
            .collect();
        some.sort_by_key(|queue| queue.ready.seen().copied());
        queues.extend(some.into_iter().cloned());
    }
    queues
}

/// Looks into queues until all of these ids are found, or for all messages where there are none; returns the copies.
///
/// # Errors
/// Where the broker went away.
pub(super) async fn look(
    client: &AmqpClient,
    rabbit: &mut RabbitMq,
    limit: u64,
    wanted: &mut Wanted,
    ids: &BTreeSet<String>,
    keep: Keep,
    progress: Progress<'_>,
) -> Result<Vec<Copy>, Why> {
    let mut copies: Vec<Copy> = Vec::new();
    let queues = order(rabbit);
    let all: u64 = queues.iter().filter_map(|queue| queue.ready.seen()).sum();
    let mut done = 0;
    for queue in queues {
        let found: BTreeSet<&str> = copies
            .iter()
            .map(|copy| copy.envelope.id.as_str())
            .collect();
        if !ids.is_empty() && ids.iter().all(|id| found.contains(id.as_str())) {
            break;
        }
        progress("messages in queues", done, all);
        done += queue.ready.seen().copied().unwrap_or_default();
        let looked = client.peek(&queue, limit, BUDGET, wanted, keep).await;
        let mut consumers = 0;
        let outcome = match looked {
            Ok(peek) => {
                consumers = peek.consumers;
                let place = |found: &Found| place(rabbit, &queue, found, peek.ready);
                copies.extend(peek.found.iter().map(|found| Copy {
                    place: place(found),
                    envelope: found.envelope.clone(),
                }));
                Observed::Seen(peek.facts)
            }
            // One queue that hangs is no broker that does.
            Err(why) if why.reason == Reason::TimedOut && !client.still_answers().await => {
                return Err(why);
            }
            // The queue went away, or this user may not, or nothing may be looked at: the others are read all the same.
            Err(why) => Observed::Unseen(why),
        };
        if let Some(known) = rabbit.queue_mut(&queue.name) {
            known.peeked = outcome;
            note_consumers(known, consumers);
        }
    }
    Ok(copies)
}

/// Where a message stands that a look found.
fn place(rabbit: &RabbitMq, queue: &Queue, found: &Found, ready: u64) -> Place {
    let name = queue.name.clone();
    let of = ready.max(found.position);
    match rabbit.role(queue) {
        Role::DeadLetters => Place::DeadLetter {
            queue: name,
            position: found.position,
            of,
            death: found.death.clone(),
        },
        Role::Delayed => Place::Delayed {
            queue: name,
            target: target(found.envelope.routing_key.as_deref().unwrap_or_default()),
        },
        Role::Waiting => Place::Delayed {
            target: dead_letter_queue(queue, found),
            queue: name,
        },
        _ => Place::Queue {
            key: name,
            position: found.position,
            of,
        },
    }
}

/// The routing key that a delayed message has when its time has come.
fn target(routing_key: &str) -> String {
    let parts: Vec<&str> = routing_key.splitn(BITS + 1, '.').collect();
    match parts.as_slice() {
        [bits @ .., key] if bits.len() == BITS => (*key).to_owned(),
        _ => routing_key.to_owned(),
    }
}

/// The queue to which a waiting queue sends a message on, where it does so by the default exchange; else its key.
fn dead_letter_queue(queue: &Queue, found: &Found) -> String {
    let told = queue
        .setting("dead-letter-routing-key")
        .and_then(|key| key.as_str());
    told.or(found.envelope.routing_key.as_deref())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Rabbit;

    #[test]
    fn a_delayed_message_keeps_its_key_behind_the_bits() {
        let bits = vec!["0"; BITS].join(".");
        assert_eq!(target(&format!("{bits}.orders.new")), "orders.new");
        assert_eq!(target("orders"), "orders");
    }

    #[test]
    fn dead_letters_come_first_and_short_queues_before_long_ones() {
        let rabbit = Rabbit::new()
            .queue("long", 9, 1)
            .queue("short", 2, 1)
            .queue("empty", 0, 1)
            .queue("dead", 50, 0)
            .queue("celery", 5, 1)
            .argument("x-dead-letter-exchange", serde_json::json!(""))
            .argument("x-dead-letter-routing-key", serde_json::json!("dead"))
            .lab()
            .evidence
            .rabbitmq
            .expect("a RabbitMQ");
        let names: Vec<String> = order(&rabbit).into_iter().map(|queue| queue.name).collect();
        assert_eq!(names, ["dead", "short", "celery", "long"]);
    }
}
