use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::url::{Broker, UrlOptions, parse_broker, parse_management};
use crate::evidence::rabbitmq::QueueType;

#[path = "../../../../tests/live/lab/rabbit_node.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "made for the live tests, which use all of it"
)]
mod rabbit_node;
use rabbit_node::{RabbitNode, RabbitUser, Vhost};

fn server(url: &str) -> ManagementServer {
    let broker = parse_broker("amqp://", &UrlOptions::default());
    let Ok(Broker::Amqp(servers)) = broker else {
        panic!("an AMQP URL")
    };
    parse_management(url, &servers.first, &UrlOptions::default()).expect("a management URL")
}

fn run<T>(read: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(read)
}

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
        "messages_persistent": -1, "message_stats": [], "effective_policy_definition": null, "members": {},
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
    let http = Http::new(&server("http://h")).expect("a client");
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
        let http = Http::new(&server("http://h")).expect("a client");
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

/// A server that answers each request with the next of `answers`, and then closes; what it was asked.
fn false_server(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let asked = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            asked.push(String::from_utf8_lossy(&request).into_owned());
            let _ = stream.write_all(&answer);
        }
        asked
    });
    (format!("http://u:hunter2@127.0.0.1:{port}"), asked)
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

fn connect_error(answers: Vec<Vec<u8>>) -> Why {
    let (url, asked) = false_server(answers);
    let why = run(ManagementReader::connect(&server(&url)))
        .err()
        .expect("an error");
    for request in asked.join().expect("the server ends") {
        assert!(
            request.is_empty() || request.starts_with("GET /api/"),
            "{request}"
        );
    }
    assert!(
        !why.detail.contains("hunter2") && !why.detail.contains("SECRET"),
        "{why:?}"
    );
    why
}

#[test]
fn answers_that_are_none_are_named() {
    let cases = [
        (
            answer("200 OK", "<html>SECRET</html>"),
            Reason::Malformed,
            "web page",
        ),
        (
            answer("200 OK", "{\"tags\": [\"SECRET"),
            Reason::Malformed,
            "in the middle",
        ),
        (answer("200 OK", "SECRET"), Reason::Malformed, "is not JSON"),
        (answer("200 OK", "[]"), Reason::Malformed, "no object"),
        (answer("200 OK", ""), Reason::Malformed, "in the middle"),
        (
            answer("401 No", "{\"reason\": \"Login failed SECRET\"}"),
            Reason::Refused,
            "--management",
        ),
        (
            answer("401 No", "{\"reason\": \"Not management user\"}"),
            Reason::Refused,
            "tag monitoring",
        ),
        (answer("404 No", "SECRET"), Reason::Unsupported, "(404)"),
        (
            answer("302 Found", ""),
            Reason::Unsupported,
            "sends elsewhere",
        ),
        (answer("502 Bad", "<html>"), Reason::Unreachable, "(502)"),
        (
            answer("418 Tea", ""),
            Reason::Unsupported,
            "does not take the request",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"tags\"".to_vec(),
            Reason::Unreachable,
            "broke off",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x46".to_vec(),
            Reason::Malformed,
            "write https://",
        ),
        (
            b"AMQP\x00\x00\x09\x01".to_vec(),
            Reason::Malformed,
            "does not answer in HTTP",
        ),
        (Vec::new(), Reason::Unreachable, "closed the connection"),
    ];
    for (bytes, reason, words) in cases {
        let why = connect_error(vec![bytes.clone()]);
        let sent = String::from_utf8_lossy(&bytes);
        assert_eq!(why.reason, reason, "{sent}: {why:?}");
        assert!(why.detail.contains(words), "{sent}: {why:?}");
    }
}

#[test]
fn tls_to_a_plain_port_is_named() {
    let url = format!("https://127.0.0.1:{}", RabbitNode::shared().http_port);
    let why = run(ManagementReader::connect(&server(&url)))
        .err()
        .expect("an error");
    assert!(why.detail.contains("does not speak TLS"), "{why:?}");
}

#[test]
fn large_and_late_answers_are_given_up() {
    let get = |limit: usize, patience: Duration, bytes: Vec<u8>| {
        let (url, _) = false_server(vec![bytes]);
        let http = Http::new(&server(&url))
            .expect("a client")
            .with_limits(limit, patience);
        run(http.get("/api/whoami")).err().expect("an error").reason
    };
    let long = answer("200 OK", &" ".repeat(5000));
    assert_eq!(get(4999, Duration::from_secs(5), long), Reason::Truncated);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let http = Http::new(&server(&url)).expect("a client");
    let http = http.with_limits(1, Duration::from_millis(50));
    let late = run(http.get("/api/whoami")).err().expect("an error");
    assert_eq!(late.reason, Reason::TimedOut);
}

fn page(page: u64, of: u64, total: u64, names: &[&str]) -> Vec<u8> {
    let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let body = json!({"page": page, "page_count": of, "total_count": total, "items": items});
    answer("200 OK", &body.to_string())
}

fn queues_from(mut answers: Vec<Vec<u8>>) -> (Observed<Vec<String>>, Vec<String>) {
    answers.insert(0, answer("200 OK", "{}"));
    answers.insert(0, answer("200 OK", "{\"tags\": \"monitoring\"}"));
    let (url, asked) = false_server(answers);
    let queues = run(async {
        let reader = ManagementReader::connect(&server(&url)).await?;
        Ok::<_, Why>(reader.queues("a/b").await)
    });
    let queues = queues.expect("connected");
    let paths = asked.join().expect("the server ends").into_iter().skip(2);
    let paths = paths.map(|request| request.split(' ').nth(1).unwrap_or_default().to_owned());
    let names = queues.map(|queues| queues.into_iter().map(|queue| queue.name).collect());
    (names, paths.collect())
}

fn seen(names: &[&str]) -> Observed<Vec<String>> {
    Observed::Seen(names.iter().map(|&name| name.to_owned()).collect())
}

#[test]
fn pages_are_joined_and_read_again_where_they_shift() {
    let (queues, paths) = queues_from(vec![page(1, 2, 3, &["a", "b"]), page(2, 2, 3, &["c"])]);
    assert_eq!(queues, seen(&["a", "b", "c"]));
    assert!(paths[0].starts_with("/api/queues/a%2Fb?page=1&page_size=500&sort=name&columns="));

    // One went while it was read: the second page begins one later.
    let shifted = [page(1, 2, 4, &["a", "b"]), page(2, 2, 3, &["d"])];
    let again = [page(1, 2, 3, &["b", "c"]), page(2, 2, 3, &["d"])];
    let (queues, _) = queues_from([shifted.clone(), again].concat());
    assert_eq!(queues, seen(&["b", "c", "d"]));

    // It never rests: at last in one answer.
    let whole = answer("200 OK", "[{\"name\": \"a\"}]");
    let (queues, paths) =
        queues_from([&shifted[..], &shifted[..], std::slice::from_ref(&whole)].concat());
    assert_eq!(queues, seen(&["a"]));
    assert!(
        paths
            .last()
            .is_some_and(|path| path.starts_with("/api/queues/a%2Fb?columns=name"))
    );

    // A server that knows no pages.
    let (queues, _) = queues_from(vec![whole.clone(), whole.clone(), whole]);
    assert_eq!(queues, seen(&["a"]));
}

#[test]
fn without_statistics_an_empty_list_is_unseen() {
    // As RabbitMQ 3.10 answers under management_agent.disable_metrics_collector: no connections, whatever there are.
    let off = json!({"product_name": "RabbitMQ", "disable_stats": true}).to_string();
    let (url, _) = false_server(vec![
        answer("200 OK", "{\"tags\": [\"administrator\"]}"),
        answer("200 OK", &off),
        answer("200 OK", "[]"),
    ]);
    let connections = run(async {
        let reader = ManagementReader::connect(&server(&url)).await?;
        Ok::<_, Why>(reader.connections("/").await)
    });
    let connections = connections.expect("connected");
    let why = connections.unseen().expect("unseen");
    assert_eq!(why.reason, Reason::Unsupported);
    assert!(why.detail.contains("disable_metrics_collector"), "{why:?}");
}

#[test]
fn a_list_that_lacks_an_entry_is_no_list() {
    let (queues, _) = queues_from(vec![answer(
        "200 OK",
        "{\"page_count\": 1, \"total_count\": 2, \"items\": [{\"name\": \"a\"}, {}]}",
    )]);
    assert_eq!(
        queues.unseen().map(|why| why.reason),
        Some(Reason::Malformed)
    );
}

fn everything(url: &str, vhost: &str) -> RabbitMq {
    let not_asked = || Why::new(Reason::NotAsked, "");
    let mut rabbit = RabbitMq {
        vhost: vhost.to_owned(),
        product: Observed::Unseen(not_asked()),
        version: Observed::Unseen(not_asked()),
        management_url: None,
        overview: Observed::not_asked(""),
        nodes: Observed::not_asked(""),
        alarms: Observed::not_asked(""),
        queues: Observed::not_asked(""),
        exchanges: Observed::not_asked(""),
        bindings: Observed::not_asked(""),
        consumers: Observed::not_asked(""),
        channels: Observed::not_asked(""),
        connections: Observed::not_asked(""),
    };
    run(async {
        match ManagementReader::connect(&server(url)).await {
            Ok(reader) => reader.read_all(vhost, &mut rabbit).await,
            Err(why) => leave_unseen(&mut rabbit, &why),
        }
    });
    rabbit
}

fn vhost() -> Vhost {
    RabbitNode::shared().vhost()
}

/// Statistics come a second after what they are of.
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("never: {what}")
}

#[test]
fn a_real_virtual_host_is_read() {
    let base = vhost();
    let vhost = base.node.vhost_named(&format!("{} /é%", base.name));
    vhost.declare(
        "q/1 ?",
        &json!({"durable": true, "arguments": {"x-max-priority": 3}}),
    );
    vhost.declare(
        "qq",
        &json!({"durable": true, "arguments": {"x-queue-type": "quorum"}}),
    );
    vhost.policy("^q", &json!({"max-length": 9}));
    vhost.policy("^tasks$", &json!({"alternate-exchange": "lost"}));
    let exchange = vhost.path("exchanges", "tasks");
    vhost.node.api("PUT", &exchange, &json!({"type": "topic"}));
    let binding = vhost.path("bindings", "e/tasks/q/qq");
    vhost
        .node
        .api("POST", &binding, &json!({"routing_key": "a.#"}));
    vhost.publish("", "q/1 ?", "x");
    vhost.publish("", "q/1 ?", "x");
    let rabbit = eventually("the statistics", || {
        let rabbit = everything(&vhost.node.management_url(), &vhost.name);
        let queues = rabbit.queues.seen()?;
        let told = queues
            .iter()
            .all(|queue| queue.ready.seen().is_some() && queue.policy.seen().is_some());
        let ready = queues.iter().any(|queue| queue.ready == Observed::Seen(2));
        (told && ready).then_some(rabbit)
    });
    assert!(
        rabbit
            .version
            .seen()
            .is_some_and(|version| version.contains('.')),
        "{rabbit:?}"
    );
    let nodes = rabbit
        .nodes
        .seen()
        .expect("an administrator sees the nodes");
    assert!(
        nodes
            .iter()
            .all(|node| node.running && node.memory_alarm == Observed::Seen(false))
    );
    assert_eq!(rabbit.alarms, Observed::Seen(Vec::new()));
    let queues = rabbit.queues.seen().expect("the queues");
    assert_eq!(queues.len(), 2);
    assert_eq!(queues[0].name, "q/1 ?");
    assert_eq!(queues[1].kind, Observed::Seen(QueueType::Quorum));
    for queue in queues {
        let limit = queue
            .policy
            .seen()
            .and_then(|policy| policy.get("max-length"));
        assert_eq!(limit, Some(&json!(9)), "{queue:?}");
    }
    let exchanges = rabbit.exchanges.seen().expect("the exchanges");
    let tasks = exchanges
        .iter()
        .find(|exchange| exchange.name == "tasks")
        .expect("tasks");
    assert_eq!(tasks.alternate.as_deref(), Some("lost"));
    let bindings = rabbit.bindings.seen().expect("the bindings");
    assert_eq!(bindings.len(), 1);
    assert_eq!(
        (
            bindings[0].source.as_str(),
            bindings[0].routing_key.as_str()
        ),
        ("tasks", "a.#")
    );
    for empty in [
        rabbit.consumers.seen().map(Vec::len),
        rabbit.channels.seen().map(Vec::len),
    ] {
        assert_eq!(empty, Some(0));
    }
    assert_eq!(rabbit.connections, Observed::Seen(Vec::new()));
    assert_eq!(
        rabbit.overview.seen().expect("it").user_tags,
        ["administrator"]
    );
    assert!(!rabbit.management_url.expect("it").contains("guest"));
}

fn user_reads(user: &RabbitUser, vhost: &Vhost) -> RabbitMq {
    everything(&user.management_url(), &vhost.name)
}

#[test]
fn what_a_user_is_not_shown_is_unseen() {
    let vhost = vhost();
    vhost.declare("q", &json!({}));
    let is_refused = |why: Option<&Why>, words: &str| {
        let why = why.expect("unseen");
        assert_eq!(why.reason, Reason::Refused, "{why:?}");
        assert!(
            why.detail.contains(words) && !why.detail.contains("hunter2"),
            "{why:?}"
        );
    };
    let nobody = user_reads(&vhost.node.user(""), &vhost);
    is_refused(nobody.queues.unseen(), "set_user_tags USER monitoring");
    is_refused(nobody.overview.unseen(), "set_user_tags USER monitoring");

    let manager = vhost.node.user("management");
    is_refused(
        user_reads(&manager, &vhost).queues.unseen(),
        "set_permissions",
    );
    manager.permit(&vhost, "", "", "");
    let seen = user_reads(&manager, &vhost);
    assert_eq!(seen.queues.seen().map(Vec::len), Some(1));
    assert_eq!(seen.alarms, Observed::Seen(Vec::new()));
    for why in [
        seen.consumers.unseen(),
        seen.channels.unseen(),
        seen.connections.unseen(),
        seen.nodes.unseen(),
    ] {
        is_refused(why, "tag monitoring");
    }

    let monitor = vhost.node.user("monitoring");
    let seen = user_reads(&monitor, &vhost);
    is_refused(seen.queues.unseen(), "no permission in the virtual host");
    is_refused(seen.channels.unseen(), "no permission in the virtual host");
    assert!(seen.nodes.seen().is_some());
    monitor.permit(&vhost, "", "", "");
    let seen = user_reads(&monitor, &vhost);
    assert_eq!(seen.queues.seen().map(Vec::len), Some(1));
    assert_eq!(seen.connections, Observed::Seen(Vec::new()));
}

#[test]
fn a_wrong_password_and_a_missing_virtual_host_are_named() {
    let vhost = vhost();
    let port = vhost.node.http_port;
    let wrong = format!("http://guest:hunter2@127.0.0.1:{port}");
    let why = run(ManagementReader::connect(&server(&wrong)))
        .err()
        .expect("refused");
    assert_eq!(why.reason, Reason::Refused);
    assert!(
        why.detail.contains("--management") && !why.detail.contains("hunter2"),
        "{why:?}"
    );

    let rabbit = everything(&vhost.node.management_url(), "no/such host");
    for why in [
        rabbit.queues.unseen(),
        rabbit.exchanges.unseen(),
        rabbit.bindings.unseen(),
        rabbit.consumers.unseen(),
        rabbit.channels.unseen(),
        rabbit.connections.unseen(),
    ] {
        let why = why.expect("unseen");
        assert!(
            why.detail.contains("no virtual host \"no/such host\""),
            "{why:?}"
        );
    }
    assert!(rabbit.nodes.seen().is_some() && rabbit.overview.seen().is_some());

    let off = format!("{}/elsewhere", vhost.node.management_url());
    let why = run(ManagementReader::connect(&server(&off)))
        .err()
        .expect("not there");
    assert!(why.detail.contains("has no management API"), "{why:?}");
}

#[test]
fn a_thousand_queues_are_read_in_pages() {
    let vhost = vhost();
    let empty = everything(&vhost.node.management_url(), &vhost.name);
    assert_eq!(empty.queues, Observed::Seen(Vec::new()));
    for chunk in 0..4 {
        let queues: Vec<Value> = (0..300)
            .map(|n| json!({"name": format!("q{}", chunk * 300 + n), "durable": false, "auto_delete": false, "arguments": {}}))
            .collect();
        vhost.node.api(
            "POST",
            &vhost.path("definitions", ""),
            &json!({"queues": queues}),
        );
    }
    let queues = run(async {
        let reader = ManagementReader::connect(&server(&vhost.node.management_url())).await?;
        Ok::<_, Why>(reader.queues(&vhost.name).await)
    });
    let queues = queues.expect("connected");
    let names: BTreeSet<_> = queues
        .seen()
        .expect("seen")
        .iter()
        .map(|queue| &queue.name)
        .collect();
    assert_eq!(names.len(), 1200);
}
