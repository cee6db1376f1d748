//! Where a task is, and how it was lost.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Site, expect, expect_finding, expect_silence};
use crate::lab::{SOON, Worker, wait_until};

const NOBODYS: &str = "0a0a0a0a-0000-4000-8000-000000000000";

/// A worker that runs a task for as long as the test lasts.
fn busy(site: &Site) -> (Worker, String) {
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    (worker, running)
}

fn wait_for_result(site: &Site, id: &str, state: &str) {
    wait_until(&format!("{id} is {state}"), SOON, || {
        let key = format!("celery-task-meta-{id}");
        let result: Option<String> = redis::cmd("GET")
            .arg(key)
            .query(&mut site.redis.connect_to(1))
            .ok()?;
        result.filter(|result| result.contains(state)).map(|_| ())
    });
}

#[test]
fn healthy_tasks_of_a_classic_queue() {
    let site = Site::new();
    let worker = site.lab.worker("w1", &site.config, &[]);
    let done = site.send("labapp.add", &json!([1, 2]), &json!({}));
    worker.wait_for_log(&format!("labapp.add[{done}] succeeded"), SOON);
    let later = site.send("labapp.add", &json!([1, 2]), &json!({"countdown": 900}));
    worker.wait_received(&later);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    let queued = site.send("labapp.add", &json!([1, 2]), &json!({}));
    for (id, is) in [
        (&done, "finished"),
        (&running, "running"),
        (&later, "reserved"),
    ] {
        let seen = site.trace(id, &[]);
        expect(&seen, is, 0);
        expect_silence(&seen);
    }
    expect_silence(&site.trace(&queued, &[]));
    let seen = site.trace(&queued, &["--peek"]);
    expect(&seen, "queued", 0);
    expect_silence(&seen);
    let copy = &seen.json()["traces"][0]["copies"][0];
    assert_eq!(
        (&copy["queue"], &copy["position"]),
        (&json!("celery"), &json!(1)),
        "{seen:#?}"
    );
    site.wait_for_consumer(&worker);
    expect(&site.trace(NOBODYS, &["--peek"]), "unknown", 1);
    // From AMQP alone.
    let alone = ["--management", "http://guest:guest@127.0.0.1:1"];
    expect(&site.trace(&done, &alone), "finished", 0);
    let seen = site.trace(&running, &alone);
    expect(&seen, "running", 0);
    let all = super::findings(&seen);
    assert_eq!(all, ["management-unavailable"], "{seen:#?}");
    expect(&site.trace(&later, &alone), "reserved", 0);
    expect(&site.trace(NOBODYS, &alone), "undetermined", 3);
    worker.freeze();
    let seen = site.trace(&running, &["--timeout", "500ms"]);
    expect_finding(&seen, "silent-worker");
    assert_ne!(seen.json()["traces"][0]["verdict"], "lost");
    worker.thaw();
}

/// A quorum queue and native delayed delivery (kombu 5.7 `transport/native_delayed_delivery.py`).
#[test]
fn healthy_tasks_of_a_quorum_queue() {
    let quorum = json!({"task_default_exchange_type": "topic", "task_default_queue_type": "quorum",
                        "broker_native_delayed_delivery_queue_type": "quorum"});
    let site = Site::with(&quorum);
    let (worker, running) = busy(&site);
    let later = site.send("labapp.add", &json!([1, 2]), &json!({"countdown": 900}));
    let queued = site.send("labapp.add", &json!([1, 2]), &json!({}));
    site.wait_for("celery", "messages_ready", 1);
    let seen = site.trace(&running, &[]);
    expect(&seen, "running", 0);
    expect_silence(&seen);
    for _ in 0..3 {
        let seen = site.trace(&queued, &["--peek"]);
        expect(&seen, "queued", 0);
        expect_silence(&seen);
    }
    let seen = site.trace(&later, &["--peek"]);
    expect(&seen, "reserved", 0);
    expect_silence(&seen);
    assert!(seen.stdout.contains("celery_delayed_9"), "{seen:#?}");
    expect_silence(&site.trace(&later, &[]));
    drop(worker);
}

/// Without native delayed delivery, which needs a topic exchange, tasks with an ETA fill the prefetch count of a consumer
/// that can't raise it.
#[test]
fn a_worker_that_is_full_of_tasks_until_their_eta() {
    let site =
        Site::with(&json!({"task_default_queue_type": "quorum", "worker_prefetch_multiplier": 2}));
    let worker = site.lab.worker("w1", &site.config, &[]);
    let later: Vec<String> = (0..2)
        .map(|_| site.send("labapp.add", &json!([1, 2]), &json!({"countdown": 900})))
        .collect();
    for id in &later {
        worker.wait_received(id);
    }
    let blocked = site.send("labapp.add", &json!([1, 2]), &json!({}));
    site.wait_for("celery", "messages_ready", 1);
    let seen = site.trace(&blocked, &["--peek"]);
    expect(&seen, "queued", 0);
    expect_finding(&seen, "eta-flood");
    let seen = site.trace(&later[0], &[]);
    expect(&seen, "reserved", 0);
    drop(worker);
}

/// What waits for its rate limit is in no reply of the worker; RabbitMQ counts it, and shows no ids.
#[test]
fn a_task_that_waits_for_its_rate_limit() {
    let limits = json!({"labapp.add": {"rate_limit": "1/h"}});
    let site = Site::with(&json!({"task_annotations": limits, "worker_prefetch_multiplier": 4}));
    let worker = site.lab.worker("w1", &site.config, &[]);
    let ids: Vec<String> = (0..3)
        .map(|_| site.send("labapp.add", &json!([1, 2]), &json!({})))
        .collect();
    for id in &ids {
        worker.wait_received(id);
    }
    site.wait_for("celery", "messages_unacknowledged", 2);
    let seen = site.trace(&ids[2], &[]);
    expect(&seen, "undetermined", 3);
    assert!(seen.stdout.contains("\"rate-limited\""), "{seen:#?}");
    expect_silence(&seen);
}

#[test]
fn a_queue_that_nobody_consumes() {
    let site = Site::new();
    let (_worker, _) = busy(&site);
    let lost = site.send("labapp.add", &json!([1, 2]), &json!({"queue": "emials"}));
    let seen = site.trace(&lost, &[]);
    expect(&seen, "undetermined", 3);
    expect_finding(&seen, "no-consumer");
    let seen = site.trace(&lost, &["--peek"]);
    expect(&seen, "stuck", 1);
    expect_finding(&seen, "no-consumer");
}

#[test]
fn doomed_tasks() {
    let site = Site::new();
    let (_worker, _) = busy(&site);
    let gone = site.send("labapp.renamed", &json!([]), &json!({}));
    let late = site.send("labapp.add", &json!([1, 2]), &json!({"expires": 0.05}));
    let twice = site.send("labapp.add", &json!([1, 2]), &json!({}));
    site.send("labapp.add", &json!([1, 2]), &json!({"task_id": twice}));
    site.vhost.publish("", "celery", "hello");
    site.wait_for("celery", "messages_ready", 5);
    // RabbitMQ drops it in place of delivering it: Celery gives its expiry to the broker, too.
    let seen = site.trace(&late, &["--peek"]);
    expect(&seen, "unknown", 1);
    assert!(seen.stdout.contains("expired-in-queue"), "{seen:#?}");
    let seen = site.trace(&gone, &["--peek"]);
    expect(&seen, "doomed", 1);
    expect_finding(&seen, "not-registered");
    let seen = site.trace(&twice, &["--peek"]);
    expect_finding(&seen, "duplicate-message");
    expect_finding(&seen, "malformed-message");
}

#[test]
fn dead_letters() {
    let site = Site::new();
    for queue in ["dead", "short", "narrow"] {
        site.vhost.declare(queue, &json!({"durable": true}));
    }
    let dead = json!({"dead-letter-exchange": "", "dead-letter-routing-key": "dead"});
    let with = |key: &str, value: u64| {
        let mut policy: Value = dead.clone();
        policy[key] = json!(value);
        policy
    };
    site.vhost.policy("^short$", &with("message-ttl", 1));
    site.vhost.policy("^narrow$", &with("max-length", 1));
    let (_worker, _) = busy(&site);
    let expired = site.send("labapp.add", &json!([1, 2]), &json!({"queue": "short"}));
    let pushed_out = site.send("labapp.add", &json!([1, 2]), &json!({"queue": "narrow"}));
    site.send("labapp.add", &json!([1, 2]), &json!({"queue": "narrow"}));
    site.wait_for("dead", "messages_ready", 2);
    for (id, reason) in [
        (&expired, "its time to live"),
        (&pushed_out, "the queue was full"),
    ] {
        let seen = site.trace(id, &["--peek"]);
        expect(&seen, "dead-lettered", 1);
        assert!(seen.stdout.contains(reason), "{seen:#?}");
    }
}

#[test]
fn limits_that_drop_tasks() {
    let site = Site::new();
    site.vhost
        .policy("^celery$", &json!({"message-ttl": 60_000}));
    let (_worker, running) = busy(&site);
    expect_finding(&site.trace(&running, &[]), "queue-limits");
}

#[test]
fn a_worker_that_was_killed() {
    let site = Site::with(&json!({"task_acks_late": false}));
    let mut worker = site.lab.worker("w1", &site.config, &[]);
    let early = site.send("labapp.sleep", &json!([600]), &json!({}));
    wait_for_result(&site, &early, "STARTED");
    worker.kill();
    let mut second = site.lab.worker("w2", &site.config, &[]);
    let seen = site.trace(&early, &[]);
    expect(&seen, "lost", 1);
    expect_finding(&seen, "vanished-while-running");
    // What was acknowledged late goes back to the queue, and nobody is left.
    let late = site.send("labapp.late", &json!([600]), &json!({}));
    second.wait_received(&late);
    second.kill();
    site.wait_for("celery", "consumers", 0);
    site.wait_for("celery", "messages_ready", 1);
    let seen = site.trace(&late, &["--peek"]);
    expect(&seen, "stuck", 1);
    expect_finding(&seen, "no-workers");
    assert!(seen.stdout.contains("redelivered"), "{seen:#?}");
}

#[test]
fn publishes_that_reach_no_queue() {
    let site = Site::new();
    let (_worker, _) = busy(&site);
    for exchange in ["orders", "sales"] {
        let path = site.vhost.path("exchanges", exchange);
        let topic = json!({"type": "topic", "durable": true});
        site.vhost.node.api("PUT", &path, &topic);
    }
    // To the second one a queue is bound, for other keys.
    let path = site.vhost.path("bindings", "e/sales/q/celery");
    let binding = json!({"routing_key": "some.other"});
    site.vhost.node.api("POST", &path, &binding);
    for exchange in ["orders", "sales"] {
        let options = json!({"exchange": exchange, "routing_key": "no.such"});
        let lost = site.send("labapp.add", &json!([1, 2]), &options);
        wait_until("the drop is counted", Duration::from_secs(40), || {
            let seen = site.trace(&lost, &[]).json();
            let findings = seen["findings"].as_array()?.iter();
            let mut dropped = findings.filter(|one| one["name"] == "unroutable-publishes");
            dropped
                .find(|one| one["subject"]["exchange"] == exchange)
                .map(|_| ())
        });
    }
}

#[test]
fn results_that_go_back_to_the_sender() {
    let site = Site::with(&json!({"result_backend": "rpc://"}));
    let (_worker, running) = busy(&site);
    let mut command = site.lab.doctor(&["trace", &running, NOBODYS]);
    let (broker, management) = (site.vhost.url(), site.vhost.node.management_url());
    command.args(["--broker", &broker, "--management", &management]);
    command.args(["--result-backend", "rpc://", "--format", "json"]);
    let seen = site.lab.run(&mut command, Duration::from_mins(1));
    seen.assert_decent(&[]);
    let report = seen.json();
    assert_eq!(report["traces"][0]["verdict"], "running", "{seen:#?}");
    let other = &report["traces"][1]["verdict"];
    assert!(other == "undetermined" || other == "unknown", "{seen:#?}");
}

#[test]
fn results_that_their_sender_never_took() {
    let site = Site::with(&json!({"result_backend": "rpc://"}));
    let _worker = site.lab.worker("w1", &site.config, &[]);
    // The sender has ended, and its reply queue stays.
    let done = site.send("labapp.add", &json!([1, 2]), &json!({}));
    let failed = site.send("labapp.fail", &json!([]), &json!({}));
    let look = |ids: &[&str], more: &[&str]| {
        let mut command = site.lab.doctor(&["trace"]);
        let (broker, management) = (site.vhost.url(), site.vhost.node.management_url());
        command.args(ids).args(["--broker", &broker]);
        command.args(["--management", &management, "--format", "json"]);
        command.args(["--result-backend", "rpc://"]).args(more);
        let seen = site.lab.run(&mut command, Duration::from_mins(1));
        seen.assert_decent(&[]);
        seen
    };
    let trace = |more: &[&str]| look(&[&done, &failed, NOBODYS], more).json();
    let results = |report: &Value| -> String {
        let reads = report["evidence"].as_array().expect("reads").iter();
        let mut results = reads.filter(|read| read["source"] == "results");
        results.next().expect("results")["detail"].to_string()
    };
    // Each sent that it began, and how it ended. The management API's numbers are seconds old.
    let told: Value = wait_until("the replies are told", Duration::from_secs(20), || {
        let report = trace(&[]);
        results(&report)
            .contains("4 wait in 2 reply queues")
            .then_some(report)
    });
    assert_eq!(told["traces"][0]["verdict"], "undetermined", "{told:#}");
    for _ in 0..2 {
        let report = trace(&["--peek"]);
        assert_eq!(report["traces"][0]["verdict"], "finished", "{report:#}");
        assert_eq!(report["traces"][0]["result"]["state"], "SUCCESS");
        assert_eq!(report["traces"][1]["result"]["state"], "FAILURE");
        assert_eq!(report["traces"][2]["verdict"], "undetermined", "{report:#}");
        assert!(results(&report).contains("4 in 2 of them were looked at"));
        assert!(report.to_string().contains("CD807"), "{report:#}");
    }
    // Where every result was found nothing was left unread, and what the look did is said all the same.
    let seen = look(&[&done], &["--peek"]);
    expect(&seen, "finished", 0);
    expect_silence(&seen);
    assert!(
        results(&seen.json()).contains("were looked at"),
        "{seen:#?}"
    );
}
