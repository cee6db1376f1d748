//! Snippets as they stand in real projects.

mod hostile;
mod kinds;
mod lines;

use std::collections::BTreeMap;

use super::*;

/// What is found, one line each: `LINE app queues`, with what else there is; then `? LINE why` for each unknown.
fn found(kind: Kind, text: &str) -> Vec<String> {
    found_with(kind, text, &[])
}

fn found_with(kind: Kind, text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let environment: BTreeMap<String, String> = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let processes = read(kind, "file", text.as_bytes(), &environment);
    let workers = processes.workers.iter().map(shown);
    let unknown = processes.unknown.iter();
    let unknown = unknown.map(|unknown| format!("? {} {}", unknown.location.line, unknown.why));
    workers.chain(unknown).collect()
}

fn shown(worker: &WorkerCommand) -> String {
    let one = |told: &Told<String>| match told {
        Told::Is(value) => value.clone(),
        Told::Nothing => "-".to_owned(),
        Told::Unknown(why) => format!("({why})"),
    };
    let list = |told: &Told<Vec<String>>| match told {
        Told::Is(values) => values.join(","),
        Told::Nothing => "-".to_owned(),
        Told::Unknown(why) => format!("({why})"),
    };
    let mut text = format!(
        "{} {} {}",
        worker.location.line,
        one(&worker.app),
        list(&worker.queues)
    );
    for (name, value) in [
        ("X", list(&worker.excluded)),
        ("I", list(&worker.include)),
        ("n", one(&worker.hostname)),
        ("P", one(&worker.pool)),
        ("c", one(&worker.concurrency)),
    ] {
        if value != "-" {
            text.extend([" ", name, "=", &value]);
        }
    }
    text
}

fn check(kind: Kind, text: &str, expected: &[&str]) {
    assert_eq!(found(kind, text), expected, "{text}");
}
