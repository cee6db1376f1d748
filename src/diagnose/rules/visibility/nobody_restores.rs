//! CD308: unacknowledged messages, and no live worker to restore them.

use crate::diagnose::view::{Held, Store};
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static NOBODY_RESTORES: Rule = Rule {
    code: "CD308",
    name: "nobody-restores",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The message was delivered and not acknowledged, and no worker is there that could run it or put it \
                  back. It stays hidden for as long as no worker starts.",
        cause: "The worker that took the message was killed (SIGKILL, out of memory, power, a container removed) \
                before it acknowledged it. Only live workers that consume a queue of the same database and key \
                prefix look for such messages.",
        read: "The message in `unacked`, the workers' answers, the number of connections that listen for remote \
               control, and where CLIENT LIST may be read, that none waits for messages. A silent worker counts as \
               alive.",
        confirm: "Run `redis-cli HLEN unacked`, and `celery -A APP status`: no node is online.",
        mend: "Start a worker on this database, on any queue. It puts the message back once the visibility timeout \
               (one hour unless set) has passed since the delivery, within some two minutes.",
        prevent: "Watch that workers are up. Let them stop in peace: SIGTERM and time, and worker_soft_shutdown_timeout \
                  since Celery 5.5, so that they give back what they hold. Keep visibility_timeout as short as your \
                  longest task allows.",
        references: &[
            "celery issue 4984",
            "celery issue 4354",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[Source::Unacked, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut stores: Vec<Held<'_>> = case.held();
    stores.sort_by_key(Held::hash);
    stores.dedup_by_key(|held| held.hash());
    stores
        .into_iter()
        .filter(|held| case.evidence.nobody_sweeps(held.store()))
        .map(|one| {
            let (key, prefix) = (one.hash(), one.prefix);
            let held = case
                .evidence
                .reservations_of(one.store())
                .map_or(1, |entry| entry.unacked.max(1));
            let place = if case.evidence.answered().is_empty() {
                "consumes this database".to_owned()
            } else if namesakes(case, prefix) {
                "uses that key".to_owned()
            } else {
                format!("consumes a queue {}", plain::under(prefix))
            };
            Finding::of(
                &NOBODY_RESTORES,
                format!(
                    "{key} holds {}, and no live worker {place}: nothing restores what is not acknowledged",
                    plain::count(held, "message"),
                ),
            )
            .evidence("unacked", held)
            .evidence("key_prefix", prefix)
            .confirm(case.evidence.redis_cli("HLEN").name(&key))
            .confirm(case.evidence.inspect("ping"))
            .remedy(if namesakes(case, prefix) {
                format!(
                    "start a worker whose transport options name these keys: unacked_key {}, unacked_index_key {}, \
                     unacked_mutex_key {}",
                    one.names.hash, one.names.index, one.names.mutex
                )
            } else if case.evidence.answered().is_empty() {
                "start a worker on this database: it restores the message once the visibility timeout has passed"
                    .to_owned()
            } else {
                format!(
                    "start a worker {} (global_keyprefix): it restores the message once the visibility timeout has passed",
                    plain::under(prefix)
                )
            })
            .task(case.id)
        })
        .collect()
}

/// Whether live workers consume queues under a key prefix, with other names for what they keep there.
fn namesakes(case: &Case<'_>, prefix: &str) -> bool {
    let anywhere = Store {
        prefix,
        names: None,
    };
    case.evidence.sweep_period(anywhere).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    #[test]
    fn a_reservation_without_any_worker_is_found() {
        let lab = Lab::new().unacked("t1", 10.0);
        assert_eq!(
            names(&lab.check(&NOBODY_RESTORES, "t1")),
            ["nobody-restores"]
        );
    }

    #[test]
    fn workers_of_another_key_prefix_restore_nothing_here() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| w.prefix = "shop_".to_owned())
            .unacked("t1", 10.0);
        assert_eq!(
            names(&lab.check(&NOBODY_RESTORES, "t1")),
            ["nobody-restores"]
        );
    }

    #[test]
    fn workers_that_keep_theirs_under_other_names_restore_nothing_here() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| {
                let stats = w.stats.seen_mut().expect("seen");
                stats.transport.unacked_index_key = Some("shop_index".to_owned());
            })
            .unacked("t1", 10.0);
        let found = lab.check(&NOBODY_RESTORES, "t1");
        assert_eq!(names(&found), ["nobody-restores"]);
        assert!(
            found[0].message.contains(
                "no live worker uses that key: nothing restores what is not acknowledged"
            )
        );
    }

    #[test]
    fn a_worker_of_any_queue_restores() {
        let lab = Lab::new().worker("w1", &["mail"]).unacked("t1", 10.0);
        assert!(lab.check(&NOBODY_RESTORES, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent_or_unasked() {
        let lab = Lab::new().silent("w1").unacked("t1", 10.0);
        assert!(lab.check(&NOBODY_RESTORES, "t1").is_empty());
        let lab = Lab::new().unacked("t1", 10.0);
        let lab = lab.unread(Source::Workers, Reason::NotAsked);
        assert!(lab.check(&NOBODY_RESTORES, "t1").is_empty());
    }
}
