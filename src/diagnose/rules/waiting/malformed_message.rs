//! CD207: something in a queue is not a Celery message.

use std::collections::BTreeMap;

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, List, Place, Source};

/// The rule.
pub static MALFORMED_MESSAGE: Rule = Rule {
    code: "CD207",
    name: "malformed-message",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A queue that Celery workers use holds something that is not a Celery task message. A worker that \
                  takes it throws it away or fails on it.",
        cause: "Another program writes to a list of the same name, by LPUSH or through kombu without a task; the \
                senders use a format that is not Celery's; or a message was cut off. On what is not JSON at all \
                kombu fails while it reads; what is JSON without a task is logged as `Received and deleted unknown \
                message. Wrong destination?!?` and dropped.",
        read: "Every message of the queues that live workers consume, and of the lists in which a traced task stands. \
               The contents are not shown. Lists that no worker consumes may be another program's and are left alone.",
        confirm: "Run `redis-cli LRANGE QUEUE 0 9` and look at the messages: each is a JSON object with headers and a \
                  task id. Mind that they hold the tasks' arguments.",
        mend: "Find out who writes to the queue. To take out one message, `redis-cli LREM QUEUE 1 MESSAGE`.",
        prevent: "Give Celery a Redis database of its own, and let only Celery's API write to its queues.",
        references: &[
            "Celery 5.7 worker/consumer/consumer.py, on_unknown_message",
            "https://docs.celeryq.dev/en/stable/internals/protocol.html",
        ],
    },
    needs: &[Source::Queues],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let mut queues: BTreeMap<(&str, &str), Vec<&List>> = BTreeMap::new();
    for list in evidence.lists.seen().into_iter().flatten() {
        if list.malformed > 0 && is_celerys(evidence, list) {
            let queue = (list.prefix.as_str(), list.queue.as_str());
            queues.entry(queue).or_default().push(list);
        }
    }
    queues
        .into_iter()
        .map(|((prefix, queue), lists)| {
            let malformed = lists
                .iter()
                .fold(0_u64, |sum, list| sum.saturating_add(list.malformed));
            let mut finding = Finding::of(
                &MALFORMED_MESSAGE,
                format!(
                    "queue {queue} holds {} that {} not Celery's",
                    plain::count(malformed, "message"),
                    if malformed == 1 { "is" } else { "are" }
                ),
            )
            .evidence("queue", queue)
            .evidence("key_prefix", prefix)
            .evidence("malformed", malformed);
            if evidence.rabbitmq.is_some() {
                finding = finding.confirm(evidence.depth(lists[0]));
            }
            for list in lists.iter().filter(|_| evidence.rabbitmq.is_none()) {
                let range = evidence.redis_cli("LRANGE").name(&list.key).words("0 9");
                finding = finding.confirm(range);
            }
            finding.count = malformed;
            finding
                .remedy(
                    "find out which program writes to the queue besides Celery, and give it another list",
                )
                .subject("queue", queue)
        })
        .collect()
}

/// Whether the list is surely one of Celery's task queues: a worker consumes its queue, or a task that was looked for or
/// counted stands in it. Names do not tell: reply queues and other kombu programs have bindings too.
fn is_celerys(evidence: &Evidence, list: &List) -> bool {
    let in_it = |place: &Place| matches!(place, Place::Queue { key, .. } if *key == list.key);
    let classes = evidence.census.iter().flat_map(|census| &census.classes);
    let tasks = evidence
        .tasks
        .values()
        .chain(classes.map(|class| &class.task));
    !evidence.consumers(list).is_empty()
        || tasks
            .flat_map(|task| &task.copies)
            .any(|copy| in_it(&copy.place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    fn dirty(mut lab: Lab, malformed: u64) -> Lab {
        lab.list("celery", "celery", None);
        let lists = lab.evidence.lists.seen_mut().expect("seen");
        lists[0].malformed = malformed;
        lab
    }

    #[test]
    fn garbage_in_a_consumed_queue_is_found_and_counted() {
        let lab = dirty(Lab::new().worker("w1", &["celery"]), 3);
        let found = lab.check(&MALFORMED_MESSAGE, "");
        assert_eq!(names(&found), ["malformed-message"]);
        assert_eq!(found[0].count, 3);
    }

    #[test]
    fn garbage_beside_a_traced_task_is_found_without_workers() {
        let lab = dirty(Lab::new().queued("t1", "celery"), 1);
        let lab = lab.unread(Source::Workers, Reason::NotAsked);
        assert_eq!(
            names(&lab.check(&MALFORMED_MESSAGE, "")),
            ["malformed-message"]
        );
    }

    #[test]
    fn a_clean_queue_and_another_programs_list_are_clear() {
        let lab = dirty(Lab::new().worker("w1", &["celery"]), 0);
        assert!(lab.check(&MALFORMED_MESSAGE, "").is_empty());
        let lab = dirty(Lab::new().worker("w1", &["mail"]), 3);
        assert!(lab.check(&MALFORMED_MESSAGE, "").is_empty());
    }

    #[test]
    fn nothing_is_said_of_lists_that_were_not_read() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .unread(Source::Queues, Reason::Refused);
        assert!(lab.check(&MALFORMED_MESSAGE, "").is_empty());
    }
}
