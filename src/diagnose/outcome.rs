//! What a diagnosis asks the process to exit with: decided here alone, from the diagnosis, so that no printer has a say.
//! The command line may only dress it in another style.

use super::{Diagnosis, Finding, Severity, Trace, Verdict, registry};

/// The exit code, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What came of it, whatever the style of the code.
    pub status: Status,
    /// The code with which the process is to end.
    pub code: u8,
    /// One sentence part that says why.
    pub reason: String,
}

/// What came of a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Everything is accounted for, or nothing counts as a failure.
    Fine,
    /// Something counts as a failure; the worst of it has this severity.
    Failed(Severity),
    /// Nothing that was read counts as a failure, and not everything could be read.
    Incomplete,
}

impl Status {
    /// The exit code as documented.
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed(_) => 1,
            Self::Incomplete => 3,
        }
    }
}

impl Outcome {
    /// An outcome with the exit code as documented.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self {
            status,
            code: status.code(),
            reason: reason.into(),
        }
    }
}

/// Whether a finding, of the family 8xx, tells what could not be read: it is about the reading and not about the tasks, so
/// that it makes no failure.
pub fn is_about_the_reading(finding: &Finding) -> bool {
    registry::ABOUT_THE_READING
        .iter()
        .any(|rule| rule.code == finding.code)
}

/// What the findings of an audit or of a check of routes ask for.
///
/// | a finding at or above `fail_on` | one of these is about tasks or routes | something is missing | code |
/// |---|---|---|---|
/// | yes | yes | yes or no | 1 |
/// | yes | no: all are of the family 8xx | yes or no | 3 |
/// | no | | yes | 3 |
/// | no | | no | 0 |
///
/// `missing` says what could not be read, as sentence parts; an unreachable broker is among it whatever was selected or
/// ignored, so that it is never 0.
pub fn of_findings<'f>(
    findings: impl IntoIterator<Item = &'f Finding>,
    fail_on: Severity,
    missing: &[String],
) -> Outcome {
    let (unread, failing): (Vec<&Finding>, Vec<&Finding>) = findings
        .into_iter()
        .filter(|finding| finding.severity >= fail_on)
        .partition(|finding| is_about_the_reading(finding));
    if let Some(worst) = failing.iter().map(|finding| finding.severity).max() {
        let reason = match failing.as_slice() {
            [one] => format!("{} {}", one.code, one.name),
            some => severities(some),
        };
        return Outcome::new(Status::Failed(worst), reason);
    }
    let reason = match (unread.first(), missing) {
        (None, []) => {
            let reason = format!("no finding of severity {}", at_or_above(fail_on));
            return Outcome::new(Status::Fine, reason);
        }
        (Some(one), []) => format!("{} {}", one.code, one.name),
        (_, [one]) => format!("not everything could be read: {one}"),
        (_, [one, rest @ ..]) => format!(
            "not everything could be read: {one}, and {} more",
            rest.len()
        ),
    };
    Outcome::new(Status::Incomplete, reason)
}

fn at_or_above(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info or above",
        Severity::Warning => "warning or above",
        Severity::Error => "error",
    }
}

/// How many findings there are of each severity: `2 errors, 1 warning`.
pub fn severities(findings: &[&Finding]) -> String {
    let counts = [Severity::Error, Severity::Warning, Severity::Info].map(|severity| {
        let count = findings.iter().filter(|f| f.severity == severity).count();
        match (severity, count) {
            (_, 0) => None,
            // "Info" has no plural.
            (Severity::Info, _) | (_, 1) => Some(format!("{count} {}", severity.name())),
            _ => Some(format!("{count} {}s", severity.name())),
        }
    });
    counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What one trace asks for.
///
/// | verdict | no error finding in the trace | an error finding |
/// |---|---|---|
/// | finished, running, reserved, queued, not-yet-sent | 0 | 1 |
/// | stuck, doomed, dead-lettered, lost, unknown | 1 | 1 |
/// | undetermined | 3 | 3 |
pub fn code_of(trace: &Trace) -> u8 {
    let error = trace
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Error);
    match trace.verdict {
        Verdict::Finished
        | Verdict::Running
        | Verdict::Reserved
        | Verdict::Queued
        | Verdict::NotYetSent => u8::from(error),
        Verdict::Stuck
        | Verdict::Doomed
        | Verdict::DeadLettered
        | Verdict::Lost
        | Verdict::Unknown => 1,
        Verdict::Undetermined => 3,
    }
}

/// What a diagnosis asks for, over all its traces.
///
/// | traces | code |
/// |---|---|
/// | at least one asks for 1 | 1 |
/// | none for 1, at least one for 3 | 3 |
/// | all for 0, or there are none | 0 |
///
/// Findings about the deployment do not change it: the question was about these tasks. Where the broker could not be read,
/// it is 3 whatever a result says: a copy may wait there and run again.
pub fn of(diagnosis: &Diagnosis) -> Outcome {
    if diagnosis.broker_unread && !diagnosis.traces.is_empty() {
        let reason = match diagnosis.findings.iter().find(|f| is_about_the_reading(f)) {
            Some(one) => format!("the broker could not be read: {} {}", one.code, one.name),
            None => "the broker could not be read".to_owned(),
        };
        return Outcome::new(Status::Incomplete, reason);
    }
    let codes: Vec<u8> = diagnosis.traces.iter().map(code_of).collect();
    // A task that is not accounted for is an error, whatever the severity of what was found.
    let status = [Status::Failed(Severity::Error), Status::Incomplete]
        .into_iter()
        .find(|status| codes.contains(&status.code()))
        .unwrap_or(Status::Fine);
    let code = status.code();
    let deciding: Vec<&Trace> = diagnosis
        .traces
        .iter()
        .filter(|trace| code_of(trace) == code)
        .collect();
    Outcome::new(status, reason(code, &deciding, codes.len()))
}

fn reason(code: u8, deciding: &[&Trace], all: usize) -> String {
    match (code, deciding) {
        (0, []) => "no task was asked for".to_owned(),
        (0, [one]) => format!("the task is {}", one.verdict.name()),
        (0, _) => format!("all {all} tasks are accounted for"),
        (_, [one]) if all == 1 => alone(one),
        (1, some) => format!(
            "{} of {all} tasks not accounted for, or with an error: {}",
            some.len(),
            verdicts(some)
        ),
        (_, some) => format!(
            "for {} of {all} tasks what would decide could not be read",
            some.len()
        ),
    }
}

fn alone(trace: &Trace) -> String {
    let error = trace
        .findings
        .iter()
        .find(|finding| finding.severity == Severity::Error);
    let verdict = trace.verdict.name();
    match (trace.verdict, error) {
        (Verdict::Undetermined, _) => "what would decide could not be read".to_owned(),
        (_, Some(error)) => format!("the task is {verdict}: {} {}", error.code, error.name),
        (_, None) => format!("the task is {verdict}"),
    }
}

/// How many traces have each verdict: `2 stuck, 1 unknown`, in the order of the verdicts' table.
pub fn verdicts(traces: &[&Trace]) -> String {
    let counts = Verdict::ALL.iter().filter_map(|verdict| {
        let count = traces.iter().filter(|t| t.verdict == *verdict).count();
        (count > 0).then(|| format!("{count} {}", verdict.name()))
    });
    counts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Lab;
    use crate::diagnose::{Finding, judge, registry};

    const ACCOUNTED_FOR: &[Verdict] = &[
        Verdict::Finished,
        Verdict::Running,
        Verdict::Reserved,
        Verdict::Queued,
        Verdict::NotYetSent,
    ];

    fn trace(verdict: Verdict, worst: Option<Severity>) -> Trace {
        let findings = worst.map(|severity| Finding {
            severity,
            ..Finding::of(registry::ALL[0], "it is so")
        });
        Trace {
            id: "t".to_owned(),
            task: None,
            verdict,
            summary: String::new(),
            stages: Vec::new(),
            findings: findings.into_iter().collect(),
            causes: Vec::new(),
        }
    }

    fn asked(traces: &[(Verdict, Option<Severity>)]) -> Outcome {
        of(&Diagnosis {
            traces: traces.iter().map(|(v, s)| trace(*v, *s)).collect(),
            findings: vec![Finding::of(registry::ALL[0], "the deployment is broken")],
            checks: Vec::new(),
            broker_unread: false,
        })
    }

    #[test]
    fn each_verdict_alone() {
        for verdict in Verdict::ALL {
            let (without, with) = match verdict {
                v if ACCOUNTED_FOR.contains(&v) => (0, 1),
                Verdict::Undetermined => (3, 3),
                _ => (1, 1),
            };
            assert_eq!(asked(&[(verdict, None)]).code, without, "{verdict:?}");
            for harmless in [Severity::Info, Severity::Warning] {
                assert_eq!(
                    asked(&[(verdict, Some(harmless))]).code,
                    without,
                    "{verdict:?}"
                );
            }
            assert_eq!(
                asked(&[(verdict, Some(Severity::Error))]).code,
                with,
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn an_unread_broker_is_three_whatever_a_result_says() {
        for verdict in Verdict::ALL {
            for worst in [None, Some(Severity::Info), Some(Severity::Error)] {
                let outcome = of(&Diagnosis {
                    traces: vec![trace(verdict, worst)],
                    findings: Vec::new(),
                    checks: Vec::new(),
                    broker_unread: true,
                });
                assert_eq!(outcome.code, 3, "{verdict:?} {worst:?}");
            }
        }
    }

    #[test]
    fn one_beats_three_beats_zero() {
        let (fine, lost, unread) = (
            (Verdict::Queued, None),
            (Verdict::Lost, None),
            (Verdict::Undetermined, None),
        );
        assert_eq!(asked(&[]).code, 0);
        assert_eq!(asked(&[fine, fine]).code, 0);
        assert_eq!(asked(&[fine, unread]).code, 3);
        assert_eq!(asked(&[unread, lost, fine]).code, 1);
    }

    #[test]
    fn the_reason_says_which() {
        let lost = (Verdict::Lost, None);
        assert_eq!(asked(&[lost]).reason, "the task is lost");
        assert_eq!(
            asked(&[
                lost,
                lost,
                (Verdict::Unknown, None),
                (Verdict::Queued, None)
            ])
            .reason,
            "3 of 4 tasks not accounted for, or with an error: 2 lost, 1 unknown"
        );
        assert_eq!(
            asked(&[(Verdict::Undetermined, None)]).reason,
            "what would decide could not be read"
        );
    }

    fn of_severity(code: &str, severity: Severity) -> Finding {
        Finding {
            code: code.to_owned(),
            severity,
            ..Finding::of(registry::ALL[0], "it is so")
        }
    }

    type Row<'a> = (Vec<Finding>, Severity, &'a [String], Status);

    #[test]
    fn findings_row_by_row() {
        use Severity::{Error, Info, Warning};
        let unread = ["unacked: refused".to_owned()];
        let tasks = |severity| of_severity("CD101", severity);
        let reading = |severity| of_severity("CD801", severity);
        let rows: [Row<'_>; 14] = [
            // findings, --fail-on, missing, becomes
            (vec![], Error, &[], Status::Fine),
            (vec![], Info, &[], Status::Fine),
            (vec![], Error, &unread, Status::Incomplete),
            (vec![tasks(Error)], Error, &[], Status::Failed(Error)),
            (vec![tasks(Error)], Error, &unread, Status::Failed(Error)),
            (vec![tasks(Warning)], Error, &[], Status::Fine),
            (vec![tasks(Warning)], Error, &unread, Status::Incomplete),
            (vec![tasks(Warning)], Warning, &[], Status::Failed(Warning)),
            (
                vec![tasks(Error), tasks(Info)],
                Info,
                &[],
                Status::Failed(Error),
            ),
            (vec![tasks(Info)], Info, &[], Status::Failed(Info)),
            (vec![reading(Error)], Error, &[], Status::Incomplete),
            (vec![reading(Error)], Error, &unread, Status::Incomplete),
            (vec![reading(Warning)], Error, &[], Status::Fine),
            (
                vec![reading(Error), tasks(Error)],
                Error,
                &unread,
                Status::Failed(Error),
            ),
        ];
        for (findings, fail_on, missing, expected) in rows {
            let outcome = of_findings(&findings, fail_on, missing);
            assert_eq!(outcome.status, expected, "{findings:?} {fail_on:?}");
            assert_eq!(outcome.code, expected.code());
        }
    }

    #[test]
    fn the_reason_counts_what_failed() {
        use Severity::{Error, Info, Warning};
        let all = [Error, Error, Warning, Info].map(|severity| of_severity("CD101", severity));
        let reason = |fail_on| of_findings(&all, fail_on, &[]).reason;
        assert_eq!(reason(Info), "2 errors, 1 warning, 1 info");
        assert_eq!(reason(Error), "2 errors");
        let one = of_findings(&all[3..], Info, &[]).reason;
        assert_eq!(one, "CD101 no-consumer");
        let none = of_findings(&all[3..], Warning, &[]).reason;
        assert_eq!(none, "no finding of severity warning or above");
        let missing = ["a: refused".to_owned(), "b: refused".to_owned()];
        let blind = of_findings(&[], Error, &missing).reason;
        assert_eq!(
            blind,
            "not everything could be read: a: refused, and 1 more"
        );
    }

    #[test]
    fn an_unread_broker_is_three() {
        let outcome = of(&judge(&Lab::new().evidence, &["t1".to_owned()]));
        assert_eq!(outcome.code, 3);
    }
}
