//! CD204: no worker that takes from the queue accepts the message's content type.

use crate::diagnose::{Brokers, Case, Check, Fate, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static CONTENT_REFUSED: Rule = Rule {
    code: "CD204",
    name: "content-refused",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The message is serialized in a way that no worker of its queue accepts. The worker that takes it \
                  logs ContentDisallowed, acknowledges the message, and stores no result: the task stays PENDING for \
                  ever.",
        cause: "The sender's task_serializer (or `serializer=` at the call) is one that is missing from the workers' \
                accept_content, which is json alone unless set.",
        read: "The content type of the message, and accept_content in the settings of every live worker that takes \
               from the queue. Nothing is said where a worker stays silent or accepts a serializer of the app's own.",
        confirm: "Run `celery -A APP inspect --timeout 3 conf true` and look at accept_content.",
        mend: "Add the serializer to accept_content of the workers and restart them before the message is taken. Add \
               pickle only where nobody but you can write to the broker: it runs code.",
        prevent: "Set task_serializer and accept_content for senders and workers in one place, and keep to json.",
        references: &[
            "Celery 5.7 worker/consumer/consumer.py, on_decode_error",
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#accept-content",
        ],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.queued()
        .into_iter()
        .filter(|copy| case.fate(copy) == Fate::ContentRefused)
        .filter_map(|copy| Some((copy.list?, copy.envelope.content_type.as_deref()?)))
        .map(|(list, content_type)| {
            let readers = case.evidence.readers(list);
            let nodes: Vec<&str> = readers.iter().map(|w| w.node.as_str()).collect();
            let queue = &list.queue;
            Finding::of(
                &CONTENT_REFUSED,
                format!(
                    "its content type is {content_type}, and no worker of queue {queue} accepts that ({}): it will \
                     be thrown away without a result",
                    plain::names(&nodes)
                ),
            )
            .evidence("content_type", content_type)
            .evidence("queue", queue.as_str())
            .evidence("workers", nodes)
            .confirm(case.evidence.inspect("conf true"))
            .remedy(
                "add the sender's serializer to accept_content of the workers and restart them, or set the sender's \
                 task_serializer to json and send it again",
            )
            .subject("queue", queue.as_str())
            .task(case.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, envelope, names};
    use crate::evidence::Observed;

    fn pickled(accept: Option<&[&str]>) -> Lab {
        let mut message = envelope("t1");
        message.content_type = Some("application/x-python-serialize".to_owned());
        let accept = accept.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
        Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| w.conf.seen_mut().expect("seen").accept_content = accept)
            .queued_as("celery", message)
    }

    #[test]
    fn a_content_type_that_nobody_accepts_is_found() {
        for accept in [["json"].as_slice(), &["json", "yaml"]] {
            let lab = pickled(Some(accept));
            assert_eq!(
                names(&lab.check(&CONTENT_REFUSED, "t1")),
                ["content-refused"]
            );
        }
    }

    #[test]
    fn one_that_is_accepted_by_name_or_by_type_is_clear() {
        for accept in ["pickle", "application/x-python-serialize"] {
            assert!(
                pickled(Some(&[accept]))
                    .check(&CONTENT_REFUSED, "t1")
                    .is_empty()
            );
        }
    }

    #[test]
    fn a_serializer_of_the_apps_own_may_be_any() {
        let lab = pickled(Some(&["json", "shopjson"]));
        assert!(lab.check(&CONTENT_REFUSED, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent_or_does_not_tell() {
        let lab = pickled(Some(&["json"])).silent("w2");
        assert!(lab.check(&CONTENT_REFUSED, "t1").is_empty());
        let untold = pickled(None);
        assert!(untold.check(&CONTENT_REFUSED, "t1").is_empty());
        let lab = pickled(None).with_worker(|w| w.conf = Observed::not_asked("a test"));
        assert!(lab.check(&CONTENT_REFUSED, "t1").is_empty());
    }
}
