//! Which messages a reading of queues is after, and what each message is to it.

use std::collections::{BTreeSet, HashSet};

use super::counting::{Counter, Known};
use crate::celery::message::{self, IdFinder, Keep, Malformed, Match};
use crate::evidence::List;

/// Which messages are wanted.
pub(crate) enum Wanted {
    /// Those with these ids.
    Ids(BTreeSet<String>, Box<IdFinder>),
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
        Self::Ids(ids, Box::new(finder))
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
            Self::Ids(ids, _) => ids.contains(id),
            Self::All { .. } => true,
        }
    }

    /// Counts one more message that is kept; false where there is no room for it.
    pub(crate) fn keep_one(&mut self) -> bool {
        match self {
            Self::Ids(..) => true,
            Self::All {
                left: None | Some(0),
                ..
            } => false,
            Self::All {
                left: Some(left), ..
            } => {
                *left -= 1;
                true
            }
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
            Self::Ids(ids, finder) => match finder.matches(message) {
                Match::No => Look::Other,
                Match::Malformed => Look::Malformed,
                Match::Candidate => match message::parse(message, keep) {
                    Ok(envelope) if ids.contains(&envelope.id) => Look::Wanted(Box::new(envelope)),
                    Ok(_) => Look::Other,
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
                    Ok(envelope) => {
                        *left -= 1;
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
    Wanted(Box<message::Envelope>),
    Other,
    Malformed,
    TooMany,
}
