use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::url::{Broker, UrlOptions, parse_broker, parse_management};

mod answers;
mod node;

fn server(url: &str) -> ManagementServer {
    let broker = parse_broker("amqp://", &UrlOptions::default());
    let Ok(Broker::Amqp(servers)) = broker else {
        panic!("an AMQP URL")
    };
    parse_management(url, &servers.first, &UrlOptions::default()).expect("a management URL")
}

fn run<T>(read: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(read)
}
/// A server that answers each request with the next of `answers`, and then closes; what it was asked.
fn false_server(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let asked = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            asked.push(String::from_utf8_lossy(&request).into_owned());
            let _ = stream.write_all(&answer);
        }
        asked
    });
    (format!("http://u:hunter2@127.0.0.1:{port}"), asked)
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

fn connect_error(answers: Vec<Vec<u8>>) -> Why {
    let (url, asked) = false_server(answers);
    let why = run(ManagementReader::connect(&server(&url), None))
        .err()
        .expect("an error");
    for request in asked.join().expect("the server ends") {
        assert!(
            request.is_empty() || request.starts_with("GET /api/"),
            "{request}"
        );
    }
    assert!(
        !why.detail.contains("hunter2") && !why.detail.contains("SECRET"),
        "{why:?}"
    );
    why
}

#[test]
fn answers_that_are_none_are_named() {
    let cases = [
        (
            answer("200 OK", "<html>SECRET</html>"),
            Reason::Malformed,
            "web page",
        ),
        (
            answer("200 OK", "{\"tags\": [\"SECRET"),
            Reason::Malformed,
            "in the middle",
        ),
        (answer("200 OK", "SECRET"), Reason::Malformed, "is not JSON"),
        (answer("200 OK", "[]"), Reason::Malformed, "no object"),
        (answer("200 OK", ""), Reason::Malformed, "in the middle"),
        (
            answer("401 No", "{\"reason\": \"Login failed SECRET\"}"),
            Reason::Refused,
            "--management",
        ),
        (
            answer("401 No", "{\"reason\": \"Not management user\"}"),
            Reason::Refused,
            "tag monitoring",
        ),
        (answer("404 No", "SECRET"), Reason::Unsupported, "(404)"),
        (
            answer("302 Found", ""),
            Reason::Unsupported,
            "sends elsewhere",
        ),
        (answer("502 Bad", "<html>"), Reason::Unreachable, "(502)"),
        (
            answer("418 Tea", ""),
            Reason::Unsupported,
            "does not take the request",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"tags\"".to_vec(),
            Reason::Unreachable,
            "broke off",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x46".to_vec(),
            Reason::Malformed,
            "write https://",
        ),
        (
            b"AMQP\x00\x00\x09\x01".to_vec(),
            Reason::Malformed,
            "does not answer in HTTP",
        ),
        (Vec::new(), Reason::Unreachable, "closed the connection"),
    ];
    for (bytes, reason, words) in cases {
        let why = connect_error(vec![bytes.clone()]);
        let sent = String::from_utf8_lossy(&bytes);
        assert_eq!(why.reason, reason, "{sent}: {why:?}");
        assert!(why.detail.contains(words), "{sent}: {why:?}");
    }
}

#[test]
fn large_and_late_answers_are_given_up() {
    let get = |limit: usize, patience: Duration, bytes: Vec<u8>| {
        let (url, _) = false_server(vec![bytes]);
        let http = Http::new(&server(&url), None)
            .expect("a client")
            .with_limits(limit, patience);
        run(http.get("/api/whoami")).err().expect("an error").reason
    };
    let long = answer("200 OK", &" ".repeat(5000));
    assert_eq!(get(4999, Duration::from_secs(5), long), Reason::Truncated);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let http = Http::new(&server(&url), None).expect("a client");
    let http = http.with_limits(1, Duration::from_millis(50));
    let late = run(http.get("/api/whoami")).err().expect("an error");
    assert_eq!(late.reason, Reason::TimedOut);
}

fn page(page: u64, of: u64, total: u64, names: &[&str]) -> Vec<u8> {
    let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let body = json!({"page": page, "page_count": of, "total_count": total, "items": items});
    answer("200 OK", &body.to_string())
}

fn queues_from(mut answers: Vec<Vec<u8>>) -> (Observed<Vec<String>>, Vec<String>) {
    answers.insert(0, answer("200 OK", "{}"));
    answers.insert(0, answer("200 OK", "{\"tags\": \"monitoring\"}"));
    let (url, asked) = false_server(answers);
    let queues = run(async {
        let reader = ManagementReader::connect(&server(&url), None).await?;
        Ok::<_, Why>(reader.queues("a/b").await)
    });
    let queues = queues.expect("connected");
    let paths = asked.join().expect("the server ends").into_iter().skip(2);
    let paths = paths.map(|request| request.split(' ').nth(1).unwrap_or_default().to_owned());
    let names = queues.map(|queues| queues.into_iter().map(|queue| queue.name).collect());
    (names, paths.collect())
}

fn seen(names: &[&str]) -> Observed<Vec<String>> {
    Observed::Seen(names.iter().map(|&name| name.to_owned()).collect())
}

#[test]
fn pages_are_joined_and_read_again_where_they_shift() {
    let (queues, paths) = queues_from(vec![page(1, 2, 3, &["a", "b"]), page(2, 2, 3, &["c"])]);
    assert_eq!(queues, seen(&["a", "b", "c"]));
    assert!(paths[0].starts_with("/api/queues/a%2Fb?page=1&page_size=500&columns="));

    // One went while it was read: the second page begins one later.
    let shifted = [page(1, 2, 4, &["a", "b"]), page(2, 2, 3, &["d"])];
    let again = [page(1, 2, 3, &["b", "c"]), page(2, 2, 3, &["d"])];
    let (queues, _) = queues_from([shifted.clone(), again].concat());
    assert_eq!(queues, seen(&["b", "c", "d"]));

    // It never rests: at last in one answer.
    let whole = answer("200 OK", "[{\"name\": \"a\"}]");
    let (queues, paths) =
        queues_from([&shifted[..], &shifted[..], std::slice::from_ref(&whole)].concat());
    assert_eq!(queues, seen(&["a"]));
    assert!(
        paths
            .last()
            .is_some_and(|path| path.starts_with("/api/queues/a%2Fb?columns=name"))
    );

    // A server that knows no pages, and a list that has too many.
    for first in [whole.clone(), page(1, 9, 4001, &["a", "b"])] {
        let (queues, paths) = queues_from(vec![first, whole.clone()]);
        assert_eq!((queues, paths.len()), (seen(&["a"]), 2));
    }
}

#[test]
fn without_statistics_an_empty_list_is_unseen() {
    // As RabbitMQ 3.10 answers under management_agent.disable_metrics_collector: no connections, whatever there are.
    let off = json!({"product_name": "RabbitMQ", "disable_stats": true}).to_string();
    let (url, _) = false_server(vec![
        answer("200 OK", "{\"tags\": [\"administrator\"]}"),
        answer("200 OK", &off),
        answer("200 OK", "[]"),
    ]);
    let connections = run(async {
        let reader = ManagementReader::connect(&server(&url), None).await?;
        Ok::<_, Why>(reader.connections("/").await)
    });
    let connections = connections.expect("connected");
    let why = connections.unseen().expect("unseen");
    assert_eq!(why.reason, Reason::Unsupported);
    assert!(why.detail.contains("disable_metrics_collector"), "{why:?}");
}

#[test]
fn a_list_that_lacks_an_entry_is_no_list() {
    let (queues, _) = queues_from(vec![answer(
        "200 OK",
        "{\"page_count\": 1, \"total_count\": 2, \"items\": [{\"name\": \"a\"}, {}]}",
    )]);
    assert_eq!(
        queues.unseen().map(|why| why.reason),
        Some(Reason::Malformed)
    );
}
