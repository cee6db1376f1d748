//! Lists of any length, read from the head at the speed at which the server can send them.
//!
//! redis-rs builds every reply in memory before it hands it over, which takes twice as long as the transfer itself.
//! This reader looks at each message in the buffer into which the socket writes it.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::collect::SERVER_TIMEOUT;
use crate::collect::connect::{self, Stream};
use crate::collect::redis::client::no_such;
use crate::config::url::{RedisServer, Secret};
use crate::evidence::{Reason, Why};

/// A reply of this size takes a server about a millisecond, during which it serves nobody else.
pub(super) const REPLY_BYTES: u64 = 1024 * 1024;
/// Requests under way at once: while one reply is looked at, the next is sent.
const DEPTH: usize = 2;
/// The first request of a list is small, because the size of its messages is not known yet.
const FIRST_CHUNK: u64 = 16;
/// No request asks for more messages, however small they are.
const MOST: u64 = 5_000;
/// What the socket is read into; it grows only for a message that is larger.
const BUFFER: usize = 256 * 1024;
/// Redis's own limit for one string (`proto-max-bulk-len`).
const LARGEST_MESSAGE: usize = 512 * 1024 * 1024;
/// How many messages at either end of a list are remembered for a second look.
const REMEMBERED: u64 = 1_000;
/// So many known messages in a row mean that nothing new is behind them.
const KNOWN_IN_A_ROW: usize = 32;

/// What one pass over a list found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// How many messages were read. More than once read ones, which moved while the list grew, are counted again.
    pub(crate) read: u64,
    /// Messages at the ends, for a second look.
    pub(crate) ends: Ends,
}

/// Marks of the messages at a list's ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    head: HashSet<u64>,
    tail: HashSet<u64>,
    /// How many such messages a request may ask for.
    chunk: u64,
}

/// A connection of its own for LRANGE.
pub(crate) struct ListReader {
    stream: Stream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Lists whose beginning is asked for already, in this order, and how many messages of each.
    ahead: VecDeque<(String, u64)>,
}

impl ListReader {
    /// Connects to a database of a server and logs in.
    pub(crate) async fn connect(server: &RedisServer, database: u32) -> Result<Self, Why> {
        let mut reader = Self {
            stream: connect::open(server, SERVER_TIMEOUT).await?,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            ahead: VecDeque::new(),
        };
        if server.username.is_some() || server.password.is_some() {
            let password = server.password.as_ref().map_or("", Secret::expose);
            let username = server.username.as_deref();
            reader.log_in(username, password.as_bytes()).await?;
        }
        if database != 0 {
            reader
                .send(&[b"SELECT", database.to_string().as_bytes()])
                .await?;
            reader.status("SELECT").await?;
        }
        Ok(reader)
    }

    /// Asks for lists that will be read next, in this order and with these lengths, so that short ones are not waited for
    /// one by one. A server answers all requests of one packet before it serves anyone else: together these lists have no
    /// more messages than the first request for a long one may bring.
    pub(crate) async fn ask_ahead<'l>(
        &mut self,
        lists: impl Iterator<Item = (&'l str, u64)>,
    ) -> Result<(), Why> {
        if !self.ahead.is_empty() {
            return Ok(());
        }
        let mut requests = Vec::new();
        let mut messages = 0;
        for (key, length) in lists {
            messages += length;
            if messages > FIRST_CHUNK {
                break;
            }
            // One more than there were tells whether it has grown.
            requests.extend(lrange(key, 0, length));
            self.ahead.push_back((key.to_owned(), length + 1));
        }
        self.write(&requests).await
    }

    /// Asks for messages from an index on, unless that was done ahead. Returns how many were asked for.
    async fn ask_from(&mut self, key: &str, from: u64, wanted: u64) -> Result<u64, Why> {
        if from == 0
            && let Some((_, ahead)) = self.ahead.pop_front_if(|(asked, _)| asked == key)
        {
            return Ok(ahead);
        }
        self.skip_ahead().await?;
        self.ask(key, from, from + wanted - 1).await?;
        Ok(wanted)
    }

    /// Passes over what was asked for ahead and is not wanted in that order.
    async fn skip_ahead(&mut self) -> Result<(), Why> {
        while self.ahead.pop_front().is_some() {
            match self.array("LRANGE").await {
                Ok(got) => {
                    for _ in 0..got {
                        self.bulk().await?;
                    }
                }
                // It says so again when it is this list's turn.
                Err(why) if matches!(why.reason, Reason::Unreachable | Reason::TimedOut) => {
                    return Err(why);
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Reads a list from its head to its end and shows each message with its index. Pushes that come meanwhile shift
    /// what is left to higher indices, so that nothing is skipped and some may be seen twice. No more is asked for after
    /// `stop`.
    pub(crate) async fn each(
        &mut self,
        key: &str,
        length: u64,
        stop: Option<std::time::Instant>,
        mut see: impl FnMut(u64, &[u8]),
    ) -> Result<Pass, Why> {
        let mut asked: VecDeque<u64> = VecDeque::new();
        let mut next = 0;
        let mut chunk = FIRST_CHUNK;
        let mut bytes = 0;
        let mut ended = false;
        let mut pass = Pass::default();
        // A list that grows faster than it can be read has no end; what was in it at the start is behind us by then.
        let most = length.saturating_mul(2).saturating_add(1_000_000);
        let mark_from = length.saturating_sub(8 * REMEMBERED);
        loop {
            if stop.is_some_and(|stop| std::time::Instant::now() >= stop) {
                return Err(Why::new(Reason::Truncated, "the deadline came first"));
            }
            let depth = if pass.read == 0 { 1 } else { DEPTH };
            while !ended && asked.len() < depth {
                let wanted = self.ask_from(key, next, chunk).await?;
                asked.push_back(wanted);
                next += wanted;
            }
            let Some(wanted) = asked.pop_front() else {
                return Ok(pass);
            };
            let got = self.array("LRANGE").await?;
            for _ in 0..got {
                let message = match self.ready() {
                    Some((at, length)) => &self.buffer[at..at + length],
                    None => self.bulk().await?,
                };
                bytes += message.len() as u64;
                if pass.read < REMEMBERED {
                    pass.ends.head.insert(mark(message));
                }
                if pass.read >= mark_from {
                    pass.ends.tail.insert(mark(message));
                }
                see(pass.read, message);
                pass.read += 1;
            }
            ended |= got < wanted;
            if next > most {
                return Err(Why::new(
                    Reason::Truncated,
                    format!("{key} grows faster than it can be read"),
                ));
            }
            chunk = chunk_of(pass.read, bytes, length);
            pass.ends.chunk = chunk;
        }
    }

    /// Looks again at a list that was read before: only at what came in since, at the head by pushes and at the tail
    /// by restores. True where that was enough; false where the list has changed too much and must be read whole.
    pub(crate) async fn newcomers(
        &mut self,
        key: &str,
        ends: &Ends,
        length: u64,
        mut see: impl FnMut(u64, &[u8]),
    ) -> Result<bool, Why> {
        let chunk = ends.chunk.clamp(1, REMEMBERED);
        let (head, count) = self
            .recognise(key, 0, REMEMBERED, chunk, &ends.head, &mut see)
            .await?;
        if count < REMEMBERED {
            return Ok(true);
        }
        // Pushes shift the end to higher indices, and restores lengthen it: it is where no more comes.
        let (from, most) = (length.saturating_sub(REMEMBERED), 2 * REMEMBERED);
        let (tail, count) = self
            .recognise(key, from, most, chunk, &ends.tail, &mut see)
            .await?;
        Ok(head && tail && count < most)
    }

    /// Shows the messages from an index on, so many at most. Returns whether enough of them were known, and how many there
    /// were.
    async fn recognise(
        &mut self,
        key: &str,
        from: u64,
        most: u64,
        chunk: u64,
        marks: &HashSet<u64>,
        see: &mut impl FnMut(u64, &[u8]),
    ) -> Result<(bool, u64), Why> {
        let mut known = Known::of(marks);
        let mut count = 0;
        while count < most {
            let wanted = chunk.min(most - count);
            let wanted = self.ask_from(key, from + count, wanted).await?;
            let got = self.array("LRANGE").await?;
            for _ in 0..got {
                let message = self.bulk().await?;
                known.next(mark(message));
                see(from + count, message);
                count += 1;
            }
            if got < wanted {
                break;
            }
        }
        Ok((known.met(), count))
    }

    async fn ask(&mut self, key: &str, from: u64, to: u64) -> Result<(), Why> {
        self.write(&lrange(key, from, to)).await
    }

    async fn send(&mut self, arguments: &[&[u8]]) -> Result<(), Why> {
        self.write(&request(arguments)).await
    }

    async fn write(&mut self, requests: &[u8]) -> Result<(), Why> {
        match timeout(SERVER_TIMEOUT, self.stream.write_all(requests)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(silent()),
        }
    }

    /// As [`Client::connect`](super::client::Client::connect) does, which came first: an error here is a change since.
    async fn log_in(&mut self, username: Option<&str>, password: &[u8]) -> Result<(), Why> {
        if let Some(username) = username {
            self.send(&[b"AUTH", username.as_bytes(), password]).await?;
            let (kind, text) = self.line().await?;
            if kind != b'-' || !text.contains("wrong number of arguments") {
                return Self::judge(kind, &text, "AUTH");
            }
        }
        self.send(&[b"AUTH", password]).await?;
        self.status("AUTH").await
    }

    async fn status(&mut self, command: &str) -> Result<(), Why> {
        let (kind, text) = self.line().await?;
        Self::judge(kind, &text, command)
    }

    fn judge(kind: u8, text: &str, command: &str) -> Result<(), Why> {
        match kind {
            b'+' => Ok(()),
            b'-' => Err(refused(text, command)),
            _ => Err(unexpected(command)),
        }
    }

    async fn array(&mut self, command: &str) -> Result<u64, Why> {
        let (kind, text) = self.line().await?;
        match kind {
            b'*' => text.parse().map_err(|_| unexpected(command)),
            b'-' => Err(refused(&text, command)),
            _ => Err(unexpected(command)),
        }
    }

    /// One line of the reply: its first byte, and the rest as text.
    async fn line(&mut self) -> Result<(u8, String), Why> {
        let mut searched = 0;
        loop {
            let seen = &self.buffer[self.start..self.end];
            if let Some(at) = memchr::memchr(b'\n', &seen[searched..]) {
                let line = &seen[..searched + at];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let (kind, text) = line.split_first().ok_or_else(|| unexpected("LRANGE"))?;
                let parsed = (*kind, String::from_utf8_lossy(text).into_owned());
                self.start += searched + at + 1;
                return Ok(parsed);
            }
            searched = seen.len();
            if searched > 64 * 1024 {
                return Err(unexpected("LRANGE"));
            }
            self.fill(searched + 1).await?;
        }
    }

    /// Where the next message of the reply stands, if the buffer has it whole: nearly always, and without waiting.
    #[expect(
        clippy::inline_always,
        reason = "releases are built small, and every message of a long queue passes here"
    )]
    #[inline(always)]
    fn ready(&mut self) -> Option<(usize, usize)> {
        let seen = &self.buffer[self.start..self.end];
        let (length, after) = bulk_length(seen)?;
        let whole = after.checked_add(length)?.checked_add(2)?;
        if length > LARGEST_MESSAGE || seen.len() < whole {
            return None;
        }
        let at = self.start + after;
        self.start += whole;
        Some((at, length))
    }

    /// One message of the reply, where it stands in the buffer.
    async fn bulk(&mut self) -> Result<&[u8], Why> {
        // The length stands in the buffer already but for one message in some hundred.
        let length = if let Some((length, after)) = bulk_length(&self.buffer[self.start..self.end])
        {
            self.start += after;
            length
        } else {
            let (kind, text) = self.line().await?;
            let length = (kind == b'$').then(|| text.parse().ok()).flatten();
            length.ok_or_else(|| unexpected("LRANGE"))?
        };
        if length > LARGEST_MESSAGE {
            return Err(unexpected("LRANGE"));
        }
        self.fill(length + 2).await?;
        let at = self.start;
        self.start += length + 2;
        Ok(&self.buffer[at..at + length])
    }

    /// Reads until so many bytes are in the buffer.
    async fn fill(&mut self, wanted: usize) -> Result<(), Why> {
        while self.end - self.start < wanted {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
                if self.buffer.len() > BUFFER && wanted <= BUFFER {
                    // A huge message has passed: its room is given back.
                    self.buffer = vec![0; BUFFER];
                }
            }
            if self.start + wanted > self.buffer.len() || self.end == self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                if wanted > self.buffer.len() {
                    self.buffer.resize(wanted, 0);
                }
            }
            let read = self.stream.read(&mut self.buffer[self.end..]);
            match timeout(SERVER_TIMEOUT, read).await {
                Ok(Ok(0) | Err(_)) => return Err(lost()),
                Ok(Ok(count)) => self.end += count,
                Err(_) => return Err(silent()),
            }
        }
        Ok(())
    }
}

fn lrange(key: &str, from: u64, to: u64) -> Vec<u8> {
    let (from, to) = (from.to_string(), to.to_string());
    request(&[b"LRANGE", key.as_bytes(), from.as_bytes(), to.as_bytes()])
}

fn request(arguments: &[&[u8]]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        request.extend_from_slice(argument);
        request.extend_from_slice(b"\r\n");
    }
    request
}

/// The length of a message whose head line stands whole in the buffer, and the length of that line.
#[expect(
    clippy::inline_always,
    reason = "releases are built small, and every message of a long queue passes here"
)]
#[inline(always)]
fn bulk_length(seen: &[u8]) -> Option<(usize, usize)> {
    let digits = seen.strip_prefix(b"$")?;
    let mut length = 0_usize;
    for (at, byte) in digits.iter().enumerate().take(12) {
        match byte {
            b'0'..=b'9' => length = length * 10 + usize::from(byte - b'0'),
            b'\r' if at > 0 && digits.get(at + 1) == Some(&b'\n') => return Some((length, at + 3)),
            _ => return None,
        }
    }
    None
}

/// How many messages the next request asks for: as many as the server sends in about a millisecond. LRANGE walks to
/// its start from the nearer end, so that requests must grow with the list, or reading it takes quadratic time.
fn chunk_of(read: u64, bytes: u64, length: u64) -> u64 {
    if read == 0 {
        return FIRST_CHUNK;
    }
    let average = (bytes / read).max(1);
    let budget = REPLY_BYTES * (1 + length / 4_000_000).min(4);
    (budget / average).clamp(1, MOST)
}

/// What tells a message from others: its length and its end, where kombu writes the delivery tag.
fn mark(message: &[u8]) -> u64 {
    let end = &message[message.len().saturating_sub(96)..];
    let mut hasher = DefaultHasher::new();
    (message.len(), end).hash(&mut hasher);
    hasher.finish()
}

/// Counts how many remembered messages come in a row.
struct Known<'a> {
    marks: &'a HashSet<u64>,
    run: usize,
    longest: usize,
}

impl<'a> Known<'a> {
    fn of(marks: &'a HashSet<u64>) -> Self {
        Self {
            marks,
            run: 0,
            longest: 0,
        }
    }

    fn next(&mut self, mark: u64) {
        self.run = if self.marks.contains(&mark) {
            self.run + 1
        } else {
            0
        };
        self.longest = self.longest.max(self.run);
    }

    fn met(&self) -> bool {
        self.longest >= KNOWN_IN_A_ROW
    }
}

fn lost() -> Why {
    Why::new(
        Reason::Unreachable,
        "the connection was lost in the middle of a list",
    )
}

fn silent() -> Why {
    Why::new(
        Reason::TimedOut,
        format!(
            "the server fell silent for {} s in the middle of a list",
            SERVER_TIMEOUT.as_secs()
        ),
    )
}

fn unexpected(command: &str) -> Why {
    Why::new(
        Reason::Malformed,
        format!("{command} answered something that is not Redis's protocol"),
    )
}

/// What an error of the server means. Nothing of its text is handed on.
pub(super) fn refused(text: &str, command: &str) -> Why {
    match text.split(' ').next().unwrap_or_default() {
        "WRONGTYPE" => Why::new(Reason::Malformed, "it is no list"),
        "NOPERM" => Why::new(
            Reason::Refused,
            format!("this user may not run {command} here"),
        ),
        "LOADING" => Why::new(Reason::Unreachable, "the server is still loading its data"),
        "ERR" if text.contains("unknown command") => Why::new(Reason::Refused, no_such(command)),
        "ERR" if text.contains("max number of clients") => Why::new(
            Reason::Unreachable,
            "the server has as many clients as it takes (maxclients)",
        ),
        "DENIED" => Why::new(
            Reason::Unreachable,
            "the server is in protected mode, and takes clients from its own host only",
        ),
        "NOAUTH" | "WRONGPASS" => Why::new(
            Reason::Refused,
            "the server refused the user or the password",
        ),
        _ => Why::new(Reason::Unsupported, format!("the server refused {command}")),
    }
}

#[cfg(test)]
mod tests;
