//! Audits of RabbitMQ: what stands still is found, what moves is not, and a deadline ends whatever is waited for.

use std::time::Duration;

use serde_json::{Value, json};

use super::Site;
use crate::lab::{DeafServer, Fault, Outcome, Proxy, SOON, START, Worker, wait_until};

/// A worker that answers remote control and is a consumer for the broker, and does nothing with what it is sent.
const DEAF: &str = "from celery.worker.consumer import Consumer\n\
                    Consumer.create_task_handler = lambda self, *a, **k: (lambda message: None)\n";

impl Site {
    pub(super) fn audit(&self, more: &[&str]) -> Outcome {
        let mut command = self.lab.doctor(&["audit"]);
        command.args(self.arguments(more));
        let done = self.lab.run(&mut command, Duration::from_mins(1));
        done.assert_decent(&["guest:guest"]);
        done
    }

    /// Sends many tasks from one process.
    pub(super) fn send_many(&self, task: &str, arguments: &Value, count: usize) {
        let code = format!(
            "import json, labapp\n\
             for n in range({count}): labapp.app.send_task({task:?}, args=json.loads({:?}))",
            arguments.to_string()
        );
        self.lab.python(&self.config, &code);
    }

    /// Nobody's reply queue is left.
    pub(super) fn assert_no_reply_queue(&self) {
        let node = &self.vhost.node;
        let left = wait_until("the reply queue is gone", SOON, || {
            let queues = node.api("GET", &self.vhost.path("queues", ""), &json!(null));
            let names: Vec<String> = (queues.as_array().into_iter().flatten())
                .map(|queue| queue["name"].as_str().unwrap_or_default().to_owned())
                .filter(|name| name.ends_with(".reply.celery.pidbox"))
                .collect();
            names.is_empty().then_some(names)
        });
        assert_eq!(left, Vec::<String>::new());
    }
}

fn found(done: &Outcome, name: &str) -> Option<Value> {
    let report = done.json();
    let all = report["findings"].as_array().expect("findings");
    all.iter().find(|one| one["name"] == name).cloned()
}

/// How a rule was judged.
fn check(done: &Outcome, name: &str) -> String {
    let report = done.json();
    let all = report["checks"].as_array().expect("checks");
    let one = all.iter().find(|check| check["name"] == name);
    one.expect("it was asked")["status"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn early() -> Value {
    // Who knows a task with a rate limit may hold messages that no reply shows.
    json!({"task_acks_late": false, "worker_prefetch_multiplier": 4,
           "task_annotations": {"labapp.ratelimited": {"rate_limit": null}}})
}

#[test]
fn a_consumer_that_takes_nothing_is_found() {
    let site = Site::with(&early());
    std::fs::write(site.lab.folder().join("deaf.py"), DEAF).expect("the lab's folder");
    let _deaf = site.lab.worker("w1", &site.config, &["-I", "deaf"]);
    site.send_many("labapp.add", &json!([1, 2]), 12);
    // Four are in its hands, by its prefetch count. Under load the statistics take their time.
    let path = site.vhost.path("queues", "celery");
    wait_until("eight wait", START, || {
        let queue = site.vhost.node.api("GET", &path, &json!(null));
        (queue["messages_ready"] == 8).then_some(())
    });
    for more in [
        &["--sample", "3s"][..],
        &[
            "--sample",
            "3s",
            "--management",
            "http://guest:guest@127.0.0.1:1",
        ],
    ] {
        let done = site.audit(more);
        let stalled = found(&done, "stalled-consumer").unwrap_or_else(|| panic!("{done:#?}"));
        assert_eq!(stalled["count"], 8, "{stalled:#}");
        assert_eq!(stalled["subject"]["queue"], "celery");
        assert_eq!(done.code, Some(1));
    }
    // One reading proves nothing.
    let done = site.audit(&[]);
    assert_eq!(check(&done, "stalled-consumer"), "not_judged", "{done:#?}");
}

#[test]
fn long_tasks_and_steady_traffic_do_not_stand_still() {
    let site = Site::with(&early());
    let worker = site.lab.worker(
        "w1",
        &site.config,
        &["-c", "2", "--prefetch-multiplier", "1"],
    );
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    site.send_many("labapp.sleep", &json!([0.05]), 2_000);
    let sample = ["--sample", "3s"];
    let alone = [
        "--sample",
        "3s",
        "--management",
        "http://guest:guest@127.0.0.1:1",
    ];
    for more in [&sample[..], &alone] {
        let done = site.audit(more);
        assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
        assert_eq!(check(&done, "stalled-consumer"), "clear", "{done:#?}");
    }
    let mut command = site.lab.doctor(&["audit", "-v"]);
    let mut arguments = site.arguments(&sample);
    arguments.retain(|word| word != "--format" && word != "json");
    let table = site
        .lab
        .run(command.args(arguments), Duration::from_mins(1));
    assert!(table.stdout.contains("drained in"), "{table:#?}");
    // Both slots are taken for long now: nothing moves, and nobody has room.
    site.send_many("labapp.sleep", &json!([600]), 1);
    let purge = site.vhost.path("queues", "celery/contents");
    site.vhost.node.api("DELETE", &purge, &json!(null));
    site.send_many("labapp.sleep", &json!([600]), 6);
    std::thread::sleep(Duration::from_secs(1));
    let done = site.audit(&sample);
    assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
}

fn workers(site: &Site) -> Worker {
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    site.send("labapp.add", &json!([1, 2]), &json!({}));
    worker
}

/// Ends with a partial report, about in time, and blames nobody.
fn assert_cut_short(site: &Site, more: &[&str]) -> Outcome {
    assert_cut_short_after(2, site, more)
}

fn assert_cut_short_after(seconds: u64, site: &Site, more: &[&str]) -> Outcome {
    let deadline = format!("{seconds}s");
    let flags = ["--deadline", &deadline, "--timeout", "2s"];
    let done = site.audit(&[&flags[..], more].concat());
    assert_eq!(done.code, Some(3), "{done:#?}");
    assert!(done.elapsed < Duration::from_secs(seconds + 3), "{done:#?}");
    assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
    site.assert_no_reply_queue();
    done
}

#[test]
fn a_deadline_ends_it_whoever_falls_silent() {
    let site = Site::new();
    let worker = workers(&site);
    let (port, http) = (site.vhost.node.port, site.vhost.node.http_port);
    let whole = Proxy::to(port);
    let broker = whole.instead_of(port, &site.vhost.url());
    assert_eq!(site.audit(&["--broker", &broker]).code, Some(0));
    let bytes = i64::try_from(whole.passed()).expect("not many");
    for tenths in [0, 1, 3, 6, 9] {
        let stalls = Proxy::failing(port, bytes * tenths / 10, Fault::Stall);
        let broker = stalls.instead_of(port, &site.vhost.url());
        let done = assert_cut_short(&site, &["--broker", &broker]);
        assert!(done.stdout.contains("deadline"), "{tenths}: {done:#?}");
    }
    let url = site.vhost.node.management_url();
    let whole = Proxy::to(http);
    assert_eq!(
        site.audit(&["--management", &whole.instead_of(http, &url)])
            .code,
        Some(0)
    );
    let bytes = i64::try_from(whole.passed()).expect("not many");
    for tenths in [0, 5] {
        let stalls = Proxy::failing(http, bytes * tenths / 10, Fault::Stall);
        let done = assert_cut_short(&site, &["--management", &stalls.instead_of(http, &url)]);
        assert!(done.stdout.contains("deadline"), "{tenths}: {done:#?}");
    }
    let slow = Proxy::to(http);
    slow.delay(Duration::from_millis(700));
    assert_cut_short(&site, &["--management", &slow.instead_of(http, &url)]);
    // The results hang, and the broker is read all the same, for which also a busy machine has the time.
    let deaf = DeafServer::silent();
    // In the workers' database, by its number.
    let theirs = deaf.url().replace("/0", "/1");
    let done = assert_cut_short_after(6, &site, &["--result-backend", &theirs]);
    assert!(done.stdout.contains("1 of 1 answered"), "{done:#?}");
    let stalls = Proxy::failing(site.redis.port, 300, Fault::Stall);
    let results = stalls.instead_of(site.redis.port, &site.redis.db(1));
    let done = assert_cut_short_after(6, &site, &["--result-backend", &results]);
    assert!(done.stdout.contains("1 of 1 answered"), "{done:#?}");
    // A worker may take as long as --timeout says; there was no time for that, so that it is not called silent.
    worker.freeze();
    let done = assert_cut_short(&site, &[]);
    worker.thaw();
    assert!(done.stdout.contains("in 1 queue"), "{done:#?}");
}
