//! CD807: something in use that this tool does not read.

use super::{broker_is_away, tells};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, Reason, Source};

/// The rule.
pub static UNSUPPORTED: Rule = Rule {
    code: "CD807",
    name: "unsupported",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A result backend or a feature is in use that this tool does not read, so a part of the evidence is \
                  missing. Nothing is called absent that could not be looked at.",
        cause: "Celery knows many result backends, of which this tool reads Redis. Old servers, proxies and managed \
                services do not know every command either.",
        read: "The scheme of the result backend's URL, and what the server answered to the commands it does not know.",
        confirm: "Run `celery -A APP report`, and look at result_backend and at the broker's URL. Run `redis-cli INFO \
                  server` for the server's version.",
        mend: "Look for the result by Celery itself: `celery -A APP result ID`.",
        prevent: "Nothing needs preventing. Say in an issue of this project which backend you use, so that it can be \
                  added.",
        references: &[
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#result-backend",
        ],
    },
    needs: &[],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let backend = &evidence.result_backend;
    let why = backend.readable.unseen();
    let unread_backend = why.filter(|why| why.reason == Reason::Unsupported);
    let mut findings: Vec<Finding> = unread_backend
        .into_iter()
        .map(|why| {
            let kind = &backend.kind;
            Finding::of(
                &UNSUPPORTED,
                format!(
                    "results are kept in {kind}, which is not read: how the task ended is not known"
                ),
            )
            .evidence("result_backend", kind.as_str())
            .evidence("detail", why.detail.as_str())
            .confirm("celery -A APP result ID")
            .remedy("look for the result by Celery itself: `celery -A APP result ID`")
            .subject("source", Source::Results.name())
        })
        .collect();
    findings.extend(
        evidence
            .reads
            .iter()
            .filter(|read| read.reason == Some(Reason::Unsupported))
            // Where something else than a broker answered, CD801 says it once for all.
            .filter(|read| !broker_is_away(evidence) || read.source == Source::Results)
            .filter(|read| unread_backend.is_none() || read.source != Source::Results)
            .map(|read| {
                let source = read.source.name();
                let told = tells(read.source);
                let message = format!(
                    "{source} can't be read here ({}); it would have told {told}",
                    read.detail
                );
                Finding::of(&UNSUPPORTED, message)
                    .evidence("source", source)
                    .evidence("detail", read.detail.as_str())
                    .confirm(match evidence.rabbitmq {
                        None => "redis-cli INFO server",
                        Some(_) => "rabbitmq-diagnostics server_version",
                    })
                    .remedy("look at it by hand; `celery-doctor explain CD807` says more")
                    .subject("source", source)
            }),
    );
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};

    #[test]
    fn a_backend_that_is_not_read_is_found_once() {
        let mut lab = Lab::new().unread(Source::Results, Reason::Unsupported);
        lab.evidence.result_backend.kind = "mongodb".to_owned();
        let findings = lab.check(&UNSUPPORTED, "");
        assert_eq!(names(&findings), ["unsupported"]);
        assert!(
            findings[0]
                .message
                .starts_with("results are kept in mongodb")
        );
    }

    #[test]
    fn a_command_that_the_server_does_not_know_is_found() {
        let lab = Lab::new().unread(Source::Clients, Reason::Unsupported);
        assert_eq!(lab.check(&UNSUPPORTED, "")[0].subject["source"], "clients");
    }

    #[test]
    fn what_is_read_and_what_is_away_are_clear() {
        assert!(Lab::new().check(&UNSUPPORTED, "").is_empty());
        let away = Lab::new().unread(Source::Results, Reason::Unreachable);
        assert!(away.check(&UNSUPPORTED, "").is_empty());
    }
}
