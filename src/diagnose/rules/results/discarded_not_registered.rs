//! CD506: a worker that does not know the task threw it away.

use crate::diagnose::view::routing;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static DISCARDED_NOT_REGISTERED: Rule = Rule {
    code: "CD506",
    name: "discarded-not-registered",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A worker took the message, did not know a task of that name, threw the message away and stored \
                  FAILURE with NotRegistered. The task never ran, and will not. If it belonged to the header of a \
                  chord, the chord is not told, and waits for ever.",
        cause: "The worker runs code without the task: an older or newer deployment, a module missing from imports or \
                autodiscover_tasks, a relative import that gives the task another name, or another application that \
                consumes the same queue of the same broker.",
        read: "The task's result in the result backend: its state, the class of its exception, and the task's name, \
               which Celery writes into the exception; and which live workers know the task.",
        confirm: "Run `celery -A APP inspect --timeout 3 registered`, and look for the task at every worker of the \
                  queue. Look in the workers' logs for `Received unregistered task of type`.",
        mend: "Bring the workers of the queue to the same code, then send the task again.",
        prevent: "Deploy workers before the code that sends new tasks. Name tasks explicitly. Give each application \
                  queues of its own, or a broker database of its own.",
        references: &[
            "sentry issue 1665",
            "https://docs.celeryq.dev/en/stable/userguide/tasks.html#automatic-naming-and-relative-imports",
        ],
    },
    needs: &[Source::Results],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let Some(result) = case.failed_with("NotRegistered") else {
        return Vec::new();
    };
    let strangers: Vec<&str> = case
        .evidence
        .answered()
        .iter()
        .filter(|worker| case.name().and_then(|task| worker.knows(task)) == Some(false))
        .map(|worker| worker.node.as_str())
        .collect();
    let who = if strangers.is_empty() {
        String::new()
    } else {
        format!(
            "; live workers that do not know it: {}",
            plain::names(&strangers)
        )
    };
    let by = match &result.doc.worker {
        Some(node) => format!("{node}, which does not know it"),
        None => "a worker that does not know it".to_owned(),
    };
    let known = case.evidence.answered().iter();
    let known = known
        .filter_map(|worker| worker.registered.seen())
        .flatten();
    let meant = case
        .name()
        .and_then(|name| routing::nearest(name, known.map(|(task, _)| task.as_str())));
    let meant_text = meant.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
    let message = format!(
        "{} {} was thrown away by {by}{who}{meant_text}",
        case.called(),
        case.id
    );
    let finding = Finding::of(&DISCARDED_NOT_REGISTERED, message)
        .evidence("state", result.doc.state.as_str())
        .date_done(result)
        .evidence("exception", "NotRegistered")
        .evidence("task", case.name())
        .evidence("worker", result.doc.worker.as_deref())
        .evidence("similar_task", meant)
        .evidence("workers_without_it", strangers)
        .confirm(case.evidence.inspect("registered"))
        .look("look for `Received unregistered task of type` in the workers' logs")
        .remedy("bring every worker of the queue to the same code, then send it again")
        .subject("task", case.name().unwrap_or("unknown"))
        .task(case.id);
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::result::ResultDoc;
    use crate::diagnose::testkit::{Lab, TASK, doc_of_state, names};
    use crate::evidence::Reason;

    fn failed(exception: &str) -> Lab {
        let doc = ResultDoc {
            exc_type: Some(exception.to_owned()),
            name: Some("shop.new".to_owned()),
            ..doc_of_state("FAILURE")
        };
        Lab::new().worker("w1", &["celery"]).result_as("t1", doc)
    }

    #[test]
    fn a_discarded_task_is_found() {
        let findings = failed("NotRegistered").check(&DISCARDED_NOT_REGISTERED, "t1");
        assert_eq!(names(&findings), ["discarded-not-registered"]);
        assert!(
            findings[0]
                .message
                .ends_with("live workers that do not know it: w1")
        );
    }

    #[test]
    fn a_name_that_is_nearly_right_is_offered() {
        let mut lab = failed("NotRegistered");
        let result = lab.task("t1").result.seen_mut().expect("seen");
        let doc = &mut result.as_mut().expect("stored").doc;
        doc.name = Some(TASK[..TASK.len() - 1].to_owned());
        let findings = lab.check(&DISCARDED_NOT_REGISTERED, "t1");
        assert_eq!(findings[0].subject["task"], TASK[..TASK.len() - 1]);
        let offered = format!("did you mean {TASK}?");
        assert!(
            findings[0].message.ends_with(&offered),
            "{}",
            findings[0].message
        );
    }

    #[test]
    fn another_failure_is_clear() {
        assert!(
            failed("ValueError")
                .check(&DISCARDED_NOT_REGISTERED, "t1")
                .is_empty()
        );
    }

    #[test]
    fn nothing_is_said_without_a_result() {
        let lab = failed("NotRegistered").unread(Source::Results, Reason::Unreachable);
        assert!(lab.check(&DISCARDED_NOT_REGISTERED, "t1").is_empty());
    }
}
