//! What may have become of a task that nothing knows any more: the causes that remain, ranked by what this
//! deployment's configuration makes possible. These are possibilities, and are called so.

use std::time::Duration;

use super::Verdict;
use super::plain;
use super::view::{Case, Route};
use crate::evidence::{Observed, Worker};

mod rabbitmq;

/// One cause that remains possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Short name, for readers of JSON.
    pub name: &'static str,
    /// What would have happened, and what here makes it possible.
    pub text: String,
    /// What would tell.
    pub confirm: String,
    /// Higher is likelier in this deployment; orders the list.
    weight: u8,
}

/// The causes that remain for a task that is unknown or lost, the likeliest first.
pub(super) fn remaining(case: &Case<'_>, verdict: Verdict) -> Vec<Cause> {
    let mut causes: Vec<Cause> = match &case.evidence.rabbitmq {
        Some(rabbit) => rabbitmq::of_the_broker(case, rabbit),
        None => [
            broker_forgot(case),
            promoted(case),
            worker_ending(case),
            restore_dropped(case),
            without_acknowledgements(case),
            // What has begun was delivered.
            (!case.has_begun()).then(delivery_cut_off),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    causes.extend(early_acknowledgement(case));
    if verdict == Verdict::Unknown {
        causes.extend(never_known(case));
    }
    // Equal weights keep the order above, so that the list is the same every time.
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.weight));
    causes
}

/// Causes that leave no trace at all, and so are out of the question for a task with a result.
fn never_known(case: &Case<'_>) -> Vec<Cause> {
    [
        not_sent_yet(case),
        Some(never_to_be_sent()),
        result_not_stored(case),
        result_gone(case),
        Some(unroutable(case)),
        content_refused(case),
        Some(Cause {
            name: "other-address",
            text: "it was sent to another broker, or never sent: the process that sends has another URL, or its \
                   transaction was rolled back, or the id is mistyped"
                .to_owned(),
            confirm: "compare the sender's CELERY_BROKER_URL with the one traced here; look for the id in the \
                      sender's log"
                .to_owned(),
            weight: 30,
        }),
        Some(Cause {
            name: "purged",
            text: "somebody emptied the queue (`celery purge`, `worker --purge`, or the broker's own tools)"
                .to_owned(),
            confirm: "ask who had access; the broker keeps no record of it".to_owned(),
            weight: 5,
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn early_acknowledgement(case: &Case<'_>) -> Option<Cause> {
    let name = case.name();
    let workers = case.evidence.answered();
    let early = |worker: &&Worker| {
        let tasks = worker.registered.seen();
        tasks.is_some_and(|tasks| {
            tasks
                .iter()
                .filter(|(task, _)| !task.starts_with("celery."))
                .filter(|(task, _)| name.is_none_or(|name| name == task.as_str()))
                .any(|(_, traits)| traits.acks_late == Some(false))
        })
    };
    let nodes: Vec<&str> = workers
        .iter()
        .filter(early)
        .map(|w| w.node.as_str())
        .collect();
    let asked = workers.iter().any(|w| w.registered.seen().is_some());
    if asked && nodes.is_empty() {
        return None;
    }
    let whose = if nodes.is_empty() {
        "which is Celery's default".to_owned()
    } else {
        format!("as {} does", plain::names(&nodes))
    };
    Some(Cause {
        name: "early-acknowledgement",
        text: format!(
            "a worker acknowledged it before it ran, {whose}, and was killed while it ran: no copy was left"
        ),
        confirm: "look in the workers' logs for `received` with this id and no `succeeded` or `failed` after it; \
                  look for SIGKILL or the kernel's OOM killer at that time"
            .to_owned(),
        weight: 50,
    })
}

/// A worker that shuts down warmly answers nothing and runs its tasks to their end, acknowledged as they are. Its
/// connection stays; so does that of a client that has just asked the workers something, hence no more than a cause.
fn worker_ending(case: &Case<'_>) -> Option<Cause> {
    let evidence = case.evidence;
    if let Some(why) = evidence.endings_unseen() {
        return Some(Cause {
            name: "worker-ending",
            text: format!(
                "a worker that shuts down warmly may have it, and runs it to its end without another word: that can't \
                 be told here, because {why}"
            ),
            confirm: "look on the workers' hosts for workers that are shutting down; trace it again when they are gone"
                .to_owned(),
            weight: 30,
        });
    }
    (evidence.takers() > evidence.answered().len()).then(|| Cause {
        name: "worker-ending",
        text: "a worker that shuts down warmly has it, and runs it to its end without another word: a connection that \
               last took a message belongs to no worker that answered"
            .to_owned(),
        confirm: "redis-cli CLIENT LIST | grep cmd=brpop, and look on those hosts for workers that are shutting down; \
                  trace it again when they are gone"
            .to_owned(),
        weight: 55,
    })
}

fn broker_forgot(case: &Case<'_>) -> Option<Cause> {
    let server = case.evidence.broker.server.seen()?;
    let evicted = server.evicted_keys.seen().copied().unwrap_or(0);
    if evicted > 0 {
        return Some(Cause {
            name: "evicted",
            text: format!(
                "Redis has evicted {} since it started, queues or results among them perhaps",
                plain::count(evicted, "key")
            ),
            confirm:
                "redis-cli INFO stats | grep evicted_keys; redis-cli CONFIG GET maxmemory-policy"
                    .to_owned(),
            weight: 90,
        });
    }
    let keeps = |observed: &Observed<bool>| observed.seen().copied();
    let uptime = server.uptime_seconds.seen().copied()?;
    let kept = keeps(&server.append_only)? || keeps(&server.rdb_saves)?;
    if kept {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "an uptime in seconds is far below 2^52"
    )]
    let up = plain::duration(uptime as f64);
    let (proof, weight) = match restart_outlived(case, uptime) {
        Some(node) => (
            format!(", after worker {node}, so that it was restarted"),
            88,
        ),
        None => (String::new(), 20),
    };
    Some(Cause {
        name: "broker-restarted",
        text: format!(
            "Redis started {up} ago{proof}, and keeps nothing over a restart: what was sent before is gone"
        ),
        confirm: "compare the time of sending with redis-cli INFO server | grep uptime".to_owned(),
        weight,
    })
}

/// A worker that is older than the server, which must have started anew while it was there.
fn restart_outlived<'e>(case: &Case<'e>, uptime: u64) -> Option<&'e str> {
    // The worker told its uptime at the beginning of the reading, the server at another moment of it.
    let margin = Duration::from_secs(30);
    let server = Duration::from_secs(uptime)
        .saturating_add(margin)
        .as_secs_f64();
    let mut workers = case.evidence.answered().iter();
    let older = workers.find(|worker| {
        let stats = worker.stats.seen();
        stats
            .and_then(|stats| stats.uptime)
            .is_some_and(|worker| worker > server)
    });
    older.map(|worker| worker.node.as_str())
}

/// A promoted replica has what it had received until then.
fn promoted(case: &Case<'_>) -> Option<Cause> {
    let server = case.evidence.broker.server.seen()?;
    (*server.health.promoted.seen()?).then(|| Cause {
        name: "failover",
        text: "this Redis was a replica and was made master, by Sentinel or by hand (second_repl_offset of INFO \
               replication): what the master before had taken and not yet handed on is gone"
            .to_owned(),
        confirm: "compare the time of sending with that of `MASTER MODE enabled` in the server's log".to_owned(),
        weight: 82,
    })
}

fn restore_dropped(case: &Case<'_>) -> Option<Cause> {
    let workers = case.evidence.answered();
    if workers.is_empty() {
        return None;
    }
    let custom: Vec<&str> = workers
        .iter()
        .filter_map(|w| w.queues.seen().map(|queues| (w, queues)))
        .flat_map(|(w, queues)| queues.iter().map(move |queue| (w, queue)))
        .filter_map(|(w, queue)| {
            let exchange = queue.exchange.as_deref()?;
            let key = queue.routing_key.as_deref().unwrap_or_default();
            (case.evidence.route(&w.prefix, exchange, key) == Route::Nowhere).then_some(exchange)
        })
        .collect();
    if custom.is_empty() {
        return None;
    }
    Some(Cause {
        name: "binding-missing",
        text: format!(
            "exchange {} has no binding for its queue: what is sent or restored through it is dropped in silence",
            plain::names(&custom)
        ),
        confirm: "redis-cli SMEMBERS _kombu.binding.EXCHANGE".to_owned(),
        weight: 70,
    })
}

/// Without emulated acknowledgements a worker has what it was given in its memory alone.
fn without_acknowledgements(case: &Case<'_>) -> Option<Cause> {
    let workers = case.evidence.answered().iter();
    let nodes: Vec<&str> = workers
        .filter(|worker| worker.keeps_nothing())
        .map(|worker| worker.node.as_str())
        .collect();
    (!nodes.is_empty()).then(|| Cause {
        name: "no-acknowledgements",
        text: format!(
            "a worker took it and was killed before it had ended: with ack_emulation off, as on {}, nothing keeps what \
             is delivered, acks_late or not",
            plain::names(&nodes)
        ),
        confirm: "look in the workers' logs for `received` with this id and no `succeeded` or `failed` after it"
            .to_owned(),
        weight: 65,
    })
}

fn delivery_cut_off() -> Cause {
    Cause {
        name: "cut-off-delivery",
        text: "a worker's connection broke in the moment between BRPOP and the entry in `unacked`, when a message \
               is in no key at all"
            .to_owned(),
        confirm: "look for `Connection to broker lost` in the workers' logs at the time of sending".to_owned(),
        weight: 8,
    }
}

/// The id of a chain's later link, of a chord's body and of a group is known to whoever sent the canvas, and stands
/// nowhere but in the messages and the memory of the steps before (Celery 5.7 canvas.py, `_chain.run` and `_chord.run`).
fn not_sent_yet(case: &Case<'_>) -> Option<Cause> {
    let evidence = case.evidence;
    let runs = |worker: &Worker| worker.active.seen().is_some_and(|tasks| !tasks.is_empty());
    let running = evidence.answered().iter().any(runs);
    let unsearched = match evidence.canvas_gap.packed {
        0 => String::new(),
        packed => format!(
            "; {} in queues were not unpacked to see whether they carry it",
            plain::count(packed, "compressed message")
        ),
    };
    // A worker that acknowledges a task before it runs it is all that is left of its canvas.
    let unseen = if running {
        ", and no broker keeps what a running task that was acknowledged before it ran sends next"
    } else {
        ""
    };
    evidence.is_at_work().then(|| Cause {
        name: "not-sent-yet",
        text: format!(
            "it is a later step of a chain, the body of a chord, or a group's own id: a step is sent when those before it \
             have ended, and tasks are in flight{unseen}{unsearched}"
        ),
        confirm: "trace the first task of the canvas (`result.parent` where it was sent)".to_owned(),
        weight: if running || evidence.canvas_gap.packed > 0 { 65 } else { 25 },
    })
}

/// No step is sent after one that did not succeed, and the steps that follow leave no trace.
fn never_to_be_sent() -> Cause {
    Cause {
        name: "earlier-step-failed",
        text: "it is a later step of a chain or the body of a chord, and was never sent: a step before it failed, was \
               discarded, or was lost"
            .to_owned(),
        confirm: "trace the first task of the canvas (`result.parent` where it was sent)".to_owned(),
        weight: 28,
    }
}

fn result_not_stored(case: &Case<'_>) -> Option<Cause> {
    let workers = case.evidence.answered();
    let ignored_tasks = |worker: &Worker| -> Vec<String> {
        worker
            .registered
            .seen()
            .into_iter()
            .flatten()
            .filter(|(name, traits)| {
                !name.starts_with("celery.") && traits.ignore_result == Some(true)
            })
            .map(|(name, _)| name.clone())
            .collect()
    };
    let tasks: std::collections::BTreeSet<String> =
        workers.iter().flat_map(ignored_tasks).collect();
    let tasks: Vec<String> = tasks.into_iter().collect();
    let off = case.evidence.results_are_off();
    if tasks.is_empty() && !off {
        return None;
    }
    let what = if off {
        "the workers store no results".to_owned()
    } else {
        format!("results of {} are not stored", plain::names(&tasks))
    };
    Some(Cause {
        name: "result-not-stored",
        text: format!("it ran and ended, and {what}"),
        confirm: "look for `succeeded` with this id in the workers' logs".to_owned(),
        weight: 60,
    })
}

fn result_gone(case: &Case<'_>) -> Option<Cause> {
    let text = match case.evidence.result_expires() {
        Some(expires) if expires.is_infinite() => return None,
        Some(expires) => format!(
            "it ended more than {} ago, and its result has expired",
            plain::duration(expires)
        ),
        None => "it ended, and its result has expired".to_owned(),
    };
    Some(Cause {
        name: "result-expired",
        text,
        confirm: "compare the time of sending with result_expires".to_owned(),
        weight: 40,
    })
}

fn unroutable(case: &Case<'_>) -> Cause {
    let routes: Vec<String> = case
        .evidence
        .answered()
        .iter()
        .filter_map(|w| Some((w, w.conf.seen()?.task_routes.as_deref()?)))
        .flat_map(|(w, routes)| routes.iter().map(move |route| (w, route)))
        .filter(|(_, route)| route.queue.is_none())
        .filter_map(|(w, route)| {
            let exchange = route.exchange.as_deref()?;
            let key = route.routing_key.as_deref().unwrap_or_default();
            (case.evidence.route(&w.prefix, exchange, key) == Route::Nowhere)
                .then(|| format!("{} (exchange {exchange})", route.pattern))
        })
        .collect();
    let weight = if routes.is_empty() { 15 } else { 95 };
    let which = if routes.is_empty() {
        "it was sent with an exchange and a routing key of its own that match no binding".to_owned()
    } else {
        format!("the route {} matches no binding", plain::names(&routes))
    };
    Cause {
        name: "unroutable",
        text: format!("{which}: such a message is dropped in silence"),
        confirm: if case.evidence.rabbitmq.is_some() {
            "look at the exchange and the routing key where it is sent; rabbitmqctl list_bindings"
        } else {
            "look at the exchange and the routing key where it is sent; redis-cli SMEMBERS _kombu.binding.EXCHANGE"
        }
        .to_owned(),
        weight,
    }
}

fn content_refused(case: &Case<'_>) -> Option<Cause> {
    if case.evidence.answered().is_empty() {
        return None;
    }
    Some(Cause {
        name: "content-refused",
        text: "a worker refused its content type or could not decode it: it then acknowledges the message and stores \
               no result"
            .to_owned(),
        confirm: "look for `ContentDisallowed` or `Can't decode message body` in the workers' logs".to_owned(),
        weight: 12,
    })
}

#[cfg(test)]
mod tests {
    use crate::diagnose::judge;
    use crate::diagnose::testkit::Lab;

    fn causes(commands: &[&str]) -> Vec<&'static str> {
        let mut lab = Lab::new().worker("w1", &["celery"]).clients(commands);
        lab.task("t");
        let server = lab.evidence.broker.server.seen_mut().expect("it was read");
        for client in server.clients.seen_mut().expect("they were read") {
            client.blocked = false;
        }
        let trace = judge(&lab.evidence, &["t".to_owned()]).traces.remove(0);
        trace.causes.iter().map(|cause| cause.name).collect()
    }

    #[test]
    fn without_acknowledgements_a_crash_loses_what_was_delivered() {
        let named = |ack_emulation| {
            let mut lab = Lab::new().worker("w1", &["celery"]).with_worker(|w| {
                let stats = w.stats.seen_mut().expect("seen");
                stats.transport.ack_emulation = ack_emulation;
            });
            lab.task("t");
            let trace = judge(&lab.evidence, &["t".to_owned()]).traces.remove(0);
            let mut causes = trace.causes.iter();
            causes.any(|cause| cause.name == "no-acknowledgements")
        };
        assert!(named(Some(false)));
        assert!(!named(Some(true)) && !named(None));
    }

    #[test]
    fn a_later_step_is_not_sent_before_those_before_it_have_ended() {
        let named = |mut lab: Lab| {
            lab.task("t");
            let trace = judge(&lab.evidence, &["t".to_owned()]).traces.remove(0);
            let mut causes = trace.causes.iter();
            causes.any(|cause| cause.name == "not-sent-yet")
        };
        let lab = || Lab::new().worker("w1", &["celery"]);
        assert!(!named(lab()));
        assert!(named(lab().queued("first", "celery")));
    }

    #[test]
    fn a_worker_that_ends_warmly_remains_where_a_connection_is_left() {
        assert!(causes(&["brpop", "brpop", "publish"]).contains(&"worker-ending"));
        let without = causes(&["brpop", "ping"]);
        assert!(
            !without.is_empty() && !without.contains(&"worker-ending"),
            "{without:?}"
        );
    }
}
