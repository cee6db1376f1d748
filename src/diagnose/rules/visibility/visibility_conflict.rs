//! CD306: live workers of one database disagree on the visibility timeout.

use std::collections::BTreeMap;

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Source, UnackedNames, Worker};

/// The rule.
pub static VISIBILITY_CONFLICT: Rule = Rule {
    code: "CD306",
    name: "visibility-conflict",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "Workers that share a database (and key prefix) have different visibility timeouts. The shortest \
                  counts for all of them: tasks of the others are put back and run twice earlier than their settings \
                  say.",
        cause: "All workers of a database share one `unacked`, whatever their app and queues, and each restores \
                everything in it that is older than its own timeout. A worker without the setting has one hour. Only \
                the worker's broker_transport_options count: not the sender's, and not the result backend's.",
        read: "broker_transport_options in the stats of every worker that answered and consumes a queue.",
        confirm: "Run `celery -A APP inspect stats` for each app of the database and compare \
                  broker.transport_options.visibility_timeout; no entry means 3600.",
        mend: "Give all of them the longest of the values in broker_transport_options, and restart them.",
        prevent: "Give each app a database or a global_keyprefix of its own.",
        references: &[
            "celery issue 3312",
            "celery issue 9339",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let sweeps = |worker: &&Worker| worker.queues.seen().is_none_or(|queues| !queues.is_empty());
    // Workers that keep what they were given under other names do not sweep each other's.
    let mut by_key: BTreeMap<(&str, String), Vec<(f64, &str)>> = BTreeMap::new();
    for worker in evidence.answered().iter().filter(sweeps) {
        if let (Some(seconds), Some(stats)) = (worker.visibility_timeout(), worker.stats.seen()) {
            let index = UnackedNames::of(&stats.transport).index;
            let told = by_key.entry((&worker.prefix, index)).or_default();
            told.push((seconds, &worker.node));
        }
    }
    by_key
        .into_iter()
        .filter_map(|((prefix, _), mut told)| {
            told.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
            let (shortest, longest) = (told.first()?.0, told.last()?.0);
            // Less than a second is rounding.
            if longest - shortest < 1.0 {
                return None;
            }
            let short: Vec<&str> = told
                .iter()
                .filter(|(seconds, _)| seconds - shortest < 1.0)
                .map(|(_, node)| *node)
                .collect();
            let all: Vec<String> = told
                .iter()
                .map(|(seconds, node)| format!("{node}: {seconds} s"))
                .collect();
            Some(
                Finding::of(
                    &VISIBILITY_CONFLICT,
                    format!(
                        "workers {} have visibility timeouts from {} to {}: the {} of {} counts for all",
                        plain::under(prefix),
                        plain::duration(shortest),
                        plain::duration(longest),
                        plain::duration(shortest),
                        plain::names(&short)
                    ),
                )
                .evidence("key_prefix", prefix)
                .evidence("visibility_timeouts", all)
                .confirm(evidence.inspect("stats"))
                .remedy(format!(
                    "set visibility_timeout to {longest} in broker_transport_options of {}, and restart them",
                    plain::names(&short)
                ))
                .subject("worker", short.first().copied().unwrap_or_default()),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn with_timeout(lab: Lab, node: &str, seconds: Option<f64>) -> Lab {
        lab.worker(node, &["celery"]).with_worker(|w| {
            let stats = w.stats.seen_mut().expect("seen");
            stats.transport.visibility_timeout = seconds;
        })
    }

    #[test]
    fn a_worker_without_the_setting_is_found() {
        let lab = with_timeout(Lab::new(), "w1", Some(43_200.0));
        let lab = with_timeout(lab, "w2", None);
        let found = lab.check(&VISIBILITY_CONFLICT, "");
        assert_eq!(names(&found), ["visibility-conflict"]);
        assert!(
            found[0].message.contains("the 1h of w2 counts"),
            "{}",
            found[0].message
        );
    }

    #[test]
    fn workers_that_agree_are_clear() {
        let lab = with_timeout(Lab::new(), "w1", Some(3600.0));
        let lab = with_timeout(lab, "w2", None);
        assert!(lab.check(&VISIBILITY_CONFLICT, "").is_empty());
    }

    #[test]
    fn another_key_prefix_is_another_world() {
        let lab = with_timeout(Lab::new(), "w1", Some(43_200.0));
        let lab = with_timeout(lab, "w2", None).with_worker(|w| w.prefix = "shop_".to_owned());
        assert!(lab.check(&VISIBILITY_CONFLICT, "").is_empty());
    }

    #[test]
    fn another_index_is_another_world() {
        let lab = with_timeout(Lab::new(), "w1", Some(43_200.0));
        let lab = with_timeout(lab, "w2", None).with_worker(|w| {
            let stats = w.stats.seen_mut().expect("seen");
            stats.transport.unacked_index_key = Some("shop_index".to_owned());
        });
        assert!(lab.check(&VISIBILITY_CONFLICT, "").is_empty());
    }

    #[test]
    fn a_worker_that_does_not_tell_is_not_guessed_at() {
        let lab = with_timeout(Lab::new(), "w1", Some(43_200.0))
            .worker("w2", &["celery"])
            .with_worker(|w| w.stats = Observed::not_asked("a test"));
        assert!(lab.check(&VISIBILITY_CONFLICT, "").is_empty());
    }
}
