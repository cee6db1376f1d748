//! CD202: no worker that takes from the queue knows the task.

use crate::diagnose::{Brokers, Case, Check, Fate, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static NOT_REGISTERED: Rule = Rule {
    code: "CD202",
    name: "not-registered",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The message waits in a queue whose workers do not know its task. The worker that takes it will log \
                  `Received unregistered task`, throw the message away, and store a NotRegistered failure.",
        cause: "The task was renamed or its module moved while messages were under way; the workers run an older \
                version of the code; the module is missing from `include` or autodiscovery; the sender and the worker \
                import it under different names; or two apps share one queue.",
        read: "The task's name in the message, and the word of every live worker that takes from the queue about the \
               tasks that it knows. Nothing is said while a worker stays silent.",
        confirm: "Run `celery -A APP inspect registered` and look for the name.",
        mend: "Deploy workers that know the task to this queue before the message is taken. If the task has a new \
               name, register the old one as well: `app.task(name='OLD')(function)`.",
        prevent: "Deploy workers before senders. Give tasks explicit names. Keep a renamed task under both names until \
                  the queue is empty. Give each app queues of its own.",
        references: &[
            "Celery 5.7 worker/consumer/consumer.py, on_unknown_task",
            "https://docs.celeryq.dev/en/stable/userguide/tasks.html#task-naming-relative",
        ],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.queued()
        .into_iter()
        .filter(|copy| case.fate(copy) == Fate::NotRegistered)
        .filter_map(|copy| Some((copy.list?, copy.envelope.task.as_deref()?)))
        .map(|(list, task)| {
            let readers = case.evidence.readers(list);
            let nodes: Vec<&str> = readers.iter().map(|w| w.node.as_str()).collect();
            let queue = &list.queue;
            Finding::of(
                &NOT_REGISTERED,
                format!(
                    "no worker of queue {queue} knows {task}: whichever takes the message will throw it away ({})",
                    plain::names(&nodes)
                ),
            )
            .evidence("queue", queue.as_str())
            .evidence("task", task)
            .evidence("workers", nodes)
            .confirm(case.evidence.inspect("registered"))
            .remedy(format!(
                "deploy workers that know {task} to queue {queue} before the message is taken"
            ))
            .subject("queue", queue.as_str())
            .subject("task", task)
            .task(case.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::{Observed, Worker};

    fn knows_nothing(worker: &mut Worker) {
        worker.registered.seen_mut().expect("seen").clear();
    }

    #[test]
    fn a_task_that_no_reader_knows_is_found() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(knows_nothing)
            .queued("t1", "celery");
        assert_eq!(names(&lab.check(&NOT_REGISTERED, "t1")), ["not-registered"]);
    }

    #[test]
    fn a_task_that_one_reader_knows_is_left_to_mixed_registries() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .worker("w2", &["celery"])
            .with_worker(knows_nothing)
            .queued("t1", "celery");
        assert!(lab.check(&NOT_REGISTERED, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent_or_does_not_tell() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(knows_nothing)
            .queued("t1", "celery");
        assert!(lab.silent("w2").check(&NOT_REGISTERED, "t1").is_empty());
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| w.registered = Observed::not_asked("a test"))
            .queued("t1", "celery");
        assert!(lab.check(&NOT_REGISTERED, "t1").is_empty());
    }
}
