//! CD205: a worker has revoked the task.

use crate::celery::control::ClaimState;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static REVOKED: Rule = Rule {
    code: "CD205",
    name: "revoked",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A worker has the id in its list of revoked tasks. When the message reaches that worker, it is \
                  dropped instead of run, and the state REVOKED is stored.",
        cause: "Somebody called `revoke`, or clicked it in Flower; or the worker found the task expired, which puts \
                it on the same list. The list is kept in the memory of each worker (50,000 ids, three hours), and \
                workers that start take it over from others.",
        read: "The list of revoked tasks of every worker that answered, and what they say they run. A task that runs \
               already is not stopped by `revoke` without `terminate`, and nothing is said of it.",
        confirm: "Run `celery -A APP inspect revoked` and look for the id.",
        mend: "If it was revoked by mistake, send the task again: it gets a new id. A restart of the worker forgets \
               the list, unless it has --statedb or takes it over from another worker.",
        prevent: "Revoke by id only what you mean to drop, and see in the senders' code who calls `revoke`.",
        references: &[
            "Celery 5.7 worker/state.py, revoked",
            "https://docs.celeryq.dev/en/stable/userguide/workers.html#revoke-revoking-tasks",
            "celery issue 4300",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let nodes = &case.task.revoked_by;
    // A worker of Celery 5.6 or newer writes REVOKED at once, while the message still waits. Any other end came first.
    let ended = case
        .final_result()
        .is_some_and(|result| result.doc.state != "REVOKED" || case.task.copies.is_empty());
    if nodes.is_empty() || case.is_running() || ended {
        return Vec::new();
    }
    let revokers = plain::names(nodes);
    let holds = |node: &String| {
        let mut held = [ClaimState::Reserved, ClaimState::Scheduled]
            .into_iter()
            .flat_map(|state| case.claims(state));
        held.any(|claim| claim.node == *node)
    };
    let message = if let Some(holder) = nodes.iter().find(|node| holds(node)) {
        format!("it was revoked, and {holder}, which holds it, will drop it instead of running it")
    } else if case.task.copies.is_empty() {
        format!("it was revoked on {revokers}: a worker drops such a message instead of running it")
    } else {
        format!("it was revoked on {revokers}: it will be dropped where it is taken there")
    };
    vec![
        Finding::of(&REVOKED, message)
            .evidence("revoked_by", nodes.clone())
            .confirm(case.evidence.inspect("revoked"))
            .remedy("if it was revoked by mistake, send it again")
            .subject("worker", nodes[0].as_str())
            .task(case.id),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};

    fn revoked(mut lab: Lab) -> Lab {
        lab.task("t1").revoked_by.push("w1".to_owned());
        lab
    }

    fn lab() -> Lab {
        Lab::new().worker("w1", &["celery"])
    }

    #[test]
    fn a_revoked_task_is_found_queued_held_and_nowhere() {
        for lab in [
            lab().queued("t1", "celery"),
            lab()
                .unacked("t1", 9.0)
                .claimed("t1", "w1", ClaimState::Scheduled),
            lab().absent("t1"),
        ] {
            assert_eq!(names(&revoked(lab).check(&REVOKED, "t1")), ["revoked"]);
        }
    }

    #[test]
    fn one_that_nobody_revoked_is_clear() {
        assert!(
            lab()
                .queued("t1", "celery")
                .check(&REVOKED, "t1")
                .is_empty()
        );
    }

    #[test]
    fn one_that_runs_or_has_ended_is_clear() {
        let running = lab()
            .unacked("t1", 9.0)
            .claimed("t1", "w1", ClaimState::Active);
        assert!(revoked(running).check(&REVOKED, "t1").is_empty());
        let ended = lab().result("t1", "REVOKED");
        assert!(revoked(ended).check(&REVOKED, "t1").is_empty());
        let ended = lab().queued("t1", "celery").result("t1", "SUCCESS");
        assert!(revoked(ended).check(&REVOKED, "t1").is_empty());
    }

    #[test]
    fn one_that_still_waits_with_its_end_written_is_found() {
        let waits = lab().queued("t1", "celery").result("t1", "REVOKED");
        assert_eq!(names(&revoked(waits).check(&REVOKED, "t1")), ["revoked"]);
    }

    #[test]
    fn a_silent_worker_tells_nothing() {
        let lab = lab().queued("t1", "celery").silent("w2");
        assert!(lab.check(&REVOKED, "t1").is_empty());
    }
}
