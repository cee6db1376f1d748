//! CD301: a reservation outlived the visibility timeout and was not restored.

use crate::diagnose::view::{DEFAULT_SWEEP_PERIOD, Store, Visibility};
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static VISIBILITY_EXPIRED: Rule = Rule {
    code: "CD301",
    name: "visibility-expired",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The message was delivered longer ago than the visibility timeout, was never acknowledged, and \
                  should be back in its queue by now. It is not: whatever should restore it does not work.",
        cause: "On Redis a message whose worker died stays in `unacked`. Live workers look there about every 100 \
                seconds (unacked_restore_interval times unacked_restore_throttle, settable since kombu 5.7) and put \
                back what is older than the visibility timeout. They do not where no worker is up, where the lock \
                `unacked_mutex` never goes away, or where the workers hang.",
        read: "The time of delivery in `unacked_index`, the clock of the Redis server, and the visibility timeout: \
               what you gave, else the shortest of the live workers, else kombu's 3600 s where no worker is left to \
               ask. Where a worker may sweep, two of its sweeps are waited for before anything is said, and more where \
               unacked_restore_limit lets each restore only some.",
        confirm: "Run `redis-cli ZSCORE unacked_index TAG` and compare it with `redis-cli TIME`. Run `redis-cli TTL \
                  unacked_mutex`: -1 is a lock that never goes away.",
        mend: "Start a worker on this database, or restart the ones that hang; it sweeps within some minutes. If the \
               lock has no TTL, delete it: `redis-cli DEL unacked_mutex`.",
        prevent: "Watch that workers are up. Use kombu 4.6.9 or newer. Let workers stop in peace (SIGTERM, and \
                  worker_soft_shutdown_timeout since Celery 5.5), so that they put back what they hold.",
        references: &[
            "kombu issue 1190",
            "celery issue 4984",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[Source::Unacked, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.held()
        .into_iter()
        .filter_map(|held| {
            let age = case.now() - held.delivered_at?;
            let (visibility, patience) = patience(case, held.store())?;
            if age <= visibility.seconds + patience {
                return None;
            }
            let overdue = plain::duration(age - visibility.seconds);
            let finding = Finding::of(
                &VISIBILITY_EXPIRED,
                format!(
                    "it was delivered {} ago, the visibility timeout of {} passed {overdue} ago, and nothing has \
                     restored it",
                    plain::duration(age),
                    plain::duration(visibility.seconds)
                ),
            );
            Some(
                finding
                    .evidence("age_seconds", age)
                    .evidence("visibility_timeout_seconds", visibility.seconds)
                    .evidence("visibility_timeout_source", visibility.source)
                    .evidence("delivery_tag", held.tag)
                    .confirm(case.evidence.redis_cli("ZSCORE").name(&held.index()).name(held.tag))
                    .confirm(case.evidence.redis_cli("TTL").name(&held.mutex()))
                    .remedy("start a worker on this database, or restart the ones that hang: a live worker restores it")
                    .task(case.id),
            )
        })
        .collect()
}

/// The visibility timeout, and how much longer a restore may take where all is well.
fn patience(case: &Case<'_>, store: Store<'_>) -> Option<(Visibility, f64)> {
    let evidence = case.evidence;
    if evidence.nobody_sweeps(store) {
        return Some((evidence.visibility(store), 0.0));
    }
    // A worker that may be there and told nothing can have any timeout.
    let visibility = evidence.visibility_told(store)?;
    let delay = evidence.restore_delay(store);
    Some((visibility, delay.unwrap_or(2.0 * DEFAULT_SWEEP_PERIOD)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::{Observed, Reason};

    fn found(lab: &Lab) -> bool {
        let findings = lab.check(&VISIBILITY_EXPIRED, "t1");
        assert!(
            names(&findings)
                .iter()
                .all(|name| *name == "visibility-expired")
        );
        !findings.is_empty()
    }

    #[test]
    fn what_no_sweep_restored_is_found() {
        assert!(found(
            &Lab::new().worker("w1", &["celery"]).unacked("t1", 3900.0)
        ));
    }

    #[test]
    fn without_workers_the_timeout_alone_decides() {
        assert!(found(&Lab::new().unacked("t1", 3601.0)));
        assert!(!found(&Lab::new().unacked("t1", 3599.0)));
        let mut lab = Lab::new().unacked("t1", 4.0);
        lab.evidence.visibility_timeout_given = Some(2.0);
        assert!(found(&lab));
    }

    #[test]
    fn a_sweep_that_is_still_to_come_is_waited_for() {
        assert!(!found(
            &Lab::new().worker("w1", &["celery"]).unacked("t1", 3700.0)
        ));
    }

    #[test]
    fn with_a_limit_to_each_sweep_more_of_them_are_waited_for() {
        let lab = |limits: &[Option<u64>]| {
            let mut lab = Lab::new().unacked("t1", 3900.0);
            lab.evidence.reservations.seen_mut().expect("seen")[0].unacked = 30;
            for limit in limits {
                lab = lab.worker("w1", &["celery"]).with_worker(|w| {
                    let stats = w.stats.seen_mut().expect("seen");
                    stats.transport.unacked_restore_limit = *limit;
                });
            }
            lab
        };
        assert!(!found(&lab(&[Some(10)])));
        assert!(found(&lab(&[Some(40)])));
        assert!(found(&lab(&[Some(10), None])));
    }

    #[test]
    fn a_long_run_under_a_long_timeout_is_clear() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| {
                let stats = w.stats.seen_mut().expect("seen");
                stats.transport.visibility_timeout = Some(43_200.0);
            })
            .unacked("t1", 40_000.0)
            .claimed("t1", "w1", ClaimState::Active);
        assert!(!found(&lab));
    }

    #[test]
    fn nothing_is_said_where_nobody_told_the_timeout() {
        assert!(!found(&Lab::new().silent("w1").unacked("t1", 4000.0)));
        let lab = Lab::new().unacked("t1", 4000.0);
        assert!(!found(&lab.unread(Source::Workers, Reason::NotAsked)));
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| w.stats = Observed::not_asked("a test"))
            .unacked("t1", 4000.0);
        assert!(!found(&lab));
    }
}
