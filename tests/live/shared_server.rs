//! Apps that share a server: one node name in two databases, and two sets of keys in one.

use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, RedisServer, SOON, wait_until};

/// The app of a database; all results are in database 2.
fn config(server: &RedisServer, database: u8) -> Value {
    json!({
        "broker_url": server.db(database),
        "result_backend": server.db(2),
        "task_track_started": true,
    })
}

fn run(lab: &Lab, server: &RedisServer, arguments: &[&str]) -> Outcome {
    let mut command = lab.doctor(arguments);
    command.args(["--broker", &server.db(0), "--result-backend", &server.db(2)]);
    command.args(["--format", "json"]);
    let done = lab.run(&mut command, Duration::from_mins(1));
    done.assert_decent(&[]);
    done
}

fn wait_started(server: &RedisServer, id: &str) {
    let key = format!("celery-task-meta-{id}");
    wait_until("the task has started", SOON, || {
        let result: Option<String> = server.connect_to(2).get(&key).ok()?;
        result.filter(|result| result.contains("STARTED"))
    });
}

#[test]
fn a_task_of_the_namesake_is_not_lost_and_one_of_ours_is() {
    let lab = Lab::new();
    let server = lab.redis_with(&["--save", "3600", "1"]);
    let (ours, theirs) = (config(&server, 0), config(&server, 1));
    let mut killed = lab.worker("same", &ours, &[]);
    let _other = lab.worker("same", &theirs, &[]);
    let running = lab.send(&theirs, "labapp.sleep", &json!([600]), &json!({}));
    wait_started(&server, &running);
    server.wait_for_workers("/0.celery.pidbox", 1);
    server.wait_for_workers("/1.celery.pidbox", 1);

    let traced = run(&lab, &server, &["trace", &running]);
    assert_eq!(traced.code, Some(3), "{traced:#?}");
    assert_eq!(traced.json()["traces"][0]["verdict"], "undetermined");
    assert!(traced.stdout.contains("database 1"), "{traced:#?}");
    let audited = run(&lab, &server, &["audit"]);
    assert_eq!(audited.code, Some(0), "{audited:#?}");

    let lost = lab.send(&ours, "labapp.sleep", &json!([600]), &json!({}));
    wait_started(&server, &lost);
    killed.kill();
    let _again = lab.worker("same", &ours, &[]);
    server.wait_for_workers("/0.celery.pidbox", 1);
    let traced = run(&lab, &server, &["trace", &lost]);
    assert_eq!(traced.code, Some(1), "{traced:#?}");
    assert_eq!(traced.json()["traces"][0]["verdict"], "lost", "{traced:#?}");
    let audited = run(&lab, &server, &["audit"]);
    assert_eq!(audited.code, Some(1), "{audited:#?}");
    assert!(audited.stdout.contains(&lost), "{audited:#?}");
    assert!(!audited.stdout.contains(&running), "{audited:#?}");
    for database in [0, 1] {
        let left: Vec<String> = server
            .connect_to(database)
            .smembers("_kombu.binding.reply.celery.pidbox")
            .expect("alive");
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn what_an_app_keeps_under_names_of_its_own_is_found() {
    let lab = Lab::new();
    let server = lab.redis_with(&["--save", "3600", "1"]);
    let plain = json!({"broker_url": server.db(0), "result_backend": server.db(2)});
    let mut named = plain.clone();
    named["broker_transport_options"] = json!({
        "unacked_key": "held",
        "unacked_index_key": "held_index",
        "unacked_mutex_key": "held_mutex",
        "visibility_timeout": 43_200,
    });
    named["task_default_queue"] = json!("shop");
    let _plain = lab.worker("a", &plain, &[]);
    let mut killed = lab.worker("b", &named, &[]);
    let orphan = lab.send(&named, "labapp.late", &json!([600]), &json!({}));
    killed.wait_received(&orphan);
    killed.kill();
    let _named = lab.worker("c", &named, &[]);
    server.wait_for_workers("/0.celery.pidbox", 2);
    let traced = run(&lab, &server, &["trace", &orphan]);
    assert_eq!(
        traced.json()["traces"][0]["verdict"],
        "stuck",
        "{traced:#?}"
    );
    assert!(traced.stdout.contains("ZSCORE held_index"), "{traced:#?}");
    assert!(traced.stdout.contains("in about 12h"), "{traced:#?}");
    let audited = run(&lab, &server, &["audit"]);
    assert!(audited.stdout.contains(&orphan), "{audited:#?}");
    let report = audited.json();
    let found = report["findings"].as_array().expect("findings").iter();
    let found: Vec<&Value> = found.map(|finding| &finding["name"]).collect();
    assert!(
        !found.contains(&&json!("visibility-conflict")),
        "{audited:#?}"
    );
}

#[test]
fn workers_with_a_control_exchange_of_their_own_are_asked_too() {
    let lab = Lab::new();
    let server = lab.redis_with(&["--save", "3600", "1"]);
    let plain = json!({"broker_url": server.db(0), "result_backend": server.db(2)});
    let mut apart = plain.clone();
    apart["control_exchange"] = json!("shop");
    apart["task_default_queue"] = json!("shop");
    let worker = lab.worker("a", &apart, &[]);
    let running = lab.send(&apart, "labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    server.wait_for_workers("/0.shop.pidbox", 1);
    let verdict = |answered: &str| {
        let traced = run(&lab, &server, &["trace", &running]);
        assert!(traced.stdout.contains(answered), "{traced:#?}");
        assert_eq!(
            traced.json()["traces"][0]["verdict"],
            "running",
            "{traced:#?}"
        );
    };
    verdict("1 of 1 answered");
    let _plain = lab.worker("b", &plain, &[]);
    server.wait_for_workers("/0.celery.pidbox", 1);
    verdict("2 of 2 answered");
}
