//! What a look into a long RabbitMQ queue costs, beside a consumer that does nothing else, in the same run.
//!
//! `cargo bench --bench rabbitmq`. It needs rabbitmq-server; `CELERY_DOCTOR_BENCH_MESSAGES` makes
//! it smaller. A quarter, a half and all of them show how the cost grows. It prints and judges nothing.
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

use std::time::{Duration, Instant};

use lab::{Lab, Outcome, RabbitNode, Vhost};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

const QUEUE: &str = "celery";
const ROUNDS: usize = 7;
/// The default of `--peek`.
const DEFAULT: u64 = 1000;

fn main() {
    let messages = std::env::var("CELERY_DOCTOR_BENCH_MESSAGES")
        .map_or(100_000, |text| text.parse().expect("a number"));
    let lab = Lab::new();
    for messages in [messages / 4, messages / 2, messages] {
        let vhost = RabbitNode::shared().vhost();
        fill(&vhost, messages);
        look(&lab, &vhost, messages);
    }
    few_of_many(&lab, messages);
    many_queues(&lab);
}

/// A look at all messages of a queue beside a consumer, each after the other in turns: the broker's own speed changes by
/// half from one run to the next.
fn look(lab: &Lab, vhost: &Vhost, messages: u64) {
    let (mut bare, mut looks, mut most) = (Vec::new(), Vec::new(), 0.0_f64);
    let mut details = String::new();
    for round in 0..ROUNDS {
        for step in 0..2 {
            if (round + step) % 2 == 0 {
                bare.push(consume(vhost, messages));
            } else {
                let (done, peak) = trace(lab, vhost, &format!("--peek={messages}"));
                details = looked(&done);
                looks.push(done.elapsed.as_secs_f64());
                most = most.max(peak);
            }
            settle(vhost, messages);
        }
    }
    let ratios = bare.iter().zip(&looks).map(|(bare, look)| bare / look);
    let mut ratios: Vec<f64> = ratios.collect();
    println!("messages              {messages}");
    println!("bare consumer         {}", spread(&mut bare, "s"));
    println!(
        "trace --peek          {}, {:.1} microseconds a message, {most:.1} MiB at most, {details}",
        spread(&mut looks, "s"),
        looks[ROUNDS / 2] / messages as f64 * 1e6
    );
    println!(
        "rate                  {} that of the bare consumer, the whole run of the program counted",
        spread(&mut ratios, "times")
    );
}

/// The middle, the least and the most; it sorts them.
fn spread(values: &mut [f64], unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!(
        "{:.2} {unit} ({least:.2} to {most:.2})",
        values[values.len() / 2]
    )
}

/// The default look, at the front of a long queue.
fn few_of_many(lab: &Lab, messages: u64) {
    let vhost = RabbitNode::shared().vhost();
    fill(&vhost, messages);
    let (done, _) = trace(lab, &vhost, "--peek");
    println!(
        "trace --peek={DEFAULT}     {:.3} s, {}",
        done.elapsed.as_secs_f64(),
        looked(&done)
    );
}

fn many_queues(lab: &Lab) {
    let many = RabbitNode::shared().vhost();
    let queues: Vec<Value> = (0..1000)
        .map(|n| json!({"name": format!("q{n}"), "durable": true, "auto_delete": false, "arguments": {}}))
        .collect();
    many.node.api(
        "POST",
        &many.path("definitions", ""),
        &json!({"queues": queues}),
    );
    let (done, peak) = trace(lab, &many, "--timeout=100ms");
    println!(
        "trace, 1,000 queues   {:.3} s, {peak:.1} MiB at most (exit code {:?})",
        done.elapsed.as_secs_f64(),
        done.code
    );
}

/// Publishes messages such as Celery makes.
fn fill(vhost: &Vhost, messages: u64) {
    vhost.declare(QUEUE, &json!({"durable": true}));
    let body =
        br#"[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
    runtime().block_on(async {
        let (connection, channel) = connect(vhost).await;
        for number in 0..messages {
            let id = format!("00000000-0000-4000-8000-{number:012x}");
            let mut headers = FieldTable::default();
            for (key, value) in [
                ("lang", "py"),
                ("task", "labapp.add"),
                ("id", &id),
                ("root_id", &id),
                ("origin", "gen1@host"),
                ("argsrepr", "(1, 2)"),
                ("kwargsrepr", "{}"),
            ] {
                headers.insert(key.into(), AMQPValue::LongString(value.into()));
            }
            for key in [
                "parent_id",
                "group",
                "eta",
                "expires",
                "shadow",
                "timelimit",
            ] {
                headers.insert(key.into(), AMQPValue::Void);
            }
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_content_encoding("utf-8".into())
                .with_correlation_id(id.as_str().into())
                .with_delivery_mode(2)
                .with_headers(headers);
            let options = BasicPublishOptions::default();
            channel
                .basic_publish("".into(), QUEUE.into(), options, body, properties)
                .await
                .unwrap();
        }
        connection.close(200, "done".into()).await.unwrap();
    });
    settle(vhost, messages);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn connect(vhost: &Vhost) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&vhost.url(), properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Waits until all messages wait.
fn settle(vhost: &Vhost, messages: u64) {
    lab::wait_until("all messages wait", Duration::from_mins(1), || {
        let queue = vhost
            .node
            .api("GET", &vhost.path("queues", QUEUE), &json!(null));
        (queue["messages_ready"] == messages && queue["consumers"] == 0).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
}

/// Seconds until all messages have come and are given back: until the channel is closed.
fn consume(vhost: &Vhost, messages: u64) -> f64 {
    runtime().block_on(async {
        let start = Instant::now();
        let (connection, channel) = connect(vhost).await;
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default());
        let mut consumer = consumer.await.unwrap();
        for _ in 0..messages {
            let next = std::future::poll_fn(|cx| {
                futures_core::Stream::poll_next(std::pin::Pin::new(&mut consumer), cx)
            });
            next.await.unwrap().unwrap();
        }
        channel.close(200, "done".into()).await.unwrap();
        let closed = start.elapsed().as_secs_f64();
        connection.close(200, "done".into()).await.unwrap();
        closed
    })
}

/// The trace of an id that nobody sent, and the most memory that it had, in MiB.
fn trace(lab: &Lab, vhost: &Vhost, look: &str) -> (Outcome, f64) {
    let id = "ffffffff-0000-4000-8000-000000000000";
    let (broker, management) = (vhost.url(), vhost.node.management_url());
    let mut command = lab.doctor(&[
        "trace",
        id,
        "--broker",
        &broker,
        "--management",
        &management,
    ]);
    let running = lab.spawn(command.args(["--no-workers", "--format", "json", look]));
    let status = format!("/proc/{}/status", running.pid());
    let watcher = std::thread::spawn(move || {
        let mut peak = 0_u32;
        while let Ok(text) = std::fs::read_to_string(&status) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let Some(now) = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
            else {
                // It has ended, and nobody has asked for its exit code yet.
                break;
            };
            peak = peak.max(now);
            std::thread::sleep(Duration::from_millis(2));
        }
        f64::from(peak) / 1024.0
    });
    let done = running.wait(Duration::from_mins(5));
    done.assert_decent(&[]);
    (done, watcher.join().unwrap())
}

/// What the report says of the look.
fn looked(done: &Outcome) -> String {
    let report = done.json();
    let queues = report["evidence"].as_array().into_iter().flatten();
    let lines = queues.filter(|read| read["source"] == "queues");
    lines
        .map(|read| read["detail"].as_str().unwrap_or_default().to_owned())
        .collect()
}
