//! Commands that need no evidence, and command lines that make no sense.

use celery_doctor::diagnose::registry;

use crate::run::Test;

#[test]
fn version_and_help() {
    let version = Test::new().args(["--version"]).code(0).stdout;
    assert_eq!(
        version,
        concat!("celery-doctor ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = Test::new().args(["--help"]).code(0);
    for command in ["trace", "snapshot", "explain", "completions", "man"] {
        help.says(command);
        Test::new().args([command, "--help"]).code(0).says("Usage:");
    }
    Test::new().code(2).complains("Usage:");
}

#[test]
fn a_page_by_code_and_by_name() {
    let page = Test::new().args(["explain", "CD101"]).code(0);
    page.says("CD101 no-consumer").says("How to mend it now");
    for other in ["cd101", "no-consumer", "No-Consumer"] {
        assert_eq!(
            Test::new().args(["explain", other]).code(0).stdout,
            page.stdout
        );
    }
}

#[test]
fn a_page_that_there_is_not() {
    let ran = Test::new().args(["explain", "no-consumr"]).code(2);
    ran.complains("no-consumer").complains("explain --list");
    let ran = Test::new().args(["explain", "\u{1b}[2J"]).code(2);
    assert!(!ran.stderr.contains('\u{1b}'), "{:?}", ran.stderr);
    Test::new().args(["explain"]).code(2).complains("Usage:");
}

#[test]
fn the_list_has_every_finding() {
    let list = Test::new().args(["explain", "--list"]).code(0);
    for rule in registry::ALL {
        list.says(rule.code).says(rule.name);
    }
    assert!(list.stdout.lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn completions_and_the_manual() {
    for shell in ["bash", "zsh", "fish"] {
        Test::new()
            .args(["completions", shell])
            .code(0)
            .says("celery-doctor")
            .says("result-backend");
    }
    Test::new()
        .args(["completions", "cmd"])
        .code(2)
        .complains("bash");
    let man = Test::new().args(["man"]).code(0);
    man.says(".TH celery-doctor").says("visibility");
}

#[test]
fn command_lines_that_make_no_sense() {
    Test::new().args(["trce", "t1"]).code(2).complains("trce");
    Test::new().args(["trace"]).code(2).complains("Usage:");
    Test::new()
        .args(["trace", ""])
        .code(2)
        .complains("is empty");
    Test::new()
        .args(["trace", "-"])
        .code(2)
        .complains("no task id");
    Test::new()
        .args(["trace", "a\u{1b}b"])
        .code(2)
        .complains("control character");
    Test::new()
        .args(["trace", "t1", "--timeout", "3600"])
        .code(2)
        .complains("--timeout");
    Test::new()
        .args(["trace", "t1", "--format", "json", "--format", "table"])
        .code(2)
        .complains("standard output");
    Test::new()
        .args(["trace", "t1", "-q", "-v"])
        .code(2)
        .complains("cannot be used with");
}

#[test]
fn wrong_usage_is_no_alarm_about_tasks() {
    for broker in ["bogus", "redis://h/x"] {
        let args = ["trace", "t1", "--exit-code-style", "nagios"];
        Test::new()
            .args(args)
            .env("CELERY_BROKER_URL", broker)
            .code(3);
    }
    Test::new()
        .args(["trace", "--exit-code-style=nagios"])
        .code(3);
}

#[test]
fn a_url_that_makes_no_sense_is_told_once() {
    let ran = Test::new()
        .args(["trace", "t1", "--broker", "redis://h/0?foo=1"])
        .code(2);
    assert_eq!(
        ran.stderr.matches("parameter foo").count(),
        1,
        "{}",
        ran.stderr
    );
}
