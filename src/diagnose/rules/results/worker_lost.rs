//! CD503: the process that ran the task died.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity};
use crate::evidence::Source;

/// The rule.
pub static WORKER_LOST: Rule = Rule {
    code: "CD503",
    name: "worker-lost",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The task did not fail in its own code: the pool process that ran it died. The worker's main process \
                  noticed it, stored FAILURE with WorkerLostError, and acknowledged the message. It is not run again.",
        cause: "A child of the prefork pool was killed: by the kernel's OOM killer (signal 9), by a crash in a C \
                extension (signal 11), by somebody's kill, or by os._exit in the task. With acks_late too the \
                message is acknowledged then, unless reject_on_worker_lost is set, so that a task which kills its \
                process does not do so for ever.",
        read: "The task's result in the result backend: its state and the class of its exception. Before Celery 5.7 \
               this failure can also overwrite the success of a task whose process died just after it.",
        confirm: "Look in the worker's log for `WorkerLostError` and `Process ... exited with`, which names the \
                  signal, and in the kernel's log for `Out of memory` at that time.",
        mend: "Send the task again, if it is not the task that kills the process.",
        prevent: "Give workers more memory or fewer processes, and set worker_max_memory_per_child. Where the task \
                  can run twice without harm, set acks_late and reject_on_worker_lost, or from Celery 5.7 \
                  task_retry_on_worker_lost, which stops after max_retries.",
        references: &[
            "celery issues 1628, 3541, 9082",
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost",
        ],
    },
    needs: &[Source::Results],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let Some(result) = case.failed_with("WorkerLostError") else {
        return Vec::new();
    };
    let on = match &result.doc.worker {
        Some(node) => format!(" on {node}"),
        None => String::new(),
    };
    let message = format!(
        "the process that ran {} {} died{on}",
        case.called(),
        case.id
    );
    let mut finding = Finding::of(&WORKER_LOST, message)
        .evidence("state", result.doc.state.as_str())
        .date_done(result)
        .evidence("exception", "WorkerLostError")
        .look("look for `WorkerLostError` in the worker's log, and for `Out of memory` in the kernel's")
        .remedy("send it again, unless it is the task that kills its process; set acks_late and reject_on_worker_lost")
        .task(case.id);
    if let Some(node) = &result.doc.worker {
        finding = finding.subject("worker", node.as_str());
    }
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::result::ResultDoc;
    use crate::diagnose::testkit::{Lab, doc_of_state, names};
    use crate::evidence::Reason;

    fn failed(exception: &str) -> Lab {
        let doc = ResultDoc {
            exc_type: Some(exception.to_owned()),
            ..doc_of_state("FAILURE")
        };
        Lab::new().result_as("t1", doc)
    }

    #[test]
    fn a_lost_process_is_found() {
        assert_eq!(
            names(&failed("WorkerLostError").check(&WORKER_LOST, "t1")),
            ["worker-lost"]
        );
    }

    #[test]
    fn another_failure_is_clear() {
        assert!(failed("ValueError").check(&WORKER_LOST, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_without_a_result() {
        let lab = failed("WorkerLostError").unread(Source::Results, Reason::Unreachable);
        assert!(lab.check(&WORKER_LOST, "t1").is_empty());
    }
}
