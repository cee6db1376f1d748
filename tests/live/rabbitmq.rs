//! Tasks on a real RabbitMQ with real workers, each test in a virtual host of its own.

mod audit;
mod bad_input;
mod cluster;
mod faults;
mod harmless;
mod healthy;
mod strangers;
mod trace;
mod world;

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, RabbitNode, RedisServer, SOON, Vhost, Worker, wait_until};

/// Late acknowledgement and no prefetching, so that it is known where each task is.
fn settings() -> Value {
    json!({"task_acks_late": true, "task_reject_on_worker_lost": true, "task_track_started": true,
           "worker_prefetch_multiplier": 1, "task_time_limit": 1200})
}

/// A virtual host, results in a Redis, and how to look at them.
struct Site {
    lab: Lab,
    vhost: Vhost,
    redis: RedisServer,
    config: Value,
}

impl Site {
    fn new() -> Self {
        Self::on(RabbitNode::shared().vhost(), &json!({}))
    }

    /// With further settings of Celery.
    fn with(more: &Value) -> Self {
        Self::on(RabbitNode::shared().vhost(), more)
    }

    fn on(vhost: Vhost, more: &Value) -> Self {
        let lab = Lab::new();
        let redis = lab.redis_with(&["--save", "3600", "1"]);
        let mut config = settings();
        config["broker_url"] = json!(vhost.url());
        config["result_backend"] = json!(redis.db(1));
        for (key, value) in more.as_object().expect("settings") {
            config[key] = value.clone();
        }
        Self {
            lab,
            vhost,
            redis,
            config,
        }
    }

    fn send(&self, task: &str, arguments: &Value, options: &Value) -> String {
        self.lab.send(&self.config, task, arguments, options)
    }

    /// Where everything is, unless `more` says where else.
    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let all = [
            ("--broker", self.vhost.url()),
            ("--result-backend", self.redis.db(1)),
            ("--management", self.vhost.node.management_url()),
            ("--format", "json".to_owned()),
            // It stops waiting when all have answered, and the machine may be busy.
            ("--timeout", "20s".to_owned()),
        ];
        let left = all.into_iter().filter(|(flag, _)| !more.contains(flag));
        let own = left.flat_map(|(flag, value)| [flag.to_owned(), value]);
        own.chain(more.iter().map(|&word| word.to_owned()))
            .collect()
    }

    fn trace(&self, id: &str, more: &[&str]) -> Outcome {
        let mut command = self.lab.doctor(&["trace", id]);
        command.args(self.arguments(more));
        let done = self.lab.run(&mut command, Duration::from_mins(1));
        done.assert_decent(&["guest:guest"]);
        done
    }

    /// Waits until the statistics tell which connection is this worker's.
    fn wait_for_consumer(&self, worker: &Worker) {
        let mailbox = format!("{}.celery.pidbox", worker.name);
        let path = self.vhost.path("consumers", "");
        wait_until(&format!("a consumer of {mailbox}"), SOON, || {
            let all = self.vhost.node.api("GET", &path, &Value::Null);
            let mut queues = all.as_array()?.iter().map(|one| &one["queue"]["name"]);
            queues.any(|queue| *queue == mailbox).then_some(())
        });
    }

    /// Waits until the statistics count so many messages in a queue.
    fn wait_for(&self, queue: &str, field: &str, count: u64) {
        let path = self.vhost.path("queues", queue);
        wait_until(&format!("{count} {field} in {queue}"), SOON, || {
            let (status, text) = self.vhost.node.try_api("GET", &path, None)?;
            let queue: Value = serde_json::from_str(&text).ok()?;
            (status == 200 && queue[field] == count).then_some(())
        });
    }
}

/// The verdict of the only trace, and the exit code.
fn verdict(done: &Outcome) -> (String, Option<i32>) {
    let verdict = done.json()["traces"][0]["verdict"]
        .as_str()
        .map(str::to_owned);
    (verdict.unwrap_or_default(), done.code)
}

fn expect(done: &Outcome, verdict_is: &str, code: i32) {
    assert_eq!(
        verdict(done),
        (verdict_is.to_owned(), Some(code)),
        "{done:#?}"
    );
}

/// The names of all findings, of the task and of the deployment, that are no mere information.
fn findings(done: &Outcome) -> Vec<String> {
    let report = done.json();
    let (of_task, of_all) = (&report["traces"][0]["findings"], &report["findings"]);
    let all = [of_task, of_all].into_iter().filter_map(Value::as_array);
    let loud = all.flatten().filter(|one| one["severity"] != "info");
    loud.map(|one| one["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn expect_finding(done: &Outcome, name: &str) {
    let all = findings(done);
    assert!(all.iter().any(|one| one == name), "{all:?}: {done:#?}");
}

fn expect_silence(done: &Outcome) {
    assert_eq!(findings(done), Vec::<String>::new(), "{done:#?}");
}
