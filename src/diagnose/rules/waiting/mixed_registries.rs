//! CD203: some of the workers that take from the queue know the task, and some do not.

use std::collections::{BTreeMap, BTreeSet};

use crate::celery::control::ActiveQueue;
use crate::diagnose::command::control;
use crate::diagnose::{Brokers, Case, Check, Fate, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, List, Source, Worker};

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
    check: Check::Both(check, of_deployment),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.queued()
        .into_iter()
        .filter(|copy| case.fate(copy) != Fate::Expired)
        .filter_map(|copy| Some((copy.list?, copy.envelope.task.as_deref()?)))
        .filter_map(|(list, task)| {
            let finding = finding(case.evidence, list, task)?;
            Some(finding.task(case.id))
        })
        .collect()
}

/// What can be told without looking at single messages.
fn of_deployment(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = of_claims(evidence);
    findings.extend(of_strangers(evidence));
    findings
}

/// A worker that takes from a queue, and the tasks that it knows, Celery's own aside.
type Taker<'e> = (&'e Worker, BTreeSet<&'e str>);

/// Workers that take from one queue and have no task in common, Celery's own aside: two apps on one queue. Each throws
/// away what is sent for the other, whether anything waits now or not.
fn of_strangers(evidence: &Evidence) -> Vec<Finding> {
    // By key prefix and queue.
    let mut queues: BTreeMap<(&str, &str), Vec<Taker<'_>>> = BTreeMap::new();
    for worker in evidence.answered() {
        let Some(registered) = worker.registered.seen() else {
            continue;
        };
        let own = registered.keys().map(String::as_str);
        let own: BTreeSet<&str> = own.filter(|task| !task.starts_with("celery.")).collect();
        let consumed = worker.queues.seen().into_iter().flatten();
        // Every subscriber of a broadcast gets its own copy.
        let shared = consumed.filter(|queue| queue.exchange_type.as_deref() != Some("fanout"));
        for queue in shared.filter(|_| !own.is_empty()) {
            let key = (worker.prefix.as_str(), queue.name.as_str());
            queues.entry(key).or_default().push((worker, own.clone()));
        }
    }
    let mut findings = Vec::new();
    for ((_, queue), workers) in queues {
        let pairs = workers.iter().enumerate();
        let mut apart =
            pairs.flat_map(|(at, one)| workers[at + 1..].iter().map(move |two| (one, two)));
        let Some(((one, _), (two, _))) = apart.find(|(one, two)| one.1.is_disjoint(&two.1)) else {
            continue;
        };
        let mut finding = Finding::of(
            &MIXED_REGISTRIES,
            format!(
                "{} and {} both take from queue {queue} and have no task in common: what one of them gets by chance \
                 and only the other knows is thrown away",
                one.node, two.node
            ),
        );
        finding.severity = Severity::Warning;
        findings.push(
            finding
                .evidence("queue", queue)
                .evidence("workers", vec![one.node.as_str(), two.node.as_str()])
                .confirm(evidence.inspect("registered"))
                .remedy("give each app a queue of its own (task_default_queue), or a database or virtual host")
                .subject("queue", queue),
        );
    }
    findings
}

/// On RabbitMQ, where messages are not looked at: a task that a worker has came through one of its queues, and so may
/// the next one.
fn of_claims(evidence: &Evidence) -> Vec<Finding> {
    if evidence.rabbitmq.is_none() {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for worker in evidence.answered() {
        let queues = worker.queues.seen().map_or(&[][..], Vec::as_slice);
        for claim in worker.active.seen().into_iter().flatten() {
            let key = claim.routing_key.as_deref();
            let by_key = |queue: &&ActiveQueue| {
                key.is_some_and(|key| {
                    queue.name == key || queue.routing_key.as_deref() == Some(key)
                })
            };
            let queue = match queues {
                [only] => Some(only),
                several => several.iter().find(by_key),
            };
            let list = queue.and_then(|queue| evidence.list(&queue.name));
            let (Some(list), Some(task)) = (list, claim.task.as_deref()) else {
                continue;
            };
            if seen.insert((list.queue.as_str(), task)) {
                findings.extend(finding(evidence, list, task).map(|found| found.task(&claim.id)));
            }
        }
    }
    findings
}

/// What is to be said of a task and the workers that take from its queue; none where all or none of them know it, or one
/// did not say.
fn finding(evidence: &Evidence, list: &List, task: &str) -> Option<Finding> {
    let (mut knowing, mut ignorant) = (Vec::new(), Vec::new());
    for worker in evidence.readers(list) {
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
    let one = |nodes: &[&str], one, several| if nodes.len() == 1 { one } else { several };
    let finding = Finding::of(
        &MIXED_REGISTRIES,
        format!(
            "{} {} from queue {queue} and {} not know {task}, which {} {}: what {} by chance is thrown away",
            plain::names(&ignorant),
            one(&ignorant, "takes", "take"),
            one(&ignorant, "does", "do"),
            plain::names(&knowing),
            one(&knowing, "knows", "know"),
            one(&ignorant, "it gets", "they get"),
        ),
    );
    Some(
        finding
            .evidence("queue", queue.as_str())
            .evidence("task", task)
            .evidence("workers_that_know_it", knowing)
            .evidence("workers_that_do_not", ignorant.clone())
            .confirm(evidence.inspect("registered"))
            .remedy("let those that do not know it take nothing from the queue until they have the same code")
            .mend(control("cancel_consumer").name(queue).on(&ignorant.join(",")))
            .subject("queue", queue.as_str())
            .subject("task", task),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::{ClaimState, TaskTraits};
    use crate::diagnose::testkit::{Lab, Rabbit, names};
    use crate::evidence::Observed;

    #[test]
    fn two_apps_on_one_queue_are_found_before_anything_waits() {
        let named = |tasks: &'static [&'static str]| {
            move |w: &mut Worker| {
                let registered = tasks
                    .iter()
                    .map(|task| ((*task).to_owned(), TaskTraits::default()));
                w.registered = Observed::Seen(registered.collect());
            }
        };
        let lab = |other: &'static [&'static str], queue| {
            let lab = Lab::new().worker("w1", &["celery"]);
            let lab = lab.with_worker(named(&["celery.chord", "shop.add"]));
            let lab = lab.worker("w2", &[queue]).with_worker(named(other));
            of_deployment(&lab.evidence)
        };
        let found = lab(&["celery.chord", "mail.send"], "celery");
        assert_eq!(names(&found), ["mixed-registries"]);
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(lab(&["mail.send"], "mails").is_empty());
        assert!(lab(&["mail.send", "shop.add"], "celery").is_empty());
        assert!(lab(&["celery.chord"], "celery").is_empty());
    }

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
        let found = lab.check(&MIXED_REGISTRIES, "t1");
        assert_eq!(names(&found), ["mixed-registries"]);
        assert_eq!(
            found[0].message,
            "w2 takes from queue celery and does not know shop.send_mail, which w1 knows: what it gets by chance is \
             thrown away"
        );
    }

    #[test]
    fn on_rabbitmq_a_task_that_runs_tells_what_comes_through_its_queue() {
        let lab = |change: fn(&mut Worker)| {
            let lab = Rabbit::new().queue("celery", 0, 2).lab();
            lab.worker("w2", &["celery"])
                .with_worker(change)
                .worker("w1", &["celery"])
                .claimed("t1", "w1", ClaimState::Active)
        };
        let mixed = lab(|w| w.registered.seen_mut().expect("seen").clear());
        assert_eq!(
            names(&mixed.check(&MIXED_REGISTRIES, "")),
            ["mixed-registries"]
        );
        assert!(lab(|_| {}).check(&MIXED_REGISTRIES, "").is_empty());
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
