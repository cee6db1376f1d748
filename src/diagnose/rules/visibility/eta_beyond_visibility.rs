//! CD302: an ETA that lies further off than the visibility timeout.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static ETA_BEYOND_VISIBILITY: Rule = Rule {
    code: "CD302",
    name: "eta-beyond-visibility",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The task waits for an ETA or countdown that lies further off than the visibility timeout. Its \
                  message is put back and delivered again each time the timeout passes, and may run more than once \
                  when the ETA comes.",
        cause: "A worker takes a task with an ETA at once and keeps it in memory, unacknowledged, until the time has \
                come. On Redis an unacknowledged message is restored once the visibility timeout (one hour unless \
                set) has passed since its delivery, although its worker is well; another worker then takes it too.",
        read: "The ETA of the message, the time of its delivery in `unacked_index`, and the visibility timeout: what \
               you gave, else the shortest of the live workers. Nothing is said where neither is known.",
        confirm: "Run `celery -A APP inspect scheduled`: after a timeout the same id stands there on two workers, or \
                  twice. The log of the workers says `received` with this id once an hour.",
        mend: "Raise visibility_timeout in broker_transport_options of every worker above the longest ETA and \
               restart them. Copies that exist already are not taken back; see that the task may run twice.",
        prevent: "Keep ETAs and countdowns short, and let a periodic task (beat) send what is due from a table of \
                  your own. Or set visibility_timeout above the longest ETA, in every process of the database.",
        references: &[
            "kombu issue 337",
            "celery issue 5935",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[Source::Queues, Source::Unacked, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let now = case.evidence.taken_at;
    let held = case.held().into_iter().filter_map(|held| {
        let left = held.envelope.eta?.seconds_until(now);
        // Seconds from the delivery to the ETA. Without an index entry nothing restores it.
        let wait = left + (case.now() - held.delivered_at?);
        Some((held.envelope, held.store(), left, wait))
    });
    let queued = case.queued().into_iter().filter_map(|copy| {
        let left = copy.envelope.eta?.seconds_until(now);
        let store = case.evidence.store_of(copy.list?);
        Some((copy.envelope, store, left, left))
    });
    let found = held
        .chain(queued)
        .find_map(|(envelope, store, left, wait)| {
            let visibility = case.evidence.visibility_told(store)?;
            // One that expires before its ETA never runs at all: that is another finding.
            let expires = envelope.expires.zip(envelope.eta);
            let runs = expires.is_none_or(|(expires, eta)| expires >= eta);
            (runs && left > 0.0 && wait > visibility.seconds)
                .then_some((envelope, visibility, left))
        });
    let Some((envelope, visibility, left)) = found else {
        return Vec::new();
    };
    let when = if left.is_finite() {
        format!("in {}", plain::duration(left))
    } else {
        "never".to_owned()
    };
    let eta = envelope.eta.map(|eta| eta.to_string());
    vec![
        Finding::of(
            &ETA_BEYOND_VISIBILITY,
            format!(
                "its ETA comes {when}, and the visibility timeout is {}: until then it is delivered again and again",
                plain::duration(visibility.seconds)
            ),
        )
        .evidence("eta", eta)
        .evidence("visibility_timeout_seconds", visibility.seconds)
        .evidence("visibility_timeout_source", visibility.source)
        .confirm(case.evidence.inspect("scheduled"))
        .remedy(
            "set visibility_timeout in broker_transport_options of every worker above the longest ETA and restart \
             them",
        )
        .subject("task", case.name().unwrap_or("unknown"))
        .task(case.id),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::message::Envelope;
    use crate::celery::when::When;
    use crate::diagnose::testkit::{Lab, NOW, envelope, names};

    fn due(seconds: f64) -> Envelope {
        Envelope {
            eta: When::from_epoch(NOW + seconds),
            ..envelope("t1")
        }
    }

    fn held(eta: f64, age: f64) -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .unacked_as(due(eta), Some(NOW - age))
    }

    #[test]
    fn an_eta_beyond_the_timeout_is_found() {
        for lab in [
            held(7200.0, 1.0),
            held(1800.0, 3000.0),
            held(1e300, 1.0),
            Lab::new()
                .worker("w1", &["celery"])
                .queued_as("celery", due(7200.0)),
        ] {
            let found = lab.check(&ETA_BEYOND_VISIBILITY, "t1");
            assert_eq!(names(&found), ["eta-beyond-visibility"]);
        }
    }

    #[test]
    fn an_eta_within_the_timeout_or_past_is_clear() {
        for lab in [held(1800.0, 600.0), held(-10.0, 4000.0)] {
            assert!(lab.check(&ETA_BEYOND_VISIBILITY, "t1").is_empty());
        }
    }

    #[test]
    fn an_eta_under_a_long_timeout_is_clear() {
        let lab = held(7200.0, 1.0).with_worker(|w| {
            let stats = w.stats.seen_mut().expect("seen");
            stats.transport.visibility_timeout = Some(43_200.0);
        });
        assert!(lab.check(&ETA_BEYOND_VISIBILITY, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_nobody_told_the_timeout() {
        let lab = Lab::new().silent("w1").queued_as("celery", due(7200.0));
        assert!(lab.check(&ETA_BEYOND_VISIBILITY, "t1").is_empty());
    }
}
