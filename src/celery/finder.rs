//! Finding a few ids among millions of messages.

use std::collections::HashSet;
use std::ops::Range;

use memchr::memmem::Finder;
use memchr::{memchr, memchr2};

use self::embedded::Embedded;
use super::canvas::CHORD_UNLOCK;
use super::message::{Envelope, Keep, Malformed, parse};

mod embedded;

/// Tells quickly whether a message may be one of the wanted ids, a part of a group of such an id, or carry one in its
/// canvas.
///
/// Kombu writes the body first, and the headers with `task` and `id` at their start: it looks for where they begin, and
/// walks no further than to the group. The body is looked into only where its end shows that it carries a canvas.
/// Whatever it does not understand it gives to [`parse`].
#[derive(Clone, Debug)]
pub struct IdFinder {
    ids: HashSet<String>,
    headers: Finder<'static>,
    embedded: Embedded,
}

/// How kombu begins a message, and how it writes the key of the headers and opens them.
const BODY: &[u8] = b"{\"body\": \"";
const HEADERS: &[u8] = b"\"headers\": {";

/// What [`IdFinder::matches`] says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// None of the ids.
    No,
    /// Parse it: it is one of the ids, or says so where Celery repeats the id, or may lead to one of them.
    Candidate,
    /// No task message at all.
    Malformed,
}

/// What is seen of a message of protocol 2 without parsing it.
#[derive(Debug, Default)]
struct Seen<'m> {
    body: &'m [u8],
    id: &'m str,
    task: &'m [u8],
    group: Option<&'m str>,
}

impl IdFinder {
    /// A finder of these ids.
    pub fn new(ids: impl IntoIterator<Item = String>) -> IdFinder {
        IdFinder {
            ids: ids.into_iter().collect(),
            headers: Finder::new(HEADERS),
            embedded: Embedded::default(),
        }
    }

    /// Whether [`parse`] would give one of the ids. A message that is damaged behind its id may still be a `Candidate` or `No`.
    pub fn matches(&mut self, message: &[u8]) -> Match {
        let Some(seen) = self.see(message) else {
            return match parse(message, Keep::Envelope) {
                Ok(envelope) => self.matches_read(&envelope),
                Err(error) => self.matches_unreadable(message, error),
            };
        };
        let named = self.ids.contains(seen.id)
            || seen.group.is_some_and(|group| self.ids.contains(group))
            || seen.task == CHORD_UNLOCK.as_bytes();
        // Without ids there is nothing to be found in any body.
        if named || (!self.ids.is_empty() && self.embedded.may_name(seen.body, &self.ids)) {
            Match::Candidate
        } else {
            Match::No
        }
    }

    /// How many bodies were left out, because they are compressed and those before them were as many as may be unpacked.
    pub fn left_packed(&self) -> u64 {
        self.embedded.left_packed()
    }

    fn matches_read(&self, envelope: &Envelope) -> Match {
        let named = |id: &str| self.ids.contains(id);
        let mut steps = envelope.canvas.iter();
        let known = named(&envelope.id)
            || envelope.group.as_deref().is_some_and(named)
            || steps.any(|step| named(&step.id) || step.group.as_deref().is_some_and(named));
        if known { Match::Candidate } else { Match::No }
    }

    /// A message whose body hides its id is a candidate if its correlation id, which Celery sets to the same, is wanted.
    fn matches_unreadable(&self, message: &[u8], error: Malformed) -> Match {
        const KEY: &[u8] = b"\"correlation_id\": \"";
        let named = memchr::memmem::rfind(message, KEY)
            .and_then(|at| message.get(at + KEY.len()..))
            .and_then(|rest| rest.split(|&byte| byte == b'"').next())
            .and_then(|id| std::str::from_utf8(id).ok())
            .is_some_and(|id| self.ids.contains(id));
        match error {
            _ if named => Match::Candidate,
            error if error.may_be_celerys() => Match::No,
            _ => Match::Malformed,
        }
    }

    /// What is seen of a message of protocol 2 in plain JSON; `None` where only [`parse`] can tell.
    fn see<'m>(&self, message: &'m [u8]) -> Option<Seen<'m>> {
        let text = message.strip_prefix(BODY)?;
        let end = memchr2(b'"', b'\\', text)?;
        let (body, rest) = text.split_at(end);
        if !rest.starts_with(b"\"") {
            return None;
        }
        let at = self.headers.find(rest)?;
        // With no brace before it the key is the message's own, and no string's part: quotes in strings are escaped.
        if memchr(b'{', &rest[..at]).is_some() {
            return None;
        }
        let mut seen = see_headers(&rest[at + HEADERS.len()..])?;
        seen.body = body;
        Some(seen)
    }
}

/// The task, the id and the group in the inside of a message's headers.
fn see_headers(headers: &[u8]) -> Option<Seen<'_>> {
    let mut walk = Walk::new(headers);
    let mut seen = Seen::default();
    let (mut has_task, mut has_group) = (false, false);
    loop {
        match walk.key()? {
            b"id" => seen.id = std::str::from_utf8(walk.string()?).ok()?,
            b"task" => {
                let task = walk.skipped()?;
                seen.task = walk.at(&task);
                has_task = true;
            }
            b"group" => {
                walk.once(&mut seen.group)?;
                has_group = true;
            }
            _ => walk.skip()?,
        }
        let known = has_task && !seen.id.is_empty();
        if known && (has_group || walk.peek()? == b'}') {
            // Without its quotes; an escape in it makes it no name of Celery's.
            seen.task = seen.task.get(1..seen.task.len() - 1).unwrap_or_default();
            return Some(seen);
        }
        walk.expect(b',')?;
    }
}

/// A reader of JSON without escapes in keys and ids; it gives up with `None` at whatever it does not expect.
pub(super) struct Walk<'a> {
    text: &'a [u8],
    at: usize,
}

/// Strings of so many words of eight bytes are read here: names and ids, where a call would cost more than the search.
const WORDS: usize = 5;

#[expect(
    clippy::inline_always,
    reason = "releases are built small, and every message of a long queue passes here"
)]
impl<'a> Walk<'a> {
    /// A walk through a text.
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// A walk through the rest of a text.
    pub(super) fn from(text: &'a [u8], at: usize) -> Self {
        Self { text, at }
    }

    /// How far it has come.
    pub(super) fn here(&self) -> usize {
        self.at
    }

    /// Whether nothing but blanks is left.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// An object: shows each key, and expects that `see` walks over its value.
    #[inline(always)]
    pub(super) fn object(
        &mut self,
        mut see: impl FnMut(&mut Self, &'a [u8]) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.key()?;
            see(self, key)?;
            if self.peek()? != b',' {
                return self.expect(b'}');
            }
            self.at += 1;
        }
    }

    /// A string that says something, into a place where none was yet; any other value leaves it empty.
    #[inline(always)]
    pub(super) fn once(&mut self, into: &mut Option<&'a str>) -> Option<()> {
        if self.peek()? != b'"' {
            return self.skip();
        }
        let text = std::str::from_utf8(self.string()?).ok()?;
        if text.is_empty() {
            return Some(());
        }
        if into.is_some() {
            return None;
        }
        *into = Some(text);
        Some(())
    }

    /// A number that is not negative and has no fraction, into a place where none was yet; null leaves it empty, and other
    /// values are not understood.
    pub(super) fn number(&mut self, into: &mut Option<u64>) -> Option<()> {
        let value = self.skipped()?;
        let text = self.at(&value);
        if text == b"null" {
            return Some(());
        }
        let number = std::str::from_utf8(text).ok()?.parse().ok()?;
        into.replace(number).is_none().then_some(())
    }

    /// Whether a value is true; nothing for what is neither true nor false nor null.
    pub(super) fn flag(&mut self) -> Option<bool> {
        let value = self.skipped()?;
        match self.at(&value) {
            b"true" => Some(true),
            b"false" | b"null" => Some(false),
            _ => None,
        }
    }

    /// Passes any value, and tells where it stands.
    pub(super) fn skipped(&mut self) -> Option<Range<usize>> {
        self.peek()?;
        let start = self.at;
        self.skip()?;
        Some(start..self.at)
    }

    /// What stands there.
    pub(super) fn at(&self, place: &Range<usize>) -> &'a [u8] {
        self.text.get(place.clone()).unwrap_or_default()
    }

    /// Passes this very text.
    #[inline(always)]
    pub(super) fn pass(&mut self, text: &[u8]) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        if !rest.starts_with(text) {
            return None;
        }
        self.at += text.len();
        Some(())
    }

    /// Passes the inside of a string up to its closing quote.
    #[inline(always)]
    pub(super) fn pass_text(&mut self) -> Option<()> {
        loop {
            let end = self.quote_or_escape()?;
            if self.text[end] == b'"' {
                self.at = end;
                return Some(());
            }
            self.at = end + 2;
        }
    }

    /// Passes digits.
    pub(super) fn pass_number(&mut self) -> Option<()> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// Passes the inside of a string that says something and has no escapes, and tells where it stands.
    #[inline(always)]
    pub(super) fn own(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let end = self.quote_or_escape()?;
        if self.text[end] != b'"' || end == start {
            return None;
        }
        self.at = end;
        Some(start..end)
    }

    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            // Nothing that JSON is made of stands before the blank.
            if byte > b' ' {
                return Some(byte);
            }
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return None;
            }
            self.at += 1;
        }
    }

    #[inline(always)]
    fn expect(&mut self, wanted: u8) -> Option<()> {
        if self.peek()? != wanted {
            return None;
        }
        self.at += 1;
        Some(())
    }

    #[inline(always)]
    fn key(&mut self) -> Option<&'a [u8]> {
        let key = self.string()?;
        self.expect(b':')?;
        Some(key)
    }

    /// A string without escapes.
    #[inline(always)]
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        let end = self.quote_or_escape()?;
        if self.text[end] != b'"' {
            return None;
        }
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// Any string.
    #[inline(always)]
    fn skip_string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        self.pass_text()?;
        self.at += 1;
        Some(())
    }

    /// Where the next quote or backslash stands.
    #[inline(always)]
    fn quote_or_escape(&self) -> Option<usize> {
        let mut at = self.at;
        for _ in 0..WORDS {
            let Some(word) = self.text.get(at..).and_then(<[u8]>::first_chunk) else {
                break;
            };
            let word = u64::from_le_bytes(*word);
            let hits = bytes_of(b'"', word) | bytes_of(b'\\', word);
            if hits != 0 {
                return Some(at + hits.trailing_zeros() as usize / 8);
            }
            at += 8;
        }
        let found = memchr2(b'"', b'\\', self.text.get(at..)?)?;
        Some(at + found)
    }

    /// Any value. Brackets are counted, not matched: what is wrong in between is for [`parse`] to say.
    #[inline(always)]
    pub(super) fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                b'n' if self.text[self.at..].starts_with(b"null") => self.at += 4,
                b'-' | b'0'..=b'9' | b'a'..=b'z' | b'N' | b'I' => {
                    while let b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' =
                        *self.text.get(self.at)?
                    {
                        self.at += 1;
                    }
                }
                _ => return None,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// The highest bit of each byte of `word` that equals `byte`, right up to the lowest of them and not beyond: a borrow can
/// set a bit above it.
#[inline]
const fn bytes_of(byte: u8, word: u64) -> u64 {
    const LOW: u64 = u64::from_le_bytes([1; 8]);
    let zero = word ^ (LOW * byte as u64);
    zero.wrapping_sub(LOW) & !zero & (LOW << 7)
}

#[cfg(test)]
mod tests;
