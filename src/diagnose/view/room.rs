//! How many messages the live workers can hold at most, by their own word.

use super::deployment::Store;
use crate::diagnose::plain;
use crate::evidence::{Evidence, Worker};

/// More is unacknowledged in a store than its live workers can hold, so that some of it is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overfull {
    /// How many messages are unacknowledged.
    pub unacked: u64,
    /// How many of them the workers can hold at most.
    pub room: u64,
}

impl Overfull {
    /// In words.
    pub fn told(self) -> String {
        format!(
            "{} are unacknowledged, and the live workers hold {} at most, by their prefetch counts: at least {} are \
             nobody's, and which can't be told",
            plain::count(self.unacked, "message"),
            self.room,
            self.unacked - self.room
        )
    }
}

impl Evidence {
    /// Whether more is unacknowledged in a store than its live workers can hold; none where that is not so, or where
    /// others may hold some or a worker did not say how much it takes.
    pub fn overfull(&self, store: Store<'_>) -> Option<Overfull> {
        let heard = self.all_workers_answered() && self.unheard_consumers() == 0;
        if !heard || self.endings_unseen().is_some() || self.may_have_been_taken(None) {
            return None;
        }
        let entry = self.reservations_of(store)?;
        let unacked = entry.unacked.saturating_sub(entry.malformed);
        let room = self
            .answered()
            .iter()
            .filter(|worker| store.is_of(worker))
            .try_fold(0_u64, |room, worker| {
                Some(room.saturating_add(most(worker)?))
            })?;
        (unacked > room).then_some(Overfull { unacked, room })
    }
}

/// How many messages a worker holds at most: what its prefetch count allows, which grows with each task that waits for its
/// ETA (Celery 5.7 worker/strategy.py, `qos.increment_eventually`). It was told before the reservations were read, so that
/// those that wait now are added.
fn most(worker: &Worker) -> Option<u64> {
    let prefetch = worker.stats.seen()?.prefetch_count;
    // 0 is no limit.
    let prefetch = prefetch.filter(|count| *count > 0)?;
    Some(prefetch.saturating_add(*worker.scheduled.seen()?))
}
