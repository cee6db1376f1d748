//! CD112: tasks go to the default queue, and no worker is told to consume it.

use super::{at, did_you_mean};
use crate::celery::routing::DecidedBy;
use crate::diagnose::view::routing::{Consumed, Judged, nearest};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::routing::Routing;

/// The rule.
pub static DEFAULT_QUEUE_UNCONSUMED: Rule = Rule {
    code: "CD112",
    name: "default-queue-unconsumed",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "No worker is told to consume the default queue, and there are tasks that no route takes: they go \
                  there and wait.",
        cause: "Every worker was started with -Q and queues of its own, and the queue `celery`, or what \
                task_default_queue names, is none of them. A task that is added without a route is lost in it.",
        read: "task_default_queue, the routes, the tasks that the project defines, and the command lines of its \
               workers (or --worker-queues).",
        confirm: "Run `celery-doctor routes explain TASK` for one of the tasks named.",
        mend: "Let a worker consume the default queue too: `-Q celery,…`.",
        prevent: "Set task_default_queue to a queue that a worker consumes, or end task_routes with a route for `*`.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/routing.html"],
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
        let uses = app.uses();
        let by_default = uses.iter().filter_map(|one| match &one.sent {
            Ok(sent) if sent.decided_by == DecidedBy::Default => {
                Some((sent.queue.as_deref()?, one))
            }
            _ => None,
        });
        let lost: Vec<_> = by_default
            .filter(|(queue, _)| !consumed.contains(*queue))
            .collect();
        let Some((queue, first)) = lost.first() else {
            continue;
        };
        if let Some(gap) = &gap {
            judged.unknown(gap);
            continue;
        }
        let mut tasks: Vec<String> = lost
            .iter()
            .filter_map(|(_, one)| match one.what {
                crate::diagnose::view::routing::What::Task(name)
                | crate::diagnose::view::routing::What::Call(Some(name)) => Some(name.to_owned()),
                _ => None,
            })
            .collect();
        tasks.sort();
        tasks.dedup();
        let message = format!(
            "no worker is told to consume the default queue {queue}, where {} go{}",
            plain::names(&tasks),
            if tasks.len() == 1 { "es" } else { "" }
        );
        let setting = app.settings.get("task_default_queue");
        let near = nearest(queue, consumed.iter().map(String::as_str));
        let finding = Finding::of(&DEFAULT_QUEUE_UNCONSUMED, message)
            .evidence("queue", *queue)
            .evidence("tasks", tasks)
            .evidence("app", app.name.as_str())
            .remedy(format!(
                "{}start a worker with -Q {}, or route these tasks",
                did_you_mean(near),
                plain::key(queue)
            ))
            .subject("queue", *queue);
        judged
            .findings
            .push(at(finding, setting.or(first.location)));
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Project;
    use super::*;

    #[test]
    fn a_task_without_a_route_needs_the_default_queue() {
        assert_eq!(DEFAULT_QUEUE_UNCONSUMED.name, "default-queue-unconsumed");
        let project = Project::new().task("shop.mail").worker(&["pay"]);
        assert_eq!(
            project.found(&DEFAULT_QUEUE_UNCONSUMED),
            ["no worker is told to consume the default queue celery, where shop.mail goes"]
        );
    }

    #[test]
    fn where_no_task_goes_there_nobody_needs_it() {
        let project = Project::new()
            .task("shop.mail")
            .routed(&[("*", "pay")])
            .worker(&["pay"]);
        assert!(project.found(&DEFAULT_QUEUE_UNCONSUMED).is_empty());
        let project = Project::new().task("shop.mail").worker(&["celery"]);
        assert!(project.found(&DEFAULT_QUEUE_UNCONSUMED).is_empty());
    }
}
