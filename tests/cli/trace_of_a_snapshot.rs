//! `trace --snapshot`: the whole way from a file to a report and an exit code.

use celery_doctor::evidence::{Observed, ReadStatus, Reason, Scope, Source, Why};

use crate::evidence::{evidence, packed, snapshot};
use crate::run::Test;

fn trace() -> Test {
    Test::new()
        .file("s.gz", &snapshot())
        .args(["trace", "--snapshot", "s.gz"])
}

#[test]
fn what_is_accounted_for_is_zero() {
    let ran = trace().args(["ended"]).code(0);
    ran.says("FINISHED  ended").says("SUCCESS");
    assert_eq!(ran.stderr, "");
}

#[test]
fn what_is_not_is_one() {
    trace()
        .args(["stuck"])
        .code(1)
        .says("STUCK  stuck  shop.send_mail")
        .says("CD101 no-consumer")
        .says("Exit code 1: the task is stuck: CD101 no-consumer.");
    trace()
        .args(["nowhere", "ended"])
        .code(1)
        .says("What may have happened");
}

#[test]
fn what_could_not_be_read_is_three() {
    let mut evidence = evidence();
    evidence.workers = Observed::Unseen(Why::new(Reason::NotAsked, "--no-workers"));
    for read in &mut evidence.reads {
        if read.source == Source::Workers {
            read.status = ReadStatus::Skipped;
            read.detail = "--no-workers".to_owned();
            read.reason = Some(Reason::NotAsked);
        }
    }
    let test = || {
        Test::new()
            .file("s.gz", &packed(&evidence))
            .args(["trace", "--snapshot", "s.gz", "stuck"])
    };
    test()
        .code(3)
        .says("UNDETERMINED")
        .says("Not read, or not whole");
    test().args(["--exit-zero"]).code(3);
    test().args(["--exit-code-style", "nagios"]).code(3);
    assert_eq!(
        test().args(["--format", "json"]).code(3).json()["exit"]["code"],
        3
    );
}

#[test]
fn the_exit_code_can_be_changed() {
    let json = |test: Test, code| {
        let report = test.args(["stuck", "--format", "json"]).code(code).json();
        assert_eq!(report["exit"]["code"], code);
        report["exit"]["reason"].as_str().unwrap().to_owned()
    };
    let reason = json(trace().args(["--exit-zero"]), 0);
    assert!(reason.contains("the task is stuck"), "{reason}");
    assert!(reason.contains("--exit-zero"), "{reason}");
    json(trace().args(["--exit-code-style", "nagios"]), 2);
    json(
        trace().args(["--exit-code-style", "nagios", "--exit-zero"]),
        0,
    );
}

#[test]
fn ids_come_from_standard_input() {
    let report = trace()
        .args(["-", "--format", "json"])
        .stdin("ended\nstuck ended\n")
        .code(1)
        .json();
    let ids: Vec<&str> = report["traces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trace| trace["task_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["ended", "stuck"]);
}

#[test]
fn several_reports_from_one_reading() {
    let test = trace().args(["stuck", "--format", "json", "--output", "r.json"]);
    let test = test.args(["--format", "table"]);
    test.code(1).says("STUCK");
    let file = std::fs::read_to_string(test.path("r.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(report["schema"], "celery-doctor/1");
    assert_eq!(report["taken_at"], "2026-11-22T12:00:00.123Z");
    assert_eq!(report["traces"][0]["copies"][0]["queue"], "emials");
}

#[test]
fn quiet_says_nothing_where_all_is_well() {
    assert_eq!(trace().args(["-q", "ended"]).code(0).stdout, "");
    trace().args(["-q", "ended", "stuck"]).code(1).says("STUCK");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let plain = trace().args(["stuck"]).code(1);
    assert!(!plain.stdout.contains('\u{1b}'));
    trace()
        .args(["stuck", "--color", "always"])
        .env("NO_COLOR", "1")
        .code(1)
        .says("\u{1b}[");
}

#[test]
fn arguments_are_in_no_report() {
    for format in ["table", "json"] {
        let ran = trace().args(["-vv", "stuck", "--format", format]).code(1);
        assert!(!ran.stdout.contains("private"), "{}", ran.stdout);
    }
}

#[test]
fn an_id_that_the_snapshot_was_not_taken_for() {
    trace()
        .args(["other"])
        .code(2)
        .complains("says nothing about other");
}

#[test]
fn a_report_can_go_where_no_file_can_take_the_place() {
    let ran = trace()
        .args(["stuck", "--format", "json", "--output", "/dev/stdout"])
        .code(1);
    assert!(ran.stdout.contains("celery-doctor/1"), "{}", ran.stdout);
}

#[test]
fn json_lines_have_a_line_for_each_task_and_end_with_the_exit_code() {
    let args = ["stuck", "ended", "--format", "jsonl"];
    let text = trace().args(args).code(1).stdout;
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        (&lines[0]["type"], &lines[0]["task_id"]),
        (&"trace".into(), &"stuck".into())
    );
    assert_eq!(lines[0]["findings"][0]["code"], "CD101");
    assert_eq!(lines[1]["verdict"], "finished");
    let last = lines.last().expect("a line");
    assert_eq!((&last["type"], &last["code"]), (&"exit".into(), &1.into()));
    let ran = trace().args(["ended", "--format", "sarif"]).code(2);
    ran.complains("jsonl");
}

#[test]
fn a_deployment_that_no_file_names_is_wrong_usage() {
    let ran = trace().args(["ended", "--deployment", "eu"]).code(2);
    ran.complains("there is no settings file");
    let file = "[deployment.us]\nbroker = 'redis://h'\n";
    trace()
        .file("celery-doctor.toml", file.as_bytes())
        .args(["ended", "--deployment", "eu"])
        .code(2)
        .complains("no deployment eu in celery-doctor.toml. It has us");
}

#[test]
fn a_closed_pipe_changes_no_exit_code() {
    assert_eq!(trace().args(["stuck"]).code_unread(), Some(1));
    assert_eq!(trace().args(["ended"]).code_unread(), Some(0));
    let json = trace().args(["stuck", "--format", "json"]);
    assert_eq!(json.code_unread(), Some(1));
}

/// A trace of a snapshot that was taken of all tasks.
fn everything() -> Test {
    let mut evidence = evidence();
    evidence.scope = Scope::Everything;
    Test::new()
        .file("s.gz", &packed(&evidence))
        .args(["trace", "--snapshot", "s.gz"])
}

#[test]
fn no_line_of_a_report_is_a_command_of_a_workflow() {
    let test = || everything().args(["--id", "::error::x", "--id", "::warning::y"]);
    let usual = test().code(3);
    usual.says("::error::x");
    for format in ["table", "json", "jsonl"] {
        let ran = test()
            .env("GITHUB_ACTIONS", "true")
            .args(["--format", format])
            .code(3);
        let commands = |line: &&str| line.trim_start().starts_with("::");
        assert_eq!(ran.stdout.lines().find(commands), None);
    }
}

#[test]
fn ids_are_taken_out_of_what_is_pasted() {
    for text in [
        "shop.add[stuck]",
        "'stuck'",
        "celery-task-meta-stuck",
        "<AsyncResult: stuck>",
    ] {
        let ran = everything().args([text, "--format", "json"]).code(1);
        let report = ran.json();
        assert_eq!(report["traces"][0]["task_id"], "stuck", "{text}");
        assert_eq!(report["taken"][0]["task_id"], "stuck", "{text}");
        assert!(ran.stderr.contains("took the id stuck"), "{}", ran.stderr);
    }
    let ran = everything()
        .args(["--id", "'stuck'", "--format", "json"])
        .code(3);
    assert_eq!(ran.json()["traces"][0]["task_id"], "'stuck'");
    assert_eq!(ran.json()["traces"][0]["id_shape"], "custom");
    everything()
        .args(["6f1c0e5a"])
        .code(3)
        .says("only the beginning of a UUID");
    everything()
        .args(["order-7"])
        .code(3)
        .says("This is no UUID");
}

#[test]
fn commands_name_the_app_that_is_given() {
    let ran = everything().args(["stuck", "-A", "proj.celery"]).code(1);
    assert!(!ran.stdout.contains("-A APP"), "{}", ran.stdout);
}
