//! Lengths of time, as flags, the environment and the settings file give them.

use std::time::Duration;

/// Longer ones are mistakes, and would overflow a clock.
const MAX_TIMEOUT: Duration = Duration::from_hours(1);
const MAX_DURATION: Duration = Duration::from_hours(10 * 365 * 24);

/// A duration with units, above zero.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    bounded(text, MAX_DURATION, "10 years")
}

/// A duration that somebody waits for.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    bounded(text, MAX_TIMEOUT, "1h")
}

fn bounded(text: &str, max: Duration, in_words: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if !duration.is_zero() && duration <= max => Ok(duration),
        _ => Err(format!(
            "a duration with units, such as 90s or 1h 30m, above zero and at most {in_words}"
        )),
    }
}
