//! Bad input of every kind ends in a report that says so, with the right exit code; never in a panic, a hang or a secret.

mod data;
mod servers;

use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, Outcome};

/// Longer than any of these may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Traces `id`, and holds the outcome against what is always true.
fn trace(lab: &Lab, id: &str, arguments: &[&str]) -> Outcome {
    let all = [&["trace", id, "--format", "json"], arguments].concat();
    let done = lab.run(&mut lab.doctor(&all), LIMIT);
    done.assert_decent(&["hunter2"]);
    let report = done.json();
    assert_eq!(report["schema"], "celery-doctor/1", "{done:#?}");
    assert_eq!(
        report["exit"]["code"].as_i64(),
        done.code.map(i64::from),
        "{done:#?}"
    );
    done
}

/// The names of all findings in a report.
fn findings(report: &Value) -> Vec<String> {
    let of = |part: &Value| part["findings"].as_array().cloned().unwrap_or_default();
    let traces = report["traces"].as_array().cloned().unwrap_or_default();
    let all = traces.iter().flat_map(of).chain(of(report));
    all.filter_map(|finding| finding["name"].as_str().map(str::to_owned))
        .collect()
}

fn assert_found(done: &Outcome, name: &str) {
    let names = findings(&done.json());
    assert!(
        names.iter().any(|one| one == name),
        "{name} is not among {names:?}: {done:#?}"
    );
}

/// The report says that something could not be read: exit code 3, and evidence that is not complete.
fn assert_incomplete(done: &Outcome) {
    assert_eq!(done.code, Some(3), "{done:#?}");
    let report = done.json();
    let evidence = report["evidence"].as_array().cloned().unwrap_or_default();
    let gaps = evidence
        .iter()
        .filter(|one| one["status"] == "partial" || one["status"] == "unavailable")
        .count();
    assert!(gaps > 0, "{done:#?}");
}

/// The server let the tool in.
fn assert_read(done: &Outcome) {
    let report = done.json();
    let evidence = report["evidence"].as_array().cloned().unwrap_or_default();
    let read = evidence
        .iter()
        .any(|one| one["source"] == "server" && one["status"] == "complete");
    assert!(read, "{done:#?}");
}
