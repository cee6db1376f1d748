//! Later steps of real canvases: what the tool says of a task that is not sent yet.

use std::time::Duration;

use redis::Commands as _;
use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, RedisServer, SOON, wait_until};

const PIDBOX: &str = "/0.celery.pidbox";

fn config(server: &RedisServer) -> Value {
    json!({"broker_url": server.db(0), "result_backend": server.db(1), "task_track_started": true,
           "worker_prefetch_multiplier": 1})
}

/// Sends a canvas, and returns the ids that the expression names.
fn send(lab: &Lab, config: &Value, canvas: &str, ids: &str) -> Vec<String> {
    let code = format!(
        "import json\nfrom celery import chain, chord, group\n\
         from labapp import app, add, fail, late, sleep, total\n\
         r = {canvas}.apply_async()\nprint(json.dumps({ids}))"
    );
    serde_json::from_value(lab.python_json(config, &code)).expect("a list of ids")
}

fn trace(lab: &Lab, server: &RedisServer, id: &str) -> Outcome {
    let backend = server.db(1);
    lab.trace(
        id,
        &["--broker", &server.db(0), "--result-backend", &backend],
    )
}

fn said(done: &Outcome) -> (String, String) {
    let report = done.json();
    let text = |name: &str| {
        report["traces"][0][name]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    (text("verdict"), text("summary"))
}

/// Waits until so many messages are unacknowledged.
fn wait_unacked(server: &RedisServer, count: u64) {
    wait_until("the messages are delivered", SOON, || {
        let held: u64 = server.connect().hlen("unacked").expect("alive");
        (held == count).then_some(())
    });
}

#[test]
fn later_steps_wait_for_those_before_them_and_share_their_fate() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = config(&server);
    let links = "chain(late.si(600), add.si(1, 1), group(add.si(2, 2), add.si(3, 3)), total.s(), \
                 late.si(7).set(link=add.si(9, 9).set(task_id='call-back')))";
    let ids = send(
        &lab,
        &config,
        links,
        "[r.parent.parent.parent.parent.id, r.parent.parent.parent.id, \
                   r.parent.parent.id, r.parent.parent.results[0].id, r.parent.id, r.id]",
    );
    let [first, second, group, part, body, last] = ids.as_slice() else {
        panic!("six ids: {ids:?}");
    };

    // Nobody is there to take the first link.
    let (verdict, summary) = said(&trace(&lab, &server, last));
    assert_eq!(verdict, "stuck", "{summary}");
    assert!(summary.contains(first.as_str()), "{summary}");

    let mut worker = lab.worker("w1", &config, &[]);
    worker.wait_received(first);
    server.wait_for_workers(PIDBOX, 1);
    wait_unacked(&server, 1);
    for later in [second, group, part, body, last, &"call-back".to_owned()] {
        let done = trace(&lab, &server, later);
        let (verdict, summary) = said(&done);
        assert_eq!(verdict, "not-yet-sent", "{later}: {summary}");
        assert!(summary.contains(first.as_str()), "{summary}");
        assert!(summary.contains("w1@lab has been running it"), "{summary}");
        assert_eq!(
            (done.code, done.alarms()),
            (Some(0), Vec::new()),
            "{done:#?}"
        );
        // Arguments of the steps are nobody's business.
        done.assert_decent(&["\"args\"", "[2, 2]"]);
    }
    let (_, summary) = said(&trace(&lab, &server, last));
    assert!(
        summary.contains(second.as_str()) || summary.contains("more tasks"),
        "{summary}"
    );

    // A second chain waits behind it.
    let queued = send(
        &lab,
        &config,
        "chain(late.si(1), add.si(1, 1))",
        "[r.parent.id, r.id]",
    );
    let (verdict, summary) = said(&trace(&lab, &server, &queued[1]));
    assert_eq!(verdict, "not-yet-sent", "{summary}");
    assert!(
        summary.contains(&format!("{} has succeeded, which is", queued[0])),
        "{summary}"
    );

    worker.kill();
    let survivor = lab.worker("w2", &config, &["-Q", "other"]);
    server.wait_for_workers(PIDBOX, 1);
    let done = trace(&lab, &server, last);
    let (verdict, summary) = said(&done);
    assert_eq!(
        (verdict.as_str(), done.code),
        ("stuck", Some(1)),
        "{summary}"
    );
    let report = done.json();
    let findings = report["traces"][0]["findings"]
        .as_array()
        .expect("findings");
    assert!(
        findings.iter().any(|f| f["name"] == "orphaned-reservation"),
        "{done:#?}"
    );
    drop(survivor);
}

#[test]
fn a_chord_waits_for_its_header_and_a_group_is_its_tasks() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = config(&server);
    let worker = lab.worker("w1", &config, &[]);
    let ids = send(
        &lab,
        &config,
        "chord([add.si(1, 1), late.si(600), late.si(601)], total.s())",
        "[r.id, r.parent.id] + [t.id for t in r.parent.results]",
    );
    worker.wait_received(&ids[3]);
    server.wait_for_workers(PIDBOX, 1);
    wait_unacked(&server, 1);
    let done = trace(&lab, &server, &ids[0]);
    let (verdict, summary) = said(&done);
    assert_eq!(verdict, "not-yet-sent", "{summary}");
    assert!(summary.contains("1 of 3 have so far"), "{summary}");
    assert_eq!(
        (done.code, done.alarms()),
        (Some(0), Vec::new()),
        "{done:#?}"
    );
    let done = trace(&lab, &server, &ids[1]);
    let (verdict, summary) = said(&done);
    assert!(
        ["queued", "reserved"].contains(&verdict.as_str()),
        "{summary}"
    );
    assert!(summary.contains("it is the id of a group"), "{summary}");
    assert_eq!(done.code, Some(0), "{done:#?}");
}

#[test]
fn the_body_of_a_chord_that_lost_a_part_is_stuck() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = config(&server);
    let worker = lab.worker("w1", &config, &[]);
    let ids = send(
        &lab,
        &config,
        "chord([add.si(1, 1), app.signature('labapp.gone')], total.s())",
        "[r.id] + [t.id for t in r.parent.results]",
    );
    worker.wait_for_log("unregistered task", Duration::from_secs(30));
    server.wait_for_workers(PIDBOX, 1);
    let chord_stuck = |done: &Outcome| {
        let report = done.json();
        let findings = report["findings"].as_array().expect("findings").iter();
        let names: Vec<&str> = findings.filter_map(|f| f["name"].as_str()).collect();
        names.contains(&"chord-stuck")
    };
    // A part that ended a moment ago may have others behind it.
    let done = wait_until("the chord is called stuck", SOON, || {
        let done = trace(&lab, &server, &ids[0]);
        chord_stuck(&done).then_some(done)
    });
    assert_eq!(done.code, Some(1), "{done:#?}");

    // While something else runs, nobody can tell whether that is the rest of the chord.
    let busy = lab.send(&config, "labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&busy);
    let done = trace(&lab, &server, &ids[0]);
    assert!(!chord_stuck(&done), "{done:#?}");
}
