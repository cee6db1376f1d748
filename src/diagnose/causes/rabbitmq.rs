//! Causes that lie with RabbitMQ.

use super::Cause;
use crate::diagnose::plain;
use crate::diagnose::view::{Case, Routes};
use crate::evidence::RabbitMq;
use crate::evidence::rabbitmq::{Queue, QueueType, Role};

/// The causes that this virtual host makes possible for a task that is lost or unknown.
pub(super) fn of_the_broker(case: &Case<'_>, rabbit: &RabbitMq) -> Vec<Cause> {
    [
        expired(rabbit),
        refused(rabbit),
        dropped_as_cycle(case),
        limits(case, rabbit),
        too_many_deliveries(case, rabbit),
        alarm(rabbit),
        transient(rabbit),
        worker_ending(rabbit),
        Some(no_confirms()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The queues of tasks whose dead letters are kept nowhere, and of which this holds.
fn dropping<'e>(
    case: &Case<'_>,
    rabbit: &'e RabbitMq,
    holds: impl Fn(&Queue) -> bool,
) -> Vec<&'e str> {
    let routes = Routes::of(case.evidence, rabbit);
    rabbit
        .queues_of(Role::Tasks)
        .filter(|queue| holds(queue) && matches!(routes.dead_letters(queue), Ok(None)))
        .map(|queue| queue.name.as_str())
        .collect()
}

/// A task that was delayed and retried comes to a queue of delayed delivery for the second time.
fn dropped_as_cycle(case: &Case<'_>) -> Option<Cause> {
    if !case.evidence.drops_delayed_retries() {
        return None;
    }
    let is_retried = case
        .result()
        .is_some_and(|result| result.doc.state == "RETRY");
    Some(Cause {
        name: "dropped-as-cycle",
        text: "it was delayed and then retried by a worker with Celery 5.5.0 to 5.6.2: the retry comes to a queue of \
               native delayed delivery that it came through before, and RabbitMQ before 4.0.1 drops it as a cycle"
            .to_owned(),
        confirm: "celery -A APP report, on the worker's machine".to_owned(),
        weight: if is_retried { 86 } else { 22 },
    })
}

/// A full queue that refuses what comes: no dead-letter exchange gets it, and without confirms the sender does not learn of it.
fn refused(rabbit: &RabbitMq) -> Option<Cause> {
    let lengths = ["max-length", "max-length-bytes"];
    let refusing = |queue: &&Queue| {
        queue.refuses_when_full() && lengths.iter().any(|limit| queue.number(limit).is_some())
    };
    let queues: Vec<&Queue> = rabbit.queues_of(Role::Tasks).filter(refusing).collect();
    if queues.is_empty() {
        return None;
    }
    let is_full = |queue: &Queue| {
        let limit = queue.number("max-length");
        let ready = queue.ready.seen();
        let full = limit
            .zip(ready)
            .map(|(limit, ready)| i64::try_from(*ready).is_ok_and(|ready| ready >= limit));
        full.unwrap_or(false)
    };
    let full: Vec<&str> = queues
        .iter()
        .filter(|queue| is_full(queue))
        .map(|queue| queue.name.as_str())
        .collect();
    let all: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    let (which, weight) = match full.as_slice() {
        [] => (
            format!("{} refuses what comes when it is full", plain::names(&all)),
            50,
        ),
        _ => (
            format!(
                "{} is full now, and refuses what comes",
                plain::names(&full)
            ),
            88,
        ),
    };
    Some(Cause {
        name: "refused-by-full-queue",
        text: format!(
            "its queue was full and refused it: {which} (overflow=reject-publish), no dead-letter exchange keeps it, and \
             without confirms the sender does not learn of it"
        ),
        confirm: "look in the sender's log for a refused publish, or set confirm_publish there and send again".to_owned(),
        weight,
    })
}

fn limits(case: &Case<'_>, rabbit: &RabbitMq) -> Option<Cause> {
    let limits = ["message-ttl", "max-length", "max-length-bytes", "expires"];
    let queues = dropping(case, rabbit, |queue| {
        limits.iter().any(|limit| queue.number(limit).is_some())
    });
    (!queues.is_empty()).then(|| Cause {
        name: "queue-limits",
        text: format!(
            "its queue dropped it: {} limits how long or how many messages stay, and keeps no dead letters",
            plain::names(&queues)
        ),
        confirm: "rabbitmqctl list_queues name arguments effective_policy_definition".to_owned(),
        weight: 65,
    })
}

/// Celery gives a task that expires a time to live as a message, too (Celery 5.7 app/base.py, `send_task`), so that
/// RabbitMQ drops it by itself when its turn comes.
fn expired(rabbit: &RabbitMq) -> Option<Cause> {
    let queues = rabbit.queues.seen().into_iter().flatten();
    let gone: u64 = queues
        .filter_map(|queue| Some(queue.peeked.seen()?.gone))
        .sum();
    (gone > 0).then(|| Cause {
        name: "expired-in-queue",
        text: format!(
            "its expires had passed, and RabbitMQ dropped it in place of delivering it: {} counted in the queues \
             did not come to this look",
            plain::count(gone, "message")
        ),
        confirm: "look whether it was sent with `expires`".to_owned(),
        weight: 85,
    })
}

fn too_many_deliveries(case: &Case<'_>, rabbit: &RabbitMq) -> Option<Cause> {
    let queues = dropping(case, rabbit, |queue| {
        let redelivered = queue.redelivered.seen().is_some_and(|count| *count > 0);
        queue.kind.seen() == Some(&QueueType::Quorum) && redelivered
    });
    (!queues.is_empty()).then(|| Cause {
        name: "delivery-limit",
        text: format!(
            "it was delivered as often as quorum queue {} allows, and dropped: a task that kills its worker ends so",
            plain::names(&queues)
        ),
        confirm: "look in the workers' logs for several `received` with this id and no end".to_owned(),
        weight: 60,
    })
}

fn alarm(rabbit: &RabbitMq) -> Option<Cause> {
    let alarm = rabbit.alarms.seen()?.first()?;
    Some(Cause {
        name: "publisher-blocked",
        text: format!(
            "it was never published: the {} alarm of {} blocks whoever publishes, and without confirms the sender \
             does not notice",
            alarm.resource, alarm.node
        ),
        confirm: "rabbitmqctl list_connections name state".to_owned(),
        weight: 80,
    })
}

fn transient(rabbit: &RabbitMq) -> Option<Cause> {
    let queues: Vec<&str> = rabbit
        .queues_of(Role::Tasks)
        .filter(|queue| queue.durable.seen() == Some(&false))
        .map(|queue| queue.name.as_str())
        .collect();
    (!queues.is_empty()).then(|| Cause {
        name: "broker-restarted",
        text: format!(
            "the broker was restarted, and queue {} is not durable",
            plain::names(&queues)
        ),
        confirm:
            "compare the time of sending with `rabbitmq-diagnostics status`, which tells the uptime"
                .to_owned(),
        weight: 45,
    })
}

/// A worker that shuts down warmly has given up its consumers and runs its tasks to their end; so far as they are
/// acknowledged late its channel still holds them.
fn worker_ending(rabbit: &RabbitMq) -> Option<Cause> {
    let channels = rabbit.channels.seen().into_iter().flatten();
    let held: u64 = channels
        .filter(|channel| channel.consumers.seen() == Some(&0))
        .filter_map(|channel| channel.unacknowledged.seen())
        .sum();
    (held > 0).then(|| Cause {
        name: "worker-ending",
        text: "a worker that shuts down warmly has it, and runs it to its end without another word: a channel \
               without a consumer holds unacknowledged messages"
            .to_owned(),
        confirm: "rabbitmqctl list_channels connection consumer_count messages_unacknowledged".to_owned(),
        weight: 70,
    })
}

fn no_confirms() -> Cause {
    Cause {
        name: "no-confirms",
        text: "the connection of the sender broke, or its channel was closed by an earlier error, before RabbitMQ had \
               the message: by default Celery publishes without confirms"
            .to_owned(),
        confirm: "look in the sender's log for errors of the connection at that time".to_owned(),
        weight: 20,
    }
}
