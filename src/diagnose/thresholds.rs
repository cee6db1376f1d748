//! What is too much: limits that only the user can know. Without them no rule says that something is too long or too old.

use glob::Pattern;

/// The limits of an audit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds {
    /// Messages that may wait in a queue, by queue.
    pub max_backlog: Limit<u64>,
    /// Seconds for which a message may wait in a queue, by queue.
    pub max_age: Limit<f64>,
    /// Seconds for which a task without a time limit may run, by task.
    pub max_runtime: Limit<f64>,
    /// Seconds for which a task that ended badly is reported; none for [`SINCE`].
    pub since: Option<f64>,
}

/// Seconds for which a task that ended badly is reported where no other time is set: a day, as Celery keeps results.
pub const SINCE: f64 = 86_400.0;

impl Thresholds {
    /// Seconds for which a task that ended badly is reported.
    pub fn since(&self) -> f64 {
        self.since.unwrap_or(SINCE)
    }
}

/// A limit for all, and others for some.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit<T> {
    /// What holds where no name has its own; none is no limit.
    pub general: Option<T>,
    /// By patterns of the names of queues or tasks, of which the last that fits counts; none is no limit for these.
    pub named: Vec<(Pattern, Option<T>)>,
}

impl<T> Default for Limit<T> {
    fn default() -> Self {
        Self {
            general: None,
            named: Vec::new(),
        }
    }
}

impl<T: Copy> Limit<T> {
    /// The same limit for every name.
    pub fn all(limit: Option<T>) -> Self {
        Self {
            general: limit,
            named: Vec::new(),
        }
    }

    /// The limit of this queue or task.
    pub fn of(&self, name: &str) -> Option<T> {
        let mut fitting = self.named.iter().filter(|(names, _)| names.matches(name));
        fitting.next_back().map_or(self.general, |(_, own)| *own)
    }

    /// Whether there is any limit at all.
    pub fn is_set(&self) -> bool {
        self.general.is_some() || self.named.iter().any(|(_, own)| own.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_fits_wins_over_the_general_limit() {
        let pattern = |text| Pattern::new(text).expect("a pattern");
        let limit = Limit {
            general: Some(10_u64),
            named: vec![
                (pattern("mail*"), Some(100)),
                (pattern("mail.bulk"), None),
                (pattern("mail.[ab]"), Some(7)),
            ],
        };
        assert_eq!(limit.of("celery"), Some(10));
        assert_eq!(limit.of("mail"), Some(100));
        assert_eq!(limit.of("mail.bulk"), None);
        assert_eq!(limit.of("mail.a"), Some(7));
        assert!(limit.is_set() && !Limit::<u64>::default().is_set());
        assert_eq!(Limit::all(Some(3_u64)).of("mail"), Some(3));
    }
}
