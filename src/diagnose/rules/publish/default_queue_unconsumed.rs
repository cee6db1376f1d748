//! CD112: nobody consumes the queue to which tasks without a route go.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnose::command::worker;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Source};

/// The rule.
pub static DEFAULT_QUEUE_UNCONSUMED: Rule = Rule {
    code: "CD112",
    name: "default-queue-unconsumed",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "No live worker consumes task_default_queue. A task for which no route is written goes there, and \
                  waits for ever.",
        cause: "All workers were started with -Q and other queues. It goes well until somebody adds a task and no \
                route, or a periodic task of Celery's own, such as celery.backend_cleanup, is due.",
        read: "The queues that live workers consume, and the task_default_queue that they are configured with. Nothing \
               is said while a worker is silent, or takes messages without answering. Where workers have task_routes \
               it is worth knowing and no warning: they may take every task.",
        confirm: "Run `celery -A APP inspect --timeout 3 active_queues` and `celery -A APP inspect --timeout 3 conf true`.",
        mend: "Start a worker with `-Q QUEUE` for it, or add it to one that runs: `celery -A APP control add_consumer \
               QUEUE`.",
        prevent: "Set task_default_queue to a queue that is consumed, or route everything with a last pattern `*`.",
        references: &[
            "https://docs.celeryq.dev/en/stable/userguide/routing.html",
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-default-queue",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let workers = evidence.answered();
    let sure = evidence.all_workers_answered()
        && evidence.unheard_consumers() == 0
        && workers.iter().all(|worker| worker.queues.seen().is_some());
    if !sure {
        return Vec::new();
    }
    let mut defaults: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for worker in workers {
        let conf = worker.conf.seen();
        let Some(queue) = conf.and_then(|conf| conf.task_default_queue.as_deref()) else {
            continue;
        };
        defaults
            .entry((&worker.prefix, queue))
            .or_default()
            .push(&worker.node);
    }
    // Where routes are written, or nobody told, they may take every task there is.
    let routed = workers.iter().any(|worker| {
        let Some(conf) = worker.conf.seen() else {
            return true;
        };
        let routes = conf.task_routes.as_deref();
        conf.has_other_routers || routes.is_none_or(|routes| !routes.is_empty())
    });
    defaults
        .into_iter()
        .filter(|((prefix, queue), _)| {
            let mut here = workers.iter().filter(|worker| worker.prefix == *prefix);
            !here.any(|worker| worker.consumes(queue))
        })
        .map(|((_, queue), nodes)| {
            let consumed: BTreeSet<&str> = workers
                .iter()
                .filter_map(|worker| worker.queues.seen())
                .flatten()
                .map(|queue| queue.name.as_str())
                .collect();
            let mut finding = Finding::of(
                &DEFAULT_QUEUE_UNCONSUMED,
                format!(
                    "no live worker consumes {queue}, to which {} would send a task without a route",
                    plain::names(&nodes)
                ),
            )
            .evidence("queue", queue)
            .evidence("consumed_queues", consumed.into_iter().collect::<Vec<&str>>())
            .evidence("workers", nodes)
            .confirm(evidence.inspect("active_queues"))
            .remedy("start a worker on this queue, or set task_default_queue to a queue that is consumed")
            .mend(worker(queue))
            .subject("queue", queue);
            if routed {
                finding.severity = Severity::Info;
            }
            finding
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::Route;
    use crate::diagnose::testkit::{Lab, names};

    #[test]
    fn workers_that_leave_the_default_queue_out_are_found() {
        let lab = Lab::new().worker("w1", &["mail"]);
        let found = lab.check(&DEFAULT_QUEUE_UNCONSUMED, "");
        assert_eq!(names(&found), ["default-queue-unconsumed"]);
        assert_eq!(found[0].subject["queue"], "celery");
    }

    #[test]
    fn one_worker_of_any_app_is_enough() {
        let lab = Lab::new().worker("w1", &["mail"]).worker("w2", &["celery"]);
        assert!(lab.check(&DEFAULT_QUEUE_UNCONSUMED, "").is_empty());
        let own = Lab::new().worker("w1", &["mail"]).with_worker(|worker| {
            let conf = worker.conf.seen_mut().expect("seen");
            conf.task_default_queue = Some("mail".to_owned());
        });
        assert!(own.check(&DEFAULT_QUEUE_UNCONSUMED, "").is_empty());
        assert!(Lab::new().check(&DEFAULT_QUEUE_UNCONSUMED, "").is_empty());
    }

    #[test]
    fn where_routes_are_written_it_is_no_warning() {
        let route = Route {
            pattern: "*".to_owned(),
            queue: Some("mail".to_owned()),
            exchange: None,
            routing_key: None,
        };
        let lab = Lab::new().worker("w1", &["mail"]).with_worker(|worker| {
            worker.conf.seen_mut().expect("seen").task_routes = Some(vec![route]);
        });
        let found = lab.check(&DEFAULT_QUEUE_UNCONSUMED, "");
        assert_eq!(found[0].severity, Severity::Info);
    }

    #[test]
    fn nothing_is_said_of_a_default_queue_that_was_not_told() {
        let lab = Lab::new().worker("w1", &["mail"]).with_worker(|worker| {
            worker.conf.seen_mut().expect("seen").task_default_queue = None;
        });
        assert!(lab.check(&DEFAULT_QUEUE_UNCONSUMED, "").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent() {
        let lab = Lab::new().worker("w1", &["mail"]).silent("w2");
        assert!(lab.check(&DEFAULT_QUEUE_UNCONSUMED, "").is_empty());
    }
}
