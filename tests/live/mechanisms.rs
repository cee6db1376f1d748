//! Mechanisms of Celery on Redis that look like a loss and are none, each beside the loss that it looks like.

use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, RedisServer, START, wait_until};

const PIDBOX: &str = "/0.celery.pidbox";

/// What hosted stacks start workers with.
const QUIET: [&str; 3] = [
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
];

struct Deployment<'l> {
    lab: &'l Lab,
    server: RedisServer,
    config: Value,
}

impl<'l> Deployment<'l> {
    fn new(lab: &'l Lab, settings: &Value) -> Self {
        let server = lab.redis_with(&["--save", "3600", "1"]);
        let mut config = json!({"broker_url": server.db(0), "result_backend": server.db(1)});
        let all = config.as_object_mut().expect("an object");
        all.extend(settings.as_object().expect("an object").clone());
        Self {
            lab,
            server,
            config,
        }
    }

    fn ask(&self, what: &[&str]) -> Outcome {
        let mut command = self.lab.doctor(what);
        command.args(["--format", "json", "--broker", &self.server.db(0)]);
        command.args(["--result-backend", &self.server.db(1)]);
        let done = self.lab.run(&mut command, Duration::from_mins(1));
        done.assert_decent(&[]);
        done
    }

    /// The verdict on a task, and all that was said.
    fn verdict(&self, id: &str) -> (String, Outcome) {
        let done = self.ask(&["trace", id]);
        let verdict = done.json()["traces"][0]["verdict"].clone();
        (verdict.as_str().expect("a verdict").to_owned(), done)
    }

    /// The names of an audit's findings above information, and all that was said.
    fn audit(&self) -> (Vec<String>, Outcome) {
        let done = self.ask(&["audit"]);
        let report = done.json();
        let all = report["findings"].as_array().expect("findings").iter();
        let loud = all.filter(|finding| finding["severity"] != "info");
        let names = loud.map(|f| f["name"].as_str().expect("a name").to_owned());
        (names.collect(), done)
    }

    fn wait_for_state(&self, id: &str, state: &str) {
        let key = format!("celery-task-meta-{id}");
        wait_until(state, START, || {
            let result: Option<String> = self.server.connect_to(1).get(&key).ok()?;
            result?.contains(state).then_some(())
        });
    }

    fn unacked(&self) -> u64 {
        self.server.connect().hlen("unacked").expect("alive")
    }

    fn wait_for_unacked(&self, number: u64) {
        wait_until("acknowledged", START, || {
            (self.unacked() == number).then_some(())
        });
    }
}

#[test]
fn a_worker_that_shuts_down_quietly_still_has_its_task() {
    let lab = Lab::new();
    let late = json!({"task_acks_late": true, "worker_prefetch_multiplier": 1});
    let there = Deployment::new(&lab, &late);
    let mut quiet = lab.worker("w1", &there.config, &QUIET);
    let id = lab.send(&there.config, "labapp.sleep", &json!([600]), &json!({}));
    quiet.wait_received(&id);
    let _sister = lab.worker("w2", &there.config, &[]);
    there.server.wait_for_workers(PIDBOX, 2);
    quiet.begin_to_stop();
    // It leaves remote control, and works on.
    wait_until("it answers no more", START, || {
        let report = there.ask(&["trace", &id]).json();
        let reads = report["evidence"].as_array().expect("evidence").iter();
        let mut workers = reads.filter(|read| read["source"] == "workers");
        workers
            .any(|read| read["detail"] == "1 of 1 answered")
            .then_some(())
    });
    let (verdict, done) = there.verdict(&id);
    assert_eq!(verdict, "undetermined", "{done:#?}");
    assert!(!done.stdout.contains("restore_by_tag"), "{done:#?}");
    let (findings, done) = there.audit();
    assert!(
        !findings.contains(&"orphaned-reservation".to_owned()),
        "{done:#?}"
    );
    assert_eq!(done.code, Some(3), "{done:#?}");
    // Once it is killed there is nobody left who could have it.
    quiet.kill();
    let (verdict, done) = there.verdict(&id);
    assert_eq!(verdict, "stuck", "{done:#?}");
    let (findings, done) = there.audit();
    assert!(
        findings.contains(&"orphaned-reservation".to_owned()),
        "{done:#?}"
    );
}

#[test]
fn a_task_that_ignored_or_replaced_itself_is_not_lost() {
    let lab = Lab::new();
    let there = Deployment::new(&lab, &json!({"task_track_started": true}));
    let mut worker = lab.worker("w1", &there.config, &["-c", "2"]);
    let skipped = lab.send(&there.config, "labapp.skip", &json!([]), &json!({}));
    let replaced = lab.send(&there.config, "labapp.replace", &json!([600]), &json!({}));
    for id in [&skipped, &replaced] {
        there.wait_for_state(id, "STARTED");
        worker.wait_for_log(&format!("[{id}] ignored"), START);
    }
    worker.wait_for_log("labapp.sleep[", START);
    there.wait_for_unacked(0);
    for id in [&skipped, &replaced] {
        let (verdict, done) = there.verdict(id);
        assert_eq!(verdict, "undetermined", "{done:#?}");
        assert!(done.stdout.contains("Ignore"), "{done:#?}");
    }
    let (findings, done) = there.audit();
    assert_eq!(findings, Vec::<String>::new(), "{done:#?}");
    // One that was killed is.
    let killed = lab.send(&there.config, "labapp.sleep", &json!([600]), &json!({}));
    there.wait_for_state(&killed, "STARTED");
    worker.kill();
    let _next = lab.worker("w1", &there.config, &[]);
    let (verdict, done) = there.verdict(&killed);
    assert_eq!(verdict, "lost", "{done:#?}");
}

#[test]
fn replies_in_a_serializer_of_the_app_are_read_by_content_or_said_to_be_unreadable() {
    let lab = Lab::new();
    let with = |name: &str| {
        let settings = json!({"task_serializer": name, "accept_content": [name, "json"], "task_acks_late": true,
                              "worker_prefetch_multiplier": 1});
        Deployment::new(&lab, &settings)
    };
    let house = with("house");
    let worker = lab.worker("w1", &house.config, &[]);
    let busy = lab.send(&house.config, "labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&busy);
    let waits = lab.send(&house.config, "labapp.sleep", &json!([600]), &json!({}));
    assert_eq!(house.verdict(&busy).0, "running");
    assert_eq!(house.verdict(&waits).0, "queued");
    let (findings, done) = house.audit();
    assert_eq!((findings, done.code), (Vec::new(), Some(0)), "{done:#?}");

    let sealed = with("sealed");
    let worker = lab.worker("w1", &sealed.config, &[]);
    let busy = lab.send(&sealed.config, "labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&busy);
    let (verdict, done) = sealed.verdict(&busy);
    assert_eq!(verdict, "undetermined", "{done:#?}");
    assert!(done.stdout.contains("application/x-sealed"), "{done:#?}");
    let (findings, done) = sealed.audit();
    assert_eq!(findings, ["unsupported"], "{done:#?}");
    assert_eq!(done.code, Some(3), "{done:#?}");
}

#[test]
fn what_a_killed_worker_had_in_a_bucket_is_not_all_the_survivor_s() {
    let lab = Lab::new();
    let settings = json!({"task_acks_late": true, "worker_prefetch_multiplier": 4});
    let there = Deployment::new(&lab, &settings);
    let mut dies = lab.worker("w1", &there.config, &[]);
    let _survives = lab.worker("w2", &there.config, &[]);
    let ids: Vec<String> = (0..8)
        .map(|_| lab.send(&there.config, "labapp.ratelimited", &json!([]), &json!({})))
        .collect();
    // Each ran one; of those that wait each has no more than four.
    there.wait_for_unacked(6);
    let (findings, done) = there.audit();
    assert_eq!(findings, Vec::<String>::new(), "{done:#?}");
    let log = dies.log();
    let last = ids
        .iter()
        .rfind(|id| log.contains(&format!("{id}] received")));
    let last = last.expect("it took some");
    assert_eq!(there.verdict(last).0, "reserved");
    dies.kill();
    let (verdict, done) = there.verdict(last);
    assert_eq!(verdict, "undetermined", "{done:#?}");
    let (findings, done) = there.audit();
    assert!(
        findings.contains(&"orphaned-reservation".to_owned()),
        "{done:#?}"
    );
}

#[test]
fn the_list_of_a_broadcast_queue_is_not_said_to_be_consumed() {
    let lab = Lab::new();
    let there = Deployment::new(&lab, &json!({"with_broadcast": true}));
    let _one = lab.worker("w1", &there.config, &[]);
    let _two = lab.worker("w2", &there.config, &[]);
    let printed = lab.python_json(
        &there.config,
        "import json, labapp\nprint(json.dumps(labapp.add.apply_async((1, 2), queue='everyone').id))",
    );
    let id = printed.as_str().expect("an id");
    let (verdict, done) = there.verdict(id);
    assert_eq!(verdict, "stuck", "{done:#?}");
    let report = done.json();
    let findings = report["traces"][0]["findings"]
        .as_array()
        .expect("findings");
    let of_name = |name| {
        findings
            .iter()
            .filter(move |finding| finding["name"] == name)
    };
    assert_eq!(of_name("no-consumer").count(), 2, "{done:#?}");
    for finding in of_name("no-consumer") {
        let consumed = finding["evidence"]["consumed_queues"]
            .as_array()
            .expect("queues");
        assert!(
            !consumed.contains(&finding["evidence"]["queue"]),
            "{done:#?}"
        );
    }
    assert_eq!(of_name("duplicate-message").count(), 0, "{done:#?}");
}

#[test]
fn a_saved_group_and_a_lock_are_told() {
    let lab = Lab::new();
    let there = Deployment::new(&lab, &json!({"task_track_started": true}));
    let mut worker = lab.worker("w1", &there.config, &[]);
    let printed = lab.python_json(
        &there.config,
        "import json, labapp\nfrom celery import group\n\
         g = group(labapp.add.s(1, 1), labapp.add.s(2, 2)).apply_async()\ng.save()\nprint(json.dumps(g.id))",
    );
    let (verdict, done) = there.verdict(printed.as_str().expect("an id"));
    assert_eq!(verdict, "undetermined", "{done:#?}");
    assert!(done.stdout.contains("a group of 2 tasks"), "{done:#?}");
    let id = lab.send(&there.config, "labapp.sleep", &json!([600]), &json!({}));
    there.wait_for_state(&id, "STARTED");
    worker.kill();
    let _next = lab.worker("w2", &there.config, &[]);
    let mut results = there.server.connect_to(1);
    let _: () = results.set("SINGLETONLOCK_abc", &id).expect("alive");
    let (verdict, done) = there.verdict(&id);
    assert_eq!(verdict, "lost", "{done:#?}");
    assert!(done.stdout.contains("DEL SINGLETONLOCK_abc"), "{done:#?}");
}
