//! Snapshots: what is written can be read back, what cannot be read says why, and whatever can be read can be judged.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;
use crate::celery::control::{ClaimState, Conf, Route, Stats, TaskTraits, TransportOptions};
use crate::celery::exchange::Binding;
use crate::celery::message::Envelope;
use crate::celery::when::When;
use crate::diagnose::testkit::{Lab, NOW, TASK, doc_of_state, envelope};
use crate::diagnose::{judge, outcome};
use crate::evidence::{
    BindingTable, ChordParts, ClientFacts, ClientIdentity, Copy, Health, List, MutexTtl, Observed,
    OtherDatabase, Place, ReadStatus, Reason, ServerFacts, Source, StoredResult, Why,
};
use crate::report::table::{Style, Verbosity};
use crate::report::{Asked, json as json_report, table};

/// Evidence in which every field has something.
fn rich() -> Evidence {
    let full = Envelope {
        eta: When::from_epoch(NOW + 7_200.0),
        expires: Some(When::FarFuture),
        retries: Some(3),
        root_id: Some("root".to_owned()),
        parent_id: Some("parent".to_owned()),
        group: Some("group".to_owned()),
        origin: Some("gen1@host".to_owned()),
        redelivered: true,
        priority: Some(9),
        time_limit: Some(30.5),
        chord: Some("body".to_owned()),
        chain_next: Some("next".to_owned()),
        args: Some("('secret',)".to_owned()),
        ..envelope("t1")
    };
    let mut lab = Lab::new()
        .worker("celery@w1", &["celery"])
        .with_worker(|worker| {
            worker.stats = Observed::Seen(Stats {
                concurrency: Some(4),
                prefetch_count: Some(16),
                uptime: Some(86_400.5),
                transport: TransportOptions {
                    visibility_timeout: Some(60.0),
                    priority_steps: Some(vec![0, 3, 6, 9]),
                    sep: Some("\u{6}\u{16}".to_owned()),
                    unacked_restore_interval: Some(10.0),
                    unacked_restore_throttle: Some(10.0),
                    unacked_restore_limit: Some(10),
                    ..TransportOptions::default()
                },
                total: BTreeMap::from([(TASK.to_owned(), 4711)]),
                ..Stats::default()
            });
            worker.conf = Observed::Seen(Conf {
                accept_content: Some(vec!["json".to_owned()]),
                result_expires: Some(86_400.0),
                result_backend: Some("redis".to_owned()),
                worker_prefetch_multiplier: Some(4),
                task_routes: Some(vec![Route {
                    pattern: "shop.*".to_owned(),
                    queue: None,
                    exchange: Some("shop".to_owned()),
                    routing_key: Some("a.b".to_owned()),
                }]),
                ..Conf::default()
            });
            let traits = TaskTraits {
                acks_late: Some(true),
                rate_limit: Some("10/m".to_owned()),
                time_limit: Some(3_600.0),
                max_retries: Some(-1),
                ..TaskTraits::default()
            };
            worker.registered = Observed::Seen(BTreeMap::from([(TASK.to_owned(), traits)]));
        })
        .worker("celery@w2", &["celery", "emials"])
        .silent("celery@w3")
        .queued_as("celery", full)
        .queued("t2", "emials")
        .unacked("t2", 4_000.0)
        .unacked("t3", 10.0)
        .unacked_as(envelope("t4"), None)
        .claimed("t3", "celery@w1", ClaimState::Active)
        .claimed("t3", "celery@w2", ClaimState::Scheduled)
        .result_as("t5", doc_of_state("STARTED"))
        .absent("t6");
    let mut done = doc_of_state("FAILURE");
    done.exc_type = Some("WorkerLostError".to_owned());
    done.date_done = When::from_epoch(NOW - 60.0);
    done.children = vec!["t6".to_owned()];
    lab = lab.result_as("t7", done);
    lab.list(
        "celery\u{6}\u{16}3",
        "celery",
        Some(("\u{6}\u{16}".to_owned(), 3)),
    );
    let task = lab.task("t6");
    task.revoked_by = vec!["celery@w1".to_owned()];
    task.chord = Observed::Seen(Some(ChordParts {
        group_id: "group".to_owned(),
        size: Some(3),
        joined: 1,
        members: vec![("t7".to_owned(), "FAILURE".to_owned())],
    }));
    task.children = vec!["t7".to_owned(), "t6".to_owned()];
    task.copies.push(Copy {
        place: Place::OtherDatabase {
            database: 3,
            key: "celery".to_owned(),
            position: 1,
            of: 2,
        },
        envelope: envelope("t6"),
    });
    let mut evidence = lab.evidence;
    complete(&mut evidence);
    evidence
}

/// What the lab has no words for.
fn complete(evidence: &mut Evidence) {
    evidence.scope = Scope::Ids(vec!["t1".to_owned(), "t2".to_owned()]);
    evidence.visibility_timeout_given = Some(3_600.0);
    evidence.bindings = Observed::Seen(vec![BindingTable {
        prefix: String::new(),
        exchange: "shop".to_owned(),
        sep: crate::celery::exchange::DEFAULT_SEP.to_owned(),
        bindings: vec![Binding {
            routing_key: "a.*".to_owned(),
            pattern: r"^a\.[^\.]+$".to_owned(),
            queue: "celery".to_owned(),
        }],
    }]);
    evidence.broker.server = Observed::Seen(ServerFacts {
        version: Observed::Seen("7.0.15".to_owned()),
        uptime_seconds: Observed::Seen(10),
        role: Observed::Seen("master".to_owned()),
        connected_replicas: Observed::Seen(0),
        append_only: Observed::Seen(false),
        rdb_saves: Observed::Seen(false),
        maxmemory: Observed::Seen(0),
        maxmemory_policy: Observed::Seen("noeviction".to_owned()),
        used_memory: Observed::Seen(1),
        evicted_keys: Observed::Unseen(Why::new(Reason::Refused, "no permission")),
        clock_ahead_seconds: Observed::Seen(-0.25),
        clients: Observed::Seen(vec![ClientFacts {
            blocked: true,
            host: "127.0.0.1".to_owned(),
            database: Some(3),
            command: "brpop".to_owned(),
            pattern_subscriptions: 1,
            age_seconds: Some(9),
            id: None,
            blocked_throughout: false,
            idle_seconds: Some(7),
            identity: ClientIdentity::default(),
        }]),
        health: Health::default(),
    });
    evidence.other_databases = Observed::Seen(vec![OtherDatabase {
        database: 3,
        lists: vec![List {
            key: "celery".to_owned(),
            prefix: String::new(),
            queue: "celery".to_owned(),
            priority: None,
            named: false,
            length: 2,
            malformed: 1,
            read: Observed::Unseen(Why::new(Reason::Truncated, "too long")),
        }],
        mailboxes: vec!["celery@w9".to_owned()],
        claimed: Some(BTreeSet::from(["t6".to_owned()])),
    }]);
    if let Some(all) = evidence.reservations.seen_mut() {
        all[0].mutex = Some(MutexTtl::Seconds(12.5));
    }
    evidence.reads[0].status = ReadStatus::Skipped;
}

fn written(evidence: &Evidence, keep_args: bool) -> Vec<u8> {
    let mut file = Vec::new();
    write(evidence, keep_args, &mut file).expect("a Vec takes all");
    file
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text).expect("a Vec takes all");
    gzip.finish().expect("a Vec takes all")
}

fn with_header(header: &Value, rest: &str) -> Vec<u8> {
    packed(format!("{header}\n{rest}\n").as_bytes())
}

fn header() -> Value {
    json!({"format": FORMAT, "format_version": VERSION, "tool_version": "0.1.0"})
}

fn error(file: &[u8]) -> String {
    read(file).expect_err("it is no snapshot").to_string()
}

#[test]
fn what_is_written_is_read_back() {
    let evidence = rich();
    assert_eq!(read(&*written(&evidence, true)).expect("ours"), evidence);
    // One byte at a time, as a pipe may give it.
    let file = written(&evidence, true);
    assert_eq!(read(OneByOne(&file)).expect("ours"), evidence);
}

/// A reader that gives one byte at a time.
struct OneByOne<'a>(&'a [u8]);

impl Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(&mut buffer[..one])
    }
}

#[test]
fn what_an_earlier_version_did_not_know_is_as_it_was_then() {
    let evidence = rich();
    let mut json = serde_json::to_value(&evidence).expect("JSON");
    // Names of keys that are kombu's own are not written.
    assert!(json.pointer("/reservations/seen/0/unacked").is_some());
    assert!(json.pointer("/reservations/seen/0/names").is_none());
    let others = json.pointer_mut("/other_databases/seen/0").expect("seen");
    others.as_object_mut().expect("an object").remove("claimed");
    let old = read(&*with_header(&header(), &json.to_string())).expect("ours");
    let mut expected = evidence;
    expected.other_databases.seen_mut().expect("seen")[0].claimed = None;
    assert_eq!(old, expected);
}

#[test]
fn what_was_counted_and_not_kept_is_whole_for_an_audit() {
    for (counted, status) in [(true, ReadStatus::Complete), (false, ReadStatus::Partial)] {
        let mut evidence = Lab::new()
            .unacked("t1", 9.0)
            .counted()
            .read_only_part(Source::Unacked, Reason::Truncated)
            .evidence;
        evidence
            .census
            .get_or_insert_default()
            .unacked_counted_whole = counted;
        assert!(!evidence.complete(Source::Unacked));
        evidence.for_audit();
        let read = evidence.read(Source::Unacked).expect("it was read");
        assert_eq!(read.status, status);
    }
}

#[test]
fn arguments_are_left_out_unless_asked_for() {
    let without = read(&*written(&rich(), false)).expect("ours");
    assert!(!has_args(&without));
    assert!(
        !serde_json::to_string(&without)
            .expect("JSON")
            .contains("secret")
    );
    assert!(has_args(&read(&*written(&rich(), true)).expect("ours")));
}

#[test]
fn numbers_that_json_does_not_have() {
    let mut evidence = rich();
    evidence.visibility_timeout_given = Some(f64::INFINITY);
    if let Some(server) = evidence.broker.server.seen_mut() {
        server.clock_ahead_seconds = Observed::not_asked("a test");
    }
    if let Some(all) = evidence.reservations.seen_mut() {
        all[0].oldest = Some(f64::NEG_INFINITY);
        all[0].mutex = Some(MutexTtl::Seconds(f64::MAX));
    }
    let back = read(&*written(&evidence, false)).expect("ours");
    assert_eq!(back.visibility_timeout_given, Some(1e300));
    let all = back.reservations.seen().expect("seen");
    assert_eq!(all[0].oldest, Some(-1e300));
    assert_eq!(all[0].mutex, Some(MutexTtl::Seconds(1e300)));
}

#[test]
fn what_is_no_snapshot_says_so() {
    assert!(error(b"").contains("is empty"));
    for garbage in [&b"x"[..], b"\x1f", b"\x1f\x00", b"{\"format\": 1}\n"] {
        let text = error(garbage);
        let says = ["not compressed", "cut off", "damaged"];
        assert!(says.iter().any(|s| text.contains(s)), "{garbage:?}: {text}");
    }
    assert!(error(&packed(b"")).contains("is not a snapshot"));
    assert!(error(&packed(b"[1, 2]\n")).contains("is not a snapshot"));
    assert!(error(&packed(&b"x".repeat(100_000))).contains("is not a snapshot"));
    let other = json!({"format": "other", "format_version": 9, "tool_version": "1"});
    assert!(error(&with_header(&other, "{}")).contains("is not a snapshot"));
}

#[test]
fn other_versions_say_which() {
    for (version, says) in [(2, "with a newer celery-doctor"), (0, "that wrote it")] {
        let mut header = header();
        header["format_version"] = version.into();
        let text = error(&with_header(&header, "{\"a later\": \"layout\"}"));
        assert!(text.contains(says), "{text}");
        assert!(
            text.contains(&format!("format version {version}")),
            "{text}"
        );
        assert!(text.contains("reads version 1"), "{text}");
    }
}

#[test]
fn a_cut_file_is_told_from_a_damaged_one() {
    let file = written(&rich(), false);
    for end in (2..file.len()).step_by(7).chain([file.len() - 1]) {
        assert_eq!(
            error(&file[..end]),
            FileError::Truncated.to_string(),
            "{end}"
        );
    }
    let half = packed(format!("{}\n{{\"taken_at\": \"2026-", header()).as_bytes());
    assert!(error(&half).contains("cut off"));
    let mut wrong_sum = file;
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    assert!(error(&wrong_sum).contains("damaged"));
}

#[test]
fn a_bomb_is_given_up() {
    let bomb = with_header(&header(), &" ".repeat(200_000));
    assert!(bomb.len() < 10_000);
    let error = read_at_most(&*bomb, 100_000).expect_err("too large");
    assert!(matches!(error, FileError::TooLarge), "{error}");
    let text = FileError::TooLarge.to_string();
    assert!(text.contains("more than 1024 MiB"), "{text}");
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let deep = "[".repeat(200_000);
    assert!(error(&with_header(&header(), &deep)).contains("not what version 1 has"));
    let unknown = format!(
        "{{\"unknown\": {}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(error(&with_header(&header(), &unknown)).contains("not what version 1 has"));
}

#[test]
fn an_error_quotes_nothing() {
    let mut evidence = serde_json::to_value(rich()).expect("JSON");
    evidence["taken_at"] = "hunter2\u{1b}[2J".into();
    let text = error(&with_header(&header(), &evidence.to_string()));
    assert!(text.contains("character"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn the_ids_of_a_snapshot() {
    let mut evidence = rich();
    assert_eq!(ids(&evidence), ["t1", "t2"]);
    evidence.scope = Scope::Everything;
    assert_eq!(ids(&evidence).len(), evidence.tasks.len());
}

/// Judges and draws in every form.
fn judge_and_draw(evidence: &Evidence) {
    let mut ids: Vec<String> = evidence.tasks.keys().cloned().collect();
    ids.push("not looked for".to_owned());
    let diagnosis = judge(evidence, &ids);
    let outcome = outcome::of(&diagnosis);
    let asked = Asked::default();
    json_report::trace(evidence, &diagnosis, &asked, &outcome, &mut io::sink())
        .expect("a sink takes all");
    for (width, verbosity) in [(0, Verbosity::Verbose(2)), (80, Verbosity::Normal)] {
        let style = Style {
            width,
            color: true,
            verbosity,
        };
        table::trace(
            evidence,
            &diagnosis,
            &Asked::default(),
            &outcome,
            &style,
            &mut io::sink(),
        )
        .expect("a sink takes all");
    }
}

/// Values that upset arithmetic, slicing and printing.
fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![
            json!(0),
            json!(1),
            json!(-1),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(i64::MAX),
            json!(f64::MAX),
            json!(f64::MIN),
            json!(1e300),
            json!(-1e300),
            json!(f64::MIN_POSITIVE),
            json!(""),
            json!("é\u{1b}\u{202e}\u{0}"),
            json!("x".repeat(70_000)),
            json!("far-future"),
            json!("-009999-01-02T01:59:59Z"),
            json!("9999-12-30T21:59:59Z"),
            json!("celery"),
            json!("t1"),
            json!([]),
            json!({}),
            json!({"seen": null}),
            json!({"seen": []}),
            json!({"unseen": {"reason": "refused", "detail": ""}}),
            json!("never"),
            json!({"seconds": -1e300}),
        ]),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ]
}

/// All places in a document, as JSON pointers.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(inner, &format!("{at}/{key}"), into);
            }
        }
        Value::Array(all) => {
            for (n, inner) in all.iter().enumerate() {
                places(inner, &format!("{at}/{n}"), into);
            }
        }
        _ => {}
    }
}

/// Evidence with some of its facts replaced; a change that its types do not take is left out.
fn changed(changes: &[(Index, Value)]) -> Evidence {
    let mut evidence = rich();
    for (place, new) in changes {
        let mut document = serde_json::to_value(&evidence).expect("JSON");
        let mut all = Vec::new();
        places(&document, "", &mut all);
        if let Some(slot) = document.pointer_mut(&all[place.index(all.len())]) {
            slot.clone_from(new);
        }
        if let Ok(changed) = serde_json::from_value(document) {
            evidence = changed;
        }
    }
    evidence
}

#[test]
fn every_single_hostile_number_is_survived() {
    let document = serde_json::to_value(rich()).expect("JSON");
    let mut all = Vec::new();
    places(&document, "", &mut all);
    let numbers = all
        .iter()
        .filter(|at| document.pointer(at).is_some_and(Value::is_number));
    for place in numbers {
        for new in [json!(u64::MAX), json!(i64::MIN), json!(-1e300)] {
            let mut document = document.clone();
            *document.pointer_mut(place).expect("a place of it") = new;
            if let Ok(evidence) = serde_json::from_value::<Evidence>(document) {
                judge_and_draw(&evidence);
            }
        }
    }
}

#[test]
fn every_number_at_its_largest() {
    fn fill(value: &mut Value, with: &Value) {
        match value {
            Value::Number(_) => value.clone_from(with),
            Value::Object(map) => map.values_mut().for_each(|inner| fill(inner, with)),
            Value::Array(all) => all.iter_mut().for_each(|inner| fill(inner, with)),
            _ => {}
        }
    }
    let base = serde_json::to_value(rich()).expect("JSON");
    let mut all = Vec::new();
    places(&base, "", &mut all);
    for largest in [
        json!(u64::MAX),
        json!(i64::MAX),
        json!(u32::MAX),
        json!(1e300),
    ] {
        // Each number on its own first, so that those that do not take it keep what they have.
        let mut document = base.clone();
        for place in &all {
            let before = document.clone();
            if let Some(number @ Value::Number(_)) = document.pointer_mut(place) {
                fill(number, &largest);
                if serde_json::from_value::<Evidence>(document.clone()).is_err() {
                    document = before;
                }
            }
        }
        judge_and_draw(&serde_json::from_value(document).expect("every change was tried"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn changed_evidence_is_judged_and_read_back(
        changes in prop::collection::vec((any::<Index>(), hostile()), 1..24)
    ) {
        let evidence = changed(&changes);
        judge_and_draw(&evidence);
        let back = read(&*written(&evidence, true)).expect("ours");
        prop_assert_eq!(&read(&*written(&back, true)).expect("ours"), &back);
        judge_and_draw(&back);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(read(&*bytes).is_err());
        prop_assert!(read(&*packed(&bytes)).is_err());
        let line = String::from_utf8_lossy(&bytes);
        prop_assert!(read(&*with_header(&header(), &line)).is_err());
    }

    #[test]
    fn a_changed_file_is_survived(at in any::<Index>(), byte in any::<u8>()) {
        let mut file = written(&rich(), true);
        let at = at.index(file.len());
        file[at] = byte;
        if let Ok(evidence) = read(&*file) {
            judge_and_draw(&evidence);
        }
    }

    #[test]
    fn a_changed_document_is_survived(at in any::<Index>(), byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&rich()).expect("JSON");
        let at = at.index(text.len());
        text[at] = byte;
        let mut whole = format!("{}\n", header()).into_bytes();
        whole.extend(text);
        if let Ok(evidence) = read(&*packed(&whole)) {
            judge_and_draw(&evidence);
        }
    }
}

#[test]
fn a_result_in_a_snapshot() {
    let back = read(&*written(&rich(), false)).expect("ours");
    let stored = |id: &str| -> Option<StoredResult> { back.tasks.get(id)?.result.seen()?.clone() };
    assert_eq!(
        stored("t5").map(|r| r.doc.state),
        Some("STARTED".to_owned())
    );
    assert_eq!(stored("t6"), None);
    assert!(!back.complete(Source::Server));
}
