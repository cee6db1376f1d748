//! Code quality of GitLab: the report that its merge requests show. It has no place for a finding without a file, so the
//! subject stands there.

use std::io::{self, Write};

use serde::Serialize;

use super::plain;
use super::summary::Summary;
use super::words;
use crate::diagnose::policy::fingerprints;
use crate::diagnose::{Finding, Severity};

#[derive(Serialize)]
struct Issue<'a> {
    description: String,
    check_name: &'a str,
    fingerprint: String,
    severity: &'static str,
    location: Place,
}

#[derive(Serialize)]
struct Place {
    path: String,
    lines: Lines,
}

#[derive(Serialize)]
struct Lines {
    begin: u32,
}

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut issues = Vec::new();
    for section in summary.sections {
        let findings = &section.applied.findings;
        let prints = fingerprints(section.name, findings);
        for (finding, fingerprint) in findings.iter().zip(prints) {
            issues.push(issue(section.name, finding, fingerprint));
        }
    }
    let json = serde_json::to_string_pretty(&issues)?;
    out.write_all(plain::escape_json(&json).as_bytes())?;
    out.write_all(b"\n")
}

fn issue<'a>(deployment: Option<&str>, finding: &'a Finding, fingerprint: String) -> Issue<'a> {
    let (path, begin) = if let Some(at) = &finding.location {
        (at.file.clone(), at.line)
    } else {
        let subject = match words::subject(finding) {
            subject if subject.is_empty() => "deployment".to_owned(),
            subject => subject,
        };
        let name = deployment.map(|name| format!("{}: ", plain::readable(name)));
        (format!("{}{subject}", name.unwrap_or_default()), 1)
    };
    let message = plain::readable(&finding.message);
    Issue {
        description: format!("{} {}: {message}", finding.code, finding.name),
        check_name: &finding.name,
        fingerprint,
        severity: match finding.severity {
            Severity::Info => "info",
            Severity::Warning => "major",
            Severity::Error => "critical",
        },
        location: Place {
            path,
            lines: Lines { begin },
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;

    #[test]
    fn an_issue_for_each_finding() {
        insta::assert_snapshot!("gitlab-audit", audit().drawn(summary));
        insta::assert_snapshot!("gitlab-routes", routes().drawn(summary));
    }

    proptest! {
        #[test]
        fn anything_is_a_report(sample in any_sample()) {
            let text = sample.drawn(summary);
            prop_assert!(!text.contains(acts_on_a_terminal));
            let issues: Vec<Value> = serde_json::from_str(&text).expect("a list");
            // GitLab drops all but one of those with one fingerprint.
            let sections: BTreeSet<_> = sample.sections.iter().map(|one| &one.name).collect();
            let prints: BTreeSet<String> = issues.iter().map(|one| one["fingerprint"].to_string()).collect();
            prop_assert!(sections.len() < sample.sections.len() || prints.len() == issues.len());
            for issue in issues {
                prop_assert!(issue["description"].is_string() && issue["check_name"].is_string());
                prop_assert!(issue["location"]["path"].is_string());
                prop_assert!(issue["location"]["lines"]["begin"].as_u64().is_some_and(|line| line > 0));
                let severity = issue["severity"].as_str().expect("text");
                prop_assert!(["info", "minor", "major", "critical", "blocker"].contains(&severity));
            }
        }
    }
}
