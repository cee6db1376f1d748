//! Deployments that are in order, of many shapes, under traffic: an audit is silent about each, whenever it comes.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Site;
use crate::lab::{Lab, RabbitNode, Running, Worker, python};

/// Tasks of every kind for so many seconds.
const TRAFFIC: &str = "
import importlib, json, os, sys, time
import labapp
from celery import chain, chord
seconds, module, options = float(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
if module:
    importlib.import_module(module)
end, n = time.time() + seconds, 0
while time.time() < end:
    n += 1
    labapp.add.apply_async((1, 2), **options)
    labapp.total.apply_async(([1, 2],), **options)
    labapp.sleep.apply_async((0.1,), expires=600, **options)
    labapp.add.apply_async((1, 2), countdown=2, **options)
    if n % 5 == 0:
        labapp.add.apply_async((1, 2), countdown=60, **options)
        labapp.retry.apply_async((1,), **options)
        labapp.fail.apply_async(**options)
    chain(labapp.add.s(1, 2), labapp.add.s(3)).apply_async(**options)
    if labapp.app.conf.result_backend.startswith('redis'):
        chord([labapp.add.s(1, 1), labapp.sleep.s(0.05)])(labapp.total.s())
    time.sleep(0.2)
";

const NOTHING: Vec<String> = Vec::new();

const AUDITS: [&[&str]; 4] = [
    &[],
    &["--peek"],
    &["--sample", "2s"],
    &[
        "--peek",
        "--sample",
        "1s",
        "--management",
        "http://guest:guest@127.0.0.1:1",
    ],
];

impl Site {
    /// A program of Python that knows the application, and runs until the lab ends.
    pub(super) fn background(&self, code: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(python());
        command
            .current_dir(self.lab.folder())
            .env(
                "PYTHONPATH",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/apps"),
            )
            .env("PYTHONWARNINGS", "ignore")
            .env("LABAPP_CONFIG", self.config.to_string())
            .args(["-c", code])
            .args(arguments);
        self.lab.spawn(&mut command)
    }

    fn traffic(&self, seconds: u64) -> Running {
        self.background(TRAFFIC, &[&seconds.to_string(), "", "{}"])
    }

    /// Writes a module that workers and senders import.
    fn module(&self, name: &str, code: &str) {
        let path = self.lab.folder().join(format!("{name}.py"));
        std::fs::write(path, code).expect("the lab's folder can be written");
    }

    /// Audits again and again for so long; nobody may be blamed. Returns what was missing where
    /// nothing need be.
    pub(super) fn stays_silent(&self, seconds: u64, more: &[&str]) -> Vec<String> {
        self.stays_silent_but(seconds, more, &[])
    }

    /// As [`Site::stays_silent`], where these findings may be true.
    fn stays_silent_but(&self, seconds: u64, more: &[&str], but: &[&str]) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut missing = Vec::new();
        let mut audits = AUDITS.iter().cycle();
        while Instant::now() < end {
            let kind = audits.next().expect("endless");
            if more
                .iter()
                .any(|word| word.starts_with("--") && kind.contains(word))
            {
                continue;
            }
            let done = self.audit(&[kind, more].concat());
            let due = |alarm: &String| but.iter().any(|name| alarm.contains(name));
            let alarms: Vec<String> = done.alarms().into_iter().filter(|a| !due(a)).collect();
            assert_eq!(alarms, Vec::<String>::new(), "{kind:?}: {done:#?}");
            assert!(matches!(done.code, Some(0 | 3)), "{kind:?}: {done:#?}");
            // Messages that come and go while a look counts them leave it unsure whether it saw all.
            let unsure = ["--management", "--peek"];
            let sure = !kind.iter().any(|word| unsure.contains(word));
            if done.code == Some(3) && sure {
                missing.push(done.json()["exit"]["reason"].to_string());
            }
        }
        missing
    }
}

#[test]
fn priorities_late_acknowledgement_and_autoscaling() {
    let site = Site::with(
        &json!({"task_queue_max_priority": 10, "task_default_priority": 5,
                                  "worker_prefetch_multiplier": 1}),
    );
    let _worker = site.lab.worker("w1", &site.config, &["--autoscale", "6,1"]);
    let traffic = site.background(TRAFFIC, &["20", "", r#"{"priority": 3}"#]);
    site.send_many("labapp.sleep", &json!([0.3]), 60);
    assert_eq!(site.stays_silent(16, &[]), NOTHING);
    drop(traffic);
}

#[test]
fn quorum_queues_and_native_delayed_delivery() {
    let site = Site::with(
        &json!({"task_default_exchange_type": "topic", "task_default_queue_type": "quorum",
        "broker_native_delayed_delivery_queue_type": "quorum", "worker_prefetch_multiplier": 4}),
    );
    let _one = site.lab.worker("w1", &site.config, &["-c", "2"]);
    let _two = site.lab.worker("w2", &site.config, &["-c", "2"]);
    let traffic = site.traffic(20);
    assert_eq!(site.stays_silent(16, &[]), NOTHING);
    drop(traffic);
}

const SHAPES: &str = "
from kombu import Exchange, Queue
from kombu.common import Broadcast
from labapp import app
orders = Exchange('orders', type='topic')
app.conf.task_queues = [
    Queue('celery', Exchange('celery'), routing_key='celery'),
    Queue('orders', orders, routing_key='orders.#'),
    Queue('mails', orders, routing_key='mails.*', queue_arguments={
        'x-dead-letter-exchange': 'dead', 'x-dead-letter-routing-key': 'mails'}),
    Broadcast('all'),
]
app.conf.task_routes = {
    'labapp.sleep': {'exchange': 'orders', 'routing_key': 'orders.new.eu'},
    'labapp.total': {'queue': 'mails'},
    'labapp.ignored': {'queue': 'all'},
}
";

/// Topic exchanges, a broadcast, routes, and a dead-letter queue with dead letters in it.
#[test]
fn routes_topics_broadcasts_and_dead_letters() {
    // What is included with -I comes after the queues are known.
    let site = Site::with(&json!({"imports": ["shapes"]}));
    site.module("shapes", SHAPES);
    let node = &site.vhost.node;
    let exchange = json!({"type": "direct", "durable": true});
    node.api("PUT", &site.vhost.path("exchanges", "dead"), &exchange);
    site.vhost.declare("dead-mails", &json!({"durable": true}));
    let binding = json!({"routing_key": "mails"});
    let path = site.vhost.path("bindings", "e/dead/q/dead-mails");
    node.api("POST", &path, &binding);
    let _one = site
        .lab
        .worker("w1", &site.config, &["-Q", "celery,orders,all"]);
    let _two = site.lab.worker("w2", &site.config, &["-Q", "mails,all"]);
    let send = "import shapes, labapp\n\
                for n in range(5): labapp.ignored.apply_async()\n\
                for n in range(3): labapp.add.apply_async((1, 2), exchange='dead', routing_key='mails')";
    site.lab.python(&site.config, send);
    let traffic = site.background(TRAFFIC, &["20", "shapes", "{}"]);
    assert_eq!(site.stays_silent(16, &[]), NOTHING);
    drop(traffic);
}

/// Workers that come and go while others work: a rolling restart, again and again.
#[test]
fn workers_that_restart() {
    let site = Site::new();
    let mut two: Vec<Worker> = ["w1", "w2"]
        .map(|name| site.lab.worker(name, &site.config, &["-c", "2"]))
        .into();
    let traffic = site.traffic(40);
    std::thread::scope(|scope| {
        // Who was killed in the middle of a task runs it again, and sends again what follows it.
        let audits = scope.spawn(|| site.stays_silent_but(30, &[], &["duplicate-message"]));
        for round in 0..4 {
            let name = ["w1", "w2"][round % 2];
            let mut old = two.remove(0);
            if round < 2 {
                old.stop();
            } else {
                old.kill();
            }
            two.push(site.lab.worker(name, &site.config, &["-c", "2"]));
        }
        audits.join().expect("no alarm");
    });
    drop(traffic);
}

/// The only worker restarts: there is a moment without any, and that is no fault of the deployment.
#[test]
fn the_only_worker_restarts_in_the_middle() {
    let site = Site::new();
    let mut worker = site.lab.worker("w1", &site.config, &[]);
    site.send_many("labapp.sleep", &json!([0.5]), 40);
    for _ in 0..2 {
        let mut command = site.lab.doctor(&["audit"]);
        command.args(site.arguments(&["--sample", "8s"]));
        let running = site.lab.spawn(&mut command);
        std::thread::sleep(Duration::from_secs(1));
        worker.stop();
        worker = site.lab.worker("w1", &site.config, &[]);
        let done = running.wait(Duration::from_mins(1));
        done.assert_decent(&["guest:guest"]);
        assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
    }
}

/// Who follows events, who waits for replies, and who asks the workers all the time.
#[test]
fn flower_and_the_rpc_backend() {
    let mut site = Site::new();
    site.config["result_backend"] = json!("rpc://");
    site.config["worker_send_task_events"] = json!(true);
    let _worker = site.lab.worker("w1", &site.config, &["-E", "-c", "2"]);
    let follow = "
import labapp, threading, time
def ask():
    while True:
        labapp.app.control.inspect(timeout=1).stats()
        time.sleep(1)
threading.Thread(target=ask, daemon=True).start()
with labapp.app.connection_for_read() as connection:
    receiver = labapp.app.events.Receiver(connection, handlers={'*': lambda event: None})
    receiver.capture(limit=None, timeout=None, wakeup=True)
";
    let flower = site.background(follow, &[]);
    // Its replies wait for it, as those of a web server that never looks at them do.
    let rpc = "import labapp, time\nfor n in range(200): labapp.add.delay(1, 2)\ntime.sleep(60)";
    let sender = site.background(rpc, &[]);
    let traffic = site.traffic(20);
    site.stays_silent(16, &["--result-backend", "rpc://"]);
    drop((flower, sender, traffic));
}

/// Users of few rights, a second virtual host, and no management API.
#[test]
fn users_of_few_rights_and_other_virtual_hosts() {
    let site = Site::new();
    let other = Site::new();
    let _one = site.lab.worker("w1", &site.config, &["-c", "2"]);
    let _two = other.lab.worker("w1", &other.config, &["-c", "2"]);
    let traffic = (site.traffic(60), other.traffic(60));
    // What another virtual host has is none of this one's.
    other.send("labapp.add", &json!([1, 2]), &json!({"queue": "emials"}));
    site.stays_silent(6, &[]);
    let node = &site.vhost.node;
    for (tags, configure, write, read) in [
        ("", "", "", ""),
        ("", ".*", ".*", ".*"),
        ("management", "", "", ""),
        ("management", ".*", ".*", ".*"),
        ("monitoring", "", "", ""),
        ("monitoring", "reply", "reply|celery.pidbox", "reply"),
        ("policymaker", ".*", ".*", ".*"),
    ] {
        let user = node.user(tags);
        user.permit(&site.vhost, configure, write, read);
        let broker = site.vhost.url_for(&user.name, &user.password);
        let management = user.management_url();
        for more in [
            &["--timeout", "2s"][..],
            &["--timeout", "2s", "--peek", "--sample", "1s"],
        ] {
            let all = [&["--broker", &broker, "--management", &management], more].concat();
            let done = site.audit(&all);
            assert_eq!(
                done.alarms(),
                Vec::<String>::new(),
                "{tags} {configure}: {done:#?}"
            );
            assert!(matches!(done.code, Some(0 | 3)), "{tags}: {done:#?}");
        }
    }
    drop(traffic);
}

#[test]
fn statistics_that_are_switched_off() {
    let lab = Lab::new();
    let rabbit = lab.rabbitmq_node("management_agent.disable_metrics_collector = true");
    let site = Site::on(rabbit.node.vhost(), &json!({}));
    let _one = site.lab.worker("w1", &site.config, &["-c", "2"]);
    let traffic = site.traffic(15);
    site.stays_silent(10, &[]);
    drop(traffic);
}

/// Two applications with queues and tasks of their own, a worker without remote control, a mailbox that nobody else may
/// look at, and a queue of another program with its own reader.
#[test]
fn several_applications_in_one_virtual_host() {
    let site = Site::with(&json!({"task_default_queue": "shop"}));
    site.module("extra", EXTRA);
    let mut config = site.config.clone();
    config["imports"] = json!(["extra"]);
    config["task_default_queue"] = json!("mails");
    config["control_queue_exclusive"] = json!(true);
    let _shop = site.lab.worker("shop", &site.config, &["-c", "2"]);
    let _mails = site.lab.worker(
        "mails",
        &config,
        &["-c", "2", "--without-gossip", "--without-mingle"],
    );
    config["task_default_queue"] = json!("quiet");
    config["worker_enable_remote_control"] = json!(false);
    let _quiet = site
        .lab
        .worker("quiet", &config, &["-c", "1", "--without-heartbeat"]);
    let sends = "
import json, labapp, time
end = time.time() + 30
while time.time() < end:
    for name, queue in [('labapp.add', 'shop'), ('mails.send', 'mails'), ('mails.send', 'quiet')]:
        labapp.app.send_task(name, (1, 2), queue=queue)
    time.sleep(0.05)
";
    let traffic = site.background(sends, &[]);
    let reader = "
import labapp, socket
from kombu import Consumer, Queue
with labapp.app.connection_for_read() as connection:
    with Consumer(connection, [Queue('invoices', routing_key='invoices')], callbacks=[lambda b, m: m.ack()]):
        while True:
            try:
                connection.drain_events(timeout=5)
            except socket.timeout:
                connection.heartbeat_check()
";
    let other = site.background(reader, &[]);
    site.stays_silent(20, &["--timeout", "2s"]);
    drop((traffic, other));
}

/// Further tasks, which only some workers know.
const EXTRA: &str = "
import labapp
@labapp.app.task(name='mails.send')
def send(a, b):
    return a + b
";

/// A durable mailbox stays where its worker is gone for good.
#[test]
fn a_mailbox_that_is_left_over() {
    let site = Site::new();
    let _one = site.lab.worker("w1", &site.config, &[]);
    let mailbox = "old@lab.celery.pidbox";
    site.vhost.declare(mailbox, &json!({"durable": true}));
    let path = format!("e/celery.pidbox/q/{mailbox}");
    let binding = json!({"routing_key": ""});
    let node = &site.vhost.node;
    node.api("POST", &site.vhost.path("bindings", &path), &binding);
    let done = site.audit(&["--timeout", "1s"]);
    assert_eq!(done.alarms(), Vec::<String>::new(), "{done:#?}");
    assert_eq!(done.code, Some(0), "{done:#?}");
}

/// Celery's own defaults, early acknowledgement and prefetching among them.
#[test]
fn defaults() {
    let site = Site::on(
        RabbitNode::shared().vhost(),
        &json!({"task_acks_late": false, "task_reject_on_worker_lost": null,
                "task_track_started": false, "worker_prefetch_multiplier": 4, "task_time_limit": null}),
    );
    let _one = site.lab.worker("w1", &site.config, &["-c", "2"]);
    let _two = site
        .lab
        .worker("w2", &site.config, &["-P", "threads", "-c", "4"]);
    let traffic = site.traffic(20);
    assert_eq!(site.stays_silent(16, &[]), NOTHING);
    drop(traffic);
}
