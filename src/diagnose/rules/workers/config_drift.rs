//! CD706: workers of one queue run with settings that differ where it matters.

use std::collections::{BTreeMap, BTreeSet};

use crate::celery::exchange::{DEFAULT_SEP, DEFAULT_STEPS};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Source, Worker};

/// The rule.
pub static CONFIG_DRIFT: Rule = Rule {
    code: "CD706",
    name: "config-drift",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Workers that consume one queue differ in a setting that decides what becomes of a message. Which of \
                  them takes it is chance, so that the same task is treated in one way or the other.",
        cause: "A deployment that reached only some machines, or two apps on one queue.",
        read: "What live workers of the queue say of accept_content, result_backend and its key prefix, priority_steps \
               and sep; and of acks_late and reject_on_worker_lost of the tasks that several of them know. The kind of \
               result backend is compared, not its address.",
        confirm: "Run `celery -A APP inspect --timeout 3 conf true` and `celery -A APP inspect --timeout 3 registered \
                  acks_late reject_on_worker_lost`, and compare.",
        mend: "Deploy the same code and settings to all workers of the queue, and restart those that lag behind.",
        prevent: "Keep the settings of one app in one place, and give each app queues of its own.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/configuration.html"],
    },
    needs: &[Source::Workers],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let mut queues: BTreeMap<(&str, &str), Vec<&Worker>> = BTreeMap::new();
    for worker in evidence.answered() {
        for queue in worker.queues.seen().into_iter().flatten() {
            queues
                .entry((&worker.prefix, &queue.name))
                .or_default()
                .push(worker);
        }
    }
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut findings = Vec::new();
    for ((_, queue), workers) in queues {
        let differing = differing(&workers);
        // The same workers on several queues differ in the same way on each.
        let nodes: Vec<&str> = workers.iter().map(|worker| worker.node.as_str()).collect();
        if differing.is_empty() || !told.insert(format!("{nodes:?}{differing:?}")) {
            continue;
        }
        let named: Vec<&String> = differing.keys().collect();
        findings.push(
            Finding::of(
                &CONFIG_DRIFT,
                format!(
                    "workers of queue {queue} differ in {}",
                    plain::names(&named)
                ),
            )
            .evidence("queue", queue)
            .evidence("settings", serde_json::json!(differing))
            .confirm(evidence.inspect("conf true"))
            .remedy(
                "deploy the same code and settings to all workers of the queue, and restart them",
            )
            .subject("queue", queue),
        );
    }
    findings
}

/// The settings that differ: for each, the values, and who has them.
fn differing(workers: &[&Worker]) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut settings: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for worker in workers {
        for (setting, value) in settings_of(worker) {
            let values = settings.entry(setting).or_default();
            values.entry(value).or_default().push(worker.node.clone());
        }
    }
    settings.retain(|_, values| values.len() > 1);
    settings
}

/// What decides about messages, in one form whatever way it is set. What a worker did not tell is left out.
fn settings_of(worker: &Worker) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut set = |name: &str, value: String| settings.push((name.to_owned(), value));
    if let Some(conf) = worker.conf.seen() {
        if let Some(mut accepted) = conf.accept_content.clone() {
            accepted.sort();
            set("accept_content", accepted.join(", "));
        }
        if let Some(backend) = &conf.result_backend {
            // The same servers, with and without TLS.
            set("result_backend", backend.replace("rediss", "redis"));
        }
        match conf.result_key_prefix.as_deref() {
            Some("") => set("global_keyprefix of results", "none".to_owned()),
            Some(prefix) => set("global_keyprefix of results", prefix.to_owned()),
            None => {}
        }
    }
    if let Some(stats) = worker.stats.seen() {
        let steps = stats.transport.priority_steps.as_deref();
        set(
            "priority_steps",
            format!("{:?}", steps.unwrap_or(DEFAULT_STEPS)),
        );
        let sep = stats.transport.sep.as_deref();
        set("sep", plain::key(sep.unwrap_or(DEFAULT_SEP)));
    }
    for (task, traits) in worker.registered.seen().into_iter().flatten() {
        if task.starts_with("celery.") {
            continue;
        }
        let flags = [
            ("acks_late", traits.acks_late),
            ("reject_on_worker_lost", traits.reject_on_worker_lost),
        ];
        for (name, flag) in flags {
            let told = flag.unwrap_or(false);
            set(&format!("{name} of {task}"), told.to_string());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, TASK, names};

    fn two(change: impl FnOnce(&mut Worker)) -> Lab {
        Lab::new()
            .worker("w1", &["celery", "mail"])
            .worker("w2", &["celery", "mail"])
            .with_worker(change)
    }

    #[test]
    fn a_difference_is_found_once_for_all_queues() {
        let lab = two(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.get_mut(TASK).expect("known").acks_late = Some(true);
        });
        let found = lab.check(&CONFIG_DRIFT, "");
        assert_eq!(names(&found), ["config-drift"]);
        assert!(found[0].message.contains(TASK), "{}", found[0].message);
    }

    #[test]
    fn differences_that_decide_nothing_are_clear() {
        let lab = two(|worker| {
            worker.stats.seen_mut().expect("seen").concurrency = Some(32);
            let conf = worker.conf.seen_mut().expect("seen");
            conf.worker_prefetch_multiplier = Some(1);
            // What is set to its default is the same.
            conf.accept_content = Some(vec!["json".to_owned()]);
            let transport = &mut worker.stats.seen_mut().expect("seen").transport;
            transport.priority_steps = Some(DEFAULT_STEPS.to_vec());
            transport.sep = Some(DEFAULT_SEP.to_owned());
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.insert(
                "shop.only_here".to_owned(),
                crate::celery::control::TaskTraits::default(),
            );
        });
        assert!(lab.check(&CONFIG_DRIFT, "").is_empty());
    }

    #[test]
    fn workers_of_different_queues_may_differ() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .worker("w2", &["mail"])
            .with_worker(|worker| {
                let conf = worker.conf.seen_mut().expect("seen");
                conf.accept_content = Some(vec!["pickle".to_owned()]);
            });
        assert!(lab.check(&CONFIG_DRIFT, "").is_empty());
    }
}
