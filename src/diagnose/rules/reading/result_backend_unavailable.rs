//! CD802: the result backend could not be read.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, Reason, Source};

/// The rule.
pub static RESULT_BACKEND_UNAVAILABLE: Rule = Rule {
    code: "CD802",
    name: "result-backend-unavailable",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The result backend could not be read. Whether and how a task ended is not known, and one that ended \
                  can't be told from one that is lost.",
        cause: "The server is down or too busy, the address is wrong, the password or the user is wrong, or something \
                in between keeps the connection out. Workers that have the same trouble can't store results, and \
                senders wait for them in vain.",
        read: "The connection to the result backend, and its first answers.",
        confirm: "Run `redis-cli -u URL PING` from the same machine, with the result backend's URL.",
        mend: "Correct --result-backend, or CELERY_RESULT_BACKEND. If the server is down, start it.",
        prevent: "Watch the result backend like the broker. Give this tool a user that may GET and TTL its keys.",
        references: &[
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#result-backend",
        ],
    },
    needs: &[Source::Results],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let backend = &evidence.result_backend;
    let why = backend.readable.unseen();
    // A kind that is not read is CD807.
    let Some(why) = why.filter(|why| !matches!(why.reason, Reason::NotAsked | Reason::Unsupported))
    else {
        return Vec::new();
    };
    let url = backend.url.as_deref().unwrap_or(&backend.kind);
    vec![
        Finding::of(
            &RESULT_BACKEND_UNAVAILABLE,
            format!("the result backend {url} could not be read: {}", why.detail),
        )
        .evidence("result_backend", url)
        .evidence("detail", why.detail.as_str())
        .look(format!("see whether the server of {url} answers from this machine"))
        .remedy("look whether the server runs and whether the URL is right: --result-backend, or CELERY_RESULT_BACKEND")
        .subject("source", Source::Results.name()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};

    fn unseen(reason: Reason) -> Vec<Finding> {
        Lab::new()
            .unread(Source::Results, reason)
            .check(&RESULT_BACKEND_UNAVAILABLE, "")
    }

    #[test]
    fn a_backend_that_can_not_be_read_is_found() {
        for reason in [
            Reason::Unreachable,
            Reason::TimedOut,
            Reason::Refused,
            Reason::Malformed,
        ] {
            assert_eq!(names(&unseen(reason)), ["result-backend-unavailable"]);
        }
    }

    #[test]
    fn one_that_is_read_or_not_there_is_clear() {
        assert!(Lab::new().check(&RESULT_BACKEND_UNAVAILABLE, "").is_empty());
        assert!(unseen(Reason::NotAsked).is_empty());
        assert!(unseen(Reason::Unsupported).is_empty());
    }
}
