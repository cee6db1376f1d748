//! Finding a few ids among millions of messages.

use std::collections::HashSet;

use memchr::memmem::Finder;
use memchr::{memchr, memchr2};

use super::message::{Keep, Malformed, Unreadable, parse};

/// Tells quickly whether a message may be one of the wanted ids.
///
/// Kombu writes the headers with `task` and `id` at their start: it looks for where they begin, and walks no further than
/// to the id. Whatever it does not understand it gives to [`parse`].
#[derive(Clone, Debug)]
pub struct IdFinder {
    ids: HashSet<String>,
    headers: Finder<'static>,
}

/// How kombu writes the key of the headers and opens them.
const HEADERS: &[u8] = b"\"headers\": {";

/// What [`IdFinder::matches`] says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// None of the ids.
    No,
    /// Parse it: it is one of the ids, or says so where Celery repeats the id.
    Candidate,
    /// No task message at all.
    Malformed,
}

impl IdFinder {
    /// A finder of these ids.
    pub fn new(ids: impl IntoIterator<Item = String>) -> IdFinder {
        IdFinder {
            ids: ids.into_iter().collect(),
            headers: Finder::new(HEADERS),
        }
    }

    /// Whether [`parse`] would give one of the ids. A message that is damaged behind its id may still be a `Candidate` or `No`.
    pub fn matches(&self, message: &[u8]) -> Match {
        let known = match self.id_in_headers(message) {
            Some(id) => self.ids.contains(id),
            None => match parse(message, Keep::Envelope) {
                Ok(envelope) => self.ids.contains(&envelope.id),
                Err(error) => return self.matches_unreadable(message, error),
            },
        };
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
            // Celery can have written these, though this tool does not read them.
            Malformed::Body(Unreadable::Yaml | Unreadable::TooLarge) => Match::No,
            _ => Match::Malformed,
        }
    }

    /// The id of a message of protocol 2 in plain JSON; `None` where only [`parse`] can tell.
    fn id_in_headers<'m>(&self, message: &'m [u8]) -> Option<&'m str> {
        let inside = self.headers.find(message)? + HEADERS.len();
        // With no other brace before it the key is the message's own, and no string's part: quotes in strings are
        // escaped.
        let (first, between) = message.get(..inside - 1)?.split_first()?;
        if *first != b'{' || memchr(b'{', between).is_some() {
            return None;
        }
        id_and_task(&message[inside..])
    }
}

/// The id in the inside of a message's headers.
fn id_and_task(headers: &[u8]) -> Option<&str> {
    let mut walk = Walk { rest: headers };
    let (mut id, mut has_task) = (None, false);
    loop {
        match walk.key()? {
            b"id" => id = Some(walk.string()?),
            b"task" => {
                walk.skip()?;
                has_task = true;
            }
            _ => walk.skip()?,
        }
        match id {
            Some(id) if has_task => return std::str::from_utf8(id).ok(),
            _ => walk.expect(b',')?,
        }
    }
}

/// A reader of JSON without escapes in keys and ids; it gives up with `None` at whatever it does not expect.
pub(super) struct Walk<'a> {
    rest: &'a [u8],
}

#[expect(
    clippy::inline_always,
    reason = "releases are built small, and every message of a long queue passes here"
)]
impl<'a> Walk<'a> {
    /// A walk through a text.
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    /// Whether nothing but blanks is left.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// An object: shows each key, and expects that `see` walks over its value.
    pub(super) fn object(
        &mut self,
        mut see: impl FnMut(&mut Self, &'a [u8]) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            let key = self.key()?;
            see(self, key)?;
            match self.peek()? {
                b',' => self.expect(b',')?,
                _ => return self.expect(b'}'),
            }
        }
    }

    /// A string that says something, into a place where none was yet; any other value leaves it empty.
    pub(super) fn once(&mut self, into: &mut Option<&'a str>) -> Option<()> {
        if self.peek()? != b'"' {
            return self.skip();
        }
        let text = std::str::from_utf8(self.string()?).ok()?;
        if text.is_empty() {
            return Some(());
        }
        into.replace(text).is_none().then_some(())
    }

    /// A number that is not negative and has no fraction, into a place where none was yet; null leaves it empty, and other
    /// values are not understood.
    pub(super) fn number(&mut self, into: &mut Option<u64>) -> Option<()> {
        self.peek()?;
        let start = self.rest;
        self.skip()?;
        let text = &start[..start.len() - self.rest.len()];
        if text == b"null" {
            return Some(());
        }
        let number = std::str::from_utf8(text).ok()?.parse().ok()?;
        into.replace(number).is_none().then_some(())
    }

    /// Whether a value is true; nothing for what is neither true nor false nor null.
    pub(super) fn flag(&mut self) -> Option<bool> {
        self.peek()?;
        let start = self.rest;
        self.skip()?;
        match &start[..start.len() - self.rest.len()] {
            b"true" => Some(true),
            b"false" | b"null" => Some(false),
            _ => None,
        }
    }

    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
        self.rest.first().copied()
    }

    #[inline(always)]
    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.rest = &self.rest[1..])
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
        let end = memchr2(b'"', b'\\', self.rest)?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest.strip_prefix(b"\"")?;
        Some(text)
    }

    /// Any string.
    #[inline(always)]
    fn skip_string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let end = memchr2(b'"', b'\\', self.rest)?;
            let escaped = self.rest[end] == b'\\';
            self.rest = self.rest.get(end + if escaped { 2 } else { 1 }..)?;
            if !escaped {
                return Some(());
            }
        }
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
                    self.rest = &self.rest[1..];
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.rest = &self.rest[1..];
                }
                b',' | b':' if depth > 0 => self.rest = &self.rest[1..],
                b'-' | b'0'..=b'9' | b'a'..=b'z' | b'N' | b'I' => {
                    let plain = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
                    let end = self.rest.iter().position(|byte| !plain(byte))?;
                    self.rest = &self.rest[end..];
                }
                _ => return None,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
