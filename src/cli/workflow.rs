//! Reports in the log of a GitHub workflow, whose runner takes some lines of it for commands.

use std::io::{self, Write};

/// Writes a report so that the runner of a workflow, where one runs this, finds no command in it.
pub(super) fn without_commands(
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if std::env::var_os("GITHUB_ACTIONS").is_none_or(|value| value.is_empty()) {
        return write(out);
    }
    let mut report = Vec::new();
    write(&mut report)?;
    out.write_all(&disarmed(&report))
}

/// The text without lines that begin with `::`, blanks before it or not, and without `##[`, which counts anywhere
/// (`TryParseV2` and `TryParse` in actions/runner, src/Runner.Common/ActionCommand.cs).
fn disarmed(text: &[u8]) -> Vec<u8> {
    let mut safe = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        let blanks = line.len() - line.trim_ascii_start().len();
        let (start, rest) = line.split_at(blanks);
        safe.extend_from_slice(start);
        let rest = match rest.strip_prefix(b"::") {
            Some(rest) => {
                safe.extend_from_slice(b": :");
                rest
            }
            None => rest,
        };
        let mut rest = rest;
        while let Some(at) = memchr::memmem::find(rest, b"##[") {
            let (before, after) = rest.split_at(at);
            safe.extend_from_slice(before);
            safe.extend_from_slice(b"## [");
            rest = &after[3..];
        }
        safe.extend_from_slice(rest);
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_text_again() {
        for (line, shown) in [
            ("::error::x", ": :error::x"),
            ("  ::set-env name=A::b\n", "  : :set-env name=A::b\n"),
            ("a ::b\n::c", "a ::b\n: :c"),
            ("x ##[add-mask]y", "x ## [add-mask]y"),
            ("celery@w1: 3", "celery@w1: 3"),
        ] {
            assert_eq!(
                String::from_utf8_lossy(&disarmed(line.as_bytes())),
                shown,
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_line_is_a_command(text in "[ \t:#\\[a\n\r]{0,60}") {
            let safe = String::from_utf8(disarmed(text.as_bytes())).expect("text");
            prop_assert!(!safe.contains("##["), "{safe:?}");
            prop_assert!(safe.split(['\n', '\r']).all(|line| !line.trim_start().starts_with("::")), "{safe:?}");
        }
    }
}
