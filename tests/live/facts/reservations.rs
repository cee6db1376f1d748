//! `unacked`, its index, and how kombu puts messages back.

use redis::Commands as _;
use serde_json::{Value, json};

use crate::lab::{Lab, RedisServer, SOON, wait_until};

/// Takes one message from `queue` without acknowledging it, then runs `then`, which has `channel`, `tag` and `client`.
fn reserve(lab: &Lab, config: &Value, queue: &str, then: &str) {
    let code = format!(
        "import json, labapp\n\
         with labapp.app.connection_for_read() as connection:\n\
         \x20   channel = connection.default_channel\n\
         \x20   client = channel.client\n\
         \x20   message = labapp.app.amqp.queues[{queue:?}](channel).get(no_ack=False)\n\
         \x20   tag = message.delivery_tag\n\
         \x20   channel.qos._delivered.clear()\n\
         \x20   {then}\n"
    );
    lab.python(config, &code);
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn reserved_count(server: &RedisServer) -> (usize, usize) {
    let mut connection = server.connect();
    (
        connection.hlen("unacked").unwrap(),
        connection.zcard("unacked_index").unwrap(),
    )
}

#[test]
fn a_reservation_is_the_raw_message_with_its_exchange_and_key() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0)});
    lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    let mut connection = server.connect();
    let queued: Vec<u8> = connection.lindex("celery", 0).unwrap();
    let (before, _): (f64, f64) = redis::cmd("TIME").query(&mut connection).unwrap();
    reserve(&lab, &config, "celery", "pass");
    let (after, _): (f64, f64) = redis::cmd("TIME").query(&mut connection).unwrap();
    let tag = parsed(&queued)["properties"]["delivery_tag"]
        .as_str()
        .unwrap()
        .to_owned();
    let value: Vec<u8> = connection.hget("unacked", &tag).unwrap();
    assert_eq!(parsed(&value), json!([parsed(&queued), "", "celery"]));
    let score: f64 = connection.zscore("unacked_index", &tag).unwrap();
    assert!(
        (before..=after + 1.0).contains(&score),
        "the score is the time of delivery"
    );
}

#[test]
fn a_restored_message_is_next_in_turn_and_marked() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0)});
    for _ in 0..3 {
        lab.send(
            &config,
            "labapp.add",
            &json!([1, 2]),
            &json!({"priority": 4}),
        );
    }
    let mut connection = server.connect();
    let queued: Vec<u8> = connection.lindex("celery\u{6}\u{16}3", -1).unwrap();
    reserve(&lab, &config, "celery", "channel.qos.restore_by_tag(tag)");
    assert_eq!(reserved_count(&server), (0, 0));
    let restored: Vec<u8> = connection.lindex("celery\u{6}\u{16}3", -1).unwrap();
    let mut expected = parsed(&queued);
    expected["headers"]["redelivered"] = json!(true);
    expected["properties"]["delivery_info"]["redelivered"] = json!(true);
    assert_eq!(parsed(&restored), expected);
    // What a worker rejects with requeue goes to the other end, behind all that wait.
    reserve(
        &lab,
        &config,
        "celery",
        "channel.qos.restore_by_tag(tag, leftmost=True)",
    );
    let requeued: Vec<u8> = connection.lindex("celery\u{6}\u{16}3", 0).unwrap();
    assert_eq!(parsed(&requeued), expected);
}

#[test]
fn restoring_without_a_binding_drops_the_message() {
    let lab = Lab::new();
    let server = lab.redis();
    let queues =
        json!({"orders": {"exchange": "shop", "exchange_type": "direct", "binding_key": "order"}});
    let config = json!({"broker_url": server.db(0), "task_queues": queues, "task_default_queue": "orders",
                        "task_default_exchange": "shop", "task_default_routing_key": "order"});
    // Without a named exchange, Celery sends to the default one, also for queues of a direct exchange of their own.
    let named = json!({"exchange": "shop", "routing_key": "order"});
    lab.send(&config, "labapp.add", &json!([1, 2]), &named);
    let mut connection = server.connect();
    assert_eq!(connection.llen::<_, usize>("orders").unwrap(), 1);
    reserve(
        &lab,
        &config,
        "orders",
        "client.delete('_kombu.binding.shop'); channel.qos.restore_by_tag(tag)",
    );
    assert_eq!(reserved_count(&server), (0, 0));
    assert_eq!(connection.llen::<_, usize>("orders").unwrap(), 0);
}

#[test]
fn restoring_to_the_default_exchange_needs_no_binding() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0)});
    lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    reserve(
        &lab,
        &config,
        "celery",
        "client.delete('_kombu.binding.celery'); channel.qos.restore_by_tag(tag)",
    );
    assert_eq!(server.connect().llen::<_, usize>("celery").unwrap(), 1);
}

#[test]
fn the_sweep_goes_by_the_index_alone() {
    let lab = Lab::new();
    let server = lab.redis();
    let config =
        json!({"broker_url": server.db(0), "broker_transport_options": {"visibility_timeout": 1}});
    lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    // One loses its entry in the index, and one entry of the index has no message.
    reserve(
        &lab,
        &config,
        "celery",
        "client.zrem('unacked_index', tag); client.zadd('unacked_index', {'ghost': 5})",
    );
    reserve(
        &lab,
        &config,
        "celery",
        "client.zadd('unacked_index', {tag: 5}); channel.qos.restore_visible()",
    );
    assert_eq!(
        reserved_count(&server),
        (1, 0),
        "without an index entry it is never restored"
    );
    assert_eq!(server.connect().llen::<_, usize>("celery").unwrap(), 1);
}

#[test]
fn a_mutex_that_stays_stops_the_sweep() {
    let lab = Lab::new();
    let server = lab.redis();
    let config =
        json!({"broker_url": server.db(0), "broker_transport_options": {"visibility_timeout": 1}});
    lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    let _: () = server
        .connect()
        .set("unacked_mutex", "left by someone")
        .unwrap();
    reserve(
        &lab,
        &config,
        "celery",
        "client.zadd('unacked_index', {tag: 5}); channel.qos.restore_visible()",
    );
    assert_eq!(reserved_count(&server), (1, 1));
}

/// C66: a kombu client that waits for replies sweeps with its own visibility timeout.
#[test]
fn celery_inspect_without_the_apps_options_runs_a_healthy_task_twice() {
    let lab = Lab::new();
    let server = lab.redis();
    let options = json!({"visibility_timeout": 43_200});
    let config = json!({"broker_url": server.db(0), "broker_transport_options": options});
    let worker = lab.worker("w1", &config, &[]);
    let id = lab.send(&config, "labapp.late", &json!([3600]), &json!({}));
    worker.wait_received(&id);
    let mut connection = server.connect();
    let tag: String = wait_until("the reservation is there", SOON, || {
        connection
            .zrange::<_, Vec<String>>("unacked_index", 0, -1)
            .unwrap()
            .pop()
    });
    let (now, _): (f64, f64) = redis::cmd("TIME").query(&mut connection).unwrap();
    let _: () = connection.zadd("unacked_index", tag, now - 4000.0).unwrap();
    let code = "import labapp\nlabapp.app.control.inspect(timeout=1).active()";
    let without = json!({"broker_url": server.db(0)});
    wait_until("it is received again", SOON, || {
        // One that finds the mutex taken restores nothing.
        lab.python(&without, code);
        (worker.log().matches(&format!("[{id}] received")).count() == 2).then_some(())
    });
}
