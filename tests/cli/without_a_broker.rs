//! Brokers that are not given, not known, or not there.

use crate::run::Test;

#[test]
fn no_broker_given_shows_the_three_ways() {
    Test::new()
        .args(["trace", "t1"])
        .code(2)
        .complains("--broker")
        .complains("CELERY_BROKER_URL")
        .complains("celery-doctor.toml");
}

#[test]
fn an_unknown_scheme_lists_those_known() {
    for url in ["gopher://:hunter2@host", "host:6379", "://", "redis"] {
        let ran = Test::new().args(["trace", "t1", "--broker", url]).code(2);
        ran.complains("redis://").complains("sentinel://");
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
    Test::new()
        .args(["trace", "t1"])
        .env("CELERY_BROKER_URL", "gopher://host")
        .code(2)
        .complains("CELERY_BROKER_URL")
        .complains("redis://");
}

/// Port 1 is for tcpmux, which nobody runs.
const NOBODY: &str = "redis://:hunter2@127.0.0.1:1/0";

#[test]
fn an_unreachable_broker_is_three() {
    for format in ["table", "json"] {
        let ran = Test::new()
            .args(["trace", "t1", "--broker", NOBODY, "--format", format])
            .code(3);
        assert!(!(ran.stdout.contains("hunter2") || ran.stderr.contains("hunter2")));
        if format == "json" {
            let report = ran.json();
            assert_eq!(report["traces"][0]["verdict"], "undetermined");
            assert_eq!(report["exit"]["code"], 3);
            assert_eq!(report["broker"]["url"], "redis://:***@127.0.0.1:1/0");
        } else {
            ran.says("UNDETERMINED");
        }
    }
}

#[test]
fn an_unreachable_broker_is_three_however_many_ids() {
    let ids: Vec<String> = (0..1_000).map(|n| format!("id-{n}")).collect();
    let ran = Test::new()
        .args(["trace", "-", "--broker", NOBODY])
        .stdin(&ids.join("\n"))
        .code(3);
    ran.says("1000 tasks").says("1000 undetermined");
}

#[test]
fn a_snapshot_of_an_unreachable_broker() {
    let test = Test::new().args(["snapshot", "-o", "s.gz", "t1", "--broker", NOBODY]);
    let ran = test.code(3);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    let file = std::fs::read(test.path("s.gz")).unwrap();
    Test::new()
        .file("s.gz", &file)
        .args(["trace", "t1", "--snapshot", "s.gz"])
        .code(3)
        .says("UNDETERMINED");
}
