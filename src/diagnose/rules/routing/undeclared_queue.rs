//! CD111: a queue is named that `task_queues` does not have, and missing queues are not created.

use super::{at, did_you_mean};
use crate::celery::routing::Fault;
use crate::diagnose::view::routing::{Judged, nearest};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::routing::Routing;

/// The rule.
pub static UNDECLARED_QUEUE: Rule = Rule {
    code: "CD111",
    name: "undeclared-queue",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A route, a task or a call names a queue that is not in task_queues, while \
                  task_create_missing_queues is off: sending the task fails with QueueNotFound.",
        cause: "The name is misspelt, or the queue was never added to task_queues. This is what the setting is for: \
                the mistake shows where the task is sent, at run time.",
        read: "task_queues, task_create_missing_queues, and the routes, tasks and calls of the project.",
        confirm: "Call the task in `celery -A APP shell`: it raises QueueNotFound.",
        mend: "Correct the name, or declare the queue in task_queues.",
        prevent: "Let `celery-doctor routes check` run on every change.",
        references: &[
            "Celery 5.7 app/routes.py, Router.expand_destination",
            "celery pull request 10357",
        ],
    },
    needs: &[],
    check: Check::Routing(check),
};

fn check(routing: &Routing) -> Judged {
    let mut judged = Judged::default();
    for app in &routing.apps {
        let table = app.config.table();
        let declared: Vec<&str> = table
            .declared()
            .iter()
            .flatten()
            .map(|queue| queue.name.as_str())
            .collect();
        for one in app.uses() {
            let (queue, entry) = match &one.sent {
                Err(Fault::QueueNotFound(queue, entry)) => (queue, entry),
                Ok(sent) => {
                    // A queue that is not declared may or may not be created.
                    let undeclared = sent
                        .queue
                        .as_ref()
                        .is_some_and(|name| matches!(table.find(name), Ok(None)));
                    if let (true, Err(gap)) = (undeclared, &app.config.create_missing) {
                        judged.unknown(gap);
                    }
                    continue;
                }
                Err(Fault::Unknown(_)) => continue,
            };
            // What a route names is said once, at the route.
            let of_route = matches!(one.what, crate::diagnose::view::routing::What::Route(_));
            if entry.is_some() && !of_route {
                continue;
            }
            let message = format!(
                "{} names queue {queue}, which is not in task_queues while missing queues are not created: sending \
                 fails",
                one.what.words()
            );
            let finding = Finding::of(&UNDECLARED_QUEUE, message)
                .evidence("queue", queue.as_str())
                .evidence("declared", declared.clone())
                .evidence("app", app.name.as_str())
                .remedy(format!(
                    "{}declare {queue} in task_queues",
                    did_you_mean(nearest(queue, declared.iter().copied()))
                ))
                .subject("queue", queue.as_str());
            judged.findings.push(at(finding, one.location));
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Project, gap};
    use super::*;
    use crate::celery::routing::Queue;

    #[test]
    fn a_queue_that_is_not_declared_is_found() {
        assert_eq!(UNDECLARED_QUEUE.name, "undeclared-queue");
        let mut project = Project::new()
            .queue(Queue::named("celery"))
            .queue(Queue::named("emails"))
            .routed(&[("shop.*", "emials"), ("bill.*", "emails")]);
        assert!(project.found(&UNDECLARED_QUEUE).is_empty());
        project.app().config.create_missing = Ok(false);
        let judged = project.judged(&UNDECLARED_QUEUE);
        assert_eq!(judged.findings.len(), 1);
        assert!(judged.findings[0].remedy.contains("did you mean emails?"));
    }

    #[test]
    fn unknown_queues_are_not_judged() {
        let mut project = Project::new().routed(&[("shop.*", "emials")]);
        project.app().config.create_missing = Ok(false);
        project.app().config.queues = Err(gap("it is read from a file"));
        assert!(project.found(&UNDECLARED_QUEUE).is_empty());
    }
}
