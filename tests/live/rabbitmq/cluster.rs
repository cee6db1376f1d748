//! A cluster that lost a node: what stood on it can't be told, and all else is told as ever.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Site, expect, findings};
use crate::lab::{Lab, Vhost, Worker, wait_until};

const NOBODYS: &str = "0a0a0a0a-0000-4000-8000-000000000000";

/// A virtual host with a queue of its own on a node, and a worker on another that runs a task.
fn site(vhost: Vhost, queue: &str, settings: &Value) -> (Site, Worker, String) {
    let site = Site::on(vhost, &json!({}));
    site.vhost.declare(queue, settings);
    site.vhost.publish("", queue, "{}");
    site.wait_for(queue, "messages_ready", 1);
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    (site, worker, running)
}

/// All that concerns the queue is unknown because of `why`, and nothing else is; that it is out of order is said.
fn expect_unknown(site: &Site, running: &str, why: &str) {
    let done = site.trace(running, &[]);
    expect(&done, "running", 0);
    assert_eq!(findings(&done), ["queue-broken"], "{done:#?}");
    for more in [&[][..], &["--peek"]] {
        let done = site.trace(NOBODYS, more);
        expect(&done, "undetermined", 3);
        assert_eq!(findings(&done), ["queue-broken"], "{done:#?}");
        assert!(
            done.json()["evidence"].to_string().contains(why),
            "{done:#?}"
        );
    }
    let done = site.audit(&[]);
    assert_eq!(done.alarms().len(), 1, "{done:#?}");
    assert_eq!(done.code, Some(1), "{done:#?}");
    let report = done.json();
    let mut reads = report["evidence"].as_array().expect("reads").iter();
    assert!(reads.any(|read| read["source"] == "workers" && read["status"] == "complete"));
    let findings = report["findings"].as_array().expect("findings").iter();
    let mut names = findings.filter_map(|one| one["name"].as_str());
    assert!(names.all(|name| name != "broker-unavailable"));
    assert!(report["findings"].to_string().contains("queue-broken"));
}

#[test]
fn queues_of_a_node_that_is_down() {
    let lab = Lab::new();
    let first = lab.rabbitmq_node("");
    // One that is added while the second node starts waits for it too long.
    let vhosts = [first.node.vhost(), first.node.vhost()];
    let second = lab.rabbitmq_beside(&first);
    let there = |arguments: Value| json!({"durable": true, "node": second.node.name, "arguments": arguments});
    let [one, other] = vhosts;
    let (away, _worker, of_away) = site(one, "away", &there(json!({})));
    // Of its two members the leader will be gone, and with it the majority.
    let quorum = there(json!({"x-queue-type": "quorum"}));
    let (votes, _other, of_votes) = site(other, "votes", &quorum);
    second.kill();
    wait_until("the node is missed", Duration::from_mins(1), || {
        let nodes = first.node.api("GET", "/api/nodes", &Value::Null);
        let mut nodes = nodes.as_array()?.iter();
        nodes.any(|node| node["running"] == false).then_some(())
    });
    expect_unknown(&away, &of_away, "is down or inaccessible");
    expect_unknown(&votes, &of_votes, "votes is said to be empty");
}
