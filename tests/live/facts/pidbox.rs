//! The remote-control protocol, spoken by hand as the tool speaks it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::{Commands as _, Connection};
use serde_json::{Value, json};

use crate::lab::{Lab, SOON, wait_until};

const BINDINGS: &str = "_kombu.binding.reply.celery.pidbox";

/// Publishes a request that wants its replies at `oid`; returns how many received it.
fn ask(connection: &mut Connection, channel: &str, method: &str, oid: &str) -> usize {
    let body = json!({"method": method, "arguments": {}, "destination": null, "pattern": null, "matcher": null,
                      "ticket": "a ticket", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": oid}});
    let delivery = json!({"exchange": "celery.pidbox", "routing_key": ""});
    let properties = json!({"delivery_mode": 2, "delivery_tag": "a tag", "body_encoding": "base64", "priority": 0,
                            "delivery_info": delivery});
    let envelope = json!({"body": STANDARD.encode(body.to_string()), "content-encoding": "utf-8",
                          "content-type": "application/json", "headers": {"clock": 1, "expires": 0},
                          "properties": properties});
    connection.publish(channel, envelope.to_string()).unwrap()
}

/// As [`ask`], once `count` workers listen: a worker says that it is ready a moment before it does.
fn ask_all(connection: &mut Connection, channel: &str, method: &str, oid: &str, count: usize) {
    // Nobody is bound to this reply queue, so that the replies are dropped.
    wait_until("the workers listen", SOON, || {
        (ask(connection, channel, "ping", "nobody") == count).then_some(())
    });
    assert_eq!(ask(connection, channel, method, oid), count);
}

fn bind(connection: &mut Connection, oid: &str) -> String {
    let member = format!("{oid}\u{6}\u{16}\u{6}\u{16}{}", reply_list(oid));
    let _: () = connection.sadd(BINDINGS, &member).unwrap();
    member
}

fn reply_list(oid: &str) -> String {
    format!("{oid}.reply.celery.pidbox")
}

fn body_of(reply: &str) -> Value {
    let envelope: Value = serde_json::from_str(reply).unwrap();
    let body = STANDARD.decode(envelope["body"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn publish_counts_the_workers_and_each_replies_once() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0)});
    let mut first = lab.worker("w1", &config, &[]);
    let second = lab.worker("w2", &config, &[]);
    let mut connection = server.connect();

    bind(&mut connection, "both");
    ask_all(&mut connection, "/0.celery.pidbox", "ping", "both", 2);
    let mut names: Vec<String> = (0..2)
        .flat_map(|_| {
            let [_, reply]: [String; 2] = connection.brpop(reply_list("both"), 20.0).unwrap();
            body_of(&reply)
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        })
        .collect();
    names.sort();
    assert_eq!(names, ["w1@lab", "w2@lab"]);

    // A frozen worker is still subscribed, and silent; a killed one is gone from the count.
    second.freeze();
    assert_eq!(
        ask(&mut connection, "/0.celery.pidbox", "ping", "frozen"),
        2
    );
    first.kill();
    wait_until("the dead one is no longer counted", SOON, || {
        (ask(&mut connection, "/0.celery.pidbox", "ping", "dead") == 1).then_some(())
    });
    // Both are still bound: kombu takes a mailbox away only when its worker ends in order.
    let mailboxes: Vec<String> = connection.smembers("_kombu.binding.celery.pidbox").unwrap();
    assert_eq!(mailboxes.len(), 2, "{mailboxes:?}");
    assert!(
        mailboxes
            .iter()
            .all(|member| member.starts_with("\u{6}\u{16}\u{6}\u{16}w")),
        "{mailboxes:?}"
    );
}

#[test]
fn a_reply_that_comes_after_the_binding_is_gone_leaves_no_key() {
    let lab = Lab::new();
    let server = lab.redis();
    let worker = lab.worker("w1", &json!({"broker_url": server.db(0)}), &[]);
    let mut connection = server.connect();
    // Another reply queue, so that the binding table itself stays.
    bind(&mut connection, "other");
    let member = bind(&mut connection, "late");
    ask_all(&mut connection, "/0.celery.pidbox", "ping", "nobody", 1);
    worker.freeze();
    assert_eq!(ask(&mut connection, "/0.celery.pidbox", "ping", "late"), 1);
    assert_eq!(ask(&mut connection, "/0.celery.pidbox", "ping", "other"), 1);
    let _: () = connection.srem(BINDINGS, member).unwrap();
    worker.thaw();
    // The worker answers in order: with the second answer here, the first has been dropped.
    let _: [String; 2] = connection.brpop(reply_list("other"), 20.0).unwrap();
    assert!(!connection.exists::<_, bool>(reply_list("late")).unwrap());
}

#[test]
fn an_unknown_method_is_answered_with_an_error() {
    let lab = Lab::new();
    let server = lab.redis();
    lab.worker("w1", &json!({"broker_url": server.db(0)}), &[]);
    let mut connection = server.connect();
    bind(&mut connection, "odd");
    ask_all(
        &mut connection,
        "/0.celery.pidbox",
        "no_such_method",
        "odd",
        1,
    );
    let [_, reply]: [String; 2] = connection.brpop(reply_list("odd"), 20.0).unwrap();
    assert!(
        body_of(&reply)["w1@lab"]["error"].is_string(),
        "{}",
        body_of(&reply)
    );
}

#[test]
fn prefixes_stand_before_the_channel_and_the_keys() {
    let lab = Lab::new();
    let server = lab.redis();
    let transport = json!({"global_keyprefix": "shop-"});
    lab.worker(
        "w1",
        &json!({"broker_url": server.db(3), "broker_transport_options": transport}),
        &[],
    );
    let mut connection = server.connect_to(3);
    let member = format!("x\u{6}\u{16}\u{6}\u{16}{}", reply_list("x"));
    let _: () = connection.sadd(format!("shop-{BINDINGS}"), member).unwrap();
    assert_eq!(ask(&mut connection, "/3.celery.pidbox", "ping", "x"), 0);
    // A worker is ready before it has subscribed to its mailbox.
    wait_until("the worker is subscribed", SOON, || {
        (ask(&mut connection, "shop-/3.celery.pidbox", "ping", "x") == 1).then_some(())
    });
    let [list, _]: [String; 2] = connection
        .brpop(format!("shop-{}", reply_list("x")), 20.0)
        .unwrap();
    assert_eq!(list, "shop-x.reply.celery.pidbox");
}
