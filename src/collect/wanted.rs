//! Which messages a reading of queues is after, and what each message is to it.

use std::collections::{BTreeSet, HashSet};

use super::counting::{Counter, Known};
use crate::celery::canvas;
use crate::celery::message::{self, Envelope, IdFinder, Keep, Malformed, Match};
use crate::evidence::{CanvasGap, List};

/// So many messages are kept that lead to a wanted id, as each part of a chord's header leads to its body.
const MOST_LEADS: u64 = 200;
/// Of a message that is kept for later questions so many steps of its canvas are.
const MOST_STEPS: usize = 50;

/// Which messages are wanted.
pub(crate) enum Wanted {
    /// Those with these ids, and those that lead to them: they carry one in their canvas, or are a part of its group.
    Ids {
        /// The ids.
        ids: BTreeSet<String>,
        /// What finds them.
        finder: Box<IdFinder>,
        /// How many messages lead to them.
        leads: u64,
    },
    /// All are counted.
    All {
        /// How many more may be kept; none where none are wanted.
        left: Option<u64>,
        /// What counts them.
        counter: Box<Counter>,
    },
}

impl Wanted {
    /// Messages with these ids.
    pub(crate) fn ids(ids: impl IntoIterator<Item = String>) -> Self {
        let ids: BTreeSet<String> = ids.into_iter().collect();
        let finder = IdFinder::new(ids.iter().cloned());
        Self::Ids {
            ids,
            finder: Box::new(finder),
            leads: 0,
        }
    }

    /// Every message, to be kept one by one, up to so many. Nothing is counted.
    pub(crate) fn all(most: u64) -> Self {
        Self::All {
            left: Some(most),
            counter: Box::new(Counter::new(Known::default(), HashSet::new())),
        }
    }

    /// Whether a message with this id is wanted.
    pub(crate) fn has(&self, id: &str) -> bool {
        match self {
            Self::Ids { ids, .. } => ids.contains(id),
            Self::All { .. } => true,
        }
    }

    /// Whether a message is wanted and there is room for it. Leaves of its canvas what leads to the wanted ids.
    pub(crate) fn takes(&mut self, envelope: &mut Envelope) -> bool {
        match self {
            Self::Ids { ids, leads, .. } => {
                canvas::leave(&mut envelope.canvas, |id| ids.contains(id));
                if ids.contains(&envelope.id) {
                    return true;
                }
                let of_group = envelope
                    .group
                    .as_ref()
                    .is_some_and(|group| ids.contains(group));
                let leads_there = of_group || !envelope.canvas.is_empty();
                *leads += u64::from(leads_there);
                leads_there && *leads <= MOST_LEADS
            }
            Self::All {
                left: None | Some(0),
                ..
            } => false,
            Self::All {
                left: Some(left), ..
            } => {
                *left -= 1;
                envelope.canvas.truncate(MOST_STEPS);
                true
            }
        }
    }

    /// What of the canvases was not looked through.
    pub(crate) fn gap(&self) -> CanvasGap {
        match self {
            Self::Ids { finder, leads, .. } => CanvasGap {
                packed: finder.left_packed(),
                leads: leads.saturating_sub(MOST_LEADS),
            },
            Self::All { .. } => CanvasGap::default(),
        }
    }

    /// What is looked at from now on stands in this list.
    pub(super) fn enter(&mut self, list: &List) {
        if let Self::All { counter, .. } = self {
            counter.enter(list);
        }
    }

    pub(super) fn look(&mut self, index: u64, message: &[u8], keep: Keep) -> Look {
        match self {
            Self::Ids { finder, .. } => match finder.matches(message) {
                Match::No => Look::Other,
                Match::Malformed => Look::Malformed,
                Match::Candidate => match message::parse(message, keep) {
                    Ok(mut envelope) => {
                        if self.takes(&mut envelope) {
                            Look::Wanted(Box::new(envelope))
                        } else {
                            Look::Other
                        }
                    }
                    // The envelope names the id; what else there is to know of it stands in a body that can't be read.
                    Err(Malformed::Body(_)) => Look::Unreadable,
                    Err(_) => Look::Malformed,
                },
            },
            Self::All { left, counter } => match (counter.see(index, message), left) {
                (false, _) => Look::Malformed,
                (true, None) => Look::Other,
                (true, Some(0)) => Look::TooMany,
                (true, Some(left)) => match message::parse(message, keep) {
                    Ok(mut envelope) => {
                        *left -= 1;
                        envelope.canvas.truncate(MOST_STEPS);
                        Look::Wanted(Box::new(envelope))
                    }
                    Err(_) => Look::Malformed,
                },
            },
        }
    }
}

/// What a message is.
pub(super) enum Look {
    Unreadable,
    Wanted(Box<Envelope>),
    Other,
    Malformed,
    TooMany,
}
