//! The walls of the house: which room may know of what. They are read off the sources, because no compiler holds them.

use std::fs;
use std::path::{Path, PathBuf};

use celery_doctor::diagnose::registry;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The rooms that only think, and the other rooms that each may know.
const PURE: [(&str, &[&str]); 4] = [
    ("celery", &[]),
    ("evidence", &["celery"]),
    ("diagnose", &["celery", "evidence"]),
    ("report", &["celery", "evidence", "diagnose"]),
];

/// What reads a clock, the environment, the disk or the network, or waits.
const OUTSIDE: [&str; 12] = [
    "tokio",
    "redis::",
    "rustls",
    "SystemTime",
    "Instant",
    "::now(",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "rand::",
];

/// What writes to standard output.
const STDOUT: [&str; 3] = ["stdout", "println!", "print!"];

/// Every Rust file below a folder of the project.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "nothing in {folder}");
    files.sort();
    files
}

/// Whether a file is for tests alone: its module is declared below `#[cfg(test)]`.
fn is_for_tests(file: &Path) -> bool {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let folder = file.parent().unwrap();
    [folder.join("mod.rs"), folder.with_extension("rs")]
        .into_iter()
        .filter_map(|parent| fs::read_to_string(parent).ok())
        .any(|parent| {
            let lines: Vec<&str> = parent.lines().collect();
            let declared = format!("mod {name};");
            lines
                .windows(2)
                .any(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with(&declared))
        })
}

/// The code of a file, and that of its tests, both without comments.
fn code_and_tests(file: &Path) -> (String, String) {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| {
            if line.trim_start().starts_with("//") {
                ""
            } else {
                line
            }
        })
        .collect();
    let tests = lines.iter().position(|line| *line == "mod tests {");
    let end = if is_for_tests(file) {
        0
    } else {
        tests.unwrap_or(lines.len())
    };
    (lines[..end].join("\n"), lines[end..].join("\n"))
}

/// Fails with every line of the code that contains one of these.
fn without(folder: &str, forbidden: &[&str]) {
    let mut found = Vec::new();
    for file in files(folder) {
        let (code, _) = code_and_tests(&file);
        for (number, line) in code.lines().enumerate() {
            if forbidden.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "not in {folder}, please:\n{}",
        found.join("\n")
    );
}

#[test]
fn the_rooms_that_think_see_nothing_of_the_world() {
    for (room, _) in PURE {
        without(&format!("src/{room}"), &OUTSIDE);
    }
}

#[test]
fn the_rooms_that_think_know_no_room_above() {
    let rooms = fs::read_dir(Path::new(ROOT).join("src")).unwrap();
    let rooms: Vec<String> = rooms
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    for (room, known) in PURE {
        let unknown: Vec<String> = rooms
            .iter()
            .filter(|other| *other != room && !known.contains(&other.as_str()))
            .map(|other| format!("crate::{other}"))
            .collect();
        let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
        without(&format!("src/{room}"), &unknown);
    }
    without("src/config", &["crate::cli", "crate::collect"]);
    without(
        "src/collect",
        &["crate::cli", "crate::report", "crate::diagnose"],
    );
}

#[test]
fn only_reports_and_the_command_line_write_to_standard_output() {
    for room in ["celery", "evidence", "diagnose", "config", "collect"] {
        without(&format!("src/{room}"), &STDOUT);
    }
    // A report is written to whatever it is given.
    without("src/report", &STDOUT);
}

#[test]
fn every_rule_is_tested_by_name() {
    let tests: String = ["src/diagnose/rules", "tests"]
        .into_iter()
        .flat_map(files)
        .map(|file| {
            let (code, tests) = code_and_tests(&file);
            if file.starts_with(Path::new(ROOT).join("tests")) {
                code
            } else {
                tests
            }
        })
        .collect();
    for rule in registry::ALL {
        let quoted = format!("\"{}\"", rule.name);
        assert!(
            tests.contains(&quoted),
            "no test names {} {}",
            rule.code,
            rule.name
        );
    }
}

/// The codes in a text: `CD` and three digits.
fn codes(text: &str) -> Vec<&str> {
    text.match_indices("CD")
        .filter_map(|(at, _)| text.get(at..at + 5))
        .filter(|code| code.bytes().skip(2).all(|byte| byte.is_ascii_digit()))
        .collect()
}

#[test]
fn texts_name_no_finding_that_there_is_not() {
    let documents = ["README.md", "CHANGELOG.md", "fixtures/README.md"];
    let sources = files("src").into_iter();
    let paths = sources.chain(documents.map(|name| Path::new(ROOT).join(name)));
    for path in paths {
        // The tests also ask for codes that do not exist.
        let text = if path.extension().is_some_and(|ending| ending == "rs") {
            code_and_tests(&path).0
        } else {
            fs::read_to_string(&path).unwrap()
        };
        for code in codes(&text) {
            assert!(
                registry::find(code).is_some(),
                "{} names {code}",
                path.display()
            );
        }
    }
}
