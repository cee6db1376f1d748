//! A look changes nothing, also when it is stopped half-way; and under `--peek` no more than the mark `redelivered`.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Site, expect};
use crate::lab::{SOON, Worker, wait_until};

/// What must be as before: names of everything in the virtual host, what each queue holds, and how often anything was
/// delivered.
#[derive(Debug, PartialEq)]
struct State {
    things: BTreeMap<String, Value>,
    connections: usize,
}

const COUNTED: [&str; 4] = ["deliver", "deliver_no_ack", "get", "redeliver"];

fn list(site: &Site, path: &str) -> Vec<Value> {
    let all = site.vhost.node.api("GET", path, &json!(null));
    all.as_array().cloned().unwrap_or_default()
}

impl State {
    fn of(site: &Site) -> Self {
        let mut things = BTreeMap::new();
        for queue in list(site, &site.vhost.path("queues", "")) {
            let name = queue["name"].as_str().unwrap_or_default();
            let stats = &queue["message_stats"];
            // Mailboxes receive our questions, and without acknowledgement.
            let counts: Vec<Value> = if name.ends_with(".pidbox") || name.starts_with("celeryev.") {
                Vec::new()
            } else {
                COUNTED.iter().map(|count| stats[count].clone()).collect()
            };
            let held = [&queue["messages_ready"], &queue["messages_unacknowledged"]];
            things.insert(
                format!("queue {name}"),
                json!([counts, held, queue["consumers"]]),
            );
        }
        for kind in ["exchanges", "bindings"] {
            for one in list(site, &site.vhost.path(kind, "")) {
                let name = json!([
                    one["name"],
                    one["source"],
                    one["destination"],
                    one["routing_key"]
                ]);
                things.insert(format!("{kind} {name}"), Value::Null);
            }
        }
        let path = site.vhost.path("vhosts", "connections");
        let connections = list(site, &path).len();
        Self {
            things,
            connections,
        }
    }

    /// Statistics are a second old: waits until they have caught up.
    fn settled(site: &Site) -> Self {
        let mut last = Self::of(site);
        wait_until("the statistics rest", SOON, || {
            std::thread::sleep(Duration::from_millis(2500));
            let now = Self::of(site);
            let same = now == last
                && now
                    .things
                    .values()
                    .all(|thing| thing[1][0] != json!(null) || thing.is_null());
            last = now;
            same.then_some(())
        });
        last
    }
}

/// A worker with a running and an ETA task, and waiting messages in a classic and a quorum queue.
fn deployment() -> (Site, Worker, Vec<String>) {
    let site = Site::new();
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    let mut ids = vec![running];
    let mut quorum = site.config.clone();
    quorum["task_create_missing_queue_type"] = json!("quorum");
    for queue in ["celery", "quorum"] {
        for _ in 0..2 {
            let (arguments, options) = (json!([1, 2]), json!({"queue": queue}));
            let config = if queue == "quorum" {
                &quorum
            } else {
                &site.config
            };
            ids.push(site.lab.send(config, "labapp.add", &arguments, &options));
        }
    }
    ids.push("0a0a0a0a-0000-4000-8000-000000000000".to_owned());
    (site, worker, ids)
}

fn start(site: &Site, command: &str, more: &[&str], ids: &[String]) -> crate::lab::Running {
    let mut command = site.lab.doctor(&[command]);
    site.lab.spawn(command.args(ids).args(site.arguments(more)))
}

/// Every message of a queue, in order, taking them out: the id, whether it is marked, and its delivery count.
fn drained(site: &Site, queue: &str) -> Vec<(String, bool, u64)> {
    let code = format!(
        "import json, labapp\n\
         channel = labapp.app.connection_for_read().channel()\n\
         got = []\n\
         while (m := channel.basic_get({queue:?}, no_ack=True)) is not None:\n\
         \x20   got.append([m.headers.get('id', ''), m.delivery_info['redelivered'], m.headers.get('x-delivery-count') or 0])\n\
         print(json.dumps(got))"
    );
    let got = site.lab.python_json(&site.config, &code);
    let one = |item: &Value| {
        let id = item[0].as_str().expect("an id").to_owned();
        (id, item[1] == true, item[2].as_u64().expect("a count"))
    };
    got.as_array().expect("a list").iter().map(one).collect()
}

#[test]
fn without_peek_no_message_is_touched() {
    let (site, worker, ids) = deployment();
    let before = State::settled(&site);
    start(&site, "trace", &[], &ids)
        .wait(SOON)
        .assert_decent(&[]);
    start(&site, "audit", &["--sample", "1s"], &[])
        .wait(SOON)
        .assert_decent(&[]);
    assert_eq!(State::settled(&site), before);
    // Stopped while it waits for a worker that hangs.
    worker.freeze();
    for signal in [Signal::INT, Signal::TERM] {
        let running = start(&site, "trace", &["--timeout", "1h"], &ids);
        let path = site.vhost.path("vhosts", "connections");
        wait_until("it is connected", SOON, || {
            (list(&site, &path).len() > before.connections).then_some(())
        });
        running.signal(signal);
        let done = running.wait(Duration::from_secs(10));
        done.assert_decent(&[]);
        assert_ne!(done.code, Some(0), "{signal:?}");
    }
    worker.thaw();
    let worker_answers = site.trace(&ids[0], &[]);
    expect(&worker_answers, "running", 0);
    assert_eq!(State::settled(&site), before);
    for queue in ["celery", "quorum"] {
        let left = drained(&site, queue);
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(
            left.iter().all(|(_, marked, count)| !marked && *count == 0),
            "{left:?}"
        );
    }
}

#[test]
fn with_peek_count_and_order_stay() {
    let (site, _worker, ids) = deployment();
    let limited =
        json!({"durable": true, "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 1}});
    site.vhost.declare("limited", &limited);
    site.vhost.publish("", "limited", "x");
    site.wait_for("limited", "messages_ready", 1);
    // Of these nothing is found, so that every queue is looked into to its end, several times.
    let absent = ids.last().expect("an id");
    for _ in 0..4 {
        let seen = site.trace(absent, &["--peek"]);
        // A queue whose messages would count the look is left alone.
        expect(&seen, "undetermined", 3);
        assert!(seen.stdout.contains("delivery limit is 1"), "{seen:#?}");
    }
    let sent = |from: usize| ids[from..from + 2].to_vec();
    let names = |got: &[(String, bool, u64)]| -> Vec<String> {
        got.iter().map(|(id, ..)| id.clone()).collect()
    };
    let classic = drained(&site, "celery");
    assert_eq!(names(&classic), sent(1));
    let quorum = drained(&site, "quorum");
    assert_eq!(names(&quorum), sent(3));
    assert!(classic.iter().all(|(_, marked, _)| *marked), "{classic:?}");
    assert_eq!(drained(&site, "limited"), [(String::new(), false, 0)]);
}

/// The connection goes, and with it all that was held is back.
#[test]
fn stopped_while_it_holds_messages_it_gives_them_back() {
    let site = Site::new();
    site.vhost.declare("long", &json!({"durable": true}));
    let code = "import amqp, labapp\n\
                channel = labapp.app.connection_for_write().channel()\n\
                for n in range(20000):\n\
                \x20   message = amqp.Message('x' * 500, application_headers={'id': str(n), 'task': 't'})\n\
                \x20   channel.basic_publish(message, routing_key='long')\n\
                channel.connection.close()";
    site.lab.python(&site.config, code);
    site.wait_for("long", "messages_ready", 20_000);
    let ids = ["0a0a0a0a-0000-4000-8000-000000000000".to_owned()];
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let running = start(
            &site,
            "trace",
            &["--peek=20000", "--timeout", "100ms"],
            &ids,
        );
        // Somewhere in the middle.
        std::thread::sleep(Duration::from_millis(700));
        running.signal(signal);
        let done = running.wait(Duration::from_secs(10));
        done.assert_decent(&[]);
        site.wait_for("long", "messages_unacknowledged", 0);
        site.wait_for("long", "messages_ready", 20_000);
        site.wait_for("long", "consumers", 0);
    }
    let left = drained(&site, "long");
    let order: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let ids: Vec<String> = left.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, order);
}
