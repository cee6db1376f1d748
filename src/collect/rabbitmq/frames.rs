//! What the server sends, frame by frame, before the AMQP client reads it. The client would take a header table nested
//! without end for its stack's end, give up the connection for a text that is not UTF-8, and keep a body of any size.
//! Here such things become harmless ones of the same meaning to us, so that one message of somebody else's does not
//! hide all others.

use std::collections::HashMap;
use std::io;

use crate::celery::message::BODY_MAX;

/// Values nested deeper than this are handed on as bytes, which nobody looks into. Celery nests three deep.
const DEPTH: usize = 32;

/// The content type of a message whose own properties are larger than a frame may be: none of them is handed on.
pub(super) const UNREAD: &str = "x-celery-doctor-unread";

/// What a frame is taken to be at most before the server tells, and what RabbitMQ tells unless it is configured.
const FRAME_MAX: usize = 131_072;
/// Type, channel and size before the payload, and the end octet after it.
const AROUND: usize = 8;
const BEFORE: usize = 7;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Of a content header, what comes before the properties: class, weight and the body's size.
const FIXED: usize = 12;

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// The beginning of a frame that has not come whole, where it must be whole.
    held: Vec<u8>,
    /// How to go on.
    state: State,
    /// The largest frame that the client takes.
    frame_max: usize,
    /// Messages on their way whose bodies are not handed on whole, by their channel.
    cut: HashMap<u16, Cut>,
    /// What the client may read, from `given` on.
    ready: Vec<u8>,
    given: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Until the size of the next frame is known.
    Start,
    /// Until this many bytes are held.
    Whole(usize),
    /// Until the fixed part of a content header is held; the frame's payload has this size.
    Fixed(usize),
    /// So many bytes of a body are handed on, then so many are not, and then comes the end octet: handed on or not.
    Body(usize, usize, bool),
    /// What comes is no AMQP, and handed on as it is: the client says so.
    Foreign,
}

/// A body that is not handed on whole.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Bytes that are still to come.
    left: u64,
    /// Of these, the bytes that are handed on.
    keep: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            state: State::Start,
            frame_max: FRAME_MAX,
            cut: HashMap::new(),
            ready: Vec::new(),
            given: 0,
        }
    }
}

impl Frames {
    /// Hands on what is ready, as much as fits; the number of bytes.
    pub(super) fn give(&mut self, buffer: &mut [u8]) -> usize {
        let ready = self.ready.get(self.given..).unwrap_or_default();
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.given += count;
        if self.given == self.ready.len() {
            self.ready.clear();
            self.given = 0;
        }
        count
    }

    /// Takes what came over the wire.
    ///
    /// # Errors
    /// Where the client could not stand it.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Foreign => {
                    self.ready.extend_from_slice(bytes);
                    return Ok(());
                }
                State::Start => {
                    let rest = self.hold(bytes, BEFORE);
                    if self.held.len() == BEFORE || foreign(&self.held) {
                        self.start()?;
                    }
                    rest
                }
                State::Whole(size) => {
                    let rest = self.hold(bytes, size);
                    if self.held.len() == size {
                        self.whole()?;
                    }
                    rest
                }
                State::Fixed(size) => {
                    let rest = self.hold(bytes, BEFORE + FIXED);
                    if self.held.len() == BEFORE + FIXED {
                        self.without_properties(size - FIXED);
                    }
                    rest
                }
                State::Body(keep, drop, end) => self.body(bytes, keep, drop, end),
            };
        }
        Ok(())
    }

    /// Holds bytes until there are `size`; the rest.
    fn hold<'b>(&mut self, bytes: &'b [u8], size: usize) -> &'b [u8] {
        let (more, rest) = bytes.split_at(bytes.len().min(size - self.held.len()));
        self.held.extend_from_slice(more);
        rest
    }

    /// A frame begins.
    fn start(&mut self) -> io::Result<()> {
        let [kind, c1, c2, s1, s2, s3, s4] = self.held[..] else {
            self.pass_on();
            return Ok(());
        };
        let channel = u16::from_be_bytes([c1, c2]);
        let size = u32::from_be_bytes([s1, s2, s3, s4]);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let fits = size <= self.frame_max.saturating_sub(AROUND);
        self.state = match kind {
            BODY => {
                let cut = self.cut.get(&channel).copied();
                let keep = cut.map_or(size, |cut| cut.keep.min(size));
                if let Some(cut) = cut {
                    let left = cut.left.saturating_sub(size as u64);
                    let keep = cut.keep - keep;
                    if left == 0 {
                        self.cut.remove(&channel);
                    } else {
                        self.cut.insert(channel, Cut { left, keep });
                    }
                }
                let handed_on = keep > 0 || size == 0;
                if handed_on {
                    self.ready.extend_from_slice(&[kind, c1, c2]);
                    let keep = u32::try_from(keep).unwrap_or(u32::MAX);
                    self.ready.extend_from_slice(&keep.to_be_bytes());
                }
                self.held.clear();
                State::Body(keep, size - keep, handed_on)
            }
            HEADER if !fits && size > FIXED => State::Fixed(size),
            METHOD | HEADER | HEARTBEAT if fits => State::Whole(size + AROUND),
            METHOD | HEADER | HEARTBEAT => {
                return Err(broken(
                    "the server sent a larger frame than it had agreed to",
                ));
            }
            _ => {
                self.pass_on();
                return Ok(());
            }
        };
        Ok(())
    }

    fn pass_on(&mut self) {
        self.ready.append(&mut self.held);
        self.state = State::Foreign;
    }

    /// A method or a content header is held.
    fn whole(&mut self) -> io::Result<()> {
        let kind = self.held.first().copied();
        let end = self.held.len() - 1;
        let mut payload = Cursor {
            bytes: &mut self.held[BEFORE..end],
            at: 0,
        };
        let read = match kind {
            Some(METHOD) => payload.method(&mut self.frame_max),
            Some(HEADER) => payload.properties(),
            _ => Some(()),
        };
        if read.is_none() {
            return Err(broken("the server sent a frame that breaks off inside"));
        }
        if kind == Some(HEADER) {
            self.size_of_body(BODY_MAX + 1);
        }
        self.ready.append(&mut self.held);
        self.state = State::Start;
        Ok(())
    }

    /// A content header with more properties than fit into a frame: one without is handed on, and no body.
    fn without_properties(&mut self, skipped: usize) {
        self.size_of_body(0);
        let mut properties = vec![0x80, 0];
        properties.push(u8::try_from(UNREAD.len()).unwrap_or(u8::MAX));
        properties.extend_from_slice(UNREAD.as_bytes());
        let size = u32::try_from(FIXED + properties.len()).unwrap_or(u32::MAX);
        self.held[3..BEFORE].copy_from_slice(&size.to_be_bytes());
        self.ready.append(&mut self.held);
        self.ready.append(&mut properties);
        self.state = State::Body(0, skipped, true);
    }

    /// Of the body whose header is held, at most so many bytes are handed on.
    fn size_of_body(&mut self, most: usize) {
        let channel = self.held.get(1..3).and_then(|two| two.try_into().ok());
        let field = self.held.get_mut(BEFORE + 4..BEFORE + FIXED);
        let (Some(channel), Some(field)) = (channel.map(u16::from_be_bytes), field) else {
            return;
        };
        let size = field
            .iter()
            .fold(0, |size, byte| (size << 8) | u64::from(*byte));
        if size > most as u64 {
            field.copy_from_slice(&(most as u64).to_be_bytes());
            let cut = Cut {
                left: size,
                keep: most,
            };
            self.cut.insert(channel, cut);
        } else {
            // A message before it may have ended with its channel.
            self.cut.remove(&channel);
        }
    }

    fn body<'b>(&mut self, bytes: &'b [u8], keep: usize, drop: usize, end: bool) -> &'b [u8] {
        let (kept, rest) = bytes.split_at(bytes.len().min(keep));
        self.ready.extend_from_slice(kept);
        let keep = keep - kept.len();
        let (dropped, rest) = rest.split_at(rest.len().min(drop));
        let drop = drop - dropped.len();
        let Some((last, after)) = rest.split_first() else {
            self.state = State::Body(keep, drop, end);
            return rest;
        };
        if end {
            self.ready.push(*last);
        }
        self.state = State::Start;
        after
    }
}

/// These are the first bytes of no frame.
fn foreign(held: &[u8]) -> bool {
    let known = |kind: &u8| [METHOD, HEADER, BODY, HEARTBEAT].contains(kind);
    !held.first().is_some_and(known)
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The payload of a frame, read from its start. None where it ends too early, or holds a type that AMQP does not have.
struct Cursor<'f> {
    bytes: &'f mut [u8],
    at: usize,
}

impl Cursor<'_> {
    /// The frames that hold tables, or texts by others than us. Notes the size of frames that the server proposes.
    fn method(&mut self, frame_max: &mut usize) -> Option<()> {
        match (self.number(2)?, self.number(2)?) {
            // connection.start: the protocol's version, and what the server says of itself.
            (10, 10) => {
                self.skip(2)?;
                self.table()?;
            }
            // connection.tune: channels, and the size of frames, where 0 is no limit.
            (10, 30) => {
                self.skip(2)?;
                let proposed = self.number(4)?;
                if proposed >= AROUND {
                    *frame_max = proposed;
                }
            }
            // connection.close and channel.close: why. RabbitMQ cuts a long text anywhere.
            (10, 50) | (20, 40) => {
                self.skip(2)?;
                self.text()?;
            }
            // basic.return
            (60, 50) => {
                self.skip(2)?;
                self.text()?;
                self.text()?;
                self.text()?;
            }
            // basic.deliver
            (60, 60) => {
                self.text()?;
                self.skip(9)?;
                self.text()?;
                self.text()?;
            }
            // basic.get-ok
            (60, 71) => {
                self.skip(9)?;
                self.text()?;
                self.text()?;
            }
            _ => {}
        }
        Some(())
    }

    /// A content header. The properties that are there come in this order.
    fn properties(&mut self) -> Option<()> {
        self.skip(FIXED)?;
        let flags = self.number(2)?;
        for bit in (2..16).rev() {
            if flags & (1 << bit) == 0 {
                continue;
            }
            match bit {
                // headers
                13 => self.table()?,
                // delivery-mode, priority
                12 | 11 => self.skip(1)?,
                // timestamp
                6 => self.skip(8)?,
                _ => self.text()?,
            }
        }
        Some(())
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.end(count)?;
        Some(())
    }

    fn end(&self, count: usize) -> Option<usize> {
        let end = self.at.checked_add(count)?;
        (end <= self.bytes.len()).then_some(end)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        let start = self.at;
        self.skip(bytes)?;
        let number = self.bytes.get(start..self.at)?;
        Some(
            number
                .iter()
                .fold(0, |all, byte| (all << 8) | usize::from(*byte)),
        )
    }

    /// A short text. What is not UTF-8 in it becomes question marks.
    fn text(&mut self) -> Option<()> {
        let size = self.number(1)?;
        let start = self.at;
        self.skip(size)?;
        let mut rest = self.bytes.get_mut(start..self.at)?;
        while let Err(error) = std::str::from_utf8(rest) {
            let good = error.valid_up_to();
            let bad = error.error_len().unwrap_or(rest.len() - good);
            rest[good..good + bad].fill(b'?');
            rest = &mut rest[good + bad..];
        }
        Some(())
    }

    /// A table, and what it holds.
    fn table(&mut self) -> Option<()> {
        const TABLE: bool = true;
        let size = self.number(4)?;
        let mut open = vec![(self.end(size)?, TABLE)];
        while let Some(&(end, keyed)) = open.last() {
            if self.at >= end {
                open.pop();
                continue;
            }
            if keyed {
                self.text()?;
            }
            let tag = self.at;
            match u8::try_from(self.number(1)?).ok()? {
                b'V' => {}
                b't' | b'b' | b'B' => self.skip(1)?,
                b's' | b'U' | b'u' => self.skip(2)?,
                b'I' | b'i' | b'f' => self.skip(4)?,
                b'D' => self.skip(5)?,
                b'L' | b'l' | b'd' | b'T' => self.skip(8)?,
                b'S' | b'x' => {
                    let size = self.number(4)?;
                    self.skip(size)?;
                }
                b'A' | b'F' if open.len() > DEPTH => {
                    self.bytes[tag] = b'x';
                    let size = self.number(4)?;
                    self.skip(size)?;
                }
                kind @ (b'A' | b'F') => {
                    let size = self.number(4)?;
                    open.push((self.end(size)?, kind == b'F'));
                }
                _ => return None,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
