//! What was seen, kept apart from what was not looked at or could not be.

use serde::{Deserialize, Serialize};

/// A fact, or why there is none. "Not seen" is never zero and never "absent".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed<T> {
    /// Read, and this is what was there.
    Seen(T),
    /// Not read.
    Unseen(Why),
}

/// Why something was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The kind of the obstacle.
    pub reason: Reason,
    /// One plain sentence part for the report; holds no secret.
    pub detail: String,
}

/// The kinds of obstacles that keep a fact from being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody asked for it: a flag left it out, or no address was given.
    NotAsked,
    /// The server refused it to this user.
    Refused,
    /// The server takes no writes from anybody now: a read-only replica, out of memory, or unable to save.
    TakesNoWrites,
    /// The server could not be reached, or went away.
    Unreachable,
    /// No answer within the time given.
    TimedOut,
    /// The server, the version or this tool does not know it.
    Unsupported,
    /// A limit ended the reading before its end.
    Truncated,
    /// It was read, and is not what it should be.
    Malformed,
}

impl Why {
    /// A reason with its sentence.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl<T> Observed<T> {
    /// A fact that nobody asked for.
    pub fn not_asked(detail: impl Into<String>) -> Self {
        Self::Unseen(Why::new(Reason::NotAsked, detail))
    }

    /// The fact, where it was seen.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(fact) => Some(fact),
            Self::Unseen(_) => None,
        }
    }

    /// The fact, to be changed, where it was seen.
    pub fn seen_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Seen(fact) => Some(fact),
            Self::Unseen(_) => None,
        }
    }

    /// Why it was not seen, where it was not.
    pub fn unseen(&self) -> Option<&Why> {
        match self {
            Self::Seen(_) => None,
            Self::Unseen(why) => Some(why),
        }
    }

    /// Applies a function to the fact.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Self::Seen(fact) => Observed::Seen(change(fact)),
            Self::Unseen(why) => Observed::Unseen(why),
        }
    }
}
