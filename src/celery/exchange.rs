//! Where an exchange sends a message, and under which key a queue's messages stand, as kombu decides it on Redis.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// kombu's separator of bindings and of priority keys (kombu 5.7, `transport/redis.py`, `Channel.sep`).
pub const DEFAULT_SEP: &str = "\x06\x16";
/// kombu's priority steps (kombu 5.7, `transport/redis.py`, `PRIORITY_STEPS`).
pub const DEFAULT_STEPS: &[i64] = &[0, 3, 6, 9];

/// A member of `_kombu.binding.EXCHANGE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding {
    /// The routing key that the queue was bound with.
    pub routing_key: String,
    /// The regular expression that kombu made of it, for a topic exchange; else empty.
    pub pattern: String,
    /// The queue.
    pub queue: String,
}

impl Binding {
    /// Reads a member. `None` for what kombu itself would fail on.
    pub fn parse(member: &[u8], sep: &str) -> Option<Binding> {
        let member = std::str::from_utf8(member).ok()?;
        if sep.is_empty() {
            return None;
        }
        let mut parts = member.split(sep);
        let (routing_key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Some(Binding {
            routing_key: routing_key.to_owned(),
            pattern: pattern.to_owned(),
            queue: queue.to_owned(),
        })
    }
}

/// The separator with which a member of an exchange's binding set was written, where it can be told: the transport
/// option `sep` stands in bindings too, not only in priority keys (kombu 5.7 transport/redis.py, `_queue_bind`). It can for
/// a queue that is bound to an exchange of its own name by its own name, and for a worker's mailbox, which is bound by
/// nothing.
pub fn separator<'m>(member: &'m [u8], exchange: &str) -> Option<&'m str> {
    let member = std::str::from_utf8(member).ok()?;
    if member.contains(DEFAULT_SEP) {
        return Some(DEFAULT_SEP);
    }
    let twice = |text: &'m str| {
        let (one, two) = text.split_at_checked(text.len() / 2)?;
        (!one.is_empty() && one == two).then_some(one)
    };
    if member.ends_with(".celery.pidbox") {
        let node = member.find(char::is_alphanumeric)?;
        return twice(&member[..node]);
    }
    twice(member.strip_prefix(exchange)?.strip_suffix(exchange)?)
}

/// The kinds of exchange that kombu's virtual transports know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeType {
    /// By the same key.
    Direct,
    /// By pattern.
    Topic,
    /// To all.
    Fanout,
}

/// The queues that a message with this key goes to (kombu 5.7, `transport/virtual/exchange.py`). The default exchange has no
/// table: there the routing key is the queue.
pub fn lookup<'a>(
    kind: ExchangeType,
    table: &'a [Binding],
    routing_key: &str,
) -> BTreeSet<&'a str> {
    let takes = |binding: &&Binding| match kind {
        ExchangeType::Direct => binding.routing_key == routing_key,
        ExchangeType::Topic => topic_matches(&binding.pattern, routing_key),
        ExchangeType::Fanout => true,
    };
    table
        .iter()
        .filter(takes)
        .map(|binding| binding.queue.as_str())
        .collect()
}

/// A class of characters in a pattern.
#[derive(Clone, Copy)]
enum Class {
    Is(char),
    /// `[^\.]`
    NotDot,
    /// `.`, which does not take a newline.
    NotNewline,
}

/// One character, or any number of them.
#[derive(Clone, Copy)]
struct Item {
    class: Class,
    repeated: bool,
}

/// Whether a pattern that kombu made matches the key, as `re.match` would say. A text that kombu cannot have made matches
/// nothing; it is read as an automaton, never given to a regex engine.
fn topic_matches(pattern: &str, routing_key: &str) -> bool {
    // A queue that was bound while the exchange was of another type: an empty regular expression matches all.
    if pattern.is_empty() {
        return true;
    }
    let Some(items) = read_pattern(pattern) else {
        return false;
    };
    // Python's `$` also matches before a newline at the end.
    accepts(&items, routing_key)
        || routing_key
            .strip_suffix('\n')
            .is_some_and(|key| accepts(&items, key))
}

/// Takes apart what `TopicExchange.key_to_pattern` puts together: `*` as a word is `[^\.]+`, `#` as a word is `.*?`, and other
/// characters are escaped unless alphanumeric, except `*` and `#`: `*` within a word repeats the character before it.
fn read_pattern(pattern: &str) -> Option<Vec<Item>> {
    let mut rest = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let mut items = Vec::new();
    let item = |class, repeated| Item { class, repeated };
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix(r"[^\.]+") {
            items.extend([item(Class::NotDot, false), item(Class::NotDot, true)]);
            rest = tail;
            continue;
        }
        if let Some(tail) = rest.strip_prefix(".*?") {
            items.push(item(Class::NotNewline, true));
            rest = tail;
            continue;
        }
        let mut chars = rest.chars();
        let character = match chars.next()? {
            '\\' if rest.starts_with(r"\000") => {
                chars = rest.get(4..)?.chars();
                '\0'
            }
            '\\' => chars.next().filter(|escaped| !escaped.is_alphanumeric())?,
            plain if plain.is_alphanumeric() || plain == '#' => plain,
            _ => return None,
        };
        let repeated = chars.as_str().starts_with('*');
        if repeated {
            chars.next();
        }
        items.push(item(Class::Is(character), repeated));
        rest = chars.as_str();
    }
    Some(items)
}

/// Walks all the states at once, so that the time is the product of the lengths, whatever the pattern.
fn accepts(items: &[Item], text: &str) -> bool {
    let mut states = vec![false; items.len() + 1];
    states[0] = true;
    skip_repeated(items, &mut states);
    for character in text.chars() {
        let mut next = vec![false; states.len()];
        for (at, item) in items.iter().enumerate() {
            let taken = match item.class {
                Class::Is(wanted) => character == wanted,
                Class::NotDot => character != '.',
                Class::NotNewline => character != '\n',
            };
            if states[at] && taken {
                next[if item.repeated { at } else { at + 1 }] = true;
            }
        }
        skip_repeated(items, &mut next);
        states = next;
    }
    states[items.len()]
}

fn skip_repeated(items: &[Item], states: &mut [bool]) {
    for (at, item) in items.iter().enumerate() {
        if states[at] && item.repeated {
            states[at + 1] = true;
        }
    }
}

/// The key of the list that a message of this priority stands in (kombu 5.7, `transport/redis.py`, `_q_for_pri`): the highest
/// step that is not above the priority, or the last one of all, as Python's index -1 has it.
pub fn queue_key(queue: &str, priority: i64, steps: &[i64], sep: &str) -> String {
    let at = bisect(steps, priority);
    let chosen = if at == 0 {
        steps.last()
    } else {
        steps.get(at - 1)
    };
    match chosen {
        None | Some(0) => queue.to_owned(),
        Some(number) => format!("{queue}{sep}{number}"),
    }
}

/// Python's `bisect.bisect`, step by step: nobody promises that `priority_steps` are sorted, and then it matters where it halves.
fn bisect(steps: &[i64], priority: i64) -> usize {
    let (mut low, mut high) = (0, steps.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if priority < steps[middle] {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The priority that kombu acts on (kombu 5.7, `transport/virtual/base.py`, `_get_message_priority`).
pub fn message_priority(priority: Option<i64>) -> i64 {
    priority.map_or(0, |priority| priority.clamp(0, 9))
}

#[cfg(test)]
mod tests;
