//! The queues of a virtual host in the form that every broker's have, and how far they were looked into.

use std::fmt::Write as _;

use super::amqp::Depth;
use crate::evidence::rabbitmq::{Queue, Role};
use crate::evidence::{List, Observed, RabbitMq, ReadStatus, Reason, Why};

/// More queues than these are not declared one by one: their numbers are then those of the statistics, seconds old.
const MOST_DECLARED: usize = 2_000;

/// The queues whose numbers a passive declaration is to tell exactly. It would keep alive a queue that expires when it
/// is not used, and is refused for those of other connections.
pub(super) fn to_declare(rabbit: &RabbitMq, named: &[String]) -> Vec<String> {
    let known = rabbit.queues.seen().map_or(&[][..], Vec::as_slice);
    let told = [Role::Tasks, Role::DeadLetters, Role::Waiting, Role::Delayed]
        .into_iter()
        .flat_map(|role| rabbit.queues_of(role))
        .filter(|queue| queue.number("expires").is_none() && queue.exclusive.seen() != Some(&true))
        .map(|queue| queue.name.clone());
    let unknown = named
        .iter()
        .filter(|name| !known.iter().any(|queue| queue.name == **name))
        .cloned();
    let mut wanted: Vec<String> = told.collect();
    if wanted.len() > MOST_DECLARED {
        wanted.clear();
    }
    wanted.extend(unknown);
    wanted
}

/// Notes what a passive declaration told. What the server does not tell now is not known by statistics of seconds ago.
pub(super) fn note_depth(rabbit: &mut RabbitMq, name: &str, depth: Depth) {
    let told = match depth {
        // It belongs to another connection, and holds none of our tasks.
        Depth::Locked => return,
        Depth::Missing => None,
        Depth::There { ready, consumers } => {
            Some((Observed::Seen(ready), Observed::Seen(consumers)))
        }
        Depth::Untold(why) => Some((Observed::Unseen(why.clone()), Observed::Unseen(why))),
    };
    if rabbit.queues.seen().is_none() {
        rabbit.queues = Observed::Seen(Vec::new());
    }
    let Some(queues) = rabbit.queues.seen_mut() else {
        return;
    };
    let Some((ready, consumers)) = told else {
        // It went away since the statistics were made.
        queues.retain(|queue| queue.name != name);
        return;
    };
    let at = queues.iter().position(|queue| queue.name == name);
    let at = at.unwrap_or_else(|| {
        queues.push(Queue::named(name));
        queues.len() - 1
    });
    if let Some(queue) = queues.get_mut(at) {
        (queue.ready, queue.consumers) = (ready, consumers);
    }
}

/// Notes what a second passive declaration told of a queue that was looked at before. Messages that came in since are
/// new, and so are consumers; those that went may be in the workers' hands, whose word was asked for before.
pub(super) fn note_new(rabbit: &mut RabbitMq, name: &str, depth: Depth) {
    let Some(queue) = rabbit.queue_mut(name) else {
        return;
    };
    let more = |now: u64, before: &Observed<u64>| before.seen().is_some_and(|before| now > *before);
    match depth {
        Depth::There { ready, consumers } if more(ready, &queue.ready) => {
            // Both are of one moment: a queue that filled up before its consumer came has one now.
            (queue.ready, queue.consumers) = (Observed::Seen(ready), Observed::Seen(consumers));
            if let Some(peeked) = queue.peeked.seen_mut() {
                peeked.whole = false;
            }
        }
        Depth::There { consumers, .. } => note_consumers(queue, consumers),
        Depth::Missing | Depth::Locked => {}
        Depth::Untold(why) => {
            (queue.ready, queue.consumers) = (Observed::Unseen(why.clone()), Observed::Unseen(why));
        }
    }
}

/// Notes consumers that came after the messages were counted: whoever has one now is not without.
pub(super) fn note_consumers(queue: &mut Queue, now: u64) {
    if let Some(before) = queue.consumers.seen_mut() {
        *before = now.max(*before);
    }
}

/// The queues of tasks as lists: a queue that holds messages was read whole only where a look reached its end.
pub(super) fn lists(rabbit: &RabbitMq) -> Vec<List> {
    rabbit
        .queues_of(Role::Tasks)
        .map(|queue| List {
            key: queue.name.clone(),
            prefix: String::new(),
            queue: queue.name.clone(),
            priority: None,
            named: true,
            length: queue.ready.seen().copied().unwrap_or_default(),
            malformed: queue.peeked.seen().map_or(0, |peeked| peeked.malformed),
            read: read_whole(queue),
        })
        .collect()
}

fn read_whole(queue: &Queue) -> Observed<()> {
    match (&queue.ready, &queue.peeked) {
        (Observed::Seen(0), _) => Observed::Seen(()),
        (Observed::Seen(_), Observed::Seen(peeked)) if peeked.whole => Observed::Seen(()),
        (Observed::Seen(ready), Observed::Seen(peeked)) => Observed::Unseen(Why::new(
            Reason::Truncated,
            format!(
                "{} of {ready} messages of {} were looked at",
                peeked.messages, queue.name
            ),
        )),
        (Observed::Unseen(why), _) | (_, Observed::Unseen(why)) => Observed::Unseen(why.clone()),
    }
}

/// How many messages the queues of tasks count as delivered and not acknowledged. A new queue counts nothing for some
/// seconds, and then its channels do; where statistics are switched off nobody does, whatever there is.
pub(super) fn unacknowledged(rabbit: &RabbitMq) -> Result<u64, Why> {
    let mut all = 0_u64;
    for queue in rabbit.queues_of(Role::Tasks) {
        match &queue.unacknowledged {
            Observed::Seen(count) => all = all.saturating_add(*count),
            Observed::Unseen(_) if rabbit.channels.seen().is_some() => {}
            Observed::Unseen(why) => return Err(why.clone()),
        }
    }
    Ok(all)
}

/// How far the places in the broker in which a task can wait were read, in a line.
pub(super) fn coverage(
    rabbit: &RabbitMq,
    all_queues_known: bool,
) -> (ReadStatus, String, Option<Reason>) {
    let roles = [Role::Tasks, Role::DeadLetters, Role::Waiting, Role::Delayed];
    let queues: Vec<&Queue> = roles
        .into_iter()
        .flat_map(|role| rabbit.queues_of(role))
        .collect();
    let counts: Vec<u64> = queues
        .iter()
        .filter_map(|queue| queue.ready.seen().copied())
        .collect();
    let messages: u64 = counts.iter().sum();
    let all_told = counts.len() == queues.len();
    let many = |number: u64| if number == 1 { "" } else { "s" };
    let told = if all_told {
        String::new()
    } else {
        format!("{} of ", counts.len())
    };
    let mut detail = format!(
        "{messages} message{} in {told}{} queue{}",
        many(messages),
        queues.len(),
        many(queues.len() as u64)
    );
    let unread: Vec<(&Queue, Why)> = queues
        .iter()
        .filter_map(|queue| Some((*queue, read_whole(queue).unseen()?.clone())))
        .collect();
    let streams = rabbit.queues_of(Role::Stream).count();
    let mut reason = None;
    // What nobody asked for is no obstacle; where there is one, it is named.
    let obstacle = unread
        .iter()
        .find(|(_, why)| why.reason != Reason::NotAsked);
    if let Some((named, why)) = obstacle.or(unread.first()) {
        let hidden: u64 = unread
            .iter()
            .filter_map(|(queue, _)| queue.ready.seen())
            .sum();
        let of_them = if all_told {
            format!("{hidden} of them ")
        } else {
            String::new()
        };
        let more = match unread.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        detail = format!(
            "{detail}, {of_them}not all looked at: {}{more} ({})",
            named.name, why.detail
        );
        reason = Some(why.reason);
    }
    if let Some(held) = rabbit.held_inside() {
        detail = format!("{detail}; {held}");
    }
    detail.push_str(&footprint(&queues));
    if streams > 0 {
        detail = format!("{detail}; streams are not read");
    }
    if !all_queues_known {
        detail = format!("{detail}; only the management API tells whether there are others");
        reason = reason.or(Some(Reason::NotAsked));
    }
    let status = match reason {
        None => ReadStatus::Complete,
        Some(Reason::NotAsked) => ReadStatus::Skipped,
        Some(_) => ReadStatus::Partial,
    };
    (status, detail, reason)
}

/// What a look into queues has changed: RabbitMQ marks each message that it delivers.
fn footprint(queues: &[&Queue]) -> String {
    let looks = || {
        queues
            .iter()
            .filter_map(|queue| Some((queue, queue.peeked.seen()?)))
    };
    let messages: u64 = looks().map(|(_, peeked)| peeked.messages).sum();
    if messages == 0 {
        return String::new();
    }
    let held = looks()
        .map(|(_, peeked)| peeked.held_ms)
        .max()
        .unwrap_or_default();
    let mut text = format!(
        "; {messages} looked at, held for {held} ms at most, given back and marked as redelivered"
    );
    let expiring = || looks().filter(|(queue, _)| queue.number("expires").is_some());
    if let Some((first, _)) = expiring().next() {
        let more = match expiring().count() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let _ = write!(
            text,
            "; if unused, {}{more} will expire later by that",
            first.name
        );
    }
    let missing = looks().find(|(queue, peeked)| {
        !peeked.given_back && peeked.gone == 0 && queue.consumers.seen() == Some(&0)
    });
    if let Some((queue, _)) = missing {
        let _ = write!(
            text,
            "; RabbitMQ was still taking back those of {}",
            queue.name
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diagnose::testkit::Rabbit;
    use crate::evidence::rabbitmq::Peeked;

    fn facts(rabbit: Rabbit) -> RabbitMq {
        rabbit.lab().evidence.rabbitmq.expect("a RabbitMQ")
    }

    #[test]
    fn without_statistics_nothing_is_counted_as_unacknowledged() {
        let mut rabbit = facts(
            Rabbit::new()
                .queue("celery", 0, 1)
                .with(|queue| queue.unacknowledged = Observed::Seen(3))
                .queue("new", 0, 1)
                .with(|queue| queue.unacknowledged = Observed::not_asked("a test")),
        );
        // A new queue has none yet, and its channels have.
        assert_eq!(unacknowledged(&rabbit), Ok(3));
        rabbit.channels = Observed::not_asked("a test");
        assert!(unacknowledged(&rabbit).is_err());
    }

    #[test]
    fn queues_that_a_look_would_keep_alive_are_not_declared() {
        let rabbit = facts(
            Rabbit::new()
                .queue("celery", 0, 1)
                .queue("short", 0, 0)
                .argument("x-expires", json!(1000))
                .queue("w1@h.celery.pidbox", 0, 1),
        );
        let named = ["celery".to_owned(), "emials".to_owned()];
        assert_eq!(to_declare(&rabbit, &named), ["celery", "emials"]);
    }

    #[test]
    fn a_declaration_is_more_exact_than_the_statistics() {
        let mut rabbit = facts(Rabbit::new().queue("celery", 7, 1).queue("gone", 1, 0));
        let there = |ready| Depth::There {
            ready,
            consumers: 0,
        };
        note_depth(&mut rabbit, "celery", there(3));
        note_depth(&mut rabbit, "new", there(1));
        note_depth(&mut rabbit, "gone", Depth::Missing);
        let lists: Vec<(String, u64)> = lists(&rabbit)
            .into_iter()
            .map(|l| (l.queue, l.length))
            .collect();
        assert_eq!(lists, [("celery".to_owned(), 3), ("new".to_owned(), 1)]);
    }

    #[test]
    fn messages_and_consumers_are_of_one_moment() {
        let after = |before: (u64, u64), now: (u64, u64)| {
            let mut rabbit = facts(Rabbit::new().queue("celery", before.0, before.1));
            let (ready, consumers) = now;
            note_new(&mut rabbit, "celery", Depth::There { ready, consumers });
            let queue = rabbit.queue("celery").expect("it is there");
            (queue.ready.seen().copied(), queue.consumers.seen().copied())
        };
        // A worker that connects anew consumes what came in meanwhile.
        assert_eq!(after((0, 0), (5, 1)), (Some(5), Some(1)));
        assert_eq!(after((5, 0), (5, 1)), (Some(5), Some(1)));
        assert_eq!(after((5, 0), (2, 1)), (Some(5), Some(1)));
        // One that left took something with it, or not: it was there when these waited.
        assert_eq!(after((5, 1), (3, 0)), (Some(5), Some(1)));
        assert_eq!(after((5, 1), (6, 0)), (Some(6), Some(0)));
    }

    #[test]
    fn statistics_are_not_believed_of_a_queue_that_does_not_answer() {
        let mut rabbit = facts(Rabbit::new().queue("other", 2, 0).queue("celery", 0, 1));
        let down = Why::new(Reason::Unreachable, "its home node is down");
        note_depth(&mut rabbit, "celery", Depth::Untold(down.clone()));
        let celery = rabbit.queue("celery").expect("it is there");
        assert_eq!(celery.ready, Observed::Unseen(down.clone()));
        assert_eq!(celery.consumers, Observed::Unseen(down));
        let (status, detail, reason) = coverage(&rabbit, true);
        assert_eq!(
            (status, reason),
            (ReadStatus::Partial, Some(Reason::Unreachable))
        );
        assert_eq!(
            detail,
            "2 messages in 1 of 2 queues, not all looked at: celery and 1 more (its home node is down)"
        );
    }

    #[test]
    fn dead_letters_that_a_queue_holds_inside_are_told() {
        let held = Rabbit::new()
            .quorum("celery_delayed_0", 0, 0)
            .with(|queue| queue.held_dead_letters = Observed::Seen(1));
        let (_, detail, _) = coverage(&facts(held), true);
        let told = "0 messages in 1 queue; 1 message is held inside celery_delayed_0, where nobody can look";
        assert_eq!(detail, told);
    }

    #[test]
    fn only_what_was_seen_to_its_end_is_complete() {
        let peeked = |whole| Peeked {
            messages: 2,
            whole,
            malformed: 0,
            gone: 0,
            held_ms: 1,
            given_back: true,
        };
        let status = |rabbit: Rabbit| coverage(&facts(rabbit), true).0;
        assert_eq!(
            status(Rabbit::new().queue("celery", 0, 1)),
            ReadStatus::Complete
        );
        assert_eq!(
            status(Rabbit::new().queue("celery", 2, 1)),
            ReadStatus::Skipped
        );
        let looked = |whole| {
            Rabbit::new()
                .queue("celery", 2, 1)
                .with(|queue| queue.peeked = Observed::Seen(peeked(whole)))
        };
        assert_eq!(status(looked(true)), ReadStatus::Complete);
        assert_eq!(status(looked(false)), ReadStatus::Partial);
        let unknown = coverage(&facts(Rabbit::new().queue("celery", 0, 1)), false);
        assert_eq!(unknown.0, ReadStatus::Skipped);
    }

    #[test]
    fn a_look_says_that_it_starts_the_clock_of_an_unused_queue_anew() {
        let looked = Peeked {
            messages: 2,
            whole: true,
            malformed: 0,
            gone: 0,
            held_ms: 1,
            given_back: true,
        };
        let detail = |rabbit: Rabbit| {
            let rabbit = rabbit.with(|queue| queue.peeked = Observed::Seen(looked.clone()));
            coverage(&facts(rabbit), true).1
        };
        let plain = Rabbit::new().queue("celery", 2, 0);
        assert!(!detail(plain).contains("expire"));
        let expiring = Rabbit::new()
            .queue("short", 2, 0)
            .argument("x-expires", json!(60_000));
        let told = detail(expiring);
        assert!(told.contains("short will expire later"), "{told}");
    }

    #[test]
    fn a_dead_letter_queue_that_was_not_looked_into_may_have_it() {
        let rabbit = Rabbit::new()
            .queue("dead", 1, 0)
            .queue("celery", 0, 1)
            .argument("x-dead-letter-exchange", json!(""))
            .argument("x-dead-letter-routing-key", json!("dead"));
        assert_eq!(coverage(&facts(rabbit), true).0, ReadStatus::Skipped);
    }
}
