//! What a trace of a long queue costs, beside the bare transfer of the same bytes in the same run.
//!
//! `cargo bench --bench trace`. It needs redis-server, and about 1.2 GB of memory for the million messages;
//! `CELERY_DOCTOR_BENCH_MESSAGES` and `CELERY_DOCTOR_BENCH_ROUNDS` make it smaller. It prints and judges nothing.
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
mod wire;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, RedisServer};
use wire::Wire;

const BINARY: &str = env!("CARGO_BIN_EXE_celery-doctor");
const QUEUE: &str = "celery";
/// The numbers of ids that nobody sent start here.
const ABSENT: u64 = 1 << 40;

fn main() {
    let messages = from_env("CELERY_DOCTOR_BENCH_MESSAGES", 1_000_000);
    let rounds = from_env("CELERY_DOCTOR_BENCH_ROUNDS", 5);
    let lab = Lab::new();
    let server = lab.redis();
    let bytes = wire::fill(&mut Wire::connect(server.port), QUEUE, messages);
    println!(
        "messages               {messages} of {} bytes",
        bytes / messages.max(1)
    );
    println!(
        "binary                 {:.1} MB",
        fs::metadata(BINARY).unwrap().len() as f64 / 1e6
    );

    let absent = [wire::id(ABSENT)];
    let (mut bare, mut traced) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(timed(|| Wire::connect(server.port).transfer(QUEUE)));
        traced.push(timed(|| trace(&lab, &server, &absent)));
    }
    let (bare, one) = (median(bare), median(traced));
    row(
        "bare transfer",
        bare,
        "LRANGE by 1,000, two deep, thrown away",
    );
    row(
        "trace, absent id",
        one,
        &format!("{:.2} times the transfer", one / bare),
    );

    let many: Vec<String> = (ABSENT..ABSENT + 1000).map(wire::id).collect();
    let thousand = median(
        (0..rounds)
            .map(|_| timed(|| trace(&lab, &server, &many)))
            .collect(),
    );
    row(
        "trace, 1,000 absent",
        thousand,
        &format!("{:.2} times one id", thousand / one),
    );
    let step = (messages / 1000).max(1);
    let spread: Vec<String> = (0..messages)
        .step_by(usize::try_from(step).unwrap())
        .map(wire::id)
        .collect();
    let found = median(
        (0..rounds)
            .map(|_| timed(|| trace(&lab, &server, &spread)))
            .collect(),
    );
    row(
        "trace, 1,000 queued",
        found,
        &format!("{:.2} times one id", found / one),
    );

    let (code, peak) = peak_memory(&lab, &server, &absent);
    println!(
        "peak memory            {:.1} MiB (exit code {code:?})",
        peak as f64 / 1024.0
    );
    pings("idle", &server, || thread::sleep(Duration::from_secs(1)));
    pings("during the transfer", &server, || {
        Wire::connect(server.port).transfer(QUEUE);
    });
    pings("during the trace", &server, || {
        trace(&lab, &server, &absent);
    });

    let empty = lab.redis();
    let small = median(
        (0..20)
            .map(|_| timed(|| trace(&lab, &empty, &absent)))
            .collect(),
    );
    println!("empty deployment       {:.1} ms", small * 1e3);
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn row(what: &str, seconds: f64, note: &str) {
    println!("{what:<22} {seconds:.3} s  {note}");
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

fn command(lab: &Lab, server: &RedisServer, ids: &[String]) -> lab::Running {
    let broker = server.db(0);
    let mut command = lab.doctor(&["trace", "--broker", &broker, "--format", "json"]);
    lab.spawn(command.args(ids))
}

fn trace(lab: &Lab, server: &RedisServer, ids: &[String]) {
    let done = command(lab, server, ids).wait(Duration::from_mins(5));
    done.assert_decent(&[]);
}

/// The most memory that the process ever had, in KiB, as the kernel counts it.
fn peak_memory(lab: &Lab, server: &RedisServer, ids: &[String]) -> (Option<i32>, u64) {
    let running = command(lab, server, ids);
    let status = format!("/proc/{}/status", running.pid());
    let over = Arc::new(AtomicBool::new(false));
    let watcher = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut peak = 0;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(high_water_mark(&status).unwrap_or(0));
                thread::sleep(Duration::from_millis(2));
            }
            peak
        }
    });
    let done = running.wait(Duration::from_mins(5));
    over.store(true, Ordering::Relaxed);
    (done.code, watcher.join().unwrap())
}

fn high_water_mark(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// How long another client waits for PING while `work` is done.
fn pings(when: &str, server: &RedisServer, work: impl FnOnce()) {
    let over = Arc::new(AtomicBool::new(false));
    let mut wire = Wire::connect(server.port);
    let pinger = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut waits = Vec::new();
            while !over.load(Ordering::Relaxed) {
                waits.push(timed(|| wire.ping()) * 1e3);
                thread::sleep(Duration::from_millis(1));
            }
            waits
        }
    });
    work();
    over.store(true, Ordering::Relaxed);
    let mut waits = pinger.join().unwrap();
    waits.sort_by(f64::total_cmp);
    let (p99, max) = (waits[waits.len() * 99 / 100], waits[waits.len() - 1]);
    println!(
        "PING {when:<20} p99 {p99:.2} ms, max {max:.2} ms of {}",
        waits.len()
    );
}
