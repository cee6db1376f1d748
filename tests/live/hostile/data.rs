//! A server in order, with rubbish in it.

use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::Commands as _;
use serde_json::{Value, json};

use super::{assert_found, trace};
use crate::lab::{Lab, RedisServer, SOON, wait_until};

const ABSENT: &str = "0a0a0a0a-0000-4000-8000-000000000000";
const MEBIBYTE: usize = 1 << 20;

/// Things that are no Celery message, or hardly one. Some carry a text that must not be printed.
fn rubbish() -> Vec<Vec<u8>> {
    let deep = |open: &str| open.repeat(200_000).into_bytes();
    let envelope = |headers: &str, body: &str| {
        format!(
            r#"{{"body": {body}, "content-encoding": "utf-8", "content-type": "application/json", "headers": {headers}, "properties": {{"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {{}}}}}}"#
        )
        .into_bytes()
    };
    let mut all: Vec<Vec<u8>> = vec![
        vec![],
        b"hunter2".to_vec(),
        vec![0; 1000],
        (0..=255).collect(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"1e999999".to_vec(),
        br#"{"headers": {"id": "#.to_vec(),
        br#"{"headers": {"id": "\ud800"}}"#.to_vec(),
        br#"{"headers": {"id": "a", "id": "b"}, "headers": 1}"#.to_vec(),
        b"{\"headers\": {\"id\": \"\xff\xfe\"}}".to_vec(),
        deep("["),
        deep("{\"a\":"),
        deep("{\"headers\":"),
        envelope("[]", "\"\""),
        envelope("null", "null"),
        envelope(
            r#"{"id": 7, "task": {}, "eta": [], "expires": true, "retries": "many"}"#,
            "{}",
        ),
        envelope(
            r#"{"id": "x", "task": "t", "eta": "tomorrow", "expires": "0000-00-00T99:99:99"}"#,
            "\"%%%\"",
        ),
        envelope(
            r#"{"id": "x", "task": "t", "retries": 99999999999999999999999999, "timelimit": "hunter2"}"#,
            "7",
        ),
        envelope("{}", "\"aHVudGVyMg==\""),
        envelope(
            r#"{"id": "x", "task": "t", "compression": "application/x-gzip"}"#,
            "\"aHVudGVyMg==\"",
        ),
        envelope(
            r#"{"id": "\u001b]52;c;aHVudGVyMg==\u0007\u001b[2J", "task": "\u202eevil\u0000\n\r\t"}"#,
            "\"\"",
        ),
    ];
    // Bombs: 64 MiB of zeros, packed, in a protocol 1 body, of which the id has to be read.
    let lab = Lab::new();
    let bombs = lab.python_json(
        &json!({}),
        "import base64, bz2, json, lzma, zlib\n\
         zeros = bytes(1 << 26)\n\
         print(json.dumps([[name, base64.b64encode(pack(zeros)).decode()] for name, pack in (\n\
         \x20   ('application/x-gzip', zlib.compress), ('application/x-bz2', bz2.compress), ('application/x-lzma', lambda zeros: lzma.compress(zeros, preset=0)))]))",
    );
    for bomb in bombs.as_array().unwrap() {
        all.push(envelope(
            &format!(r#"{{"compression": {}}}"#, bomb[0]),
            &bomb[1].to_string(),
        ));
    }
    all
}

/// Of 36 MiB, more than is read of any message: text that never ends, and messages with a huge body, header and number.
fn huge() -> Vec<Vec<u8>> {
    let filling = "a".repeat(36 * MEBIBYTE);
    vec![
        filling.clone().into_bytes(),
        format!(
            r#"{{"body": "{filling}", "headers": {{"id": "x", "task": "t"}}, "properties": {{}}}}"#
        )
        .into_bytes(),
        format!(
            r#"{{"body": "", "headers": {{"id": "{filling}", "task": "t"}}, "properties": {{}}}}"#
        )
        .into_bytes(),
        format!(
            r#"{{"body": "", "headers": {{"junk": {}}}, "properties": {{}}}}"#,
            "1".repeat(36 * MEBIBYTE)
        )
        .into_bytes(),
    ]
}

/// A server with one good message among whatever comes.
fn with_one_good(lab: &Lab) -> (RedisServer, String) {
    let server = lab.redis();
    let id = lab.send(
        &json!({"broker_url": server.db(0)}),
        "labapp.add",
        &json!(["hunter2", 2]),
        &json!({}),
    );
    (server, id)
}

#[test]
fn rubbish_in_a_queue_hides_nothing() {
    let lab = Lab::new();
    let (server, id) = with_one_good(&lab);
    let rubbish = rubbish();
    let _: () = server.connect().lpush("celery", &rubbish).unwrap();
    let _: () = server.connect().rpush("celery", &rubbish).unwrap();
    let done = trace(&lab, &id, &["--broker", &server.db(0)]);
    assert_eq!(
        done.json()["traces"][0]["copies"].as_array().map(Vec::len),
        Some(1),
        "{done:#?}"
    );
    assert_found(&done, "malformed-message");
    assert!(!done.stdout.contains('\u{1b}') && !done.stdout.contains('\u{202e}'));
    let table = lab.run_doctor(&["trace", &id, "--broker", &server.db(0), "--color", "never"]);
    table.assert_decent(&["hunter2", "\u{1b}", "\u{202e}"]);
    trace(&lab, ABSENT, &["--broker", &server.db(0)]);
}

#[test]
fn huge_messages_are_passed_over() {
    let lab = Lab::new();
    let (server, id) = with_one_good(&lab);
    for message in huge() {
        let _: () = server.connect().lpush("celery", message).unwrap();
    }
    let done = trace(&lab, &id, &["--broker", &server.db(0)]);
    assert_eq!(
        done.json()["traces"][0]["copies"].as_array().map(Vec::len),
        Some(1),
        "{done:#?}"
    );
}

#[test]
fn rubbish_in_the_reservations_hides_nothing() {
    let lab = Lab::new();
    let (server, id) = with_one_good(&lab);
    let mut connection = server.connect();
    for (number, value) in rubbish().into_iter().chain(huge()).enumerate() {
        let _: () = connection
            .hset("unacked", format!("raw-{number}"), &value)
            .unwrap();
        let wrapped = [&b"["[..], &value, b", \"\", \"celery\"]"].concat();
        let _: () = connection
            .hset("unacked", format!("wrapped-{number}"), wrapped)
            .unwrap();
    }
    for (tag, score) in [
        ("raw-0", f64::INFINITY),
        ("raw-1", f64::NEG_INFINITY),
        ("ghost", 1e300),
        ("\u{1b}[2J", -1.0),
    ] {
        let _: () = connection.zadd("unacked_index", tag, score).unwrap();
    }
    let good: Vec<u8> = connection.rpop("celery", None).unwrap();
    let value = [&b"["[..], &good, b", \"\", \"celery\"]"].concat();
    let _: () = connection.hset("unacked", "good", value).unwrap();
    let done = trace(&lab, &id, &["--broker", &server.db(0)]);
    assert_eq!(
        done.json()["traces"][0]["copies"][0]["place"],
        "unacked",
        "{done:#?}"
    );
    assert_found(&done, "unacked-without-index");
}

#[test]
fn rubbish_as_a_result_is_said_to_be_unreadable() {
    let lab = Lab::new();
    let (server, id) = with_one_good(&lab);
    let mut connection = server.connect();
    let key = format!("celery-task-meta-{id}");
    let odd = [
        &br#"{"status": 7, "result": {}}"#[..],
        br#"{"status": "\u001b[2J"}"#,
        br#"{"status": "SUCCESS", "children": 3}"#,
    ];
    for value in rubbish()
        .into_iter()
        .chain(huge())
        .chain(odd.map(<[u8]>::to_vec))
    {
        let _: () = connection.set(&key, value).unwrap();
        let done = trace(
            &lab,
            &id,
            &["--broker", &server.db(0), "--result-backend", &server.db(0)],
        );
        assert!(!done.stdout.contains('\u{1b}'));
    }
    let _: () = connection.del(&key).unwrap();
    let _: () = connection.lpush(&key, "a list").unwrap();
    trace(
        &lab,
        &id,
        &["--broker", &server.db(0), "--result-backend", &server.db(0)],
    );
}

#[test]
fn keys_of_the_wrong_type_are_told() {
    let lab = Lab::new();
    let (server, id) = with_one_good(&lab);
    let mut connection = server.connect();
    for key in [
        "unacked",
        "unacked_index",
        "_kombu.binding.celery",
        "_kombu.binding.celery.pidbox",
        "celery\u{6}\u{16}3",
        "_kombu.binding.reply.celery.pidbox",
    ] {
        let _: () = connection.del(key).unwrap();
        let _: () = connection.set(key, "hunter2").unwrap();
        let done = trace(&lab, &id, &["--broker", &server.db(0)]);
        assert_eq!(
            done.json()["traces"][0]["copies"].as_array().map(Vec::len),
            Some(1),
            "{key}: {done:#?}"
        );
        let _: () = connection.del(key).unwrap();
    }
    let _: () = connection.rename("celery", "elsewhere").unwrap();
    let _: () = connection.set("celery", "hunter2").unwrap();
    trace(&lab, &id, &["--broker", &server.db(0), "--queue", "celery"]);
}

#[test]
fn odd_ids_are_taken_as_they_are_or_refused() {
    let lab = Lab::new();
    let (server, _) = with_one_good(&lab);
    let long = "x".repeat(10_000);
    for id in [
        "x",
        "läden-№-7",
        "a\"b\\c",
        "*",
        "celery-task-meta-",
        "..",
        "\u{202e}x",
    ] {
        let done = trace(&lab, id, &["--broker", &server.db(0)]);
        assert_eq!(done.json()["traces"][0]["task_id"], *id);
    }
    for id in ["\u{1b}[31mred", "a\nb", "", &long] {
        let done = lab.run_doctor(&["trace", id, "--broker", &server.db(0)]);
        done.assert_decent(&["\u{1b}"]);
        assert_eq!(done.code, Some(2), "{done:#?}");
    }
}

/// A worker that answers remote control with rubbish.
#[test]
fn rubbish_as_a_reply_is_passed_over() {
    let lab = Lab::new();
    let (server, id) = with_one_good(&lab);
    let rubbish = rubbish();
    let mut listener = server.connect();
    let mut writer = server.connect();
    thread::spawn(move || {
        let mut subscription = listener.as_pubsub();
        subscription.psubscribe("/0.celery.pidbox").unwrap();
        while let Ok(message) = subscription.get_message() {
            let request: Value =
                serde_json::from_slice(message.get_payload_bytes()).unwrap_or_default();
            let body = request["body"].as_str().unwrap_or_default();
            let body = STANDARD.decode(body).unwrap_or_default();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let oid = body["reply_to"]["routing_key"].as_str().unwrap_or_default();
            if !oid.is_empty() {
                let _: Result<(), _> = writer.lpush(format!("{oid}.reply.celery.pidbox"), &rubbish);
            }
        }
    });
    wait_until("the false worker listens", SOON, || {
        (server
            .connect()
            .publish::<_, _, usize>("/0.celery.pidbox", "{}")
            .unwrap()
            == 1)
            .then_some(())
    });
    let done = trace(&lab, &id, &["--broker", &server.db(0), "--timeout", "1s"]);
    assert_eq!(
        done.json()["traces"][0]["copies"].as_array().map(Vec::len),
        Some(1),
        "{done:#?}"
    );
    let left: Vec<String> = server.connect().keys("*reply.celery.pidbox").unwrap();
    assert!(left.is_empty(), "{left:?}");
}
