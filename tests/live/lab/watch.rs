//! Watching what a client does to a Redis: each of its commands, and every key before and after.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use redis::Commands as _;

use super::redis_server::{RedisServer, SOON};
use super::wait_until;

/// One command that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub db: String,
    /// An address, or `unix:PATH`, or `lua`.
    pub client: String,
    pub words: Vec<String>,
}

/// The commands of all clients that came through the port; those of the Unix socket (the test's own, and the workers'
/// where a test puts them there) are left out, so that what remains is the program under test.
pub struct Monitor {
    seen: Arc<Mutex<Vec<Seen>>>,
    fence: redis::Connection,
    fences: usize,
}

impl Monitor {
    pub fn new(server: &RedisServer) -> Self {
        let mut stream =
            UnixStream::connect(&server.socket).expect("the server listens on its socket");
        stream
            .write_all(b"MONITOR\r\n")
            .expect("the server is alive");
        let mut lines = BufReader::new(stream).split(b'\n');
        lines
            .next()
            .expect("MONITOR is answered")
            .expect("MONITOR is answered");
        let seen = Arc::new(Mutex::new(Vec::new()));
        thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for line in lines.map_while(Result::ok) {
                    let found = parse(&line);
                    let own = found.words.first().is_some_and(|word| word == "ECHO");
                    if own || found.client.starts_with("127.0.0.1:") {
                        seen.lock()
                            .expect("no thread panics while it holds this")
                            .push(found);
                    }
                }
            }
        });
        Self {
            seen,
            fence: server.connect(),
            fences: 0,
        }
    }

    /// All commands until now. A marker of our own is sent and waited for, so that none is missed.
    pub fn commands(&mut self) -> Vec<Seen> {
        self.fences += 1;
        let mark = format!("fence {}", self.fences);
        let _: String = redis::cmd("ECHO")
            .arg(&mark)
            .query(&mut self.fence)
            .expect("the server is alive");
        wait_until("MONITOR shows the marker", SOON, || {
            let seen = self
                .seen
                .lock()
                .expect("no thread panics while it holds this");
            seen.iter()
                .any(|one| one.words.get(1) == Some(&mark))
                .then(|| {
                    seen.iter()
                        .filter(|one| one.client.starts_with("127.0.0.1:"))
                        .cloned()
                        .collect()
                })
        })
    }

    /// Waits until a client sends a command of this name.
    pub fn wait_for(&self, name: &str) {
        wait_until(&format!("someone sends {name}"), SOON, || {
            let seen = self
                .seen
                .lock()
                .expect("no thread panics while it holds this");
            let found = |one: &Seen| {
                one.words
                    .first()
                    .is_some_and(|word| word.eq_ignore_ascii_case(name))
            };
            seen.iter().any(found).then_some(())
        });
    }
}

/// Reads a line such as `+1795343604.758414 [0 127.0.0.1:53211] "GET" "a \"b\" \x06\r"`.
fn parse(line: &[u8]) -> Seen {
    let line = String::from_utf8_lossy(line).into_owned();
    let (head, rest) = line.split_once("] ").unwrap_or((&line, ""));
    let (db, client) = head
        .split_once('[')
        .and_then(|(_, source)| source.split_once(' '))
        .unwrap_or_default();
    let mut words = Vec::new();
    let mut rest = rest.trim_end().chars();
    while rest.next() == Some('"') {
        let mut word = String::new();
        loop {
            match rest.next() {
                Some('\\') => match rest.next() {
                    Some('x') => {
                        let digits: String = rest.by_ref().take(2).collect();
                        word.push(char::from(
                            u8::from_str_radix(&digits, 16).expect("Redis writes two digits"),
                        ));
                    }
                    Some('n') => word.push('\n'),
                    Some('r') => word.push('\r'),
                    Some('t') => word.push('\t'),
                    Some(other) => word.push(other),
                    None => break,
                },
                Some('"') | None => break,
                Some(other) => word.push(other),
            }
        }
        words.push(word);
        rest.next(); // the space between two words
    }
    Seen {
        db: db.to_owned(),
        client: client.to_owned(),
        words,
    }
}

/// Every key of databases 0 to 3, with its value and the moment when it expires.
#[derive(Debug, PartialEq, Eq)]
pub struct Keyspace(BTreeMap<(u8, String), (Vec<u8>, i64)>);

/// Workers write these by themselves.
const WORKERS_OWN: [&str; 2] = ["_kombu.binding_deadlines", "unacked_mutex"];

impl Keyspace {
    pub fn of(server: &RedisServer) -> Self {
        let mut all = BTreeMap::new();
        for db in 0..4 {
            let mut connection = server.connect_to(db);
            let keys: Vec<Vec<u8>> = connection.keys("*").expect("the server is alive");
            for key in keys {
                let name = String::from_utf8_lossy(&key).into_owned();
                if WORKERS_OWN.iter().any(|own| name.ends_with(own)) {
                    continue;
                }
                let (value, expires): (Option<Vec<u8>>, i64) = redis::pipe()
                    .cmd("DUMP")
                    .arg(&key)
                    .cmd("PEXPIRETIME")
                    .arg(&key)
                    .query(&mut connection)
                    .expect("the server is alive");
                all.insert((db, name), (value.unwrap_or_default(), expires));
            }
        }
        Self(all)
    }

    /// Fails, naming the keys, unless nothing has changed since `self`.
    pub fn assert_same_now(&self, server: &RedisServer) {
        let now = Self::of(server);
        let differs = |key: &&(u8, String)| self.0.get(*key) != now.0.get(*key);
        let changed: Vec<_> = self.0.keys().chain(now.0.keys()).filter(differs).collect();
        assert!(changed.is_empty(), "changed: {changed:?}");
    }
}
