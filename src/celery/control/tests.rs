use proptest::prelude::*;

use super::*;
use crate::celery::samples::SAMPLES;
use crate::celery::when::When;

/// The message of a request with its body decoded.
fn opened(message: &str) -> Value {
    let mut message: Value = serde_json::from_str(message).expect("json");
    let body = STANDARD
        .decode(message["body"].as_str().expect("a body"))
        .expect("base64");
    message["body"] = serde_json::from_slice(&body).expect("json");
    message
}

#[test]
fn a_request_is_what_kombu_sends() {
    let theirs = opened(&SAMPLES.request);
    let ticket = theirs["body"]["ticket"].as_str().expect("a ticket");
    let oid = theirs["body"]["reply_to"]["routing_key"]
        .as_str()
        .expect("an oid");
    let expires = theirs["headers"]["expires"].as_f64().expect("a time");
    let mut ours = opened(&request(
        "active",
        json!({"safe": null}),
        ticket,
        oid,
        expires,
    ));
    ours["properties"]["delivery_tag"] = theirs["properties"]["delivery_tag"].clone();
    assert_eq!(ours, theirs);
}

#[test]
fn names() {
    assert_eq!(channel(3, "celery.pidbox"), "/3.celery.pidbox");
    assert_eq!(
        reply_binding("OID", DEFAULT_SEP),
        "OID\x06\x16\x06\x16OID.reply.celery.pidbox"
    );
    assert_eq!(
        node_of_mailbox(b"\x06\x16\x06\x16w1@lab.celery.pidbox").as_deref(),
        Some("w1@lab")
    );
    assert_eq!(node_of_mailbox(b"\x06\x16\x06\x16.celery.pidbox"), None);
    assert_eq!(node_of_mailbox(b"\xff"), None);
}

fn read(message: &[u8]) -> Reply {
    match parse_reply(message) {
        Some(Heard::Reply(reply)) => reply,
        other => panic!("no reply: {other:?}"),
    }
}

#[test]
fn a_reply() {
    let reply = read(SAMPLES.reply.as_bytes());
    assert_eq!(
        reply,
        Reply {
            ticket: "T9".into(),
            node: "w1@lab".into(),
            answer: json!({"ok": "pong"}),
            dialect: None,
        }
    );
    for bytes in [b"".as_slice(), b"{}", b"[]", b"\xff"] {
        assert_eq!(parse_reply(bytes), None);
    }
}

#[test]
fn a_reply_in_a_serializer_of_the_app_is_read_by_its_content_or_noted() {
    let message = |content_type: &str, body: &str| {
        let message =
            json!({"body": body, "content-type": content_type, "headers": {"ticket": "T"}});
        message.to_string().into_bytes()
    };
    let house = read(&message(
        "application/x-house",
        r#"{"w1@lab": {"ok": "pong"}}"#,
    ));
    assert_eq!(
        (house.node.as_str(), &house.answer),
        ("w1@lab", &json!({"ok": "pong"}))
    );
    assert_eq!(house.dialect.as_deref(), Some("application/x-house"));
    let plain = read(&message(
        "application/json",
        r#"{"w1@lab": {"ok": "pong"}}"#,
    ));
    assert_eq!(plain.dialect, None);
    let unreadable = [
        ("application/x-house", "gAAAAABsealed=="),
        ("application/x-house", r#"{"version": 1, "data": {}}"#),
        ("application/x-house", r#"{"sealed": "gAAAAAB"}"#),
        ("application/x-yaml", "w1@lab: {ok: pong}"),
        ("application/json", "{}"),
    ];
    for (content_type, body) in unreadable {
        let heard = Heard::Unreadable {
            ticket: "T".to_owned(),
            content_type: content_type.to_owned(),
        };
        assert_eq!(
            parse_reply(&message(content_type, body)),
            Some(heard),
            "{body}"
        );
    }
    // Text of others is cut to what a content type is made of.
    let odd = parse_reply(&message("x/\u{1b}[31m y\n", "?"));
    assert!(
        matches!(odd, Some(Heard::Unreadable { content_type, .. }) if content_type == "x/31my")
    );
}

#[test]
fn arguments_do_not_get_in() {
    let body = json!({"w": [{"id": "x", "args": ["private"], "kwargs": {"private": 1}, "r": {"args": ["private"]}}]});
    let message = json!({"body": body.to_string(), "content-type": "application/json", "headers": {"ticket": "T"}});
    let reply = read(message.to_string().as_bytes());
    assert_eq!(reply.answer, json!([{"id": "x", "r": {}}]));
}

#[test]
fn an_error_is_told_from_an_answer() {
    assert!(is_error(&SAMPLES.bad_request));
    assert!(!is_error(SAMPLES.answer("query")));
    assert!(!is_error(&json!({"error": ["active", {"id": "error"}]})));
    assert!(!is_error(&Value::Null));
}

#[test]
fn claims() {
    let active = decode_active(SAMPLES.answer("active"));
    assert_eq!(active.len(), 2);
    let mut first = active[0].clone();
    assert!(first.time_start.take().is_some_and(|at| at > 1.7e9) && first.pid.take().is_some());
    assert_eq!(
        first,
        Claim {
            id: "s1".into(),
            task: Some("lab.sleep".into()),
            state: ClaimState::Active,
            time_start: None,
            eta: None,
            acknowledged: Some(true),
            redelivered: false,
            exchange: Some(String::new()),
            routing_key: Some("celery".into()),
            pid: None,
        }
    );
    let reserved = decode_reserved(SAMPLES.answer("reserved"));
    assert_eq!(
        reserved
            .iter()
            .map(|claim| claim.id.as_str())
            .collect::<Vec<_>>(),
        ["boom1", "s3"]
    );
    assert_eq!(
        (reserved[0].state, reserved[0].acknowledged),
        (ClaimState::Reserved, Some(false))
    );
    let scheduled = decode_scheduled(SAMPLES.answer("scheduled"));
    assert_eq!(scheduled[0].eta, When::parse("2026-11-22T10:38:32.197469Z"));
    let queried = decode_query_task(SAMPLES.answer("query"));
    assert_eq!(
        (queried.len(), queried[0].state),
        (1, ClaimState::Scheduled)
    );
    assert_eq!(decode_revoked(&json!(["a", 5, "b"])), ["a", "b"]);
    assert!(decode_revoked(SAMPLES.answer("revoked")).is_empty());
}

#[test]
fn registered_tasks() {
    let tasks = decode_registered(SAMPLES.answer("reg"));
    assert_eq!(tasks.len(), 7);
    let add = &tasks["lab.add"];
    assert_eq!(
        (
            add.acks_late,
            add.time_limit,
            add.ignore_result,
            add.max_retries
        ),
        (Some(true), Some(3600.0), Some(false), Some(3))
    );
    assert_eq!(
        (
            add.reject_on_worker_lost,
            add.soft_time_limit,
            &add.rate_limit
        ),
        (None, None, &None)
    );
    let limited = &tasks["lab.lim"];
    assert_eq!(
        (
            limited.soft_time_limit,
            limited.rate_limit.as_deref(),
            limited.ignore_result
        ),
        (Some(1.5), Some("10/m"), Some(true))
    );
    assert_eq!(tasks["odd [x=1]"].acks_late, Some(false));
}

#[test]
fn odd_traits() {
    let tasks = decode_registered(&json!([
        "bare",
        "a [b]",
        "s [rate_limit=a b=[c] max_retries=None]",
        "é [acks_late=é]",
        "x [acks_late=",
        5
    ]));
    assert_eq!(tasks["bare"], TaskTraits::default());
    assert_eq!(tasks["a [b]"], TaskTraits::default());
    assert_eq!(tasks["s"].rate_limit.as_deref(), Some("a b=[c]"));
    assert_eq!(tasks["s"].max_retries, None);
    assert_eq!(tasks["é"].acks_late, None);
    assert!(tasks.contains_key("x [acks_late="));
}

#[test]
fn queues_statistics_and_settings() {
    let queue = ActiveQueue {
        name: "celery".into(),
        exchange: Some("celery".into()),
        exchange_type: Some("direct".into()),
        routing_key: Some("celery".into()),
    };
    assert_eq!(
        decode_active_queues(SAMPLES.answer("active_queues")),
        [queue]
    );

    let stats = decode_stats(SAMPLES.answer("stats"));
    assert_eq!(
        (stats.concurrency, stats.processes, stats.prefetch_count),
        (Some(2), Some(2), Some(6))
    );
    assert_eq!(
        stats.pool.as_deref(),
        Some("celery.concurrency.prefork:TaskPool")
    );
    assert_eq!(stats.ready_processes, Some(2));
    assert_eq!(
        stats.transport,
        TransportOptions {
            visibility_timeout: Some(7200.0),
            ..TransportOptions::default()
        }
    );
    assert_eq!(stats.total["lab.boom"], 2);

    let conf = decode_conf(SAMPLES.answer("conf"));
    assert_eq!(conf.result_backend.as_deref(), Some("redis"));
    assert_eq!(
        (conf.worker_prefetch_multiplier, conf.task_track_started),
        (Some(2), Some(true))
    );
    // The worker was asked for what differs from the defaults, so that the rest is not told.
    assert_eq!((conf.task_acks_late, conf.task_default_queue), (None, None));
    let mut routes = conf.task_routes.expect("routes");
    routes.sort_by(|a, b| a.pattern.cmp(&b.pattern));
    assert_eq!(
        routes[0],
        Route {
            pattern: "lab.*.x".into(),
            queue: Some("q2".into()),
            ..Route::default()
        }
    );
    assert_eq!(routes[1].queue.as_deref(), Some("slowq"));
}

#[test]
fn the_database_of_a_result_backend() {
    let database = |url: &str| decode_conf(&json!({"result_backend": url})).result_database;
    assert_eq!(database("redis://:********@shop:6379/5"), Some(5));
    assert_eq!(database("rediss://shop/2?ssl_cert_reqs=required"), Some(2));
    assert_eq!(database("redis://shop:6379"), Some(0));
    assert_eq!(database("redis://shop:6379/"), Some(0));
    for other in [
        "sentinel://a:1/1;sentinel://b:1/1",
        "redis+socket:///run/redis.sock?virtual_host=3",
        "redis://shop?virtual_host=3",
        "redis://shop/x",
        "rpc://",
        "db+postgresql://shop/1",
        "disabled",
        "",
    ] {
        assert_eq!(database(other), None, "{other}");
    }
}

#[test]
fn odd_settings() {
    let conf = decode_conf(&json!({
        "result_backend": "db+postgresql://me:private@host/x", "result_expires": "1 day, 2:00:03.5", "accept_content": "json",
        "task_routes": [{"a": {"exchange": "e", "routing_key": "k"}}, ["b", "q"], [["c", {"queue": "r"}]], 5,
            [["re.compile('d.*')", "s"]]],
    }));
    assert_eq!(conf.result_backend.as_deref(), Some("db"));
    assert_eq!(conf.result_expires, Some(93_603.5));
    assert_eq!(conf.accept_content, None);
    assert!(conf.has_other_routers);
    let routes = conf.task_routes.expect("routes");
    assert_eq!(
        routes
            .iter()
            .map(|route| route.pattern.as_str())
            .collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    assert_eq!(routes[0].exchange.as_deref(), Some("e"));
    for odd in ["", "x", "1 day", "a, 1:2:3", "1:2"] {
        assert_eq!(
            decode_conf(&json!({"result_expires": odd})).result_expires,
            None,
            "{odd}"
        );
    }
}

#[test]
fn settings_have_one_name_whatever_the_project_gave_them() {
    // As Django's settings under a namespace come: the defaults' own names hold what the app has.
    let namespaced = decode_conf(&json!({
        "CELERY_ACCEPT_CONTENT": ["json", "pickle"], "accept_content": ["json", "pickle"],
        "CELERY_RESULT_EXPIRES": 5, "result_expires": 5, "MY_CELERY_TASK_ACKS_LATE": true, "task_acks_late": false,
        "task_routes": null, "result_backend_transport_options": {"global_keyprefix": STARRED},
    }));
    assert_eq!(
        namespaced.accept_content,
        Some(vec!["json".into(), "pickle".into()])
    );
    assert_eq!(namespaced.result_expires, Some(5.0));
    assert_eq!(namespaced.task_acks_late, Some(false));
    assert_eq!(namespaced.task_routes, Some(Vec::new()));
    assert_eq!(namespaced.result_key_prefix.as_deref(), Some(STARRED));
    // As those in old style come.
    let old = decode_conf(&json!({
        "CELERY_DEFAULT_QUEUE": "jobs", "CELERY_TASK_RESULT_EXPIRES": null, "CELERYD_PREFETCH_MULTIPLIER": 1,
        "CELERY_ROUTES": "shop.routes.route", "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS": {},
        "CELERY_ACCEPT_CONTENT": "{'json', 'yaml'}",
    }));
    assert_eq!(old.task_default_queue.as_deref(), Some("jobs"));
    assert_eq!(old.result_expires, Some(0.0));
    assert_eq!(old.worker_prefetch_multiplier, Some(1));
    assert_eq!(
        (old.task_routes, old.has_other_routers),
        (Some(Vec::new()), true)
    );
    assert_eq!(old.result_key_prefix.as_deref(), Some(""));
    assert_eq!(old.accept_content, Some(vec!["json".into(), "yaml".into()]));
    // What is not there, or starred, or of another kind, is not told.
    let blind = decode_conf(&json!({
        "CELERY_TASK_DEFAULT_QUEUE": "jobs", "accept_content": "{json}", "task_acks_late": "False",
        "task_default_queue": STARRED, "result_backend": null,
    }));
    assert_eq!(blind, Conf::default());
}

#[test]
fn the_result_backend_is_the_one_that_the_worker_reports() {
    let report = |results: &str| {
        let text = format!(
            "\nsoftware -> celery:5.2.7 (dawn-chorus) kombu:5.2.4 py:3.11.7\n            billiard:3.6.4.0 redis:4.5.5\n\
             settings -> transport:redis results:{results}\n\nCELERY_NOTE: 'results:none celery:9'\n"
        );
        decode_report(&json!({"ok": text}))
    };
    let told = report("redis://:********@shop:6379/5");
    assert_eq!(
        (told.celery.as_deref(), told.kombu.as_deref()),
        (Some("5.2.7"), Some("5.2.4"))
    );
    let mut conf = Conf::defaults();
    conf.set_result_backend(&told.results.expect("told"));
    assert_eq!(
        (conf.result_backend.as_deref(), conf.result_database),
        (Some("redis"), Some(5))
    );
    conf.set_result_backend(&report(DISABLED).results.expect("told"));
    assert_eq!(
        (conf.result_backend.as_deref(), conf.result_database),
        (Some(DISABLED), None)
    );
    assert_eq!(report("").results, None);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "id",
        "name",
        "request",
        "delivery_info",
        "exchange",
        "pool",
        "broker",
        "transport_options",
        "total",
        "task_routes",
        "result_expires",
        "eta",
        "x",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4).prop_map(|entries| entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_answer_is_survived(answer in any_json()) {
        let _ = (decode_active(&answer), decode_reserved(&answer), decode_scheduled(&answer), decode_query_task(&answer));
        let _ = (decode_revoked(&answer), decode_registered(&answer), decode_active_queues(&answer));
        let (stats, conf) = (decode_stats(&answer), decode_conf(&answer));
        let json = serde_json::to_string(&(&stats, &conf)).expect("json");
        prop_assert_eq!(serde_json::from_str::<(Stats, Conf)>(&json).expect("json"), (stats, conf));
        let _ = is_error(&answer);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_reply(&bytes);
        let _ = node_of_mailbox(&bytes);
    }

    #[test]
    fn any_trait_text_is_survived(text in "[a-c é]{0,4}( \\[)?(acks_late=|max_retries=| |\\]|\\[|é){0,8}\\]?") {
        let _ = decode_registered(&json!([text]));
    }
}
