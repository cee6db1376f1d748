//! CD807: something in use that this tool does not read.

use super::{broker_is_away, tells};
use crate::diagnose::command::{Command, inspect};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Reason, Source, Workers};

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
                services do not know every command either. Workers answer in their task_serializer, which can be YAML or \
                one that the app registered with kombu; JSON is recognised whatever it is called.",
        read: "The scheme of the result backend's URL, and what the server answered to the commands it does not know.",
        confirm: "Run `celery -A APP report`, and look at result_backend and at the broker's URL. Run `redis-cli INFO \
                  server` for the server's version.",
        mend: "Look for the result in the backend itself. `celery -A APP result ID` shows one that is there, and waits for \
               ever for one that is not.",
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
            .remedy(
                "look for the result in the backend itself; `celery result` shows one that is there, and waits for ever \
                 for one that is not",
            )
            .subject("source", Source::Results.name())
        })
        .collect();
    findings.extend(evidence.workers.seen().and_then(not_understood));
    findings.extend(
        evidence
            .reads
            .iter()
            .filter(|read| read.reason == Some(Reason::Unsupported))
            .filter(|read| read.source != Source::Workers)
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
                        None => evidence.redis_cli("INFO server"),
                        Some(_) => Command::of("rabbitmq-diagnostics server_version"),
                    })
                    .remedy("look at it by hand; `celery-doctor explain CD807` says more")
                    .subject("source", source)
            }),
    );
    findings
}

/// Workers that answered in a serialisation that is not read.
fn not_understood(workers: &Workers) -> Option<Finding> {
    let number = workers.answered_unreadably();
    let types: Vec<&str> = workers.unreadable.keys().map(String::as_str).collect();
    let message = format!(
        "{} answered in a serialisation that is not read ({}): what {} and know{} is not known",
        plain::count(number, "worker"),
        types.join(", "),
        if number == 1 {
            "it runs, consumes"
        } else {
            "they run, consume"
        },
        if number == 1 { "s" } else { "" },
    );
    (number > 0).then(|| {
        Finding::of(&UNSUPPORTED, message)
            .evidence("workers", number)
            .evidence("content_types", types)
            .confirm(inspect("ping"))
            .remedy("ask the workers by Celery itself, in the app's own environment")
            .mend(inspect("active"))
            .subject("source", Source::Workers.name())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::rules::reservations::silent_worker::SILENT_WORKER;
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
    fn workers_that_answer_what_is_not_read_are_found_and_are_not_silent() {
        let mut lab = Lab::new().worker("w1", &["celery"]).silent("w2");
        let workers = lab.workers_mut();
        workers
            .unreadable
            .insert("application/x-house".to_owned(), 1);
        let findings = lab.check(&UNSUPPORTED, "");
        assert_eq!(names(&findings), ["unsupported"]);
        assert_eq!(
            findings[0].message,
            "1 worker answered in a serialisation that is not read (application/x-house): what it runs, consumes and \
             knows is not known"
        );
        assert!(lab.check(&SILENT_WORKER, "").is_empty());
        // Another one is silent.
        lab.workers_mut().silent = 2;
        let silent = lab.check(&SILENT_WORKER, "");
        assert!(silent[0].message.starts_with("1 worker did not answer"));
    }

    #[test]
    fn what_is_read_and_what_is_away_are_clear() {
        assert!(Lab::new().check(&UNSUPPORTED, "").is_empty());
        let away = Lab::new().unread(Source::Results, Reason::Unreachable);
        assert!(away.check(&UNSUPPORTED, "").is_empty());
    }
}
