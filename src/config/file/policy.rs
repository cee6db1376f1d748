//! `fail-on`, `[severity]`, `[[ignore]]` and `[thresholds]`: what the user wants to hear of.

use std::collections::BTreeMap;
use std::time::Duration;

use glob::Pattern;
use jiff::civil::Date;
use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::reader::{Reader, entries, shown_key};
use super::{FileError, parse_duration, text};
use crate::config::policy::{parse_pattern, parse_severity};
use crate::diagnose::Severity;
use crate::diagnose::policy::{Ignore, Selector};
use crate::diagnose::thresholds::{Limit, Thresholds};

const IGNORE_KEYS: [&str; 8] = [
    "code", "reason", "until", "queue", "task", "worker", "exchange", "file",
];
const IGNORE: &str = "[[ignore]] with code = \"CD101\" and reason = \"...\"";

/// A value as text, as a number, or as another limit: what was expected, where it is none.
type Read<T> = fn(&DeValue<'_>) -> Result<T, String>;

impl Reader<'_> {
    pub(super) fn severity(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Severity, FileError> {
        let level = text(value.get_ref()).and_then(|level| parse_severity(&level));
        level.map_err(|expected| self.wrong(value.span(), key, expected))
    }

    /// `[severity]`: levels by code, name or family.
    pub(super) fn severities(
        &self,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<(Selector, Severity)>, FileError> {
        let table = self.table("severity", value, "[severity] with CD304 = \"warning\"")?;
        let entries = entries(table).into_iter();
        entries
            .map(|(key, value)| {
                let shown = format!("severity.{}", shown_key(key.get_ref()));
                let rules = Selector::parse(key.get_ref())
                    .map_err(|expected| self.wrong(key.span(), &shown, expected))?;
                Ok((rules, self.severity(&shown, value)?))
            })
            .collect()
    }

    /// Every `[[ignore]]`.
    pub(super) fn ignores(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Ignore>, FileError> {
        let expected = || self.wrong(value.span(), "ignore", format!("tables, as in {IGNORE}"));
        let array = value.get_ref().as_array().ok_or_else(expected)?;
        array.iter().map(|value| self.ignore(value)).collect()
    }

    fn ignore(&self, value: &Spanned<DeValue<'_>>) -> Result<Ignore, FileError> {
        let (mut rules, mut reason, mut until) = (None, None, None);
        let mut subject = BTreeMap::new();
        for (key, value) in entries(self.table("ignore", value, IGNORE)?) {
            let name = self.known(key, &IGNORE_KEYS)?;
            let shown = format!("ignore.{name}");
            let read = match name {
                "code" => text(value.get_ref())
                    .and_then(|code| Selector::parse(&code))
                    .map(|code| rules = Some(code)),
                "reason" => a_reason(value.get_ref()).map(|text| reason = Some(text)),
                "until" => a_day(value.get_ref()).map(|day| until = Some(day)),
                _ => text(value.get_ref())
                    .and_then(|names| parse_pattern(&names))
                    .map(|names| _ = subject.insert(name.to_owned(), names)),
            };
            read.map_err(|expected| self.wrong(key.span(), shown, expected))?;
        }
        let missing =
            |key: &str, expected: &str| self.wrong(value.span(), format!("ignore.{key}"), expected);
        Ok(Ignore {
            rules: rules.ok_or_else(|| missing("code", "a code, as in code = \"CD101\""))?,
            subject,
            reason: reason
                .ok_or_else(|| missing("reason", "the reason for which it is ignored"))?,
            until,
            origin: format!("{}:{}", self.path.display(), self.line(value.span())),
        })
    }

    /// `[thresholds]`, with `[thresholds.queue."PATTERN"]` and `[thresholds.task."PATTERN"]` in it.
    pub(super) fn thresholds(&self, value: &Spanned<DeValue<'_>>) -> Result<Thresholds, FileError> {
        const KEYS: [&str; 6] = [
            "max-backlog",
            "max-age",
            "max-runtime",
            "since",
            "queue",
            "task",
        ];
        let example = "[thresholds] with max-age = \"10m\"";
        let mut limits = Thresholds::default();
        for (key, value) in entries(self.table("thresholds", value, example)?) {
            let name = self.known(key, &KEYS)?;
            match name {
                "queue" | "task" => self.named(name, value, &mut limits)?,
                _ => self.limit(key, name, value, None, &mut limits)?,
            }
        }
        Ok(limits)
    }

    /// The tables of queues, or of tasks.
    fn named(
        &self,
        kind: &'static str,
        value: &Spanned<DeValue<'_>>,
        limits: &mut Thresholds,
    ) -> Result<(), FileError> {
        let (keys, example): (&[&str], _) = match kind {
            "queue" => (
                &["max-backlog", "max-age"],
                "[thresholds.queue.\"mail*\"] with max-age = \"10m\"",
            ),
            _ => (
                &["max-runtime"],
                "[thresholds.task.\"report.*\"] with max-runtime = \"2h\"",
            ),
        };
        let shown = format!("thresholds.{kind}");
        for (key, value) in entries(self.table(&shown, value, example)?) {
            let names = parse_pattern(key.get_ref()).map_err(|expected| {
                let shown = format!("{shown}.{}", shown_key(key.get_ref()));
                self.wrong(key.span(), shown, expected)
            })?;
            for (key, value) in entries(self.table(&shown, value, example)?) {
                let name = self.known(key, keys)?;
                self.limit(key, name, value, Some(&names), limits)?;
            }
        }
        Ok(())
    }

    /// One limit: for all, or for those of the pattern.
    fn limit(
        &self,
        key: &Spanned<DeString<'_>>,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        of: Option<&Pattern>,
        limits: &mut Thresholds,
    ) -> Result<(), FileError> {
        let value = value.get_ref();
        let set = match name {
            "max-backlog" => set(&mut limits.max_backlog, of, value, a_number),
            "max-age" => set(&mut limits.max_age, of, value, seconds),
            "since" => seconds(value).map(|since| limits.since = Some(since)),
            _ => set(&mut limits.max_runtime, of, value, seconds),
        };
        set.map_err(|expected| self.wrong(key.span(), format!("thresholds: {name}"), expected))
    }
}

fn set<T>(
    limit: &mut Limit<T>,
    of: Option<&Pattern>,
    value: &DeValue<'_>,
    read: Read<T>,
) -> Result<(), String> {
    match of {
        None => limit.general = Some(read(value)?),
        Some(names) if value.as_str() == Some("none") => limit.named.push((names.clone(), None)),
        Some(names) => {
            let own = read(value).map_err(|expected| format!("{expected}, or \"none\""))?;
            limit.named.push((names.clone(), Some(own)));
        }
    }
    Ok(())
}

fn a_number(value: &DeValue<'_>) -> Result<u64, String> {
    // Digits with underscores between them, as TOML has them, and no other base.
    let digits = value
        .as_integer()
        .filter(|integer| integer.radix() == 10)
        .map(|integer| integer.as_str().replace('_', ""));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| "a number of messages, such as 1000".to_owned())
}

fn seconds(value: &DeValue<'_>) -> Result<f64, String> {
    let duration: Result<Duration, String> = text(value).and_then(|text| parse_duration(&text));
    duration.map(|duration| duration.as_secs_f64())
}

fn a_reason(value: &DeValue<'_>) -> Result<String, String> {
    let reason = text(value)?.trim().to_owned();
    if reason.is_empty() {
        return Err("the reason for which it is ignored".to_owned());
    }
    Ok(reason)
}

/// A day: TOML's own, or one in quotes.
fn a_day(value: &DeValue<'_>) -> Result<Date, String> {
    let day = match value {
        DeValue::String(text) => text.trim().parse().ok(),
        DeValue::Datetime(at) if at.time.is_none() && at.offset.is_none() => {
            at.date.and_then(|date| {
                let year = i16::try_from(date.year).ok()?;
                let month = i8::try_from(date.month).ok()?;
                Date::new(year, month, i8::try_from(date.day).ok()?).ok()
            })
        }
        _ => None,
    };
    day.ok_or_else(|| "a day, as in until = 2026-12-31".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::{File, parse};
    use super::*;

    fn parsed(text: &str) -> Result<File, String> {
        parse(text, Path::new("f.toml")).map_err(|error| error.to_string())
    }

    const FULL: &str = r#"
fail-on = "warning"

[severity]
CD3 = "error"
redelivered = "info"

[[ignore]]
code = "no-consumer"
queue = "legacy-*"
file = "app/*.py"
reason = "drained by hand until the new one is there"
until = 2026-12-31

[[ignore]]
code = "CD5xx"
reason = "QZ1"
until = "2027-01-31"

[thresholds]
max-backlog = 1_000
max-age = "10m"
max-runtime = "1h"

[thresholds.queue."mail*"]
max-backlog = 50000
max-age = "none"

[thresholds.queue."mail.urgent"]
max-age = "30s"

[thresholds.task."report.*"]
max-runtime = "2h"
"#;

    #[test]
    fn everything_is_read_in_the_order_of_the_file() {
        let file = parsed(FULL).expect("valid");
        assert_eq!(file.fail_on, Some(Severity::Warning));
        let shown: Vec<String> = file
            .severities
            .iter()
            .map(|(rules, level)| format!("{rules} {}", level.name()))
            .collect();
        assert_eq!(shown, ["CD3xx error", "CD304 info"]);
        let [first, second] = file.ignores.as_slice() else {
            panic!("not two: {file:?}")
        };
        assert_eq!(first.to_string(), "CD101 file app/*.py queue legacy-*");
        assert_eq!(first.origin, "f.toml:8");
        assert_eq!(first.until, Some(jiff::civil::date(2026, 12, 31)));
        assert_eq!(second.until, Some(jiff::civil::date(2027, 1, 31)));
        let limits = &file.thresholds;
        assert_eq!(limits.max_backlog.of("celery"), Some(1000));
        assert_eq!(limits.max_backlog.of("mail.urgent"), Some(50_000));
        assert_eq!(limits.max_age.of("celery"), Some(600.0));
        assert_eq!(limits.max_age.of("mail.news"), None);
        assert_eq!(limits.max_age.of("mail.urgent"), Some(30.0));
        assert_eq!(limits.max_runtime.of("report.yearly"), Some(7200.0));
        assert_eq!(limits.max_runtime.of("shop.send_mail"), Some(3600.0));
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        for (text, expected) in [
            (
                "fail-on = 'fatal'",
                "f.toml:1: fail-on: expected info, warning or error",
            ),
            (
                "[severity]\nCD3 = 3",
                "f.toml:2: severity.CD3: expected a text in quotes",
            ),
            (
                "[severity]\nno-consumr = 'info'",
                "f.toml:2: severity.no-consumr: expected a code such as CD101, a name such as no-consumer, or a \
                 family such as CD1xx. Did you mean no-consumer?",
            ),
            ("severity = 'info'", "f.toml:1: severity: expected a table"),
            (
                "ignore = ['CD101']",
                "f.toml:1: ignore: expected a table, as in [[ignore]] with code = \"CD101\"",
            ),
            (
                "\n[[ignore]]\ncode = 'CD101'",
                "f.toml:2: ignore.reason: expected the reason for which it is ignored",
            ),
            (
                "[[ignore]]\ncode = 'CD101'\nreason = ' '",
                "f.toml:3: ignore.reason: expected the reason",
            ),
            (
                "[[ignore]]\nreason = 'x'",
                "f.toml:1: ignore.code: expected a code",
            ),
            (
                "[[ignore]]\ncode = 'CD101'\nreason = 'x'\nuntil = 2026-12-31T10:00:00",
                "f.toml:4: ignore.until: expected a day, as in until = 2026-12-31",
            ),
            (
                "[[ignore]]\ncode = 'CD101'\nreason = 'x'\nuntil = '31.12.2026'",
                "f.toml:4: ignore.until: expected a day",
            ),
            (
                "[[ignore]]\ncode = 'CD101'\nreason = 'x'\nqueue = 'a['",
                "f.toml:4: ignore.queue: expected a name, in which * stands for any text",
            ),
            (
                "[[ignore]]\ncode = 'CD101'\nreasn = 'x'",
                "f.toml:3: unknown key reasn. Did you mean reason?",
            ),
            (
                "[thresholds]\nmax-age = 5",
                "f.toml:2: thresholds: max-age: expected a text in quotes",
            ),
            (
                "[thresholds]\nmax-backlog = -1",
                "f.toml:2: thresholds: max-backlog: expected a number of messages, such as 1000",
            ),
            (
                "[thresholds]\nmax-age = 'none'",
                "f.toml:2: thresholds: max-age: expected a duration with units",
            ),
            (
                "[thresholds.task.'x']\nmax-age = '1s'",
                "f.toml:2: unknown key max-age. Known keys: max-runtime",
            ),
            (
                "[thresholds.queue]\nmail = 3",
                "f.toml:2: thresholds.queue: expected a table, as in [thresholds.queue.\"mail*\"]",
            ),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_gets_an_error_or_is_read(at in 0..FULL.len(), garbage in "[\\[\\]=\"'\\\\\\n#{}.,a]{1,3}", cut in any::<bool>()) {
            let tail = if cut { "" } else { &FULL[at..] };
            let damaged = format!("{}{garbage}{tail}", &FULL[..at]);
            if let Err(error) = parse(&damaged, Path::new("f")) {
                prop_assert!(!format!("{error} {error:?}").contains("QZ"), "{error:?}");
            }
        }
    }
}
