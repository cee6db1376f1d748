//! CD509: a task ended well, and what it sent next is known nowhere.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Source, StoredResult, Worker};

/// For how many seconds the parent's result must still be kept. A child that the parent sent early can have ended, and
/// its result expired, as long before as the parent ran: no task of half a day is expected.
const MARGIN: f64 = 43_200.0;

/// The rule.
pub static CHAIN_BROKEN: Rule = Rule {
    code: "CD509",
    name: "chain-broken",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The task succeeded, and its result names a task that it sent: the next link of a chain, or one that \
                  its code called. Nothing knows that one: no queue, no worker, no result. The chain has stopped \
                  there. While anything else is in flight this is only worth a look, because it may come later: the \
                  result names the body of a chord and the end of a chain within a group before they are sent. In an \
                  audit it is only worth a look in any case, because nobody has missed that task.",
        cause: "A worker sends the next link before it stores the success of this one. The message can get lost like \
                any other: no binding matches its exchange and routing key, the broker was restarted or has evicted \
                it, a worker acknowledged it early and was killed.",
        read: "The children in the task's result, and for each of them the queues, the hash `unacked`, the word of \
               every live worker, and the result. Nothing is said where a live worker knows a task that ignores its \
               result and may have run it, or when the child's result could have expired. A child that was sent with \
               ignore_result, to another broker, or that raised Ignore, leaves no trace either.",
        confirm: "Trace the child by its id. Look for it in the workers' logs.",
        mend: "Send the rest of the chain again, with this task's result as its first argument.",
        prevent: "Set acks_late on the links of a chain that can run twice without harm. Keep what the broker holds \
                  over a restart (appendonly yes), and its maxmemory-policy at noeviction. Upgrade to Celery 5.6.3 or \
                  later, which sends the next link for a task that was delivered twice.",
        references: &[
            "celery pull request 10159",
            "https://docs.celeryq.dev/en/stable/userguide/canvas.html#chains",
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
    let evidence = case.evidence;
    let Some(parent) = case
        .final_result()
        .filter(|result| result.doc.state == "SUCCESS")
    else {
        return Vec::new();
    };
    if !is_kept(evidence, parent) || !results_are_kept(evidence, parent) {
        return Vec::new();
    }
    let missing: Vec<&str> = case
        .task
        .children
        .iter()
        .filter_map(|id| Case::of(evidence, id))
        // Found nowhere, before the broker was read and after it.
        .filter(|child| child.is_nowhere() && child.task.result.seen() == Some(&None))
        .filter(|child| child.task.first_result.seen().is_none_or(Option::is_none))
        .map(|child| child.id)
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let idle = evidence.nothing_in_flight();
    // An audit meets all tasks that sent others, and nobody has missed these.
    let census = evidence.census.as_ref();
    let unasked = census.is_some_and(|census| census.by_result.contains(case.id));
    let hope = match (idle, unasked) {
        (false, _) => "; work in flight may still send it",
        (true, true) => "; where it ignores its result, or is of another broker, all is well",
        (true, false) => "",
    };
    let message = format!(
        "{} {} succeeded and sent {}, which nothing knows{hope}",
        case.called(),
        case.id,
        plain::names(&missing)
    );
    let mut finding = Finding::of(&CHAIN_BROKEN, message)
        .evidence("state", "SUCCESS")
        .date_done(parent)
        .evidence("children", case.task.children.len())
        .evidence(
            "missing",
            missing.iter().take(10).copied().collect::<Vec<_>>(),
        )
        .evidence("nothing_in_flight", idle)
        .look(format!("trace {}", missing[0]))
        .remedy("look for it in the workers' logs; send the rest of the chain again")
        .task(case.id);
    if !idle || unasked {
        finding.severity = Severity::Info;
    }
    finding.count = missing.len() as u64;
    vec![finding]
}

/// Whether a child's result is bound to be there still, if there ever was one.
fn is_kept(evidence: &Evidence, parent: &StoredResult) -> bool {
    let by_ttl = parent.ttl_seconds.is_none_or(|left| left >= MARGIN);
    let Some(expires) = evidence.result_expires() else {
        return false;
    };
    let age = parent
        .doc
        .date_done
        .map(|done| -done.seconds_until(evidence.taken_at));
    by_ttl && (expires.is_infinite() || age.is_some_and(|age| expires - age >= MARGIN))
}

/// Whether every live worker says what it does with results, and stores those of all that it ran since the parent's
/// end. Celery's own tasks are left out: `celery.chord_unlock` ignores its result.
fn results_are_kept(evidence: &Evidence, parent: &StoredResult) -> bool {
    let workers = evidence.answered();
    !workers.is_empty()
        && !evidence.results_are_off()
        && workers.iter().all(|worker| {
            let (Some(conf), Some(tasks)) = (worker.conf.seen(), worker.registered.seen()) else {
                return false;
            };
            let mut ignoring = tasks.iter().filter(|(name, traits)| {
                traits.ignore_result == Some(true) && !name.starts_with("celery.")
            });
            conf.task_ignore_result == Some(false)
                && ignoring.all(|(name, _)| never_ran(evidence, parent, worker, name))
        })
}

/// Whether no worker can have run a task since the parent's end: this one, which counts what it takes, was there by
/// then and has taken none; and there is no name of another that is gone.
fn never_ran(evidence: &Evidence, parent: &StoredResult, worker: &Worker, task: &str) -> bool {
    let all_here = evidence
        .workers
        .seen()
        .is_some_and(|workers| workers.unanswered_names.is_empty());
    let age = parent
        .doc
        .date_done
        .map(|done| -done.seconds_until(evidence.taken_at));
    let stats = worker.stats.seen();
    let up = stats.and_then(|stats| stats.uptime);
    let taken = stats.map(|stats| stats.total.get(task).copied().unwrap_or_default());
    let there = matches!((up, age), (Some(up), Some(age)) if up > age);
    all_here && there && taken == Some(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::celery::control::ClaimState;
    use crate::celery::result::ResultDoc;
    use crate::celery::when::When;
    use crate::diagnose::testkit::{Lab, NOW, TASK, doc_of_state, names};
    use crate::evidence::Reason;

    /// A parent that succeeded a minute ago and sent `t2`, which the lab looked for.
    fn lab() -> Lab {
        let doc = ResultDoc {
            date_done: When::from_epoch(NOW - 60.0),
            ..doc_of_state("SUCCESS")
        };
        let mut lab = Lab::new()
            .worker("w1", &["celery"])
            .result_as("t1", doc)
            .absent("t2");
        lab.task("t1").children.push("t2".to_owned());
        lab
    }

    #[test]
    fn a_child_that_nothing_knows_is_found() {
        let findings = lab().check(&CHAIN_BROKEN, "t1");
        assert_eq!(names(&findings), ["chain-broken"]);
        assert_eq!(findings[0].severity, Severity::Error);
        assert!(
            findings[0]
                .message
                .ends_with("t1 succeeded and sent t2, which nothing knows")
        );
    }

    #[test]
    fn while_work_is_in_flight_it_is_no_error() {
        for lab in [
            lab().claimed("t3", "w1", ClaimState::Active),
            lab().queued("t3", "celery"),
            lab().unacked("t3", 9.0),
        ] {
            assert_eq!(lab.check(&CHAIN_BROKEN, "t1")[0].severity, Severity::Info);
        }
    }

    #[test]
    fn a_child_that_is_somewhere_is_clear() {
        assert!(
            lab()
                .queued("t2", "celery")
                .check(&CHAIN_BROKEN, "t1")
                .is_empty()
        );
        assert!(
            lab()
                .claimed("t2", "w1", ClaimState::Active)
                .check(&CHAIN_BROKEN, "t1")
                .is_empty()
        );
        assert!(
            lab()
                .result("t2", "SUCCESS")
                .check(&CHAIN_BROKEN, "t1")
                .is_empty()
        );
    }

    #[test]
    fn where_results_are_ignored_it_is_clear() {
        let task = lab().with_worker(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.entry(TASK.to_owned()).or_default().ignore_result = Some(true);
        });
        assert!(task.check(&CHAIN_BROKEN, "t1").is_empty());
        let (up, taken) = (600.0, BTreeMap::new());
        let counted = |up: f64, taken: &BTreeMap<String, u64>| {
            lab().with_worker(|worker| {
                let tasks = worker.registered.seen_mut().expect("seen");
                tasks.entry(TASK.to_owned()).or_default().ignore_result = Some(true);
                let stats = worker.stats.seen_mut().expect("seen");
                (stats.uptime, stats.total) = (Some(up), taken.clone());
            })
        };
        assert_eq!(counted(up, &taken).check(&CHAIN_BROKEN, "t1").len(), 1);
        assert!(counted(5.0, &taken).check(&CHAIN_BROKEN, "t1").is_empty());
        let once = BTreeMap::from([(TASK.to_owned(), 1)]);
        assert!(counted(up, &once).check(&CHAIN_BROKEN, "t1").is_empty());
        let own = lab().with_worker(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks
                .entry("celery.chord_unlock".to_owned())
                .or_default()
                .ignore_result = Some(true);
        });
        assert_eq!(own.check(&CHAIN_BROKEN, "t1").len(), 1);
    }

    #[test]
    fn where_results_go_soon_it_is_clear() {
        let lab = lab().with_worker(|worker| {
            worker.conf.seen_mut().expect("seen").result_expires = Some(3_600.0);
        });
        assert!(lab.check(&CHAIN_BROKEN, "t1").is_empty());
    }

    #[test]
    fn a_parent_without_children_or_without_success_is_clear() {
        let mut alone = lab();
        alone.task("t1").children.clear();
        assert!(alone.check(&CHAIN_BROKEN, "t1").is_empty());
        assert!(
            lab()
                .result("t1", "FAILURE")
                .check(&CHAIN_BROKEN, "t1")
                .is_empty()
        );
    }

    #[test]
    fn nothing_is_said_where_a_place_was_not_read_whole() {
        assert!(lab().silent("w2").check(&CHAIN_BROKEN, "t1").is_empty());
        for source in CHAIN_BROKEN.needs {
            let part = lab().unread(*source, Reason::Refused);
            assert!(part.check(&CHAIN_BROKEN, "t1").is_empty(), "{source:?}");
        }
    }
}
