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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: u8 = 0xce;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(u32::try_from(payload.len()).expect("small").to_be_bytes());
        frame.extend(payload);
        frame.push(END);
        frame
    }

    /// A content header with a header table of these bytes.
    fn header(body: u64, table: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0];
        payload.extend(body.to_be_bytes());
        payload.extend([0x20, 0]);
        payload.extend(u32::try_from(table.len()).expect("small").to_be_bytes());
        payload.extend(table);
        payload
    }

    fn arrays(depth: usize) -> Vec<u8> {
        let mut inner = Vec::new();
        for _ in 0..depth {
            let mut outer = vec![b'A'];
            outer.extend(u32::try_from(inner.len()).expect("small").to_be_bytes());
            outer.append(&mut inner);
            inner = outer;
        }
        [b"\x01a".as_slice(), &inner].concat()
    }

    /// What is handed on, where this comes in pieces of `step` bytes.
    fn handed_on(bytes: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let mut frames = Frames::default();
        let mut all = Vec::new();
        let mut buffer = [0; 1000];
        for piece in bytes.chunks(step) {
            frames.take(piece)?;
            loop {
                let count = frames.give(&mut buffer);
                if count == 0 {
                    break;
                }
                all.extend(&buffer[..count]);
            }
        }
        Ok(all)
    }

    #[test]
    fn ordinary_frames_are_handed_on_as_they_came() {
        let table = b"\x02idS\0\0\0\x02ab\x01nV\x01xF\0\0\0\x04\x01tt\x01";
        let all = [
            frame(
                METHOD,
                1,
                b"\0\x3c\0\x3c\x01t\0\0\0\0\0\0\0\x01\0\x02ex\x03key",
            ),
            frame(HEADER, 1, &header(5, table)),
            frame(BODY, 1, b"hello"),
            frame(HEARTBEAT, 0, b""),
            frame(METHOD, 1, b"\0\x3c\0\x1f\x01t"),
        ]
        .concat();
        for step in 1..=all.len() {
            assert_eq!(handed_on(&all, step).expect("frames"), all, "{step}");
        }
        let other = b"HTTP/1.1 400 Bad Request\r\n";
        assert_eq!(handed_on(other, 3).expect("bytes"), other);
        let other = b"AMQP\0\0\x09\x01";
        assert_eq!(handed_on(other, 3).expect("bytes"), other);
    }

    #[test]
    fn what_is_nested_too_deep_becomes_bytes() {
        for depth in [1, DEPTH, DEPTH + 1, 20_000] {
            let sent = frame(HEADER, 1, &header(0, &arrays(depth)));
            let all = handed_on(&sent, 4096).expect("frames");
            let changed = sent.iter().zip(&all).filter(|(a, b)| a != b).count();
            assert_eq!(
                (all.len(), changed),
                (sent.len(), usize::from(depth > DEPTH))
            );
            let (_, read) = lapin::types::parsing::parse_field_table(&all[BEFORE + FIXED + 2..])
                .expect("a table");
            assert_eq!(read.inner().len(), 1);
        }
        let start = [
            b"\0\x0a\0\x0a\0\x09".as_slice(),
            &header(0, &arrays(9000))[14..],
        ]
        .concat();
        let all = handed_on(&frame(METHOD, 0, &start), 100).expect("frames");
        assert!(all.contains(&b'x'));
    }

    #[test]
    fn texts_that_are_none_become_question_marks() {
        let close = |text: &[u8]| {
            let size = u8::try_from(text.len()).expect("short");
            let payload = [
                b"\0\x14\0\x28\x01\x94".as_slice(),
                &[size],
                text,
                b"\0\x32\0\x0a",
            ];
            frame(METHOD, 3, &payload.concat())
        };
        let all = handed_on(&close("é\u{fffd}".as_bytes().get(..3).expect("bytes")), 5);
        assert_eq!(all.expect("frames"), close("é?".as_bytes()));
        let all = handed_on(&close(b"a\xff\xc3b"), 5).expect("frames");
        assert_eq!(all, close(b"a??b"));
    }

    #[test]
    fn of_a_large_body_the_beginning_is_handed_on() {
        let part = vec![b'x'; 100_000];
        let parts = BODY_MAX / part.len() + 3;
        let size = (parts * part.len()) as u64;
        let mut sent = frame(HEADER, 7, &header(size, b""));
        for _ in 0..parts {
            sent.extend(frame(BODY, 7, &part));
            // Another channel's in between.
            sent.extend(frame(BODY, 8, b"y"));
        }
        sent.extend(frame(HEADER, 7, &header(1, b"")));
        sent.extend(frame(BODY, 7, b"z"));
        let all = handed_on(&sent, 5000).expect("frames");
        let count = |byte| memchr::memchr_iter(byte, &all).count();
        assert_eq!(
            (count(b'x'), count(b'y'), count(b'z')),
            (BODY_MAX + 1, parts, 1)
        );
        assert_eq!(
            all[BEFORE + 4..BEFORE + FIXED],
            (BODY_MAX as u64 + 1).to_be_bytes()
        );
        let mut again = Frames::default();
        again.take(&all).expect("whole frames");
        assert!(again.held.is_empty() && matches!(again.state, State::Start));
    }

    #[test]
    fn properties_larger_than_a_frame_are_left_out_with_the_body() {
        let text = vec![b'x'; 300_000];
        let table = [b"\x01aS".as_slice(), &300_000_u32.to_be_bytes(), &text].concat();
        let next = frame(HEADER, 1, &header(0, b""));
        let sent = [
            frame(HEADER, 1, &header(5, &table)),
            frame(BODY, 1, b"hello"),
            next.clone(),
        ]
        .concat();
        let all = handed_on(&sent, 777).expect("frames");
        let short = [
            b"\0\x3c\0\0\0\0\0\0\0\0\0\0\x80\0".as_slice(),
            &[u8::try_from(UNREAD.len()).expect("short")],
            UNREAD.as_bytes(),
        ];
        assert_eq!(all, [frame(HEADER, 1, &short.concat()), next].concat());
        let method = frame(METHOD, 1, &text);
        assert!(handed_on(&method, 777).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_pieces_do_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            kind in 0_u8..10,
            step in 1_usize..40,
        ) {
            let framed = [frame(kind, 1, &bytes), bytes.clone(), frame(HEADER, 1, &header(3, &bytes))].concat();
            for sent in [&bytes, &framed] {
                let (whole, pieces) = (handed_on(sent, usize::MAX), handed_on(sent, step));
                prop_assert_eq!(whole.ok(), pieces.ok());
            }
        }
    }
}
