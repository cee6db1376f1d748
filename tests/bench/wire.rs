//! The barest client that can be: it finds the end of a reply, and looks at nothing in it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

/// Messages in one reply.
const CHUNK: u64 = 1000;
/// Bytes of one message, as a task with a few arguments has.
const MESSAGE: usize = 940;

pub struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(256 * 1024, stream),
        }
    }

    /// Reads a whole list in chunks, two requests under way at a time, and throws it away.
    pub fn transfer(&mut self, list: &str) {
        let length = self.ask(&["LLEN", list]);
        let chunks = length.div_ceil(CHUNK);
        for chunk in 0..=chunks {
            if chunk < chunks {
                let (from, to) = (chunk * CHUNK, chunk * CHUNK + CHUNK - 1);
                self.send(&["LRANGE", list, &from.to_string(), &to.to_string()]);
            }
            if chunk > 0 {
                self.skip_reply();
            }
        }
    }

    pub fn ping(&mut self) {
        self.send(&["PING"]);
        self.skip_reply();
    }

    /// Sends a command whose reply is an integer.
    fn ask(&mut self, words: &[&str]) -> u64 {
        self.send(words);
        self.header().1
    }

    fn send(&mut self, words: &[&str]) {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            let _ = write!(request, "${}\r\n{word}\r\n", word.len());
        }
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn skip_reply(&mut self) {
        let mut pending = 1;
        while pending > 0 {
            pending -= 1;
            match self.header() {
                (b'*', items) => pending += items,
                (b'$', bytes) => self.skip(bytes + 2),
                _ => (),
            }
        }
    }

    /// The type of the next reply and its number, 0 where it has none.
    fn header(&mut self) -> (u8, u64) {
        let mut line = Vec::with_capacity(16);
        self.stream.read_until(b'\n', &mut line).unwrap();
        assert!(
            line.first().is_some_and(|kind| *kind != b'-'),
            "{}",
            String::from_utf8_lossy(&line)
        );
        let number = line.iter().skip(1).take_while(|byte| byte.is_ascii_digit());
        (
            line[0],
            number.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
        )
    }

    fn skip(&mut self, bytes: u64) {
        let mut left = usize::try_from(bytes).unwrap();
        while left > 0 {
            let ready = self.stream.fill_buf().unwrap().len();
            assert!(ready > 0, "the server closed the connection");
            let taken = ready.min(left);
            self.stream.consume(taken);
            left -= taken;
        }
    }
}

/// Fills a list with messages as Celery writes them; returns how many bytes they are.
pub fn fill(wire: &mut Wire, list: &str, messages: u64) -> u64 {
    const BATCH: u64 = 500;
    let mut bytes = 0;
    for from in (0..messages).step_by(500) {
        let batch: Vec<String> = (from..(from + BATCH).min(messages)).map(message).collect();
        bytes += batch
            .iter()
            .map(|message| message.len() as u64)
            .sum::<u64>();
        let words: Vec<&str> = ["LPUSH", list]
            .into_iter()
            .chain(batch.iter().map(String::as_str))
            .collect();
        wire.ask(&words);
    }
    bytes
}

/// The id of the message with this number: it looks random, and is the same in every run.
pub fn id(number: u64) -> String {
    // The finaliser of splitmix64.
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let (high, low) = (mix(2 * number + 1), mix(2 * number + 2));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

fn message(number: u64) -> String {
    let (id, tag) = (id(number), id(number ^ 1 << 50));
    // base64 of [[7345, "order"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]
    let body = "W1s3MzQ1LCAib3JkZXIiXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNob3JkIjogbnVsbH1d";
    let head = format!(
        r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "shop.orders.confirm", "id": "{id}", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], "root_id": "{id}", "parent_id": null, "argsrepr": "(7345, '"#
    );
    let tail = format!(
        r#"')", "kwargsrepr": "{{}}", "origin": "gen4711@web-1", "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {{}}}}, "properties": {{"correlation_id": "{id}", "delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "celery"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "{tag}"}}}}"#
    );
    let padding = "o".repeat(MESSAGE.saturating_sub(head.len() + tail.len()));
    format!("{head}{padding}{tail}")
}
