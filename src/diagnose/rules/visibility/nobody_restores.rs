//! CD308: unacknowledged messages, and no live worker to restore them.

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
    let mut prefixes: Vec<&str> = case.held().iter().map(|held| held.prefix).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
        .into_iter()
        .filter(|prefix| case.evidence.nobody_sweeps(prefix))
        .map(|prefix| {
            let key = format!("{prefix}unacked");
            let held = case
                .evidence
                .reservations_of(prefix)
                .map_or(1, |entry| entry.unacked.max(1));
            let place = if case.evidence.answered().is_empty() {
                "consumes this database".to_owned()
            } else {
                format!("consumes a queue {}", plain::under(prefix))
            };
            Finding::of(
                &NOBODY_RESTORES,
                format!(
                    "{key} holds {}, this one among them, and no live worker {place}: nothing restores them",
                    plain::count(held, "message"),
                ),
            )
            .evidence("unacked", held)
            .evidence("key_prefix", prefix)
            .confirm(
                case.evidence
                    .redis_cli(&format!("HLEN {}", plain::key(&key))),
            )
            .confirm("celery -A APP status")
            .remedy(
                "start a worker on this database: it restores the message once the visibility timeout has passed",
            )
            .task(case.id)
        })
        .collect()
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
