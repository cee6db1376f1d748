//! The text of a file, and places in it.

use crate::evidence::routing::Location;

/// Longer lines are cut in reports, in characters.
const LONGEST_LINE: usize = 400;

/// A file's text.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its path, relative to the folder that is read, with `/` between its parts.
    pub path: String,
    pub text: String,
}

/// Reads the text of a Python file: UTF-8 with or without a mark, or the encoding that its first lines name.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => rest.to_vec(),
        None => bytes,
    };
    let named = encoding(&bytes);
    match named.as_deref() {
        None | Some("utf8" | "ascii" | "usascii") => String::from_utf8(bytes)
            .map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to() + 1)),
        Some("latin1" | "iso88591" | "l1") => Ok(bytes.into_iter().map(char::from).collect()),
        Some(other) => Err(format!("it is written in {other}, which is not read")),
    }
}

/// The encoding that one of the first two lines names (PEP 263), in small letters and without signs.
fn encoding(bytes: &[u8]) -> Option<String> {
    for line in bytes.split(|byte| *byte == b'\n').take(2) {
        let line = String::from_utf8_lossy(line.get(..200).unwrap_or(line)).into_owned();
        let Some(comment) = line.trim_start().strip_prefix('#') else {
            if line.trim().is_empty() {
                continue;
            }
            return None;
        };
        if let Some((_, rest)) = comment.split_once("coding") {
            let Some(name) = rest.strip_prefix([':', '=']) else {
                continue;
            };
            let name = name.trim_start();
            let end = name
                .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
                .unwrap_or(name.len());
            let plain: String = name[..end]
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect();
            return Some(plain);
        }
    }
    None
}

impl Source {
    /// The line of a byte, from 1.
    pub(crate) fn line(&self, offset: usize) -> u32 {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    /// The piece of text between two bytes, or as much of it as stands in its first line.
    pub(crate) fn location(&self, start: usize, end: usize) -> Location {
        let start = floor(&self.text, start);
        let end = floor(&self.text, end).max(start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |at| start + at);
        let line = self.text[line_start..line_end].trim_end_matches('\r');
        let column = self.text[line_start..start].chars().count() + 1;
        let length = self.text[start..end.min(line_end)]
            .trim_end()
            .chars()
            .count();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Location {
            file: self.path.clone(),
            line: self.line(start),
            column: number(column),
            end_column: number(column + length.max(1)),
            text: line.chars().take(LONGEST_LINE).collect(),
        }
    }
}

/// The last boundary of a character at or before a byte.
fn floor(text: &str, offset: usize) -> usize {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encodings_that_python_files_name() {
        assert_eq!(decode(b"\xef\xbb\xbfx = 1".to_vec()), Ok("x = 1".into()));
        let latin = b"# -*- coding: latin-1 -*-\nx = '\xe4'".to_vec();
        assert!(decode(latin).is_ok_and(|text| text.ends_with("'\u{e4}'")));
        assert!(decode(b"x = '\xe4'".to_vec()).is_err());
        assert!(decode(b"#!/usr/bin/python\n# coding=koi8-r\n".to_vec()).is_err());
    }

    #[test]
    fn a_location_is_within_its_line() {
        let source = Source {
            path: "a.py".into(),
            text: "x = 1\n\u{e4} = (\n'b')\n".into(),
        };
        let start = source.text.find('(').expect("there is one");
        let location = source.location(start, source.text.len());
        assert_eq!(
            (
                location.line,
                location.column,
                location.end_column,
                location.text.as_str()
            ),
            (2, 5, 6, "\u{e4} = (")
        );
        let beyond = source.location(999, 1000);
        assert_eq!((beyond.line, beyond.column), (4, 1));
    }
}
