//! Metrics for the textfile collector of Prometheus's node exporter, in the text format 0.0.4. No sample has a timestamp:
//! the collector refuses them, and keeps the file's own time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::plain;
use super::summary::{Section, Summary};
use crate::diagnose::outcome::Status;
use crate::diagnose::{CheckStatus, Severity, registry};

/// One metric. Of two samples with the same labels the values are added, because Prometheus refuses a file with both.
struct Metric {
    name: &'static str,
    help: &'static str,
    samples: BTreeMap<String, f64>,
}

impl Metric {
    fn new(name: &'static str, help: &'static str) -> Self {
        let samples = BTreeMap::new();
        Self {
            name,
            help,
            samples,
        }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        *self.samples.entry(labelled(labels)).or_default() += value;
    }

    /// A metric without samples is left out: what is not known is absent, and never zero.
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.samples.is_empty() {
            return Ok(());
        }
        writeln!(out, "# HELP {} {}", self.name, self.help)?;
        writeln!(out, "# TYPE {} gauge", self.name)?;
        let mut samples = self.samples.iter();
        samples.try_for_each(|(labels, value)| writeln!(out, "{}{labels} {value}", self.name))
    }
}

/// Writes what a command found.
pub(crate) fn summary(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut duration = Metric::new(
        "celery_doctor_run_duration_seconds",
        "How long the run took.",
    );
    let command = summary.command;
    duration.add(&[("command", command)], summary.elapsed.as_secs_f64());
    let mut metrics = [
        success(summary),
        duration,
        findings(summary),
        of_sections(
            summary,
            "celery_doctor_suppressed_findings",
            "Findings that are ignored, or stand in the baseline.",
            |section| Some(float(section.applied.suppressed.len() as u64)),
        ),
        of_sections(
            summary,
            "celery_doctor_rules_not_judged",
            "Rules that found nothing and could not see everything.",
            |section| Some(float(section.not_judged().count() as u64)),
        ),
        backlogs(summary),
        of_sections(
            summary,
            "celery_doctor_unacked_messages",
            "Messages that are delivered and not acknowledged.",
            |section| section.unacked().map(float),
        ),
        of_sections(
            summary,
            "celery_doctor_oldest_reservation_seconds",
            "Age of the oldest delivery that is not acknowledged, 0 where there is none.",
            Section::oldest_reservation,
        ),
    ];
    metrics.iter_mut().try_for_each(|metric| metric.write(out))
}

fn success(summary: &Summary<'_>) -> Metric {
    of_sections(
        summary,
        "celery_doctor_run_success",
        "1 where everything was read that was to be read, 0 where something could not be.",
        |section| {
            let whole = section.read_whole();
            // Where no broker is read, it is the rules that tell.
            let whole = whole.unwrap_or_else(|| section.not_judged().next().is_none());
            // Blind in one place is blind in all: which one, the reason of the exit code says.
            let alone = summary.sections.len() == 1;
            let incomplete = alone && summary.outcome.status == Status::Incomplete;
            Some(if whole && !incomplete { 1.0 } else { 0.0 })
        },
    )
}

/// Findings by rule and severity. A rule that was judged has a sample for its own severity, 0 where it found nothing, so
/// that a finding which goes away is seen to go. One that could not be judged has none.
fn findings(summary: &Summary<'_>) -> Metric {
    let mut metric = Metric::new(
        "celery_doctor_findings",
        "Findings by rule and severity. A rule that could not be judged has no sample.",
    );
    for section in summary.sections {
        let judged = section.checks.iter();
        let judged = judged.filter(|check| check.status != CheckStatus::NotJudged);
        let zeros = judged.filter_map(|check| {
            let rule = registry::find(&check.code)?;
            Some((check.code.as_str(), check.name.as_str(), rule.severity, 0.0))
        });
        let found = section.applied.findings.iter();
        let found = found.map(|one| (one.code.as_str(), one.name.as_str(), one.severity, 1.0));
        for (code, name, severity, count) in zeros.chain(found) {
            let labels = [
                ("command", summary.command),
                ("code", code),
                ("name", name),
                ("severity", Severity::name(severity)),
            ];
            metric.add(&with_deployment(section, &labels), count);
        }
    }
    metric
}

fn backlogs(summary: &Summary<'_>) -> Metric {
    let mut metric = Metric::new(
        "celery_doctor_queue_messages",
        "Messages that wait in a task queue, all priorities together.",
    );
    let command = summary.command;
    for section in summary.sections {
        for (queue, messages) in section.backlogs() {
            let labels = with_deployment(section, &[("command", command), ("queue", queue)]);
            if let Some(messages) = messages {
                metric.add(&labels, float(messages));
            }
        }
    }
    metric
}

fn of_sections<'a>(
    summary: &Summary<'a>,
    name: &'static str,
    help: &'static str,
    value: impl Fn(&Section<'a>) -> Option<f64>,
) -> Metric {
    let mut metric = Metric::new(name, help);
    for section in summary.sections {
        if let Some(value) = value(section) {
            let labels = with_deployment(section, &[("command", summary.command)]);
            metric.add(&labels, value);
        }
    }
    metric
}

fn with_deployment<'l>(
    section: &'l Section<'_>,
    labels: &[(&'l str, &'l str)],
) -> Vec<(&'l str, &'l str)> {
    let deployment = section.name.map(|name| ("deployment", name));
    deployment
        .into_iter()
        .chain(labels.iter().copied())
        .collect()
}

/// Labels with their values escaped: what acts on a terminal by [`plain::escape`], then what the format demands.
fn labelled(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        text.push(if text.is_empty() { '{' } else { ',' });
        let value = plain::escape(value);
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        // Writing to a String cannot fail. No line break is left by the first step.
        let _ = write!(text, "{name}=\"{value}\"");
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

/// Prometheus has no other numbers.
#[allow(
    clippy::cast_precision_loss,
    reason = "a count beyond 2^53 is near enough"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{acts_on_a_terminal, any_sample, audit, routes};
    use super::*;
    use crate::evidence::{Observed, Reason, Why};

    #[test]
    fn gauges_of_two_deployments() {
        insta::assert_snapshot!("prometheus-audit", audit().drawn(summary));
        insta::assert_snapshot!("prometheus-routes", routes().drawn(summary));
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let mut sample = audit();
        let evidence = sample.sections[0].evidence.as_mut().expect("there is one");
        let refused = Why::new(Reason::Refused, "NOPERM");
        evidence.reservations = Observed::Unseen(refused.clone());
        for list in evidence.lists.seen_mut().expect("seen") {
            list.read = Observed::Unseen(refused.clone());
        }
        let text = sample.drawn(summary);
        for metric in ["queue_messages", "unacked_messages", "oldest_reservation"] {
            assert!(!text.contains(metric), "{text}");
        }
    }

    #[test]
    fn names_that_look_alike_are_one_sample() {
        let mut metric = Metric::new("m", "h");
        metric.add(&[("queue", "a\n")], 1.0);
        metric.add(&[("queue", "a\\n")], 2.0);
        let mut out = Vec::new();
        metric.write(&mut out).expect("a Vec takes all");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "# HELP m h\n# TYPE m gauge\nm{queue=\"a\\\\n\"} 3\n");
    }

    type Sample = (String, Vec<(String, String)>, f64);

    /// Name, labels and value of a line, read as the format's description has it.
    fn parsed(line: &str) -> Option<Sample> {
        let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, more) = rest.split_once("=\"")?;
                let mut value = String::new();
                let mut chars = more.char_indices();
                let end = loop {
                    match chars.next()? {
                        (at, '"') => break at,
                        (_, '\\') => match chars.next()?.1 {
                            'n' => value.push('\n'),
                            c @ ('\\' | '"') => value.push(c),
                            _ => return None,
                        },
                        (_, c) => value.push(c),
                    }
                };
                labels.push((label.to_owned(), value));
                rest = &more[end + 1..];
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        let value = rest.strip_prefix(' ')?.parse().ok()?;
        Some((name.to_owned(), labels, value))
    }

    proptest! {
        #[test]
        fn anything_is_in_the_text_format(sample in any_sample()) {
            let text = sample.drawn(summary);
            prop_assert!(!text.contains(acts_on_a_terminal));
            let mut declared = "";
            let mut seen = std::collections::BTreeSet::new();
            for line in text.split_terminator('\n') {
                if let Some(help) = line.strip_prefix("# HELP ") {
                    declared = help.split(' ').next().expect("a name");
                    prop_assert!(seen.insert(declared.to_owned()), "twice: {declared}");
                } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                    prop_assert_eq!(kind, format!("{declared} gauge"));
                } else {
                    let (name, labels, value) = parsed(line).expect(line);
                    prop_assert_eq!(&name, declared);
                    prop_assert!(value.is_finite());
                    prop_assert!(seen.insert(format!("{name}{labels:?}")), "twice: {line}");
                }
            }
        }
    }
}
