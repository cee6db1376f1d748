//! Who else takes tasks, and what may have become of a task that nobody knows.

use serde_json::{Value, json};

use super::{Site, expect};
use crate::lab::{SOON, START, wait_until};

impl Site {
    fn wait_for_consumers(&self, number: usize) {
        let path = self.vhost.path("consumers", "");
        wait_until("the statistics tell the consumers", START, || {
            let all = self.vhost.node.api("GET", &path, &Value::Null);
            let of_queue = all.as_array()?.iter();
            let of_queue = of_queue.filter(|one| one["queue"]["name"] == "celery");
            (of_queue.count() == number).then_some(())
        });
    }
}

#[test]
fn a_worker_that_answers_nobody_beside_one_that_does_is_named() {
    let site = Site::new();
    let _good = site.lab.worker("w1", &site.config, &[]);
    site.wait_for_consumers(1);
    let named = |report: &Value| {
        let findings = report["findings"].as_array().expect("findings").iter();
        let mut found = findings.filter(|one| one["name"] == "foreign-consumer");
        (found.next().cloned(), found.count())
    };
    assert_eq!(named(&site.audit(&[]).json()), (None, 0));
    let mut deaf = site.config.clone();
    deaf["worker_enable_remote_control"] = json!(false);
    let alone = ["--without-gossip", "--without-mingle"];
    let _forgotten = site.lab.worker("old", &deaf, &alone);
    site.wait_for_consumers(2);
    let done = site.audit(&[]);
    let (found, others) = named(&done.json());
    let found = found.unwrap_or_else(|| panic!("{done:#?}"));
    assert_eq!((found["count"].as_u64(), others), (Some(1), 0), "{found:#}");
    assert_eq!(found["severity"], "warning");
    let consumer = &found["evidence"]["consumers"][0];
    assert_eq!(consumer["user"], "guest", "{found:#}");
    let text = |key: &str| consumer[key].as_str().unwrap_or_default().to_owned();
    assert!(text("product").starts_with("py-amqp "), "{found:#}");
    assert!(text("peer").starts_with("127.0.0.1:"), "{found:#}");
}

#[test]
fn a_task_that_expired_in_its_queue_is_told_so_first() {
    let site = Site::new();
    let worker = site.lab.worker("w1", &site.config, &[]);
    let busy = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&busy);
    let lost = site.send("labapp.add", &json!([1, 2]), &json!({"expires": 1}));
    let path = site.vhost.path("queues", "celery");
    wait_until("it came and went", SOON, || {
        let queue = site.vhost.node.api("GET", &path, &Value::Null);
        let published = queue["message_stats"]["publish"] == 2;
        (published && queue["messages_ready"] == 0 && queue["messages_unacknowledged"] == 1)
            .then_some(())
    });
    let done = site.trace(&lost, &[]);
    expect(&done, "unknown", 1);
    let causes = &done.json()["traces"][0]["causes"];
    assert_eq!(causes[0]["name"], "expired-in-queue", "{causes:#}");
}
