//! Deployments in which nothing is wrong: no rule may warn of any of them. A false alarm is worse than a silence.

use crate::celery::control::{ClaimState, TaskTraits};
use crate::celery::message::Envelope;
use crate::celery::when::When;
use crate::diagnose::testkit::{Lab, NOW, TASK, envelope};
use crate::diagnose::{Severity, judge, registry};
use crate::evidence::{Reason, Source};

/// What is a warning or worse about `t1`, or about the deployment.
fn alarms(lab: &Lab) -> Vec<String> {
    let diagnosis = judge(&lab.evidence, &["t1".to_owned()]);
    let of_tasks = diagnosis
        .traces
        .into_iter()
        .flat_map(|trace| trace.findings);
    of_tasks
        .chain(diagnosis.findings)
        .filter(|finding| finding.severity > Severity::Info)
        .map(|finding| format!("{}: {}", finding.code, finding.message))
        .collect()
}

fn calm(lab: &Lab) {
    assert_eq!(alarms(lab), Vec::<String>::new());
}

/// A worker on Celery's defaults, except that its tasks may be acknowledged late.
fn worker(acks_late: bool, visibility_timeout: Option<f64>) -> Lab {
    Lab::new().worker("w1", &["celery"]).with_worker(|w| {
        let stats = w.stats.seen_mut().expect("seen");
        stats.pool = Some("celery.concurrency.prefork:TaskPool".to_owned());
        stats.transport.visibility_timeout = visibility_timeout;
        let traits = TaskTraits {
            acks_late: Some(acks_late),
            ..TaskTraits::default()
        };
        let registered = w.registered.seen_mut().expect("seen");
        registered.insert(TASK.to_owned(), traits);
    })
}

fn started(mut lab: Lab, ago: f64, acknowledged: bool) -> Lab {
    lab = lab.claimed("t1", "w1", ClaimState::Active);
    let claim = &mut lab.task("t1").claims[0].claim;
    claim.time_start = Some(NOW - ago);
    claim.acknowledged = Some(acknowledged);
    for claim in lab.workers_mut().answered[0]
        .active
        .seen_mut()
        .expect("seen")
    {
        claim.time_start = Some(NOW - ago);
        claim.acknowledged = Some(acknowledged);
    }
    lab
}

#[test]
fn a_message_that_waits_behind_others() {
    calm(&worker(false, None).queued("t1", "celery"));
}

#[test]
fn a_day_long_run_that_was_acknowledged_at_its_start() {
    calm(&started(worker(false, None), 86_400.0, true));
}

#[test]
fn a_late_acknowledging_run_within_the_visibility_timeout() {
    let lab = worker(true, None).unacked("t1", 3000.0);
    calm(&started(lab, 2900.0, false));
}

#[test]
fn a_late_acknowledging_run_of_minutes_under_a_long_visibility_timeout() {
    let lab = worker(true, Some(43_200.0)).unacked("t1", 3000.0);
    calm(&started(lab, 2900.0, false));
}

#[test]
fn a_task_that_waits_for_its_eta_with_expires_after_it() {
    let message = Envelope {
        eta: When::from_epoch(NOW + 1800.0),
        expires: When::from_epoch(NOW + 3600.0),
        ..envelope("t1")
    };
    let lab = worker(false, None)
        .unacked_as(message, Some(NOW - 600.0))
        .claimed("t1", "w1", ClaimState::Scheduled);
    calm(&lab);
}

#[test]
fn a_prefetched_task() {
    let lab = worker(true, None)
        .unacked("t1", 600.0)
        .claimed("t1", "w1", ClaimState::Reserved);
    calm(&lab);
}

#[test]
fn a_task_that_has_ended() {
    calm(&worker(false, None).result("t1", "SUCCESS"));
}

#[test]
fn an_unread_place_is_no_fault_of_the_deployment() {
    let sources = [
        Source::Bindings,
        Source::Queues,
        Source::Unacked,
        Source::Workers,
    ];
    // What could not be read has findings of its own, in the family of the reading; no other may come of it.
    let about_the_reading = |code: &str| code.starts_with("CD8");
    for source in sources {
        let lab = worker(true, None).queued("t1", "celery");
        let lab = lab.unread(source, Reason::Refused);
        for rule in registry::ALL.iter().filter(|r| !about_the_reading(r.code)) {
            let found = lab.check(rule, "t1");
            let bad = found.iter().any(|f| f.severity > Severity::Info);
            assert!(!bad, "{} fires without {}", rule.code, source.name());
        }
    }
}
