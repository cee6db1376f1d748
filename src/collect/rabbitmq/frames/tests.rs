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
        let (_, read) =
            lapin::types::parsing::parse_field_table(&all[BEFORE + FIXED + 2..]).expect("a table");
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
