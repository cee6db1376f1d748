//! Incidents that were captured once are judged today as they were then: format version 1 stays readable, and what was
//! found does not change by accident.

use std::collections::BTreeSet;

use crate::run::Test;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/incidents");

/// File, id, exit code, verdict, and the findings about the task and the deployment that are more than information.
const INCIDENTS: [(&str, &str, i32, &str, &[&str]); 3] = [
    (
        "killed-worker",
        "6f1c0e5a-0001-4000-8000-6b696c6c6564",
        1,
        "stuck",
        &["orphaned-reservation"],
    ),
    (
        "misspelt-queue",
        "6f1c0e5a-0002-4000-8000-6d6973737065",
        1,
        "stuck",
        &["no-consumer"],
    ),
    (
        "early-acknowledgement",
        "6f1c0e5a-0003-4000-8000-6561726c7961",
        1,
        "lost",
        &["vanished-while-running"],
    ),
];

#[test]
fn each_is_judged_as_ever() {
    for (name, id, code, verdict, findings) in INCIDENTS {
        let file = format!("{FOLDER}/{name}.json.gz");
        let report = Test::new()
            .args(["trace", id, "--snapshot", &file, "--format", "json"])
            .code(code)
            .json();
        assert_eq!(report["traces"][0]["verdict"], verdict, "{name}");
        let of_task = report["traces"][0]["findings"].as_array().unwrap();
        let of_all = report["findings"].as_array().unwrap();
        let found: Vec<&str> = of_task
            .iter()
            .chain(of_all)
            .filter(|finding| finding["severity"] != "info")
            .map(|finding| finding["name"].as_str().unwrap())
            .collect();
        assert_eq!(found, findings, "{name}");
    }
}

#[test]
fn every_file_is_judged() {
    let judged: BTreeSet<String> = INCIDENTS
        .iter()
        .map(|(name, ..)| format!("{name}.json.gz"))
        .collect();
    let files: BTreeSet<String> = std::fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, judged);
}
