//! CD203: some of the workers that take from the queue know the task, and some do not.

use crate::diagnose::{Brokers, Case, Check, Fate, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static MIXED_REGISTRIES: Rule = Rule {
    code: "CD203",
    name: "mixed-registries",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Several workers take from the queue, and only some of them know the task. Which one gets the \
                  message is chance: the others throw it away as unregistered.",
        cause: "Two apps share a broker and a queue, usually the default one, `celery`. Or a deployment is half done, \
                and old and new workers consume side by side.",
        read: "The task's name in the message, and the tasks that each worker of the queue says it knows. It is said \
               only when all of them have told.",
        confirm: "Run `celery -A APP inspect registered` and compare the workers of the queue.",
        mend: "Stop those workers from consuming the queue: `celery -A APP control cancel_consumer QUEUE -d NODE`. \
               Or finish the deployment.",
        prevent: "Give each app queues of its own (task_default_queue), or a database or global_keyprefix of its own. \
                  Deploy workers that know a new task before anything sends it.",
        references: &[
            "Celery 5.7 worker/consumer/consumer.py, on_unknown_task",
            "https://docs.celeryq.dev/en/stable/userguide/workers.html#queues",
        ],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.queued()
        .into_iter()
        .filter(|copy| case.fate(copy) != Fate::Expired)
        .filter_map(|copy| Some((copy.list?, copy.envelope.task.as_deref()?)))
        .filter_map(|(list, task)| {
            let (mut knowing, mut ignorant) = (Vec::new(), Vec::new());
            for worker in case.evidence.readers(list) {
                let side = if worker.knows(task)? {
                    &mut knowing
                } else {
                    &mut ignorant
                };
                side.push(worker.node.as_str());
            }
            if knowing.is_empty() || ignorant.is_empty() {
                return None;
            }
            let queue = &list.queue;
            let finding = Finding::of(
                &MIXED_REGISTRIES,
                format!(
                    "{} take from queue {queue} and do not know {task}, which {} know: if it is theirs by chance, \
                     it is thrown away",
                    plain::names(&ignorant),
                    plain::names(&knowing)
                ),
            );
            Some(
                finding
                    .evidence("queue", queue.as_str())
                    .evidence("task", task)
                    .evidence("workers_that_know_it", knowing)
                    .evidence("workers_that_do_not", ignorant.clone())
                    .confirm("celery -A APP inspect registered")
                    .remedy(format!(
                        "celery -A APP control cancel_consumer {queue} -d {}",
                        ignorant.join(",")
                    ))
                    .subject("queue", queue.as_str())
                    .subject("task", task)
                    .task(case.id),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::{Observed, Worker};

    fn two(change: impl FnOnce(&mut Worker)) -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .worker("w2", &["celery"])
            .with_worker(change)
            .queued("t1", "celery")
    }

    #[test]
    fn workers_of_one_queue_that_know_different_tasks_are_found() {
        let lab = two(|w| w.registered.seen_mut().expect("seen").clear());
        assert_eq!(
            names(&lab.check(&MIXED_REGISTRIES, "t1")),
            ["mixed-registries"]
        );
    }

    #[test]
    fn workers_that_know_the_same_are_clear() {
        assert!(two(|_| {}).check(&MIXED_REGISTRIES, "t1").is_empty());
    }

    #[test]
    fn a_worker_of_another_queue_does_not_matter() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .worker("w2", &["mail"])
            .with_worker(|w| w.registered.seen_mut().expect("seen").clear())
            .queued("t1", "celery");
        assert!(lab.check(&MIXED_REGISTRIES, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_before_all_readers_have_told() {
        let lab = two(|w| w.registered = Observed::not_asked("a test"));
        assert!(lab.check(&MIXED_REGISTRIES, "t1").is_empty());
    }
}
