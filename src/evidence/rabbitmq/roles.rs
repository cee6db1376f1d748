//! What each queue of a virtual host is for, by its name, its settings and its bindings.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AmqpBinding, Exchange, Queue, QueueType, RabbitMq};

/// The exchange that hands delayed messages on (kombu 5.5 `transport/native_delayed_delivery.py`).
pub const DELAYED_EXCHANGE: &str = "celery_delayed_delivery";

/// The exchange of events (Celery 5.7 events/event.py).
const EVENT_EXCHANGE: &str = "celeryev";

/// Exchanges to which nobody need listen, by the beginnings of their names.
const OWN: [&str; 3] = ["celeryev", "celery_delayed_", "amq."];

/// Whether an exchange is Celery's or the broker's own, and no task goes through it by itself.
pub fn is_own_exchange(name: &str) -> bool {
    // Those for remote control are called after `control_exchange` (kombu 5.7 pidbox.py), and those of delayed delivery can
    // have a prefix.
    OWN.iter().any(|own| name.starts_with(own))
        || name.ends_with(".pidbox")
        || name.contains("_celery_delayed_")
}

impl Exchange {
    /// Whether what came in and did not go out was surely dropped, and surely should not have been. Types of plugins may
    /// send later: x-delayed-message counts each as dropped. Who sends to a fanout exchange does not count on somebody who
    /// listens, and a message through the default exchange to a queue that does not exist counts as gone out (seen on
    /// RabbitMQ 3.10).
    pub fn should_hand_on(&self) -> bool {
        let own = is_own_exchange(&self.name) && self.name != DELAYED_EXCHANGE;
        let routes_at_once = ["direct", "topic", "headers"].contains(&self.kind.as_str());
        !own && !self.name.is_empty() && routes_at_once
    }
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Tasks wait here for workers.
    Tasks,
    /// Messages stand here that were dead-lettered out of another queue.
    DeadLetters,
    /// Messages stay here until their time to live is over, and are then sent on to another queue.
    Waiting,
    /// A level of Celery's native delayed delivery, `celery_delayed_N`.
    Delayed,
    /// A worker's mailbox, or the address of somebody who asks workers.
    RemoteControl,
    /// Events.
    Events,
    /// The reply queue of the `rpc://` result backend: durable, and gone with its only reader.
    Replies,
    /// A stream, which nobody consumes as a queue.
    Stream,
}

impl RabbitMq {
    /// What a queue of this virtual host is for.
    pub fn role(&self, queue: &Queue) -> Role {
        role_among(queue, &self.dead_letter_queues(), &self.event_queues())
    }

    /// The queues of this role; none where the queues were not read.
    pub fn queues_of(&self, role: Role) -> impl Iterator<Item = &Queue> {
        let (dead_letters, events) = (self.dead_letter_queues(), self.event_queues());
        let queues = self.queues.seen().into_iter().flatten();
        queues.filter(move |queue| role_among(queue, &dead_letters, &events) == role)
    }

    /// A queue by its name.
    pub fn queue(&self, name: &str) -> Option<&Queue> {
        self.queues.seen()?.iter().find(|queue| queue.name == name)
    }
    /// A queue by its name, to be changed.
    pub fn queue_mut(&mut self, name: &str) -> Option<&mut Queue> {
        let queues = self.queues.seen_mut()?;
        queues.iter_mut().find(|queue| queue.name == name)
    }

    /// The dead letters that queues hold inside until somebody takes them, in words.
    pub fn held_inside(&self) -> Option<String> {
        let held: Vec<(u64, &str)> = [Role::Tasks, Role::DeadLetters, Role::Waiting, Role::Delayed]
            .into_iter()
            .flat_map(|role| self.queues_of(role))
            .filter_map(|queue| Some((*queue.held_dead_letters.seen()?, queue.name.as_str())))
            .filter(|(count, _)| *count > 0)
            .collect();
        let (_, first) = held.first()?;
        let all: u64 = held.iter().map(|(count, _)| count).sum();
        let what = if all == 1 {
            "message is"
        } else {
            "messages are"
        };
        let more = match held.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{all} {what} held inside {first}{more}, where nobody can look"
        ))
    }

    /// Whether it is known into which queues all others dead-letter. Where it is not, a queue that nobody consumes may be
    /// there for dead letters. Without the management API only queues are known that workers or flags name for tasks.
    pub fn dead_letters_are_known(&self) -> bool {
        if self.overview.seen().is_none() {
            return true;
        }
        let told =
            |queue: &Queue| queue.arguments.seen().is_some() && queue.policy.seen().is_some();
        let by_exchange =
            |queue: &Queue| queue.dead_letter_exchange().is_some_and(|e| !e.is_empty());
        let queues = self.queues.seen().map_or(&[][..], Vec::as_slice);
        queues.iter().all(told)
            && (self.bindings.seen().is_some() || !queues.iter().any(by_exchange))
    }

    /// The queues that follow events, by whatever name: `event_queue_prefix` sets it (Celery 5.7 events/receiver.py).
    fn event_queues(&self) -> BTreeSet<&str> {
        let bindings = self.bindings.seen().into_iter().flatten();
        let of_events = bindings.filter(|b| b.source == EVENT_EXCHANGE && !b.to_exchange);
        of_events.map(|b| b.destination.as_str()).collect()
    }

    /// The queues that some other queue dead-letters into.
    fn dead_letter_queues(&self) -> BTreeSet<&str> {
        let queues = self.queues.seen().map_or(&[][..], Vec::as_slice);
        let bindings = self.bindings.seen().map_or(&[][..], Vec::as_slice);
        let mut found = BTreeSet::new();
        for queue in queues {
            let Some(exchange) = queue.dead_letter_exchange() else {
                continue;
            };
            // Without a routing key of its own a dead letter keeps the one that it came with.
            let key = queue
                .setting("dead-letter-routing-key")
                .and_then(Value::as_str);
            if exchange.is_empty() {
                found.extend(key);
                continue;
            }
            found.extend(behind(exchange, bindings));
        }
        found
    }
}

/// The queues that an exchange can lead to, through other exchanges too, whatever the routing key.
fn behind<'b>(exchange: &'b str, bindings: &'b [AmqpBinding]) -> BTreeSet<&'b str> {
    let (mut queues, mut exchanges) = (BTreeSet::new(), BTreeSet::from([exchange]));
    let mut open = vec![exchange];
    while let Some(source) = open.pop() {
        for binding in bindings.iter().filter(|b| b.source == source) {
            let destination = binding.destination.as_str();
            if !binding.to_exchange {
                queues.insert(destination);
            } else if exchanges.insert(destination) {
                open.push(destination);
            }
        }
    }
    queues
}

fn role_among(queue: &Queue, dead_letters: &BTreeSet<&str>, events: &BTreeSet<&str>) -> Role {
    if let Some(role) = role_by_name(&queue.name) {
        return role;
    }
    if events.contains(queue.name.as_str()) {
        return Role::Events;
    }
    if queue.kind.seen() == Some(&QueueType::Stream) {
        return Role::Stream;
    }
    if is_reply_queue(queue) {
        return Role::Replies;
    }
    if queue
        .consumers
        .seen()
        .is_some_and(|consumers| *consumers > 0)
    {
        return Role::Tasks;
    }
    let sends_on = queue.number("message-ttl").is_some() && queue.dead_letter_exchange().is_some();
    if sends_on {
        Role::Waiting
    } else if dead_letters.contains(queue.name.as_str()) {
        Role::DeadLetters
    } else {
        Role::Tasks
    }
}

/// The role that a queue's name tells, where it is one of Celery's own.
pub fn role_by_name(name: &str) -> Option<Role> {
    // kombu 5.7 pidbox.py; Celery 5.7 events/receiver.py.
    if name.ends_with(".pidbox") {
        return Some(Role::RemoteControl);
    }
    if name.starts_with("celeryev.") {
        return Some(Role::Events);
    }
    // kombu 5.7 can put a prefix before the names (`native_delayed_delivery.py`, `level_name`).
    let (prefix, level) = name.rsplit_once("celery_delayed_")?;
    let is_level = level.parse::<u8>().is_ok() && (prefix.is_empty() || prefix.ends_with('_'));
    is_level.then_some(Role::Delayed)
}

/// A reply queue of `rpc://` is named by a UUID, goes away with its reader, and expires with the results (Celery 5.7
/// backends/rpc.py).
fn is_reply_queue(queue: &Queue) -> bool {
    let by_name = queue.name.len() == 36 && uuid::Uuid::parse_str(&queue.name).is_ok();
    by_name && queue.auto_delete.seen() == Some(&true) && queue.number("expires").is_some()
}

impl Queue {
    /// What is set under this name, by an argument, which is written `x-NAME`, or else by a policy. Of numbers see
    /// [`Queue::number`].
    pub fn setting(&self, name: &str) -> Option<&Value> {
        let argument = self
            .arguments
            .seen()
            .and_then(|all| all.get(&format!("x-{name}")));
        argument.or_else(|| self.policy.seen()?.get(name))
    }

    /// A number that is set by an argument, a policy, or both: the smaller one counts
    /// (<https://www.rabbitmq.com/docs/parameters#policies>).
    pub fn number(&self, name: &str) -> Option<i64> {
        let argument = self
            .arguments
            .seen()
            .and_then(|all| all.get(&format!("x-{name}")));
        let policy = self.policy.seen().and_then(|all| all.get(name));
        let numbers = [argument, policy].into_iter().flatten();
        numbers.filter_map(Value::as_i64).min()
    }

    /// Whether it refuses what comes while it is full, and keeps what it has. What is refused goes to no dead-letter exchange,
    /// unless that is asked for (`reject-publish-dlx`).
    pub fn refuses_when_full(&self) -> bool {
        let overflow = self.setting("overflow").and_then(Value::as_str);
        overflow == Some("reject-publish")
    }

    /// Whether it keeps its dead letters inside until a queue has taken them (RabbitMQ 3.10 `rabbit_quorum_queue.erl`,
    /// `dead_letter_handler`): what leads nowhere is then not dropped, and is tried again every few minutes.
    pub fn keeps_dead_letters(&self) -> bool {
        let strategy = self.setting("dead-letter-strategy").and_then(Value::as_str);
        self.kind.seen() == Some(&QueueType::Quorum)
            && strategy == Some("at-least-once")
            && self.refuses_when_full()
    }

    /// The exchange to which it dead-letters; empty for the default exchange.
    pub fn dead_letter_exchange(&self) -> Option<&str> {
        self.setting("dead-letter-exchange")?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Rabbit;

    #[test]
    fn queues_of_celery_s_own_are_told_by_name_or_by_what_they_listen_to() {
        let rabbit = Rabbit::new()
            .queue("celery", 0, 1)
            .queue("celeryev.1b2c", 3, 1)
            .queue("monitoring.events", 3, 1)
            .bound("celeryev", "#", "monitoring.events")
            .queue("w1@h.celery.pidbox", 0, 1)
            .queue("1b2c.reply.celery.pidbox", 0, 1)
            .quorum("celery_delayed_0", 1, 0)
            .quorum("shop_celery_delayed_27", 1, 0)
            .queue("my_celery_delayed_jobs", 0, 0);
        let rabbit = rabbit.lab().evidence.rabbitmq.expect("a RabbitMQ");
        let of = |role| -> Vec<&str> {
            rabbit
                .queues_of(role)
                .map(|queue| queue.name.as_str())
                .collect()
        };
        assert_eq!(of(Role::Tasks), ["celery", "my_celery_delayed_jobs"]);
        assert_eq!(of(Role::Events), ["celeryev.1b2c", "monitoring.events"]);
        assert_eq!(of(Role::RemoteControl).len(), 2);
        assert_eq!(of(Role::Delayed).len(), 2);
    }
}
