//! Reading tables of the settings file, with errors that name file, line and key.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::FileError;

/// The text of a file, by which places become lines.
pub(super) struct Reader<'t> {
    pub text: &'t str,
    pub path: &'t Path,
}

impl Reader<'_> {
    /// The key, where it is one of these.
    pub(super) fn known<'k>(
        &self,
        key: &Spanned<DeString<'_>>,
        known: &[&'k str],
    ) -> Result<&'k str, FileError> {
        let name = key.get_ref().as_ref();
        let found = known.iter().find(|known| **known == name);
        found.copied().ok_or_else(|| FileError::UnknownKey {
            path: self.path.to_owned(),
            line: self.line(key.span()),
            key: shown_key(name),
            hint: hint(name, known),
        })
    }

    /// That a value is not what the key needs. `key` is shown: keys that somebody chose go through [`shown_key`].
    pub(super) fn wrong(
        &self,
        span: Range<usize>,
        key: impl Into<String>,
        expected: impl Into<String>,
    ) -> FileError {
        FileError::Value {
            path: self.path.to_owned(),
            line: self.line(span),
            key: key.into(),
            expected: expected.into(),
        }
    }

    /// The table that a value is.
    pub(super) fn table<'v, 'i>(
        &self,
        key: &str,
        value: &'v Spanned<DeValue<'i>>,
        example: &str,
    ) -> Result<&'v DeTable<'i>, FileError> {
        let table = value.get_ref().as_table();
        table.ok_or_else(|| self.wrong(value.span(), key, format!("a table, as in {example}")))
    }

    pub(super) fn line(&self, span: Range<usize>) -> usize {
        position(self.text, span.start).0
    }
}

/// The entries of a table in the order of the file.
pub(super) fn entries<'v, 'i>(
    table: &'v DeTable<'i>,
) -> Vec<(&'v Spanned<DeString<'i>>, &'v Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Line and column, both from 1, of a byte of the text.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let line = before.split(|byte| *byte == b'\n').count();
    (line, before.len() - line_start + 1)
}

/// A key as it may be shown: a URL written where a key belongs is one too.
pub(in crate::config) fn shown_key(key: &str) -> String {
    if is_plain(key) {
        key.to_owned()
    } else {
        "***".to_owned()
    }
}

/// Whether a key is short, and made of letters, digits, `-` and `_`.
pub(super) fn is_plain(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !key.is_empty() && key.len() <= 64 && key.chars().all(plain)
}

fn hint(key: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|known| {
            (
                strsim::jaro_winkler(known, &key.to_ascii_lowercase().replace('_', "-")),
                known,
            )
        })
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let mut hint = String::new();
    let _ = match near {
        Some((_, known)) => write!(hint, ". Did you mean {known}?"),
        None => write!(hint, ". Known keys: {}", known.join(", ")),
    };
    hint
}
