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

#[test]
fn help_has_examples_exit_codes_and_the_environment() {
    let help = Test::new().args(["--help"]).code(0);
    help.says("Examples:")
        .says("Exit codes:")
        .says("CELERY_BROKER_URL");
    let help = Test::new().args(["trace", "--help"]).code(0);
    help.says("list of processes").says("--broker-file");
}

#[test]
fn a_number_behind_peek_is_no_id() {
    let ran = Test::new().args(["trace", "--peek", "5", "t1"]).code(2);
    ran.complains("--peek=5").complains("--id 5");
}

#[test]
fn flags_of_celery_mean_the_same_before_and_behind_the_command() {
    let broker = "redis://127.0.0.1:1/0";
    for args in [["-b", broker, "trace", "t1"], ["trace", "t1", "-b", broker]] {
        Test::new().args(args).code(3);
    }
    let ran = Test::new().args(["-A", "proj", "explain", "CD101"]).code(2);
    ran.complains("before the command");
}

#[test]
fn a_broker_by_file_and_by_standard_input() {
    let broker = "redis://:hunter2@127.0.0.1:1/0\n";
    let test = Test::new().file("url", broker.as_bytes());
    let ran = test.args(["trace", "t1", "--broker-file", "url"]).code(3);
    assert!(!ran.stdout.contains("hunter2"));
    let args = ["trace", "t1", "--broker-file", "-"];
    Test::new().args(args).stdin(broker).code(3);
    Test::new()
        .args(args)
        .stdin("a\nb")
        .code(2)
        .complains("one line");
    let args = ["trace", "t1", "--broker-file", "/dev/zero"];
    Test::new().args(args).code(2).complains("no ordinary file");
}

#[test]
fn doubtful_urls_show_no_password() {
    let args = [
        "trace",
        "t1",
        "--broker",
        "amqp://user:12/hunter2@host/shop",
    ];
    let ran = Test::new().args(args).code(2);
    ran.complains("%2F");
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    let args = [
        "trace",
        "t1",
        "-b",
        "redis://127.0.0.1:1",
        "--result-backend",
        "hunter2",
        "--format",
        "json",
    ];
    let ran = Test::new().args(args).code(3);
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);
}
