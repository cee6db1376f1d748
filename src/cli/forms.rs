//! The forms for other programs, and the baseline: what `audit` and `routes check` write alike.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

use super::args::{Format, Target};
use super::output::{self, Access};
use crate::diagnose::policy::{Applied, write_baseline};
use crate::report::summary::Summary;
use crate::report::{github, gitlab, jsonl, junit, markdown, nagios, prometheus, sarif};

/// Draws a report of findings.
type Draw = fn(&Summary<'_>, &mut dyn Write) -> io::Result<()>;

/// What draws a form; none for the table and for JSON, which each command draws itself.
pub(super) fn drawn_by(format: Format) -> Option<Draw> {
    match format {
        Format::Table | Format::Json => None,
        Format::Jsonl => Some(jsonl::summary),
        Format::Sarif => Some(sarif::summary),
        Format::Junit => Some(junit::summary),
        Format::Prometheus => Some(prometheus::summary),
        Format::Github => Some(github::summary),
        Format::Gitlab => Some(gitlab::summary),
        Format::Markdown => Some(markdown::summary),
        Format::Nagios => Some(nagios::summary),
    }
}

/// Writes the report to where it belongs.
pub(super) fn write(draw: Draw, summary: &Summary<'_>, target: &Target) -> anyhow::Result<()> {
    let draw = |out: &mut dyn Write| draw(summary, out);
    match (&target.file, target.format) {
        (None, Format::Github) => output::commands_to_stdout(draw),
        (None, _) => output::to_stdout(draw),
        (Some(path), Format::Github) => output::to_file(path, Access::Usual, draw),
        (Some(path), _) => output::report_to_file(path, Access::Usual, draw),
    }
}

/// Writes everything that was found for a later `--baseline`.
pub(super) fn baseline(file: &Path, found: &[(Option<&str>, &Applied)]) -> anyhow::Result<()> {
    let text = write_baseline(found).context("the baseline can't be made")?;
    output::to_file(file, Access::Usual, |out| out.write_all(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use clap::ValueEnum as _;

    use super::*;
    use crate::diagnose::policy::Baseline;
    use crate::diagnose::{Finding, Severity, outcome, registry};
    use crate::report::summary::Section;

    #[test]
    fn every_form_is_written_to_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let applied = Applied {
            findings: vec![Finding::of(registry::ALL[0], "it is so")],
            suppressed: Vec::new(),
        };
        let outcome = outcome::of_findings(&applied.findings, Severity::Error, &[]);
        let summary = Summary {
            command: "audit",
            sections: &[Section {
                name: None,
                applied: &applied,
                checks: &[],
                evidence: None,
            }],
            notes: &[],
            fail_on: Severity::Error,
            outcome: &outcome,
            elapsed: Duration::from_secs(1),
        };
        for format in Format::value_variants() {
            let Some(draw) = drawn_by(*format) else {
                assert!(matches!(format, Format::Table | Format::Json));
                continue;
            };
            let file = directory.path().join(format!("{format:?}"));
            let target = Target {
                format: *format,
                file: Some(file.clone()),
            };
            write(draw, &summary, &target).expect("writable");
            let text = fs::read_to_string(file).expect("written");
            assert!(text.contains("CD101") && text.ends_with('\n'), "{format:?}");
        }
        let file = directory.path().join("baseline");
        baseline(&file, &[(None, &applied)]).expect("writable");
        let text = fs::read_to_string(file).expect("written");
        assert!(Baseline::parse(&text).is_ok() && text.contains("CD101"));
    }
}
