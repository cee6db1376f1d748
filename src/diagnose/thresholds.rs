//! What is too much: limits that only the user can know. Without them no rule says that something is too long or too old.

use std::collections::BTreeMap;

/// The limits of an audit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds {
    /// Messages that may wait in a queue, by queue.
    pub max_backlog: Limit<u64>,
    /// Seconds for which a message may wait in a queue, by queue.
    pub max_age: Limit<f64>,
    /// Seconds for which a task without a time limit may run, by task.
    pub max_runtime: Limit<f64>,
}

/// A limit for all, and others for some.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit<T> {
    /// What holds where no name has its own; none is no limit.
    pub general: Option<T>,
    /// By the exact name of a queue or task; none is no limit for this one.
    pub named: BTreeMap<String, Option<T>>,
}

impl<T> Default for Limit<T> {
    fn default() -> Self {
        Self {
            general: None,
            named: BTreeMap::new(),
        }
    }
}

impl<T: Copy> Limit<T> {
    /// The same limit for every name.
    pub fn all(limit: Option<T>) -> Self {
        Self {
            general: limit,
            named: BTreeMap::new(),
        }
    }

    /// The limit of this queue or task.
    pub fn of(&self, name: &str) -> Option<T> {
        self.named.get(name).copied().unwrap_or(self.general)
    }

    /// Whether there is any limit at all.
    pub fn is_set(&self) -> bool {
        self.general.is_some() || self.named.values().any(Option::is_some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_its_own_wins_over_the_general_limit() {
        let mut limit = Limit::all(Some(10_u64));
        limit.named.insert("mail".to_owned(), Some(100));
        limit.named.insert("bulk".to_owned(), None);
        assert_eq!(limit.of("celery"), Some(10));
        assert_eq!(limit.of("mail"), Some(100));
        assert_eq!(limit.of("bulk"), None);
        assert!(limit.is_set() && !Limit::<u64>::default().is_set());
    }
}
