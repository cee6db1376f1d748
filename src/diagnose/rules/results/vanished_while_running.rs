//! CD501: the result says that the task has begun, and nothing runs it.

use crate::diagnose::command::Command;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Lock, Source};

/// The rule.
pub static VANISHED_WHILE_RUNNING: Rule = Rule {
    code: "CD501",
    name: "vanished-while-running",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The result backend says that the task has begun (STARTED, RECEIVED, or a state of its own such as \
                  PROGRESS), no copy of its message is left, and no live worker runs it. Its worker died, and nobody \
                  will run it again. The result stays as it is until it expires.",
        cause: "By default a worker acknowledges a message before it runs the task. If its main process is then \
                killed (SIGKILL, the kernel's OOM killer, a container's end, a lost machine), the message is gone \
                from the broker and nobody is left to store a failure.",
        read: "The queues, the hash `unacked`, the word of every live worker about this id, and the result before and \
               after them. It is said only when all of these were read whole. Where the process that began the task is \
               still among its worker's, or its worker has been up since before, it was not killed, and nothing is said: \
               a task that raises Ignore, or replaces itself, leaves STARTED too. A worker that shuts down warmly no \
               longer answers while it finishes its last tasks; CLIENT LIST still shows it, and where that is refused \
               it looks as if it were gone.",
        confirm: "Look on the machine of the worker that the result names whether its process still exists. Look in \
                  its log for `received` with this id and no `succeeded`, `failed` or `ignored` after it, and in the \
                  kernel's log for `Out of memory`. After `ignored` it is not lost: it has ended by Ignore or Reject, or \
                  replaced itself and lives on as the last step of what took its place.",
        mend: "If its process is gone, and its log does not say that it was ignored, send the task again. If it is still there and shuts down, wait until it has \
               ended, and trace the task once more.",
        prevent: "Set acks_late on tasks that can run twice without harm, and reject_on_worker_lost with it: then the \
                  message outlives the worker. Stop workers with SIGTERM and let the supervisor wait for longer than \
                  the longest task. Limit memory for each child: worker_max_memory_per_child.",
        references: &[
            "celery issues 14, 3057",
            "https://docs.celeryq.dev/en/stable/userguide/tasks.html#Task.acks_late",
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
    let result = case.unfinished_result().filter(|_| case.is_nowhere());
    // One that was not killed ended without a result, or lives on in what replaced it.
    if case.began_in_a_worker_that_lives().is_some() {
        return Vec::new();
    }
    // A retry that vanished is CD502.
    let Some(result) = result.filter(|result| result.doc.state != "RETRY") else {
        return Vec::new();
    };
    let state = &result.doc.state;
    let worker = result.doc.worker.as_deref();
    let whose = worker.map_or(String::new(), |node| {
        format!(" on {node}, {}", case.evidence.whereabouts(node))
    });
    let unlock = unlock(case);
    let mut finding = Finding::of(
        &VANISHED_WHILE_RUNNING,
        format!(
            "{} {} is {state}{whose}; no copy is left, and no live worker has it",
            case.called(),
            case.id
        ),
    )
    .evidence("state", state.as_str())
    .evidence("live_workers", case.evidence.answered().len())
    .confirm(case.evidence.query_task(case.id))
    .look("look for the id in the worker's log (`ignored` is no loss), and for `Out of memory` in the kernel's")
    .remedy(format!(
        "{unlock}send it again once you know that no process runs it any more, and that its worker's log does not say \
         `ignored` of it: then it has ended, or replaced itself and lives on{}",
        prevention(case)
    ))
    .task(case.id);
    for lock in &case.task.locks {
        finding = finding.mend(delete(case, lock));
    }
    if let Some(node) = worker {
        finding = finding
            .evidence("result_worker", node)
            .evidence("result_worker_answers", case.evidence.answers(node))
            .subject("worker", node);
    }
    vec![finding]
}

/// What has to be done first, where a lock holds the id: without that, sending it again sends nothing.
fn unlock(case: &Case<'_>) -> String {
    let places: Vec<String> = case
        .task
        .locks
        .iter()
        .map(|lock| lock.key.clone())
        .collect();
    if places.is_empty() {
        return String::new();
    }
    format!(
        "a lock holds its id, so that sending it again sends nothing while it stands: take that away first, {}; ",
        plain::names(&places)
    )
}

/// The commands that take such locks away. The key of celery-once holds arguments, and is not shown.
fn delete(case: &Case<'_>, lock: &Lock) -> Option<Command> {
    let command = if lock.in_results {
        case.evidence.results_cli("DEL")
    } else {
        case.evidence.redis_cli("DEL")
    };
    (!lock.key.ends_with('*')).then(|| command.name(&lock.key))
}

/// What would have kept it, as far as it is not set already on a worker that knows the task.
fn prevention(case: &Case<'_>) -> String {
    let traits = case.name().and_then(|name| {
        let mut workers = case.evidence.answered().iter();
        workers.find_map(|worker| worker.registered.seen()?.get(name))
    });
    let missing: Vec<&str> = [
        ("acks_late", traits.and_then(|t| t.acks_late)),
        (
            "reject_on_worker_lost",
            traits.and_then(|t| t.reject_on_worker_lost),
        ),
    ]
    .into_iter()
    .filter(|(_, set)| *set != Some(true))
    .map(|(name, _)| name)
    .collect();
    if missing.is_empty() {
        String::new()
    } else {
        format!("; set {}", plain::names(&missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::celery::result::ResultDoc;
    use crate::diagnose::testkit::{Lab, doc_of_state, names};
    use crate::diagnose::{Verdict, judge};
    use crate::evidence::{Observed, Reason};

    fn started_by(node: &str) -> Lab {
        let doc = ResultDoc {
            worker: Some(node.to_owned()),
            ..doc_of_state("STARTED")
        };
        Lab::new().worker("w1", &["celery"]).result_as("t1", doc)
    }

    #[test]
    fn a_started_task_that_nobody_runs_is_found() {
        let findings = started_by("w2").check(&VANISHED_WHILE_RUNNING, "t1");
        assert_eq!(names(&findings), ["vanished-while-running"]);
        assert!(findings[0].message.contains(
            "STARTED on w2, which is not among the live workers, and may be finishing it"
        ));
        let findings = started_by("w1").check(&VANISHED_WHILE_RUNNING, "t1");
        assert!(
            findings[0]
                .message
                .contains("which answers and does not have it")
        );
    }

    #[test]
    fn a_worker_that_left_its_mailbox_was_killed() {
        let mut lab = started_by("w2");
        lab.workers_mut().unanswered_names.push("w2".to_owned());
        let findings = lab.check(&VANISHED_WHILE_RUNNING, "t1");
        assert!(
            findings[0]
                .message
                .contains("w2, which is not among the live workers")
        );
    }

    #[test]
    fn a_lock_that_holds_the_id_makes_sending_it_again_futile() {
        let mut lab = started_by("w2");
        assert!(
            lab.check(&VANISHED_WHILE_RUNNING, "t1")[0]
                .remedy
                .starts_with("send it again")
        );
        let lock = |key: &str, in_results| Lock {
            key: key.to_owned(),
            in_results,
        };
        lab.task("t1").locks = vec![lock("SINGLETONLOCK_1f", true), lock("qo_*", false)];
        let remedy = &lab.check(&VANISHED_WHILE_RUNNING, "t1")[0].whole_remedy();
        assert!(remedy.starts_with("a lock holds its id"), "{remedy}");
        assert!(remedy.contains("-n 1 DEL SINGLETONLOCK_1f"), "{remedy}");
        let judged = judge(&lab.evidence, &["t1".to_owned()]);
        assert!(judged.traces[0].summary.contains("a lock holds the id"));
    }

    #[test]
    fn a_state_of_its_own_is_found_too() {
        let lab = Lab::new().result("t1", "PROGRESS");
        assert_eq!(lab.check(&VANISHED_WHILE_RUNNING, "t1").len(), 1);
    }

    #[test]
    fn a_running_one_and_one_with_a_copy_are_clear() {
        let running = started_by("w1").claimed("t1", "w1", ClaimState::Active);
        assert!(running.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
        let late = started_by("w2").unacked("t1", 9.0);
        assert!(late.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
        let queued = started_by("w2").queued("t1", "celery");
        assert!(queued.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
    }

    #[test]
    fn a_final_state_and_a_retry_are_clear() {
        for state in ["SUCCESS", "FAILURE", "REVOKED", "RETRY"] {
            let lab = Lab::new().worker("w1", &["celery"]).result("t1", state);
            assert!(
                lab.check(&VANISHED_WHILE_RUNNING, "t1").is_empty(),
                "{state}"
            );
        }
    }

    #[test]
    fn a_state_that_is_new_was_moving_while_we_looked() {
        let mut lab = started_by("w2");
        lab.task("t1").first_result = Observed::Seen(None);
        assert!(lab.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_a_place_was_not_read_whole() {
        assert!(
            started_by("w2")
                .silent("w2")
                .check(&VANISHED_WHILE_RUNNING, "t1")
                .is_empty()
        );
        for source in VANISHED_WHILE_RUNNING.needs {
            let part = started_by("w2").unread(*source, Reason::Refused);
            assert!(
                part.check(&VANISHED_WHILE_RUNNING, "t1").is_empty(),
                "{source:?}"
            );
        }
        let cut = started_by("w2").read_only_part(Source::Queues, Reason::Truncated);
        assert!(cut.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_that_is_not_heard_may_have_it() {
        let lab = |clients: &[&str]| {
            Lab::new()
                .worker("w1", &["celery"])
                .result("t1", "STARTED")
                .clients(clients)
        };
        assert_eq!(
            lab(&["brpop", "get"])
                .check(&VANISHED_WHILE_RUNNING, "t1")
                .len(),
            1
        );
        assert!(
            lab(&["brpop", "brpop"])
                .check(&VANISHED_WHILE_RUNNING, "t1")
                .is_empty()
        );
        let verdict =
            |clients: &[&str]| judge(&lab(clients).evidence, &["t1".to_owned()]).traces[0].verdict;
        assert_eq!(verdict(&["brpop", "get"]), Verdict::Lost);
        assert_eq!(verdict(&["brpop", "brpop"]), Verdict::Undetermined);
    }

    #[test]
    fn nothing_is_said_while_its_worker_may_be_shutting_down_in_order() {
        let doc = ResultDoc {
            worker: Some("w0".to_owned()),
            ..doc_of_state("STARTED")
        };
        let mut lab = Lab::new()
            .worker("w1", &["celery"])
            .result_as("t1", doc)
            .clients(&["brpop", "brpop", "publish"]);
        let facts = lab.evidence.broker.server.seen_mut().expect("seen");
        for client in facts.clients.seen_mut().expect("seen") {
            client.blocked = false;
        }
        assert!(lab.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
        // A rolling restart: the next one of its name answers already.
        let mut restarted = doc_of_state("STARTED");
        restarted.worker = Some("w1".to_owned());
        lab = lab.result_as("t1", restarted);
        assert!(lab.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
        let mut gone = doc_of_state("STARTED");
        gone.worker = Some("w0".to_owned());
        lab = lab.result_as("t1", gone);
        // One that was killed leaves its mailbox.
        lab.workers_mut().unanswered_names.push("w0".to_owned());
        assert_eq!(lab.check(&VANISHED_WHILE_RUNNING, "t1").len(), 1);
    }
}
