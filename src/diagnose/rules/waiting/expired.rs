//! CD201: a message whose `expires` keeps it from being run.

use crate::celery::message::Envelope;
use crate::diagnose::view::Holder;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static EXPIRED: Rule = Rule {
    code: "CD201",
    name: "expired",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The task was sent with `expires`, and that time has passed, or lies before its ETA. A worker will \
                  drop it instead of running it, and store the state REVOKED.",
        cause: "A worker compares `expires` with its own clock when it takes the message, and again before it runs \
                the task. A queue with a backlog, workers that were down, or a retry with a long countdown let the \
                time pass. A task whose ETA lies after its `expires` can never run.",
        read: "The `expires` and `eta` of the message, the time of the Redis server, and what workers say they run. \
               A task that runs already is not touched by its `expires`, and nothing is said of it.",
        confirm: "Look in the workers' logs for `Discarding revoked task` with this id, or at its result: REVOKED \
                  with TaskRevokedError('expired').",
        mend: "Send the task again with a later `expires`, or with none. The message that waits cannot be changed.",
        prevent: "Give `expires` room for the longest backlog that you accept, and more workers to the queue. Where \
                  a task has both an ETA and `expires`, set `expires` after the ETA.",
        references: &[
            "Celery 5.7 worker/request.py, Request.maybe_expire",
            "https://docs.celeryq.dev/en/stable/userguide/calling.html#expiration",
            "celery issue 4287",
        ],
    },
    needs: &[Source::Queues, Source::Unacked, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    if let Some(result) = case.dropped_for("expired") {
        let message = format!(
            "{} {} never ran: its expires had passed when a worker took it, which dropped it",
            case.called(),
            case.id
        );
        let finding = Finding::of(&EXPIRED, message)
            .evidence("state", result.doc.state.as_str())
            .date_done(result)
            .look(format!("look for {} in the workers' logs", case.id))
            .remedy("send it again with a later expires, or with none")
            .subject("task", case.name().unwrap_or("unknown"))
            .task(case.id);
        return vec![finding];
    }
    // A run under way goes on, and a final result stands: what becomes of another copy matters to nobody.
    if case.is_running() || case.final_result().is_some() {
        return Vec::new();
    }
    let queued = case.queued().into_iter().map(|copy| {
        let queue = copy.list.map_or(copy.key, |list| list.queue.as_str());
        (copy.envelope, format!("it waits in queue {queue}"))
    });
    let held = case.held().into_iter().filter_map(|held| {
        let place = match case.holder(&held) {
            Holder::Claimed if case.expires_in_worker() => holders(case),
            Holder::MaybeRateLimited(_) | Holder::RateLimitedOrNobody(..) | Holder::Nobody => {
                "it is unacknowledged".to_owned()
            }
            Holder::Claimed | Holder::Undecided(_) => return None,
        };
        Some((held.envelope, place))
    });
    let doomed = queued
        .chain(held)
        .find_map(|(envelope, place)| Some((envelope, message(case, envelope, &place)?)));
    let Some((envelope, message)) = doomed else {
        return Vec::new();
    };
    let mut finding = Finding::of(&EXPIRED, message);
    if let Some(expires) = envelope.expires {
        finding = finding.evidence("expires", expires.to_string());
    }
    if let Some(eta) = envelope.eta {
        finding = finding.evidence("eta", eta.to_string());
    }
    vec![
        finding
            .evidence("now", case.evidence.taken_at.to_string())
            .look(format!("look for {} in the workers' logs", case.id))
            .remedy("send it again with a later expires, or with none")
            .subject("task", case.name().unwrap_or("unknown"))
            .task(case.id),
    ]
}

fn message(case: &Case<'_>, envelope: &Envelope, place: &str) -> Option<String> {
    let expires = envelope.expires?;
    if case.expired(envelope) {
        let ago = plain::duration(expires.seconds_until(case.evidence.taken_at));
        return Some(format!(
            "{place}, and its expires passed {ago} ago: a worker will drop it instead of running it"
        ));
    }
    let eta = envelope.eta.filter(|eta| *eta > expires)?;
    Some(format!(
        "{place}, and its ETA {eta} lies after its expires {expires}: it will have expired before it may run"
    ))
}

fn holders(case: &Case<'_>) -> String {
    let claims = &case.task.claims;
    let nodes: Vec<&str> = claims.iter().map(|claim| claim.node.as_str()).collect();
    format!("it is held by {}", plain::names(&nodes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::celery::result::ResultDoc;
    use crate::celery::when::When;
    use crate::diagnose::testkit::doc_of_state;
    use crate::diagnose::testkit::{Lab, NOW, envelope, names};
    use crate::diagnose::{Verdict, judge};

    fn sent(expires: Option<f64>, eta: Option<f64>) -> Envelope {
        Envelope {
            expires: expires.and_then(|at| When::from_epoch(NOW + at)),
            eta: eta.and_then(|at| When::from_epoch(NOW + at)),
            ..envelope("t1")
        }
    }

    fn queued(expires: Option<f64>, eta: Option<f64>) -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .queued_as("celery", sent(expires, eta))
    }

    fn held(state: ClaimState, pool: &str) -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| w.stats.seen_mut().expect("seen").pool = Some(pool.to_owned()))
            .unacked_as(sent(Some(-5.0), None), Some(NOW - 60.0))
            .claimed("t1", "w1", state)
    }

    #[test]
    fn a_passed_expires_and_one_before_the_eta_are_found() {
        for lab in [
            queued(Some(-5.0), None),
            queued(Some(60.0), Some(120.0)),
            held(ClaimState::Reserved, "celery.concurrency.prefork:TaskPool"),
            held(ClaimState::Scheduled, "celery.concurrency.gevent:TaskPool"),
        ] {
            assert_eq!(names(&lab.check(&EXPIRED, "t1")), ["expired"]);
        }
    }

    #[test]
    fn what_will_have_expired_at_its_eta_is_doomed_wherever_it_waits() {
        let sent = || sent(Some(60.0), Some(120.0));
        let held = || {
            Lab::new()
                .worker("w1", &["celery"])
                .unacked_as(sent(), Some(NOW - 60.0))
        };
        for lab in [
            queued(Some(60.0), Some(120.0)),
            held().claimed("t1", "w1", ClaimState::Scheduled),
            held(),
        ] {
            let trace = &judge(&lab.evidence, &["t1".to_owned()]).traces[0];
            assert_eq!(trace.verdict, Verdict::Doomed, "{}", trace.summary);
            assert!(
                trace.summary.contains("lies before its ETA"),
                "{}",
                trace.summary
            );
        }
    }

    #[test]
    fn time_that_is_left_is_clear() {
        for lab in [
            queued(Some(60.0), None),
            queued(None, Some(60.0)),
            queued(Some(120.0), Some(60.0)),
        ] {
            assert!(lab.check(&EXPIRED, "t1").is_empty());
        }
    }

    #[test]
    fn what_runs_or_has_been_handed_to_a_pool_does_not_expire() {
        for lab in [
            held(ClaimState::Active, "celery.concurrency.prefork:TaskPool"),
            held(ClaimState::Reserved, "celery.concurrency.gevent:TaskPool"),
            queued(Some(-5.0), None).result("t1", "SUCCESS"),
        ] {
            assert!(lab.check(&EXPIRED, "t1").is_empty());
        }
    }

    #[test]
    fn nothing_is_said_of_what_a_silent_worker_may_run() {
        let lab = Lab::new()
            .silent("w1")
            .unacked_as(sent(Some(-5.0), None), Some(NOW - 60.0));
        assert!(lab.check(&EXPIRED, "t1").is_empty());
    }

    #[test]
    fn one_that_was_dropped_for_it_never_ran() {
        let revoked = |why: &str| {
            let doc = ResultDoc {
                revoked_for: Some(why.to_owned()),
                exc_type: Some("TaskRevokedError".to_owned()),
                ..doc_of_state("REVOKED")
            };
            Lab::new().worker("w1", &["celery"]).result_as("t1", doc)
        };
        let lab = revoked("expired");
        assert_eq!(names(&lab.check(&EXPIRED, "t1")), ["expired"]);
        let trace = &judge(&lab.evidence, &["t1".to_owned()]).traces[0];
        assert_eq!(trace.verdict, Verdict::Finished);
        assert!(trace.summary.contains("it never ran"), "{}", trace.summary);
        assert!(revoked("revoked").check(&EXPIRED, "t1").is_empty());
    }
}
