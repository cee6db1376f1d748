use crate::celery::canvas::{Role, Step};
use crate::celery::control::ClaimState;
use crate::diagnose::testkit::{Lab, doc_of_state, envelope};
use crate::diagnose::{Trace, Verdict, judge, outcome};
use crate::evidence::{ChordParts, Observed};

fn step(id: &str, role: Role, after: &str) -> Step {
    Step {
        id: id.to_owned(),
        task: Some("shop.later".to_owned()),
        role,
        after: after.to_owned(),
        group: None,
    }
}

/// A deployment in which `a` carries `b` and then `last`.
fn chain(lab: Lab) -> Lab {
    let mut lab = lab.absent("last");
    let steps = vec![step("b", Role::Link, "a"), step("last", Role::Link, "b")];
    lab.evidence.canvases.insert("a".to_owned(), steps);
    lab
}

fn lab() -> Lab {
    Lab::new().worker("w1", &["celery"])
}

fn trace(lab: &Lab, id: &str) -> Trace {
    judge(&lab.evidence, &[id.to_owned()]).traces.remove(0)
}

#[test]
fn a_later_link_waits_for_the_links_before_it() {
    let lab = chain(
        lab()
            .claimed("a", "w1", ClaimState::Active)
            .unacked("a", 5.0),
    );
    let seen = trace(&lab, "last");
    assert_eq!(seen.verdict, Verdict::NotYetSent);
    assert_eq!(outcome::code_of(&seen), 0);
    assert!(
        seen.summary.starts_with(
            "it will be sent when shop.send_mail a and then shop.later b have succeeded, of which the first is \
             running: w1 has been running it"
        ),
        "{}",
        seen.summary
    );
    let next = trace(
        &chain(
            crate::diagnose::later::tests::lab()
                .queued("a", "celery")
                .absent("b"),
        ),
        "b",
    );
    assert_eq!(next.verdict, Verdict::NotYetSent);
    assert!(
        next.summary
            .starts_with("it will be sent when shop.send_mail a has succeeded, which is queued: "),
        "{}",
        next.summary
    );
}

#[test]
fn a_later_link_shares_the_fate_of_the_one_before() {
    let orphaned = chain(lab().unacked("a", 5.0));
    let seen = trace(&orphaned, "last");
    assert_eq!(seen.verdict, Verdict::Stuck);
    assert_eq!(outcome::code_of(&seen), 1);
    assert!(
        seen.summary.contains("shop.send_mail a, which is stuck: "),
        "{}",
        seen.summary
    );
    assert!(
        seen.findings
            .iter()
            .any(|f| f.name == "orphaned-reservation")
    );
    let mut unknown = envelope("a");
    unknown.task = Some("shop.gone".to_owned());
    let doomed = chain(lab().queued_as("celery", unknown));
    assert_eq!(trace(&doomed, "last").verdict, Verdict::Doomed);
    let silent = chain(lab().silent("w2").unacked("a", 5.0));
    let seen = trace(&silent, "last");
    assert_eq!(
        (seen.verdict, outcome::code_of(&seen)),
        (Verdict::Undetermined, 3)
    );
}

#[test]
fn what_was_sent_is_judged_by_itself() {
    let lab = || lab().queued("a", "celery");
    assert_eq!(
        trace(&chain(lab().queued("last", "celery")), "last").verdict,
        Verdict::Queued
    );
    assert_eq!(
        trace(&chain(lab().result("last", "SUCCESS")), "last").verdict,
        Verdict::Finished
    );
    let mut ended = chain(crate::diagnose::later::tests::lab().result("a", "FAILURE"));
    assert_eq!(trace(&ended, "last").verdict, Verdict::Unknown);
    ended.evidence.canvases.clear();
    assert_eq!(trace(&ended, "last").verdict, Verdict::Unknown);
}

#[test]
fn a_task_that_replaced_itself_goes_on_as_its_last_step() {
    let running = || lab().claimed("a", "w1", ClaimState::Active);
    let by_result = chain(running().unacked("a", 5.0).result("last", "STARTED"));
    let seen = trace(&by_result, "last");
    assert_eq!(seen.verdict, Verdict::Running);
    assert!(
        seen.findings
            .iter()
            .all(|f| f.name != "vanished-while-running")
    );
    let mut replaced = envelope("a");
    replaced.parent_id = Some("last".to_owned());
    let by_parent = chain(running().unacked_as(replaced, Some(0.0)));
    assert_eq!(trace(&by_parent, "last").verdict, Verdict::Running);
}

#[test]
fn the_body_of_a_chord_waits_for_every_part() {
    let chord = |mut lab: Lab, parts: &[&str]| {
        for part in parts {
            let steps = vec![step("body", Role::Body, "g")];
            lab.evidence.canvases.insert((*part).to_owned(), steps);
            lab.task(part).chord = Observed::Seen(Some(ChordParts {
                group_id: "g".to_owned(),
                size: Some(3),
                joined: 1,
                members: vec![("done".to_owned(), "SUCCESS".to_owned())],
            }));
        }
        lab.absent("body")
    };
    let both = || {
        lab()
            .queued("p1", "celery")
            .claimed("p2", "w1", ClaimState::Active)
            .unacked("p2", 5.0)
    };
    let seen = trace(&chord(both(), &["p1", "p2"]), "body");
    assert_eq!(seen.verdict, Verdict::NotYetSent);
    assert!(
        seen.summary
            .contains("every part of its header has succeeded (1 of 3 have so far)"),
        "{}",
        seen.summary
    );
    let one_stuck = both().unacked("p3", 5.0);
    assert_eq!(
        trace(&chord(one_stuck, &["p1", "p2", "p3"]), "body").verdict,
        Verdict::Stuck
    );
}

#[test]
fn an_errback_waits_for_a_failure() {
    let mut lab = lab().queued("a", "celery").absent("b");
    lab.evidence
        .canvases
        .insert("a".to_owned(), vec![step("b", Role::Errback, "a")]);
    let seen = trace(&lab, "b");
    assert_eq!(seen.verdict, Verdict::NotYetSent);
    assert!(
        seen.summary
            .starts_with("it will be sent if shop.send_mail a fails"),
        "{}",
        seen.summary
    );
}

#[test]
fn a_group_is_its_tasks() {
    let part = |id: &str| {
        let mut part = envelope(id);
        part.group = Some("g".to_owned());
        part
    };
    let mut doc = doc_of_state("SUCCESS");
    doc.group_id = Some("g".to_owned());
    let lab = || {
        lab()
            .queued_as("celery", part("p1"))
            .result_as("p2", doc.clone())
            .absent("g")
    };
    let seen = trace(&lab(), "g");
    assert_eq!(seen.verdict, Verdict::Queued);
    assert!(
        seen.summary.contains("1 finished, 1 queued"),
        "{}",
        seen.summary
    );
    let mut later = crate::diagnose::later::tests::lab()
        .result_as("p2", doc.clone())
        .queued("a", "celery")
        .absent("g");
    assert_eq!(trace(&later, "g").verdict, Verdict::Undetermined);
    let mut inner = step("body", Role::Body, "inner");
    inner.group = Some("g".to_owned());
    later.evidence.canvases.insert("a".to_owned(), vec![inner]);
    assert_eq!(trace(&later, "g").verdict, Verdict::NotYetSent);
    let stuck = lab().unacked_as(part("p3"), Some(0.0));
    assert_eq!(trace(&stuck, "g").verdict, Verdict::Stuck);
}
