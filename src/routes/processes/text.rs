//! Text that knows where in the file each of its characters comes from, through quotes, variables and folded lines.

use super::Location;

/// Longer lines are cut in a location.
const LINE: usize = 400;

/// Text, with the offset in the file of every byte of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    text: String,
    at: Vec<usize>,
}

impl Text {
    /// A piece of the file as it stands there.
    pub(super) fn piece(file: &str, from: usize, to: usize) -> Self {
        let text = file.get(from..to).unwrap_or_default();
        Self {
            text: text.to_owned(),
            at: (from..from + text.len()).collect(),
        }
    }

    /// Text that stands elsewhere, or nowhere, shown at one place.
    pub(super) fn shown_at(text: &str, at: usize) -> Self {
        Self {
            text: text.to_owned(),
            at: vec![at; text.len()],
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// The offset of a byte; of the end that of the last one.
    pub(super) fn offset(&self, byte: usize) -> usize {
        let known = self.at.get(byte).or_else(|| self.at.last());
        known.copied().unwrap_or_default()
    }

    pub(super) fn push(&mut self, character: char, at: usize) {
        self.text.push(character);
        self.at.resize(self.text.len(), at);
    }

    pub(super) fn append(&mut self, other: &Text) {
        self.text.push_str(&other.text);
        self.at.extend_from_slice(&other.at);
    }

    /// From a byte to a byte; empty where these are not the bounds of characters.
    pub(super) fn slice(&self, from: usize, to: usize) -> Self {
        match (self.text.get(from..to), self.at.get(from..to)) {
            (Some(text), Some(at)) => Self {
                text: text.to_owned(),
                at: at.to_vec(),
            },
            _ => Self::default(),
        }
    }

    pub(super) fn from(&self, from: usize) -> Self {
        self.slice(from, self.len())
    }

    pub(super) fn trimmed(&self) -> Self {
        let text = &self.text;
        let start = text.len() - text.trim_start().len();
        self.slice(start, start + text.trim().len())
    }

    /// The parts between separators, all of them.
    pub(super) fn split(&self, separator: char) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut start = 0;
        for (end, found) in self.text.match_indices(separator) {
            parts.push(self.slice(start, end));
            start = end + found.len();
        }
        parts.push(self.from(start));
        parts
    }

    /// What stands before and after the first of these characters.
    pub(super) fn split_once(&self, separator: char) -> Option<(Self, Self)> {
        let at = self.text.find(separator)?;
        Some((self.slice(0, at), self.from(at + separator.len_utf8())))
    }
}

/// The name and the text of the file that is read.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    /// Where its lines start.
    pub(super) starts: &'a [usize],
}

/// Where the lines of a text start.
pub(super) fn line_starts(text: &str) -> Vec<usize> {
    let ends = memchr::memchr_iter(b'\n', text.as_bytes());
    std::iter::once(0).chain(ends.map(|end| end + 1)).collect()
}

impl File<'_> {
    /// All of its text.
    pub(super) fn whole(self) -> Text {
        Text::piece(self.text, 0, self.text.len())
    }

    /// Its lines, each without its end.
    pub(super) fn lines(self) -> Vec<Text> {
        let mut lines = self.whole().split('\n');
        for line in &mut lines {
            if line.as_str().ends_with('\r') {
                *line = line.slice(0, line.len() - 1);
            }
        }
        lines
    }

    /// The place of two offsets. Where they stand in different lines, the first one's line counts.
    pub(super) fn location(self, from: usize, to: usize) -> Location {
        let mut from = from.min(self.text.len());
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        let line_number = self.starts.partition_point(|start| *start <= from).max(1);
        let start = self
            .starts
            .get(line_number - 1)
            .copied()
            .unwrap_or_default();
        let next = self.starts.get(line_number).copied();
        let end = next.map_or(self.text.len(), |next| next - 1);
        let line = self.text[start..end].trim_end_matches('\r');
        let mut to = to.clamp(from, start + line.len().max(from - start));
        while !self.text.is_char_boundary(to) {
            to += 1;
        }
        let count = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        let column = count(&self.text[start..from]).saturating_add(1);
        Location {
            file: self.name.to_owned(),
            line: u32::try_from(line_number).unwrap_or(u32::MAX),
            column,
            end_column: column.saturating_add(count(&self.text[from..to])),
            text: line.chars().take(LINE).collect(),
        }
    }

    /// The place of a text.
    pub(super) fn location_of(self, text: &Text) -> Location {
        let first = text.offset(0);
        let here = self.text.get(first..).unwrap_or_default();
        let end = first + here.find('\n').unwrap_or(here.len());
        // Of a text that is put together from several places, that of its start counts.
        let last = text
            .at
            .iter()
            .copied()
            .filter(|at| (first..end).contains(at));
        self.location(first, last.max().map_or(first, |last| last + 1))
    }
}
