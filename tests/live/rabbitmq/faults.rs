//! What breaks while an audit runs ends in a partial report, and is blamed on nobody.

use std::time::Duration;

use serde_json::json;

use super::Site;
use crate::lab::{Fault, Lab, Outcome, Proxy, Worker};

/// A worker at work, one task in its hands, one in reserve, and some that wait.
fn busy(site: &Site) -> Worker {
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    for _ in 0..3 {
        site.send("labapp.add", &json!([1, 2]), &json!({}));
    }
    worker
}

fn assert_partial(done: &Outcome) {
    assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
    assert_eq!(done.code, Some(3), "{done:#?}");
    let report = done.json();
    let read = report["evidence"].as_array().expect("what was read");
    let missing = read.iter().filter(|read| read["status"] != "complete");
    assert!(missing.count() > 0, "{report:#}");
}

#[test]
fn a_connection_that_is_cut_anywhere() {
    let site = Site::new();
    let _worker = busy(&site);
    let (port, http) = (site.vhost.node.port, site.vhost.node.http_port);
    let (url, management) = (site.vhost.url(), site.vhost.node.management_url());
    let peeks: [&[&str]; 2] = [&[], &["--peek", "--sample", "300ms"]];
    for more in peeks {
        let whole = Proxy::to(port);
        let broker = whole.instead_of(port, &url);
        let done = site.audit(&[&["--broker", &broker][..], more].concat());
        assert_eq!(done.code, Some(0), "{done:#?}");
        let bytes = i64::try_from(whole.passed()).expect("not many");
        for part in 0..12 {
            // The good-bye at the end is no part of it.
            let cut = Proxy::failing(port, (bytes - 100) * part / 12, Fault::Cut);
            let broker = cut.instead_of(port, &url);
            let done = site.audit(&[&["--broker", &broker][..], more].concat());
            assert_partial(&done);
            assert!(done.elapsed < Duration::from_secs(20), "{done:#?}");
        }
    }
    let whole = Proxy::to(http);
    let done = site.audit(&["--management", &whole.instead_of(http, &management)]);
    assert_eq!(done.code, Some(0), "{done:#?}");
    let bytes = i64::try_from(whole.passed()).expect("not many");
    for part in 0..12 {
        let cut = Proxy::failing(http, bytes * part / 12, Fault::Cut);
        let done = site.audit(&[
            "--management",
            &cut.instead_of(http, &management),
            "--timeout",
            "2s",
        ]);
        assert_partial(&done);
    }
    site.assert_no_reply_queue();
}

#[test]
fn a_server_that_dies_or_shuts_down() {
    let lab = Lab::new();
    for gentle in [false, true] {
        let rabbit = lab.rabbitmq_node("");
        let site = Site::on(rabbit.node.vhost(), &json!({}));
        let _worker = busy(&site);
        let mut command = site.lab.doctor(&["audit"]);
        command.args(site.arguments(&["--sample", "6s"]));
        let running = site.lab.spawn(&mut command);
        std::thread::sleep(Duration::from_secs(2));
        if gentle {
            rabbit.node.ctl(&["stop_app"]);
        } else {
            rabbit.kill();
        }
        let done = running.wait(Duration::from_secs(40));
        done.assert_decent(&["guest:guest"]);
        assert_partial(&done);
        if gentle {
            rabbit.kill();
        }
    }
}

#[test]
fn a_worker_that_dies_or_stops_between_two_questions() {
    let site = Site::new();
    for (n, gentle) in [(0, false), (1, true)] {
        let mut worker = site.lab.worker(&format!("w{n}"), &site.config, &[]);
        let first = site.send("labapp.sleep", &json!([2]), &json!({}));
        worker.wait_received(&first);
        site.send("labapp.add", &json!([1, 2]), &json!({}));
        let mut command = site.lab.doctor(&["audit"]);
        command.args(site.arguments(&["--sample", "6s", "--timeout", "3s"]));
        let running = site.lab.spawn(&mut command);
        std::thread::sleep(Duration::from_secs(2));
        if gentle {
            worker.stop();
        } else {
            worker.kill();
        }
        let done = running.wait(Duration::from_secs(40));
        done.assert_decent(&["guest:guest"]);
        assert_partial(&done);
        assert!(done.stdout.contains("came or left meanwhile"), "{done:#?}");
    }
}

#[test]
fn a_worker_that_comes_between_two_questions() {
    let site = Site::new();
    let _first = busy(&site);
    let mut command = site.lab.doctor(&["audit"]);
    command.args(site.arguments(&["--sample", "12s"]));
    let running = site.lab.spawn(&mut command);
    std::thread::sleep(Duration::from_secs(1));
    let _second = site.lab.worker("w2", &site.config, &[]);
    let done = running.wait(Duration::from_mins(1));
    done.assert_decent(&["guest:guest"]);
    assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
    let report = done.json();
    assert!(
        !report.to_string().contains("silent-worker, "),
        "{report:#}"
    );
    assert!(matches!(done.code, Some(0 | 3)), "{report:#}");
}
