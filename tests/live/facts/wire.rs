//! The parsers, held against what Celery writes and what its sender knows of it (`fixtures/README.md`).
//!
//! Once against the stored capture, and once against a fresh one from the installed Celery.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use celery_doctor::celery::control;
use celery_doctor::celery::exchange::{
    Binding, DEFAULT_SEP, DEFAULT_STEPS, message_priority, queue_key,
};
use celery_doctor::celery::message::{self, Envelope, IdFinder, Keep, Match, Protocol};
use celery_doctor::celery::when::When;
use celery_doctor::celery::{result, unacked};
use serde_json::{Map, Value, json};

use crate::lab::Lab;

const STORED: &str = include_str!("../../../fixtures/wire/captured-celery-5.7.0.json");
const CAPTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/capture.py");

#[test]
fn stored_samples() {
    check(&serde_json::from_str(STORED).unwrap());
}

#[test]
fn fresh_samples() {
    let lab = Lab::new();
    let code = format!(
        "import runpy, sys\nsys.argv = ['capture', '-o', '-']\nrunpy.run_path({CAPTURE:?}, run_name='__main__')"
    );
    let fresh: Value = serde_json::from_str(&lab.python(&json!({}), &code)).unwrap();
    check(&fresh);
    let stored: Value = serde_json::from_str(STORED).unwrap();
    let names = |capture: &Value, part: &str| -> Vec<String> {
        samples(capture, part).keys().cloned().collect()
    };
    for part in ["messages", "restored", "unacked", "results", "replies"] {
        assert_eq!(
            names(&stored, part),
            names(&fresh, part),
            "capture again (fixtures/README.md)"
        );
    }
}

fn check(capture: &Value) {
    for (part, one) in [
        ("messages", message as fn(&str, &[u8], &Value)),
        ("restored", restored),
        ("unacked", reservation),
        ("results", result),
        ("replies", reply),
    ] {
        let all = samples(capture, part);
        assert!(!all.is_empty(), "no {part}");
        for (name, sample) in all {
            eprintln!("{part} {name}"); // shown when a check fails
            one(
                name,
                &STANDARD.decode(text(&sample["raw"])).unwrap(),
                &sample["truth"],
            );
        }
    }
    bindings(capture);
}

fn samples<'a>(capture: &'a Value, part: &str) -> &'a Map<String, Value> {
    capture[part].as_object().unwrap()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a string: {value}"))
}

/// What the sender knows must be what the parser says; what it doesn't tell is not compared.
fn holds<T: PartialEq + std::fmt::Debug>(
    truth: &Value,
    key: &str,
    expected: impl Fn(&Value) -> T,
    found: &T,
) {
    if let Some(known) = truth.get(key) {
        assert_eq!(&expected(known), found, "{key}");
    }
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "what it is compared with is an option"
)]
fn some_text(value: &Value) -> Option<String> {
    Some(text(value).to_owned())
}

fn envelope(raw: &[u8], truth: &Value) -> Envelope {
    let found = message::parse(raw, Keep::Envelope).unwrap();
    assert_eq!(found.id, text(&truth["id"]));
    let instant = |known: &Value| When::from_epoch(known.as_f64().unwrap());
    holds(truth, "task", some_text, &found.task);
    holds(truth, "eta", instant, &found.eta);
    holds(truth, "expires", instant, &found.expires);
    holds(truth, "retries", Value::as_u64, &found.retries);
    holds(truth, "priority", Value::as_i64, &found.priority);
    holds(truth, "compression", some_text, &found.compression);
    holds(truth, "exchange", some_text, &found.exchange);
    holds(truth, "routing_key", some_text, &found.routing_key);
    holds(truth, "queue", some_text, &found.routing_key);
    holds(truth, "group", some_text, &found.group);
    holds(truth, "root_id", some_text, &found.root_id);
    holds(truth, "chord_body", some_text, &found.chord);
    holds(truth, "next_id", some_text, &found.chain_next);
    holds(truth, "ignore_result", Value::as_bool, &found.ignore_result);
    holds(
        truth,
        "redelivered",
        |known| *known == json!(true),
        &found.redelivered,
    );
    let protocol = |known: &Value| {
        if *known == json!(1) {
            Protocol::One
        } else {
            Protocol::Two
        }
    };
    holds(truth, "protocol", protocol, &found.protocol);
    if truth.get("eta").is_none() {
        assert_eq!(found.eta, None);
    }
    let shown = format!("{found:?} {}", serde_json::to_string(&found).unwrap());
    assert!(
        !shown.contains("hunter2"),
        "an argument got into the envelope"
    );
    found
}

fn message(name: &str, raw: &[u8], truth: &Value) {
    if name == "chord-size" {
        assert_eq!(raw, b"2");
        return;
    }
    let id = text(&truth["id"]).to_owned();
    assert_eq!(IdFinder::new([id]).matches(raw), Match::Candidate);
    if name == "v1-yaml" {
        // YAML is not read; then only the correlation id names the task.
        assert!(message::parse(raw, Keep::Envelope).is_err());
        return;
    }
    let found = envelope(raw, truth);
    let key = STANDARD.decode(text(&truth["key"])).unwrap();
    let queue = found.routing_key.as_deref().unwrap();
    let queue = if found.exchange.as_deref() == Some("news") {
        "news"
    } else {
        queue
    };
    let expected = queue_key(
        queue,
        message_priority(found.priority),
        DEFAULT_STEPS,
        DEFAULT_SEP,
    );
    assert_eq!(String::from_utf8_lossy(&key), expected);
    let other = "00000000-0000-4000-8000-000000000000".to_owned();
    let said = IdFinder::new([other]).matches(raw);
    // What a compressed body carries is seen by whoever unpacks it.
    if found.compression.is_some() {
        assert_ne!(said, Match::Malformed);
    } else {
        assert_eq!(said, Match::No);
    }
}

fn restored(name: &str, raw: &[u8], truth: &Value) {
    if name.ends_with("-unacked") {
        reservation(name, raw, truth);
    } else {
        assert!(envelope(raw, truth).redelivered);
    }
}

fn reservation(name: &str, raw: &[u8], truth: &Value) {
    let found = unacked::parse_unacked(raw, Keep::Envelope).unwrap();
    assert_eq!(found.envelope.id, text(&truth["id"]));
    assert_eq!(
        found.envelope.delivery_tag.as_deref(),
        Some(text(&truth["tag"]))
    );
    assert!(!found.envelope.redelivered, "{name}");
    holds(
        truth,
        "exchange",
        |known| text(known).to_owned(),
        &found.exchange,
    );
    holds(
        truth,
        "routing_key",
        |known| text(known).to_owned(),
        &found.routing_key,
    );
}

fn result(name: &str, raw: &[u8], truth: &Value) {
    if name.starts_with("chord-joined") {
        let (_, state) = result::parse_chord_part(raw).unwrap();
        assert_eq!(state, "SUCCESS");
    } else if name.starts_with("chord-") {
        // `.t` appears only when a part of the header was replaced, `.s` is the plain size.
        assert_eq!(raw, if name == "chord-size" { &b"3"[..] } else { b"" });
    } else {
        let found = result::parse_result(raw).unwrap();
        assert_eq!(found.state, text(&truth["state"]));
        assert_eq!(
            found.ready,
            ["SUCCESS", "FAILURE", "REVOKED"].contains(&found.state.as_str())
        );
        assert_eq!(found.date_done.is_some(), found.ready);
        holds(truth, "exc_type", some_text, &found.exc_type);
        holds(truth, "hostname", some_text, &found.worker);
        holds(truth, "parent_id", some_text, &found.parent_id);
        let children = |known: &Value| {
            known
                .as_array()
                .unwrap()
                .iter()
                .map(text)
                .map(str::to_owned)
                .collect()
        };
        holds(truth, "children", children, &found.children);
        assert!(
            !format!("{found:?}").contains("hunter2"),
            "a result got out"
        );
    }
}

fn reply(name: &str, raw: &[u8], truth: &Value) {
    if name == "request" {
        request(raw, truth);
        return;
    }
    let Some(control::Heard::Reply(found)) = control::parse_reply(raw) else {
        panic!("no reply");
    };
    assert_eq!(
        (found.node.as_str(), found.ticket.as_str()),
        (text(&truth["node"]), text(&truth["ticket"]))
    );
    assert_eq!(control::is_error(&found.answer), name == "no_such_method");
    let claimed = |claims: Vec<control::Claim>| -> Vec<(String, control::ClaimState)> {
        claims
            .into_iter()
            .map(|claim| (claim.id, claim.state))
            .collect()
    };
    let [late, waiting, eta] = ["late", "waiting", "eta"].map(|key| text(&truth[key]).to_owned());
    let running = (late, control::ClaimState::Active);
    let waiting = (waiting, control::ClaimState::Reserved);
    let scheduled = (eta, control::ClaimState::Scheduled);
    match name {
        "active" => assert_eq!(claimed(control::decode_active(&found.answer)), [running]),
        "reserved" => assert!(claimed(control::decode_reserved(&found.answer)).contains(&waiting)),
        "scheduled" => {
            assert!(claimed(control::decode_scheduled(&found.answer)).contains(&scheduled));
        }
        "query_task" => {
            let all = claimed(control::decode_query_task(&found.answer));
            assert!(
                [running, waiting, scheduled]
                    .iter()
                    .all(|one| all.contains(one)),
                "{all:?}"
            );
        }
        "revoked" => {
            // Tasks that were dropped because they had expired are in this list too.
            let revoked = control::decode_revoked(&found.answer);
            assert!(
                revoked.iter().any(|id| id == text(&truth["revoked"])),
                "{revoked:?}"
            );
        }
        "registered" => {
            let tasks = control::decode_registered(&found.answer);
            assert_eq!(tasks["labapp.late"].acks_late, Some(true));
            assert_eq!(tasks["labapp.late"].time_limit, Some(7200.0));
            assert_eq!(
                tasks["labapp.ratelimited"].rate_limit.as_deref(),
                Some("1/h")
            );
            assert_eq!(tasks["labapp.ignored"].ignore_result, Some(true));
            assert!(tasks.contains_key("labapp.add"));
        }
        "active_queues" => {
            let mut queues = control::decode_active_queues(&found.answer);
            queues.sort_by(|a, b| a.name.cmp(&b.name));
            let types: Vec<_> = queues
                .iter()
                .map(|q| (q.name.as_str(), q.exchange_type.as_deref().unwrap()))
                .collect();
            assert_eq!(
                types,
                [("all", "fanout"), ("celery", "direct"), ("news", "topic")]
            );
        }
        "stats" => {
            let stats = control::decode_stats(&found.answer);
            assert_eq!((stats.concurrency, stats.pid.is_some()), (Some(1), true));
        }
        "conf" => assert_eq!(
            control::decode_conf(&found.answer).task_track_started,
            Some(true)
        ),
        _ => (),
    }
}

/// Ours has the parts of Celery's own request, and no others.
fn request(raw: &[u8], truth: &Value) {
    assert_eq!(
        text(&truth["channel"]),
        control::channel(0, "celery.pidbox")
    );
    let unpack = |raw: &[u8]| {
        let mut envelope: Value = serde_json::from_slice(raw).unwrap();
        let body = STANDARD.decode(text(&envelope["body"])).unwrap();
        envelope["body"] = serde_json::from_slice(&body).unwrap();
        envelope
    };
    let theirs = unpack(raw);
    let ours = unpack(control::request("ping", json!({}), "a ticket", "an oid", 1.0).as_bytes());
    let names =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    for part in [
        "",
        "/body",
        "/body/reply_to",
        "/properties",
        "/properties/delivery_info",
    ] {
        assert_eq!(
            names(theirs.pointer(part).unwrap()),
            names(ours.pointer(part).unwrap()),
            "{part}"
        );
    }
    for same in [
        "/body/method",
        "/body/destination",
        "/properties/delivery_info",
        "/body/reply_to/exchange",
    ] {
        assert_eq!(theirs.pointer(same), ours.pointer(same), "{same}");
    }
}

fn bindings(capture: &Value) {
    for (key, table) in samples(capture, "bindings") {
        if table["type"] == "zset" {
            continue;
        }
        for member in table["members"].as_array().unwrap() {
            let member = STANDARD.decode(text(member)).unwrap();
            let binding = Binding::parse(&member, DEFAULT_SEP).unwrap();
            match key.as_str() {
                "_kombu.binding.news" => assert_eq!(
                    (&*binding.queue, &*binding.routing_key),
                    ("news", "news.*.#")
                ),
                "_kombu.binding.celery.pidbox" => {
                    assert_eq!(
                        control::node_of_mailbox(&member).as_deref(),
                        Some("w1@capture-host")
                    );
                }
                _ => (),
            }
        }
    }
}
