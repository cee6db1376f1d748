use super::*;

fn text(id: &str, tag: &str, headers: &str) -> Vec<u8> {
    format!(
        r#"{{"body": "W10=", "content-type": "application/json", "content-encoding": "utf-8", "headers": {{"lang": "py", "task": "shop.mail", "id": "{id}"{headers}}}, "properties": {{"correlation_id": "{id}", "delivery_tag": "{tag}", "body_encoding": "base64", "delivery_info": {{"exchange": "", "routing_key": "celery"}}}}}}"#
    )
    .into_bytes()
}

fn list(key: &str) -> List {
    List {
        key: key.to_owned(),
        prefix: String::new(),
        queue: key.to_owned(),
        priority: None,
        named: true,
        length: 3,
        malformed: 0,
        read: Observed::Seen(()),
    }
}

fn counter(now: &str) -> Counter {
    let known = Known {
        now: now.parse().expect("a time"),
        ..Known::default()
    };
    Counter::new(known, HashSet::new())
}

#[test]
fn what_only_this_tool_does_not_read_is_celery_s() {
    let mut counter = counter("2026-01-01T00:00:00Z");
    counter.enter(&list("celery"));
    let of = |kind: &str| {
        format!(
            r#"{{"body": "W10=", "content-type": "{kind}", "content-encoding": "utf-8", "headers": {{}}, "properties": {{"body_encoding": "base64", "delivery_tag": "t"}}}}"#
        )
    };
    assert!(counter.see(0, of("application/x-yaml").as_bytes()));
    assert!(!counter.see(1, of("application/json").as_bytes()));
    assert!(!counter.see(2, b"hello"));
}

#[test]
fn messages_with_one_fate_are_one_class_and_the_next_in_turn_stands_for_it() {
    let mut counter = counter("2026-01-01T00:00:00Z");
    counter.enter(&list("celery"));
    for n in 0..25_u64 {
        let late = r#", "expires": "2025-12-31T00:00:00+00:00""#;
        let headers = if n % 5 == 0 { late } else { "" };
        let message = text(&format!("t{n}"), &format!("d{n}"), headers);
        assert!(counter.see(n, &message));
    }
    assert!(!counter.see(25, b"no message"));
    let count = counter.finish(|_| 26);
    let mut classes = count.classes;
    classes.sort_by_key(|class| class.count);
    let [late, rest] = classes.as_slice() else {
        panic!("{} classes", classes.len())
    };
    assert_eq!((late.count, late.id.as_str()), (5, "t20"));
    assert_eq!(late.ids, ["t20", "t15", "t10", "t5", "t0"]);
    assert_eq!((rest.count, rest.id.as_str()), (20, "t24"));
    assert_eq!(rest.ids.len(), NAMED_IDS);
    assert_eq!(rest.ids[..2], ["t24", "t23"]);
    let Place::Queue { position, of, .. } = rest.task.copies[0].place else {
        panic!("not in a queue")
    };
    assert_eq!((position, of), (2, 26));
}

#[test]
fn whatever_tells_fates_apart_tells_classes_apart() {
    let mut counter = counter("2026-01-01T00:00:00Z");
    counter.known.timeouts.insert(String::new(), 3600.0);
    counter.known.revoke("w1", &["r1".to_owned()]);
    counter.known.revoke("w2", &["r2".to_owned()]);
    counter.enter(&list("celery"));
    let messages = [
        ("t1", ""),
        ("t2", r#", "eta": "2025-12-31T00:00:00+00:00""#),
        ("t3", r#", "eta": "2026-01-01T00:10:00+00:00""#),
        ("t4", r#", "eta": "2026-01-02T00:00:00+00:00""#),
        ("t5", r#", "expires": "2025-12-31T00:00:00+00:00""#),
        ("t6", r#", "expires": "2026-01-01T00:10:00+00:00""#),
        (
            "t7",
            r#", "eta": "2026-01-01T00:10:00+00:00", "expires": "2026-01-01T00:05:00+00:00""#,
        ),
        ("t8", r#", "retries": 1"#),
        ("t9", r#", "redelivered": true"#),
        ("r1", ""),
        ("r2", ""),
    ];
    for (id, headers) in messages {
        counter.see(0, &text(id, id, headers));
    }
    let classes = counter.finish(|_| 11).classes;
    assert_eq!(classes.len(), messages.len());
    for (id, revoker) in [("r1", "w1"), ("r2", "w2")] {
        let class = classes.iter().find(|class| class.id == id);
        assert_eq!(class.expect("a class").task.revoked_by, [revoker]);
    }
}

#[test]
fn a_message_that_is_seen_twice_counts_once_and_an_id_that_stands_twice_is_told() {
    let mut counter = counter("2026-01-01T00:00:00Z");
    counter.enter(&list("celery"));
    for (id, tag, headers) in [
        ("a", "1", ""),
        ("a", "1", ""),
        ("b", "2", ""),
        ("b", "3", ""),
        ("c", "4", ""),
        ("c", "5", r#", "retries": 1"#),
    ] {
        counter.see(0, &text(id, tag, headers));
    }
    counter.enter(&list("mail"));
    counter.see(0, &text("b", "6", ""));
    let count = counter.finish(|_| 6);
    assert_eq!(count.classes.iter().map(|c| c.count).sum::<u64>(), 6);
    assert_eq!(count.repeats, 2);
    assert_eq!(
        count.twice,
        BTreeMap::from([("b".to_owned(), vec!["celery".to_owned(), "mail".to_owned()])])
    );
}

#[test]
fn too_many_classes_are_counted_without_being_told_apart() {
    let mut counter = counter("2026-01-01T00:00:00Z");
    for n in 0..MOST_CLASSES + 7 {
        counter.enter(&list(&format!("q{n}")));
        counter.see(0, &text(&n.to_string(), &n.to_string(), ""));
    }
    let count = counter.finish(|_| 1);
    assert_eq!((count.classes.len(), count.unclassed), (MOST_CLASSES, 7));
}

#[test]
fn what_is_watched_and_met_is_watched_no_more() {
    let known = Known::default();
    let mut counter = Counter::new(known, HashSet::from([mark("a"), mark("z")]));
    counter.enter(&list("celery"));
    counter.see(0, &text("a", "1", ""));
    assert_eq!(counter.finish(|_| 1).watched, HashSet::from([mark("z")]));
}
