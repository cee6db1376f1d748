//! SARIF 2.1.0 (OASIS standard, 2020-03-27), as code scanning of GitHub, GitLab and others takes it. One run for each
//! deployment, with the pages of its rules as their help.

use std::collections::BTreeMap;
use std::io::{self, Write};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::plain;
use super::summary::{Section, Summary};
use crate::diagnose::outcome::Status;
use crate::diagnose::policy::{Suppressed, Suppression, fingerprints};
use crate::diagnose::{Checked, Finding, Location, Rule, Severity, registry};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
const PROJECT: &str = env!("CARGO_PKG_NAME");

/// What a path in a URI keeps as it is (RFC 3986).
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Log<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: Vec<Run<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    tool: Tool,
    automation_details: AutomationDetails,
    invocations: [Invocation; 1],
    column_kind: &'static str,
    results: Vec<SarifResult<'a>>,
}

#[derive(Serialize)]
struct Tool {
    driver: Driver,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Driver {
    name: &'static str,
    semantic_version: &'static str,
    rules: Vec<ReportingDescriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportingDescriptor {
    id: &'static str,
    name: &'static str,
    short_description: Message,
    full_description: Message,
    help: Message,
    default_configuration: Configuration,
}

#[derive(Serialize)]
struct Configuration {
    level: &'static str,
}

#[derive(Serialize)]
struct Message {
    text: String,
}

#[derive(Serialize)]
struct AutomationDetails {
    id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
    exit_code: u8,
    exit_code_description: String,
    tool_configuration_notifications: Vec<Notification>,
    tool_execution_notifications: Vec<Notification>,
}

#[derive(Serialize)]
struct Notification {
    level: &'static str,
    message: Message,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SarifResult<'a> {
    rule_id: &'a str,
    level: &'static str,
    message: Message,
    locations: [SarifLocation; 1],
    partial_fingerprints: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    suppressions: Vec<SarifSuppression>,
    properties: Properties<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SarifLocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    physical_location: Option<PhysicalLocation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logical_locations: Vec<LogicalLocation>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
    region: Region,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactLocation {
    uri: String,
    uri_base_id: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: u32,
    start_column: u32,
    end_column: u32,
    snippet: Message,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogicalLocation {
    name: String,
    fully_qualified_name: String,
    kind: &'static str,
}

#[derive(Serialize)]
struct SarifSuppression {
    kind: &'static str,
    status: &'static str,
    justification: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties<'a> {
    count: u64,
    task_ids: &'a [String],
    remedy: &'a str,
    remedy_commands: &'a [String],
    confirm: &'a [String],
}

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    let log = Log {
        schema: SCHEMA,
        version: "2.1.0",
        runs: summary
            .sections
            .iter()
            .map(|section| run(summary, section))
            .collect(),
    };
    let json = serde_json::to_string_pretty(&log)?;
    out.write_all(plain::escape_json(&json).as_bytes())?;
    out.write_all(b"\n")
}

fn run<'a>(summary: &Summary<'a>, section: &Section<'a>) -> Run<'a> {
    let applied = section.applied;
    let found = applied.findings.iter().map(|finding| (finding, None));
    let hidden = applied
        .suppressed
        .iter()
        .map(|one| (&one.finding, Some(one)));
    let mut all: Vec<(&Finding, Option<&Suppressed>)> = found.chain(hidden).collect();
    // In the order in which they were judged, by which those alike get their fingerprints.
    all.sort_by(|(one, _), (other, _)| one.order(other));
    let prints = fingerprints(section.name, all.iter().map(|(finding, _)| *finding));
    let results = all.iter().zip(prints);
    let id = match section.name {
        Some(name) => format!("{PROJECT}/{}/{}/", summary.command, plain::readable(name)),
        None => format!("{PROJECT}/{}/", summary.command),
    };
    Run {
        tool: Tool {
            driver: Driver {
                name: PROJECT,
                semantic_version: env!("CARGO_PKG_VERSION"),
                rules: rules(section),
            },
        },
        automation_details: AutomationDetails { id },
        invocations: [invocation(summary, section)],
        column_kind: "unicodeCodePoints",
        results: results
            .map(|((finding, hidden), print)| result(finding, *hidden, print))
            .collect(),
    }
}

/// The rules that were asked, and those of the findings.
fn rules(section: &Section<'_>) -> Vec<ReportingDescriptor> {
    let applied = section.applied;
    let wanted = |rule: &&&Rule| {
        let code = rule.code;
        section.checks.iter().any(|check| check.code == code)
            || applied.findings.iter().any(|one| one.code == code)
            || applied
                .suppressed
                .iter()
                .any(|one| one.finding.code == code)
    };
    let rules = registry::ALL.iter().filter(wanted);
    rules.map(|rule| descriptor(rule)).collect()
}

fn descriptor(rule: &Rule) -> ReportingDescriptor {
    let page = &rule.page;
    let help = [
        ("How it comes about", page.cause),
        ("What was read to conclude it", page.read),
        ("How to confirm it by hand", page.confirm),
        ("How to mend it now", page.mend),
        ("How to prevent it", page.prevent),
    ]
    .map(|(title, text)| format!("{title}: {text}"));
    let references = page.references.join(", ");
    ReportingDescriptor {
        id: rule.code,
        name: rule.name,
        short_description: text(rule.name.replace('-', " ")),
        full_description: text(page.meaning),
        help: text(format!("{}\n\nReferences: {references}", help.join("\n\n"))),
        default_configuration: Configuration {
            level: level(rule.severity),
        },
    }
}

fn invocation(summary: &Summary<'_>, section: &Section<'_>) -> Invocation {
    let outcome = summary.outcome;
    let blind = |check: &Checked| Notification {
        level: "warning",
        message: text(format!(
            "{} {} could not be judged: {}",
            check.code,
            check.name,
            plain::readable(&check.missing.join("; "))
        )),
    };
    let note = |note: &String| Notification {
        level: "warning",
        message: text(plain::readable(note)),
    };
    Invocation {
        execution_successful: outcome.status != Status::Incomplete,
        exit_code: outcome.code,
        exit_code_description: plain::readable(&outcome.reason).into_owned(),
        tool_configuration_notifications: summary.notes.iter().map(note).collect(),
        tool_execution_notifications: section.not_judged().map(blind).collect(),
    }
}

fn result<'a>(finding: &'a Finding, hidden: Option<&Suppressed>, print: String) -> SarifResult<'a> {
    let message = plain::readable(&finding.message);
    let message = match plain::readable(&finding.remedy) {
        remedy if remedy.is_empty() => message.into_owned(),
        remedy => format!("{message}. Remedy: {remedy}"),
    };
    let suppression = |one: &Suppressed| SarifSuppression {
        kind: "external",
        status: "accepted",
        justification: match &one.why {
            Suppression::Ignored { reason, .. } => plain::readable(reason).into_owned(),
            Suppression::Known => "it stands in the baseline".to_owned(),
        },
    };
    SarifResult {
        rule_id: &finding.code,
        level: level(finding.severity),
        message: text(message),
        locations: [match &finding.location {
            Some(location) => in_file(location),
            None => of_subject(finding),
        }],
        partial_fingerprints: BTreeMap::from([("celeryDoctor/v1", print)]),
        suppressions: hidden.map(suppression).into_iter().collect(),
        properties: Properties {
            count: finding.count,
            task_ids: &finding.task_ids,
            remedy: &finding.remedy,
            remedy_commands: &finding.remedy_commands,
            confirm: &finding.confirm,
        },
    }
}

fn in_file(location: &Location) -> SarifLocation {
    SarifLocation {
        physical_location: Some(PhysicalLocation {
            artifact_location: ArtifactLocation {
                uri: utf8_percent_encode(&location.file, IN_PATH).to_string(),
                uri_base_id: "%SRCROOT%",
            },
            region: Region {
                start_line: location.line,
                start_column: location.column,
                end_column: location.end_column,
                snippet: text(plain::readable(&location.text)),
            },
        }),
        logical_locations: Vec::new(),
    }
}

/// Where there is no file: what it is about.
fn of_subject(finding: &Finding) -> SarifLocation {
    let subjects = finding.subject.iter().map(|(kind, name)| LogicalLocation {
        name: plain::readable(name).into_owned(),
        fully_qualified_name: plain::readable(&format!("{kind} {name}")).into_owned(),
        kind: "resource",
    });
    let mut logical_locations: Vec<LogicalLocation> = subjects.collect();
    if logical_locations.is_empty() {
        logical_locations.push(LogicalLocation {
            name: "deployment".to_owned(),
            fully_qualified_name: "deployment".to_owned(),
            kind: "resource",
        });
    }
    SarifLocation {
        physical_location: None,
        logical_locations,
    }
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn text(text: impl Into<String>) -> Message {
    Message { text: text.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_sarif::sarif::{ResultLevel, Sarif};

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;

    /// The pages are long, and others' texts.
    fn without_pages(report: &str) -> String {
        let page = regex::Regex::new(
            r#"(?s)("(?:fullDescription|help)": \{\s*"text": )"(?:[^"\\]|\\.)*""#,
        )
        .expect("a pattern");
        page.replace_all(report, "$1\"[page]\"").into_owned()
    }

    #[test]
    fn runs_rules_and_results() {
        insta::assert_snapshot!("sarif-audit", without_pages(&audit().drawn(summary)));
        insta::assert_snapshot!("sarif-routes", without_pages(&routes().drawn(summary)));
    }

    #[test]
    fn a_rule_brings_its_page() {
        let report = audit().drawn(summary);
        let page = &registry::find("no-consumer").expect("there is one").page;
        let sarif: Sarif = serde_json::from_str(&report).expect("SARIF");
        let rules = sarif.runs[0].tool.driver.rules.as_ref().expect("rules");
        let rule = rules.iter().find(|rule| rule.id == "CD101").expect("asked");
        let help = &rule.help.as_ref().expect("help").text;
        assert!(help.contains(page.mend) && help.contains(page.references[0]));
        let meaning = &rule.full_description.as_ref().expect("a description").text;
        assert_eq!(meaning, page.meaning);
    }

    proptest! {
        /// Every field of the standard that another implementation knows is read back.
        #[test]
        fn anything_is_sarif(sample in any_sample()) {
            let report = sample.drawn(summary);
            prop_assert!(!report.contains(acts_on_a_terminal));
            let sarif: Sarif = serde_json::from_str(&report).expect("SARIF");
            prop_assert_eq!(sarif.runs.len(), sample.sections.len());
            for (run, section) in sarif.runs.iter().zip(&sample.sections) {
                let results = run.results.as_ref().expect("results");
                let applied = &section.applied;
                prop_assert_eq!(results.len(), applied.findings.len() + applied.suppressed.len());
                let shown = results.iter().filter(|one| one.suppressions.is_none());
                prop_assert_eq!(shown.count(), applied.findings.len());
                let rules = run.tool.driver.rules.as_ref().expect("rules");
                let mut prints = std::collections::BTreeSet::new();
                for result in results {
                    let id = result.rule_id.as_ref().expect("an id");
                    prop_assert!(rules.iter().any(|rule| rule.id == *id));
                    prop_assert!(matches!(result.level, Some(ResultLevel::Error | ResultLevel::Warning | ResultLevel::Note)));
                    let print = result.partial_fingerprints.as_ref().expect("a fingerprint");
                    prop_assert!(prints.insert(format!("{print:?}")), "twice: {print:?}");
                }
            }
        }
    }
}
