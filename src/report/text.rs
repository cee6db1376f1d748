//! Lines, columns and colours on a terminal of a given width.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::diagnose::Severity;

/// Narrower ones get lines that the terminal wraps.
const MIN_WIDTH: usize = 60;
/// Longer lines are hard to read.
const MAX_WIDTH: usize = 120;

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = AnsiColor::Green.on_default().bold();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const RED: Style = AnsiColor::Red.on_default().bold();
pub(super) const BLUE: Style = AnsiColor::Blue.on_default().bold();

/// The colour of a severity.
pub(super) fn of_severity(severity: Severity) -> Style {
    match severity {
        Severity::Error => RED,
        Severity::Warning => YELLOW,
        Severity::Info => BLUE,
    }
}

/// Where a report is drawn. All text given to it must be safe for a terminal already: see [`super::plain`].
pub(super) struct Page<'o> {
    out: &'o mut dyn Write,
    width: usize,
    color: bool,
}

impl<'o> Page<'o> {
    pub(super) fn new(width: usize, color: bool, out: &'o mut dyn Write) -> Self {
        let width = width.clamp(MIN_WIDTH, MAX_WIDTH);
        Self { out, width, color }
    }

    /// How many columns a line has.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// An empty line.
    pub(super) fn gap(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n")
    }

    /// A line that is not wrapped, so that a command can be copied from it.
    pub(super) fn unwrapped(&mut self, indent: usize, text: &str) -> io::Result<()> {
        writeln!(self.out, "{:indent$}{text}", "")
    }

    /// A line with a start in colour, that is not wrapped.
    pub(super) fn head(&mut self, style: Style, start: &str, rest: &str) -> io::Result<()> {
        self.painted(style, start)?;
        writeln!(self.out, "{rest}")
    }

    /// A wrapped paragraph.
    pub(super) fn paragraph(&mut self, indent: usize, text: &str) -> io::Result<()> {
        self.columns(indent, None, &[vec![text.to_owned()]])
    }

    /// Rows of aligned columns. The last takes what is left of the width and is wrapped; the first can have a colour.
    pub(super) fn columns(
        &mut self,
        indent: usize,
        first: Option<Style>,
        rows: &[Vec<String>],
    ) -> io::Result<()> {
        let last = rows
            .iter()
            .map(Vec::len)
            .max()
            .unwrap_or(0)
            .saturating_sub(1);
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(self.width.saturating_sub(indent)).unwrap_or(u16::MAX))
            .add_rows(rows);
        for (n, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if n == last { 0 } else { 2 }));
            if n < last {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let mut starts = rows.iter().filter_map(|row| row.first()).peekable();
        for line in table.lines() {
            let line = line.trim_end();
            write!(self.out, "{:indent$}", "")?;
            let start = starts.next_if(|start| !start.is_empty() && line.starts_with(*start));
            match (start, first) {
                (Some(start), Some(style)) => self.head(style, start, &line[start.len()..])?,
                _ => writeln!(self.out, "{line}")?,
            }
        }
        Ok(())
    }

    fn painted(&mut self, style: Style, text: &str) -> io::Result<()> {
        if self.color {
            write!(self.out, "{style}{text}{style:#}")
        } else {
            self.out.write_all(text.as_bytes())
        }
    }
}

/// The text in so many columns at most, with `…` where something is left out.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut short: String = text
        .chars()
        .take_while(|c| {
            let width = c.width().unwrap_or(0);
            let fits = width <= left;
            left = left.saturating_sub(width);
            fits
        })
        .collect();
    short.push('…');
    short
}

/// The text with blanks after it, up to so many columns.
pub(super) fn pad(text: &str, columns: usize) -> String {
    let blanks = columns.saturating_sub(text.width());
    format!("{text}{:blanks$}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: impl FnOnce(&mut Page<'_>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        draw(&mut Page::new(60, true, &mut out)).expect("a Vec takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_last_column_is_wrapped() {
        let rows = [vec![
            "queue".to_owned(),
            "word ".repeat(16).trim().to_owned(),
        ]];
        let text = drawn(|page| page.columns(2, None, &rows));
        assert!(text.lines().count() > 1);
        assert!(text.lines().all(|line| line.width() <= 60), "{text}");
        assert!(text.starts_with("  queue  word"));
    }

    #[test]
    fn colours_do_not_move_anything() {
        let rows = [
            vec!["ab".to_owned(), "x".to_owned()],
            vec!["c".to_owned(), "y".to_owned()],
        ];
        let text = drawn(|page| page.columns(0, Some(BOLD), &rows));
        assert_eq!(text, "\u{1b}[1mab\u{1b}[0m  x\n\u{1b}[1mc\u{1b}[0m   y\n");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("数量数量", 5), "数量…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("abcd", 0), "…");
        assert_eq!(pad("数", 4), "数  ");
    }
}
