//! One line for Nagios and its kin, by the Monitoring Plugins Development Guidelines: the status first, then what was
//! found, and after `|` the performance data. The exit code that goes with it is that of `--exit-code-style nagios`.

use std::io::{self, Write};

use super::plain;
use super::summary::Summary;
use crate::diagnose::Severity;
use crate::diagnose::outcome::Status;

/// Longer lines are cut by some of the programs that read them.
const MAX_CHARS: usize = 500;

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    let status = match summary.outcome.status {
        Status::Fine => "OK",
        Status::Failed(Severity::Info | Severity::Warning) => "WARNING",
        Status::Failed(Severity::Error) => "CRITICAL",
        Status::Incomplete => "UNKNOWN",
    };
    let what = format!("celery-doctor {}: {}", summary.command, said(summary));
    // What stands after `|` is read as numbers.
    let what = plain::readable(&what).replace('|', "/");
    let cut: String = match what.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &what[..end]),
        None => what,
    };
    writeln!(out, "{status} - {cut} | {}", numbers(summary))
}

/// Why, then the first finding in words. They are sorted, so that it is the worst.
fn said(summary: &Summary<'_>) -> String {
    let reason = &summary.outcome.reason;
    let mut findings: Vec<_> = summary.findings().collect();
    findings.sort_by(|(_, one), (_, other)| one.order(other));
    let failing = match summary.outcome.status {
        Status::Failed(_) => findings.first(),
        Status::Fine | Status::Incomplete => None,
    };
    let Some((deployment, finding)) = failing else {
        return reason.clone();
    };
    let at = deployment.map_or(String::new(), |name| format!(" in {name}"));
    let name = format!("{} {}", finding.code, finding.name);
    // Of one finding alone the reason is its name.
    let counted = if *reason == name {
        String::new()
    } else {
        format!("{reason}: ")
    };
    format!("{counted}{name}{at}: {}", finding.message)
}

/// `'label'=value[unit]`. No label comes from outside, and what is not known is left out.
fn numbers(summary: &Summary<'_>) -> String {
    let sections = summary.sections.iter();
    let read: Vec<_> = sections
        .filter(|section| section.evidence.is_some())
        .collect();
    let mut numbers = vec![
        format!("errors={}", summary.count(Severity::Error)),
        format!("warnings={}", summary.count(Severity::Warning)),
        format!("info={}", summary.count(Severity::Info)),
    ];
    if !read.is_empty() {
        let waiting: Option<u64> = read.iter().map(|section| section.waiting()).sum();
        let unacked: Option<u64> = read.iter().map(|section| section.unacked()).sum();
        numbers.extend(waiting.map(|messages| format!("messages={messages}")));
        numbers.extend(unacked.map(|messages| format!("unacked={messages}")));
    }
    numbers.push(format!("time={:.3}s", summary.elapsed.as_secs_f64()));
    numbers.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;
    use crate::diagnose::Outcome;

    #[test]
    fn one_line_with_the_status_first() {
        insta::assert_snapshot!("nagios-audit", audit().drawn(summary));
        insta::assert_snapshot!("nagios-routes", routes().drawn(summary));
    }

    #[test]
    fn the_status_is_that_of_the_outcome() {
        for (status, word) in [
            (Status::Fine, "OK - "),
            (Status::Failed(Severity::Info), "WARNING - "),
            (Status::Failed(Severity::Warning), "WARNING - "),
            (Status::Failed(Severity::Error), "CRITICAL - "),
            (Status::Incomplete, "UNKNOWN - "),
        ] {
            let line = routes().with(|of| {
                let outcome = Outcome::new(status, "because");
                let mut out = Vec::new();
                let of = Summary {
                    outcome: &outcome,
                    ..*of
                };
                summary(&of, &mut out).expect("a Vec takes all");
                String::from_utf8(out).expect("text")
            });
            assert!(line.starts_with(word), "{line}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_one_line_with_numbers(sample in any_sample()) {
            let text = sample.drawn(summary);
            let line = text.strip_suffix('\n').expect("a line");
            prop_assert!(!line.contains(acts_on_a_terminal) && !line.contains('\n'));
            let (said, numbers) = line.split_once('|').expect("numbers");
            prop_assert!(said.chars().count() < MAX_CHARS + 20);
            for number in numbers.trim().split(' ') {
                let (label, value) = number.split_once('=').expect("a label");
                prop_assert!(label.bytes().all(|byte| byte.is_ascii_lowercase()), "{label}");
                let value: f64 = value.trim_end_matches('s').parse().expect("a number");
                prop_assert!(value >= 0.0);
            }
        }
    }
}
