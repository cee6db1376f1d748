use proptest::prelude::*;

use super::*;
use crate::celery::samples::SAMPLES;

#[test]
fn a_saved_group_names_its_tasks() {
    // What `GroupResult.save` writes, with a group in the group.
    let document = br#"{"result": [["g", null], [[["a", null], null], [["g2", null], [[["b", null], null]]]]]}"#;
    assert_eq!(
        parse_group(document),
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
    for other in [
        &br#"{"status": "SUCCESS", "result": 3}"#[..],
        b"3",
        b"",
        b"[]",
    ] {
        assert_eq!(parse_group(other), None);
    }
}

#[test]
fn failures_name_the_exception_and_no_more() {
    let doc = parse_result(&SAMPLES.result("failure_json")).expect("a result");
    assert_eq!((doc.state.as_str(), doc.ready), ("FAILURE", true));
    assert_eq!(doc.exc_type.as_deref(), Some("ValueError"));
    assert_eq!(
        (doc.name.as_deref(), doc.queue.as_deref(), doc.retries),
        (Some("lab.boom"), Some("celery"), Some(0))
    );
    assert_eq!(doc.worker.as_deref(), Some("w1@lab"));
    let kept = serde_json::to_string(&doc).expect("json");
    assert!(
        !kept.contains("secret") && !kept.contains("private"),
        "{kept}"
    );
}

#[test]
fn every_serialiser() {
    for serializer in ["json", "pickle", "msgpack"] {
        let read = |name: &str| {
            parse_result(&SAMPLES.result(&format!("{name}_{serializer}"))).expect(serializer)
        };
        let lost = read("lost");
        assert_eq!(
            lost.exc_type.as_deref(),
            Some("WorkerLostError"),
            "{serializer}"
        );
        assert_eq!(lost.children, ["a", "b", "c"], "{serializer}");
        assert!(lost.date_done.is_some() && lost.ready, "{serializer}");
        let started = read("started");
        assert_eq!(
            (started.state.as_str(), started.ready),
            ("STARTED", false),
            "{serializer}"
        );
        assert_eq!(started.worker.as_deref(), Some("w1@lab"), "{serializer}");
        let success = read("success");
        assert_eq!(
            (success.state.as_str(), success.children.len()),
            ("SUCCESS", 1),
            "{serializer}"
        );
        let part = parse_chord_part(&SAMPLES.result(&format!("part_{serializer}")));
        assert_eq!(
            part,
            Some(("tid".to_owned(), "SUCCESS".to_owned())),
            "{serializer}"
        );
    }
}

#[test]
fn every_protocol_of_pickle() {
    for protocol in 0..6 {
        let doc = parse_result(&SAMPLES.result(&format!("pickle_protocol_{protocol}")))
            .expect("a result");
        assert_eq!(doc.exc_type.as_deref(), Some("ValueError"), "{protocol}");
        assert_eq!(
            (doc.children.as_slice(), doc.retries),
            (["c".to_owned()].as_slice(), Some(3)),
            "{protocol}"
        );
        assert_eq!(doc.group_id, None);
    }
}

#[test]
fn children_in_groups_and_chords() {
    let doc = parse_result(&SAMPLES.result("children_json")).expect("a result");
    assert_eq!(doc.children.len(), 5);
    assert!(doc.children.iter().all(|id| id.len() == 36));
    assert_eq!(doc.children[2], "7a21eda9-368e-4de1-bb96-43d296dae3de");
}

#[test]
fn what_python_alone_calls_json() {
    let doc = parse_result(&SAMPLES.result("nan_json")).expect("a result");
    assert_eq!(doc.date_done, When::parse("2026-11-22T10:37:31Z"));
}

#[test]
fn a_result_that_looks_like_meta_data_stays_private() {
    let doc = parse_result(
        br#"{"status": "SUCCESS", "result": {"exc_type": "private", "hostname": "private"}}"#,
    )
    .expect("a result");
    assert_eq!((doc.exc_type, doc.worker), (None, None));
}

#[test]
fn what_is_no_result() {
    assert_eq!(parse_result(b"{}"), Err(BadResult::NoState));
    assert_eq!(parse_result(b"[1]"), Err(BadResult::NoState));
    assert_eq!(
        parse_result(b""),
        Err(BadResult::Unreadable(Unreadable::ContentType))
    );
    assert_eq!(
        parse_result(b"{"),
        Err(BadResult::Unreadable(Unreadable::Serialized))
    );
    assert_eq!(parse_chord_part(b"[1]"), None);
    let deep = format!(
        "{{\"status\": \"SUCCESS\", \"children\": {}",
        "[".repeat(100_000)
    );
    assert!(parse_result(deep.as_bytes()).is_err());
}

#[test]
fn keys() {
    assert_eq!(key_for_task("", "x"), "celery-task-meta-x");
    assert_eq!(key_for_task("app", "x"), "app_celery-task-meta-x");
    for prefix in ["app:", "app_", "app-", "app."] {
        assert_eq!(
            key_for_group(prefix, "g"),
            format!("{prefix}celery-taskset-meta-g")
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_result(&bytes);
        let _ = parse_chord_part(&bytes);
    }

    #[test]
    fn any_pickle_is_survived(opcodes in prop::collection::vec(prop_oneof![
        4 => prop::sample::select(b"(012]})tdlaesuqhNK\x85\x86\x87\x88\x8c\x94cRb\x81\x90\x91\x93".to_vec()),
        1 => 0..4_u8,
    ], 0..200)) {
        let _ = parse_result(&[b"\x80\x04".as_slice(), &opcodes, b"."].concat());
    }

    #[test]
    fn damaged_results_are_survived(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let names: Vec<&str> = SAMPLES.result_names().map(String::as_str).collect();
        let mut result = SAMPLES.result(which.get::<&str>(&names));
        let at = at.index(result.len());
        result[at] = byte;
        let _ = parse_result(&result);
    }
}

#[test]
fn an_exception_type_that_is_no_name_is_not_kept() {
    let of = |name: &str| {
        let document = serde_json::json!({"status": "FAILURE", "result": {"exc_type": name}});
        parse_result(document.to_string().as_bytes())
            .expect("a result")
            .exc_type
    };
    assert_eq!(
        of("shop.errors.Éxhausted_2").as_deref(),
        Some("shop.errors.Éxhausted_2")
    );
    assert_eq!(of("no card 4711 0815"), None);
}

#[test]
fn of_messages_only_celery_s_own_words_are_kept() {
    let read = |state: &str, class: &str, message: &str| {
        let document = format!(
            r#"{{"status": "{state}", "result": {{"exc_type": "{class}", "exc_message": {message}, "exc_module": "m"}},
                "name": null}}"#
        );
        let doc = parse_result(document.as_bytes()).expect("a result");
        (doc.name, doc.revoked_for)
    };
    let name = Some("lab.ad".to_owned());
    assert_eq!(
        read("FAILURE", "NotRegistered", r#"["lab.ad"]"#),
        (name, None)
    );
    let expired = Some("expired".to_owned());
    assert_eq!(
        read("REVOKED", "TaskRevokedError", r#"["expired"]"#),
        (None, expired)
    );
    for (state, class, message) in [
        ("FAILURE", "NotRegistered", r#"["not a name"]"#),
        ("FAILURE", "NotRegistered", r#""lab.ad""#),
        ("FAILURE", "NotRegistered", "[]"),
        ("FAILURE", "ValueError", r#"["expired"]"#),
        ("REVOKED", "TaskRevokedError", r#"["because of me"]"#),
    ] {
        assert_eq!(read(state, class, message), (None, None), "{message}");
    }
}
