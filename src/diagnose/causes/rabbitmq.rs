//! Causes that lie with RabbitMQ.

use std::time::Duration;

use super::Cause;
use crate::diagnose::plain;
use crate::diagnose::view::{Case, Routes};
use crate::evidence::RabbitMq;
use crate::evidence::rabbitmq::{Queue, QueueType, Role};

/// The causes that this virtual host makes possible for a task that is lost or unknown.
pub(super) fn of_the_broker(case: &Case<'_>, rabbit: &RabbitMq) -> Vec<Cause> {
    [
        expired(case, rabbit),
        queue_gone(rabbit),
        refused(rabbit),
        dropped_as_cycle(case),
        limits(case, rabbit),
        too_many_deliveries(case, rabbit),
        alarm(rabbit),
        transient(rabbit),
        worker_ending(rabbit),
        no_confirms(case),
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
        confirm: "celery -A APP inspect report".to_owned(),
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
fn expired(case: &Case<'_>, rabbit: &RabbitMq) -> Option<Cause> {
    // A worker that has begun with it has taken it out of its queue.
    if case.has_begun() {
        return None;
    }
    let queues = rabbit.queues.seen().into_iter().flatten();
    let gone: u64 = queues
        .filter_map(|queue| Some(queue.peeked.seen()?.gone))
        .sum();
    let left: Vec<String> = rabbit
        .queues_of(Role::Tasks)
        .filter_map(|queue| Some((queue, left_unacknowledged(queue)?)))
        .map(|(queue, left)| format!("{} out of {}", plain::count(left, "message"), queue.name))
        .collect();
    let (seen, weight) = if gone > 0 {
        let what = plain::count(gone, "message");
        (
            format!(": {what} counted in the queues did not come to this look"),
            85,
        )
    } else if left.is_empty() {
        (String::new(), 18)
    } else {
        let what = plain::names(&left);
        (
            format!(": by the statistics {what} went without an acknowledgement"),
            75,
        )
    };
    Some(Cause {
        name: "expired-in-queue",
        text: format!(
            "it was sent with `expires`, and that passed before its turn came: it is the message's time to live too, and \
             RabbitMQ drops it without a word, so that nobody writes REVOKED{seen}"
        ),
        confirm: "look whether it was sent with `expires`".to_owned(),
        weight,
    })
}

/// How many messages have left a queue without an acknowledgement, by its statistics: they expired, were purged, or a
/// limit dropped them. None where there are none, or where the statistics do not tell.
fn left_unacknowledged(queue: &Queue) -> Option<u64> {
    let of = |number: &crate::evidence::Observed<u64>| number.seen().copied();
    let there = [&queue.acknowledged, &queue.unacknowledged, &queue.ready].map(of);
    let [acknowledged, unacknowledged, ready] = there;
    // What nobody has acknowledged yet is not counted at all.
    let accounted = acknowledged
        .unwrap_or_default()
        .saturating_add(unacknowledged?);
    let left = of(&queue.published)?.saturating_sub(accounted.saturating_add(ready?));
    (left > 0).then_some(left)
}

/// A queue that is deleted leaves the exchange that Celery declared with it.
fn queue_gone(rabbit: &RabbitMq) -> Option<Cause> {
    let bindings = rabbit.bindings.seen()?;
    let bare: Vec<&str> = (rabbit.exchanges.seen()?.iter())
        .filter(|exchange| exchange.kind == "direct" && exchange.should_hand_on())
        .filter(|exchange| {
            !bindings
                .iter()
                .any(|binding| binding.source == exchange.name)
        })
        .map(|exchange| exchange.name.as_str())
        .collect();
    (!bare.is_empty()).then(|| Cause {
        name: "queue-deleted",
        text: format!(
            "its queue was deleted with what stood in it, by x-expires, by auto_delete or by hand: nothing is bound any more \
             to exchange {}, which Celery declares together with a queue",
            plain::names(&bare)
        ),
        confirm: format!("rabbitmqctl -p {} list_bindings", plain::key(&rabbit.vhost)),
        weight: 58,
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
    let lost = |queue: &&Queue| {
        let transient = (queue.persistent.seen().zip(queue.ready.seen()))
            .is_some_and(|(persistent, ready)| persistent < ready);
        queue.durable.seen() == Some(&false) || transient
    };
    let queues: Vec<&str> = rabbit
        .queues_of(Role::Tasks)
        .filter(lost)
        .map(|queue| queue.name.as_str())
        .collect();
    let nodes = rabbit.nodes.seen().into_iter().flatten();
    let up = nodes.filter_map(|node| node.uptime_ms.seen()).min();
    let started = up.map_or(String::new(), |up| {
        let up = Duration::from_millis(*up).as_secs_f64();
        format!(" (a node started {} ago)", plain::duration(up))
    });
    (!queues.is_empty()).then(|| Cause {
        name: "broker-restarted",
        text: format!(
            "the broker was restarted{started}, and a restart loses what stands in {}: a queue that is not durable, or \
             messages that are not persistent",
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

/// Senders have the settings of the workers, so far as these tell. What a worker has begun with has reached RabbitMQ.
fn no_confirms(case: &Case<'_>) -> Option<Cause> {
    let workers = case.evidence.answered();
    let confirms = workers.iter().filter_map(|worker| {
        let stats = worker.stats.seen()?;
        Some(stats.transport.confirm_publish == Some(true))
    });
    let confirms: Vec<bool> = confirms.collect();
    if case.has_begun() || (!confirms.is_empty() && confirms.iter().all(|on| *on)) {
        return None;
    }
    let whose = if confirms.is_empty() {
        "by default Celery publishes without confirms"
    } else {
        "the workers' settings leave confirm_publish off, as Celery does by default"
    };
    Some(Cause {
        name: "no-confirms",
        text: format!(
            "the sender's connection broke while it published, or its channel was closed by an earlier error, and it was not \
             told: {whose}"
        ),
        confirm: "look in the sender's log for errors of the connection at that time".to_owned(),
        weight: 16,
    })
}

#[cfg(test)]
mod tests {
    use crate::diagnose::judge;
    use crate::diagnose::testkit::{Lab, Rabbit};
    use crate::evidence::Observed;

    /// The causes of an id that nothing knows, by name.
    fn causes(mut lab: Lab) -> Vec<&'static str> {
        lab.task("t");
        let trace = judge(&lab.evidence, &["t".to_owned()]).traces.remove(0);
        trace.causes.iter().map(|cause| cause.name).collect()
    }

    fn lab(rabbit: Rabbit) -> Lab {
        rabbit.lab().worker("w1", &["celery"])
    }

    fn of_queue(published: u64, acknowledged: u64) -> Lab {
        lab(Rabbit::new().queue("celery", 0, 1).with(|queue| {
            queue.published = Observed::Seen(published);
            queue.acknowledged = Observed::Seen(acknowledged);
        }))
    }

    #[test]
    fn what_left_a_queue_unacknowledged_puts_expiry_first() {
        assert_eq!(causes(of_queue(3, 2))[0], "expired-in-queue");
        let accounted = causes(of_queue(3, 3));
        assert!(accounted.contains(&"expired-in-queue"));
        assert_ne!(accounted[0], "expired-in-queue");
    }

    #[test]
    fn senders_with_confirms_lose_nothing_on_the_way() {
        let confirms = |on| {
            of_queue(0, 0).with_worker(|worker| {
                worker
                    .stats
                    .seen_mut()
                    .expect("seen")
                    .transport
                    .confirm_publish = on;
            })
        };
        assert!(causes(confirms(None)).contains(&"no-confirms"));
        assert!(!causes(confirms(Some(true))).contains(&"no-confirms"));
    }

    #[test]
    fn an_exchange_with_nothing_bound_was_left_by_a_queue() {
        let exchange = || {
            Rabbit::new()
                .queue("celery", 0, 1)
                .exchange("emails", "direct", 5, 5)
        };
        assert!(causes(lab(exchange())).contains(&"queue-deleted"));
        let bound = exchange().bound("emails", "emails", "celery");
        assert!(!causes(lab(bound)).contains(&"queue-deleted"));
    }

    #[test]
    fn messages_that_are_not_persistent_are_lost_by_a_restart() {
        let with = |persistent| {
            let queue = Rabbit::new().queue("later", 2, 0);
            let rabbit = queue.with(|queue| queue.persistent = Observed::Seen(persistent));
            let mut lab = lab(rabbit.queue("celery", 0, 1));
            for read in &mut lab.evidence.reads {
                (read.status, read.reason) = (crate::evidence::ReadStatus::Complete, None);
            }
            causes(lab)
        };
        assert!(with(0).contains(&"broker-restarted"));
        assert!(!with(2).contains(&"broker-restarted"));
    }
}
