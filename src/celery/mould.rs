//! Messages that one kind of sender sends for one task are alike but for a few strings. What was learned from one of them
//! tells what is in the next, without walking through it.

use std::ops::Range;

use super::finder::Walk;
use super::skim::{Skim, skim};

/// So many kinds of messages are remembered; a message that is of none of them costs a comparison with each.
const MOST: usize = 64;
/// Of more kinds only one message in so many takes the place of another: to learn costs more than to walk.
const LEARNED: u64 = 16;
/// Longer messages are not remembered.
const LONG: usize = 4 * 1024;

/// The kinds of messages that were met, the frequent ones first.
#[derive(Debug, Default)]
pub(super) struct Moulds {
    known: Vec<Mould>,
    /// Messages that were of no kind.
    strange: u64,
}

/// One kind.
#[derive(Debug)]
struct Mould {
    /// A message of this kind.
    text: Box<str>,
    /// What others have in common with it, and where they have strings of their own instead.
    parts: Vec<(Range<usize>, Slot)>,
    /// What they have in common behind the last such string.
    end: Range<usize>,
    task: Option<Box<str>>,
    content_type: Option<Box<str>>,
    exchange: Option<Box<str>>,
    routing_key: Option<Box<str>>,
    retries: Option<u64>,
    redelivered: bool,
}

/// What a message has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Id,
    DeliveryTag,
    Eta,
    Expires,
    /// A string that [`Skim`] does not have.
    Text,
    /// A number that [`Skim`] does not have.
    Number,
}

/// The own strings of a message.
#[derive(Default)]
struct Own<'m> {
    id: &'m str,
    delivery_tag: Option<&'m str>,
    eta: Option<&'m str>,
    expires: Option<&'m str>,
}

impl Moulds {
    /// As [`skim`]: the same for every message.
    pub(super) fn skim<'s>(&'s mut self, message: &'s [u8]) -> Option<Skim<'s>> {
        let text = std::str::from_utf8(message).ok()?;
        let Some((at, own)) = find(&self.known, text) else {
            let skim = skim(message)?;
            self.learn(text, &skim);
            return Some(skim);
        };
        // What is met often comes to the front.
        let ahead = at / 2;
        self.known.swap(at, ahead);
        Some(self.known.get(ahead)?.with(&own))
    }

    fn learn(&mut self, text: &str, skim: &Skim<'_>) {
        let full = self.known.len() >= MOST;
        self.strange += 1;
        if full && !self.strange.is_multiple_of(LEARNED) {
            return;
        }
        if let Some(mould) = Mould::of(text, skim) {
            self.known.truncate(MOST - 1);
            self.known.push(mould);
        }
    }
}

/// The kind of a message, and its own strings.
fn find<'m>(known: &[Mould], text: &'m str) -> Option<(usize, Own<'m>)> {
    // Kinds differ behind the body, the first string of all, which is passed once.
    let mut start = (&[][..], Some(0));
    for (at, mould) in known.iter().enumerate() {
        let Some(opening) = mould.opening() else {
            continue;
        };
        if start.0 != opening {
            let mut walk = Walk::new(text.as_bytes());
            let passed = walk.pass(opening).and_then(|()| walk.pass_text());
            start = (opening, passed.map(|()| walk.here()));
        }
        let own = start.1.and_then(|start| mould.own(text, start));
        if let Some(own) = own {
            return Some((at, own));
        }
    }
    None
}

impl Mould {
    /// What others of its kind will have in common with this message.
    fn of(text: &str, skim: &Skim<'_>) -> Option<Self> {
        if text.len() > LONG {
            return None;
        }
        let mut parts = Vec::new();
        let mut from = 0;
        for (own, slot) in slots(text.as_bytes())? {
            parts.push((from..own.start, slot));
            from = own.end;
        }
        let kept = |text: Option<&str>| text.map(Box::from);
        let mould = Self {
            text: Box::from(text),
            parts,
            end: from..text.len(),
            task: kept(skim.task),
            content_type: kept(skim.content_type),
            exchange: kept(skim.exchange),
            routing_key: kept(skim.routing_key),
            retries: skim.retries,
            redelivered: skim.redelivered,
        };
        let (_, itself) = find(std::slice::from_ref(&mould), text)?;
        (mould.with(&itself) == *skim).then_some(mould)
    }

    /// What comes before the body, where the body comes first, as kombu has it.
    fn opening(&self) -> Option<&[u8]> {
        let (opening, Slot::Text) = self.parts.first()? else {
            return None;
        };
        self.text.as_bytes().get(opening.clone())
    }

    /// The own strings of a message of this kind, whose body ends at `start`.
    fn own<'m>(&self, text: &'m str, start: usize) -> Option<Own<'m>> {
        let mut own = Own::default();
        let mut walk = Walk::from(text.as_bytes(), start);
        for (common, slot) in self.parts.iter().skip(1) {
            walk.pass(self.text.as_bytes().get(common.clone())?)?;
            match slot {
                Slot::Text => walk.pass_text()?,
                Slot::Number => walk.pass_number()?,
                Slot::Id => own.id = text.get(walk.own()?)?,
                Slot::DeliveryTag => own.delivery_tag = Some(text.get(walk.own()?)?),
                Slot::Eta => own.eta = Some(text.get(walk.own()?)?),
                Slot::Expires => own.expires = Some(text.get(walk.own()?)?),
            }
        }
        walk.pass(self.text.as_bytes().get(self.end.clone())?)?;
        walk.is_at_end().then_some(own)
    }

    fn with<'s>(&'s self, own: &Own<'s>) -> Skim<'s> {
        Skim {
            id: own.id,
            task: self.task.as_deref(),
            eta: own.eta,
            expires: own.expires,
            retries: self.retries,
            redelivered: self.redelivered,
            content_type: self.content_type.as_deref(),
            delivery_tag: own.delivery_tag,
            exchange: self.exchange.as_deref(),
            routing_key: self.routing_key.as_deref(),
        }
    }
}

/// Where a message has strings and numbers of its own, without their quotes.
fn slots(message: &[u8]) -> Option<Vec<(Range<usize>, Slot)>> {
    let mut slots = Vec::new();
    let mut walk = Walk::new(message);
    walk.object(|walk, key| match key {
        b"body" => note(walk, &mut slots, Slot::Text),
        b"headers" => walk.object(|walk, key| {
            let slot = match key {
                b"id" => Slot::Id,
                b"eta" => Slot::Eta,
                b"expires" => Slot::Expires,
                b"root_id" | b"parent_id" | b"group" | b"argsrepr" | b"kwargsrepr" | b"origin" => {
                    Slot::Text
                }
                b"group_index" => Slot::Number,
                _ => return walk.skip(),
            };
            note(walk, &mut slots, slot)
        }),
        b"properties" => walk.object(|walk, key| {
            let slot = match key {
                b"delivery_tag" => Slot::DeliveryTag,
                b"correlation_id" | b"reply_to" => Slot::Text,
                _ => return walk.skip(),
            };
            note(walk, &mut slots, slot)
        }),
        _ => walk.skip(),
    })?;
    Some(slots)
}

/// Passes a value, and notes where it stands if it is such that the slot can hold it.
fn note(walk: &mut Walk<'_>, slots: &mut Vec<(Range<usize>, Slot)>, slot: Slot) -> Option<()> {
    let value = walk.skipped()?;
    match walk.at(&value) {
        [b'"', ..] if slot != Slot::Number => {
            slots.push((value.start + 1..value.end - 1, slot));
        }
        [b'0'..=b'9', ..] if slot == Slot::Number => slots.push((value, slot)),
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::samples::SAMPLES;
    use proptest::prelude::*;

    fn samples() -> Vec<Vec<u8>> {
        let values = SAMPLES.unacked.iter();
        let text = |value: &String| {
            let end = value
                .rfind(", \"\", \"celery\"]")
                .expect("the end of kombu's text");
            value.as_bytes()[1..end].to_vec()
        };
        values.map(text).collect()
    }

    fn message(id: &str, tag: &str, more: &str, body: &str) -> String {
        format!(
            r#"{{"body": "{body}", "content-type": "application/json", "headers": {{"task": "shop.mail", "id": "{id}", "root_id": "{id}", "retries": 0{more}}}, "properties": {{"correlation_id": "{id}", "delivery_info": {{"exchange": "", "routing_key": "celery"}}, "delivery_tag": "{tag}"}}}}"#
        )
    }

    #[test]
    fn a_second_message_of_a_kind_is_read_by_its_mould() {
        let mut moulds = Moulds::default();
        for (id, tag, body) in [("a", "1", "W10="), ("b", "2", "W1tdXQ=="), ("c", "33", "")] {
            let text = message(id, tag, "", body);
            assert_eq!(moulds.skim(text.as_bytes()), skim(text.as_bytes()));
            assert_eq!(moulds.known.len(), 1);
            assert!(find(&moulds.known, &text).is_some_and(|(_, own)| own.id == id));
        }
    }

    #[test]
    fn times_and_places_in_a_group_are_a_messages_own() {
        let mut moulds = Moulds::default();
        for (eta, index) in [("2026-01-01T00:00:00", 0), ("2026-02-01T00:00:00", 17)] {
            let more = format!(r#", "eta": "{eta}", "group": "g{index}", "group_index": {index}"#);
            let text = message("a", "1", &more, "W10=");
            let seen = moulds.skim(text.as_bytes()).expect("a message");
            assert_eq!(seen.eta, Some(eta));
            assert_eq!(moulds.known.len(), 1);
        }
    }

    #[test]
    fn what_differs_where_it_matters_is_of_another_kind() {
        let mut moulds = Moulds::default();
        let first = message("a", "1", "", "W10=");
        for other in [
            first.clone(),
            first.replace("shop.mail", "shop.sell"),
            first.replace(r#""retries": 0"#, r#""retries": 1"#),
            first.replace("application/json", "application/x-yaml"),
            first.replace(r#""routing_key": "celery""#, r#""routing_key": "mail""#),
            first.replace(r#""exchange": """#, r#""exchange": "x""#),
            first.replace(r#""id": "a""#, r#""id": null"#),
            first.replace(r#""id": "a""#, r#""id": """#),
            first.replace(r#""id": "a""#, r#""id": "\u0061""#),
            first.replace(r#""delivery_tag": "1""#, r#""delivery_tag": """#),
            first.replace(r#""id": "a", "#, r#""id": "a", "id": "b", "#),
            first.replace("}}}", "}}} "),
            first.replace("}}}", "}}} x"),
            first.replace("}}}", "}}"),
            first.replace("W10=", "\\"),
            first.replace("W10=", "\\\""),
        ] {
            let read = moulds.skim(first.as_bytes()).map(|seen| seen.id.to_owned());
            assert_eq!(read.as_deref(), Some("a"));
            assert_eq!(
                moulds.skim(other.as_bytes()),
                skim(other.as_bytes()),
                "{other}"
            );
        }
    }

    #[test]
    fn of_many_kinds_the_frequent_ones_are_remembered() {
        let mut moulds = Moulds::default();
        let kind = |n: usize| message("a", "1", &format!(r#", "kind": {n}"#), "");
        let often = kind(0);
        for n in 0..100 * MOST {
            for text in [kind(n), often.clone()] {
                assert_eq!(moulds.skim(text.as_bytes()), skim(text.as_bytes()));
            }
        }
        assert_eq!(moulds.known.len(), MOST);
        assert_eq!(find(&moulds.known, &often).map(|(at, _)| at), Some(0));
    }

    #[test]
    fn what_kombu_writes_is_skimmed_alike() {
        let mut moulds = Moulds::default();
        for _ in 0..2 {
            for text in samples() {
                assert_eq!(moulds.skim(&text), skim(&text));
            }
        }
        assert!(!moulds.known.is_empty());
    }

    proptest! {
        #[test]
        fn a_message_that_was_changed_anywhere_is_skimmed_alike(
            at in any::<prop::sample::Index>(),
            put in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3),
                "[\"\\\\{}:, 0-9a-z]{0,8}".prop_map(String::into_bytes),
            ],
            gone in 0_usize..12,
        ) {
            for text in samples() {
                let mut moulds = Moulds::default();
                moulds.skim(&text);
                let at = at.index(text.len());
                let mut other = text.clone();
                other.splice(at..(at + gone).min(text.len()), put.iter().copied());
                prop_assert_eq!(moulds.skim(&other), skim(&other));
            }
        }

        #[test]
        fn own_strings_are_skimmed_alike(id in ".{0,9}", tag in "[ -~]{0,9}", body in "[a-z\\\\\"]{0,9}") {
            let mut moulds = Moulds::default();
            moulds.skim(message("a", "1", "", "W10=").as_bytes());
            let text = message(&id, &tag, "", &body);
            prop_assert_eq!(moulds.skim(text.as_bytes()), skim(text.as_bytes()));
        }
    }
}
