//! The outcome of a diagnosis in the exit codes that the user asked for.

use super::args::ExitCodeStyle;
use crate::diagnose::Severity;
use crate::diagnose::outcome::{Outcome, Status};

/// The outcome in the form that the user asked for.
///
/// | what came of it | plain | with `--exit-zero` | nagios | both |
/// |---|---|---|---|---|
/// | fine | 0 | 0 | 0 OK | 0 OK |
/// | failed, and the worst of it is an error | 1 | 0 | 2 CRITICAL | 0 OK |
/// | failed, and the worst of it is a warning or information | 1 | 0 | 1 WARNING | 0 OK |
/// | incomplete | 3 | 3 | 3 UNKNOWN | 3 UNKNOWN |
///
/// Only what `--fail-on` names can fail, so that a WARNING comes about with `--fail-on warning` or `info` alone, and a
/// trace, which fails on errors, never gives one. Wrong usage has no outcome: it is 2, and 3 UNKNOWN for nagios.
pub(super) fn styled(outcome: Outcome, style: ExitCodeStyle, exit_zero: bool) -> Outcome {
    let Outcome {
        mut status,
        mut reason,
        ..
    } = outcome;
    if exit_zero && matches!(status, Status::Failed(_)) {
        status = Status::Fine;
        reason.push_str(" (1 turned into 0 by --exit-zero)");
    }
    let code = match (style, status) {
        (ExitCodeStyle::Plain, status) => status.code(),
        (ExitCodeStyle::Nagios, Status::Fine) => 0,
        (ExitCodeStyle::Nagios, Status::Failed(Severity::Info | Severity::Warning)) => 1,
        (ExitCodeStyle::Nagios, Status::Failed(Severity::Error)) => 2,
        (ExitCodeStyle::Nagios, Status::Incomplete) => 3,
    };
    Outcome {
        status,
        code,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_row_by_row() {
        use ExitCodeStyle::{Nagios, Plain};
        use Severity::{Error, Info, Warning};
        use Status::{Failed, Fine, Incomplete};
        let rows = [
            // what came of it, style, --exit-zero, becomes
            (Fine, Plain, false, 0),
            (Failed(Info), Plain, false, 1),
            (Failed(Warning), Plain, false, 1),
            (Failed(Error), Plain, false, 1),
            (Incomplete, Plain, false, 3),
            (Fine, Plain, true, 0),
            (Failed(Info), Plain, true, 0),
            (Failed(Warning), Plain, true, 0),
            (Failed(Error), Plain, true, 0),
            (Incomplete, Plain, true, 3),
            (Fine, Nagios, false, 0),
            (Failed(Info), Nagios, false, 1),
            (Failed(Warning), Nagios, false, 1),
            (Failed(Error), Nagios, false, 2),
            (Incomplete, Nagios, false, 3),
            (Fine, Nagios, true, 0),
            (Failed(Info), Nagios, true, 0),
            (Failed(Warning), Nagios, true, 0),
            (Failed(Error), Nagios, true, 0),
            (Incomplete, Nagios, true, 3),
        ];
        for (status, style, exit_zero, expected) in rows {
            let styled = styled(Outcome::new(status, ""), style, exit_zero);
            assert_eq!(styled.code, expected, "{status:?} {style:?} {exit_zero}");
            // A failure that is no failure any more must not be told as one.
            let dressed = exit_zero && matches!(status, Failed(_));
            assert_eq!(styled.status, if dressed { Fine } else { status });
        }
    }
}
