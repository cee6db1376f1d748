//! CD403: a task waits on a busy worker while another worker of its queue is idle.

use std::collections::BTreeSet;

use crate::celery::control::ClaimState;
use crate::diagnose::view::Route;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Source, Worker, WorkerClaim};

/// For how many seconds every slot must have been busy. On a burst of short tasks one worker is always a moment ahead
/// of another.
const BUSY_FOR: f64 = 1.0;

/// From how many seconds on it is worth a warning. In less time a slot is likely to come free by itself.
const LONG: f64 = 30.0;

/// The rule.
pub static PREFETCH_HOARDING: Rule = Rule {
    code: "CD403",
    name: "prefetch-hoarding",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The task was taken by a worker all of whose slots are busy with long tasks, and waits there. \
                  Another worker of the same queue is idle and can't take it, because it has left the queue.",
        cause: "A worker reserves worker_prefetch_multiplier messages for each of its slots, 4 by default, so that \
                short tasks follow each other without a pause. Behind a long task the reserved ones wait until it \
                ends, wherever other workers are free.",
        read: "The word of every live worker on what it runs and reserves, its concurrency, and its queues. It is \
               said only when every slot of the busy worker has been busy for a second, and another worker of the \
               same queue has a free slot and nothing reserved; in the first 30 seconds as information only.",
        confirm: "Run `celery -A APP inspect --timeout 3 active` and `celery -A APP inspect --timeout 3 reserved`.",
        mend: "Nothing is lost: the task runs when a slot is free. If it can't wait, send it again and revoke this \
               one: `celery -A APP control revoke ID`.",
        prevent: "Set worker_prefetch_multiplier to 1, and task_acks_late to True where tasks can run twice without \
                  harm: then a worker reserves one task beyond those that it runs, or none. On Redis, Celery 5.6 and \
                  later know worker_disable_prefetch. Give long tasks a queue and workers of their own.",
        references: &[
            "celery issues 2541, 3434, 3765, 6500",
            "https://docs.celeryq.dev/en/stable/userguide/optimizing.html#prefetch-limits",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.claims(ClaimState::Reserved)
        .into_iter()
        .filter_map(|claim| finding(case, claim))
        .collect()
}

fn finding(case: &Case<'_>, claim: &WorkerClaim) -> Option<Finding> {
    let workers = case.evidence.answered();
    let busy = workers.iter().find(|worker| worker.node == claim.node)?;
    let since = busy_for(busy, case.now()).filter(|seconds| *seconds >= BUSY_FOR)?;
    let queues = queues_of(case, claim, busy);
    let task = claim.claim.task.as_deref();
    let idle: Vec<&str> = workers
        .iter()
        .filter(|worker| worker.prefix == busy.prefix && !worker.twins)
        .filter(|worker| takes(worker, busy, queues.as_ref()))
        .filter(|worker| task.is_none_or(|task| worker.knows(task) == Some(true)))
        .filter(|worker| worker.free_slots().is_some_and(|free| free > 0))
        .filter(|worker| worker.reserved.seen() == Some(&0))
        .map(|worker| worker.node.as_str())
        .collect();
    if idle.is_empty() {
        return None;
    }
    let node = &busy.node;
    let verb = if idle.len() == 1 { "is" } else { "are" };
    let message = format!(
        "{} waits on {node}, all of whose slots have been busy for {} and longer, while {} {verb} idle",
        case.called(),
        plain::duration(since),
        plain::names(&idle)
    );
    let mut finding = Finding::of(&PREFETCH_HOARDING, message)
        .evidence("worker", node.as_str())
        .evidence("running", busy.active.seen().map_or(0, Vec::len))
        .evidence("reserved", busy.reserved.seen().copied())
        .evidence("idle_workers", idle)
        .confirm(case.evidence.inspect("active").map(|ask| ask.on(node)))
        .confirm(case.evidence.inspect("reserved"))
        .remedy("set worker_prefetch_multiplier to 1, or give long tasks a queue and workers of their own")
        .subject("worker", node.as_str())
        .task(case.id);
    if since < LONG {
        finding.severity = Severity::Info;
    }
    Some(finding)
}

/// For how many seconds the youngest of its running tasks has run; none while it has a free slot, or did not say.
fn busy_for(worker: &Worker, now: f64) -> Option<f64> {
    if worker.twins || worker.free_slots()? > 0 {
        return None;
    }
    let starts: Option<Vec<f64>> = worker
        .active
        .seen()?
        .iter()
        .map(|claim| claim.time_start)
        .collect();
    let youngest = starts?.into_iter().max_by(f64::total_cmp)?;
    Some(now - youngest)
}

/// The queues that it can have come from, where its routing tells.
fn queues_of(case: &Case<'_>, claim: &WorkerClaim, holder: &Worker) -> Option<BTreeSet<String>> {
    let said = (
        claim.claim.exchange.as_deref(),
        claim.claim.routing_key.as_deref(),
    );
    let (exchange, routing_key) = match said {
        (Some(exchange), Some(key)) => (exchange, key),
        _ => case
            .held()
            .first()
            .map(|held| (held.exchange, held.routing_key))?,
    };
    match case.evidence.route(&holder.prefix, exchange, routing_key) {
        Route::Queues(queues) => Some(queues),
        Route::Nowhere | Route::Unknown(_) => None,
    }
}

/// Whether a worker consumes the task's queue. Where that is not known, it must consume every queue of the holder.
fn takes(worker: &Worker, holder: &Worker, queues: Option<&BTreeSet<String>>) -> bool {
    if worker.node == holder.node {
        return false;
    }
    match (queues, holder.queues.seen()) {
        (Some(queues), _) => {
            !queues.is_empty() && queues.iter().all(|queue| worker.consumes(queue))
        }
        (None, Some(all)) => {
            !all.is_empty() && all.iter().all(|queue| worker.consumes(&queue.name))
        }
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, NOW, names};
    use crate::evidence::{Observed, Reason};

    /// Two workers of one queue, of which the first runs a long task and has reserved the traced one.
    fn lab(other_queue: &str) -> Lab {
        Lab::new()
            .worker("busy", &["celery"])
            .with_worker(|worker| worker.reserved = Observed::Seen(1))
            .worker("idle", &[other_queue])
            .claimed("long", "busy", ClaimState::Active)
            .unacked("t1", 60.0)
            .claimed("t1", "busy", ClaimState::Reserved)
    }

    #[test]
    fn a_task_behind_a_long_one_beside_an_idle_worker_is_found() {
        let findings = lab("celery").check(&PREFETCH_HOARDING, "t1");
        assert_eq!(names(&findings), ["prefetch-hoarding"]);
        assert!(
            findings[0]
                .message
                .ends_with("busy for 1m and longer, while idle is idle")
        );
    }

    #[test]
    fn an_idle_worker_of_another_queue_is_no_help() {
        assert!(lab("other").check(&PREFETCH_HOARDING, "t1").is_empty());
    }

    #[test]
    fn a_burst_of_short_tasks_is_clear() {
        let mut lab = lab("celery");
        for claim in lab.workers_mut().answered[0]
            .active
            .seen_mut()
            .expect("seen")
        {
            claim.time_start = Some(NOW - 0.5);
        }
        assert!(lab.check(&PREFETCH_HOARDING, "t1").is_empty());
    }

    #[test]
    fn slots_that_were_taken_just_now_are_information() {
        let mut lab = lab("celery");
        for claim in lab.workers_mut().answered[0]
            .active
            .seen_mut()
            .expect("seen")
        {
            claim.time_start = Some(NOW - 4.0);
        }
        let findings = lab.check(&PREFETCH_HOARDING, "t1");
        assert_eq!(findings[0].severity, Severity::Info);
    }

    #[test]
    fn a_free_slot_or_two_busy_workers_are_clear() {
        let mut free = lab("celery");
        free.workers_mut().answered[0]
            .stats
            .seen_mut()
            .expect("seen")
            .concurrency = Some(2);
        assert!(free.check(&PREFETCH_HOARDING, "t1").is_empty());
        let both = lab("celery").claimed("other", "idle", ClaimState::Active);
        assert!(both.check(&PREFETCH_HOARDING, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_of_a_worker_that_did_not_tell_what_it_runs() {
        let mut lab = lab("celery");
        lab.workers_mut().answered[1].active = Observed::not_asked("a test");
        assert!(lab.check(&PREFETCH_HOARDING, "t1").is_empty());
        let unasked = lab.unread(Source::Workers, Reason::TimedOut);
        assert!(unasked.check(&PREFETCH_HOARDING, "t1").is_empty());
    }
}
