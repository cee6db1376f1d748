//! What an audit costs: of a long queue, beside the bare transfer of the same bytes, and of many reservations, queues and
//! workers at three sizes.
//!
//! `cargo bench --bench audit`. It needs redis-server, and about 1.2 GB of memory for the million messages;
//! `CELERY_DOCTOR_BENCH_MESSAGES` and `CELERY_DOCTOR_BENCH_ROUNDS` make it smaller. With `CELERY_DOCTOR_BENCH_SOAK=SECONDS`
//! it audits for so long while messages come and go, and prints every finding that is not information, and what the
//! worker did meanwhile. It prints and judges nothing.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails may panic")]
#![allow(clippy::print_stdout, reason = "the table is for standard output")]
#![allow(unreachable_pub, reason = "the lab is shared with the tests")]
#![allow(
    clippy::cast_precision_loss,
    reason = "counts of messages are far below 2^52"
)]

#[allow(
    dead_code,
    unused_imports,
    reason = "a benchmark needs a part of the tests' lab"
)]
#[path = "../live/lab/mod.rs"]
mod lab;
#[allow(dead_code, reason = "this benchmark needs a part of it")]
mod wire;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lab::{Lab, Outcome, RedisServer, Running};
use redis::Commands as _;
use wire::Wire;

const QUEUE: &str = "celery";

fn main() {
    let messages = from_env("CELERY_DOCTOR_BENCH_MESSAGES", 1_000_000);
    let rounds = from_env("CELERY_DOCTOR_BENCH_ROUNDS", 3);
    let lab = Lab::new();
    let soak = from_env("CELERY_DOCTOR_BENCH_SOAK", 0);
    if soak > 0 {
        return under_load(&lab, Duration::from_secs(soak));
    }
    let server = lab.redis();
    wire::fill(&mut Wire::connect(server.port), QUEUE, messages);
    let (mut bare, mut audits) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(timed(|| Wire::connect(server.port).transfer(QUEUE)));
        audits.push(audit(&lab, &server));
    }
    let bare = median(bare);
    let (seconds, peak) = worst(audits);
    println!("bare transfer          {bare:.3} s of {messages} messages");
    println!(
        "audit                  {seconds:.3} s, {:.2} times that, {peak:.1} MiB",
        seconds / bare
    );
    for size in [25_000_u64, 50_000, 100_000] {
        let server = lab.redis();
        reservations(&server, size);
        let workers = size / 500;
        let crowd = Crowd::gather(&server, workers, size);
        let (seconds, peak) = audit(&lab, &server);
        println!(
            "{size:>7} unacknowledged  {seconds:.3} s, {peak:.1} MiB, {} queues, {workers} workers gave {} answers",
            size / 100,
            crowd.leave()
        );
    }
}

/// So many reservations that nobody claims, and a hundredth as many queues.
fn reservations(server: &RedisServer, size: u64) {
    let mut connection = server.connect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    for start in (0..size).step_by(1_000) {
        let mut pipe = redis::pipe();
        for n in start..(start + 1_000).min(size) {
            let tag = format!("{n:08x}-1111-4000-8000-000000000000");
            let message = message(n, &tag);
            let value = serde_json::json!([message, "", "celery"]).to_string();
            pipe.hset("unacked", &tag, value).ignore();
            pipe.zadd("unacked_index", &tag, now - (n % 3_000) as f64)
                .ignore();
        }
        pipe.exec(&mut connection).unwrap();
    }
    for n in 0..size / 100 {
        let queue = format!("q{n}");
        let member = format!("{queue}\u{6}\u{16}\u{6}\u{16}{queue}");
        let () = connection
            .sadd(format!("_kombu.binding.{queue}"), member)
            .unwrap();
        let () = connection
            .lpush(&queue, message(n, "tag").to_string())
            .unwrap();
    }
}

fn message(n: u64, tag: &str) -> serde_json::Value {
    let id = wire::id(n);
    serde_json::json!({
        "body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"lang": "py", "task": format!("shop.task{}", n % 20), "id": id, "eta": null, "expires": null,
                    "retries": 0, "argsrepr": "()", "kwargsrepr": "{}", "origin": "gen1@bench"},
        "properties": {"correlation_id": id, "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
                       "delivery_info": {"exchange": "", "routing_key": "celery"}, "delivery_tag": tag}
    })
}

/// Workers as remote control sees them, played by one thread: real ones would need more memory than a machine has.
struct Crowd {
    over: Arc<AtomicBool>,
    player: thread::JoinHandle<u64>,
}

impl Crowd {
    /// So many workers, which hold twenty of the reservations each.
    fn gather(server: &RedisServer, workers: u64, reservations: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let client = redis::Client::open(server.db(0)).unwrap();
        let (ready, all_ready) = mpsc::channel();
        let player = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let connect = || client.get_connection().unwrap();
                let mut mouth = connect();
                let mut ears: Vec<redis::Connection> = (0..workers).map(|_| connect()).collect();
                let mut ears: Vec<redis::PubSub<'_>> =
                    ears.iter_mut().map(redis::Connection::as_pubsub).collect();
                for ear in &mut ears {
                    ear.subscribe("/0.celery.pidbox").unwrap();
                }
                ready.send(()).unwrap();
                let ear = &mut ears[0];
                ear.set_read_timeout(Some(Duration::from_millis(50)))
                    .unwrap();
                let captured: serde_json::Value =
                    serde_json::from_str(include_str!("../../fixtures/wire/celery-5.7.0.json"))
                        .unwrap();
                let mut answers = 0;
                while !over.load(Ordering::Relaxed) {
                    let Ok(request) = ear.get_message() else {
                        continue;
                    };
                    let mut pipe = redis::pipe();
                    let request: serde_json::Value =
                        serde_json::from_slice(request.get_payload_bytes()).unwrap();
                    let body = STANDARD.decode(request["body"].as_str().unwrap()).unwrap();
                    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    for worker in 0..workers {
                        let share = reservations / workers;
                        let (queue, reply) = answer(&captured, &body, worker, share);
                        pipe.lpush(queue, reply).ignore();
                        answers += 1;
                    }
                    pipe.exec(&mut mouth).unwrap();
                }
                answers
            }
        });
        all_ready.recv().unwrap();
        Self { over, player }
    }

    /// How many answers they gave.
    fn leave(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.player.join().unwrap()
    }
}

/// What a worker answers to a request, and in which list. The first twenty of its share of the reservations are its own.
fn answer(
    captured: &serde_json::Value,
    body: &serde_json::Value,
    worker: u64,
    share: u64,
) -> (String, String) {
    let node = format!("w{worker}@bench");
    let held = |from: u64, count: u64| -> Vec<serde_json::Value> {
        let claim = |n| {
            let n = worker * share + n;
            serde_json::json!({"id": wire::id(n), "name": format!("shop.task{}", n % 20), "args": [], "kwargs": {}, "hostname": node,
                               "time_start": if from == 0 { Some(1.0) } else { None }, "acknowledged": false,
                               "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": false}})
        };
        (from..from + count).map(claim).collect()
    };
    let said = match body["method"].as_str().unwrap() {
        "ping" => serde_json::json!({"ok": "pong"}),
        "active" => held(0, 4).into(),
        "reserved" => held(4, 16).into(),
        "scheduled" | "revoked" => serde_json::json!([]),
        "query_task" => serde_json::json!({}),
        "registered" => (0..20).map(|n| format!("shop.task{n}")).collect(),
        other => captured["answers"][other]["answer"].clone(),
    };
    let ticket = &body["ticket"];
    let reply = serde_json::json!({
        "body": STANDARD.encode(serde_json::json!({node: said}).to_string()),
        "content-encoding": "utf-8", "content-type": "application/json", "headers": {"ticket": ticket, "clock": 41},
        "properties": {"delivery_mode": 1, "delivery_info": {"exchange": "reply.celery.pidbox", "routing_key": ""},
                       "priority": 0, "body_encoding": "base64", "delivery_tag": ticket}
    });
    let key = body["reply_to"]["routing_key"].as_str().unwrap();
    (format!("{key}.reply.celery.pidbox"), reply.to_string())
}

/// How often the soak audits in its loud spells.
const EVERY: Duration = Duration::from_secs(2);
/// How long a spell is.
const SPELL: Duration = Duration::from_secs(20);

/// Audits every two seconds in every other spell while a worker takes what a sender sends, a thousand tasks a second. One
/// audit a minute would change less than the worker's own ups and downs from minute to minute: thirty show what one costs.
fn under_load(lab: &Lab, long: Duration) {
    let server = lab.redis_with(&["--save", "3600", "1"]);
    let config = serde_json::json!({"broker_url": server.db(0), "result_backend": server.db(1)});
    let _worker = lab.worker("w1", &config, &["-c", "2"]);
    let over = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let sender = thread::spawn({
        let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
        let client = redis::Client::open(server.db(0)).unwrap();
        move || {
            let mut connection = client.get_connection().unwrap();
            let start = Instant::now();
            for batch in 1.. {
                let mut pipe = redis::pipe();
                for _ in 0..100 {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let mut message = message(number, &wire::id(number + (1 << 41)));
                    message["headers"]["task"] = "labapp.ignored".into();
                    pipe.lpush(QUEUE, message.to_string()).ignore();
                }
                pipe.exec(&mut connection).unwrap();
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let next = start + Duration::from_millis(100) * batch;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
    });
    let mut connection = server.connect();
    let mut done = || {
        let waiting: u64 = connection.llen(QUEUE).unwrap();
        let held: u64 = connection.hlen("unacked").unwrap();
        sent.load(Ordering::Relaxed).saturating_sub(waiting + held)
    };
    thread::sleep(Duration::from_secs(20));
    let end = Instant::now() + long;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut audits, mut alarms) = (0, Vec::new());
    while Instant::now() < end {
        let (start, before) = (Instant::now(), done());
        let audited = with.len() == without.len();
        while start.elapsed() < SPELL {
            let next = Instant::now() + EVERY;
            if audited {
                let audit = command(lab, &server).wait(Duration::from_mins(5));
                alarms.extend(loud(&audit));
                audits += 1;
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let rate = (done() - before) as f64 / start.elapsed().as_secs_f64();
        println!("{rate:.1} tasks a second, audited: {audited}");
        if audited { &mut with } else { &mut without }.push(rate);
    }
    over.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    println!("{audits} audits found, above information: {alarms:?}");
    let (with, without) = (mean(&with), mean(&without));
    let lost = (1.0 - with / without) * 100.0;
    let often = 60.0 / EVERY.as_secs_f64();
    println!(
        "{without:.1} tasks a second without an audit, {with:.1} with {often} a minute: {lost:.2} % less, so {:.2} % for one",
        lost / often
    );
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// What an audit found that is not information, and how it ended where it was not whole.
fn loud(done: &Outcome) -> Vec<String> {
    let report = done.json();
    let findings = report["findings"].as_array().unwrap();
    let loud = findings
        .iter()
        .filter(|finding| finding["severity"] != "info");
    let mut loud: Vec<String> = loud
        .map(|finding| format!("{} {}", finding["code"], finding["message"]))
        .collect();
    if done.code == Some(3) {
        loud.push(format!("partial: {}", report["evidence"]));
    }
    loud
}

fn command(lab: &Lab, server: &RedisServer) -> Running {
    let broker = server.db(0);
    lab.spawn(&mut lab.doctor(&["audit", "--broker", &broker, "--format", "json"]))
}

/// Seconds, and the most memory in MiB.
fn audit(lab: &Lab, server: &RedisServer) -> (f64, f64) {
    let running = command(lab, server);
    let status = format!("/proc/{}/status", running.pid());
    let over = Arc::new(AtomicBool::new(false));
    let watcher = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut peak = 0_u64;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(high_water_mark(&status).unwrap_or(0));
                thread::sleep(Duration::from_millis(5));
            }
            peak
        }
    });
    let done = running.wait(Duration::from_mins(5));
    over.store(true, Ordering::Relaxed);
    done.assert_decent(&[]);
    (
        done.elapsed.as_secs_f64(),
        watcher.join().unwrap() as f64 / 1024.0,
    )
}

fn high_water_mark(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn worst(runs: Vec<(f64, f64)>) -> (f64, f64) {
    let (seconds, peaks): (Vec<f64>, Vec<f64>) = runs.into_iter().unzip();
    (median(seconds), peaks.into_iter().fold(0.0, f64::max))
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
