//! The outcome of a diagnosis in the exit codes that the user asked for.

use super::args::ExitCodeStyle;
use crate::diagnose::Outcome;

/// The outcome in the form that the user asked for.
///
/// | plain | with `--exit-zero` | nagios |
/// |---|---|---|
/// | 0 | 0 | 0 OK |
/// | 1 | 0 | 2 CRITICAL |
/// | 2 wrong usage | 2 | 3 UNKNOWN |
/// | 3 incomplete | 3 | 3 UNKNOWN |
///
/// `--exit-zero` comes first, so that together with nagios's style 1 becomes 0 OK. Nagios's 1, WARNING, is for
/// commands that fail on warnings; a trace never does.
pub(super) fn styled(outcome: Outcome, style: ExitCodeStyle, exit_zero: bool) -> Outcome {
    let Outcome {
        mut code,
        mut reason,
    } = outcome;
    if code == 1 && exit_zero {
        code = 0;
        reason.push_str(" (1 turned into 0 by --exit-zero)");
    }
    if style == ExitCodeStyle::Nagios {
        code = match code {
            0 => 0,
            1 => 2,
            _ => 3,
        };
    }
    Outcome { code, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_row_by_row() {
        use ExitCodeStyle::{Nagios, Plain};
        let rows = [
            // plain, style, --exit-zero, becomes
            (0, Plain, false, 0),
            (1, Plain, false, 1),
            (2, Plain, false, 2),
            (3, Plain, false, 3),
            (0, Plain, true, 0),
            (1, Plain, true, 0),
            (2, Plain, true, 2),
            (3, Plain, true, 3),
            (0, Nagios, false, 0),
            (1, Nagios, false, 2),
            (2, Nagios, false, 3),
            (3, Nagios, false, 3),
            (0, Nagios, true, 0),
            (1, Nagios, true, 0),
            (2, Nagios, true, 3),
            (3, Nagios, true, 3),
        ];
        for (code, style, exit_zero, expected) in rows {
            let reason = String::new();
            let styled = styled(Outcome { code, reason }, style, exit_zero);
            assert_eq!(styled.code, expected, "{code} {style:?} {exit_zero}");
        }
    }
}
