use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::celery::samples::SAMPLES;

const ID: &str = "33333333-1111-4111-8111-111111111111";

fn parse_value(message: &serde_json::Value) -> Result<Envelope, Malformed> {
    parse(message.to_string().as_bytes(), Keep::Envelope)
}

#[test]
fn protocol_two_has_all_in_its_headers() {
    let envelope = parse(SAMPLES.message("v2_eta"), Keep::Envelope).expect("a message");
    assert_eq!(envelope.protocol, Protocol::Two);
    assert_eq!(envelope.id, "11111111-1111-4111-8111-111111111111");
    assert_eq!(envelope.task.as_deref(), Some("lab.add"));
    assert_eq!(envelope.eta, When::parse("2026-11-22T07:33:42.123456Z"));
    assert_eq!(envelope.expires, When::parse("2026-11-23T00:00:00Z"));
    assert_eq!(envelope.retries, Some(0));
    assert_eq!(envelope.root_id.as_deref(), Some(envelope.id.as_str()));
    assert_eq!(
        envelope.correlation_id.as_deref(),
        Some(envelope.id.as_str())
    );
    assert_eq!((envelope.parent_id, envelope.group), (None, None));
    assert_eq!(envelope.exchange.as_deref(), Some(""));
    assert_eq!(envelope.routing_key.as_deref(), Some("celery"));
    assert_eq!(
        envelope.delivery_tag.as_deref(),
        Some("96b2570d-88f6-4ad3-b79f-70373d145765")
    );
    assert_eq!(envelope.time_limit, Some(3600.0));
    assert_eq!(envelope.ignore_result, Some(false));
    assert_eq!(envelope.content_type.as_deref(), Some("application/json"));
    assert_eq!((envelope.priority, envelope.redelivered), (Some(0), false));
    assert_eq!(envelope.body_bytes, r#"[[2], {"y": "\u00e9\"q"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#.len());
    assert_eq!(envelope.args, None);
}

#[test]
fn arguments_only_when_asked_for() {
    let envelope = parse(SAMPLES.message("v2_eta"), Keep::Args).expect("a message");
    assert_eq!(envelope.args.as_deref(), Some("(2,) {'y': 'é\"q'}"));
}

#[test]
fn the_next_link_and_the_chord_body() {
    let next = |name: &str| {
        parse(SAMPLES.message(name), Keep::Envelope)
            .expect(name)
            .chain_next
    };
    assert_eq!(next("v2_chain").as_deref(), Some("c2"));
    assert_eq!(next("v2_prio"), None);
    for name in ["v1_chord", "v2_chord"] {
        let envelope = parse(SAMPLES.message(name), Keep::Envelope).expect(name);
        assert_eq!(envelope.chord.as_deref(), Some("cb"), "{name}");
        assert!(envelope.group.is_some(), "{name}");
    }
}

#[test]
fn every_serialiser_and_compression() {
    for (name, message) in SAMPLES
        .messages
        .iter()
        .filter(|(name, _)| name.starts_with('p'))
    {
        let envelope = parse(message.as_bytes(), Keep::Envelope);
        if name.starts_with("p1_yaml") {
            assert_eq!(envelope, Err(Malformed::Body(Unreadable::Yaml)), "{name}");
            continue;
        }
        let envelope = envelope.expect(name);
        let protocol = if name.starts_with("p1") {
            Protocol::One
        } else {
            Protocol::Two
        };
        assert_eq!(
            (envelope.protocol, envelope.id.as_str()),
            (protocol, ID),
            "{name}"
        );
        assert_eq!(envelope.task.as_deref(), Some("lab.add"), "{name}");
        assert_eq!(envelope.retries, Some(0), "{name}");
        assert_eq!(envelope.time_limit, Some(3600.0), "{name}");
        assert!(
            envelope.eta.is_some() && envelope.eta < envelope.expires,
            "{name}"
        );
        assert_eq!(
            envelope.compression.is_some(),
            !name.ends_with("None"),
            "{name}"
        );
    }
}

#[test]
fn wrong_types_are_absent() {
    let odd = json!({
        "body": 5, "content-type": {}, "content-encoding": [],
        "headers": {"task": [], "id": "x", "eta": 5, "expires": {}, "retries": -1, "timelimit": "no", "redelivered": "yes",
            "argsrepr": {"a": 1}, "ignore_result": 0, "group": false, "root_id": 1.5},
        "properties": {"delivery_info": [1], "priority": {}, "correlation_id": null},
    });
    let envelope = parse_value(&odd).expect("a message");
    assert_eq!(envelope.id, "x");
    assert_eq!(
        (
            envelope.task,
            envelope.eta,
            envelope.expires,
            envelope.retries
        ),
        (None, None, None, None)
    );
    assert_eq!(
        (
            envelope.time_limit,
            envelope.redelivered,
            envelope.ignore_result
        ),
        (None, false, None)
    );
    assert_eq!(
        (envelope.exchange, envelope.priority, envelope.body_bytes),
        (None, None, 0)
    );
}

#[test]
fn redelivered_by_either_mark() {
    let headers = json!({"headers": {"task": "t", "id": "x", "redelivered": true}});
    let properties = json!({"headers": {"task": "t", "id": "x"}, "properties": {"delivery_info": {"redelivered": true}}});
    assert!(parse_value(&headers).expect("a message").redelivered);
    assert!(parse_value(&properties).expect("a message").redelivered);
}

#[test]
fn what_is_wrong_is_said() {
    let cases: [(&[u8], Malformed); 15] = [
        (b"", Malformed::Truncated),
        (b"{", Malformed::Truncated),
        (b"{\"headers\": {\"task\"", Malformed::Truncated),
        (b"{\"a\": \"\xc3", Malformed::Truncated),
        (b"{\"a\": \"\xff\"}", Malformed::NotUtf8),
        (b"hello", Malformed::NotJson),
        (b"{'a': 1}", Malformed::NotJson),
        (b"{} {}", Malformed::NotJson),
        (b"[]", Malformed::NotAnObject),
        (b"\"x\"", Malformed::NotAnObject),
        (b"{\"headers\": {\"task\": \"t\"}}", Malformed::NoTaskId),
        (
            b"{\"headers\": {\"task\": \"t\", \"id\": 5}}",
            Malformed::NoTaskId,
        ),
        (
            b"{\"headers\": {\"task\": \"t\", \"id\": \"a\", \"id\": \"b\"}}",
            Malformed::DuplicateKey,
        ),
        (
            b"{\"body\": \"e30=\", \"properties\": {\"body_encoding\": \"base64\"}}",
            Malformed::NoTaskId,
        ),
        (
            b"{\"body\": \"?\", \"properties\": {\"body_encoding\": \"base64\"}}",
            Malformed::Body(Unreadable::Base64),
        ),
    ];
    for (message, wrong) in cases {
        assert_eq!(
            parse(message, Keep::Envelope),
            Err(wrong),
            "{}",
            message.escape_ascii()
        );
    }
}

#[test]
fn hostile_depth_is_survived() {
    let deep = "[".repeat(1_000_000);
    assert!(parse(deep.as_bytes(), Keep::Envelope).is_err());
    let balanced = format!(
        "{{\"x\": {deep}{}, \"headers\": {{\"task\": \"t\", \"id\": \"x\"}}}}",
        "]".repeat(1_000_000)
    );
    assert_eq!(
        parse(balanced.as_bytes(), Keep::Envelope).map(|envelope| envelope.id),
        Ok("x".to_owned())
    );
    let args = balanced
        .replace("\"x\":", "\"headers\": {\"eta\":")
        .replace(", \"headers\"", "}, \"h\"");
    assert!(parse(args.as_bytes(), Keep::Envelope).is_err());
    for (content_type, nested) in [
        ("application/x-msgpack", vec![0x91; 1_000_000]),
        ("application/x-python-serialize", vec![b'('; 1_000_000]),
    ] {
        let message = json!({"body": STANDARD.encode(nested), "content-type": content_type, "properties": {"body_encoding": "base64"}});
        assert!(
            matches!(parse_value(&message), Err(Malformed::Body(_))),
            "{content_type}"
        );
    }
}

#[test]
fn bombs_are_not_unpacked() {
    for (compression, bomb) in &SAMPLES.bombs {
        let message = json!({"body": bomb, "headers": {"compression": compression}, "content-type": "application/json",
            "properties": {"body_encoding": "base64"}});
        assert_eq!(
            parse_value(&message),
            Err(Malformed::Body(Unreadable::TooLarge)),
            "{compression}"
        );
    }
}

#[test]
fn not_a_number_in_the_arguments_hides_nothing() {
    let body = r#"{"id": "x", "task": "t", "args": [NaN, -Infinity, "\ud800"], "eta": "2026-11-22T07:33:42"}"#;
    let message = json!({"body": STANDARD.encode(body), "content-type": "application/json", "properties": {"body_encoding": "base64"}});
    let envelope = parse_value(&message).expect("a message");
    assert_eq!(
        (envelope.id.as_str(), envelope.eta),
        ("x", When::parse("2026-11-22T07:33:42Z"))
    );
}

#[test]
fn an_envelope_survives_a_snapshot() {
    for (name, message) in &SAMPLES.messages {
        if let Ok(mut envelope) = parse(message.as_bytes(), Keep::Args) {
            // What it carries for later is kept beside the envelopes.
            envelope.canvas.clear();
            let json = serde_json::to_string(&envelope).expect(name);
            assert_eq!(
                serde_json::from_str::<Envelope>(&json).expect(name),
                envelope,
                "{name}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, Keep::Args);
    }

    #[test]
    fn any_body_is_survived(
        body in prop::collection::vec(any::<u8>(), 0..300),
        compression in prop::sample::select(vec!["", "zlib", "bzip2", "brotli", "xz", "zstd"]),
        content_type in prop::sample::select(vec!["json", "pickle", "msgpack", "yaml", "application/data"]),
    ) {
        let headers = if compression.is_empty() { json!({}) } else { json!({"compression": compression}) };
        let message = json!({"body": STANDARD.encode(body), "headers": headers, "content-type": content_type,
            "properties": {"body_encoding": "base64"}});
        let _ = parse_value(&message);
    }

    #[test]
    fn damaged_bodies_are_survived(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let names: Vec<&str> = SAMPLES.messages.keys().map(String::as_str).filter(|name| name.starts_with("p1")).collect();
        let mut message: serde_json::Value = serde_json::from_slice(SAMPLES.message(which.get::<&str>(&names))).expect("json");
        let mut body = STANDARD.decode(message["body"].as_str().expect("a body")).expect("base64");
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        message["body"] = json!(STANDARD.encode(body));
        let _ = parse_value(&message);
    }
}
