//! What the reports look like, over small evidence.

use serde_json::{Value, json};

use super::table::{Style, Verbosity};
use super::{Asked, json, table};
use crate::celery::control::ClaimState;
use crate::celery::exchange::Binding;
use crate::diagnose::testkit::{Lab, doc_of_state, envelope};
use crate::diagnose::{Outcome, judge, outcome};
use crate::evidence::{BindingTable, Evidence, Observed, Place, Reason, Source};

const NORMAL: Verbosity = Verbosity::Normal;

fn table(lab: &Lab, ids: &[&str], width: usize, verbosity: Verbosity) -> String {
    let style = Style {
        width,
        color: false,
        verbosity,
    };
    drawn(&lab.evidence, ids, |evidence, diagnosis, outcome, out| {
        table::trace(evidence, diagnosis, &Asked::default(), outcome, &style, out)
    })
}

fn json(lab: &Lab, ids: &[&str]) -> Value {
    let text = drawn(&lab.evidence, ids, |e, d, o, out| {
        json::trace(e, d, &Asked::default(), o, out)
    });
    serde_json::from_str(&text).expect("it is JSON")
}

fn drawn(
    evidence: &Evidence,
    ids: &[&str],
    draw: impl Fn(
        &Evidence,
        &crate::diagnose::Diagnosis,
        &Outcome,
        &mut dyn std::io::Write,
    ) -> std::io::Result<()>,
) -> String {
    let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    let diagnosis = judge(evidence, &ids);
    let mut out = Vec::new();
    draw(evidence, &diagnosis, &outcome::of(&diagnosis), &mut out).expect("a Vec takes all");
    String::from_utf8(out).expect("text")
}

/// Rules come and go; how many were asked is no matter of how a report looks.
fn snapshot(name: &str, report: &str) {
    insta::with_settings!({filters => vec![(r"(?s)\d+ rules asked: [^.]*\.", "[rules asked]")]}, {
        insta::assert_snapshot!(name, report);
    });
}

/// A worker with the queue `celery`, bound as its worker binds it.
fn lab() -> Lab {
    let mut lab = Lab::new().worker("celery@w1", &["celery"]);
    let binding = Binding {
        routing_key: "celery".to_owned(),
        pattern: String::new(),
        queue: "celery".to_owned(),
    };
    lab.evidence.bindings = Observed::Seen(vec![BindingTable {
        prefix: String::new(),
        exchange: "celery".to_owned(),
        sep: crate::celery::exchange::DEFAULT_SEP.to_owned(),
        bindings: vec![binding],
    }]);
    lab
}

fn healthy() -> Lab {
    lab().queued("t1", "celery")
}

fn stuck() -> Lab {
    lab().queued("t1", "emials")
}

fn unread() -> Lab {
    Lab::new()
        .queued("t1", "celery")
        .unread(Source::Workers, Reason::NotAsked)
}

fn many() -> Lab {
    let lab = lab();
    let lab = (0..4).fold(lab, |lab, n| lab.result(&format!("done-{n}"), "SUCCESS"));
    lab.queued("waiting", "celery")
        .queued("misrouted", "emials")
        .absent("nobody-knows")
        .claimed("running", "celery@w1", ClaimState::Active)
}

const MANY: [&str; 8] = [
    "done-0",
    "done-1",
    "misrouted",
    "done-2",
    "waiting",
    "done-3",
    "nobody-knows",
    "running",
];

#[test]
fn healthy_and_queued() {
    snapshot("healthy-80", &table(&healthy(), &["t1"], 80, NORMAL));
    snapshot("healthy-120", &table(&healthy(), &["t1"], 120, NORMAL));
}

#[test]
fn stuck_without_a_consumer() {
    snapshot("stuck-80", &table(&stuck(), &["t1"], 80, NORMAL));
    snapshot("stuck-120", &table(&stuck(), &["t1"], 120, NORMAL));
}

#[test]
fn unknown_with_its_causes() {
    let lab = lab().absent("t1");
    snapshot("unknown-80", &table(&lab, &["t1"], 80, NORMAL));
    snapshot("unknown-120", &table(&lab, &["t1"], 120, NORMAL));
}

#[test]
fn workers_that_were_not_asked() {
    snapshot("unread-80", &table(&unread(), &["t1"], 80, NORMAL));
}

#[test]
fn many_ids_begin_with_an_overview() {
    snapshot("many-80", &table(&many(), &MANY, 80, NORMAL));
    snapshot("many-120", &table(&many(), &MANY, 120, NORMAL));
}

#[test]
fn several_copies_are_listed() {
    let lab = lab().queued("t1", "celery").unacked("t1", 40.0).claimed(
        "t1",
        "celery@w1",
        ClaimState::Active,
    );
    snapshot(
        "copies-80",
        &table(&lab, &["t1"], 80, Verbosity::Verbose(1)),
    );
}

#[test]
fn quiet_says_nothing_where_all_is_well() {
    assert_eq!(table(&healthy(), &["t1"], 80, Verbosity::Quiet), "");
    let ids = ["done-0", "done-1", "done-2", "done-3", "waiting", "running"];
    assert_eq!(table(&many(), &ids, 80, Verbosity::Quiet), "");
    let trouble = table(&many(), &MANY, 80, Verbosity::Quiet);
    assert!(trouble.contains("misrouted") && !trouble.contains("done-0"));
}

#[test]
fn arguments_are_shown_only_where_they_were_kept() {
    let mut with_args = envelope("t1");
    with_args.args = Some("('secret',)".to_owned());
    let lab = lab().queued_as("celery", with_args);
    assert!(table(&lab, &["t1"], 80, NORMAL).contains("arguments  ('secret',)"));
    assert_eq!(
        json(&lab, &["t1"])["traces"][0]["copies"][0]["args"],
        "('secret',)"
    );
    assert_eq!(
        json(&healthy(), &["t1"])["traces"][0]["copies"][0].get("args"),
        None
    );
}

/// A deployment in which every name is hostile.
fn hostile() -> Lab {
    const EVIL: &str = "\u{1b}]0;x\u{7}\u{1b}[2J\u{202e}\u{9b}31m\u{200b}\n\rq";
    let mut message = envelope("t1");
    message.task = Some(EVIL.to_owned());
    message.origin = Some(EVIL.to_owned());
    message.args = Some(EVIL.to_owned());
    let mut lab = Lab::new()
        .worker(EVIL, &[EVIL, "celery"])
        .silent(EVIL)
        .queued_as(EVIL, message)
        .claimed("t1", EVIL, ClaimState::Reserved)
        .result("t2", EVIL)
        .claimed("t2", EVIL, ClaimState::Active)
        .absent(EVIL);
    for read in &mut lab.evidence.reads {
        EVIL.clone_into(&mut read.detail);
    }
    EVIL.clone_into(&mut lab.evidence.broker.url);
    lab
}

#[test]
fn text_from_outside_does_not_reach_the_terminal() {
    let lab = hostile();
    let ids: Vec<&str> = lab.evidence.tasks.keys().map(String::as_str).collect();
    let more: Vec<&str> = ids.iter().chain(&ids).chain(&ids).copied().collect();
    for verbosity in [Verbosity::Quiet, NORMAL, Verbosity::Verbose(2)] {
        for ids in [&ids, &more] {
            let report = table(&lab, ids, 80, verbosity);
            let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
            assert!(!report.contains(bad), "{report:?}");
            assert!(report.contains("\\x1b"));
        }
    }
    let text = drawn(&lab.evidence, &ids, |e, d, o, out| {
        json::trace(e, d, &Asked::default(), o, out)
    });
    assert!(text.is_ascii());
    assert_eq!(
        json(&lab, &["t1"])["traces"][0]["copies"][0]["worker"],
        Value::Null
    );
}

#[test]
fn everything_fits_the_width_but_commands() {
    for width in [60, 80, 120, 999] {
        for lab in [healthy(), stuck(), unread(), many(), hostile()] {
            let ids: Vec<&str> = lab.evidence.tasks.keys().map(String::as_str).collect();
            for line in table(&lab, &ids, width, Verbosity::Verbose(1)).lines() {
                let columns = unicode_width::UnicodeWidthStr::width(line);
                let command = line.starts_with("    ");
                assert!(columns <= width || command, "{width}: {line}");
            }
        }
    }
}

#[test]
fn the_schema_is_the_published_one() {
    let report = json(&stuck(), &["t1"]);
    let keys = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .map(|object| object.keys().cloned().collect())
            .unwrap_or_default()
    };
    let has = |value: &Value, wanted: &[&str]| {
        for key in wanted {
            assert!(keys(value).iter().any(|k| k == key), "{key} in {value}");
        }
    };
    has(
        &report,
        &[
            "schema",
            "command",
            "version",
            "taken_at",
            "broker",
            "result_backend",
            "evidence",
            "traces",
            "findings",
            "checks",
            "exit",
        ],
    );
    assert_eq!(report["schema"], "celery-doctor/1");
    assert_eq!(report["command"], "trace");
    assert_eq!(report["taken_at"], "2027-01-15T08:00:00.000Z");
    has(&report["broker"], &["url", "kind", "version"]);
    has(&report["result_backend"], &["url", "kind"]);
    has(
        &report["evidence"][0],
        &["source", "status", "detail", "elapsed_ms"],
    );
    has(
        &report["traces"][0],
        &[
            "task_id", "task", "verdict", "summary", "stages", "copies", "result", "findings",
            "causes",
        ],
    );
    has(
        &report["traces"][0]["stages"][0],
        &["stage", "status", "detail", "at"],
    );
    has(
        &report["traces"][0]["copies"][0],
        &["place", "queue", "position", "of", "worker"],
    );
    has(
        &report["traces"][0]["findings"][0],
        &[
            "code", "name", "severity", "message", "evidence", "confirm", "remedy", "subject",
            "task_ids", "count",
        ],
    );
    has(&report["checks"][0], &["code", "name", "status", "missing"]);
    assert_eq!(report["exit"]["code"], 1);
    assert_eq!(report["traces"][0]["result"], Value::Null);
}

#[test]
fn copies_in_json() {
    let mut lab = lab().queued("t1", "celery").unacked("t1", 40.0).claimed(
        "t1",
        "celery@w1",
        ClaimState::Active,
    );
    lab.list(
        "celery\u{6}\u{16}3",
        "celery",
        Some(("\u{6}\u{16}".to_owned(), 3)),
    );
    let task = lab.task("t1");
    task.copies[0].place = Place::Queue {
        key: "celery\u{6}\u{16}3".to_owned(),
        position: 12,
        of: 4711,
    };
    let report = json(&lab, &["t1"]);
    let copies = &report["traces"][0]["copies"];
    let only = |copy: &Value, fields: &[&str]| -> Value {
        fields
            .iter()
            .map(|field| ((*field).to_owned(), copy[field].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    assert_eq!(
        only(
            &copies[0],
            &["place", "queue", "position", "of", "worker", "key"]
        ),
        json!({"place": "queue", "queue": "celery", "position": 12, "of": 4711, "worker": null,
               "key": "celery\u{6}\u{16}3"})
    );
    assert_eq!(
        only(
            &copies[1],
            &["place", "queue", "delivered_at", "delivery_tag"]
        ),
        json!({"place": "unacked", "queue": "celery", "delivered_at": "2027-01-15T07:59:20.000Z",
               "delivery_tag": "tag-t1"})
    );
    assert_eq!(
        only(&copies[2], &["place", "worker", "state"]),
        json!({"place": "worker", "worker": "celery@w1", "state": "active"})
    );
}

#[test]
fn a_result_in_json() {
    let mut doc = doc_of_state("FAILURE");
    doc.exc_type = Some("WorkerLostError".to_owned());
    doc.date_done = crate::celery::when::When::parse("2027-01-15T07:00:00+00:00");
    let report = json(&Lab::new().result_as("t1", doc), &["t1"]);
    let result = &report["traces"][0]["result"];
    assert_eq!(result["state"], "FAILURE");
    assert_eq!(result["date_done"], "2027-01-15T07:00:00Z");
    assert_eq!(result["exception"], "WorkerLostError");
}

#[test]
fn an_id_that_the_reading_did_not_look_for() {
    let report = json(&Lab::new(), &["t1"]);
    assert_eq!(report["traces"][0]["verdict"], "undetermined");
    assert_eq!(report["exit"]["code"], 3);
    assert!(table(&Lab::new(), &["t1"], 80, NORMAL).starts_with("UNDETERMINED  t1\n"));
}
