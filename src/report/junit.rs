//! `JUnit` XML, as Jenkins and others take it. A rule that found nothing is a test that passed, one that could not be judged
//! was skipped, and each finding that makes the run fail is a failure.

use std::io::{self, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::plain;
use super::summary::{Section, Summary};
use super::words;
use crate::diagnose::policy::Suppression;
use crate::diagnose::{CheckStatus, Finding, Severity, outcome};

/// One test.
struct Case {
    name: String,
    class: String,
    status: Status,
}

enum Status {
    Passed,
    /// What was found, and is no failure.
    Remarked(String),
    Skipped(String),
    /// About tasks or routes.
    Failed(Problem),
    /// About the reading.
    Errored(Problem),
}

struct Problem {
    severity: Severity,
    message: String,
    text: String,
}

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    let suites: Vec<(String, Vec<Case>)> = summary
        .sections
        .iter()
        .map(|section| (suite_name(summary, section), cases(summary, section)))
        .chain(notes(summary))
        .collect();
    let all = suites.iter().flat_map(|(_, cases)| cases);
    let mut writer = Writer::new_with_indent(out, b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let mut root = writer
        .create_element("testsuites")
        .with_attribute(("name", &*format!("celery-doctor {}", summary.command)))
        .with_attribute(("time", &*format!("{:.3}", summary.elapsed.as_secs_f64())));
    for (name, count) in counts(all) {
        root = root.with_attribute((name, &*count));
    }
    root.write_inner_content(|writer| {
        suites
            .iter()
            .try_for_each(|(name, cases)| suite(writer, name, cases))
    })?;
    writer.into_inner().write_all(b"\n")
}

fn suite_name(summary: &Summary<'_>, section: &Section<'_>) -> String {
    let name = section.name.unwrap_or(summary.command);
    plain::readable(name).into_owned()
}

/// The rules of a section in the order of their codes, each with its findings.
fn cases(summary: &Summary<'_>, section: &Section<'_>) -> Vec<Case> {
    let class = suite_name(summary, section);
    let case = |name: String, status| Case {
        name,
        class: class.clone(),
        status,
    };
    let mut cases = Vec::new();
    for check in section.checks {
        let name = format!("{} {}", check.code, check.name);
        match check.status {
            CheckStatus::Clear => cases.push(case(name, Status::Passed)),
            CheckStatus::NotJudged => {
                let missing = plain::readable(&check.missing.join("; ")).into_owned();
                cases.push(case(name, Status::Skipped(missing)));
            }
            CheckStatus::Found => {}
        }
    }
    for finding in &section.applied.findings {
        cases.push(case(title(finding), status(summary.fail_on, finding)));
    }
    for one in &section.applied.suppressed {
        let why = match &one.why {
            Suppression::Ignored { reason, .. } => format!("ignored: {reason}"),
            Suppression::Known => "in the baseline".to_owned(),
        };
        let why = Status::Skipped(plain::readable(&why).into_owned());
        cases.push(case(title(&one.finding), why));
    }
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    cases
}

fn title(finding: &Finding) -> String {
    let subject = words::subject(finding);
    let space = if subject.is_empty() { "" } else { ": " };
    format!("{} {}{space}{subject}", finding.code, finding.name)
}

fn status(fail_on: Severity, finding: &Finding) -> Status {
    let message = plain::readable(&finding.message).into_owned();
    let mut lines = vec![message.clone()];
    if let Some(at) = &finding.location {
        let text = plain::readable(&at.text);
        let file = plain::readable(&at.file);
        lines.push(format!("{file}:{}:{}: {text}", at.line, at.column));
    }
    if !finding.remedy.is_empty() {
        lines.push(format!("remedy: {}", plain::readable(&finding.remedy)));
    }
    let mut commands = |label: &str, commands: &[String]| {
        if !commands.is_empty() {
            lines.push(format!("{label}:"));
            lines.extend(
                commands
                    .iter()
                    .map(|command| plain::escape(command).into_owned()),
            );
        }
    };
    commands("to do so", &finding.remedy_commands);
    commands("to confirm", &finding.confirm);
    let text = lines.join("\n");
    if finding.severity < fail_on {
        return Status::Remarked(text);
    }
    let problem = Problem {
        severity: finding.severity,
        message,
        text,
    };
    if outcome::is_about_the_reading(finding) {
        Status::Errored(problem)
    } else {
        Status::Failed(problem)
    }
}

/// Entries of the settings file that are of no use: they fail nothing.
fn notes(summary: &Summary<'_>) -> Option<(String, Vec<Case>)> {
    let case = |(n, note): (usize, &String)| Case {
        name: format!("note {}", n + 1),
        class: "settings".to_owned(),
        status: Status::Remarked(plain::readable(note).into_owned()),
    };
    let notes: Vec<Case> = summary.notes.iter().enumerate().map(case).collect();
    (!notes.is_empty()).then(|| ("settings".to_owned(), notes))
}

fn counts<'a>(cases: impl Iterator<Item = &'a Case>) -> [(&'static str, String); 4] {
    let (mut all, mut skipped, mut failed, mut errored) = (0, 0, 0, 0);
    for case in cases {
        all += 1;
        match case.status {
            Status::Passed | Status::Remarked(_) => {}
            Status::Skipped(_) => skipped += 1,
            Status::Failed(_) => failed += 1,
            Status::Errored(_) => errored += 1,
        }
    }
    [
        ("tests", all),
        ("failures", failed),
        ("errors", errored),
        ("skipped", skipped),
    ]
    .map(|(name, count): (_, u64)| (name, count.to_string()))
}

fn suite<W: Write>(writer: &mut Writer<W>, name: &str, cases: &[Case]) -> io::Result<()> {
    let mut element = writer
        .create_element("testsuite")
        .with_attribute(("name", name));
    for (name, count) in counts(cases.iter()) {
        element = element.with_attribute((name, &*count));
    }
    element.write_inner_content(|writer| cases.iter().try_for_each(|one| case(writer, one)))?;
    Ok(())
}

fn case<W: Write>(writer: &mut Writer<W>, case: &Case) -> io::Result<()> {
    let element = writer
        .create_element("testcase")
        .with_attribute(("name", case.name.as_str()))
        .with_attribute(("classname", case.class.as_str()));
    let problem = |writer: &mut Writer<W>, kind: &str, problem: &Problem| {
        let element = writer
            .create_element(kind)
            .with_attribute(("message", problem.message.as_str()))
            .with_attribute(("type", problem.severity.name()));
        element.write_text_content(BytesText::new(&problem.text))?;
        Ok(())
    };
    match &case.status {
        Status::Passed => element.write_empty()?,
        Status::Remarked(text) => element.write_inner_content(|writer| {
            let out = writer.create_element("system-out");
            out.write_text_content(BytesText::new(text))?;
            Ok(())
        })?,
        Status::Skipped(why) => element.write_inner_content(|writer| {
            let skipped = writer.create_element("skipped");
            skipped
                .with_attribute(("message", why.as_str()))
                .write_empty()?;
            Ok(())
        })?,
        Status::Failed(found) => {
            element.write_inner_content(|writer| problem(writer, "failure", found))?
        }
        Status::Errored(found) => {
            element.write_inner_content(|writer| problem(writer, "error", found))?
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quick_junit::Report;

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;

    #[test]
    fn suites_of_deployments_and_cases_of_rules() {
        insta::assert_snapshot!("junit-audit", audit().drawn(summary));
        insta::assert_snapshot!("junit-routes", routes().drawn(summary));
    }

    proptest! {
        /// Another implementation of the format reads it, and counts what it was told to count.
        #[test]
        fn anything_is_junit(sample in any_sample()) {
            let text = sample.drawn(summary);
            prop_assert!(!text.contains(acts_on_a_terminal));
            let report = Report::deserialize_from_str(&text).expect("JUnit");
            prop_assert_eq!(report.test_suites.len(), sample.sections.len() + 1);
            let cases: usize = report.test_suites.iter().map(|suite| suite.test_cases.len()).sum();
            prop_assert_eq!(report.tests, cases);
            let (mut failures, mut errors) = (0, 0);
            for section in &sample.sections {
                for finding in &section.applied.findings {
                    if finding.severity >= Severity::Warning {
                        let unread = outcome::is_about_the_reading(finding);
                        *if unread { &mut errors } else { &mut failures } += 1;
                    }
                }
            }
            prop_assert_eq!((report.failures, report.errors), (failures, errors));
        }
    }
}
