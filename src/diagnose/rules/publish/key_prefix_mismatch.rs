//! CD105: messages wait under a key prefix that no worker uses.

use std::collections::BTreeSet;

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static KEY_PREFIX_MISMATCH: Rule = Rule {
    code: "CD105",
    name: "key-prefix-mismatch",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The message waits under a global_keyprefix that no live worker uses, while live workers of the same \
                  database use another one, or none. No worker sees it, whatever its queue is called.",
        cause: "The transport option global_keyprefix is put before every key. A sender that has it and a worker that \
                does not (or the reverse) look at different lists of the same database, and neither gets an error. \
                Or the prefix is meant, belongs to another app, and that app's workers are down.",
        read: "The keys of the database, with what stands before the names that kombu gives, and the prefixes under \
               which live workers answered. Nothing is said while a worker stays silent.",
        confirm: "Run `redis-cli --scan --pattern '*_kombu.binding.*'`: what stands before `_kombu` are the prefixes \
                  in use. Run `celery -A APP inspect stats` and look at broker.transport_options.",
        mend: "If sender and workers are one app, give both the same global_keyprefix in broker_transport_options; \
               to drain what waits, run a worker with the sender's prefix for a while. If the prefix is another \
               app's, start that app's workers.",
        prevent: "Let senders and workers take broker_transport_options from the same module.",
        references: &[
            "kombu issue 1494",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#global-keyprefix",
        ],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let used: BTreeSet<&str> = case
        .evidence
        .answered()
        .iter()
        .map(|worker| worker.prefix.as_str())
        .collect();
    let used: Vec<String> = used.into_iter().map(plain::under).collect();
    case.queued()
        .into_iter()
        .filter_map(|copy| Some((copy, copy.list?)))
        .filter(|(_, list)| case.evidence.is_foreign_prefix(&list.prefix))
        .map(|(copy, list)| {
            let here = plain::under(&list.prefix);
            let queue = &list.queue;
            Finding::of(
                &KEY_PREFIX_MISMATCH,
                format!(
                    "queue {queue} {here} holds {}, and no live worker works {here}; live workers work {}",
                    plain::count(list.length, "message"),
                    plain::names(&used)
                ),
            )
            .evidence("queue", queue.as_str())
            .evidence("key_prefix", list.prefix.as_str())
            .evidence("messages", list.length)
            .evidence("position", copy.position)
            .evidence("workers", used.clone())
            .confirm(case.evidence.redis_cli("LLEN").name(&list.key))
            .confirm(case.evidence.inspect("stats"))
            .remedy(
                "give senders and workers the same global_keyprefix in broker_transport_options; if the prefix is \
                 another app's, start that app's workers",
            )
            .subject("queue", queue.as_str())
            .task(case.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::registry;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    fn under(prefix: &str) -> Lab {
        let mut lab = Lab::new().worker("w1", &["celery"]).queued("t1", "celery");
        let lists = lab.evidence.lists.seen_mut().expect("seen");
        prefix.clone_into(&mut lists[0].prefix);
        lab
    }

    #[test]
    fn messages_under_a_prefix_of_no_worker_are_found_once() {
        let lab = under("shop_");
        assert_eq!(
            names(&lab.check(&KEY_PREFIX_MISMATCH, "t1")),
            ["key-prefix-mismatch"]
        );
        let other = registry::find("no-consumer").expect("a rule");
        assert!(lab.check(other, "t1").is_empty());
    }

    #[test]
    fn the_workers_own_prefix_is_clear() {
        assert!(under("").check(&KEY_PREFIX_MISMATCH, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_no_worker_answers() {
        let mut lab = under("shop_");
        lab.workers_mut().answered.clear();
        assert!(lab.check(&KEY_PREFIX_MISMATCH, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent_or_unasked() {
        let lab = under("shop_").silent("w2");
        assert!(lab.check(&KEY_PREFIX_MISMATCH, "t1").is_empty());
        let lab = under("shop_").unread(Source::Workers, Reason::NotAsked);
        assert!(lab.check(&KEY_PREFIX_MISMATCH, "t1").is_empty());
    }
}
