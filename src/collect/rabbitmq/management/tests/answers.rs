//! What a server answers, decoded: captured from real ones, and damaged.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::super::*;
use super::server;
use crate::evidence::rabbitmq::QueueType;

fn captured(version: &str, name: &str) -> Value {
    let path = format!(
        "{}/fixtures/management/{version}/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).expect("JSON")
}

fn all<T>(version: &str, name: &str, decode: impl Fn(&Value) -> Decoded<T>) -> Vec<T> {
    let entries = captured(version, name);
    let entries = entries.as_array().expect("a list");
    entries
        .iter()
        .map(|entry| decode(entry).unwrap_or_else(|why| panic!("{name}: {why:?} {entry}")))
        .collect()
}

const VERSIONS: [&str; 2] = ["3.10.8", "4.0.5"];

#[test]
fn captured_queues_are_understood() {
    for version in VERSIONS {
        let queues = all(version, "queues", decode::queue);
        let named = |name: &str| queues.iter().find(|queue| queue.name == name).expect(name);
        let celery = named("celery");
        assert_eq!(celery.kind, Observed::Seen(QueueType::Classic));
        assert_eq!(celery.ready, Observed::Seen(16));
        assert_eq!(celery.unacknowledged, Observed::Seen(8));
        assert_eq!(celery.consumers, Observed::Seen(1));
        assert_eq!(celery.delivered, Observed::Seen(8));
        assert_eq!(celery.acknowledged, Observed::Seen(0));
        assert_eq!(celery.policy, Observed::Seen(BTreeMap::new()));
        assert_eq!(celery.members, None);
        assert_eq!(celery.state.as_deref(), Some("running"));
        let quorum = named("peek_quorum");
        assert_eq!(quorum.kind, Observed::Seen(QueueType::Quorum));
        assert!(
            quorum
                .members
                .as_ref()
                .is_some_and(|(all, up)| all == up && all.len() == 1)
        );
        assert_eq!(named("peek_stream").kind, Observed::Seen(QueueType::Stream));

        let fresh = all(version, "topology-queues", decode::queue);
        let quorum = fresh.iter().find(|queue| queue.name == "qq").expect("qq");
        // Just declared: nothing is known of it yet, and a policy does apply.
        assert!(quorum.ready.seen().is_none() && quorum.policy.seen().is_none());
        let limited = fresh
            .iter()
            .find(|queue| queue.name == "default")
            .expect("default");
        let limit = limited
            .policy
            .seen()
            .and_then(|policy| policy.get("max-length"));
        assert_eq!(limit, Some(&json!(50000)));
        assert_eq!(limited.published.seen(), None);
    }
}

#[test]
fn captured_topology_is_understood() {
    for version in VERSIONS {
        let exchanges = all(version, "topology-exchanges", decode::exchange);
        assert!(exchanges.iter().any(|exchange| exchange.name.is_empty()));
        let topic = exchanges
            .iter()
            .find(|exchange| exchange.name == "events.topic");
        assert_eq!(topic.map(|exchange| exchange.kind.as_str()), Some("topic"));
        let bindings = all(version, "topology-bindings", decode::binding);
        assert!(
            bindings.iter().any(Option::is_none),
            "those of the default exchange"
        );
        let bindings: Vec<_> = bindings.into_iter().flatten().collect();
        assert!(
            bindings
                .iter()
                .any(|binding| binding.routing_key == "feed.#")
        );
        assert!(bindings.iter().all(|binding| !binding.source.is_empty()));

        let lossy = decode::exchange(&captured(version, "exchange")).expect("an exchange");
        assert!(
            lossy
                .published_in
                .seen()
                .is_some_and(|published| *published > 0)
        );
        // Not told is not zero, also where it means it.
        assert_eq!(lossy.published_out.seen(), None);
    }
    let policies = [
        json!({"name": "p", "definition": {"alternate-exchange": "ae"}}),
        json!([]),
    ];
    let alternates = decode::alternates(&policies);
    assert_eq!(alternates.get("p").map(String::as_str), Some("ae"));
}

#[test]
fn captured_clients_are_understood() {
    for (version, timeout) in [("3.10.8", None), ("4.0.5", Some(Some(1_800_000)))] {
        let consumers = all(version, "consumers", decode::consumer);
        let celery = consumers
            .iter()
            .find(|consumer| consumer.queue == "celery")
            .expect("celery");
        assert!(celery.ack_required && celery.active == Some(true));
        assert_eq!(celery.timeout_ms.seen().copied(), timeout);
        let channels = all(version, "channels", decode::channel);
        let worker = channels
            .iter()
            .find(|channel| channel.name == celery.channel)
            .expect("it");
        assert_eq!(worker.connection, celery.connection);
        assert_eq!(worker.unacknowledged, Observed::Seen(8));
        // Global in one, its own in the other.
        assert_eq!(worker.prefetch, Observed::Seen(8));
        let connections = all(version, "connections", decode::connection);
        let own = connections
            .iter()
            .find(|one| one.name == celery.connection)
            .expect("it");
        assert_eq!(own.product.as_deref(), Some("py-amqp"));
        assert_eq!(own.heartbeat_seconds, Some(60));
        assert_eq!(own.state.as_deref(), Some("running"));
        let blocked = all(version, "alarm-connections", decode::connection);
        assert!(
            blocked
                .iter()
                .any(|one| one.state.as_deref() == Some("blocked"))
        );
    }
}

#[test]
fn captured_nodes_and_overviews_are_understood() {
    for (version, dropped) in [("3.10.8", 2), ("4.0.5", 15)] {
        let about = decode::about(&captured(version, "overview"), &[]).expect("an overview");
        assert_eq!(about.product, Observed::Seen("RabbitMQ".to_owned()));
        assert_eq!(about.version, Observed::Seen(version.to_owned()));
        assert_eq!(about.overview.drop_unroutable, Observed::Seen(dropped));
        assert!(!about.statistics_off);
        let nodes = all(version, "nodes", decode::node);
        let [node] = nodes.as_slice() else {
            panic!("one node")
        };
        assert_eq!(node.memory_alarm, Observed::Seen(false));
        assert!(node.memory_used.seen() < node.memory_limit.seen());
        assert!(
            node.descriptors
                .seen()
                .is_some_and(|(used, total)| used < total)
        );
        assert_eq!(alarms_of(&Observed::Seen(nodes)), Some(Vec::new()));
    }
}

#[test]
fn quirks_are_told_apart_from_zero() {
    let queue = |value: Value| decode::queue(&value).expect("a queue");
    let bare = queue(json!({"name": "q"}));
    assert!(
        bare.ready.seen().is_none()
            && bare.arguments.seen().is_none()
            && bare.kind.seen().is_none()
    );
    let odd = queue(json!({
        "name": "q", "arguments": [], "messages_ready": 3.0, "consumers": "undefined", "messages_unacknowledged": null,
        "message_bytes": 9, "messages_persistent": -1, "message_stats": [], "effective_policy_definition": null, "members": {},
        "online": {}, "owner_pid_details": {"name": "x"}, "state": "undefined",
    }));
    assert_eq!(odd.arguments, Observed::Seen(BTreeMap::new()));
    assert_eq!(odd.ready, Observed::Seen(3));
    let reason = |fact: &Observed<u64>| fact.unseen().map(|why| why.reason);
    assert_eq!(reason(&odd.consumers), Some(Reason::Unsupported));
    assert_eq!(reason(&odd.unacknowledged), Some(Reason::Unsupported));
    assert_eq!(reason(&odd.persistent), Some(Reason::Malformed));
    assert_eq!(reason(&odd.published), Some(Reason::Unsupported));
    assert_eq!(odd.policy.seen(), None);
    assert_eq!(odd.members, Some((Vec::new(), Vec::new())));
    assert_eq!((odd.exclusive, odd.state), (Observed::Seen(true), None));

    // The bytes are counted when the persistent ones are; the messages are counted at once.
    let persistent = |bytes: u64| {
        let counts = json!({"name": "q", "messages_ready": 5, "messages_persistent": 0, "message_bytes": bytes});
        queue(counts).persistent.seen().copied()
    };
    assert_eq!((persistent(0), persistent(70)), (None, Some(0)));

    let consumer = |timeout: Value| {
        let value = json!({"queue": {"name": "q"}, "channel_details": [], "ack_required": true, "consumer_timeout": timeout});
        decode::consumer(&value).expect("a consumer").timeout_ms
    };
    assert_eq!(consumer(json!("undefined")), Observed::Seen(None));
    assert_eq!(consumer(json!(5)), Observed::Seen(Some(5)));
    assert!(consumer(json!(null)).seen().is_none() && consumer(json!([])).seen().is_none());

    let channel = json!({"name": "a:1 -> b:2 (3)", "connection_details": []});
    let channel = decode::channel(&channel).expect("a channel");
    assert_eq!(channel.connection, "a:1 -> b:2");
    assert_eq!(channel.consumers.seen(), None);

    let tags = |tags: Value| decode::tags(&json!({"name": "u", "tags": tags})).expect("tags");
    assert_eq!(
        tags(json!("monitoring, policymaker")),
        ["monitoring", "policymaker"]
    );
    assert_eq!(tags(json!(["administrator"])), ["administrator"]);
    assert!(tags(json!("")).is_empty());
    let lavinmq =
        decode::about(&json!({"lavinmq_version": "2.1.0", "node": "n"}), &[]).expect("one");
    assert_eq!(lavinmq.product, Observed::Seen("LavinMQ".to_owned()));
    assert_eq!(lavinmq.version, Observed::Seen("2.1.0".to_owned()));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,6}|undefined|infinity".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("name|queue|tags|type|[a-z]{1,4}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts `what` at the place that `choices` lead to.
fn damage(value: &mut Value, choices: &[usize], what: Value) {
    let Some((choice, rest)) = choices.split_first() else {
        *value = what;
        return;
    };
    let inner = match value {
        Value::Array(list) if !list.is_empty() => {
            let at = choice % list.len();
            list.get_mut(at)
        }
        Value::Object(map) if !map.is_empty() => {
            let at = choice % map.len();
            map.values_mut().nth(at)
        }
        _ => None,
    };
    match inner {
        Some(inner) => damage(inner, rest, what),
        None => *value = what,
    }
}

const LISTS: [&str; 7] = [
    "queues",
    "exchanges",
    "bindings",
    "consumers",
    "channels",
    "connections",
    "nodes",
];

fn check<T>(read: Result<Vec<T>, Why>) {
    if let Err(why) = read {
        assert_eq!(why.reason, Reason::Malformed, "{why:?}");
    }
}

/// Decodes an answer as each of the lists.
fn decode_all(value: &Value) {
    let body = bytes::Bytes::from(value.to_string());
    let answer = Answer {
        status: StatusCode::OK,
        body,
    };
    let http = Http::new(&server("http://h"), None).expect("a client");
    check(entries(&http, &answer, &decode::queue));
    check(entries(&http, &answer, &decode::exchange));
    check(entries(&http, &answer, &decode::binding));
    check(entries(&http, &answer, &decode::consumer));
    check(entries(&http, &answer, &decode::channel));
    check(entries(&http, &answer, &decode::connection));
    check(entries(&http, &answer, &decode::node));
    check(decode::alarms(value));
    check(decode::tags(value));
    check(decode::about(value, &[]).map(|_| Vec::<()>::new()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_json_anywhere_panics(
        list in prop::sample::select(&LISTS[..]),
        version in prop::sample::select(&VERSIONS[..]),
        choices in prop::collection::vec(0_usize..64, 0..5),
        what in any_json(),
    ) {
        let mut value = captured(version, list);
        damage(&mut value, &choices, what);
        decode_all(&value);
    }

    #[test]
    fn half_a_json_is_malformed(cut in 1_usize..2000) {
        let text = captured("4.0.5", "channels").to_string();
        let body = bytes::Bytes::from(text.as_bytes()[..cut.min(text.len() - 1)].to_vec());
        let answer = Answer { status: StatusCode::OK, body };
        let http = Http::new(&server("http://h"), None).expect("a client");
        let why = entries(&http, &answer, &decode::channel).expect_err("half");
        prop_assert_eq!(why.reason, Reason::Malformed);
    }

    #[test]
    fn names_are_whole_segments_of_a_path(name in any::<String>()) {
        let segment = segment(&name);
        prop_assert!(!segment.contains(['/', '?', '#', ' ']) && segment.is_ascii());
        prop_assert!(segment.is_empty() || segment.bytes().any(|byte| byte != b'.'));
        let decoded = percent_encoding::percent_decode_str(&segment).decode_utf8_lossy();
        prop_assert_eq!(decoded, name);
    }
}
