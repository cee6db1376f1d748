//! Points in time as Celery writes them.

use std::fmt;

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, or one beyond what can be represented (`datetime.max` as an ETA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// An instant.
    At(Timestamp),
    /// Later than 9999-12-30: "never", for all that matters.
    FarFuture,
}

const FAR_FUTURE: &str = "far-future";

impl When {
    /// Reads an ISO 8601 text. One without an offset is UTC, which is what Celery means under `enable_utc`.
    pub fn parse(text: &str) -> Option<When> {
        let text = text.trim();
        if let Ok(at) = text.parse::<Timestamp>() {
            return Some(When::At(at));
        }
        // A civil time drops an offset silently, so what has one gets here only by being out of range.
        let civil = text
            .trim_end_matches(['Z', 'z'])
            .parse::<civil::DateTime>()
            .ok()?;
        let last_days = civil.year() == 9999 && civil.month() == 12 && civil.day() >= 30;
        if last_days {
            return Some(in_utc(civil).unwrap_or(When::FarFuture));
        }
        if has_offset(text) {
            None
        } else {
            in_utc(civil)
        }
    }

    /// Reads Unix time in seconds.
    pub fn from_epoch(seconds: f64) -> Option<When> {
        if seconds.is_nan() {
            return None;
        }
        let instant = SignedDuration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|since| Timestamp::from_duration(since).ok());
        match instant {
            Some(at) => Some(When::At(at)),
            None if seconds > 0.0 => Some(When::FarFuture),
            None => None,
        }
    }

    /// Seconds from `now` until then; negative for what is past, infinite for the far future.
    pub fn seconds_until(self, now: Timestamp) -> f64 {
        match self {
            When::At(at) => at.duration_since(now).as_secs_f64(),
            When::FarFuture => f64::INFINITY,
        }
    }
}

fn in_utc(civil: civil::DateTime) -> Option<When> {
    TimeZone::UTC.to_timestamp(civil).ok().map(When::At)
}

fn has_offset(text: &str) -> bool {
    let time = text.get(10..).unwrap_or_default();
    time.contains(['+', '-', 'Z', 'z', '['])
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::At(at) => at.fmt(f),
            When::FarFuture => f.write_str(FAR_FUTURE),
        }
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == FAR_FUTURE {
            return Ok(When::FarFuture);
        }
        When::parse(&text).ok_or_else(|| de::Error::custom("not a point in time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> When {
        When::At(text.parse().expect("a timestamp in the test"))
    }

    #[test]
    fn every_form_that_celery_and_databases_write() {
        let noon = at("2026-11-22T07:33:42.123456Z");
        for text in [
            "2026-11-22T07:33:42.123456+00:00",
            "2026-11-22T07:33:42.123456Z",
            "2026-11-22T07:33:42.123456",
            "2026-11-22 07:33:42.123456",
            "2026-11-22 07:33:42.123456+00",
            "2026-11-22T07:33:42.123456+0000",
            "2026-11-22T13:03:42.123456+05:30",
        ] {
            assert_eq!(When::parse(text), Some(noon), "{text}");
        }
    }

    #[test]
    fn beyond_the_range_is_the_far_future() {
        for text in [
            "9999-12-31T23:59:59.999999+00:00",
            "9999-12-31T23:59:59.999999",
            "9999-12-31 23:59:59Z",
        ] {
            assert_eq!(When::parse(text), Some(When::FarFuture), "{text}");
        }
        assert_eq!(When::from_epoch(1e30), Some(When::FarFuture));
        assert_eq!(When::from_epoch(f64::INFINITY), Some(When::FarFuture));
        assert!(When::FarFuture > at("2026-11-22T07:33:42Z"));
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "x",
            "2026-02-30T00:00:00",
            "2026-11-22T24:00:00Z",
            "2026-11-22T07:33:42+00:00Z",
            "é",
        ] {
            assert_eq!(When::parse(text), None, "{text}");
        }
        assert_eq!(When::from_epoch(f64::NAN), None);
        assert_eq!(When::from_epoch(f64::NEG_INFINITY), None);
    }

    #[test]
    fn seconds_until() {
        let now = "2026-11-22T07:33:42Z"
            .parse()
            .expect("a timestamp in the test");
        assert!((at("2026-11-22T07:33:43.5Z").seconds_until(now) - 1.5).abs() < 1e-9);
        assert!(When::FarFuture.seconds_until(now).is_infinite());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            let _ = When::parse(&text);
        }

        #[test]
        fn epoch_and_text_agree(seconds in -60_000_000_000i64..250_000_000_000) {
            #[allow(clippy::cast_precision_loss, reason = "whole seconds of this size are exact")]
            let when = When::from_epoch(seconds as f64).expect("in range");
            prop_assert_eq!(When::parse(&when.to_string()), Some(when));
            let json = serde_json::to_string(&when).expect("a string");
            prop_assert_eq!(serde_json::from_str::<When>(&json).expect("its own text"), when);
        }
    }
}
