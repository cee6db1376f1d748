//! Messages in classes: counted as they stream by, in memory that does not grow with the backlog.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, Hash, Hasher};

use foldhash::fast::FixedState;
use jiff::Timestamp;

use crate::celery::glance::{Glance, Glances};
use crate::celery::message::{self, Envelope, Keep};
use crate::celery::when::When;
use crate::evidence::{Class, Copy, List, NAMED_IDS, Observed, Place, TaskEvidence};

/// More classes than this are not told apart.
pub(super) const MOST_CLASSES: usize = 5_000;
/// Longer messages are read at once and not kept as they are.
const LONG_MESSAGE: usize = 4 * 1024;
/// Longer ids are no ids of Celery's, and are not named.
const LONG_ID: usize = 1024;
/// So many ids are remembered, to see whether one stands twice: two million take 36 MB.
const MOST_IDS: u64 = 3_600_000;
/// So many ids that stand twice are looked at again.
const MOST_TWICE: usize = 100;
/// So many ids are looked up at once.
const AT_ONCE: usize = 64;

/// Millions of names are hashed. Who makes two ids that share a hash gets no more than a second look at both.
const QUICK: FixedState = FixedState::with_seed(0x6365_6c65_7279);

/// A name in 64 bits.
pub(super) fn mark(text: &str) -> u64 {
    QUICK.hash_one(text)
}

/// What is known before the messages are read, and tells their fates apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The moment from which `expires` and ETA are told to be past or to come.
    pub(super) now: Timestamp,
    /// Seconds of the visibility timeout, by key prefix.
    pub(super) timeouts: BTreeMap<String, f64>,
    /// For ids that workers have revoked: which set of nodes.
    pub(super) revoked: HashMap<u64, usize>,
    /// The sets of nodes.
    pub(super) revokers: Vec<Vec<String>>,
}

impl Known {
    /// Notes that a node has revoked these ids. Workers tell each other what is revoked, so that few sets cover all.
    pub(super) fn revoke(&mut self, node: &str, ids: &[String]) {
        let mut sets: HashMap<Option<usize>, usize> = HashMap::new();
        for id in ids {
            let id = mark(id);
            let before = self.revoked.get(&id).copied();
            if before.is_some_and(|set| self.revokers[set].last().is_some_and(|last| last == node))
            {
                continue;
            }
            let after = *sets.entry(before).or_insert_with(|| {
                let mut nodes = before.map_or_else(Vec::new, |set| self.revokers[set].clone());
                nodes.push(node.to_owned());
                self.revokers.push(nodes);
                self.revokers.len() - 1
            });
            self.revoked.insert(id, after);
        }
    }

    /// The nodes that have revoked an id.
    pub(super) fn revokers_of(&self, id: &str) -> Vec<String> {
        let set = self.revoked_set(id);
        set.map_or_else(Vec::new, |set| self.revokers[set].clone())
    }

    fn revoked_set(&self, id: &str) -> Option<usize> {
        if self.revoked.is_empty() {
            return None;
        }
        self.revoked.get(&mark(id)).copied()
    }

    /// What tells a message's fate: all that rules look at, as far as it stands in the message. `since` is when the wait
    /// for its ETA began, in Unix seconds, for one that was delivered; none for one that waits.
    pub(super) fn shape(&self, seen: &Glance<'_>, prefix: &str, since: Option<f64>) -> u64 {
        let (eta, expires) = (seen.eta(), seen.expires());
        let passed = |at: When| at.seconds_until(self.now) < 0.0;
        let beyond = |eta: When| {
            let waited = since.map_or(0.0, |since| seconds(self.now) - since);
            let timeout = self.timeouts.get(prefix).copied();
            timeout.is_some_and(|timeout| eta.seconds_until(self.now) + waited > timeout)
        };
        let mut hasher = QUICK.build_hasher();
        for text in [
            seen.task(),
            seen.content_type(),
            seen.exchange(),
            seen.routing_key(),
        ] {
            // No text ends with a byte that UTF-8 does not have.
            hasher.write(text.unwrap_or_default().as_bytes());
            hasher.write_u8(if text.is_some() { 0xff } else { 0xfe });
        }
        let times = (
            eta.map(|eta| (passed(eta), beyond(eta))),
            expires.map(passed),
            eta.zip(expires).map(|(eta, expires)| eta > expires),
        );
        if times != (None, None, None) {
            times.hash(&mut hasher);
        }
        let retried = seen.retries().unwrap_or(0) > 0;
        let revoked = self.revoked_set(seen.id());
        // Zeros at the end leave no trace in this hash, and the first set has the number zero.
        let is_revoked = u8::from(revoked.is_some());
        hasher.write_u8(is_revoked << 2 | u8::from(seen.redelivered()) << 1 | u8::from(retried));
        if let Some(set) = revoked {
            hasher.write_usize(set);
        }
        hasher.finish()
    }
}

/// A moment in Unix seconds.
pub(super) fn seconds(at: Timestamp) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of this century fit"
    )]
    let micros = at.as_microsecond() as f64;
    micros / 1e6
}

/// Counts the messages of lists, one list after another.
pub(crate) struct Counter {
    known: Known,
    lists: Vec<String>,
    prefix: String,
    glances: Glances,
    classes: Classes,
    ids: Ids,
    /// Ids that would be suspect were they in no queue.
    watched: HashSet<u64>,
}

/// What tells a class from others: the list, and the shape of its messages.
type Key = (usize, u64);

/// The classes in the making.
#[derive(Default)]
struct Classes {
    told_apart: HashMap<Key, Counted, FixedState>,
    /// Messages beyond the classes.
    unclassed: u64,
}

/// What is remembered of a message beside its id.
#[derive(Clone, Copy, Default)]
struct Mark {
    tag: u32,
    list: u16,
    retries: u8,
}

/// Ids that were met, to see whether one stands twice.
#[derive(Default)]
struct Ids {
    met: HashMap<u64, Mark, FixedState>,
    /// The latest, which are looked up together: there are more than fit into any cache of the processor, which looks
    /// for several at once if nothing stands between.
    latest: Vec<Latest>,
    not_compared: u64,
    repeats: u64,
    twice: BTreeMap<String, HashSet<usize>>,
}

/// A message whose id is not looked up yet.
struct Latest {
    id: u64,
    /// As it stands there; empty where it is too long to be named.
    text: String,
    mark: Mark,
    /// With a tag of its own it can be told whether this is the same message again.
    has_tag: bool,
    class: Key,
    /// What was remembered of this id before.
    first: Option<Mark>,
}

/// One class in the making.
#[derive(Default)]
struct Counted {
    count: u64,
    ids: Vec<String>,
    next_id: usize,
    /// The last one seen, as it came, or read where it is long.
    last: Vec<u8>,
    last_read: Option<Envelope>,
    index: u64,
    expires: Option<When>,
}

/// What the counting brought.
#[derive(Default)]
pub(super) struct Count {
    pub(super) classes: Vec<Class>,
    pub(super) unclassed: u64,
    /// Ids that stood more than once, and in which lists.
    pub(super) twice: BTreeMap<String, Vec<String>>,
    pub(super) repeats: u64,
    pub(super) not_compared: u64,
    pub(super) known: Known,
    pub(super) watched: HashSet<u64>,
}

impl Counter {
    /// A counter for about so many messages. What it meets of `watched` it takes out of there.
    pub(super) fn new(known: Known, watched: HashSet<u64>) -> Self {
        Self {
            known,
            lists: Vec::new(),
            prefix: String::new(),
            glances: Glances::default(),
            classes: Classes::default(),
            ids: Ids::default(),
            watched,
        }
    }

    /// Makes room for so many ids, so that none need be moved later.
    pub(super) fn expect(&mut self, messages: u64) {
        let room = usize::try_from(messages.min(MOST_IDS)).unwrap_or(0);
        self.ids.met.reserve(room);
    }

    /// What is seen from now on stands in this list.
    pub(super) fn enter(&mut self, list: &List) {
        self.lists.push(list.key.clone());
        self.prefix.clone_from(&list.prefix);
    }

    /// Counts a message; false where it is none of Celery's.
    pub(super) fn see(&mut self, index: u64, message: &[u8]) -> bool {
        let seen = match self.glances.at(message) {
            Ok(seen) => seen,
            Err(error) => return error.may_be_celerys(),
        };
        let id = mark(seen.id());
        if !self.watched.is_empty() {
            self.watched.remove(&id);
        }
        let list = self.lists.len().saturating_sub(1);
        let class = (list, self.known.shape(&seen, &self.prefix, None));
        self.classes.add(class, index, message, &seen);
        self.ids.note(id, list, class, &seen);
        if self.ids.latest.len() == AT_ONCE {
            self.ids.look_up(&mut self.classes);
        }
        true
    }

    /// The classes. `length` tells how many messages of a list were read.
    pub(super) fn finish(mut self, length: impl Fn(&str) -> u64) -> Count {
        self.ids.look_up(&mut self.classes);
        let Self {
            known,
            lists,
            classes,
            ids,
            ..
        } = self;
        let unclassed = classes.unclassed;
        let mut classes: Vec<(usize, Class)> = classes
            .told_apart
            .into_iter()
            .filter(|(_, counted)| counted.count > 0)
            .filter_map(|((list, _), counted)| {
                let key = lists.get(list)?;
                Some((list, counted.class(key, length(key), &known)?))
            })
            .collect();
        classes.sort_by(|(a, one), (b, other)| (a, &one.id).cmp(&(b, &other.id)));
        let named = |of: HashSet<usize>| {
            let mut keys: Vec<String> = of
                .into_iter()
                .filter_map(|n| lists.get(n).cloned())
                .collect();
            keys.sort();
            keys
        };
        Count {
            classes: classes.into_iter().map(|(_, class)| class).collect(),
            unclassed,
            twice: ids
                .twice
                .into_iter()
                .map(|(id, of)| (id, named(of)))
                .collect(),
            repeats: ids.repeats,
            not_compared: ids.not_compared,
            known,
            watched: self.watched,
        }
    }
}

impl Classes {
    fn add(&mut self, class: Key, index: u64, message: &[u8], seen: &Glance<'_>) {
        let room = self.told_apart.len() < MOST_CLASSES;
        let counted = match self.told_apart.entry(class) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(_) if !room => {
                self.unclassed += 1;
                return;
            }
            Entry::Vacant(free) => free.insert(Counted::default()),
        };
        counted.add(index, message, seen);
    }

    /// A message of this class was counted twice.
    fn take_back(&mut self, class: Key) {
        match self.told_apart.get_mut(&class) {
            Some(counted) => counted.count = counted.count.saturating_sub(1),
            None => self.unclassed = self.unclassed.saturating_sub(1),
        }
    }
}

impl Ids {
    fn note(&mut self, id: u64, list: usize, class: Key, seen: &Glance<'_>) {
        let tag = seen.delivery_tag();
        let named = seen.id().len() <= LONG_ID;
        self.latest.push(Latest {
            id,
            text: String::from(if named { seen.id() } else { "" }),
            mark: Mark {
                tag: u32::try_from(mark(tag.unwrap_or_default()) >> 32).unwrap_or(0),
                list: u16::try_from(list).unwrap_or(u16::MAX),
                retries: u8::try_from(seen.retries().unwrap_or(0)).unwrap_or(u8::MAX),
            },
            has_tag: tag.is_some(),
            class,
            first: None,
        });
    }

    /// Looks the latest up, and remembers them. The very same message may be seen twice, in a list that grew while it
    /// was read: it is counted once.
    fn look_up(&mut self, classes: &mut Classes) {
        for latest in &mut self.latest {
            latest.first = self.met.get(&latest.id).copied();
        }
        for latest in self.latest.drain(..) {
            let here = latest.mark;
            let room = (self.met.len() as u64) < MOST_IDS;
            let first = latest.first.or_else(|| match self.met.entry(latest.id) {
                Entry::Occupied(there) => Some(*there.get()),
                Entry::Vacant(free) => {
                    if room {
                        free.insert(here);
                    } else {
                        self.not_compared += 1;
                    }
                    None
                }
            });
            let Some(first) = first else { continue };
            if first.tag == here.tag && latest.has_tag {
                if first.list == here.list {
                    classes.take_back(latest.class);
                }
            // A task that ran meanwhile may have been sent again for a retry.
            } else if first.retries == here.retries && !latest.text.is_empty() {
                self.repeats += 1;
                if self.twice.len() < MOST_TWICE || self.twice.contains_key(&latest.text) {
                    let lists = self.twice.entry(latest.text).or_default();
                    lists.extend([usize::from(first.list), latest.class.0]);
                }
            }
        }
    }
}

impl Counted {
    fn add(&mut self, index: u64, message: &[u8], seen: &Glance<'_>) {
        self.count += 1;
        self.index = index;
        self.expires = self.expires.max(seen.expires());
        self.last.clear();
        if message.len() <= LONG_MESSAGE {
            self.last.extend_from_slice(message);
            self.last_read = None;
        } else {
            self.last_read = message::parse(message, Keep::Envelope).ok();
        }
        let id = seen.id();
        if id.len() > LONG_ID {
            return;
        }
        match self.ids.get_mut(self.next_id) {
            Some(oldest) => id.clone_into(oldest),
            None => self.ids.push(id.to_owned()),
        }
        self.next_id = (self.next_id + 1) % NAMED_IDS;
    }

    /// The class of a list that has so many messages.
    fn class(mut self, key: &str, length: u64, known: &Known) -> Option<Class> {
        let read = self.last_read.take();
        let mut envelope = read.or_else(|| message::parse(&self.last, Keep::Envelope).ok())?;
        // Lists are read from their heads: the last that was seen is the next in turn.
        let place = Place::Queue {
            key: key.to_owned(),
            position: length.saturating_sub(self.index).max(1),
            of: length.max(1),
        };
        // A class of messages whose time had not passed when they were counted must not stand for messages whose time
        // passed while the rest was read.
        let open = |at: When| at.seconds_until(known.now) >= 0.0;
        if envelope.expires.is_some_and(open) {
            envelope.expires = self.expires;
        }
        let newest = self.next_id;
        let (before, after) = self.ids.split_at(newest.min(self.ids.len()));
        let mut ids: Vec<String> = Vec::new();
        for id in before.iter().rev().chain(after.iter().rev()) {
            // A message that was seen twice was named twice.
            if !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        let id = envelope.id.clone();
        let revoked_by = known.revokers_of(&id);
        Some(Class {
            id,
            count: self.count,
            ids,
            task: TaskEvidence {
                copies: vec![Copy { place, envelope }],
                revoked_by,
                ..unread()
            },
        })
    }
}

/// A task of which nothing but its message is known.
pub(super) fn unread() -> TaskEvidence {
    let why = "an audit looks at the results of no queued message";
    TaskEvidence {
        copies: Vec::new(),
        claims: Vec::new(),
        revoked_by: Vec::new(),
        first_result: Observed::not_asked(why),
        result: Observed::not_asked(why),
        chord: Observed::not_asked(why),
        children: Vec::new(),
        saved_group: None,
        locks: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
