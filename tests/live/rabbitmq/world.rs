//! What happens to real deployments: refused publishes, lost connections, workers that can't be asked, countdowns.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Site, expect, expect_finding, findings};
use crate::lab::{Outcome, SOON, wait_until};

const NOBODYS: &str = "0a0a0a0a-0000-4000-8000-000000000000";

/// A short countdown every now and then: each leaves a queue of delayed delivery empty that held something seconds ago.
const COUNTDOWNS: &str = "
import itertools, sys, time
import labapp
end = time.time() + float(sys.argv[1])
for n in itertools.count():
    if time.time() > end:
        break
    labapp.add.apply_async((1, 2), countdown=1 + n % 4)
    time.sleep(1.5)
";

fn quorum() -> Value {
    json!({"task_default_exchange_type": "topic", "task_default_queue_type": "quorum",
           "broker_native_delayed_delivery_queue_type": "quorum", "worker_prefetch_multiplier": 4})
}

fn found(done: &Outcome, name: &str) -> Option<Value> {
    let report = done.json();
    let all = report["findings"].as_array().expect("findings");
    all.iter().find(|one| one["name"] == name).cloned()
}

#[test]
fn short_countdowns_leave_no_doubt_about_their_queues() {
    let site = Site::with(&quorum());
    let worker = site.lab.worker("w1", &site.config, &["-c", "2"]);
    site.wait_for_consumer(&worker);
    let traffic = site.background(COUNTDOWNS, &["30"]);
    assert_eq!(site.stays_silent(20, &[]), Vec::<String>::new());
    drop(traffic);
}

/// At the end of its delay nothing takes the message, and RabbitMQ keeps it where nobody can look.
#[test]
fn a_task_that_delayed_delivery_holds_inside() {
    let site = Site::with(&quorum());
    let worker = site.lab.worker("w1", &site.config, &[]);
    site.wait_for_consumer(&worker);
    let node = &site.vhost.node;
    let bindings = site
        .vhost
        .path("bindings", "e/celery_delayed_delivery/e/celery");
    let bound = node.api("GET", &bindings, &Value::Null);
    let bound = bound.as_array().expect("bindings");
    let held = site.send("labapp.add", &json!([1, 2]), &json!({"countdown": 4}));
    for binding in bound {
        let key = binding["properties_key"].as_str().expect("a key");
        let path = format!("{bindings}/{}", key.replace('%', "%25").replace('#', "%23"));
        let (status, text) = node.try_api("DELETE", &path, None).expect("an answer");
        assert!(status < 300, "{status} {text}");
    }
    wait_until("it is held inside", Duration::from_mins(1), || {
        let queues = node.api("GET", &site.vhost.path("queues", ""), &Value::Null);
        let mut queues = queues.as_array()?.iter();
        queues.any(|queue| queue["messages_dlx"] == 1).then_some(())
    });
    let done = site.trace(&held, &[]);
    expect(&done, "undetermined", 3);
    expect_finding(&done, "delayed-delivery-unbound");
    assert!(
        done.stdout
            .contains("1 message is held inside celery_delayed_"),
        "{done:#?}"
    );
    let done = site.audit(&[]);
    let unbound = found(&done, "delayed-delivery-unbound").unwrap_or_else(|| panic!("{done:#?}"));
    assert!(
        !unbound["message"].to_string().contains("dropped"),
        "{unbound:#}"
    );
    assert_eq!(done.code, Some(1), "{done:#?}");
}

#[test]
fn a_full_queue_refuses_and_its_dead_letters_get_nothing() {
    let site = Site::new();
    site.vhost.declare("graveyard", &json!({"durable": true}));
    site.vhost.policy(
        "^celery$",
        &json!({"max-length": 2, "overflow": "reject-publish", "dead-letter-exchange": "",
                "dead-letter-routing-key": "graveyard"}),
    );
    let worker = site.lab.worker("w1", &site.config, &["-c", "1"]);
    let busy = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&busy);
    site.send_many("labapp.add", &json!([1, 2]), 6);
    site.wait_for("celery", "messages_ready", 2);
    let refused = site.send("labapp.add", &json!([1, 2]), &json!({}));
    let done = site.trace(&refused, &["--peek"]);
    expect(&done, "unknown", 1);
    let first = &done.json()["traces"][0]["causes"][0]["name"];
    assert_eq!(first, "refused-by-full-queue", "{done:#?}");
    let done = site.audit(&[]);
    assert!(found(&done, "queue-limits").is_some(), "{done:#?}");
}

/// It is given again what it still runs, and runs it in another of its processes.
#[test]
fn a_worker_that_lost_its_connection_runs_a_task_twice() {
    let site = Site::new();
    let worker = site.lab.worker("w1", &site.config, &["-c", "2"]);
    let twice = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&twice);
    site.wait_for_consumer(&worker);
    let node = &site.vhost.node;
    let all = node.api(
        "GET",
        &site.vhost.path("vhosts", "connections"),
        &Value::Null,
    );
    for connection in all.as_array().into_iter().flatten() {
        let name = connection["name"].as_str().expect("a name");
        let name = name.replace(' ', "%20").replace('>', "%3E");
        // Some have gone by themselves.
        let _ = node.try_api("DELETE", &format!("/api/connections/{name}"), None);
    }
    let received = format!("[{twice}] received");
    wait_until("it is received again", SOON, || {
        (worker.log().matches(&received).count() > 1).then_some(())
    });
    let done = wait_until("it runs again", SOON, || {
        let done = site.audit(&[]);
        found(&done, "duplicate-run").map(|_| done)
    });
    assert_eq!(done.code, Some(1), "{done:#?}");
    let duplicate = found(&done, "duplicate-run").expect("it was found");
    assert_eq!(duplicate["task_ids"], json!([twice]), "{duplicate:#}");
    assert!(
        !duplicate.to_string().contains("visibility_timeout"),
        "{duplicate:#}"
    );
    let done = site.trace(&twice, &[]);
    expect(&done, "running", 1);
    assert_eq!(findings(&done), ["duplicate-run"], "{done:#?}");
}

#[test]
fn workers_without_remote_control_are_there_and_were_not_asked() {
    let site = Site::with(&json!({"worker_enable_remote_control": false}));
    let options = [
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ];
    let worker = site.lab.worker("w1", &site.config, &options);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    site.send("labapp.add", &json!([1, 2]), &json!({}));
    site.wait_for("celery", "messages_ready", 1);
    let done = site.trace(&running, &["--peek"]);
    expect(&done, "undetermined", 3);
    let stages = done.json()["traces"][0]["stages"].clone();
    let mut stages = stages.as_array().expect("stages").iter();
    let of_worker = stages.find(|stage| stage["stage"] == "worker");
    assert_eq!(
        of_worker.expect("a stage")["status"],
        "not_read",
        "{done:#?}"
    );
    let done = site.trace(NOBODYS, &["--peek"]);
    expect(&done, "undetermined", 3);
    let mut table = site.lab.doctor(&["audit"]);
    table.args(site.arguments(&["--format", "table"]));
    let table = site.lab.run(&mut table, Duration::from_mins(1));
    assert!(!table.stdout.contains("no consumer"), "{table:#?}");
    assert!(table.stdout.contains("1 consumer"), "{table:#?}");
}
