//! CD307: times of workers lie ahead of the server's clock.

use crate::diagnose::command::Command;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Place, Source, UnackedNames};

/// How far ahead a time may lie before it counts, in seconds: NTP keeps machines well within it.
const TOLERANCE: f64 = 5.0;

/// The rule.
pub static CLOCK_SKEW: Rule = Rule {
    code: "CD307",
    name: "clock-skew",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "A worker wrote a time that lies ahead of the Redis server's clock. The clocks of the machines \
                  differ, so that messages are restored too early or too late, and ETA and expires are off.",
        cause: "The time of a delivery in `unacked_index` is the clock of the worker that took the message, and the \
                sweep compares it with the clock of the worker that sweeps. With a sweeper that is ahead, messages \
                are restored early and run twice; with one behind, late.",
        read: "The times of delivery in `unacked_index` and the times at which workers say that tasks began, held \
               against the Redis server's clock. What the reading itself took is allowed for. Clocks that are behind \
               do not show.",
        confirm: "Run `redis-cli TIME` and, on each worker's machine, `date +%s`, at the same moment.",
        mend: "Set the clock of the machine right (chronyc makestep, or timedatectl set-ntp true).",
        prevent: "Run NTP on every machine, the one of Redis too, and watch it.",
        references: &[
            "kombu 5.7 transport/redis.py, QoS.append and restore_visible",
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#enable-utc",
        ],
    },
    needs: &[Source::Server, Source::Unacked, Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let index = evidence
        .reservations
        .seen()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry.newest?, delivery(&entry.prefix, &entry.names))));
    let held = evidence.tasks.values().flat_map(|task| &task.copies);
    let held = held.filter_map(|copy| match &copy.place {
        Place::Unacked {
            prefix,
            names,
            delivered_at,
            ..
        } => Some(((*delivered_at)?, delivery(prefix, names))),
        _ => None,
    });
    let claims = evidence.tasks.values().flat_map(|task| &task.claims);
    let traced = claims.map(|holder| (&holder.claim, &holder.node));
    let active = evidence.answered().iter().flat_map(|worker| {
        let claims = worker.active.seen().into_iter().flatten();
        claims.map(move |claim| (claim, &worker.node))
    });
    let started = traced
        .chain(active)
        .filter_map(|(claim, node)| Some((claim.time_start?, format!("a start on {node}"))));
    let latest = index
        .chain(held)
        .chain(started)
        .filter(|(time, _)| time.is_finite())
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    let Some((time, what)) = latest else {
        return Vec::new();
    };
    let ahead = time - evidence.now();
    if ahead <= TOLERANCE + reading_took(evidence) {
        return Vec::new();
    }
    vec![
        Finding::of(
            &CLOCK_SKEW,
            format!(
                "{what} lies {} ahead of the Redis server's clock",
                plain::duration(ahead)
            ),
        )
        .evidence("ahead_seconds", ahead)
        .evidence("time", time)
        .evidence("what", what)
        .confirm(evidence.redis_cli("TIME"))
        .confirm(Command::of("date +%s"))
        .remedy("set the clocks of the workers' machines and of the Redis server right, and keep them so with NTP"),
    ]
}

fn delivery(prefix: &str, names: &UnackedNames) -> String {
    format!("a delivery in {prefix}{}", names.index)
}

/// Seconds that the reading took. The evidence's moment is one of it, and a worker that is well goes on meanwhile.
fn reading_took(evidence: &Evidence) -> f64 {
    let millis = evidence.reads.iter().map(|read| read.elapsed_ms);
    let millis = millis.fold(0_u64, u64::saturating_add);
    std::time::Duration::from_millis(millis).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::diagnose::testkit::{Lab, NOW, names};
    use crate::evidence::Reason;

    #[test]
    fn a_delivery_or_a_start_in_the_future_is_found() {
        let mut started =
            Lab::new()
                .worker("w1", &["celery"])
                .claimed("t1", "w1", ClaimState::Active);
        started.task("t1").claims[0].claim.time_start = Some(NOW + 60.0);
        for lab in [Lab::new().unacked("t1", -60.0), started] {
            assert_eq!(names(&lab.check(&CLOCK_SKEW, "")), ["clock-skew"]);
        }
    }

    #[test]
    fn a_delivery_just_now_is_clear() {
        for ago in [10.0, -2.0] {
            assert!(
                Lab::new()
                    .unacked("t1", ago)
                    .check(&CLOCK_SKEW, "")
                    .is_empty()
            );
        }
    }

    #[test]
    fn what_was_delivered_while_a_long_queue_was_read_is_clear() {
        let mut lab = Lab::new().unacked("t1", -20.0);
        lab.evidence.reads[2].elapsed_ms = 30_000;
        assert!(lab.check(&CLOCK_SKEW, "").is_empty());
    }

    #[test]
    fn nothing_is_said_where_no_time_was_read() {
        let lab = Lab::new().unread(Source::Unacked, Reason::Refused);
        assert!(lab.check(&CLOCK_SKEW, "").is_empty());
    }
}
