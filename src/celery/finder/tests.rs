use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::celery::samples::SAMPLES;

fn finder(ids: &[&str]) -> IdFinder {
    IdFinder::new(ids.iter().map(|&id| id.to_owned()))
}

#[test]
fn real_messages() {
    for (name, message) in &SAMPLES.messages {
        let Ok(envelope) = parse(message.as_bytes(), Keep::Envelope) else {
            continue;
        };
        assert_eq!(
            finder(&[&envelope.id, "z"]).matches(message.as_bytes()),
            Match::Candidate,
            "{name}"
        );
        // Of a compressed body only the whole reading tells what it carries.
        let found = finder(&["z"]).matches(message.as_bytes());
        assert!(
            found == Match::No || envelope.compression.is_some(),
            "{name}"
        );
        let finder = finder(&["z"]);
        let quick = finder.see(message.as_bytes());
        assert_eq!(
            quick.is_some(),
            !(name.starts_with("p1") || name.starts_with("v1")),
            "{name}"
        );
    }
}

#[test]
fn a_body_that_cannot_be_read_is_found_by_its_correlation_id() {
    let yaml = SAMPLES.message("p1_yaml_None");
    assert_eq!(
        finder(&["33333333-1111-4111-8111-111111111111"]).matches(yaml),
        Match::Candidate
    );
    assert_eq!(finder(&["z"]).matches(yaml), Match::No);
    assert_eq!(finder(&["z"]).matches(b"garbage"), Match::Malformed);
}

#[test]
fn odd_layouts_are_found() {
    for message in [
        r#"{"headers":{"id":"x","task":"t"}}"#,
        r#"{ "headers" : { "task" : "t" , "\u0069d" : "x" } }"#,
        r#"{"headers": {"task": "t", "id": "\u0078"}}"#,
        r#"{"h\u0065aders": {"task": "t", "id": "x"}}"#,
        r#"{"properties": {"headers": {"task": "t", "id": "y"}, "correlation_id": "y"}, "headers": {"task": "t", "id": "x"}}"#,
        r#"{"headers": {"stamps": {"id": "y", "task": "q"}, "argsrepr": "\"id\": \"y\"", "id": "x", "task": null}}"#,
        r#"{"headers": {"a": [1, -2.5e7, NaN, true, {"id": "y"}], "task": {"id": "y"}, "id": "x"}}"#,
        r#"{"headers": {"stamps": {"task": "t"}, "id": "y"}, "body": "{\"id\": \"x\"}", "content-type": "application/json"}"#,
    ] {
        assert_eq!(
            parse(message.as_bytes(), Keep::Envelope).expect(message).id,
            "x",
            "{message}"
        );
        assert_eq!(
            finder(&["x"]).matches(message.as_bytes()),
            Match::Candidate,
            "{message}"
        );
        assert_eq!(
            finder(&["y", "t"]).matches(message.as_bytes()),
            Match::No,
            "{message}"
        );
    }
}

/// A JSON string in which some characters are escaped that need not be.
fn spelled(text: &str, escape: usize) -> String {
    let mut json = String::from("\"");
    for (at, character) in text.chars().enumerate() {
        if escape != 0 && at % escape == escape - 1 || character == '"' || character == '\\' {
            write!(json, "\\u{:04x}", u32::from(character)).expect("a string");
        } else {
            json.push(character);
        }
    }
    json.push('"');
    json
}

fn value(id: &'static str) -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        Just("null".to_owned()),
        Just("[1, {\"id\": \"b\", \"task\": \"t\"}]".to_owned()),
        Just("{\"headers\": {\"task\": \"t\", \"id\": \"b\"}}".to_owned()),
        Just("-1.5e3".to_owned()),
        Just("NaN".to_owned()),
        Just("\"\\\"id\\\": \\\"b\\\", é \\\\\"".to_owned()),
    ];
    prop_oneof![3 => (0..4_usize).prop_map(move |escape| spelled(id, escape)), 1 => plain]
}

fn object() -> impl Strategy<Value = String> {
    let key = (
        prop::sample::select(vec![
            "id",
            "task",
            "eta",
            "stamps",
            "correlation_id",
            "argsrepr",
        ]),
        0..12_usize,
    );
    let entry = (key, prop_oneof![value("a"), value("b")]);
    (prop::collection::vec(entry, 0..6), any::<bool>()).prop_map(|(entries, tight)| {
        let (comma, colon) = if tight { (",", ":") } else { (", ", ": ") };
        let entries: Vec<_> = entries
            .iter()
            .map(|((key, escape), value)| spelled(key, *escape) + colon + value)
            .collect();
        format!("{{{}}}", entries.join(comma))
    })
}

fn message() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => object().prop_map(|headers| format!("\"headers\": {headers}")),
        1 => object().prop_map(|headers| format!("\"head\\u0065rs\": {headers}")),
        2 => object().prop_map(|properties| format!("\"properties\": {properties}")),
        2 => object().prop_map(|body| format!("\"body\": {}", serde_json::Value::from(body))),
        1 => object().prop_map(|other| format!("\"other\": [{other}]")),
    ];
    prop::collection::vec(part, 1..4).prop_map(|parts| format!("{{{}}}", parts.join(", ")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_misses_what_parse_finds(message in message()) {
        if let Ok(envelope) = parse(message.as_bytes(), Keep::Envelope) {
            prop_assert_eq!(finder(&[&envelope.id]).matches(message.as_bytes()), Match::Candidate);
            prop_assert_eq!(finder(&["z"]).matches(message.as_bytes()), Match::No);
        }
    }

    #[test]
    fn never_misses_in_damaged_messages(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"\"\\{}[],: \n0aid".to_vec())), 0..3),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let names: Vec<&str> = SAMPLES.messages.keys().map(String::as_str).collect();
        let mut message = SAMPLES.message(which.get::<&str>(&names)).to_vec();
        for (at, byte) in damage {
            let at = at.index(message.len());
            message[at] = byte;
        }
        if cuts {
            message.truncate(cut.index(message.len()));
        }
        let parsed = parse(&message, Keep::Envelope);
        if let Ok(envelope) = parsed {
            prop_assert_eq!(finder(&[&envelope.id]).matches(&message), Match::Candidate);
        }
        prop_assert_ne!(finder(&[]).matches(&message), Match::Candidate);
    }
}
