//! CD404: late-acknowledged work or an ETA that outlasts RabbitMQ's consumer timeout.

use crate::celery::control::ClaimState;
use crate::diagnose::command::Command;
use crate::diagnose::view::ConsumerTimeout;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::Queue;
use crate::evidence::{RabbitMq, Source, WorkerClaim};

/// The rule.
pub static CONSUMER_TIMEOUT: Rule = Rule {
    code: "CD404",
    name: "consumer-timeout",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "A worker keeps a message unacknowledged for longer than RabbitMQ's consumer_timeout allows, or is \
                  about to. RabbitMQ then closes the channel and gives every message on it to somebody again, and \
                  the worker shuts down: tasks run twice, perhaps again and again.",
        cause: "With acks_late a task is acknowledged when it has ended, and a task with an ETA when its time has \
                come and it was started. RabbitMQ allows 30 minutes by default. What is merely prefetched behind a \
                long task is unacknowledged too.",
        read: "The workers' word: what runs since when and unacknowledged, which ETA a task waits for, and the \
               task's time limit. The timeout is what the management API tells of the consumer (RabbitMQ 4.0 and \
               later) or the queue's settings, else RabbitMQ's default of 30 minutes, which the server may have \
               raised: then nothing is said to be an error. RabbitMQ 4.3 and later do not look at classic queues.",
        confirm: "Run `rabbitmqctl environment` and look for consumer_timeout. In the worker's log look for \
                  `PRECONDITION_FAILED - delivery acknowledgement on channel`.",
        mend: "Raise consumer_timeout on the server, or x-consumer-timeout on the queue (RabbitMQ 3.12 and later), \
               above the longest task and the longest ETA.",
        prevent: "Keep ETAs short on classic queues; quorum queues have native delayed delivery for them. Give \
                  late-acknowledging tasks a time limit below the timeout.",
        references: &[
            "celery issues 6760, 6954",
            "https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout",
        ],
    },
    needs: &[Source::Workers, Source::Management],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let Some(rabbit) = &case.evidence.rabbitmq else {
        return Vec::new();
    };
    case.task
        .claims
        .iter()
        .filter_map(|holder| {
            let queue = queue_of(rabbit, case, holder)?;
            outlasts(case, holder, queue)
        })
        .collect()
}

/// The queue that a claim came out of: the one that its worker consumes with the claim's exchange and routing key.
fn queue_of<'e>(rabbit: &'e RabbitMq, case: &Case<'_>, holder: &WorkerClaim) -> Option<&'e Queue> {
    let worker = case
        .evidence
        .answered()
        .iter()
        .find(|w| w.node == holder.node)?;
    let queues = worker.queues.seen()?;
    let key = holder.claim.routing_key.as_deref();
    let by_key = queues
        .iter()
        .find(|q| Some(q.name.as_str()) == key || q.routing_key.as_deref() == key);
    let queue = match queues.as_slice() {
        [only] => only,
        _ => by_key?,
    };
    rabbit.queue(&queue.name)
}

fn outlasts(case: &Case<'_>, holder: &WorkerClaim, queue: &Queue) -> Option<Finding> {
    let timeout = case.evidence.consumer_timeout(queue)?;
    let (allowed, then) = words(&timeout);
    let (node, claim) = (&holder.node, &holder.claim);
    let finding = |message: String| {
        Finding::of(&CONSUMER_TIMEOUT, message)
            .evidence("queue", queue.name.as_str())
            .evidence("consumer_timeout_seconds", timeout.seconds)
            .evidence("consumer_timeout_source", timeout.source)
            .confirm(Command::of(
                "rabbitmqctl environment | grep consumer_timeout",
            ))
            .confirm(case.evidence.query_task(case.id))
            .remedy("raise consumer_timeout above the longest task and the longest ETA")
            .subject("worker", node.as_str())
            .task(case.id)
    };
    if claim.state == ClaimState::Active {
        let started = claim
            .time_start
            .filter(|_| claim.acknowledged == Some(false))?;
        let ran = case.now() - started;
        if ran > timeout.seconds {
            let mut found = finding(format!(
                "{node} has been running it unacknowledged for {}, longer than {allowed}: {then}it is delivered again",
                plain::duration(ran)
            ));
            if !timeout.assumed {
                found.severity = Severity::Error;
            }
            return Some(found.evidence("running_seconds", ran));
        }
        let worker = case.evidence.answered().iter().find(|w| w.node == *node)?;
        let limit = worker.registered.seen()?.get(case.name()?)?.time_limit?;
        let message = format!(
            "{node} runs it unacknowledged, and its time limit of {} is longer than {allowed}",
            plain::duration(limit)
        );
        return (limit > timeout.seconds)
            .then(|| finding(message).evidence("time_limit_seconds", limit));
    }
    // What waits for its ETA in a worker is unacknowledged all the time.
    let left = claim
        .eta
        .filter(|_| claim.state == ClaimState::Scheduled)?
        .seconds_until(case.evidence.taken_at);
    let message = format!(
        "{node} holds it unacknowledged for {} more, until its ETA, longer than {allowed}: {then}it will be delivered \
         again, and the worker shuts down",
        plain::duration(left)
    );
    (left > timeout.seconds).then(|| finding(message).evidence("eta_in_seconds", left))
}

/// The timeout, and the condition for what follows, where the server does not tell its own.
fn words(timeout: &ConsumerTimeout) -> (String, &'static str) {
    let time = plain::duration(timeout.seconds);
    if timeout.assumed {
        let allowed = format!(
            "RabbitMQ's default consumer timeout of {time} (this server does not tell its own)"
        );
        (allowed, "unless it was raised, ")
    } else {
        (format!("the consumer timeout of {time}"), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::when::When;
    use crate::diagnose::testkit::{Lab, NOW, Rabbit, TASK, names};
    use crate::evidence::Observed;

    fn lab(state: ClaimState) -> Lab {
        let lab = Rabbit::new().version("3.10.8").queue("celery", 0, 1).lab();
        lab.worker("w1", &["celery"]).claimed("t1", "w1", state)
    }

    fn running(seconds: f64, acknowledged: bool) -> Lab {
        let mut lab = lab(ClaimState::Active);
        let claim = &mut lab.task("t1").claims[0].claim;
        (claim.time_start, claim.acknowledged) = (Some(NOW - seconds), Some(acknowledged));
        lab
    }

    fn scheduled(seconds: f64) -> Lab {
        let mut lab = lab(ClaimState::Scheduled);
        lab.task("t1").claims[0].claim.eta = When::from_epoch(NOW + seconds);
        lab
    }

    /// The same with a timeout that RabbitMQ tells.
    fn told(mut lab: Lab, timeout_ms: Option<u64>) -> Lab {
        let rabbit = lab.evidence.rabbitmq.as_mut().expect("a RabbitMQ");
        for consumer in rabbit.consumers.seen_mut().expect("seen") {
            consumer.timeout_ms = Observed::Seen(timeout_ms);
        }
        lab
    }

    #[test]
    fn a_run_beyond_the_timeout_is_an_error() {
        let lab = told(running(1900.0, false), Some(1_800_000));
        let found = lab.check(&CONSUMER_TIMEOUT, "t1");
        assert_eq!(names(&found), ["consumer-timeout"]);
        assert_eq!(found[0].severity, Severity::Error);
        assert!(found[0].message.contains("of 30m: it is delivered again"));
    }

    #[test]
    fn a_timeout_that_is_not_told_may_have_been_raised() {
        let found = running(1900.0, false).check(&CONSUMER_TIMEOUT, "t1");
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(
            found[0].message.contains("unless it was raised"),
            "{}",
            found[0].message
        );
        // The oldest that Debian had: nothing is timed there.
        let mut old = running(1900.0, false);
        let rabbit = old.evidence.rabbitmq.as_mut().expect("a RabbitMQ");
        rabbit.version = Observed::Seen("3.8.9".to_owned());
        assert!(old.check(&CONSUMER_TIMEOUT, "t1").is_empty());
    }

    #[test]
    fn a_timeout_of_the_queue_counts_from_rabbitmq_3_12_on() {
        let of = |version: &str| {
            let lab = Rabbit::new()
                .version(version)
                .queue("celery", 0, 1)
                .argument("x-consumer-timeout", serde_json::json!(36_000_000))
                .lab();
            let lab = lab
                .worker("w1", &["celery"])
                .claimed("t1", "w1", ClaimState::Scheduled);
            let mut lab = lab;
            lab.task("t1").claims[0].claim.eta = When::from_epoch(NOW + 7200.0);
            lab.check(&CONSUMER_TIMEOUT, "t1").len()
        };
        assert_eq!((of("3.12.14"), of("3.10.8")), (0, 1));
    }

    #[test]
    fn a_run_within_it_and_one_that_was_acknowledged_are_clear() {
        assert!(
            running(1700.0, false)
                .check(&CONSUMER_TIMEOUT, "t1")
                .is_empty()
        );
        assert!(
            running(90_000.0, true)
                .check(&CONSUMER_TIMEOUT, "t1")
                .is_empty()
        );
    }

    #[test]
    fn a_time_limit_beyond_the_timeout_is_a_warning() {
        let mut lab = running(60.0, false);
        let tasks = lab.workers_mut().answered[0]
            .registered
            .seen_mut()
            .expect("seen");
        tasks.entry(TASK.to_owned()).or_default().time_limit = Some(7200.0);
        let found = lab.check(&CONSUMER_TIMEOUT, "t1");
        assert_eq!(found[0].severity, Severity::Warning);
    }

    #[test]
    fn an_eta_beyond_the_timeout_is_a_warning() {
        let found = scheduled(7200.0).check(&CONSUMER_TIMEOUT, "t1");
        assert_eq!(names(&found), ["consumer-timeout"]);
        assert!(scheduled(600.0).check(&CONSUMER_TIMEOUT, "t1").is_empty());
    }

    #[test]
    fn a_timeout_that_is_switched_off_is_clear() {
        let lab = told(scheduled(7200.0), None);
        assert!(lab.check(&CONSUMER_TIMEOUT, "t1").is_empty());
    }
}
