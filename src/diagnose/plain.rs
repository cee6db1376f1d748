//! Words for people: durations, lists of names.

use std::fmt::Write as _;
use std::time::Duration;

pub(crate) use crate::evidence::count;

/// Seconds in the units of [`duration`].
const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
/// Of so many days the years are told.
const YEAR: u64 = 365;

/// A length of time as people say it, two units at most: `2h 5m`, `40s`, `1d`, `9 years`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "for ever".to_owned();
    }
    let whole = seconds.abs().round();
    if whole < 1.0 {
        return format!("{:.1}s", seconds.abs());
    }
    // Beyond 30,000 years the exact number tells nobody anything.
    let whole = Duration::try_from_secs_f64(whole.min(1e12)).unwrap_or_default();
    let mut left = whole.as_secs();
    if left >= 2 * YEAR * UNITS[0].0 {
        return format!("{} years", left / (YEAR * UNITS[0].0));
    }
    let mut parts = Vec::new();
    for (seconds, unit) in UNITS {
        let number = left / seconds;
        left %= seconds;
        if number > 0 || !parts.is_empty() {
            parts.push((number, unit));
        }
    }
    // The second unit is the next smaller one: "1d 3s" would say more than it knows.
    let told = parts.into_iter().take(2).filter(|(number, _)| *number > 0);
    let told: Vec<String> = told
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    told.join(" ")
}

/// Names in a row: `a`, `a and b`, `a, b and 3 more`.
pub(crate) fn names<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.as_ref().to_owned(),
        [one, two] => format!("{} and {}", one.as_ref(), two.as_ref()),
        [one, two, rest @ ..] => {
            format!("{}, {} and {} more", one.as_ref(), two.as_ref(), rest.len())
        }
    }
}

/// So many messages and what they do: `1 message waits`, `3 messages wait`.
pub(crate) fn waiting(number: u64) -> String {
    let verb = if number == 1 { "waits" } else { "wait" };
    format!("{} {verb}", count(number, "message"))
}

/// Where keys stand: `under the key prefix P`, or `without a key prefix`.
pub(crate) fn under(prefix: &str) -> String {
    if prefix.is_empty() {
        "without a key prefix".to_owned()
    } else {
        format!("under the key prefix {prefix}")
    }
}

/// A name as a word of a shell command: quoted where the shell would take it apart or cannot show it.
pub(crate) fn key(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/@%+,".contains(c);
    if !key.is_empty() && key.chars().all(plain) {
        return key.to_owned();
    }
    if key.chars().all(shows) {
        return format!("'{}'", key.replace('\'', r"'\''"));
    }
    // The separator of priority lists is made of control characters: bash and zsh write them so. Quotes and backslashes
    // are written by their numbers too, so that a shell without this form still sees one word.
    let mut quoted = String::from("$'");
    for c in key.chars() {
        if shows(c) && c != '\'' && c != '\\' {
            quoted.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                _ = write!(quoted, "\\x{byte:02x}");
            }
        }
    }
    quoted.push('\'');
    quoted
}

/// Whether a character is seen as what it is, on every terminal. Hangul's fillers count as letters, and are not seen.
fn shows(c: char) -> bool {
    let filler = matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}');
    c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric() && !filler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        assert_eq!(duration(7_500.4), "2h 5m");
        assert_eq!(duration(-40.0), "40s");
        assert_eq!(duration(0.25), "0.2s");
        assert_eq!(duration(86_400.0), "1d");
        assert_eq!(duration(90_061.0), "1d 1h");
        assert_eq!(duration(86_403.0), "1d");
        assert_eq!(duration(400.0 * 86_400.0), "400d");
        assert_eq!(duration(313_000_000.0), "9 years");
        assert_eq!(duration(f64::INFINITY), "for ever");
        assert_eq!(duration(f64::NAN), "for ever");
        assert!(!duration(1e300).is_empty());
    }

    #[test]
    fn names_are_joined() {
        assert_eq!(names::<&str>(&[]), "nobody");
        assert_eq!(names(&["a"]), "a");
        assert_eq!(names(&["a", "b"]), "a and b");
        assert_eq!(names(&["a", "b", "c", "d"]), "a, b and 2 more");
    }

    #[test]
    fn keys_can_be_pasted_into_a_shell() {
        assert_eq!(key("unacked_index"), "unacked_index");
        assert_eq!(key("my queue's"), r"'my queue'\''s'");
        assert_eq!(key("celery\x06\x163"), r"$'celery\x06\x163'");
        assert_eq!(key(""), "''");
    }
}
