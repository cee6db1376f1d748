//! CD407: a task that most likely waits for its rate limit, where no reply shows it.

use std::collections::BTreeSet;

use crate::diagnose::command::control;
use crate::diagnose::view::Holder;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{RabbitMq, Source, Worker};

/// The rule.
pub static RATE_LIMITED: Rule = Rule {
    code: "CD407",
    name: "rate-limited",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The message is unacknowledged and no worker says that it has it, but its task is rate limited on a \
                  live worker. Most likely it waits there for its turn, and is not lost.",
        cause: "A worker puts a task whose rate_limit is used up into a bucket in its memory, without reserving it. \
                Such a task is in no reply to remote control: neither active, nor reserved, nor scheduled.",
        read: "The hash `unacked`, the word of every live worker about this id, and the rate_limit of its task where \
               it is registered and whose worker was there when the message was delivered. That it waits in a bucket \
               can't be seen; it could also be a leftover of a worker that is gone.",
        confirm: "Wait for a time that the rate limit makes likely, and trace it again. If it is still the same after \
                  the visibility timeout, no worker has it.",
        mend: "Nothing needs mending if the limit is meant. Else lift it at run time: `celery -A APP control \
               rate_limit TASK 0`.",
        prevent: "A rate limit holds for each worker by itself, and tasks that wait for it take up the prefetch of \
                  other tasks: give rate-limited tasks a queue and workers of their own.",
        references: &[
            "celery pull request 10291",
            "https://docs.celeryq.dev/en/stable/userguide/tasks.html#Task.rate_limit",
        ],
    },
    needs: &[Source::Unacked, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    if case.final_result().is_some() {
        return Vec::new();
    }
    if let Some(rabbit) = &case.evidence.rabbitmq {
        return among_others(case, rabbit).into_iter().collect();
    }
    case.held()
        .iter()
        .filter_map(|held| match case.holder(held) {
            Holder::MaybeRateLimited(nodes) => Some((held, nodes)),
            _ => None,
        })
        .map(|(held, nodes)| {
            let task = held.envelope.task.as_deref().unwrap_or_default();
            let limits: Vec<&str> = case
                .evidence
                .answered()
                .iter()
                .filter(|worker| nodes.contains(&worker.node))
                .filter_map(|worker| worker.rate_limit(task))
                .collect();
            let message = format!(
                "{} is unacknowledged and most likely waits for its rate limit ({}) on {}",
                case.called(),
                limits.first().copied().unwrap_or_default(),
                plain::names(&nodes)
            );
            Finding::of(&RATE_LIMITED, message)
                .evidence("delivery_tag", held.tag)
                .evidence("rate_limits", limits.clone())
                .evidence("workers", nodes.clone())
                .confirm(case.evidence.inspect("registered rate_limit"))
                .remedy("wait; or lift the limit until the workers start anew")
                .mend(control("rate_limit").name(task).words("0"))
                .task(case.id)
        })
        .collect()
}

/// It was not found, and as many messages as RabbitMQ counts beyond the workers' word may wait in a bucket.
fn among_others(case: &Case<'_>, rabbit: &RabbitMq) -> Option<Finding> {
    let evidence = case.evidence;
    let told = |worker: &Worker| {
        let counts = worker.reserved.seen().zip(worker.scheduled.seen());
        worker.active.seen().is_some() && counts.is_some()
    };
    let all_told = evidence.all_workers_answered() && evidence.answered().iter().all(told);
    let found = !case.task.copies.is_empty() || !case.task.claims.is_empty();
    if found || !all_told || evidence.unheard_consumers() > 0 {
        return None;
    }
    let beyond = evidence.in_buckets(rabbit)?;
    let limits: Vec<(&str, &str, &str)> = (evidence.answered().iter())
        .flat_map(|worker| {
            let node = worker.node.as_str();
            let limits = worker.rate_limits().into_iter();
            limits.map(move |(task, limit)| (node, task, limit))
        })
        .collect();
    let (node, task, limit) = *limits.first()?;
    let count = plain::count(beyond, "message");
    let verb = if beyond == 1 { "is" } else { "are" };
    let message = format!(
        "{count} {verb} unacknowledged beyond what the workers tell, and {task} is rate limited ({limit}) on {node}: it \
         may be one that waits there for its turn"
    );
    let names: BTreeSet<&str> = limits.iter().map(|(_, task, _)| *task).collect();
    Some(
        Finding::of(&RATE_LIMITED, message)
            .evidence("messages", beyond)
            .evidence("rate_limited", names.into_iter().collect::<Vec<_>>())
            .confirm(case.evidence.inspect("registered rate_limit"))
            .remedy("wait; or lift the limit until the workers start anew")
            .mend(control("rate_limit").name(task).words("0"))
            .task(case.id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::{ClaimState, TaskTraits};
    use crate::celery::exchange::{Binding, DEFAULT_SEP};
    use crate::celery::result::ResultDoc;
    use crate::diagnose::rules::results::retry_vanished::RETRY_VANISHED;
    use crate::diagnose::testkit::{Lab, Rabbit, TASK, doc_of_state, names};
    use crate::diagnose::{Verdict, judge};
    use crate::evidence::{BindingTable, Observed, Place};

    fn limited() -> Lab {
        let traits = TaskTraits {
            rate_limit: Some("10/m".to_owned()),
            ..TaskTraits::default()
        };
        Lab::new().worker("w1", &["celery"]).with_worker(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.insert(TASK.to_owned(), traits);
        })
    }

    #[test]
    fn an_unclaimed_message_of_a_limited_task_is_found() {
        let findings = limited().unacked("t1", 9.0).check(&RATE_LIMITED, "t1");
        assert_eq!(names(&findings), ["rate-limited"]);
        assert!(
            findings[0]
                .message
                .ends_with("most likely waits for its rate limit (10/m) on w1")
        );
    }

    #[test]
    fn on_rabbitmq_more_unacknowledged_than_told_is_found() {
        let lab = |unacked: u64| {
            let mut lab = Rabbit::new()
                .queue("celery", 0, 1)
                .with(|queue| queue.unacknowledged = Observed::Seen(unacked))
                .lab();
            lab.evidence.workers = limited().evidence.workers;
            lab.with_worker(|worker| {
                worker.reserved = Observed::Seen(1);
                worker.scheduled = Observed::Seen(0);
            })
            .absent("t1")
        };
        let found = lab(3).check(&RATE_LIMITED, "t1");
        assert_eq!(
            found[0].message,
            format!(
                "2 messages are unacknowledged beyond what the workers tell, and {TASK} is rate limited (10/m) on w1: \
                 it may be one that waits there for its turn"
            )
        );
        assert!(lab(1).check(&RATE_LIMITED, "t1").is_empty());
        let held = lab(3).claimed("t2", "w1", ClaimState::Reserved);
        assert!(held.check(&RATE_LIMITED, "t2").is_empty());
    }

    #[test]
    fn a_claimed_one_and_one_without_a_limit_are_clear() {
        let claimed = limited()
            .unacked("t1", 9.0)
            .claimed("t1", "w1", ClaimState::Reserved);
        assert!(claimed.check(&RATE_LIMITED, "t1").is_empty());
        let free = Lab::new().worker("w1", &["celery"]).unacked("t1", 9.0);
        assert!(free.check(&RATE_LIMITED, "t1").is_empty());
    }

    #[test]
    fn a_worker_that_started_after_the_delivery_can_not_have_it() {
        let young = limited().with_worker(|worker| {
            worker.stats.seen_mut().expect("seen").uptime = Some(5.0);
        });
        let lab = young.unacked("t1", 9.0);
        assert!(lab.check(&RATE_LIMITED, "t1").is_empty());
    }

    #[test]
    fn a_worker_of_another_queue_can_not_have_it() {
        let other = limited().with_worker(|worker| {
            worker.queues.seen_mut().expect("seen")[0].name = "mails".to_owned();
        });
        let lab = other.unacked("t1", 9.0);
        assert!(lab.check(&RATE_LIMITED, "t1").is_empty());
    }

    #[test]
    fn a_dead_letter_queue_is_none_that_it_came_through() {
        let mut lab = limited().unacked("t1", 9.0).with_worker(|worker| {
            let stats = worker.stats.seen_mut().expect("seen");
            stats.transport.deadletter_queue = Some("dead".to_owned());
        });
        if let Place::Unacked { exchange, .. } = &mut lab.task("t1").copies[0].place {
            "orders".clone_into(exchange);
        }
        lab.evidence.bindings = Observed::Seen(vec![BindingTable {
            prefix: String::new(),
            exchange: "orders".to_owned(),
            sep: DEFAULT_SEP.to_owned(),
            bindings: vec![Binding {
                routing_key: "celery".to_owned(),
                pattern: String::new(),
                queue: "celery".to_owned(),
            }],
        }]);
        assert_eq!(lab.check(&RATE_LIMITED, "t1").len(), 1);
    }

    #[test]
    fn one_that_a_gone_worker_had_started_waits_in_no_bucket() {
        let started = |node: &str| {
            let doc = ResultDoc {
                worker: Some(node.to_owned()),
                ..doc_of_state("STARTED")
            };
            limited().unacked("t1", 9.0).result_as("t1", doc)
        };
        assert!(started("w0").check(&RATE_LIMITED, "t1").is_empty());
        assert_eq!(started("w1").check(&RATE_LIMITED, "t1").len(), 1);
        let mut restored = started("w0");
        restored.task("t1").copies[0].envelope.redelivered = true;
        assert_eq!(restored.check(&RATE_LIMITED, "t1").len(), 1);
    }

    #[test]
    fn without_acknowledgements_one_in_a_bucket_is_nowhere_to_be_seen() {
        let verdict = |lab: &Lab| judge(&lab.evidence, &["t1".to_owned()]).traces[0].verdict;
        let off = || {
            limited().with_worker(|worker| {
                worker
                    .stats
                    .seen_mut()
                    .expect("seen")
                    .transport
                    .ack_emulation = Some(false);
            })
        };
        assert_eq!(verdict(&limited().absent("t1")), Verdict::Unknown);
        assert_eq!(verdict(&off().absent("t1")), Verdict::Undetermined);
        // What has begun waits in no bucket.
        assert_eq!(verdict(&off().result("t1", "STARTED")), Verdict::Lost);
        let mut other = doc_of_state("RETRY");
        other.name = Some("shop.other".to_owned());
        assert_eq!(verdict(&off().result_as("t1", other)), Verdict::Lost);
        let retried = off().result("t1", "RETRY");
        assert_eq!(verdict(&retried), Verdict::Undetermined);
        assert!(retried.check(&RETRY_VANISHED, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent() {
        let lab = limited().silent("w2").unacked("t1", 9.0);
        assert!(lab.check(&RATE_LIMITED, "t1").is_empty());
    }
}
