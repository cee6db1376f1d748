//! CD507: a chord waits for this task, and this task can no longer report to it.

use crate::diagnose::view::{Fate, Holder, stored};
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{ChordParts, Evidence, Source};

/// For how many seconds after the end of one part others of the same header may still be on their way into a queue.
const STILL_SENDING: f64 = 2.0;
/// For how many seconds a chord may wait before an audit mentions it.
const SLOW: f64 = 60.0;

/// The rule.
pub static CHORD_STUCK: Rule = Rule {
    code: "CD507",
    name: "chord-stuck",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The task belongs to the header of a chord. The chord's body is sent when every task of the header \
                  has reported its end, and this one never will. The body does not run, and nothing says so: its \
                  result stays PENDING. A part that did report tells of it too, once nothing is in flight any more \
                  that could report for the others. Or all have reported, and the worker that was to send the body \
                  died before it did.",
        cause: "In Redis each header task adds its part to the list `.j` when it has ended, and the one that makes the \
                parts as many as the size in `.s` sends the body. A task that fails or is revoked reports too, and the \
                body then fails with ChordError. But a task that was lost reports nothing, nor does one that a worker \
                threw away as not registered or could not decode, nor one whose worker died between storing the \
                result and reporting it. The worker of the last part sends the body and takes the counters away after \
                that; if it is killed in between, nobody else does either.",
        read: "The chord's parts and its size in the result backend, the result of this task before the broker was \
               read and after it, the queues, the hash `unacked`, and the word of every live worker. A task without a \
               stored result counts in a chord on Redis all the same, so ignore_result is no reason.",
        confirm: "In the result backend's database compare `redis-cli GET celery-taskset-meta-GROUP.s` with \
                  `redis-cli ZCARD celery-taskset-meta-GROUP.j`. Run it twice: the count does not grow.",
        mend: "Where all parts are in, look for the body in the workers' logs first: it may have been sent in the last \
               moment. Send the whole chord again. Or revoke the parts that are left and send the body by hand, with the \
               results of the header tasks.",
        prevent: "Set acks_late and reject_on_worker_lost on header tasks that can run twice without harm. Make sure \
                  that every worker of the queue knows them. Keep result_expires longer than the longest chord takes, \
                  because the parts expire with it; Celery 5.7 has chord_expires for that.",
        references: &[
            "celery issues 2952, 3363, 4207, 6220, 8786",
            "https://docs.celeryq.dev/en/stable/userguide/canvas.html#chord-important-notes",
        ],
    },
    needs: &[
        Source::Queues,
        Source::Unacked,
        Source::Workers,
        Source::Results,
    ],
    check: Check::Both(check, of_others),
};

/// Chords that wait, where nothing knows a traced id, which may be that of their bodies.
fn of_others(evidence: &Evidence) -> Vec<Finding> {
    let members = evidence.of_waiting_chords.iter();
    let cases = members.filter_map(|id| Case::of(evidence, id));
    cases
        .flat_map(|case| check(&case))
        .filter(|finding| finding.severity == Severity::Error)
        .map(|mut finding| {
            finding.message = format!(
                "{}; nothing tells the id of its body: it may be one that was asked for",
                finding.message
            );
            finding
        })
        .collect()
}

fn check(case: &Case<'_>) -> Vec<Finding> {
    let Some(chord) = case.task.chord.seen().and_then(Option::as_ref) else {
        return Vec::new();
    };
    let Some(size) = chord.size.filter(|size| chord.joined <= *size) else {
        return Vec::new();
    };
    let why = if chord.joined == size {
        // The counters are taken away when the body has been sent.
        others_are_gone(case, chord).then(|| {
            "has all its parts, and nobody took its counters away as the worker that sends its body does"
                .to_owned()
        })
    } else if waits_for(chord, case.id) {
        cannot_report(case)
            .map(|why| format!("waits for {} {}, which {why}", case.called(), case.id))
    } else {
        others_are_gone(case, chord)
            .then(|| "waits for parts of which no message and no worker is left".to_owned())
    };
    let Some(why) = why else {
        return slow(case, chord, size).into_iter().collect();
    };
    let first = if chord.joined == size {
        "see in the workers' logs that its body did not run; "
    } else {
        ""
    };
    let group = &chord.group_id;
    let message = format!(
        "the chord of group {group} {why}: {} of {size} parts are in",
        chord.joined
    );
    vec![
        Finding::of(&CHORD_STUCK, message)
            .evidence("group", group.as_str())
            .evidence("size", size)
            .evidence("joined", chord.joined)
            .confirm((case.evidence).results_cli_of("GET", &format!("celery-taskset-meta-{group}.s")))
            .confirm((case.evidence).results_cli_of("ZCARD", &format!("celery-taskset-meta-{group}.j")))
            .remedy(format!(
                "{first}send the whole chord again; or send its body by hand with the results of the header"
            ))
            .subject("group", group.as_str())
            .task(case.id),
    ]
}

/// In an audit: a chord that has been waiting for a while, where something in flight may still report to it. Whether it
/// does can't be told.
fn slow(case: &Case<'_>, chord: &ChordParts, size: u64) -> Option<Finding> {
    let census = case.evidence.census.as_ref()?;
    let since = case.final_result()?.doc.date_done?;
    let waited = -since.seconds_until(case.evidence.taken_at);
    if !census.by_result.contains(case.id) || waited < SLOW || !case.is_nowhere() {
        return None;
    }
    let group = &chord.group_id;
    let message = format!(
        "the chord of group {group} has {} of {size} parts, one of which came in {} ago; whether tasks in flight are the \
         others can't be told",
        chord.joined,
        plain::duration(waited)
    );
    let mut finding = Finding::of(&CHORD_STUCK, message)
        .evidence("group", group.as_str())
        .evidence("size", size)
        .evidence("joined", chord.joined)
        .remedy("look for the tasks of its header that have not ended")
        .subject("group", group.as_str())
        .task(case.id);
    finding.severity = Severity::Info;
    Some(finding)
}

/// Whether a chord has no part of this task yet.
fn waits_for(chord: &ChordParts, id: &str) -> bool {
    // Only where every part could be read is it certain that this task's is not among them.
    let all_read = chord.members.len() as u64 == chord.joined;
    all_read && !chord.members.iter().any(|(member, _)| member == id)
}

/// Whether this task reported a while ago, and nothing is in flight that could report for the other parts.
fn others_are_gone(case: &Case<'_>, chord: &ChordParts) -> bool {
    let reported = chord.members.iter().any(|(member, _)| member == case.id);
    reported && ended_long_ago(case) && case.is_nowhere() && case.evidence.nothing_in_flight()
}

/// Whether it ended so long ago that what follows its result would be there too.
fn ended_long_ago(case: &Case<'_>) -> bool {
    case.final_result()
        .and_then(|result| result.doc.date_done)
        .is_some_and(|done| -done.seconds_until(case.evidence.taken_at) > STILL_SENDING)
}

/// Why this task will never report to its chord; none where it may (Celery 5.7 backends/base.py: `mark_as_done`,
/// `mark_as_failure` and `mark_as_revoked` all call `on_chord_part_return`, whether the result is stored or not;
/// worker/consumer/consumer.py: `on_unknown_task` calls it for no chord, `on_decode_error` not at all).
fn cannot_report(case: &Case<'_>) -> Option<String> {
    // Final before the broker was read: the report follows the result at once, on a busy machine a little later.
    if let Some(result) = stored(&case.task.first_result).filter(|result| result.doc.ready) {
        let same = case.final_result()?.doc.state == result.doc.state;
        if !case.is_nowhere() || !same {
            return None;
        }
        return Some(match result.doc.exc_type.as_deref() {
            Some("NotRegistered") => {
                "was thrown away as not registered, and such a task does not report".to_owned()
            }
            _ if !ended_long_ago(case) => return None,
            _ => format!("ended with {} and did not report it", result.doc.state),
        });
    }
    if case.is_nowhere() {
        let result = case.unfinished_result()?;
        return Some(format!("is lost in state {}", result.doc.state));
    }
    let in_hand = !case.task.claims.is_empty();
    if in_hand || case.final_result().is_some() || case.task.copies.is_empty() {
        return None;
    }
    let (queued, held) = (case.queued(), case.held());
    // Without a copy it may be where nobody looked: a place was not read whole.
    let copies = queued.len() + held.len();
    if copies == 0 || copies < case.task.copies.len() {
        return None;
    }
    let thrown_away = |fate: Fate| matches!(fate, Fate::NotRegistered | Fate::ContentRefused);
    let queued_in_vain = queued.iter().all(|copy| thrown_away(case.fate(copy)));
    // Without an entry in the index no worker ever restores it.
    let held_for_ever = held
        .iter()
        .all(|held| held.delivered_at.is_none() && case.holder(held) == Holder::Nobody);
    match (queued_in_vain && held_for_ever, queued.is_empty()) {
        (true, false) => Some("will be thrown away by the workers of its queue".to_owned()),
        (true, true) => Some("nobody holds and nobody will restore".to_owned()),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::ClaimState;
    use crate::celery::result::ResultDoc;
    use crate::celery::when::When;
    use crate::diagnose::testkit::{Lab, NOW, doc_of_state, envelope, names};
    use crate::evidence::{Observed, Reason};

    /// Makes the traced task part of a chord of three, of which one part is in.
    fn in_chord(mut lab: Lab) -> Lab {
        lab.task("t1").chord = Observed::Seen(Some(ChordParts {
            group_id: "g1".to_owned(),
            size: Some(3),
            joined: 1,
            members: vec![("t0".to_owned(), "SUCCESS".to_owned())],
        }));
        lab
    }

    fn lab() -> Lab {
        Lab::new().worker("w1", &["celery"])
    }

    fn chord(lab: &mut Lab) -> &mut ChordParts {
        lab.task("t1")
            .chord
            .seen_mut()
            .expect("seen")
            .as_mut()
            .expect("a chord")
    }

    #[test]
    fn a_lost_part_is_found() {
        let lab = in_chord(lab().result("t1", "STARTED"));
        let findings = lab.check(&CHORD_STUCK, "t1");
        assert_eq!(names(&findings), ["chord-stuck"]);
        assert!(
            findings[0]
                .message
                .ends_with("which is lost in state STARTED: 1 of 3 parts are in")
        );
    }

    #[test]
    fn a_discarded_part_is_found() {
        let doc = ResultDoc {
            exc_type: Some("NotRegistered".to_owned()),
            ..doc_of_state("FAILURE")
        };
        let discarded = in_chord(lab().result_as("t1", doc));
        assert_eq!(discarded.check(&CHORD_STUCK, "t1").len(), 1);
        let mut unknown = envelope("t1");
        unknown.task = Some("shop.unknown".to_owned());
        let doomed = in_chord(lab().queued_as("celery", unknown));
        assert_eq!(doomed.check(&CHORD_STUCK, "t1").len(), 1);
    }

    #[test]
    fn a_part_that_is_never_restored_is_found() {
        let lab = in_chord(lab().unacked_as(envelope("t1"), None));
        assert_eq!(lab.check(&CHORD_STUCK, "t1").len(), 1);
    }

    #[test]
    fn a_part_on_its_way_is_clear() {
        let running = in_chord(lab().result("t1", "STARTED").claimed(
            "t1",
            "w1",
            ClaimState::Active,
        ));
        assert!(running.check(&CHORD_STUCK, "t1").is_empty());
        assert!(
            in_chord(lab().queued("t1", "celery"))
                .check(&CHORD_STUCK, "t1")
                .is_empty()
        );
        let to_be_restored = in_chord(lab().unacked("t1", 60.0));
        assert!(to_be_restored.check(&CHORD_STUCK, "t1").is_empty());
    }

    #[test]
    fn a_part_that_reported_is_clear_even_after_a_failure() {
        for state in ["SUCCESS", "FAILURE", "REVOKED"] {
            let mut lab = in_chord(lab().result("t1", state));
            let parts = chord(&mut lab);
            parts.joined = 2;
            parts.members.push(("t1".to_owned(), state.to_owned()));
            assert!(lab.check(&CHORD_STUCK, "t1").is_empty(), "{state}");
        }
    }

    #[test]
    fn parts_that_are_gone_are_found_from_one_that_reported() {
        let doc = ResultDoc {
            date_done: When::from_epoch(NOW - 60.0),
            ..doc_of_state("SUCCESS")
        };
        let reported = |lab: Lab| {
            let mut lab = in_chord(lab.result_as("t1", doc.clone()));
            chord(&mut lab).members = vec![("t1".to_owned(), "SUCCESS".to_owned())];
            lab
        };
        let findings = reported(lab()).check(&CHORD_STUCK, "t1");
        assert_eq!(names(&findings), ["chord-stuck"]);
        assert!(
            findings[0]
                .message
                .ends_with("of which no message and no worker is left: 1 of 3 parts are in")
        );
        for under_way in [
            lab().queued("t2", "celery"),
            lab().unacked("t2", 9.0),
            lab().claimed("t2", "w1", ClaimState::Active),
            lab().silent("w2"),
        ] {
            assert!(reported(under_way).check(&CHORD_STUCK, "t1").is_empty());
        }
    }

    #[test]
    fn a_chord_whose_body_nobody_sends_is_found() {
        let complete = |seconds: f64, lab: Lab| {
            let doc = ResultDoc {
                date_done: When::from_epoch(NOW - seconds),
                ..doc_of_state("SUCCESS")
            };
            let mut lab = in_chord(lab.result_as("t1", doc));
            let parts = chord(&mut lab);
            parts.size = Some(1);
            parts.members = vec![("t1".to_owned(), "SUCCESS".to_owned())];
            lab
        };
        let findings = complete(60.0, lab()).check(&CHORD_STUCK, "t1");
        assert_eq!(names(&findings), ["chord-stuck"]);
        assert!(
            findings[0]
                .message
                .ends_with("as the worker that sends its body does: 1 of 1 parts are in")
        );
        // The worker of the last part has it until the body is sent.
        for at_it in [
            complete(0.5, lab()),
            complete(60.0, lab().claimed("t2", "w1", ClaimState::Active)),
            complete(60.0, lab().unacked("t2", 9.0)),
        ] {
            assert!(at_it.check(&CHORD_STUCK, "t1").is_empty());
        }
    }

    #[test]
    fn a_part_that_ended_a_moment_ago_may_still_report() {
        let ended = |seconds: f64| {
            let doc = ResultDoc {
                date_done: When::from_epoch(NOW - seconds),
                ..doc_of_state("SUCCESS")
            };
            in_chord(lab().result_as("t1", doc))
        };
        assert!(ended(0.5).check(&CHORD_STUCK, "t1").is_empty());
        assert_eq!(ended(60.0).check(&CHORD_STUCK, "t1").len(), 1);
    }

    #[test]
    fn a_part_that_ends_while_we_look_is_clear() {
        let mut lab = in_chord(lab().result("t1", "SUCCESS"));
        lab.task("t1").first_result = Observed::Seen(None);
        assert!(lab.check(&CHORD_STUCK, "t1").is_empty());
    }

    #[test]
    fn a_complete_chord_and_a_plain_group_are_clear() {
        let mut complete = in_chord(lab().result("t1", "STARTED"));
        chord(&mut complete).size = Some(1);
        assert!(complete.check(&CHORD_STUCK, "t1").is_empty());
        let mut group = in_chord(lab().result("t1", "STARTED"));
        chord(&mut group).size = None;
        assert!(group.check(&CHORD_STUCK, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_a_place_was_not_read_whole() {
        let lab = || in_chord(lab().result("t1", "STARTED"));
        assert!(lab().silent("w2").check(&CHORD_STUCK, "t1").is_empty());
        for source in CHORD_STUCK.needs {
            let part = lab().unread(*source, Reason::Refused);
            assert!(part.check(&CHORD_STUCK, "t1").is_empty(), "{source:?}");
        }
        let mut unread_part = lab();
        chord(&mut unread_part).joined = 2;
        assert!(unread_part.check(&CHORD_STUCK, "t1").is_empty());
    }
}
