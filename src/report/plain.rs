//! Text from outside, made safe for a terminal. Names of tasks, queues and nodes come from the broker, and whoever can
//! write there could otherwise move the cursor, hide text, or turn it around.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::celery::exchange::DEFAULT_SEP;

/// The text with everything escaped that does not show as what it is: control characters as `\x1b`, others as
/// `\u{202e}`. Line breaks too: a name has one line.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if !hidden(c) => safe.push(c),
            // Writing to a String cannot fail.
            c if u32::from(c) < 0x100 => _ = write!(safe, "\\x{:02x}", u32::from(c)),
            c => _ = write!(safe, "\\u{{{:x}}}", u32::from(c)),
        }
    }
    Cow::Owned(safe)
}

/// More of a name helps nobody; a hostile one can have megabytes.
const MAX_CHARS: usize = 1000;

/// Text for people: as [`escape`], a priority list's key `celery\x06\x163` reads `celery (priority 3)`, and what is
/// endless is cut.
pub(crate) fn readable(text: &str) -> Cow<'_, str> {
    if let Some((end, _)) = text.char_indices().nth(MAX_CHARS) {
        let (start, rest) = text.split_at(end);
        return Cow::Owned(format!("{}… ({} bytes more)", readable(start), rest.len()));
    }
    if !text.contains(DEFAULT_SEP) {
        return escape(text);
    }
    let mut parts = text.split(DEFAULT_SEP);
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (priority, rest) = part.split_at(digits);
        if priority.is_empty() {
            named.push_str(DEFAULT_SEP);
        } else {
            named.push_str(" (priority ");
            named.push_str(priority);
            named.push(')');
        }
        named.push_str(rest);
    }
    Cow::Owned(escape(&named).into_owned())
}

/// JSON text in which such characters stand as `\u202e`. They can only be inside strings, where that means the same.
pub(super) fn escape_json(json: &str) -> Cow<'_, str> {
    // Line breaks between values are JSON's own; those in strings are escaped already.
    let unsafe_char = |c: char| c != '\n' && hidden(c);
    if !json.contains(unsafe_char) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if unsafe_char(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Whether a character acts on a terminal, or cannot be seen.
fn hidden(c: char) -> bool {
    // C0, DEL and C1.
    c.is_control()
        || matches!(
            c,
            '\u{ad}' // soft hyphen
            | '\u{34f}' // combining grapheme joiner
            | '\u{61c}' // Arabic letter mark
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
            | '\u{180b}'..='\u{180f}' // Mongolian selectors and vowel separator
            | '\u{200b}'..='\u{200f}' // zero width, and marks of direction
            | '\u{2028}'..='\u{202e}' // separators of lines, embeddings, overrides
            | '\u{2060}'..='\u{206f}' // word joiner, isolates, deprecated controls
            | '\u{fe00}'..='\u{fe0f}' // variation selectors
            | '\u{feff}' // byte order mark
            | '\u{fff0}'..='\u{fffb}' // annotations
            | '\u{e0000}'..='\u{e0fff}' // tags, more variation selectors
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_text_is_borrowed() {
        for text in ["shop.send_mail", "größe 数量 почта", "celery@host-1", ""] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(readable(text), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn attacks_are_shown() {
        let attacks = [
            ("clear \u{1b}[2J", "clear \\x1b[2J"),
            ("title \u{1b}]0;x\u{7}", "title \\x1b]0;x\\x07"),
            ("C1 \u{9b}31m", "C1 \\x9b31m"),
            ("over\rwritten\u{8}", "over\\rwritten\\x08"),
            ("two\nlines\t", "two\\nlines\\t"),
            ("gp\u{202e}gnp.exe", "gp\\u{202e}gnp.exe"),
            ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
            ("ze\u{200b}ro\u{feff}", "ze\\u{200b}ro\\u{feff}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
            ("\u{7f}\u{85}\u{2028}", "\\x7f\\x85\\u{2028}"),
        ];
        for (attack, shown) in attacks {
            assert_eq!(escape(attack), shown);
        }
    }

    #[test]
    fn priority_lists_read_as_such() {
        assert_eq!(readable("celery\u{6}\u{16}3"), "celery (priority 3)");
        assert_eq!(
            readable("in celery\u{6}\u{16}10, place 1"),
            "in celery (priority 10), place 1"
        );
        assert_eq!(
            readable("key\u{6}\u{16}\u{6}\u{16}queue"),
            "key\\x06\\x16\\x06\\x16queue"
        );
        assert_eq!(readable("\u{6}\u{16}"), "\\x06\\x16");
    }

    #[test]
    fn what_is_endless_is_cut() {
        let cut = readable(&"é".repeat(3_000)).into_owned();
        assert!(cut.ends_with("é… (4000 bytes more)"), "{cut}");
        assert_eq!(cut.chars().filter(|c| *c == 'é').count(), MAX_CHARS);
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(hidden));
            prop_assert!(!readable(&text).contains(hidden));
        }

        #[test]
        fn escaped_json_means_the_same(text in any::<String>()) {
            let json = serde_json::to_string(&text).expect("a string");
            let safe = escape_json(&json);
            prop_assert!(!safe.contains(hidden));
            prop_assert_eq!(serde_json::from_str::<String>(&safe).expect("still JSON"), text);
        }
    }
}
