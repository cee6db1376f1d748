//! Audits of real deployments: silent where all is well, and one finding for each thing that is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};

use crate::lab::{DeafServer, Fault, Lab, Outcome, Proxy, RedisServer, SOON, wait_until};

const PIDBOX: &str = "/0.celery.pidbox";

/// A server as Debian starts it: with snapshots.
fn ordinary(lab: &Lab) -> RedisServer {
    lab.redis_with(&["--save", "3600", "1"])
}

fn arguments(server: &RedisServer) -> [String; 4] {
    [
        "--broker".into(),
        server.db(0),
        "--result-backend".into(),
        server.db(1),
    ]
}

fn audit(lab: &Lab, server: &RedisServer, more: &[&str]) -> Outcome {
    let mut command = lab.doctor(&["audit"]);
    command.args(arguments(server)).args(more);
    let done = lab.run(&mut command, Duration::from_mins(1));
    done.assert_decent(&[]);
    done
}

/// The findings by name and subject, with their counts.
fn counts(report: &Value) -> BTreeMap<(String, String), u64> {
    let findings = report["findings"].as_array().expect("findings");
    let of_one = |finding: &Value| {
        let name = finding["name"].as_str().expect("a name").to_owned();
        let count = finding["count"].as_u64().expect("a count");
        ((name, finding["subject"].to_string()), count)
    };
    findings.iter().map(of_one).collect()
}

fn names(report: &Value) -> Vec<String> {
    counts(report).into_keys().map(|(name, _)| name).collect()
}

fn config(server: &RedisServer) -> Value {
    json!({"broker_url": server.db(0), "result_backend": server.db(1)})
}

#[test]
fn a_deployment_on_defaults_is_silent() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let config = config(&server);
    let worker = lab.worker("w1", &config, &[]);
    let running = lab.send(&config, "labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    // The worker runs one task and holds four more: the rest waits.
    for _ in 0..8 {
        lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    }
    server.wait_for_workers(PIDBOX, 1);
    let quiet = audit(&lab, &server, &["-q"]);
    assert_eq!(
        (quiet.code, quiet.stdout.as_str()),
        (Some(0), ""),
        "{quiet:#?}"
    );
    let report = audit(&lab, &server, &["--format", "json", "--sample", "2s"]);
    let loud: Vec<String> = report.json()["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|finding| finding["severity"] != "info")
        .map(ToString::to_string)
        .collect();
    assert_eq!((report.code, loud), (Some(0), Vec::new()), "{report:#?}");
    let table = audit(&lab, &server, &[]);
    assert!(
        table.stdout.contains("celery") && table.stdout.contains("1 worker"),
        "{table:#?}"
    );
    assert!(
        !table.stdout.contains("early-ack"),
        "information is for -v: {table:#?}"
    );
    let verbose = audit(&lab, &server, &["-v"]);
    assert!(verbose.stdout.contains("early-ack"), "{verbose:#?}");
}

#[test]
fn a_worker_that_signs_off_while_an_audit_samples_is_not_silent() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let config = config(&server);
    let _stays = lab.worker("w1", &config, &["-c", "1"]);
    let mut leaves = lab.worker("w2", &config, &["-c", "1"]);
    server.wait_for_workers(PIDBOX, 2);
    let mut command = lab.doctor(&["audit", "--format", "json", "--sample", "6s"]);
    command.args(arguments(&server));
    let audit = lab.spawn(&mut command);
    // Both have answered by then.
    std::thread::sleep(Duration::from_secs(2));
    leaves.stop();
    let done = audit.wait(Duration::from_mins(1));
    done.assert_decent(&[]);
    // What it had at the first question is not known at the second.
    assert!(matches!(done.code, Some(0 | 3)), "{done:#?}");
    assert!(
        !names(&done.json()).contains(&"silent-worker".to_owned()),
        "{done:#?}"
    );
}

/// Processes that take a minute to load what their tasks need.
const SLOW_START: &str = "\
import time
from celery.signals import worker_process_init

@worker_process_init.connect
def load(**kwargs):
    time.sleep(60)
";

#[test]
fn a_pool_that_is_still_starting_does_not_hang() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let config = json!({"broker_url": server.db(0), "result_backend": server.db(1), "worker_prefetch_multiplier": 2,
                        "task_annotations": {"labapp.ratelimited": {"rate_limit": null}}});
    std::fs::write(lab.folder().join("slow_start.py"), SLOW_START).expect("the lab's folder");
    let worker = lab.worker("w1", &config, &["-I", "slow_start"]);
    let first = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    worker.wait_received(&first);
    for _ in 0..4 {
        lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    }
    server.wait_for_workers(PIDBOX, 1);
    let done = audit(&lab, &server, &["--format", "json", "--sample", "6s"]);
    assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
    assert_eq!(done.code, Some(0), "{done:#?}");
}

#[test]
fn what_was_revoked_is_found_where_it_waits() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let config = config(&server);
    let worker = lab.worker("w1", &config, &["-c", "1", "--prefetch-multiplier", "1"]);
    let running = lab.send(&config, "labapp.late", &json!([600]), &json!({}));
    worker.wait_received(&running);
    let ids: Vec<String> = (0..3)
        .map(|_| lab.send(&config, "labapp.add", &json!([1, 2]), &json!({})))
        .collect();
    let revoke = format!("labapp.app.control.revoke({:?})", ids[1]);
    lab.python(&config, &format!("import labapp\n{revoke}"));
    worker.wait_for_log(
        &format!("flagged as revoked: {}", ids[1]),
        Duration::from_secs(30),
    );
    let done = audit(&lab, &server, &["--format", "json"]);
    let report = done.json();
    let found = report["findings"].as_array().expect("findings");
    let revoked = found.iter().find(|finding| finding["name"] == "revoked");
    let revoked = revoked.unwrap_or_else(|| panic!("{done:#?}"));
    assert_eq!(revoked["count"], 1, "{done:#?}");
    assert_eq!(revoked["task_ids"], json!([ids[1]]), "{done:#?}");
}

#[test]
fn results_in_another_database_than_the_workers_are_not_taken_for_all() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let mut theirs = config(&server);
    theirs["result_backend"] = json!(server.db(5));
    let _worker = lab.worker("w1", &theirs, &["-c", "1"]);
    server.wait_for_workers(PIDBOX, 1);
    let done = audit(&lab, &server, &["--format", "json"]);
    let report = done.json();
    let reads = report["evidence"].as_array().expect("evidence");
    let results = reads.iter().find(|read| read["source"] == "results");
    let results = results.unwrap_or_else(|| panic!("{done:#?}"));
    assert_eq!(results["status"], "partial", "{done:#?}");
    let detail = results["detail"].as_str().expect("a detail");
    assert!(
        detail.contains("in database 5, and database 1 was read"),
        "{detail}"
    );
}

#[test]
fn a_link_of_a_chain_that_nothing_knows_is_told_beside_those_that_are_somewhere() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let mut config = config(&server);
    // Where a task ignores its result nobody can tell.
    config["task_annotations"] = json!({"labapp.ignored": {"ignore_result": false}});
    let mut killed = lab.worker("w1", &config, &["-c", "1"]);
    let send = |to: &str| -> Vec<String> {
        let code = format!(
            "import json, labapp\nfrom celery import chain\nlast = chain(labapp.add.s(1, 2), \
             labapp.sleep.si(600).set(queue={to:?})).apply_async()\nprint(json.dumps([last.parent.id, last.id]))"
        );
        let ids = lab.python_json(&config, &code);
        serde_json::from_value(ids).expect("ids")
    };
    let waiting = send("later");
    let broken = send("celery");
    killed.wait_received(&broken[1]);
    killed.kill();
    let worker = lab.worker("w2", &config, &["-c", "1", "-Q", "celery,later"]);
    worker.wait_received(&waiting[1]);
    server.wait_for_workers(PIDBOX, 1);
    let done = audit(&lab, &server, &["--format", "json"]);
    let report = done.json();
    let found = report["findings"].as_array().expect("findings");
    let broken_chain = found.iter().find(|found| found["name"] == "chain-broken");
    let broken_chain = broken_chain.unwrap_or_else(|| panic!("{done:#?}"));
    assert_eq!(broken_chain["severity"], "info", "{done:#?}");
    assert_eq!(broken_chain["task_ids"], json!([broken[0]]), "{done:#?}");
    let missing = &broken_chain["evidence"]["missing"];
    assert_eq!(*missing, json!([broken[1]]), "{done:#?}");
}

#[test]
fn what_is_wrong_is_found_at_once_and_in_a_snapshot_too() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let config = config(&server);
    let mut killed = lab.worker("w1", &config, &["-c", "1"]);
    let orphan = lab.send(&config, "labapp.late", &json!([600]), &json!({}));
    killed.wait_received(&orphan);
    killed.kill();
    let worker = lab.worker("w2", &config, &["-c", "1", "--prefetch-multiplier", "1"]);
    let running = lab.send(&config, "labapp.late", &json!([600]), &json!({}));
    worker.wait_received(&running);
    for queue in ["emials", "emials", "emials", "celery", "celery"] {
        let options = json!({"queue": queue, "expires": 0.05});
        let options = if queue == "emials" {
            json!({"queue": queue})
        } else {
            options
        };
        lab.send(&config, "labapp.add", &json!([1, 2]), &options);
    }
    lab.send(&config, "labapp.gone", &json!([]), &json!({}));
    server.wait_for_workers(PIDBOX, 1);
    let done = audit(&lab, &server, &["--format", "json"]);
    let live = done.json();
    let found = counts(&live);
    let count = |name: &str| -> Vec<u64> {
        let same = found.iter().filter(|((known, _), _)| known == name);
        same.map(|(_, count)| *count).collect()
    };
    assert_eq!(done.code, Some(1), "{live:#}");
    assert_eq!(count("no-consumer"), [3], "{live:#}");
    assert_eq!(count("expired"), [2], "{live:#}");
    assert_eq!(count("not-registered"), [1], "{live:#}");
    assert_eq!(count("orphaned-reservation"), [1], "{live:#}");
    assert!(live.to_string().contains(&orphan));

    let file = lab.folder().join("all.json.gz");
    let path = file.to_str().expect("a plain path");
    let mut command = lab.doctor(&["snapshot", "--output", path]);
    let written = lab.run(command.args(arguments(&server)), SOON);
    written.assert_decent(&[]);
    assert_eq!(written.code, Some(0), "{written:#?}");
    let later = lab.run_doctor(&["audit", "--snapshot", path, "--format", "json"]);
    assert_eq!(counts(&later.json()), found, "{later:#?}");
    assert_eq!(later.code, Some(1));
}

#[test]
fn a_task_that_vanished_is_found_by_its_result() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let mut config = config(&server);
    config["task_track_started"] = json!(true);
    let mut killed = lab.worker("w1", &config, &["-c", "1"]);
    let lost = lab.send(&config, "labapp.sleep", &json!([600]), &json!({}));
    let key = format!("celery-task-meta-{lost}");
    wait_until("the task has started and is acknowledged", SOON, || {
        let result: Option<String> = server.connect_to(1).get(&key).ok()?;
        let started = result.is_some_and(|result| result.contains("STARTED"));
        let held: u64 = server.connect().hlen("unacked").ok()?;
        (started && held == 0).then_some(())
    });
    killed.kill();
    let _worker = lab.worker("w2", &config, &["-c", "1"]);
    server.wait_for_workers(PIDBOX, 1);
    let report = audit(&lab, &server, &["--format", "json"]).json();
    assert!(
        names(&report).contains(&"vanished-while-running".to_owned()),
        "{report:#}"
    );
    assert!(report.to_string().contains(&lost));
    // Where the results are too many, it says so and looks at none.
    let few = audit(&lab, &server, &["--format", "json", "--result-keys", "0"]);
    let report = few.json();
    assert_eq!(few.code, Some(0), "{report:#}");
    assert!(report.to_string().contains("--result-keys"), "{report:#}");
}

#[test]
fn a_server_that_goes_away_in_the_middle_leaves_a_partial_report() {
    let lab = Lab::new();
    let mut server = ordinary(&lab);
    let queued: Vec<String> = vec!["no message".into(); 10];
    let _: () = server.connect().lpush("celery", &queued).expect("alive");
    let mut command = lab.doctor(&["audit", "--sample", "4s", "--format", "json"]);
    let running = lab.spawn(command.args(arguments(&server)));
    std::thread::sleep(Duration::from_millis(2500));
    server.kill();
    let done = running.wait(Duration::from_secs(30));
    done.assert_decent(&[]);
    let report = done.json();
    // Nobody works here, which is found; what could not be read is said.
    assert!(matches!(done.code, Some(1 | 3)), "{report:#}");
    let unread = report["evidence"].as_array().expect("what was read").iter();
    let unread = unread.filter(|read| read["status"] != "complete").count();
    assert!(unread > 0, "{report:#}");
}

#[test]
fn a_deadline_ends_in_a_partial_report() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    server.freeze();
    let done = audit(&lab, &server, &["--deadline", "2s", "--format", "json"]);
    server.thaw();
    assert_eq!(done.code, Some(3), "{done:#?}");
    assert!(done.elapsed < Duration::from_secs(10), "{done:#?}");
    assert!(
        done.stdout.contains("the deadline of 2 s came first"),
        "{done:#?}"
    );
}

/// Ends with a partial report, about in time, blames nobody, and leaves no reply address.
fn assert_cut_short(lab: &Lab, server: &RedisServer, more: &[&str]) -> Outcome {
    let mut command = lab.doctor(&["audit", "--deadline", "2s", "--format", "json"]);
    if !more.contains(&"--broker") {
        command.args(["--broker", &server.db(0)]);
    }
    if !more.contains(&"--result-backend") {
        command.args(["--result-backend", &server.db(1)]);
    }
    let done = lab.run(command.args(more), Duration::from_mins(1));
    done.assert_decent(&[]);
    assert_eq!(done.code, Some(3), "{done:#?}");
    assert!(done.elapsed < Duration::from_secs(5), "{done:#?}");
    assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
    done
}

fn assert_no_reply_address(server: &RedisServer) {
    let key = "_kombu.binding.reply.celery.pidbox";
    let left: Vec<String> = server.connect().smembers(key).expect("alive");
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_deadline_ends_it_whoever_falls_silent() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let mut config = config(&server);
    // Whoever names a database of results would be taken by that word.
    config["result_backend"] = Value::Null;
    let worker = lab.worker("w1", &config, &[]);
    let running = lab.send(&config, "labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    server.wait_for_workers(PIDBOX, 1);
    let whole = Proxy::to(server.port);
    let url = whole.instead_of(server.port, &server.db(0));
    let mut command = lab.doctor(&["audit", "--broker", &url, "--result-backend", &server.db(1)]);
    assert_eq!(lab.run(&mut command, SOON).code, Some(0));
    let bytes = i64::try_from(whole.passed()).expect("not many");
    // Later than that, nothing is left to be read.
    for tenths in [1, 3, 5, 7] {
        let stalls = Proxy::failing(server.port, bytes * tenths / 10, Fault::Stall);
        let url = stalls.instead_of(server.port, &server.db(0));
        let done = assert_cut_short(&lab, &server, &["--broker", &url]);
        assert!(done.stdout.contains("deadline"), "{tenths}: {done:#?}");
    }
    // The reply addresses of those could not be taken away.
    let _: () = server
        .connect()
        .del("_kombu.binding.reply.celery.pidbox")
        .expect("alive");
    // The results hang, and the broker is read all the same.
    let deaf = DeafServer::silent();
    let done = assert_cut_short(&lab, &server, &["--result-backend", &deaf.url()]);
    assert!(done.stdout.contains("1 of 1 answered"), "{done:#?}");
    let stalls = Proxy::failing(server.port, 12, Fault::Stall);
    let results = stalls.instead_of(server.port, &server.db(1));
    let done = assert_cut_short(&lab, &server, &["--result-backend", &results]);
    assert!(done.stdout.contains("1 of 1 answered"), "{done:#?}");
    assert_no_reply_address(&server);
    // A worker may take as long as --timeout says; there was no time for that, so that it is not called silent.
    worker.freeze();
    let done = assert_cut_short(&lab, &server, &["--timeout", "2s"]);
    worker.thaw();
    assert!(done.stdout.contains("messages in"), "{done:#?}");
    assert_no_reply_address(&server);
}

#[test]
fn a_worker_that_leaves_between_two_questions_is_not_silent() {
    let lab = Lab::new();
    let server = ordinary(&lab);
    let config = config(&server);
    for (name, gentle) in [("w1", false), ("w2", true)] {
        let mut worker = lab.worker(name, &config, &[]);
        server.wait_for_workers(PIDBOX, 1);
        let mut command = lab.doctor(&["audit", "--sample", "5s", "--format", "json"]);
        let running = lab.spawn(command.args(arguments(&server)));
        std::thread::sleep(Duration::from_secs(2));
        if gentle {
            worker.stop();
        } else {
            worker.kill();
        }
        let done = running.wait(Duration::from_secs(30));
        done.assert_decent(&[]);
        assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
        assert_eq!(done.code, Some(3), "{done:#?}");
        assert!(done.stdout.contains("came or left meanwhile"), "{done:#?}");
    }
}
