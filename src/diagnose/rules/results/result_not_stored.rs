//! CD504: no result is stored for the task, so that a missing one proves nothing.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Source, Worker};

/// The rule.
pub static RESULT_NOT_STORED: Rule = Rule {
    code: "CD504",
    name: "result-not-stored",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Results of this task are not stored. That there is none says nothing: it may have run and ended \
                  well.",
        cause: "The task was sent with ignore_result, or its decorator says so, or task_ignore_result is set for all, \
                or the app has no result backend. What the sender says goes before what the decorator says.",
        read: "The message's header ignore_result where a copy is there, else the task's ignore_result on the live \
               workers, and their settings; the result backend as the workers report it, where the environment \
               variable CELERY_RESULT_BACKEND counts too.",
        confirm: "Run `celery -A APP inspect --timeout 3 registered ignore_result`, and `celery -A APP report` for \
                  the result backend.",
        mend: "Nothing needs mending. Look for `succeeded` or `failed` with this id in the workers' logs.",
        prevent: "Store results of tasks whose end you want to know, with a short result_expires if there are many; \
                  or store errors alone with task_store_errors_even_if_ignored.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/tasks.html#Task.ignore_result"],
    },
    needs: &[Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    if case.result().is_some() {
        return Vec::new();
    }
    let Some(why) = why(case) else {
        return Vec::new();
    };
    let message = format!("a missing result proves nothing: {why}");
    let header = case.envelope().and_then(|envelope| envelope.ignore_result);
    vec![
        Finding::of(&RESULT_NOT_STORED, message)
            .evidence("ignore_result_header", header)
            .evidence("result_backend", case.evidence.result_backend.kind.as_str())
            .confirm(case.evidence.inspect("registered ignore_result"))
            .remedy("look for `succeeded` or `failed` with the id in the workers' logs")
            .task(case.id),
    ]
}

/// Celery 5.7 app/task.py, `get_actual_ignore_result`: what the message says wins over what the task says.
fn why(case: &Case<'_>) -> Option<String> {
    let workers = case.evidence.answered();
    if case.evidence.results_are_off() {
        return Some("no live worker has a result backend".to_owned());
    }
    if let Some(ignored) = case.envelope().and_then(|envelope| envelope.ignore_result) {
        return ignored.then(|| format!("{} was sent with ignore_result", case.called()));
    }
    if let Some(task) = case.name() {
        let nodes: Vec<&str> = workers
            .iter()
            .filter(|worker| ignores(worker, task))
            .map(|worker| worker.node.as_str())
            .collect();
        return (!nodes.is_empty())
            .then(|| format!("results of {task} are ignored on {}", plain::names(&nodes)));
    }
    let all = !workers.is_empty() && workers.iter().all(ignores_all);
    all.then(|| "task_ignore_result is set on every live worker".to_owned())
}

fn ignores(worker: &Worker, task: &str) -> bool {
    let traits = worker.registered.seen().and_then(|tasks| tasks.get(task));
    match traits.and_then(|traits| traits.ignore_result) {
        Some(ignored) => ignored,
        // A task takes the setting over where its decorator says nothing.
        None => traits.is_some() && ignores_all(worker),
    }
}

fn ignores_all(worker: &Worker) -> bool {
    let conf = worker.conf.seen();
    conf.is_some_and(|conf| conf.task_ignore_result == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, TASK, envelope, names};
    use crate::evidence::Reason;

    fn lab() -> Lab {
        Lab::new().worker("w1", &["celery"])
    }

    fn sent_with(ignore_result: bool) -> Lab {
        let mut message = envelope("t1");
        message.ignore_result = Some(ignore_result);
        lab().queued_as("celery", message)
    }

    fn ignoring_task(worker: &mut Worker) {
        let tasks = worker.registered.seen_mut().expect("seen");
        tasks.entry(TASK.to_owned()).or_default().ignore_result = Some(true);
    }

    #[test]
    fn the_message_the_task_or_the_setting_says_so() {
        assert_eq!(
            names(&sent_with(true).check(&RESULT_NOT_STORED, "t1")),
            ["result-not-stored"]
        );
        let task = lab().with_worker(ignoring_task).queued("t1", "celery");
        assert_eq!(task.check(&RESULT_NOT_STORED, "t1").len(), 1);
        let setting = lab()
            .with_worker(|w| w.conf.seen_mut().expect("seen").task_ignore_result = Some(true))
            .absent("t1");
        assert_eq!(setting.check(&RESULT_NOT_STORED, "t1").len(), 1);
    }

    #[test]
    fn no_backend_at_all_says_so() {
        let mut lab = lab().absent("t1");
        lab.evidence.result_backend.url = None;
        assert_eq!(lab.check(&RESULT_NOT_STORED, "t1").len(), 1);
    }

    #[test]
    fn a_backend_that_was_not_told_is_not_none() {
        let mut lab = lab().absent("t1").with_worker(|worker| {
            worker.conf.seen_mut().expect("seen").result_backend = None;
        });
        lab.evidence.result_backend.url = None;
        assert!(lab.check(&RESULT_NOT_STORED, "t1").is_empty());
    }

    #[test]
    fn what_the_sender_says_wins() {
        let lab = sent_with(false).with_worker(ignoring_task);
        assert!(lab.check(&RESULT_NOT_STORED, "t1").is_empty());
    }

    #[test]
    fn defaults_and_a_stored_result_are_clear() {
        assert!(
            lab()
                .queued("t1", "celery")
                .check(&RESULT_NOT_STORED, "t1")
                .is_empty()
        );
        let stored = sent_with(true).result("t1", "FAILURE");
        assert!(stored.check(&RESULT_NOT_STORED, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_nobody_was_asked() {
        let lab = lab().absent("t1").unread(Source::Workers, Reason::NotAsked);
        assert!(lab.check(&RESULT_NOT_STORED, "t1").is_empty());
    }
}
