//! Lists from bytes that a server could have sent.

use proptest::prelude::*;

use super::*;

fn reader(bytes: Vec<u8>) -> ListReader {
    ListReader {
        stream: Box::new(tokio::io::join(
            std::io::Cursor::new(bytes),
            tokio::io::sink(),
        )),
        buffer: vec![0; BUFFER],
        start: 0,
        end: 0,
        ahead: VecDeque::new(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn reply(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", messages.len()).into_bytes();
    for message in messages {
        bytes.extend_from_slice(format!("${}\r\n", message.len()).as_bytes());
        bytes.extend_from_slice(message);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn read(bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Why> {
    let mut seen = Vec::new();
    runtime()
        .block_on(reader(bytes).each("q", 3, None, |_, message| seen.push(message.to_vec())))
        .map(|_| seen)
}

#[test]
fn messages_larger_than_the_buffer_are_seen_whole() {
    let messages = vec![
        b"a".to_vec(),
        vec![b'x'; 3 * BUFFER],
        Vec::new(),
        b"\r\n$5".to_vec(),
    ];
    assert_eq!(read(reply(&messages)), Ok(messages));
}

#[test]
fn a_cut_off_reply_is_an_error() {
    let mut bytes = reply(&[b"abc".to_vec(), b"def".to_vec()]);
    bytes.truncate(bytes.len() - 4);
    assert_eq!(
        read(bytes).map_err(|why| why.reason),
        Err(Reason::Unreachable)
    );
}

fn named(prefix: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| format!("{prefix}{n}").into_bytes())
        .collect()
}

/// What is seen of these lists, which are asked for together as far as they are short.
fn read_ahead(bytes: Vec<u8>, lists: &[(&str, u64)]) -> Result<Vec<Vec<Vec<u8>>>, Why> {
    let mut reader = reader(bytes);
    runtime().block_on(async {
        let mut all = Vec::new();
        for (at, (key, length)) in lists.iter().enumerate() {
            reader.ask_ahead(lists[at..].iter().copied()).await?;
            let mut seen = Vec::new();
            let see = |_, message: &[u8]| seen.push(message.to_vec());
            reader.each(key, *length, None, see).await?;
            all.push(seen);
        }
        Ok(all)
    })
}

#[test]
fn lists_that_were_asked_for_together_are_told_apart() {
    // The second one is empty by now.
    let lists = [named("a", 2), Vec::new(), named("c", 13)];
    let bytes = lists.iter().flat_map(|list| reply(list)).collect();
    let read = read_ahead(bytes, &[("a", 2), ("b", 1), ("c", 13)]);
    assert_eq!(read, Ok(lists.to_vec()));
}

#[test]
fn a_list_that_grew_meanwhile_is_read_whole_and_the_next_one_anew() {
    let (a, b) = (named("a", 4), named("b", 1));
    let replies = [&a[..3], &b, &a[3..], &[], &b];
    let bytes = replies.into_iter().flat_map(reply).collect();
    assert_eq!(read_ahead(bytes, &[("a", 2), ("b", 1)]), Ok(vec![a, b]));
}

#[test]
fn no_more_is_asked_for_together_than_for_one_list() {
    let mut reader = reader(Vec::new());
    let asked = |lengths: &[u64], reader: &mut ListReader| {
        reader.ahead.clear();
        let lists = lengths.iter().map(|length| ("q", *length));
        runtime()
            .block_on(reader.ask_ahead(lists))
            .expect("written");
        reader.ahead.len()
    };
    assert_eq!(asked(&[1; 100], &mut reader), 16);
    assert_eq!(asked(&[15, 1, 1], &mut reader), 2);
    assert_eq!(asked(&[17, 1], &mut reader), 0);
}

#[test]
fn an_error_reply_names_no_server_text() {
    let why = read(b"-WRONGTYPE Operation against a key hunter2\r\n".to_vec());
    assert_eq!(why, Err(Why::new(Reason::Malformed, "it is no list")));
}

#[test]
fn chunks_keep_a_reply_near_a_millisecond() {
    assert_eq!(chunk_of(0, 0, 10), FIRST_CHUNK);
    assert_eq!(chunk_of(100, 100 * 1024 * 1024, 10), 1);
    assert_eq!(chunk_of(1_000, 1_000_000, 1_000), 1_048);
    assert_eq!(chunk_of(1_000, 10_000, 10_000_000), MOST);
}

proptest! {
    #[test]
    fn any_bytes_end_in_messages_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(bytes);
    }

    #[test]
    fn what_was_sent_is_seen(messages in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..50), 0..15)) {
        prop_assert_eq!(read(reply(&messages)), Ok(messages));
    }
}
