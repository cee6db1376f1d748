//! What a diagnosis asks the process to exit with: decided here alone, from the diagnosis, so that no printer has a say.
//! The command line may only dress it in another style.

use super::{Diagnosis, Severity, Trace, Verdict};

/// The exit code, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The code with which the process is to end.
    pub code: u8,
    /// One sentence part that says why.
    pub reason: String,
}

/// What one trace asks for.
///
/// | verdict | no error finding in the trace | an error finding |
/// |---|---|---|
/// | finished, running, reserved, queued | 0 | 1 |
/// | stuck, doomed, dead-lettered, lost, unknown | 1 | 1 |
/// | undetermined | 3 | 3 |
pub fn code_of(trace: &Trace) -> u8 {
    let error = trace
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Error);
    match trace.verdict {
        Verdict::Finished | Verdict::Running | Verdict::Reserved | Verdict::Queued => {
            u8::from(error)
        }
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
/// Findings about the deployment do not change it: the question was about these tasks.
pub fn of(diagnosis: &Diagnosis) -> Outcome {
    let codes: Vec<u8> = diagnosis.traces.iter().map(code_of).collect();
    let code = [1, 3]
        .into_iter()
        .find(|code| codes.contains(code))
        .unwrap_or(0);
    let deciding: Vec<&Trace> = diagnosis
        .traces
        .iter()
        .filter(|trace| code_of(trace) == code)
        .collect();
    Outcome {
        code,
        reason: reason(code, &deciding, codes.len()),
    }
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

    #[test]
    fn an_unread_broker_is_three() {
        let outcome = of(&judge(&Lab::new().evidence, &["t1".to_owned()]));
        assert_eq!(outcome.code, 3);
    }
}
