//! Markdown, in GitHub's flavour: for the summary of a workflow, a comment on a merge request, or an issue.

use std::io::{self, Write};

use super::plain;
use super::summary::{Section, Summary};
use super::words;
use crate::diagnose::{Finding, outcome};

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "# celery-doctor {}", summary.command)?;
    for section in summary.sections {
        if let Some(name) = section.name {
            writeln!(out, "\n## {}", text(name))?;
        }
        of_section(section, out)?;
    }
    if !summary.notes.is_empty() {
        writeln!(out, "\nSettings of no use any more:\n")?;
        for note in summary.notes {
            writeln!(out, "- {}", text(note))?;
        }
    }
    let outcome = summary.outcome;
    let reason = text(&outcome.reason);
    writeln!(out, "\nExit code {}: {reason}.", outcome.code)
}

fn of_section(section: &Section<'_>, out: &mut dyn Write) -> io::Result<()> {
    let findings: Vec<&Finding> = section.applied.findings.iter().collect();
    let blind: Vec<_> = section.not_judged().collect();
    if !findings.is_empty() {
        writeln!(out, "\n{}.", outcome::severities(&findings))?;
        writeln!(out, "\n| severity | finding | where | what | remedy |")?;
        writeln!(out, "|---|---|---|---|---|")?;
        findings
            .iter()
            .try_for_each(|finding| writeln!(out, "{}", row(finding)))?;
        findings
            .iter()
            .try_for_each(|finding| commands(finding, out))?;
    } else if blind.is_empty() {
        writeln!(out, "\nNothing was found.")?;
    } else {
        writeln!(
            out,
            "\nNothing was found by the rules that could be judged."
        )?;
    }
    match section.applied.suppressed.len() {
        0 => {}
        1 => writeln!(out, "\n1 more is ignored, or stands in the baseline.")?,
        more => writeln!(out, "\n{more} more are ignored, or stand in the baseline.")?,
    }
    if !blind.is_empty() {
        writeln!(out, "\nRules that could not be judged:\n")?;
        for check in blind {
            let missing = text(&check.missing.join("; "));
            writeln!(out, "- {} {}: {missing}", check.code, check.name)?;
        }
    }
    Ok(())
}

/// The commands of a finding, in a fence that none of them can close.
fn commands(finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let place = text(&words::subject(finding));
    for (label, commands) in [
        ("to do so", &finding.remedy_commands),
        ("to confirm", &finding.confirm),
    ] {
        if commands.is_empty() {
            continue;
        }
        let ticks = commands
            .iter()
            .flat_map(|command| command.split(|c| c != '`'));
        let fence = "`".repeat(ticks.map(str::len).max().unwrap_or(0).max(2) + 1);
        writeln!(out, "\n{} {place}, {label}:\n\n{fence}sh", finding.code)?;
        commands
            .iter()
            .try_for_each(|command| writeln!(out, "{}", plain::escape(command)))?;
        writeln!(out, "{fence}")?;
    }
    Ok(())
}

fn row(finding: &Finding) -> String {
    let place = match &finding.location {
        Some(at) => format!("{}:{}", text(&at.file), at.line),
        None => text(&words::subject(finding)),
    };
    format!(
        "| {} | {} {} | {place} | {} | {} |",
        finding.severity.name(),
        finding.code,
        finding.name,
        text(&finding.message),
        text(&finding.remedy)
    )
}

/// Text in which nothing is markup: every punctuation mark of ASCII may be escaped, and `<` and `&` stand as entities, so
/// that no flavour sees a tag. Marks that mean nothing within a line stay as they are, so that it reads well as it is.
fn text(text: &str) -> String {
    let plain = plain::readable(text);
    let mut safe = String::with_capacity(plain.len() + 16);
    let mut before = ' ';
    for c in plain.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            // Before the name of a person or a team it would call them.
            '@' if !before.is_alphanumeric() => safe.push_str("@<!-- -->"),
            // It begins a list.
            '-' if before != ' ' => safe.push(c),
            '@' | '.' | ',' | ':' | ';' | '/' | '\'' | '"' | '?' | '=' | '%' => safe.push(c),
            c if c.is_ascii_punctuation() => {
                safe.push('\\');
                safe.push(c);
            }
            c => safe.push(c),
        }
        before = c;
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;

    #[test]
    fn tables_of_findings() {
        insta::assert_snapshot!("markdown-audit", audit().drawn(summary));
        insta::assert_snapshot!("markdown-routes", routes().drawn(summary));
    }

    #[test]
    fn nothing_from_outside_is_markup() {
        assert_eq!(text("celery@w1, @team"), "celery@w1, @<!-- -->team");
        assert_eq!(text("a | b"), "a \\| b");
        assert_eq!(text("<img src=x>"), "&lt;img src=x&gt;");
        assert_eq!(text("[x](javascript:y)"), "\\[x\\]\\(javascript:y\\)");
        assert_eq!(text("shop.send_mail"), "shop.send\\_mail");
        assert_eq!(
            text("celery\u{6}\u{16}3\n# x"),
            "celery \\(priority 3\\)\\\\n\\# x"
        );
    }

    proptest! {
        #[test]
        fn anything_stays_in_its_cell(sample in any_sample()) {
            let report = sample.drawn(summary);
            prop_assert!(!report.contains(acts_on_a_terminal));
            let rows = report.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| severity"));
            let rows: Vec<&str> = rows.collect();
            let findings: usize = sample.sections.iter().map(|one| one.applied.findings.len()).sum();
            prop_assert_eq!(rows.len(), findings);
            for row in rows {
                // A mark counts where an even number of backslashes stands before it.
                let mut cells = 0;
                let mut escaped = false;
                for c in row.chars() {
                    cells += usize::from(c == '|' && !escaped);
                    escaped = c == '\\' && !escaped;
                }
                prop_assert_eq!(cells, 6, "{}", row);
                prop_assert!(!row.replace("@<!-- -->", "").contains('<'), "{}", row);
            }
        }
    }
}
