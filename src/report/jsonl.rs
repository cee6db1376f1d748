//! JSON lines: one object a line, each with its `type`, and with the fields that the JSON report has for it. A finding
//! has a line of its own; so has each rule that could not be judged; the last line is the exit code.

use std::io::{self, Write};

use serde::Serialize;

use super::json::{CheckV1, ExitV1, FindingV1, SCHEMA, TraceV1};
use super::summary::Summary;
use super::{Asked, plain};
use crate::diagnose::policy::Suppression;
use crate::diagnose::{CheckStatus, Checked, Diagnosis, Finding, Outcome};
use crate::evidence::Evidence;

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    command: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'a str>,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content<'a> {
    Trace(TraceV1<'a>),
    Finding(FindingV1<'a>),
    /// A finding that the user does not want to see again, and why.
    Suppressed {
        why: &'static str,
        reason: Option<&'a str>,
        until: Option<String>,
        #[serde(flatten)]
        finding: FindingV1<'a>,
    },
    /// A rule that could not be judged.
    NotJudged(CheckV1<'a>),
    /// An entry of the settings file that is of no use any more.
    Note {
        text: &'a str,
    },
    Exit(ExitV1<'a>),
}

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut lines = Lines {
        command: summary.command,
        out,
    };
    for section in summary.sections {
        lines.findings(section.name, &section.applied.findings)?;
        for one in &section.applied.suppressed {
            let (why, reason, until) = match &one.why {
                Suppression::Ignored { reason, until } => {
                    ("ignored", Some(reason.as_str()), *until)
                }
                Suppression::Known => ("baseline", None, None),
            };
            let content = Content::Suppressed {
                why,
                reason,
                until: until.map(|day| day.to_string()),
                finding: FindingV1::of(&one.finding),
            };
            lines.line(section.name, content)?;
        }
        lines.not_judged(section.name, section.checks)?;
    }
    for text in summary.notes {
        lines.line(None, Content::Note { text })?;
    }
    lines.line(None, Content::Exit(ExitV1::of(summary.outcome)))
}

/// Writes a trace: a line for each task, with its findings in it, then those about the deployment.
pub(crate) fn trace(
    evidence: &Evidence,
    diagnosis: &Diagnosis,
    asked: &Asked,
    outcome: &Outcome,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut lines = Lines {
        command: "trace",
        out,
    };
    for trace in &diagnosis.traces {
        lines.line(None, Content::Trace(TraceV1::of(evidence, trace, asked)))?;
    }
    lines.findings(None, &diagnosis.findings)?;
    lines.not_judged(None, &diagnosis.checks)?;
    lines.line(None, Content::Exit(ExitV1::of(outcome)))
}

struct Lines<'a> {
    command: &'a str,
    out: &'a mut dyn Write,
}

impl Lines<'_> {
    fn findings(&mut self, deployment: Option<&str>, findings: &[Finding]) -> io::Result<()> {
        let mut findings = findings.iter().map(FindingV1::of);
        findings.try_for_each(|finding| self.line(deployment, Content::Finding(finding)))
    }

    fn not_judged(&mut self, deployment: Option<&str>, checks: &[Checked]) -> io::Result<()> {
        let blind = checks
            .iter()
            .filter(|check| check.status == CheckStatus::NotJudged);
        let mut blind = blind.map(CheckV1::of);
        blind.try_for_each(|check| self.line(deployment, Content::NotJudged(check)))
    }

    fn line(&mut self, deployment: Option<&str>, content: Content<'_>) -> io::Result<()> {
        let line = serde_json::to_string(&Line {
            schema: SCHEMA,
            command: self.command,
            deployment,
            content,
        })?;
        self.out.write_all(plain::escape_json(&line).as_bytes())?;
        self.out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;

    #[test]
    fn one_object_a_line() {
        insta::assert_snapshot!("jsonl-audit", audit().drawn(summary));
        insta::assert_snapshot!("jsonl-routes", routes().drawn(summary));
    }

    proptest! {
        #[test]
        fn every_line_is_json(sample in any_sample()) {
            let text = sample.drawn(summary);
            prop_assert!(!text.contains(acts_on_a_terminal));
            let lines: Vec<Value> = text
                .split_terminator('\n')
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            let messages: Vec<&str> = lines
                .iter()
                .filter(|line| line["type"] == "finding")
                .map(|line| line["message"].as_str().expect("text"))
                .collect();
            let expected: Vec<&str> = sample
                .sections
                .iter()
                .flat_map(|section| &section.applied.findings)
                .map(|finding| finding.message.as_str())
                .collect();
            prop_assert_eq!(messages, expected);
            prop_assert_eq!(lines.last().map(|line| line["type"].clone()), Some(Value::from("exit")));
        }
    }
}
