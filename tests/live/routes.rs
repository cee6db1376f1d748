//! `routes --app`: the project's own Python tells the settings in effect, and they are those that are read without it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab;

fn routes(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_celery-doctor"))
        .arg("routes")
        .args(args)
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn python_itself_says_what_is_read_without_it() {
    let python = lab::python();
    let python = python.to_str().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/routes");
    for (folder, app, tasks) in [
        (
            "plain",
            "tasks",
            &[
                "tasks.add",
                "tasks.cut_video",
                "tasks.thumbnail",
                "tasks.mail_welcome",
            ][..],
        ),
        (
            "monorepo/media",
            "media.app",
            &["media.video.cut", "media.audio.cut", "media.audio.tag"],
        ),
        (
            "monorepo/billing",
            "billing.app",
            &["billing.invoices.print_invoice", "billing.invoices.book"],
        ),
    ] {
        let folder = root.join(folder);
        let explain = |more: &[&str]| -> Vec<Value> {
            let mut args = vec!["explain", "--format", "json"];
            args.extend(tasks);
            args.extend(more);
            let (code, stdout, stderr) = routes(&folder, &args);
            assert_eq!(code, Some(0), "{stdout}{stderr}");
            let report: Value = serde_json::from_str(&stdout).unwrap();
            let key = |one: &Value| {
                let names = ["task", "queue", "exchange", "exchange_type", "routing_key"];
                names.iter().map(|name| one[*name].clone()).collect()
            };
            report["routes"]
                .as_array()
                .unwrap()
                .iter()
                .map(key)
                .collect()
        };
        let read = explain(&[]);
        assert_eq!(read, explain(&["--app", app, "--python", python]), "{app}");
        assert_eq!(read.len(), tasks.len());
    }
}

#[test]
fn an_app_that_cannot_be_imported_is_named() {
    let python = lab::python();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("broken.py"),
        "raise ValueError('redis://:hunter2@h')\n",
    )
    .unwrap();
    let args = [
        "check",
        "--app",
        "broken",
        "--python",
        python.to_str().unwrap(),
    ];
    let (code, stdout, stderr) = routes(folder.path(), &args);
    assert!(
        code == Some(2)
            && stderr.contains("broken")
            && stderr.contains("ValueError")
            && !stderr.contains("hunter2"),
        "{stdout}{stderr}"
    );
    let (code, _, stderr) = routes(
        folder.path(),
        &["check", "--app", "broken", "--python", "no-such-python"],
    );
    assert!(code == Some(2) && stderr.contains("--python"), "{stderr}");
}

/// A project that sends one task to a queue that nobody takes, and one to the queue of the worker.
const SHOP: &str = r#"
from celery import Celery

app = Celery("shop")
app.conf.task_routes = {"shop.cut_video": {"queue": "video"}}


@app.task(name="shop.cut_video")
def cut_video():
    pass


@app.task(name="labapp.add")
def add(a, b):
    pass
"#;

fn found(folder: &Path, broker: &str) -> (Option<i32>, Value) {
    let args = ["check", "--live", "--broker", broker, "--format", "json"];
    let (code, stdout, stderr) = routes(folder, &args);
    let report = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    (code, report)
}

fn about_video(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["subject"]["queue"] == "video")
        .map(|finding| finding["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn routes_are_held_against_the_workers_of_a_live_broker() {
    let lab = lab::Lab::new();
    let server = lab.redis();
    let config = serde_json::json!({"broker_url": server.db(0)});
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop.py"), SHOP).unwrap();
    let _worker = lab.worker("w1", &config, &["-Q", "celery"]);
    server.wait_for_workers("/0.celery.pidbox", 1);
    let (code, report) = found(folder.path(), &server.db(0));
    assert_eq!(code, Some(1), "{report:#}");
    assert!(!about_video(&report).is_empty(), "{report:#}");

    let _other = lab.worker("w2", &config, &["-Q", "video"]);
    server.wait_for_workers("/0.celery.pidbox", 2);
    let (code, report) = found(folder.path(), &server.db(0));
    assert_eq!(about_video(&report), [""; 0], "{report:#}");
    assert_ne!(code, Some(3), "{report:#}");
}

#[test]
fn a_broker_that_is_not_there_is_no_proof_of_anything() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop.py"), SHOP).unwrap();
    let broker = format!("redis://:hunter2@127.0.0.1:{}/0", lab::free_port());
    let (code, report) = found(folder.path(), &broker);
    assert_eq!(code, Some(3), "{report:#}");
    assert!(!report.to_string().contains("hunter2"));
}
