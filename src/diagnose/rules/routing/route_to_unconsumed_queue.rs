//! CD110: tasks are sent to a queue that no worker is told to consume.

use super::{at, did_you_mean};
use crate::celery::routing::{DecidedBy, Fault};
use crate::diagnose::view::routing::{Consumed, Judged, nearest};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::routing::Routing;

/// The rule.
pub static ROUTE_TO_UNCONSUMED_QUEUE: Rule = Rule {
    code: "CD110",
    name: "route-to-unconsumed-queue",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A route, a task or a call names a queue that no worker is told to consume. What is sent there waits \
                  for ever.",
        cause: "The queue's name is misspelt, or no worker has it after -Q. Celery creates a queue that is missing, \
                because task_create_missing_queues is on by default, so that nothing fails where the task is sent.",
        read: "The routes, tasks and calls of the project, and the command lines of its workers (or --worker-queues). \
               Nothing is said where one of these command lines is not known whole.",
        confirm: "Run `celery-doctor routes explain TASK`: it names the queue, and nobody who consumes it.",
        mend: "Correct the name, or start a worker with `-Q QUEUE`.",
        prevent: "Declare task_queues and set task_create_missing_queues to False: then a misspelt queue fails where \
                  the task is sent.",
        references: &[
            "celery issue 6692",
            "https://docs.celeryq.dev/en/stable/userguide/routing.html",
        ],
    },
    needs: &[],
    check: Check::Routing(check),
};

fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    let (consumed, gap) = match routing.consumed() {
        Consumed::These(queues) => (queues, None),
        Consumed::AtLeast(queues, gap) => (queues, Some(gap)),
        Consumed::Nobody => {
            judged.missing =
                Some("workers: none is known; --worker-queues gives their queues".to_owned());
            return judged;
        }
    };
    for app in &routing.apps {
        let table = app.config.table();
        for one in app.uses() {
            let sent = match &one.sent {
                Ok(sent) => sent,
                Err(Fault::Unknown(gap)) => {
                    judged.unknown(gap);
                    continue;
                }
                Err(Fault::QueueNotFound(..)) => continue,
            };
            // What the defaults decide is default-queue-unconsumed's, and what a route decides is said once, at the route.
            let own = match (sent.decided_by, one.what) {
                (DecidedBy::Default, _) => false,
                (DecidedBy::Route(_), what) => {
                    matches!(what, crate::diagnose::view::routing::What::Route(_))
                }
                (DecidedBy::Options, _) => true,
            };
            let Some(queue) = sent.queue.as_deref().filter(|_| own) else {
                continue;
            };
            let broadcast = table
                .find(queue)
                .ok()
                .flatten()
                .is_some_and(|queue| queue.broadcast);
            // Where the message goes through another exchange, the queue is only declared: unroutable looks after it.
            let elsewhere = sent
                .exchange
                .as_ref()
                .is_ok_and(|exchange| !exchange.is_empty())
                && sent
                    .exchange_type
                    .as_ref()
                    .is_ok_and(|kind| kind != "direct");
            if consumed.contains(queue) || broadcast {
                continue;
            }
            if elsewhere && reaches_another(routing, sent, &consumed) {
                continue;
            }
            if let Some(gap) = &gap {
                judged.unknown(gap);
                continue;
            }
            let near = nearest(queue, consumed.iter().map(String::as_str));
            let names: Vec<&str> = consumed.iter().map(String::as_str).collect();
            let message = format!(
                "{} sends to queue {queue}, which no worker is told to consume",
                one.what.words()
            );
            let finding = Finding::of(&ROUTE_TO_UNCONSUMED_QUEUE, message)
                .evidence("queue", queue)
                .evidence("consumed", names)
                .evidence("app", app.name.as_str())
                .remedy(format!(
                    "{}start a worker with -Q {}, or name a queue that one consumes",
                    did_you_mean(near),
                    plain::key(queue)
                ))
                .subject("queue", queue);
            judged.findings.push(at(finding, one.location));
        }
    }
    judged
}

/// Whether a message reaches a consumed queue by the bindings of its exchange.
fn reaches_another(
    routing: &Routing,
    sent: &crate::celery::routing::Sent,
    consumed: &std::collections::BTreeSet<String>,
) -> bool {
    let (Ok(exchange), Ok(Some(key))) = (&sent.exchange, &sent.routing_key) else {
        return true;
    };
    routing
        .bound_to(exchange)
        .iter()
        .any(|(to, bound_by, queue)| {
            crate::diagnose::view::routing::carries(&to.kind, bound_by, key) != Some(false)
                && consumed.contains(queue)
        })
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Project, gap};
    use super::*;

    #[test]
    fn a_misspelt_queue_is_found_and_the_right_one_offered() {
        assert_eq!(ROUTE_TO_UNCONSUMED_QUEUE.name, "route-to-unconsumed-queue");
        let project = Project::new()
            .routed(&[("shop.*", "emials")])
            .worker(&["emails"]);
        let judged = project.judged(&ROUTE_TO_UNCONSUMED_QUEUE);
        assert_eq!(
            judged.findings[0].message,
            "the route shop.* sends to queue emials, which no worker is told to consume"
        );
        assert!(
            judged.findings[0]
                .remedy
                .starts_with("did you mean emails?")
        );
        assert_eq!(
            judged.findings[0].location.as_ref().map(|at| at.line),
            Some(1)
        );
    }

    #[test]
    fn a_consumed_queue_is_clear() {
        let project = Project::new()
            .routed(&[("shop.*", "emails")])
            .worker(&["emails"]);
        assert_eq!(
            project.judged(&ROUTE_TO_UNCONSUMED_QUEUE),
            Judged::default()
        );
        let project = Project::new().routed(&[("shop.*", "celery")]).worker(&[]);
        assert_eq!(
            project.judged(&ROUTE_TO_UNCONSUMED_QUEUE),
            Judged::default()
        );
    }

    #[test]
    fn nothing_is_said_without_all_the_workers() {
        let project = Project::new().routed(&[("shop.*", "emials")]);
        let judged = project.judged(&ROUTE_TO_UNCONSUMED_QUEUE);
        assert!(
            judged.findings.is_empty() && judged.missing.is_some() && judged.unknown.is_empty()
        );
        let mut project = project.worker(&["emails"]);
        project.routing.workers.gaps.push(gap("a variable"));
        let judged = project.judged(&ROUTE_TO_UNCONSUMED_QUEUE);
        assert!(judged.findings.is_empty());
        assert_eq!(judged.unknown, [gap("a variable")]);
        // What is consumed for certain needs no more to be known.
        project = project.routed(&[("shop.*", "emails")]);
        assert!(
            project
                .judged(&ROUTE_TO_UNCONSUMED_QUEUE)
                .unknown
                .is_empty()
        );
    }

    #[test]
    fn a_call_and_a_task_are_looked_at_too() {
        let mut project = Project::new().worker(&["celery"]).task("shop.mail");
        project.app().tasks[0].options = crate::celery::routing::Options::to_queue("mial");
        assert_eq!(project.found(&ROUTE_TO_UNCONSUMED_QUEUE).len(), 1);
    }
}
