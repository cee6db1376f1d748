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
