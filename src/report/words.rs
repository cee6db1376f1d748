//! Stages, places and facts in words.

use jiff::Timestamp;
use serde_json::Value;

use super::plain::readable;
use crate::diagnose::{CheckStatus, Checked, Finding, Stage, StageStatus, Trace, Verdict, outcome};
use crate::evidence::Place;

/// Of longer lists in a finding's evidence the rest is counted.
const LISTED: usize = 10;
/// More rules that could not be judged than these are not named.
const NAMED: usize = 5;

/// The verdict, with a mark where a finding makes trouble of what is accounted for.
pub(super) fn mark(trace: &Trace) -> String {
    let fine = matches!(
        trace.verdict,
        Verdict::Finished
            | Verdict::Running
            | Verdict::Reserved
            | Verdict::Queued
            | Verdict::NotYetSent
    );
    let name = trace.verdict.name();
    if fine && outcome::code_of(trace) != 0 {
        format!("{name} !")
    } else {
        name.to_owned()
    }
}

pub(super) fn path_row(stage: &Stage) -> Vec<String> {
    let status = match stage.status {
        StageStatus::Seen => "seen",
        StageStatus::Absent => "absent",
        StageStatus::NotRead => "not read",
    };
    let at = stage
        .at
        .as_deref()
        .and_then(|at| at.parse::<Timestamp>().ok());
    let at = at.map_or(String::new(), |at| format!(" ({at:.0})"));
    vec![
        stage.stage.name().into(),
        status.into(),
        format!("{}{at}", readable(&stage.detail)),
    ]
}

pub(super) fn place(place: &Place) -> String {
    match place {
        Place::Queue { key, position, of } => format!("queue {key}, place {position} of {of}"),
        Place::DeadLetter {
            queue,
            position,
            of,
            ..
        } => {
            format!("dead-letter queue {queue}, place {position} of {of}")
        }
        Place::Delayed { queue, target } => format!("delayed in {queue}, then to queue {target}"),
        Place::Unacked { tag, .. } => format!("unacked, delivery tag {tag}"),
        Place::OtherDatabase {
            database,
            key,
            of: 0,
            ..
        } => format!("database {database}, {key}"),
        Place::OtherDatabase {
            database,
            key,
            position,
            of,
        } => format!("database {database}, queue {key}, place {position} of {of}"),
    }
}

/// A fact in words.
pub(super) fn fact(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) if text.is_empty() => "''".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "none".to_owned(),
        Value::Array(all) => {
            let mut shown: Vec<String> = all.iter().take(LISTED).map(fact).collect();
            if let Some(more @ 1..) = all.len().checked_sub(LISTED) {
                shown.push(format!("{more} more"));
            }
            shown.join(", ")
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.abs() < 1e12 => decimal(float),
            _ => number.to_string(),
        },
        Value::Object(_) => value.to_string(),
    }
}

/// What a finding is about: `queue mail, worker celery@w1`; empty where it says nothing of it.
pub(super) fn subject(finding: &Finding) -> String {
    let parts = finding.subject.iter();
    let parts: Vec<String> = parts
        .map(|(kind, name)| readable(&format!("{kind} {name}")).into_owned())
        .collect();
    parts.join(", ")
}

/// A number with one digit after the point, and none where that is 0.
fn decimal(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// What came of all rules, in a sentence. A blind spot is named, where there are few.
pub(super) fn rules_asked(checks: &[Checked]) -> String {
    let of = |status| checks.iter().filter(move |check| check.status == status);
    let blind: Vec<&str> = of(CheckStatus::NotJudged)
        .map(|check| check.name.as_str())
        .collect();
    let which = match blind.len() {
        0 => String::new(),
        1..=NAMED => format!(" ({})", blind.join(", ")),
        _ => " (-v says which)".to_owned(),
    };
    format!(
        "{} rules asked: {} found something, {} are clear, {} could not be judged{which}.",
        checks.len(),
        of(CheckStatus::Found).count(),
        of(CheckStatus::Clear).count(),
        blind.len()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_in_words() {
        for (value, text) in [
            (json!(null), "unknown"),
            (json!(true), "yes"),
            (json!(""), "''"),
            (json!("celery"), "celery"),
            (json!(3600.0), "3600"),
            (json!(25.2208), "25.2"),
            (json!(-7), "-7"),
            (json!([]), "none"),
            (json!(["a", 1]), "a, 1"),
            (json!({"a": 1}), "{\"a\":1}"),
        ] {
            assert_eq!(fact(&value), text);
        }
        let long: Vec<u8> = (0..12).collect();
        assert_eq!(fact(&json!(long)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2 more");
    }
}
