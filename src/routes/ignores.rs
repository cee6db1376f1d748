//! Comments that accept findings: `# celery-doctor: ignore[CD110] reason`.

use crate::evidence::routing::InlineIgnore;

const MARK: &str = "celery-doctor: ignore[";

/// The comments of a file.
pub(super) fn ignores(file: &str, text: &str) -> Vec<InlineIgnore> {
    let mut found = Vec::new();
    if memchr::memmem::find(text.as_bytes(), MARK.as_bytes()).is_none() {
        return found;
    }
    for (number, line) in text.lines().enumerate() {
        let Some((before, rest)) = line.split_once(MARK) else {
            continue;
        };
        // Not in the midst of a text: a comment begins before it, with nothing but blanks between.
        let Some(code) = before.trim_end().strip_suffix('#') else {
            continue;
        };
        let Some((codes, reason)) = rest.split_once(']') else {
            continue;
        };
        let alone = usize::from(code.trim().is_empty());
        found.push(InlineIgnore {
            file: file.to_owned(),
            line: u32::try_from(number + 1 + alone).unwrap_or(u32::MAX),
            codes: codes
                .split(',')
                .map(|code| code.trim().to_owned())
                .collect(),
            reason: reason.trim().to_owned(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_holds_for_its_line_or_the_next() {
        let text = "x = 1  # celery-doctor: ignore[CD110] another project consumes it\n\
                    # celery-doctor: ignore[CD109, dead-route]\ny = 2\n\
                    z = 'celery-doctor: ignore[CD1]'\n# celery-doctor: ignore[CD1\n";
        let found = ignores("a.py", text);
        let told: Vec<(u32, &[String], &str)> = found
            .iter()
            .map(|one| (one.line, one.codes.as_slice(), one.reason.as_str()))
            .collect();
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].0, told[0].2), (1, "another project consumes it"));
        assert_eq!((told[1].0, told[1].1.len(), told[1].2), (3, 2, ""));
    }
}
