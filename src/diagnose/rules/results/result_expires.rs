//! CD505: a result that is about to go away.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The share of `result_expires` below which a result is about to go.
const LAST_PART: f64 = 0.1;

/// Seconds beyond which nobody need hurry.
const SOON: f64 = 3_600.0;

/// The rule.
pub static RESULT_EXPIRES: Rule = Rule {
    code: "CD505",
    name: "result-expires",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The result of the task goes away soon. After that nothing tells any more that it ever ran, and its \
                  id is unknown.",
        cause: "Celery stores each result with a time to live of result_expires, one day by default. Redis deletes it \
                then.",
        read: "The time to live of the result's key, and result_expires in the settings of the live workers. Nothing \
               is said where one did not tell.",
        confirm: "Run `redis-cli TTL celery-task-meta-ID` in the result backend's database.",
        mend: "Fetch the result now if you need it.",
        prevent: "Set result_expires to as long as results are needed: the worker's setting counts. Keep outcomes that \
                  matter in a database of your own.",
        references: &[
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#result-expires",
        ],
    },
    needs: &[Source::Results],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let Some(result) = case.final_result() else {
        return Vec::new();
    };
    let Some(expires) = case.evidence.result_expires().filter(|e| e.is_finite()) else {
        return Vec::new();
    };
    let left = result
        .ttl_seconds
        .filter(|left| *left < SOON.min(expires * LAST_PART));
    let Some(left) = left else {
        return Vec::new();
    };
    let message = format!(
        "the result {} of {} goes away in {}; results are kept for {}",
        result.doc.state,
        case.called(),
        plain::duration(left),
        plain::duration(expires)
    );
    vec![
        Finding::of(&RESULT_EXPIRES, message)
            .evidence("ttl_seconds", left)
            .evidence("result_expires", expires)
            .confirm(
                (case.evidence).results_cli_of("TTL", &format!("celery-task-meta-{}", case.id)),
            )
            .remedy("fetch it now if you need it; raise result_expires on the workers")
            .task(case.id),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    fn ending_in(seconds: Option<f64>) -> Lab {
        let mut lab = Lab::new().worker("w1", &["celery"]).result("t1", "SUCCESS");
        lab.task("t1")
            .result
            .seen_mut()
            .expect("seen")
            .as_mut()
            .expect("stored")
            .ttl_seconds = seconds;
        lab
    }

    #[test]
    fn a_result_in_its_last_hour_is_found() {
        let findings = ending_in(Some(90.0)).check(&RESULT_EXPIRES, "t1");
        assert_eq!(names(&findings), ["result-expires"]);
        assert_eq!(
            findings[0].confirm,
            ["redis-cli -h localhost -p 6379 -n 1 TTL celery-task-meta-t1"]
        );
    }

    #[test]
    fn a_fresh_result_and_a_lasting_one_are_clear() {
        assert!(
            ending_in(Some(3_600.0))
                .check(&RESULT_EXPIRES, "t1")
                .is_empty()
        );
        assert!(ending_in(None).check(&RESULT_EXPIRES, "t1").is_empty());
    }

    #[test]
    fn a_fresh_result_that_is_kept_for_a_minute_is_clear() {
        let lab = ending_in(Some(50.0)).with_worker(|worker| {
            worker.conf.seen_mut().expect("seen").result_expires = Some(60.0);
        });
        assert!(lab.check(&RESULT_EXPIRES, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_a_worker_does_not_tell_how_long_results_are_kept() {
        let lab = ending_in(Some(90.0)).with_worker(|worker| {
            worker.conf.seen_mut().expect("seen").result_expires = None;
        });
        assert!(lab.check(&RESULT_EXPIRES, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_without_a_result() {
        let lab = ending_in(Some(90.0)).unread(Source::Results, Reason::Unreachable);
        assert!(lab.check(&RESULT_EXPIRES, "t1").is_empty());
    }
}
