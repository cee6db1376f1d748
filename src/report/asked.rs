//! What was asked for, beside what was found: how ids were taken out of what was pasted, and which may have been meant.

use std::collections::BTreeMap;

use crate::celery::task_id::{Shape, shape};
use crate::diagnose::{Trace, Verdict};

/// An id that was taken out of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TakenId {
    /// The id.
    pub id: String,
    /// Out of what, in words.
    pub from: &'static str,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Ids that were taken out of something.
    pub taken: Vec<TakenId>,
    /// For ids that nothing knows and that look like a UUID: those in reach that may be meant, and where they stand.
    pub near: BTreeMap<String, Vec<(String, &'static str)>>,
}

/// More are no help.
const NAMED: usize = 5;

impl Asked {
    /// What is to be said of an id that was not found, as sentences.
    pub(super) fn remarks(&self, trace: &Trace) -> Vec<String> {
        if !matches!(trace.verdict, Verdict::Unknown | Verdict::Undetermined) {
            return Vec::new();
        }
        let near = self.near.get(&trace.id);
        let looks = match shape(&trace.id) {
            Shape::Uuid => None,
            Shape::Cut => Some("This is only the beginning of a UUID."),
            Shape::Typo => {
                Some("This is not quite a UUID: a character is wrong, missing or too many.")
            }
            Shape::Custom => Some(
                "This is no UUID, which is unusual: Celery makes UUIDs, unless a sender gives ids of its own.",
            ),
        };
        let mut remarks: Vec<String> = looks.into_iter().map(str::to_owned).collect();
        let Some(near) = near else {
            return remarks;
        };
        let named = near.iter().take(NAMED);
        let named: Vec<String> = named.map(|(id, place)| format!("{id} ({place})")).collect();
        if named.is_empty() {
            if looks.is_some() {
                remarks.push("No id in reach resembles it.".to_owned());
            }
            return remarks;
        }
        let more = match near.len() - named.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        remarks.push(format!("Did you mean {}{more}?", named.join(", ")));
        remarks
    }
}
