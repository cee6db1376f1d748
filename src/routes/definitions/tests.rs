use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::celery::amqp_routing::Routed;

const ONE_3: &[u8] = include_bytes!("../../../fixtures/definitions/vhost-3.10.8.json");
const ONE_4: &[u8] = include_bytes!("../../../fixtures/definitions/vhost-4.0.5.json");
const ALL_3: &[u8] = include_bytes!("../../../fixtures/definitions/broker-3.10.8.json");
const ALL_4: &[u8] = include_bytes!("../../../fixtures/definitions/broker-4.0.5.json");

fn routed(definitions: &Definitions, exchange: &str, key: &str) -> Vec<String> {
    let alternates = definitions.alternates();
    match definitions.topology(&alternates).route(exchange, key, None) {
        Routed::Queues(queues) => queues.into_iter().map(str::to_owned).collect(),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn exports_of_one_virtual_host_and_of_all() {
    for (json, name) in [
        (ONE_3, Some("topo")),
        (ONE_4, Some("topo")),
        (ALL_3, Some("topo")),
        (ALL_4, Some("topo")),
    ] {
        let definitions = parse(json, name).expect("definitions");
        assert_eq!(definitions.vhost.as_deref(), name);
        assert_eq!(definitions.queues.len(), 11);
        assert_eq!(definitions.exchanges.len(), 4 + ALWAYS.len());
        assert_eq!(definitions.bindings.len(), 11);
        assert_eq!(definitions.policies.len(), 1);
        assert_eq!(routed(&definitions, "tasks", "prio"), ["prio"]);
        assert_eq!(
            routed(&definitions, "events.topic", "feed.a.b"),
            ["topic_q"]
        );
        assert_eq!(routed(&definitions, "events.topic", "other"), ["Nowhere"]);
        assert_eq!(routed(&definitions, "bcast", "x"), ["fan1"]);
        assert_eq!(routed(&definitions, "", "prio"), ["prio"]);
        assert_eq!(routed(&definitions, "amq.topic", "x"), ["Nowhere"]);
        let quorum = definitions
            .queues
            .iter()
            .find(|queue| queue.name == "qq")
            .expect("qq");
        assert_eq!(quorum.arguments["x-delivery-limit"], 5);
    }
}

#[test]
fn the_virtual_host_must_be_there() {
    let error = parse(ALL_3, Some("prod")).expect_err("there is none");
    assert_eq!(
        error.to_string(),
        "it has no virtual host prod; it has /, topo"
    );
    let error = parse(ALL_3, None).expect_err("which one?");
    assert_eq!(
        error.to_string(),
        "it has several virtual hosts; name one of /, topo"
    );
    let error = parse(ONE_4, Some("prod")).expect_err("it is another's");
    assert_eq!(
        error.to_string(),
        "it has no virtual host prod; it has topo"
    );
    let nameless = parse(br#"{"queues": [{"name": "q"}]}"#, Some("prod")).expect("definitions");
    assert_eq!(nameless.vhost.as_deref(), Some("prod"));
    assert_eq!(nameless.queues.len(), 1);
    assert_eq!(
        parse(ONE_4, None).expect("one").vhost.as_deref(),
        Some("topo")
    );
}

#[test]
fn what_is_no_export_is_said() {
    for (json, start) in [
        (
            "",
            "it is not the JSON of a definitions export: EOF while parsing a value at line 1",
        ),
        (
            "<html>",
            "it is not the JSON of a definitions export: expected value at line 1",
        ),
        ("[]", "it is not the JSON of a definitions export: "),
        ("{}", "it is JSON, but has none of the lists"),
        (
            r#"{"error": "not_authorised"}"#,
            "it is JSON, but has none of the lists",
        ),
        (
            r#"{"queues": 1}"#,
            "it is not the JSON of a definitions export: invalid type: integer",
        ),
        (
            "{\"queues\": [\n{\"nam\": 1}]}",
            "it is not the JSON of a definitions export: missing field `name` at line 2",
        ),
    ] {
        let error = parse(json.as_bytes(), None)
            .expect_err("no export")
            .to_string();
        assert!(error.starts_with(start), "{error}");
    }
    let large = vec![b' '; LARGEST + 1];
    assert_eq!(
        parse(&large, None),
        Err(DefinitionsError::TooLarge(LARGEST + 1))
    );
}

#[test]
fn alternate_exchanges_by_argument_and_by_policy() {
    let with = |policies: Value, arguments: Value| {
        let json = json!({
            "queues": [{"name": "rest", "arguments": []}],
            "exchanges": [
                {"name": "tasks", "type": "direct", "arguments": arguments},
                {"name": "lost", "type": "fanout", "arguments": null},
            ],
            "bindings": [{"source": "lost", "destination": "rest", "destination_type": "queue", "routing_key": ""}],
            "policies": policies,
        });
        let definitions = parse(json.to_string().as_bytes(), None).expect("definitions");
        routed(&definitions, "tasks", "k").join(" ")
    };
    let policy = |name: &str, pattern: &str, priority: i64, to: &str| {
        json!({"name": name, "pattern": pattern, "priority": priority, "apply-to": "exchanges",
               "definition": {"alternate-exchange": to}})
    };
    assert_eq!(with(json!([]), json!({})), "Nowhere");
    assert_eq!(
        with(json!([]), json!({"alternate-exchange": "lost"})),
        "rest"
    );
    assert_eq!(
        with(json!([policy("a", "^ta", 0, "lost")]), json!({})),
        "rest"
    );
    assert_eq!(
        with(json!([policy("a", "^x", 0, "lost")]), json!({})),
        "Nowhere"
    );
    let higher = policy("b", ".*", 1, "none");
    assert_eq!(
        with(json!([policy("a", "^ta", 0, "lost"), higher]), json!({})),
        "Nowhere"
    );
    // The argument wins.
    let own = json!({"alternate-exchange": "lost"});
    assert_eq!(with(json!([policy("a", "^ta", 0, "none")]), own), "rest");
    let queues = json!([{"name": "a", "pattern": ".*", "apply-to": "queues", "definition": {"alternate-exchange": "lost"}}]);
    assert_eq!(with(queues, json!({})), "Nowhere");
    let odd = with(json!([policy("a", "^(?!x)", 0, "lost")]), json!({}));
    assert!(
        odd.contains("the pattern of policy a can't be read"),
        "{odd}"
    );
    let even = with(
        json!([policy("a", "t", 0, "lost"), policy("b", "s", 0, "none")]),
        json!({}),
    );
    assert!(
        even.contains("policies a and b have the same priority"),
        "{even}"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&bytes, None);
    }

    #[test]
    fn any_cut_of_an_export_is_survived(at in 0..4000usize) {
        let _ = parse(ONE_3.get(..at).unwrap_or(ONE_3), Some("topo"));
    }
}
