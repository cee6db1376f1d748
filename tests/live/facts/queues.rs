//! Which keys a queue has, and at which end of a list things happen.

use redis::Commands as _;
use serde_json::{Value, json};

use crate::lab::Lab;

#[test]
fn messages_are_pushed_at_the_head_and_taken_from_the_tail() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0)});
    let first = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    let second = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    let items: Vec<String> = server.connect().lrange("celery", 0, -1).unwrap();
    assert!(
        items[0].contains(&second) && items[1].contains(&first),
        "the newest message is at index 0"
    );
    let taken = lab.python_json(
        &config,
        "import json, labapp\n\
         with labapp.app.connection_for_read() as connection:\n\
         \x20   message = labapp.app.amqp.queues['celery'](connection.default_channel).get(no_ack=True)\n\
         \x20   print(json.dumps(message.headers['id']))",
    );
    assert_eq!(taken, json!(first));
}

#[test]
fn each_priority_step_has_a_list_of_its_own() {
    let lab = Lab::new();
    let server = lab.redis();
    let priorities = |transport: Value, sent: &[u8]| {
        let mut connection = server.connect();
        let _: () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
        let code = format!(
            "import labapp\nfor priority in {sent:?}:\n    labapp.app.send_task('labapp.add', priority=priority)"
        );
        lab.python(
            &json!({"broker_url": server.db(0), "broker_transport_options": transport}),
            &code,
        );
        let mut keys: Vec<String> = connection.keys("*celery*").unwrap();
        keys.retain(|key| !key.contains("_kombu"));
        keys.sort();
        keys
    };
    // A priority falls to the highest step that is not above it; step 0 is the queue's own name.
    let steps = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let default = priorities(json!({}), &[0, 1, 2, 3, 5, 6, 8, 9, 255]);
    assert_eq!(
        default,
        steps(&[
            "celery",
            "celery\u{6}\u{16}3",
            "celery\u{6}\u{16}6",
            "celery\u{6}\u{16}9"
        ])
    );
    let own = priorities(json!({"priority_steps": [0, 5], "sep": ":"}), &[0, 4, 5, 9]);
    assert_eq!(own, steps(&["celery", "celery:5"]));
    let prefixed = priorities(json!({"global_keyprefix": "shop-"}), &[0, 9]);
    assert_eq!(prefixed, steps(&["shop-celery", "shop-celery\u{6}\u{16}9"]));
}

#[test]
fn a_message_that_matches_no_binding_is_dropped_without_a_word() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0)});
    let code = "import labapp\nlabapp.app.send_task('labapp.add', exchange='nowhere', routing_key='nobody')";
    lab.python(&config, code);
    let keys: Vec<String> = server.connect().keys("*").unwrap();
    assert!(
        keys.iter().all(|key| key.starts_with("_kombu.")),
        "{keys:?}"
    );
}

#[test]
fn result_keys_carry_a_prefix_with_an_underscore_added() {
    let lab = Lab::new();
    let server = lab.redis();
    for (prefix, stands) in [
        ("shop", "shop_celery-task-meta-x"),
        ("shop:", "shop:celery-task-meta-x"),
    ] {
        let options = json!({"global_keyprefix": prefix});
        let config =
            json!({"result_backend": server.db(0), "result_backend_transport_options": options});
        let code = "import labapp\nprint(labapp.app.backend.get_key_for_task('x').decode())";
        assert_eq!(lab.python(&config, code).trim(), stands);
    }
}
