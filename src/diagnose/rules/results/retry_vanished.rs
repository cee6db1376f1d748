//! CD502: the result says that the task is retried, and no message for the retry exists.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity};
use crate::evidence::Source;

/// The rule.
pub static RETRY_VANISHED: Rule = Rule {
    code: "CD502",
    name: "retry-vanished",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The result backend says RETRY, and there is no message for the retry: in no queue, not in \
                  `unacked`, and with no live worker. Nobody will run the task again.",
        cause: "task.retry sends a new message with the same id, and then raises Retry, on which the worker stores \
                RETRY. The message can get lost like any other: sent with an exchange and a routing key that no \
                binding matches any more, taken from the broker by a restart, an eviction or a purge, acknowledged \
                early by a worker that was killed before the task could say STARTED.",
        read: "The queues, the hash `unacked`, the word of every live worker about this id, and the result before and \
               after them. It is said only when all of these were read whole. A worker that shuts down warmly no \
               longer answers while it finishes its last tasks; CLIENT LIST still shows it, and where that is refused \
               it looks as if it were gone.",
        confirm: "Look in the workers' logs for `retry: Retry in` with this id, and for `received` with it after that.",
        mend: "Send the task again: nothing is left that could be put back. Do not where a worker's log says `ignored` of \
               it after the retry: a task that raises Ignore has ended, one that replaces itself lives on, and both leave \
               RETRY where task_track_started is off.",
        prevent: "Give the task acks_late if it can run twice without harm: a worker that dies does not take it along \
                  then. Keep what the broker holds over a restart (appendonly yes), and its maxmemory-policy at \
                  noeviction.",
        references: &[
            "celery issues 3270, 6358",
            "https://docs.celeryq.dev/en/stable/userguide/tasks.html#retrying",
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
    let Some(result) = result.filter(|result| result.doc.state == "RETRY") else {
        return Vec::new();
    };
    let why = match &result.doc.exc_type {
        Some(exception) => format!(" after {exception}"),
        None => String::new(),
    };
    let (where_to, remedy) = match case.held_as_cycle() {
        Some(queue) => (
            format!(
                "nothing delivers it: RabbitMQ before 4.0.1 takes it for a cycle, and {queue} holds a message inside that \
                 can't get out"
            ),
            "upgrade the workers to Celery 5.6.3 or newer, and send it again",
        ),
        None => (
            "no message for it exists".to_owned(),
            "send it again, unless a worker's log says `ignored` of it after that retry: then it has ended, or replaced \
             itself and lives on",
        ),
    };
    let message = format!(
        "{} {} waits for a retry{why}, and {where_to}",
        case.called(),
        case.id
    );
    vec![
        Finding::of(&RETRY_VANISHED, message)
            .evidence("state", result.doc.state.as_str())
            .evidence("exception", result.doc.exc_type.clone())
            .evidence("retries", result.doc.retries)
            .confirm(case.evidence.query_task(case.id))
            .look("look for `retry: Retry in` with the id in the workers' logs, and for `received` and `ignored` after it")
            .remedy(remedy)
            .task(case.id),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::diagnose::testkit::{Lab, doc_of_state, names};
    use crate::evidence::{Observed, Reason, StoredResult};

    fn lab() -> Lab {
        Lab::new().worker("w1", &["celery"]).result("t1", "RETRY")
    }

    #[test]
    fn a_retry_without_a_message_is_found() {
        assert_eq!(
            names(&lab().check(&RETRY_VANISHED, "t1")),
            ["retry-vanished"]
        );
    }

    #[test]
    fn a_retry_that_waits_for_its_time_is_clear() {
        let scheduled = lab()
            .unacked("t1", 9.0)
            .claimed("t1", "w1", ClaimState::Scheduled);
        assert!(scheduled.check(&RETRY_VANISHED, "t1").is_empty());
        assert!(
            lab()
                .queued("t1", "celery")
                .check(&RETRY_VANISHED, "t1")
                .is_empty()
        );
    }

    #[test]
    fn a_retry_that_began_while_we_looked_is_clear() {
        let mut lab = lab();
        let before = StoredResult {
            doc: doc_of_state("STARTED"),
            ttl_seconds: None,
        };
        lab.task("t1").first_result = Observed::Seen(Some(before));
        assert!(lab.check(&RETRY_VANISHED, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_a_place_was_not_read_whole() {
        assert!(lab().silent("w2").check(&RETRY_VANISHED, "t1").is_empty());
        for source in RETRY_VANISHED.needs {
            let part = lab().unread(*source, Reason::Refused);
            assert!(part.check(&RETRY_VANISHED, "t1").is_empty(), "{source:?}");
        }
    }
}
