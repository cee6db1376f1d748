//! CD704: a task that runs for longer than the user allows, and that nothing ends.

use crate::celery::control::Claim;
use crate::diagnose::command::control;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Source, Worker};

/// The rule.
pub static LONG_RUNNING: Rule = Rule {
    code: "CD704",
    name: "long-running",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A task has run for longer than you allow, and it has no time limit that would end it. It holds a \
                  slot of its worker.",
        cause: "It waits for something without a timeout (a network peer, a lock), or it has more to do than it was \
                meant to.",
        read: "Since when each live worker says that it runs its tasks, and the time limit of the task. A time limit \
               that was given when the task was sent is not told by workers. Without --max-runtime, or a limit in the \
               settings file, nothing is said.",
        confirm: "Run `celery -A APP inspect --timeout 3 active`, and `py-spy dump --pid PID` on the worker's machine.",
        mend: "`celery -A APP control revoke ID --terminate` kills its process. See first whether it may be run again.",
        prevent: "Set task_time_limit and task_soft_time_limit, and timeouts on everything that a task waits for.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/workers.html#time-limits"],
    },
    needs: &[Source::Workers],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, thresholds: &Thresholds) -> Vec<Finding> {
    let workers = evidence.answered().iter();
    workers
        .flat_map(|worker| {
            let active = worker.active.seen().into_iter().flatten();
            active.filter_map(move |claim| finding(evidence, thresholds, worker, claim))
        })
        .collect()
}

fn finding(
    evidence: &Evidence,
    thresholds: &Thresholds,
    worker: &Worker,
    claim: &Claim,
) -> Option<Finding> {
    let task = claim.task.as_deref()?;
    let limit = thresholds.max_runtime.of(task)?;
    let running = evidence.now() - claim.time_start?;
    let known = worker.registered.seen().and_then(|tasks| tasks.get(task));
    if running <= limit || known.is_some_and(|traits| traits.time_limit.is_some()) {
        return None;
    }
    let node = &worker.node;
    Some(
        Finding::of(
            &LONG_RUNNING,
            format!(
                "{node} has run {task} {} for {}, longer than {}, and no time limit ends it",
                claim.id,
                plain::duration(running),
                plain::duration(limit)
            ),
        )
        .evidence("worker", node.as_str())
        .evidence("running_seconds", running)
        .evidence("max_runtime_seconds", limit)
        .evidence("pid", claim.pid)
        .confirm(evidence.inspect("active").map(|ask| ask.on(node)))
        .remedy("see what it waits for; if nothing else helps, kill its process")
        .mend(control("revoke --terminate").name(&claim.id).on(node))
        .subject("task", task)
        .subject("worker", node.as_str())
        .task(&claim.id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::diagnose::testkit::{Lab, TASK, names};
    use crate::diagnose::thresholds::Limit;

    fn found(limit: Option<f64>, time_limit: Option<f64>) -> usize {
        let mut lab = Lab::new()
            .worker("w1", &["celery"])
            .claimed("t1", "w1", ClaimState::Active);
        let tasks = lab.workers_mut().answered[0].registered.seen_mut();
        tasks
            .expect("seen")
            .get_mut(TASK)
            .expect("known")
            .time_limit = time_limit;
        let limits = Thresholds {
            max_runtime: Limit::all(limit),
            ..Thresholds::default()
        };
        let found = check(&lab.evidence, &limits);
        assert!(names(&found).iter().all(|name| *name == "long-running"));
        found.len()
    }

    #[test]
    fn a_run_beyond_the_limit_is_found() {
        assert_eq!(found(Some(30.0), None), 1);
    }

    #[test]
    fn one_within_it_one_with_a_time_limit_and_no_limit_are_clear() {
        assert_eq!(found(Some(90.0), None), 0);
        assert_eq!(found(Some(30.0), Some(300.0)), 0);
        assert_eq!(found(None, None), 0);
    }
}
