//! CD508: one task runs, or will run, twice.

use std::collections::BTreeSet;

use crate::celery::control::ClaimState;
use crate::diagnose::command::{Command, control};
use crate::diagnose::view::{Holder, stored};
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Source, StoredResult, WorkerClaim};

/// Seconds by which a run must begin after a result to be another run than the one that stored it. Both times come
/// from workers' clocks.
const AFTER: f64 = 1.0;

/// The rule.
pub static DUPLICATE_RUN: Rule = Rule {
    code: "CD508",
    name: "duplicate-run",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The same task is in the hands of two workers, or of two processes of one, or has ended and is about \
                  to run again: a copy of its message is still there, or a worker has begun anew. What it does is \
                  done twice.",
        cause: "On Redis a message that is not acknowledged within the visibility timeout (one hour by default) is \
                delivered again, whether its worker lives or not: tasks with acks_late that run for longer, and tasks \
                whose ETA is further off, come back again and again. The shortest timeout of all workers and clients \
                on the database counts. On RabbitMQ a message is delivered again when its channel or connection \
                breaks, or when it is not acknowledged within the consumer timeout; the worker that lost it runs on, \
                and gets it once more when it has connected again. Or the same id \
                was sent twice, as an app does that gives a task the same id each time: until the new message runs, \
                the result is that of the last run.",
        read: "The result before the broker was read, then the queues, the hash `unacked`, and the word of every live \
               worker about this id. A result is stored a moment before the message is acknowledged: a copy counts \
               only if it stood still when looked at again, and a run only if it began after the result. A retry is \
               sent under the same id while the old run ends: that does not count. Nor does a broadcast, which \
               every worker runs.",
        confirm: "Run `celery -A APP inspect --timeout 3 active`, which lists each run; query_task names an id only \
                  once. Look for `received` with this id in the workers' logs: it stands there twice.",
        mend: "If the second run does harm, revoke it: `celery -A APP control revoke ID` keeps one that has not begun \
               from running. One that runs is stopped only with `--terminate`, which ends both.",
        prevent: "On Redis set visibility_timeout in broker_transport_options longer than the longest task and the \
                  furthest ETA, the same on every worker and client. On RabbitMQ, which has no such timeout, set \
                  worker_cancel_long_running_tasks_on_connection_loss and keep consumer_timeout longer than the \
                  longest task. Write tasks so that a second run does no harm, or set \
                  worker_deduplicate_successful_tasks.",
        references: &[
            "kombu issue 337",
            "celery issues 3270, 4400, 5935, 6358, 7009, 9882",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[
        Source::Queues,
        Source::Unacked,
        Source::Workers,
        Source::Results,
    ],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let found = two_workers(case)
        .or_else(|| one_worker_twice(case))
        .or_else(|| runs_again(case));
    found.into_iter().collect()
}

fn finding(case: &Case<'_>, message: String) -> Finding {
    let redelivered = case
        .task
        .copies
        .iter()
        .any(|copy| copy.envelope.redelivered)
        || case.task.claims.iter().any(|claim| claim.claim.redelivered);
    let claims: Vec<String> = case.task.claims.iter().map(said).collect();
    Finding::of(&DUPLICATE_RUN, message)
        .evidence("claims", claims)
        .evidence("copies", case.task.copies.len())
        .evidence("redelivered", redelivered)
        // `query_task` names each id once, whatever runs.
        .confirm(case.evidence.inspect("active"))
        .remedy(remedy(case, redelivered))
        .mend(revoke(case))
        .task(case.id)
}

/// A run that has begun is not stopped by a revocation alone, and with `--terminate` all of them end.
fn revoke(case: &Case<'_>) -> Command {
    let order = if case.is_running() {
        "revoke --terminate"
    } else {
        "revoke"
    };
    control(order).name(case.id)
}

fn remedy(case: &Case<'_>, redelivered: bool) -> String {
    let again = if redelivered || case.task.copies.is_empty() {
        ""
    } else {
        "nothing, if the app sends this id again on purpose; else "
    };
    let stop = if case.is_running() {
        "if a second run does harm, end both: a revocation alone keeps only one that has not begun from running"
    } else {
        "revoke it, if a second run does harm"
    };
    let prevent = if case.evidence.rabbitmq.is_some() {
        "a worker that loses its connection, or keeps a message for longer than RabbitMQ's consumer_timeout, is given \
         it again: set worker_cancel_long_running_tasks_on_connection_loss, which ends the first run then"
    } else {
        "set visibility_timeout longer than the longest task and the furthest ETA, on every worker and client"
    };
    format!("{again}{stop}; {prevent}")
}

fn said(claim: &WorkerClaim) -> String {
    format!("{} ({})", claim.node, claim.claim.state.name())
}

fn two_workers(case: &Case<'_>) -> Option<Finding> {
    let mut claims: Vec<&WorkerClaim> = case
        .task
        .claims
        .iter()
        .filter(|claim| claim.claim.state != ClaimState::Ready)
        .filter(|claim| !is_broadcast(case, claim))
        .collect();
    claims.sort_by(|a, b| a.node.cmp(&b.node));
    claims.dedup_by(|a, b| a.node == b.node);
    if claims.len() < 2 || is_retried(case) {
        return None;
    }
    let who: Vec<String> = claims.into_iter().map(said).collect();
    let number = plain::count(who.len() as u64, "worker");
    let message = format!(
        "{number} have {} {}: {}",
        case.called(),
        case.id,
        plain::names(&who)
    );
    Some(finding(case, message))
}

/// Whether every worker is meant to run it (Celery 5.7 docs/userguide/routing.rst, Broadcast).
fn is_broadcast(case: &Case<'_>, claim: &WorkerClaim) -> bool {
    let exchange = claim.claim.exchange.as_deref();
    exchange.is_some_and(|exchange| case.evidence.is_broadcast(exchange))
}

/// A worker that was given it a second time runs it in another of its processes, or will as soon as one is free.
fn one_worker_twice(case: &Case<'_>) -> Option<Finding> {
    let (node, runs, pids, more) = case.task.claims.iter().find_map(|holder| {
        let workers = case.evidence.answered().iter();
        let active = workers
            .filter(|worker| worker.node == holder.node)
            .filter_map(|worker| worker.active.seen())
            .flatten()
            .filter(|claim| claim.id == case.id);
        let pids: Vec<Option<i64>> = active.map(|claim| claim.pid).collect();
        let runs = pids.len() as u64;
        let processes: BTreeSet<i64> = pids.into_iter().flatten().collect();
        let waiting = (holder.again + 1).saturating_sub(runs);
        ((runs > 1 || holder.again > 0) && !is_broadcast(case, holder)).then_some((
            &holder.node,
            runs,
            processes.len() as u64,
            waiting,
        ))
    })?;
    if is_retried(case) {
        return None;
    }
    let what = format!("{} {}", case.called(), case.id);
    let message = match runs {
        0 => format!("{node} holds {what} {more} times, and will run it as often"),
        1 => format!("{node} runs {what}, holds it once more, and will run it again"),
        _ if pids == runs => format!("{node} runs {what} in {pids} processes at once"),
        _ => format!("{node} runs {what} {runs} times at once"),
    };
    Some(finding(case, message).evidence("runs", runs))
}

/// Whether it is being retried: the new message is out before the old run has ended (Celery 5.7 app/task.py, `retry`).
fn is_retried(case: &Case<'_>) -> bool {
    let by_message = case
        .task
        .copies
        .iter()
        .any(|copy| copy.envelope.retries.unwrap_or(0) > 0 && !copy.envelope.redelivered);
    by_message
        || case
            .result()
            .is_some_and(|result| result.doc.state == "RETRY")
}

fn runs_again(case: &Case<'_>) -> Option<Finding> {
    let ended = stored(&case.task.first_result).filter(|result| result.doc.ready)?;
    let state = ended.doc.state.as_str();
    // A revoked task's message stays until a worker takes it and drops it.
    if state == "REVOKED" {
        return None;
    }
    let again = claimed_again(case, ended)
        .or_else(|| queued_again(case))
        .or_else(|| held_again(case))?;
    let message = format!(
        "{} {} has ended with {state}, and {again}",
        case.called(),
        case.id
    );
    let mut finding = finding(case, message)
        .evidence("state", state)
        .date_done(ended);
    if state == "FAILURE" {
        // To run once more what failed is what acks_on_failure_or_timeout and many people do on purpose.
        finding.severity = Severity::Info;
    }
    Some(finding)
}

fn claimed_again(case: &Case<'_>, ended: &StoredResult) -> Option<String> {
    let began_after = |claim: &WorkerClaim| {
        let done = ended.doc.date_done?.seconds_until(case.evidence.taken_at) + case.now();
        Some(claim.claim.time_start? > done + AFTER)
    };
    case.task
        .claims
        .iter()
        .find_map(|claim| match claim.claim.state {
            // The run that stored the result is active until its worker has heard of its end.
            ClaimState::Active => {
                (began_after(claim) == Some(true)).then(|| format!("{} runs it again", claim.node))
            }
            ClaimState::Reserved | ClaimState::Scheduled => {
                Some(format!("{} will run it again", claim.node))
            }
            ClaimState::Ready => None,
        })
}

fn queued_again(case: &Case<'_>) -> Option<String> {
    let copies = case.queued();
    let copy = copies
        .iter()
        .find(|copy| !case.comes_too_late(copy.envelope))?;
    let queue = copy.list.map_or(copy.key, |list| list.queue.as_str());
    let how = if copy.envelope.redelivered {
        ", delivered once before"
    } else {
        ""
    };
    Some(format!("a copy waits in queue {queue}{how}"))
}

fn held_again(case: &Case<'_>) -> Option<String> {
    let copies = case.held();
    // While a worker has it, or may have it, it can be about to acknowledge.
    let copy = copies
        .iter()
        .find(|held| case.holder(held) == Holder::Nobody && !case.comes_too_late(held.envelope))?;
    let due = copy
        .delivered_at
        .map(|at| at + case.evidence.visibility(copy.store()).seconds - case.now());
    let when = match due {
        None => return None,
        Some(due) if due > 0.0 => format!(
            "in {}, when the visibility timeout has passed",
            plain::duration(due)
        ),
        Some(_) => "as soon as a worker looks".to_owned(),
    };
    Some(format!(
        "an unacknowledged copy that no live worker has will be delivered again {when}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::result::ResultDoc;
    use crate::celery::when::When;
    use crate::diagnose::testkit::{Lab, NOW, Rabbit, doc_of_state, envelope, names};
    use crate::evidence::{Observed, Reason};

    fn lab() -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .worker("w2", &["celery"])
    }

    #[test]
    fn a_broadcast_runs_on_every_worker() {
        let broadcast = || {
            let mut lab = lab().with_worker(|w| {
                for queue in w.queues.seen_mut().expect("seen") {
                    queue.exchange = Some("bcast".to_owned());
                    queue.exchange_type = Some("fanout".to_owned());
                }
            });
            for node in ["w1", "w2"] {
                lab = lab.claimed("t1", node, ClaimState::Active);
            }
            lab
        };
        let mut sent = broadcast();
        for claim in &mut sent.task("t1").claims {
            claim.claim.exchange = Some("bcast".to_owned());
        }
        assert!(sent.check(&DUPLICATE_RUN, "t1").is_empty());
        assert_eq!(broadcast().check(&DUPLICATE_RUN, "t1").len(), 1);
    }

    /// A task that ended so many seconds ago.
    fn ended(seconds_ago: f64) -> Lab {
        let doc = ResultDoc {
            date_done: When::from_epoch(NOW - seconds_ago),
            ..doc_of_state("SUCCESS")
        };
        lab().result_as("t1", doc)
    }

    #[test]
    fn two_workers_with_one_task_are_found() {
        let lab =
            lab()
                .claimed("t1", "w1", ClaimState::Active)
                .claimed("t1", "w2", ClaimState::Reserved);
        let findings = lab.check(&DUPLICATE_RUN, "t1");
        assert_eq!(names(&findings), ["duplicate-run"]);
        assert!(
            findings[0]
                .message
                .ends_with("t1: w1 (active) and w2 (reserved)")
        );
    }

    #[test]
    fn a_retry_beside_the_old_run_is_clear() {
        let mut retry = envelope("t1");
        retry.retries = Some(1);
        let lab = lab()
            .claimed("t1", "w1", ClaimState::Active)
            .claimed("t1", "w2", ClaimState::Scheduled)
            .unacked_as(retry, Some(NOW - 1.0));
        assert!(lab.check(&DUPLICATE_RUN, "t1").is_empty());
    }

    #[test]
    fn one_worker_that_has_it_in_two_answers_is_clear() {
        let mut lab =
            lab()
                .claimed("t1", "w1", ClaimState::Active)
                .claimed("t1", "w1", ClaimState::Active);
        let active = &mut lab.workers_mut().answered[0].active;
        active.seen_mut().expect("seen").truncate(1);
        assert!(lab.check(&DUPLICATE_RUN, "t1").is_empty());
    }

    #[test]
    fn one_worker_that_runs_it_in_two_processes_is_found() {
        let mut lab =
            lab()
                .claimed("t1", "w1", ClaimState::Active)
                .claimed("t1", "w1", ClaimState::Active);
        let active = lab.workers_mut().answered[0]
            .active
            .seen_mut()
            .expect("seen");
        active[0].pid = Some(101);
        active[1].pid = Some(102);
        let findings = lab.check(&DUPLICATE_RUN, "t1");
        assert!(
            findings[0]
                .message
                .starts_with("w1 runs shop.send_mail t1 in 2 processes")
        );
    }

    #[test]
    fn one_worker_that_runs_it_and_holds_it_once_more_is_found() {
        let twice = |state| {
            let mut lab = Rabbit::new().queue("celery", 0, 1).lab();
            lab = lab.worker("w1", &["celery"]).claimed("t1", "w1", state);
            lab.task("t1").claims[0].again = 1;
            lab
        };
        let found = twice(ClaimState::Active).check(&DUPLICATE_RUN, "t1");
        assert!(
            found[0].message.ends_with("and will run it again"),
            "{}",
            found[0].message
        );
        assert!(
            !found[0].remedy.contains("visibility_timeout"),
            "{}",
            found[0].remedy
        );
        assert!(
            found[0].whole_remedy().contains("--terminate t1"),
            "{}",
            found[0].whole_remedy()
        );
        assert_eq!(
            found[0].confirm,
            ["celery -A APP inspect --timeout 3 active"]
        );
        let waiting = twice(ClaimState::Scheduled).check(&DUPLICATE_RUN, "t1");
        assert!(
            waiting[0]
                .message
                .contains("holds shop.send_mail t1 2 times")
        );
        let retried = twice(ClaimState::Active).result("t1", "RETRY");
        assert!(retried.check(&DUPLICATE_RUN, "t1").is_empty());
    }

    #[test]
    fn a_copy_after_the_end_is_found() {
        let findings = ended(9.0)
            .queued("t1", "celery")
            .check(&DUPLICATE_RUN, "t1");
        assert_eq!(findings[0].severity, Severity::Error);
        assert!(
            findings[0]
                .message
                .ends_with("has ended with SUCCESS, and a copy waits in queue celery")
        );
        let held = ended(9.0).unacked("t1", 600.0);
        assert!(
            held.check(&DUPLICATE_RUN, "t1")[0]
                .message
                .contains("will be delivered again in 50m")
        );
    }

    #[test]
    fn one_that_was_sent_again_may_be_meant() {
        let remedy = |redelivered| {
            let mut message = envelope("t1");
            message.redelivered = redelivered;
            let lab = ended(9.0).queued_as("celery", message);
            let mut found = lab.check(&DUPLICATE_RUN, "t1");
            found.remove(0).remedy
        };
        assert!(remedy(false).starts_with("nothing, if the app sends this id again on purpose"));
        assert!(remedy(true).starts_with("revoke it"));
    }

    #[test]
    fn a_second_run_is_found_and_the_end_of_the_first_is_not() {
        // The lab's active tasks have run for a minute.
        let second = ended(90.0).claimed("t1", "w1", ClaimState::Active);
        assert!(
            second.check(&DUPLICATE_RUN, "t1")[0]
                .message
                .ends_with("w1 runs it again")
        );
        let first = ended(1.0)
            .claimed("t1", "w1", ClaimState::Active)
            .unacked("t1", 61.0);
        assert!(first.check(&DUPLICATE_RUN, "t1").is_empty());
    }

    #[test]
    fn running_again_what_failed_is_no_error() {
        let lab = lab().result("t1", "FAILURE").queued("t1", "celery");
        assert_eq!(lab.check(&DUPLICATE_RUN, "t1")[0].severity, Severity::Info);
    }

    #[test]
    fn a_revoked_task_and_an_expired_copy_are_clear() {
        let revoked = lab().result("t1", "REVOKED").queued("t1", "celery");
        assert!(revoked.check(&DUPLICATE_RUN, "t1").is_empty());
        let mut old = envelope("t1");
        old.expires = When::from_epoch(NOW - 1.0);
        assert!(
            ended(9.0)
                .queued_as("celery", old)
                .check(&DUPLICATE_RUN, "t1")
                .is_empty()
        );
    }

    #[test]
    fn a_task_that_ended_while_we_looked_is_clear() {
        let mut lab = ended(0.0).queued("t1", "celery");
        lab.task("t1").first_result = Observed::Seen(None);
        assert!(lab.check(&DUPLICATE_RUN, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_of_a_held_copy_while_a_worker_is_silent() {
        let lab = ended(9.0).silent("w3").unacked("t1", 600.0);
        assert!(lab.check(&DUPLICATE_RUN, "t1").is_empty());
        let lab = ended(9.0)
            .queued("t1", "celery")
            .unread(Source::Results, Reason::Unreachable);
        assert!(lab.check(&DUPLICATE_RUN, "t1").is_empty());
    }
}
