//! Annotations of a GitHub workflow: lines on standard output that its runner turns into marks on files.

use std::io::{self, Write};

use super::plain;
use super::summary::Summary;
use crate::diagnose::outcome::Status;
use crate::diagnose::{Finding, Severity};

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    for (deployment, finding) in summary.findings() {
        let place = place(finding);
        let mut title = format!("{} {}", finding.code, finding.name);
        if let Some(name) = deployment {
            title = format!("{title} ({name})");
        }
        let mut lines = vec![finding.message.clone()];
        if !finding.remedy.is_empty() {
            lines.push(format!("Remedy: {}", finding.remedy));
        }
        lines.extend(finding.remedy_commands.iter().cloned());
        annotation(out, level(finding.severity), &place, &title, &lines)?;
    }
    for note in summary.notes {
        annotation(out, "warning", "", "settings", &[note.as_str()])?;
    }
    if summary.outcome.status == Status::Incomplete {
        let reason = summary.outcome.reason.as_str();
        annotation(out, "error", "", "incomplete", &[reason])?;
    }
    Ok(())
}

fn annotation<S: AsRef<str>>(
    out: &mut dyn Write,
    level: &str,
    place: &str,
    title: &str,
    lines: &[S],
) -> io::Result<()> {
    let lines = lines.iter().map(|line| data(line.as_ref()));
    let message = lines.collect::<Vec<_>>().join("%0A");
    writeln!(out, "::{level} {place}title={}::{message}", property(title))
}

fn place(finding: &Finding) -> String {
    let Some(at) = &finding.location else {
        return String::new();
    };
    format!(
        "file={},line={},endLine={},col={},endColumn={},",
        property(&at.file),
        at.line,
        at.line,
        at.column,
        at.end_column
    )
}

/// Text behind the second `::`, as `escapeData` of actions/toolkit (packages/core/src/command.ts) has it.
fn data(text: &str) -> String {
    plain::readable(text).replace('%', "%25")
}

/// The value of a property, as `escapeProperty` has it. No line break is left in readable text.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;

    #[test]
    fn a_line_for_each_finding() {
        insta::assert_snapshot!("github-audit", audit().drawn(summary));
        insta::assert_snapshot!("github-routes", routes().drawn(summary));
    }

    type Command<'l> = (&'l str, Vec<(&'l str, String)>, String);

    /// Level, properties and message, read as the runner reads them (ActionCommand.cs).
    fn parsed(line: &str) -> Option<Command<'_>> {
        let unescaped = |text: &str| {
            let text = text.replace("%0D", "\r").replace("%0A", "\n");
            let text = text.replace("%3A", ":").replace("%2C", ",");
            text.replace("%25", "%")
        };
        let (command, message) = line.strip_prefix("::")?.split_once("::")?;
        let (level, properties) = command.split_once(' ')?;
        let properties: Option<Vec<_>> = properties
            .split(',')
            .map(|property| {
                let (name, value) = property.split_once('=')?;
                Some((name, unescaped(value)))
            })
            .collect();
        Some((level, properties?, unescaped(message)))
    }

    proptest! {
        #[test]
        fn every_line_is_one_command(sample in any_sample()) {
            let text = sample.drawn(summary);
            prop_assert!(!text.contains(acts_on_a_terminal));
            let mut lines = text.split_terminator('\n');
            for section in &sample.sections {
                for finding in &section.applied.findings {
                    let (level, properties, message) = parsed(lines.next().expect("a line")).expect("a command");
                    prop_assert_eq!(level, super::level(finding.severity));
                    let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
                    if let Some(at) = &finding.location {
                        prop_assert_eq!(names, ["file", "line", "endLine", "col", "endColumn", "title"]);
                        prop_assert_eq!(&properties[0].1, &*plain::readable(&at.file));
                    } else {
                        prop_assert_eq!(names, ["title"]);
                    }
                    prop_assert!(message.contains(&*plain::readable(&finding.message)));
                }
            }
            for line in lines {
                prop_assert!(parsed(line).is_some(), "{line}");
            }
        }
    }
}
