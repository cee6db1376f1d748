//! CD310: a reservation that a mere look with kombu's defaults would run twice.

use crate::diagnose::view::DEFAULT_VISIBILITY_TIMEOUT;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static FOREIGN_SWEEP: Rule = Rule {
    code: "CD310",
    name: "foreign-sweep",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The message has been unacknowledged for more than one hour. The workers' visibility timeout is \
                  longer, so they leave it alone; a kombu client without that setting does not. `celery status`, \
                  `celery inspect`, Flower or a script that waits for replies can put it back, and it runs twice.",
        cause: "A kombu client that waits for replies on Redis and finds nothing to read for a second sweeps \
                `unacked` as a worker does, with its own visibility timeout. Without the app's \
                broker_transport_options that is kombu's default of one hour.",
        read: "The time of delivery in `unacked_index`, and the visibility timeout that you gave or that the live \
               workers told. This tool does not use kombu and sweeps nothing.",
        confirm: "Look at how Flower, beat and scripts are started: do they load the app (`-A APP`) whose \
                  broker_transport_options hold visibility_timeout? Do not confirm it with `celery inspect`.",
        mend: "Until the task has ended, do not run `celery status` or `celery inspect` without the app's settings, \
               and stop Flower if it lacks them.",
        prevent: "Give every client of the broker the same broker_transport_options as the workers: `-A APP` for the \
                  command line, Flower and beat, and the setting itself in every process that sends.",
        references: &[
            "kombu 5.7 transport/redis.py, MultiChannelPoller.get and maybe_restore_messages",
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
            let visibility = case.evidence.visibility_told(held.store())?;
            // Beyond its own timeout the workers themselves restore it, and other rules say so.
            if age <= DEFAULT_VISIBILITY_TIMEOUT || age > visibility.seconds {
                return None;
            }
            Some(
                Finding::of(
                    &FOREIGN_SWEEP,
                    format!(
                        "it has been unacknowledged for {}; the workers leave it alone for {}, but any kombu client \
                         without their visibility_timeout (celery status, Flower) runs it twice",
                        plain::duration(age),
                        plain::duration(visibility.seconds)
                    ),
                )
                .evidence("age_seconds", age)
                .evidence("visibility_timeout_seconds", visibility.seconds)
                .evidence("visibility_timeout_source", visibility.source)
                .evidence("kombu_default_seconds", DEFAULT_VISIBILITY_TIMEOUT)
                .remedy(
                    "give every kombu client of this database the workers' broker_transport_options, and run no \
                     `celery status` or `celery inspect` without them until the task has ended",
                )
                .subject("task", case.name().unwrap_or("unknown"))
                .task(case.id),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    fn under(timeout: Option<f64>, age: f64) -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| {
                let stats = w.stats.seen_mut().expect("seen");
                stats.transport.visibility_timeout = timeout;
            })
            .unacked("t1", age)
    }

    #[test]
    fn an_old_reservation_under_a_long_timeout_is_found() {
        let lab = under(Some(43_200.0), 4000.0);
        assert_eq!(names(&lab.check(&FOREIGN_SWEEP, "t1")), ["foreign-sweep"]);
    }

    #[test]
    fn a_younger_one_and_one_beyond_the_timeout_are_clear() {
        for lab in [under(Some(43_200.0), 3500.0), under(None, 4000.0)] {
            assert!(lab.check(&FOREIGN_SWEEP, "t1").is_empty());
        }
    }

    #[test]
    fn nothing_is_said_where_nobody_told_the_timeout() {
        let lab = Lab::new().silent("w1").unacked("t1", 4000.0);
        assert!(lab.check(&FOREIGN_SWEEP, "t1").is_empty());
        let lab = under(Some(43_200.0), 4000.0).unread(Source::Workers, Reason::NotAsked);
        assert!(lab.check(&FOREIGN_SWEEP, "t1").is_empty());
    }
}
