//! CD210: a queue that has consumers with room, and does not move.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, List, Movement, Source, Worker};

/// A shorter time between two readings proves nothing.
const LEAST: f64 = 2.0;

/// The rule.
pub static STALLED_CONSUMER: Rule = Rule {
    code: "CD210",
    name: "stalled-consumer",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Messages wait in a queue, every worker that consumes it has free slots, and between two readings not \
                  one message was taken and not one task begun. The workers answer, and do not work.",
        cause: "After a lost connection a worker can go on answering remote control without taking messages. Several \
                such faults were mended between kombu 5.4 and 5.7. Or its pool hangs, so that tasks never reach a \
                process.",
        read: "The message that is next in turn, and the length of the list, at two readings; what the workers run, \
               reserve and schedule at both, and how many tasks they began between them. Of a worker that has tasks in \
               reserve it is said only if a process of its pool was ready for them, and the readings are further \
               apart than one may take to start (worker_proc_alive_timeout, four seconds by default). One with none \
               and a rate limit on any task is left out: it can hold messages that no reply shows. RabbitMQ shows no \
               message that waits: there the depth of the queue is read many times and must never fall, the workers \
               must run nothing, and the statistics of the management API must not count \
               on. Without --sample there is no second reading, and nothing is said.",
        confirm: "Run `redis-cli LINDEX QUEUE -1` twice, some seconds apart: the same message. Run `redis-cli CLIENT \
                  LIST`: no connection of the worker's machine has cmd=brpop. On RabbitMQ run `rabbitmqctl list_queues \
                  name messages_ready messages_unacknowledged consumers` twice.",
        mend: "Restart the worker. The queue's messages are not touched by that.",
        prevent: "Upgrade to Celery and kombu 5.7. Let a liveness probe look at what a worker takes, not at whether it \
                  answers.",
        references: &[
            "celery issues 8030, 8091, 9191, 10205",
            "kombu issues 2007, 2492",
        ],
    },
    // What stands in the queues needs no look: without their lengths there is no second reading either.
    needs: &[Source::Workers],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let movement = evidence
        .census
        .as_ref()
        .and_then(|census| census.movement.as_ref());
    let Some(movement) = movement.filter(|movement| movement.seconds >= LEAST) else {
        return Vec::new();
    };
    // Who is not heard may take from it, and be the reason why nobody else need.
    if !evidence.all_workers_answered() || evidence.unheard_consumers() > 0 {
        return Vec::new();
    }
    let lists = evidence.lists.seen().into_iter().flatten();
    lists
        .filter_map(|list| finding(evidence, movement, list))
        .collect()
}

fn finding(evidence: &Evidence, movement: &Movement, list: &List) -> Option<Finding> {
    let moved = movement.lists.iter().find(|moved| moved.key == list.key)?;
    // A queue that is as deep as before may be taken from as fast as it fills.
    let rabbitmq = evidence.rabbitmq.is_some();
    let same = if rabbitmq {
        moved.taken == Some(false)
    } else {
        moved.same_next
    };
    let stood_still = same && moved.before > 0 && moved.after >= moved.before;
    let readers = evidence.readers(list);
    let hangs = |worker: &&Worker| {
        movement.hanging_throughout.contains(&worker.node) && !may_be_starting(worker, movement)
    };
    let ready = |worker: &&Worker| {
        let idle = movement.idle_throughout.contains(&worker.node) && !may_hide(worker);
        let began_none = movement.began_none.contains(&worker.node);
        began_none && !worker.twins && (idle || hangs(worker))
    };
    if !stood_still || readers.is_empty() || !readers.iter().all(ready) {
        return None;
    }
    let nodes: Vec<&str> = readers.iter().map(|worker| worker.node.as_str()).collect();
    let queue = &list.queue;
    let (has, they) = if nodes.len() == 1 {
        ("has", "it")
    } else {
        ("have", "they")
    };
    let (what, did) = if readers.iter().any(hangs) {
        ("free slots and tasks in reserve", "began none")
    } else {
        ("room for them", "took none")
    };
    let mut finding = Finding::of(
        &STALLED_CONSUMER,
        format!(
            "{} in queue {queue}, {} {has} {what}, and in {} {they} {did}",
            plain::waiting(moved.after),
            plain::names(&nodes),
            plain::duration(movement.seconds)
        ),
    )
    .evidence("queue", queue.as_str())
    .evidence("messages", moved.after)
    .evidence("seconds", movement.seconds)
    .evidence("workers", nodes)
    .confirm(evidence.depth(list))
    .confirm(evidence.who_waits())
    .remedy("restart the workers of this queue; upgrade Celery and kombu to 5.7 or newer")
    .subject("queue", queue.as_str());
    finding.count = moved.after;
    Some(finding)
}

/// Whether the processes of a worker's pool may still be starting. Those that start with the worker may take as long as
/// they like, to load a model for example; later ones are killed after a time (Celery 5.7 concurrency/asynpool.py,
/// `on_process_up`).
fn may_be_starting(worker: &Worker, movement: &Movement) -> bool {
    let (Some(stats), Some(conf)) = (worker.stats.seen(), worker.conf.seen()) else {
        return true;
    };
    let Some(limit) = conf.worker_proc_alive_timeout else {
        return true;
    };
    movement.seconds <= limit || stats.ready_processes == Some(0)
}

/// Whether a worker can hold messages that no reply shows, in the bucket of a rate limit: they fill its prefetch.
fn may_hide(worker: &Worker) -> bool {
    let tasks = worker.registered.seen();
    tasks.is_none_or(|tasks| tasks.values().any(|task| task.rate_limit.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit, TASK, names};
    use crate::evidence::{Census, ListMovement};
    use std::collections::BTreeSet;

    fn lab(same_next: bool, after: u64, idle: bool) -> Lab {
        let mut lab = Lab::new().worker("w1", &["celery"]).queued("t1", "celery");
        let moved = ListMovement {
            key: "celery".to_owned(),
            before: 1,
            after,
            same_next,
            taken: None,
        };
        let idle = idle.then(|| "w1".to_owned());
        lab.evidence.census = Some(Census {
            movement: Some(Movement {
                seconds: 5.0,
                lists: vec![moved],
                idle_throughout: idle.into_iter().collect(),
                hanging_throughout: BTreeSet::new(),
                began_none: BTreeSet::from(["w1".to_owned()]),
            }),
            ..Census::default()
        });
        lab
    }

    /// A queue of RabbitMQ before a worker that is idle and began nothing.
    fn rabbit(change: impl FnOnce(&mut Movement)) -> Lab {
        let rabbit = Rabbit::new().queue("celery", 3, 1);
        let mut lab = rabbit.lab().worker("w1", &["celery"]);
        let w1 = || ["w1".to_owned()].into();
        let mut movement = Movement {
            seconds: 5.0,
            lists: vec![ListMovement {
                key: "celery".to_owned(),
                before: 3,
                after: 3,
                same_next: false,
                taken: Some(false),
            }],
            idle_throughout: w1(),
            hanging_throughout: BTreeSet::new(),
            began_none: w1(),
        };
        change(&mut movement);
        lab.evidence.census = Some(Census {
            movement: Some(movement),
            ..Census::default()
        });
        lab
    }

    #[test]
    fn on_rabbitmq_depth_and_the_workers_own_count_are_evidence() {
        let found = rabbit(|_| ()).check(&STALLED_CONSUMER, "");
        assert_eq!(names(&found), ["stalled-consumer"]);
        assert!(
            found[0]
                .confirm
                .iter()
                .all(|how| how.contains("rabbitmqctl") || how.contains("/api/"))
        );
        let grown = rabbit(|movement| movement.lists[0].after = 9);
        assert_eq!(grown.check(&STALLED_CONSUMER, "").len(), 1);
    }

    #[test]
    fn on_rabbitmq_nothing_less_is() {
        for lab in [
            // As deep as before, and shorter in between, or counted on by the statistics.
            rabbit(|movement| movement.lists[0].taken = Some(true)),
            rabbit(|movement| movement.lists[0].taken = None),
            rabbit(|movement| movement.lists[0].after = 2),
            // The worker ran or began something.
            rabbit(|movement| movement.began_none.clear()),
            rabbit(|movement| movement.idle_throughout.clear()),
            // Another worker came or left meanwhile, and may have taken some.
            {
                let mut lab = rabbit(|_| ());
                lab.workers_mut().unsettled.push("w2".to_owned());
                lab
            },
        ] {
            assert!(lab.check(&STALLED_CONSUMER, "").is_empty());
        }
        // A consumer that answers nothing may be the one that takes them.
        let other = Rabbit::new().queue("celery", 3, 2).lab().evidence.rabbitmq;
        let mut lab = rabbit(|_| ());
        lab.evidence.rabbitmq = other;
        assert!(lab.check(&STALLED_CONSUMER, "").is_empty());
    }

    #[test]
    fn a_queue_that_stands_still_before_idle_workers_is_found() {
        let found = lab(true, 1, true).check(&STALLED_CONSUMER, "");
        assert_eq!(names(&found), ["stalled-consumer"]);
    }

    #[test]
    fn a_pool_that_begins_nothing_of_what_is_reserved_is_found() {
        let hanging = |seconds: f64, change: &dyn Fn(&mut Worker)| {
            let mut lab = lab(true, 1, false).with_worker(change);
            let movement = lab
                .evidence
                .census
                .as_mut()
                .expect("counted")
                .movement
                .as_mut();
            let movement = movement.expect("two readings");
            movement.seconds = seconds;
            movement.hanging_throughout = BTreeSet::from(["w1".to_owned()]);
            lab.check(&STALLED_CONSUMER, "")
        };
        let found = hanging(5.0, &|_| {});
        assert_eq!(
            found[0].message,
            "1 message waits in queue celery, w1 has free slots and tasks in reserve, and in 5s it began none"
        );
        // Tasks that wait for their rate limit are not among the reserved ones.
        let limited = hanging(5.0, &|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.get_mut(TASK).expect("known").rate_limit = Some("1/m".to_owned());
        });
        assert_eq!(names(&limited), ["stalled-consumer"]);
        // A process may be starting.
        assert!(hanging(3.0, &|_| {}).is_empty());
        let patient = |worker: &mut Worker| {
            let conf = worker.conf.seen_mut().expect("seen");
            conf.worker_proc_alive_timeout = Some(60.0);
        };
        assert!(hanging(5.0, &patient).is_empty());
        assert_eq!(hanging(61.0, &patient).len(), 1);
        let none_is_ready = |worker: &mut Worker| {
            worker.stats.seen_mut().expect("seen").ready_processes = Some(0);
        };
        assert!(hanging(61.0, &none_is_ready).is_empty());
    }

    #[test]
    fn one_that_moves_and_one_whose_workers_are_busy_are_clear() {
        for lab in [lab(false, 1, true), lab(true, 0, true), lab(true, 1, false)] {
            assert!(lab.check(&STALLED_CONSUMER, "").is_empty());
        }
    }

    #[test]
    fn a_rate_limit_a_silent_worker_and_a_single_reading_prove_nothing() {
        let limited = lab(true, 1, true).with_worker(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.get_mut(TASK).expect("known").rate_limit = Some("1/m".to_owned());
        });
        let mut once = lab(true, 1, true);
        once.evidence.census.as_mut().expect("counted").movement = None;
        for lab in [limited, lab(true, 1, true).silent("w2"), once] {
            assert!(lab.check(&STALLED_CONSUMER, "").is_empty());
        }
    }
}
