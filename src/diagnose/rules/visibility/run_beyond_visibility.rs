//! CD303: a late acknowledging task that runs for longer than the visibility timeout.

use crate::celery::control::ClaimState;
use crate::diagnose::view::Visibility;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Source, WorkerClaim};

/// The rule.
pub static RUN_BEYOND_VISIBILITY: Rule = Rule {
    code: "CD303",
    name: "run-beyond-visibility",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "A worker runs the task, its message is not acknowledged, and the visibility timeout has passed. \
                  The message is put back, or is about to be, and a second run starts beside the first.",
        cause: "With acks_late a message is acknowledged when its task has ended. Redis knows no connection that \
                holds a message, so kombu restores every one that is unacknowledged for longer than the visibility \
                timeout (one hour unless set), although its worker is well. The time counts from the delivery: what \
                the message waited in the worker is part of it.",
        read: "Since when a worker says it runs the task, whether its message is in `unacked` and since when, or \
               stands in a queue marked as redelivered, and the visibility timeout: what you gave, else the shortest \
               of the live workers.",
        confirm: "Run `celery -A APP inspect active`: time_start is longer ago than the timeout. The workers' logs \
                  say `received` with this id again after each timeout.",
        mend: "Raise visibility_timeout in broker_transport_options of every worker above the longest run, and \
               restart them when the task has ended. Revoking the id drops the second copy, and the first run \
               goes on.",
        prevent: "Keep visibility_timeout above the longest run plus the longest wait in a worker, and bound runs with \
                  task_time_limit. Split long tasks. Set worker_prefetch_multiplier to 1 for them.",
        references: &[
            "kombu issue 337",
            "celery issue 2481",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[Source::Queues, Source::Unacked, Source::Workers],
    check: Check::Task(check),
};

/// What shows that the first message of a run is, or was, left unacknowledged for too long.
struct Overdue {
    visibility: Visibility,
    since: f64,
    second: &'static str,
}

fn check(case: &Case<'_>) -> Vec<Finding> {
    let runs = case.claims(ClaimState::Active);
    let late = runs
        .into_iter()
        // What was acknowledged at the start is out of reach of the visibility timeout.
        .filter(|holder| holder.claim.acknowledged != Some(true));
    late.filter_map(|holder| Some((holder, overdue(case, holder)?)))
        .map(|(holder, overdue)| {
            Finding::of(
                &RUN_BEYOND_VISIBILITY,
                format!(
                    "it runs on {}, unacknowledged for {} under a visibility timeout of {}: {}",
                    holder.node,
                    plain::duration(overdue.since),
                    plain::duration(overdue.visibility.seconds),
                    overdue.second
                ),
            )
            .evidence("worker", holder.node.as_str())
            .evidence("time_start", holder.claim.time_start)
            .evidence("unacknowledged_seconds", overdue.since)
            .evidence("visibility_timeout_seconds", overdue.visibility.seconds)
            .evidence("visibility_timeout_source", overdue.visibility.source)
            .confirm(case.evidence.inspect("active"))
            .remedy(
                "set visibility_timeout in broker_transport_options of every worker above the longest run and \
                 restart them; see that the task may run twice",
            )
            .subject("task", case.name().unwrap_or("unknown"))
            .subject("worker", holder.node.as_str())
            .task(case.id)
        })
        .collect()
}

fn overdue(case: &Case<'_>, holder: &WorkerClaim) -> Option<Overdue> {
    let running = holder.claim.time_start.map(|start| case.now() - start);
    let held = case.held().into_iter().filter_map(|held| {
        let visibility = case.evidence.visibility_told(held.store())?;
        let age = held.delivered_at.map(|at| case.now() - at);
        let since = age.into_iter().chain(running).reduce(f64::max)?;
        // A delivery after the start of the run is the second one.
        let second = match (age, running) {
            (Some(age), Some(running)) if age + 1.0 < running => {
                "it was restored and delivered again"
            }
            _ => "it is about to be restored, and will run a second time",
        };
        Some(Overdue {
            visibility,
            since,
            second,
        })
    });
    let restored = case.queued().into_iter().filter_map(|copy| {
        let visibility = case
            .evidence
            .visibility_told(case.evidence.store_of(copy.list?))?;
        let since = running?;
        copy.envelope.redelivered.then_some(Overdue {
            visibility,
            since,
            second: "it was restored, and waits for a second run",
        })
    });
    held.chain(restored)
        .find(|overdue| overdue.since > overdue.visibility.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::message::Envelope;
    use crate::diagnose::testkit::{Lab, NOW, envelope, names};
    use crate::evidence::Observed;

    fn running(mut lab: Lab, since: f64, acknowledged: bool) -> Lab {
        lab = lab.claimed("t1", "w1", ClaimState::Active);
        let claim = &mut lab.task("t1").claims[0].claim;
        claim.time_start = Some(NOW - since);
        claim.acknowledged = Some(acknowledged);
        lab
    }

    fn worker() -> Lab {
        Lab::new().worker("w1", &["celery"])
    }

    fn restored() -> Envelope {
        Envelope {
            redelivered: true,
            ..envelope("t1")
        }
    }

    #[test]
    fn an_unacknowledged_run_beyond_the_timeout_is_found() {
        for (lab, second) in [
            (worker().unacked("t1", 3650.0), "about to be restored"),
            (worker().unacked("t1", 40.0), "delivered again"),
            (
                worker().queued_as("celery", restored()),
                "waits for a second run",
            ),
        ] {
            let found = running(lab, 3640.0, false).check(&RUN_BEYOND_VISIBILITY, "t1");
            assert_eq!(names(&found), ["run-beyond-visibility"]);
            assert!(found[0].message.contains(second), "{}", found[0].message);
        }
    }

    #[test]
    fn a_run_within_the_timeout_is_clear() {
        let lab = running(worker().unacked("t1", 3500.0), 3400.0, false);
        assert!(lab.check(&RUN_BEYOND_VISIBILITY, "t1").is_empty());
    }

    #[test]
    fn a_long_run_that_was_acknowledged_at_its_start_is_clear() {
        let lab = running(worker(), 90_000.0, true);
        assert!(lab.check(&RUN_BEYOND_VISIBILITY, "t1").is_empty());
    }

    #[test]
    fn a_long_run_under_a_long_timeout_is_clear() {
        let lab = worker().with_worker(|w| {
            let stats = w.stats.seen_mut().expect("seen");
            stats.transport.visibility_timeout = Some(43_200.0);
        });
        let lab = running(lab.unacked("t1", 20_000.0), 20_000.0, false);
        assert!(lab.check(&RUN_BEYOND_VISIBILITY, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_nobody_told_the_timeout() {
        let lab = worker().with_worker(|w| w.stats = Observed::not_asked("a test"));
        let lab = running(lab.unacked("t1", 9000.0), 9000.0, false);
        assert!(lab.check(&RUN_BEYOND_VISIBILITY, "t1").is_empty());
    }
}
