//! Workers that come and leave while a reading goes on.

use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, Proxy, RedisServer, Running, SOON, START, wait_until};

const PIDBOX: &str = "/0.celery.pidbox";

const ID: &str = "7b0a3b2e-6a51-4c0e-9d5e-2f1f6f6f0001";
const LATE: &str = "7b0a3b2e-6a51-4c0e-9d5e-2f1f6f6f0002";

/// A server with a list that takes as long to read as a test wants.
struct Slow<'l> {
    lab: &'l Lab,
    server: RedisServer,
    proxy: Proxy,
    config: Value,
}

impl<'l> Slow<'l> {
    fn new(lab: &'l Lab) -> Self {
        let server = lab.redis();
        let page = vec![other_task(); 1_000];
        for _ in 0..20 {
            let _: () = server.connect().lpush("backlog", &page).expect("alive");
        }
        let proxy = Proxy::to(server.port);
        let config = json!({"broker_url": server.db(0), "result_backend": server.db(1), "task_track_started": true});
        Self {
            lab,
            server,
            proxy,
            config,
        }
    }

    /// A trace that has met the workers and reads the backlog, and goes on with it until [`Slow::rest`].
    fn trace(&self, ids: &[&str], more: &[&str]) -> Running {
        let url = self.proxy.instead_of(self.server.port, &self.server.db(0));
        let mut command = self.lab.doctor(&["trace"]);
        command
            .args(ids)
            .args(["--format", "json", "--broker", &url]);
        command
            .args(["--result-backend", &self.server.db(1)])
            .args(more);
        self.proxy.delay(Duration::from_millis(8));
        let before = self.proxy.passed();
        let running = self.lab.spawn(&mut command);
        wait_until("it reads the backlog", START, || {
            (self.proxy.passed() - before > 500_000).then_some(())
        });
        running
    }

    fn rest(&self, running: Running) -> Outcome {
        self.proxy.delay(Duration::ZERO);
        let done = running.wait(Duration::from_mins(1));
        done.assert_decent(&[]);
        done
    }
}

/// A message of a thousand bytes.
fn other_task() -> String {
    let properties = json!({"correlation_id": "other", "delivery_tag": "other", "body_encoding": "base64",
                            "delivery_info": {"exchange": "", "routing_key": "backlog"}});
    json!({"body": "W10=", "content-type": "application/json", "content-encoding": "utf-8",
           "headers": {"lang": "py", "task": "labapp.add", "id": "other", "argsrepr": "x".repeat(1_000)},
           "properties": properties})
    .to_string()
}

/// The verdict on each id.
fn verdicts(done: &Outcome) -> Vec<String> {
    let report = done.json();
    let traces = report["traces"].as_array().expect("traces");
    let verdict = |trace: &Value| trace["verdict"].as_str().expect("a verdict").to_owned();
    traces.iter().map(verdict).collect()
}

/// The names of what is wrong.
fn errors(done: &Outcome) -> Vec<String> {
    let report = done.json();
    let of_traces = report["traces"].as_array().expect("traces").iter();
    let of_traces = of_traces.filter_map(|trace| trace["findings"].as_array());
    let all = of_traces.chain(report["findings"].as_array()).flatten();
    all.filter(|finding| finding["severity"] == "error")
        .map(|finding| finding["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// A worker starts during the reading, and takes one task that it acknowledges at once and one that it does not.
fn starts_meanwhile(slow: &Slow<'_>, others: usize) {
    let running = slow.trace(&[ID, LATE], &[]);
    let worker = slow.lab.worker("new", &slow.config, &["-c", "2"]);
    for (task, id) in [("labapp.sleep", ID), ("labapp.late", LATE)] {
        slow.lab
            .send(&slow.config, task, &json!([600]), &json!({"task_id": id}));
        worker.wait_received(id);
    }
    slow.server.wait_for_workers(PIDBOX, 1 + others);
    let key = format!("celery-task-meta-{ID}");
    wait_until("the task has started", SOON, || {
        let result: Option<String> = slow.server.connect_to(1).get(&key).ok()?;
        result?.contains("STARTED").then_some(())
    });
    let done = slow.rest(running);
    assert_eq!(verdicts(&done), ["running", "running"], "{done:#?}");
    assert_eq!(errors(&done), Vec::<String>::new(), "{done:#?}");
    assert!(done.stdout.contains("came or left meanwhile"), "{done:#?}");
}

#[test]
fn what_a_worker_has_that_starts_beside_others_is_not_lost() {
    let lab = Lab::new();
    let slow = Slow::new(&lab);
    let _other = lab.worker("w1", &slow.config, &["-Q", "other"]);
    slow.server.wait_for_workers(PIDBOX, 1);
    starts_meanwhile(&slow, 1);
}

#[test]
fn what_the_first_worker_has_is_not_lost() {
    let lab = Lab::new();
    starts_meanwhile(&Slow::new(&lab), 0);
}

#[test]
fn what_nobody_has_is_not_called_lost_while_one_that_started_meanwhile_is_silent() {
    let lab = Lab::new();
    let slow = Slow::new(&lab);
    let _other = lab.worker("w1", &slow.config, &["-Q", "other"]);
    slow.server.wait_for_workers(PIDBOX, 1);
    let running = slow.trace(&[ID], &[]);
    // It is subscribed, and answers nothing.
    let mut client = slow.server.connect();
    let mut stranger = client.as_pubsub();
    stranger.psubscribe(PIDBOX).expect("alive");
    let done = slow.rest(running);
    assert_eq!(verdicts(&done), ["undetermined"], "{done:#?}");
    assert_eq!(errors(&done), Vec::<String>::new(), "{done:#?}");
    assert!(
        done.stdout.contains("workers came or left meanwhile"),
        "{done:#?}"
    );
    assert!(done.elapsed < SOON, "{done:#?}");
}

#[test]
fn a_worker_that_did_not_answer_and_is_gone_is_not_called_silent() {
    let lab = Lab::new();
    let slow = Slow::new(&lab);
    let _stays = lab.worker("w1", &slow.config, &["-Q", "other"]);
    let mut leaves = lab.worker("w2", &slow.config, &["-Q", "other"]);
    slow.server.wait_for_workers(PIDBOX, 2);
    leaves.freeze();
    let running = slow.trace(&[ID], &["--timeout", "1s"]);
    leaves.kill();
    let done = slow.rest(running);
    assert_eq!(verdicts(&done), ["undetermined"], "{done:#?}");
    assert_eq!(errors(&done), Vec::<String>::new(), "{done:#?}");
    // While it is there it is silent.
    let silent = lab.worker("w3", &slow.config, &["-Q", "other"]);
    slow.server.wait_for_workers(PIDBOX, 2);
    silent.freeze();
    let done = slow.rest(slow.trace(&[ID], &["--timeout", "1s"]));
    assert_eq!(errors(&done), ["silent-worker"], "{done:#?}");
}
