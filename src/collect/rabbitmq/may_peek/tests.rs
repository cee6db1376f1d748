use serde_json::json;

use super::*;

/// A classic queue with nothing to it, whose messages nobody consumes.
fn plain() -> Queue {
    Queue {
        kind: Observed::Seen(QueueType::Classic),
        auto_delete: Observed::Seen(false),
        exclusive: Observed::Seen(false),
        arguments: Observed::Seen(BTreeMap::new()),
        policy: Observed::Seen(BTreeMap::new()),
        ready: Observed::Seen(10),
        consumers: Observed::Seen(0),
        ..Queue::named("q")
    }
}

fn with(kind: QueueType, arguments: &Value, policy: &Value) -> Queue {
    let map = |value: &Value| {
        let entries = value.as_object().into_iter().flatten();
        Observed::Seen(entries.map(|(k, v)| (k.clone(), v.clone())).collect())
    };
    Queue {
        kind: Observed::Seen(kind),
        arguments: map(arguments),
        policy: map(policy),
        ..plain()
    }
}

fn refusal(queue: &Queue, version: Option<&str>) -> String {
    may_peek(queue, version).expect_err("a refusal")
}

#[test]
fn a_plain_classic_queue_is_open() {
    for version in [None, Some("3.8.0"), Some("4.2.1"), Some("LavinMQ")] {
        assert_eq!(may_peek(&plain(), version), Ok(MOST));
    }
    let priority = with(
        QueueType::Classic,
        &json!({"x-max-priority": 10}),
        &json!({}),
    );
    assert_eq!(may_peek(&priority, Some("4.0.5")), Ok(MOST));
    let expires = with(QueueType::Classic, &json!({"x-expires": 1000}), &json!({}));
    assert_eq!(may_peek(&expires, Some("4.0.5")), Ok(MOST));
}

#[test]
fn a_quorum_queue_without_a_limit_before_4() {
    let queue = with(QueueType::Quorum, &json!({}), &json!({}));
    assert_eq!(may_peek(&queue, Some("3.10.8")), Ok(QUORUM));
}

#[test]
fn a_quorum_queue_with_a_limit_never() {
    let quorum = |arguments, policy| with(QueueType::Quorum, &arguments, &policy);
    let none = quorum(json!({}), json!({}));
    assert!(refusal(&none, Some("4.0.5")).contains("limit is 20"));
    assert!(refusal(&none, Some("10.1")).contains("limit is 20"));
    assert!(refusal(&none, None).contains("version is not known"));
    assert!(refusal(&none, Some("odd")).contains("version is not known"));
    let two = quorum(json!({"x-delivery-limit": 2}), json!({}));
    assert!(refusal(&two, Some("3.10.8")).contains("limit is 2;"));
    assert!(refusal(&two, Some("4.0.5")).contains("limit is 2;"));
    let policy = quorum(
        json!({"x-delivery-limit": 50}),
        json!({"delivery-limit": 7}),
    );
    assert!(refusal(&policy, Some("3.12.1")).contains("limit is 7;"));
    let unlimited = quorum(json!({"x-delivery-limit": -1}), json!({}));
    assert!(refusal(&unlimited, Some("3.10.8")).contains("first return"));
    assert!(refusal(&unlimited, Some("4.0.5")).contains("order"));
}

#[test]
fn a_delivery_limit_on_a_classic_queue() {
    let queue = with(
        QueueType::Classic,
        &json!({"x-delivery-limit": 5}),
        &json!({}),
    );
    assert!(refusal(&queue, Some("2.0.0")).contains("limit is 5;"));
}

#[test]
fn streams_and_unknown_types_never() {
    let stream = with(QueueType::Stream, &json!({}), &json!({}));
    assert!(refusal(&stream, Some("3.10.8")).contains("stream"));
    let other = with(QueueType::Other("x".to_owned()), &json!({}), &json!({}));
    assert!(refusal(&other, Some("3.10.8")).contains("type x"));
}

#[test]
fn what_drops_its_oldest_needs_room() {
    let length = |limit: u64| {
        with(
            QueueType::Classic,
            &json!({"x-max-length": limit}),
            &json!({}),
        )
    };
    assert!(refusal(&length(10_009), None).contains("beyond 10009, has 10"));
    assert_eq!(may_peek(&length(10_010), None), Ok(SHORT));
    let policy = with(QueueType::Classic, &json!({}), &json!({"max-length": 5}));
    assert!(refusal(&policy, None).contains("beyond 5"));
    let bytes = with(
        QueueType::Classic,
        &json!({"x-max-length-bytes": 1 << 30}),
        &json!({}),
    );
    assert!(refusal(&bytes, None).contains("bytes"));
    let rejects = json!({"x-max-length": 5, "x-overflow": "reject-publish-dlx"});
    let rejects = with(QueueType::Classic, &rejects, &json!({}));
    assert_eq!(may_peek(&rejects, None), Ok(MOST));
    let unknown = Queue {
        ready: Observed::not_asked(""),
        ..length(1_000_000)
    };
    assert!(refusal(&unknown, None).contains("how full"));
}

#[test]
fn a_time_to_live_makes_it_short() {
    let queue = with(
        QueueType::Classic,
        &json!({"x-message-ttl": 3000}),
        &json!({}),
    );
    assert_eq!(may_peek(&queue, None), Ok(SHORT));
}

#[test]
fn native_delayed_delivery_is_an_ordinary_quorum_queue() {
    let arguments = json!({"x-queue-type": "quorum", "x-message-ttl": 16_000, "x-dead-letter-exchange": "celery_delayed_3",
        "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"});
    let queue = with(QueueType::Quorum, &arguments, &json!({}));
    assert_eq!(may_peek(&queue, Some("3.10.8")), Ok(SHORT));
    assert!(refusal(&queue, Some("4.0.5")).contains("limit is 20"));
}

#[test]
fn workers_do_not_wait_for_long() {
    let consumed = Queue {
        consumers: Observed::Seen(3),
        ..plain()
    };
    assert_eq!(may_peek(&consumed, None), Ok(SHORT));
    let unknown = Queue {
        consumers: Observed::not_asked(""),
        ..plain()
    };
    assert_eq!(may_peek(&unknown, None), Ok(SHORT));
}

#[test]
fn what_goes_with_its_consumer_is_read_one_by_one() {
    let queue = Queue {
        auto_delete: Observed::Seen(true),
        ..plain()
    };
    assert_eq!(may_peek(&queue, None), Ok(ONE_BY_ONE));
}

#[test]
fn an_exclusive_queue_a_single_active_consumer_and_a_queue_that_is_down_never() {
    let exclusive = Queue {
        exclusive: Observed::Seen(true),
        ..plain()
    };
    assert!(refusal(&exclusive, None).contains("exclusive"));
    let single = json!({"x-single-active-consumer": true});
    let single = with(QueueType::Classic, &single, &json!({}));
    assert!(refusal(&single, None).contains("single active"));
    let down = Queue {
        state: Some("down".to_owned()),
        ..plain()
    };
    assert!(refusal(&down, None).contains("down"));
}

#[test]
fn what_is_not_known_is_not_touched() {
    let unseen = || Observed::not_asked("");
    let queues = [
        Queue::named("q"),
        Queue {
            kind: Observed::not_asked(""),
            ..plain()
        },
        Queue {
            policy: unseen(),
            ..plain()
        },
        Queue {
            arguments: unseen(),
            ..plain()
        },
        Queue {
            auto_delete: Observed::not_asked(""),
            ..plain()
        },
        Queue {
            exclusive: Observed::not_asked(""),
            ..plain()
        },
    ];
    for queue in queues {
        assert!(refusal(&queue, Some("3.10.8")).contains("management API"));
    }
}
