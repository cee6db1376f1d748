//! Words for people: durations, lists of names.

use std::time::Duration;

/// A length of time as people say it, two units at most: `2h 5m`, `40s`, `now`.
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
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
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

/// A number with its noun: `1 message`, `3 messages`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        assert_eq!(duration(7_500.4), "2h 5m");
        assert_eq!(duration(-40.0), "40s");
        assert_eq!(duration(0.25), "0.2s");
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
}
