//! A look changes nothing: neither a key, nor a task's turn, nor anything when it is stopped half-way.

use std::time::Duration;

use redis::Commands as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lab::{Keyspace, Lab, Monitor, RedisServer, SOON, Seen, Worker, wait_until};

const PIDBOX: &str = "/0.celery.pidbox";

/// Commands that only read, and hold the server for a moment only. KEYS, HGETALL, SMEMBERS, SORT and LPOS read too, and
/// are not here because what they cost grows with the key.
const READS: &[&str] = &[
    "AUTH",
    "CLIENT",
    "COMMAND",
    "CONFIG",
    "DBSIZE",
    "DISCARD",
    "ECHO",
    "EXEC",
    "EXISTS",
    "GET",
    "GETRANGE",
    "HELLO",
    "HEXISTS",
    "HGET",
    "HLEN",
    "HMGET",
    "HSCAN",
    "HSTRLEN",
    "INFO",
    "LASTSAVE",
    "LINDEX",
    "LLEN",
    "LRANGE",
    "MGET",
    "MULTI",
    "OBJECT",
    "PEXPIRETIME",
    "PING",
    "PTTL",
    "PUBSUB",
    "QUIT",
    "ROLE",
    "SCAN",
    "SCARD",
    "SELECT",
    "SENTINEL",
    "SISMEMBER",
    "SMISMEMBER",
    "SSCAN",
    "STRLEN",
    "TIME",
    "TTL",
    "TYPE",
    "ZCARD",
    "ZCOUNT",
    "ZMSCORE",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZSCAN",
    "ZSCORE",
];

/// Of the commands with parts, the parts that only read.
const PARTS: &[&str] = &[
    "CLIENT GETNAME",
    "CLIENT ID",
    "CLIENT INFO",
    "CLIENT LIST",
    "CLIENT NO-TOUCH",
    "CLIENT SETINFO",
    "CLIENT SETNAME",
    "CONFIG GET",
    "OBJECT ENCODING",
    "OBJECT IDLETIME",
    "PUBSUB CHANNELS",
    "PUBSUB NUMPAT",
    "PUBSUB NUMSUB",
];

/// Why a command must not be sent; None when it may.
fn objection(seen: &Seen) -> Option<&'static str> {
    let upper: Vec<String> = seen
        .words
        .iter()
        .map(|word| word.to_ascii_uppercase())
        .collect();
    let arguments = seen.words.get(1..).unwrap_or_default();
    let reply_list =
        |key: &String| key.ends_with(".reply.celery.pidbox") && !key.contains("_kombu.");
    let reply_table = |key: &String| key.ends_with("_kombu.binding.reply.celery.pidbox");
    match upper.first().map(String::as_str) {
        Some("PUBLISH") => {
            (!arguments.first()?.ends_with(".celery.pidbox")).then_some("publishes elsewhere")
        }
        Some("SADD" | "SREM") => {
            (!arguments.first().is_some_and(reply_table)).then_some("writes a set")
        }
        Some("DEL" | "UNLINK") => (!arguments.iter().all(reply_list)).then_some("deletes a key"),
        Some("BLPOP" | "BRPOP" | "LPOP" | "RPOP" | "EXPIRE" | "PEXPIRE") => {
            (!arguments.first().is_some_and(reply_list)).then_some("writes a key")
        }
        Some("LRANGE") if upper.get(2..) == Some(&["0".into(), "-1".into()]) => {
            (!arguments.first().is_some_and(reply_list)).then_some("reads a list at once")
        }
        Some(family @ ("CLIENT" | "CONFIG" | "OBJECT" | "PUBSUB")) => {
            let part = format!("{family} {}", upper.get(1).map_or("", String::as_str));
            (!PARTS.contains(&part.as_str())).then_some("is not on the list")
        }
        Some(name) => (!READS.contains(&name)).then_some("is not on the list"),
        None => Some("is empty"),
    }
}

#[test]
fn the_list_of_allowed_commands_is_tight() {
    let may = |line: &str| {
        let words = line.split(' ').map(str::to_owned).collect();
        objection(&Seen {
            db: "0".into(),
            client: "127.0.0.1:1".into(),
            words,
        })
        .is_none()
    };
    let reply = "a1b2.reply.celery.pidbox";
    let table = "shop-_kombu.binding.reply.celery.pidbox";
    for line in [
        "PUBLISH /0.celery.pidbox x",
        "lrange celery 0 999",
        "CLIENT SETINFO LIB-NAME x",
        "CONFIG GET maxmemory",
    ] {
        assert!(may(line), "{line}");
    }
    assert!(
        may(&format!("SADD {table} x"))
            && may(&format!("DEL {reply}"))
            && may(&format!("BRPOP {reply} 1"))
    );
    for line in [
        "PUBLISH celery.pidbox.x y",
        "LRANGE celery 0 -1",
        "CONFIG SET maxmemory 1",
        "CLIENT KILL x",
        "KEYS *",
        "EVAL x 0",
        "FLUSHALL",
        "DEL celery",
        "BRPOP celery 1",
        "SADD _kombu.binding.celery x",
        "HGETALL unacked",
        "SET a b",
        "RPUSH celery x",
        "CLIENT PAUSE 1",
    ] {
        assert!(!may(line), "{line}");
    }
    assert!(
        !may(&format!("DEL {reply} celery"))
            && !may(&format!("DEL {table}"))
            && !may(&format!("LPUSH {reply} x"))
    );
}

fn assert_harmless(monitor: &mut Monitor) -> Vec<Seen> {
    let commands = monitor.commands();
    assert!(!commands.is_empty(), "the tool was seen at work");
    for command in &commands {
        assert_eq!(objection(command), None, "{:?}", command.words);
    }
    commands
}

/// A worker with a running, a reserved and an ETA task, a queue that nobody reads, results, and keys with a TTL. The
/// worker connects through the Unix socket, and the tool through the port: so MONITOR tells them apart.
struct Deployment {
    lab: Lab,
    server: RedisServer,
    worker: Worker,
    ids: Vec<String>,
}

impl Deployment {
    fn new() -> Self {
        let lab = Lab::new();
        let server = lab.redis();
        let config = json!({"broker_url": server.socket_url(0), "result_backend": server.socket_url(1),
                            "worker_prefetch_multiplier": 4, "task_track_started": true});
        let worker = lab.worker("w1", &config, &[]);
        let late = |options: Value| lab.send(&config, "labapp.late", &json!([3600]), &options);
        let mut ids = vec![late(json!({}))];
        worker.wait_received(&ids[0]);
        ids.push(late(json!({})));
        ids.push(late(json!({"countdown": 3600})));
        for id in &ids[1..] {
            worker.wait_received(id);
        }
        ids.push(late(json!({"queue": "emials"})));
        ids.push("0a0a0a0a-0000-4000-8000-000000000000".into());
        server.wait_for_workers(PIDBOX, 1);
        wait_until("the running task's result is stored", SOON, || {
            server
                .connect_to(1)
                .exists::<_, bool>(format!("celery-task-meta-{}", ids[0]))
                .unwrap()
                .then_some(())
        });
        Self {
            lab,
            server,
            worker,
            ids,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut all = vec![
            "--broker".to_owned(),
            self.server.db(0),
            "--result-backend".into(),
            self.server.db(1),
        ];
        all.extend(["--format".into(), "json".into()]);
        all
    }

    fn trace(&self, more: &[&str]) -> crate::lab::Running {
        let mut command = self.lab.doctor(&["trace"]);
        self.lab
            .spawn(command.args(&self.ids).args(self.arguments()).args(more))
    }
}

#[test]
fn a_trace_only_reads_and_takes_its_reply_address_away() {
    let deployment = Deployment::new();
    let before = Keyspace::of(&deployment.server);
    let mut monitor = Monitor::new(&deployment.server);
    let done = deployment.trace(&[]).wait(SOON);
    done.assert_decent(&[]);
    assert_eq!(
        done.json()["traces"].as_array().map(Vec::len),
        Some(deployment.ids.len()),
        "{done:#?}"
    );
    let commands = assert_harmless(&mut monitor);
    assert!(
        commands
            .iter()
            .any(|one| one.words[0].eq_ignore_ascii_case("PUBLISH")),
        "the workers were asked"
    );
    before.assert_same_now(&deployment.server);
}

#[test]
fn an_audit_only_reads_and_takes_its_reply_address_away() {
    let deployment = Deployment::new();
    let before = Keyspace::of(&deployment.server);
    let mut monitor = Monitor::new(&deployment.server);
    let mut command = deployment.lab.doctor(&["audit", "--sample", "1s"]);
    let command = command.args(deployment.arguments());
    let done = deployment.lab.spawn(command).wait(SOON);
    done.assert_decent(&[]);
    assert!(done.json()["findings"].is_array(), "{done:#?}");
    assert_harmless(&mut monitor);
    before.assert_same_now(&deployment.server);
}

#[test]
fn without_workers_it_writes_nothing_at_all() {
    let deployment = Deployment::new();
    let before = Keyspace::of(&deployment.server);
    let mut monitor = Monitor::new(&deployment.server);
    deployment
        .trace(&["--no-workers"])
        .wait(SOON)
        .assert_decent(&[]);
    for command in assert_harmless(&mut monitor) {
        assert!(
            READS.contains(&command.words[0].to_ascii_uppercase().as_str()),
            "{:?}",
            command.words
        );
    }
    before.assert_same_now(&deployment.server);
}

#[test]
fn silent_workers_leave_nothing_behind() {
    let deployment = Deployment::new();
    deployment.worker.freeze();
    let before = Keyspace::of(&deployment.server);
    let mut monitor = Monitor::new(&deployment.server);
    deployment
        .trace(&["--timeout", "500ms"])
        .wait(SOON)
        .assert_decent(&[]);
    assert_harmless(&mut monitor);
    before.assert_same_now(&deployment.server);
    // The worker's late answer must not make a key that nobody takes away.
    deployment.worker.thaw();
    deployment.server.wait_for_workers(PIDBOX, 1);
    // It answers in order: with this trace answered, the late answer has been dealt with.
    deployment.trace(&[]).wait(SOON).assert_decent(&[]);
    let left: Vec<String> = deployment
        .server
        .connect()
        .keys("*reply.celery.pidbox")
        .unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stopped_while_it_waits_for_workers_it_cleans_up() {
    let deployment = Deployment::new();
    deployment.worker.freeze();
    let before = Keyspace::of(&deployment.server);
    for signal in [Signal::INT, Signal::TERM] {
        let mut monitor = Monitor::new(&deployment.server);
        let running = deployment.trace(&["--timeout", "1h"]);
        monitor.wait_for("PUBLISH");
        running.signal(signal);
        let done = running.wait(Duration::from_secs(10));
        done.assert_decent(&[]);
        assert_ne!(done.code, Some(0), "{signal:?}");
        assert_harmless(&mut monitor);
        before.assert_same_now(&deployment.server);
    }
}

#[test]
fn stopped_in_the_middle_of_a_scan_it_cleans_up() {
    let deployment = Deployment::new();
    let items = vec!["x".repeat(900); 1000];
    for _ in 0..100 {
        let _: () = deployment.server.connect().lpush("long", &items).unwrap();
    }
    let before = Keyspace::of(&deployment.server);
    for signal in [Signal::INT, Signal::TERM] {
        let mut monitor = Monitor::new(&deployment.server);
        let running = deployment.trace(&["--queue", "long"]);
        monitor.wait_for("LRANGE");
        running.signal(signal);
        running.wait(Duration::from_secs(10)).assert_decent(&[]);
        assert_harmless(&mut monitor);
        before.assert_same_now(&deployment.server);
    }
}

/// C66: kombu's own clients put this task back, and it runs twice (`facts::reservations` shows it).
#[test]
fn a_long_reservation_is_received_once() {
    let lab = Lab::new();
    let server = lab.redis();
    let options = json!({"visibility_timeout": 43_200});
    let config = json!({"broker_url": server.db(0), "broker_transport_options": options});
    let workers = [
        lab.worker("w1", &config, &[]),
        lab.worker("w2", &config, &[]),
    ];
    let id = lab.send(&config, "labapp.late", &json!([3600]), &json!({}));
    let mut connection = server.connect();
    let tag: String = wait_until("the reservation is there", SOON, || {
        connection
            .zrange::<_, Vec<String>>("unacked_index", 0, -1)
            .unwrap()
            .pop()
    });
    let (now, _): (f64, f64) = redis::cmd("TIME").query(&mut connection).unwrap();
    let old = now - 4000.0;
    let _: () = connection.zadd("unacked_index", &tag, old).unwrap();
    for _ in 0..5 {
        let done = lab.trace(&id, &["--broker", &server.db(0)]);
        assert_eq!(done.json()["traces"][0]["verdict"], "running", "{done:#?}");
    }
    let score: f64 = connection.zscore("unacked_index", &tag).unwrap();
    assert!((score - old).abs() < 0.001, "it was delivered anew");
    let received: usize = workers
        .iter()
        .map(|worker| worker.log().matches(&format!("[{id}] received")).count())
        .sum();
    assert_eq!(received, 1);
}

#[test]
fn nothing_private_is_printed() {
    let lab = Lab::new();
    let server = lab.redis_with(&["--requirepass", "open/sesame"]);
    let url = |db| format!("redis://:open%2Fsesame@127.0.0.1:{}/{db}", server.port);
    let config = json!({"broker_url": url(0), "result_backend": url(0), "result_extended": true});
    let worker = lab.worker("w1", &config, &[]);
    let failed = lab.send(
        &config,
        "labapp.fail",
        &json!(["hunter2 reason"]),
        &json!({}),
    );
    let running = lab.send(
        &config,
        "labapp.sleep",
        &json!([3600]),
        &json!({"argsrepr": "hunter2 repr"}),
    );
    let queued = lab.send(
        &config,
        "labapp.add",
        &json!(["hunter2 a", "hunter2 b"]),
        &json!({"queue": "emials"}),
    );
    worker.wait_received(&running);
    worker.wait_for_log(&format!("labapp.fail[{failed}] raised"), SOON);
    let broker = url(0);
    let ids = ["trace", &failed, &running, &queued, "no-such-id"];
    for more in [
        &["--format", "json"][..],
        &["--format", "table"],
        &["-v"],
        &["-q"],
    ] {
        let all = [
            &ids[..],
            &["--broker", &broker, "--result-backend", &broker],
            more,
        ]
        .concat();
        lab.run_doctor(&all)
            .assert_decent(&["hunter2", "open/sesame", "open%2Fsesame"]);
    }
    let wrong = format!("redis://:not%2Fsesame@127.0.0.1:{}/0", server.port);
    let done = lab.trace(&queued, &["--broker", &wrong]);
    done.assert_decent(&["not/sesame", "not%2Fsesame"]);
    assert_eq!(done.code, Some(3), "{done:#?}");
}
