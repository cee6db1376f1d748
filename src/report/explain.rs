//! The page of a finding, and the list of them all.

use std::io::{self, Write};

use super::text::{self, BOLD, Page};
use crate::diagnose::{Rule, registry};

/// Writes the page of a finding.
pub(crate) fn page(rule: &Rule, width: usize, color: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut page = Page::new(width, color, out);
    let title = format!(" {}", rule.name);
    page.head(BOLD, rule.code, &title)?;
    let severity = rule.severity.name();
    page.head(text::of_severity(rule.severity), severity, "")?;
    for (title, text) in [
        ("What it means", rule.page.meaning),
        ("How it comes about", rule.page.cause),
        ("What was read to conclude it", rule.page.read),
        ("How to confirm it by hand", rule.page.confirm),
        ("How to mend it now", rule.page.mend),
        ("How to prevent it", rule.page.prevent),
    ] {
        page.gap()?;
        page.head(BOLD, title, "")?;
        page.paragraph(2, text)?;
    }
    page.gap()?;
    page.head(BOLD, "References", "")?;
    for reference in rule.page.references {
        page.unwrapped(2, reference)?;
    }
    Ok(())
}

/// Writes one line for each finding.
pub(crate) fn list(width: usize, color: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut page = Page::new(width, color, out);
    let row = |rule: &&Rule| {
        // A sentence ends with a full stop and a blank; a stop within a name has none after it.
        let meaning = rule.page.meaning;
        let sentence = meaning.split_once(". ").map_or(meaning, |(first, _)| first);
        vec![
            rule.code.to_owned(),
            rule.name.to_owned(),
            rule.severity.name().to_owned(),
            sentence.trim_end_matches('.').to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = registry::ALL.iter().map(row).collect();
    page.columns(0, Some(BOLD), &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        draw(&mut out).expect("a Vec takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_page_has_every_part() {
        let rule = registry::find("no-consumer").expect("there is one");
        insta::assert_snapshot!(drawn(|out| page(rule, 80, false, out)));
    }

    #[test]
    fn every_rule_has_a_page_and_a_line() {
        let all = drawn(|out| list(100, false, out));
        for rule in registry::ALL {
            assert!(
                all.contains(rule.code) && all.contains(rule.name),
                "{}",
                rule.code
            );
            let page = drawn(|out| page(rule, 80, false, out));
            let words = rule.page.meaning.split_whitespace();
            for word in words {
                assert!(page.contains(word), "{}: {word}", rule.code);
            }
        }
    }
}
