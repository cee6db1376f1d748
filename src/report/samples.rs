//! Two deployments made by hand, for the tests of every form, and others in which every text is arbitrary.

use std::time::Duration;

use jiff::civil::date;
use proptest::prelude::*;

use super::summary::{Section, Summary};
use crate::diagnose::command::{Command, worker};
use crate::diagnose::policy::{Applied, Suppressed, Suppression};
use crate::diagnose::testkit::Lab;
use crate::diagnose::{
    CheckStatus, Checked, Finding, Location, Outcome, Severity, outcome, registry,
};
use crate::evidence::Evidence;

/// What a summary borrows.
#[derive(Debug)]
pub(super) struct Sample {
    pub command: &'static str,
    pub sections: Vec<OwnedSection>,
    pub notes: Vec<String>,
    pub fail_on: Severity,
}

#[derive(Debug)]
pub(super) struct OwnedSection {
    pub name: Option<String>,
    pub applied: Applied,
    pub checks: Vec<Checked>,
    pub evidence: Option<Evidence>,
}

impl Sample {
    /// What a form makes of it.
    pub(super) fn drawn(
        &self,
        draw: fn(&Summary<'_>, &mut dyn std::io::Write) -> std::io::Result<()>,
    ) -> String {
        let mut out = Vec::new();
        self.with(|summary| draw(summary, &mut out).expect("a Vec takes all"));
        String::from_utf8(out).expect("text")
    }

    pub(super) fn with<T>(&self, ask: impl FnOnce(&Summary<'_>) -> T) -> T {
        let sections: Vec<Section<'_>> = self
            .sections
            .iter()
            .map(|section| Section {
                name: section.name.as_deref(),
                applied: &section.applied,
                checks: &section.checks,
                evidence: section.evidence.as_ref(),
            })
            .collect();
        ask(&Summary {
            command: self.command,
            sections: &sections,
            notes: &self.notes,
            fail_on: self.fail_on,
            outcome: &self.outcome(),
            elapsed: Duration::from_millis(1234),
        })
    }

    fn outcome(&self) -> Outcome {
        let findings = self.sections.iter().flat_map(|one| &one.applied.findings);
        let blind = self.sections.iter().flat_map(|one| &one.checks);
        let missing: Vec<String> = blind.flat_map(|check| check.missing.clone()).collect();
        outcome::of_findings(findings, self.fail_on, &missing)
    }
}

fn finding(name: &str, message: &str) -> Finding {
    let rule = registry::find(name).expect(name);
    Finding::of(rule, message)
}

fn checked(name: &str, status: CheckStatus, missing: &[&str]) -> Checked {
    let rule = registry::find(name).expect(name);
    Checked {
        code: rule.code.to_owned(),
        name: rule.name.to_owned(),
        status,
        missing: missing.iter().map(|one| (*one).to_owned()).collect(),
        unjudged: None,
    }
}

/// `audit` of a deployment in trouble and of one that could not be read whole.
pub(super) fn audit() -> Sample {
    let mut lab = Lab::new()
        .worker("celery@w1", &["celery"])
        .queued("t1", "emials")
        .unacked("t2", 4000.0);
    lab.list("celery", "celery", None);
    let consumer = finding(
        "no-consumer",
        "queue emials holds 12 messages and no live worker consumes it",
    )
    .evidence("messages", 12)
    .remedy("start a worker on the queue")
    .mend(worker("emials"))
    .confirm(Command::of(
        "redis-cli -h localhost -p 6379 -n 0 LLEN emials",
    ))
    .subject("queue", "emials")
    .task("6f1c0e5a-0001-4000-8000-6b696c6c6564");
    let redelivered = finding("redelivered", "shop.send_mail was restored 3 times")
        .subject("task", "shop.send_mail");
    let ignored = Suppressed {
        finding: finding(
            "no-consumer",
            "queue legacy holds 1 message and no live worker consumes it",
        )
        .subject("queue", "legacy"),
        why: Suppression::Ignored {
            reason: "drained by hand".to_owned(),
            until: Some(date(2026, 12, 31)),
        },
    };
    let known = Suppressed {
        finding: finding("expired", "1 message of shop.report has expired")
            .subject("task", "shop.report"),
        why: Suppression::Known,
    };
    let eu = OwnedSection {
        name: Some("eu".to_owned()),
        applied: Applied {
            findings: vec![consumer, redelivered],
            suppressed: vec![ignored, known],
        },
        checks: vec![
            checked("no-consumer", CheckStatus::Found, &[]),
            checked("unroutable", CheckStatus::Clear, &[]),
            checked("expired", CheckStatus::Found, &[]),
            checked("redelivered", CheckStatus::Found, &[]),
        ],
        evidence: Some(lab.evidence),
    };
    let us = OwnedSection {
        name: Some("us".to_owned()),
        applied: Applied::default(),
        checks: vec![
            checked(
                "no-consumer",
                CheckStatus::NotJudged,
                &["workers: 1 of 2 silent"],
            ),
            checked("unroutable", CheckStatus::Clear, &[]),
        ],
        evidence: None,
    };
    Sample {
        command: "audit",
        sections: vec![eu, us],
        notes: vec![
            "celery-doctor.toml:7: the ignore of CD102 matches nothing: remove it".to_owned(),
        ],
        fail_on: Severity::Error,
    }
}

/// `routes check` of a folder.
pub(super) fn routes() -> Sample {
    let unroutable = finding("unroutable", "the route of shop.* matches no binding")
        .remedy("did you mean the queue mail?")
        .subject("task", "shop.*")
        .location(Location {
            file: "shop/celery config.py".to_owned(),
            line: 12,
            column: 5,
            end_column: 13,
            text: "    'shop.*': {'queue': 'emials'},".to_owned(),
        });
    Sample {
        command: "routes check",
        sections: vec![OwnedSection {
            name: None,
            applied: Applied {
                findings: vec![unroutable],
                suppressed: Vec::new(),
            },
            checks: vec![
                checked("unroutable", CheckStatus::Found, &[]),
                checked("not-registered", CheckStatus::Clear, &[]),
            ],
            evidence: None,
        }],
        notes: Vec::new(),
        fail_on: Severity::Warning,
    }
}

/// Text with everything in it that a form or a terminal could trip over.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\x00-\\x1f\\x7f-\\x9f\\u{202e}\\u{200b}<>&\"'`|%:,=;\\\\{}\\[\\]()*_#\\-~!a]{0,12}",
        Just("]]>::error ::\r\n{}".to_owned()),
    ]
}

prop_compose! {
    fn any_finding()(
        index in 0..registry::ALL.len(),
        severity in prop_oneof![Just(Severity::Info), Just(Severity::Warning), Just(Severity::Error)],
        texts in proptest::collection::vec(text(), 9),
        place in proptest::option::of((1..u32::MAX, 1..u32::MAX)),
    ) -> Finding {
        let [message, remedy, key, fact, kind, subject, task, file, line] = texts.try_into().expect("nine");
        let location = place.map(|(number, column)| Location {
            file,
            line: number,
            column,
            end_column: column.saturating_add(3),
            text: line,
        });
        let finding = Finding::of(registry::ALL[index], message)
            .evidence(&key, fact)
            .remedy(remedy.clone())
            .confirm(Command::of("redis-cli GET").name(&remedy))
            .subject(&kind, subject)
            .task(&task);
        Finding { severity, location, ..finding }
    }
}

prop_compose! {
    fn any_section()(
        name in proptest::option::of(text()),
        findings in proptest::collection::vec(any_finding(), 0..4),
        hidden in any_finding(),
        reason in text(),
        texts in proptest::collection::vec(text(), 3),
    ) -> OwnedSection {
        let mut lab = Lab::new().queued("t1", &texts[0]).queued("t2", &texts[1]);
        for read in &mut lab.evidence.reads {
            texts[2].clone_into(&mut read.detail);
        }
        OwnedSection {
            name,
            applied: Applied {
                findings,
                suppressed: vec![Suppressed {
                    finding: hidden,
                    why: Suppression::Ignored { reason, until: None },
                }],
            },
            checks: vec![
                checked("no-consumer", CheckStatus::NotJudged, &[&texts[2]]),
                checked("unroutable", CheckStatus::Found, &[]),
                checked("redelivered", CheckStatus::Clear, &[]),
            ],
            evidence: Some(lab.evidence),
        }
    }
}

prop_compose! {
    /// A summary in which every text from outside is arbitrary.
    pub(super) fn any_sample()(
        sections in proptest::collection::vec(any_section(), 0..3),
        note in text(),
    ) -> Sample {
        Sample { command: "audit", sections, notes: vec![note], fail_on: Severity::Warning }
    }
}

/// Characters that act on a terminal, or hide. Line breaks are a form's own.
pub(super) fn acts_on_a_terminal(c: char) -> bool {
    (c.is_control() && c != '\n') || "\u{202e}\u{200b}\u{2028}\u{feff}".contains(c)
}
