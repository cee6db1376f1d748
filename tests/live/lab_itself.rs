//! The lab keeps its promises: what it starts answers, and nothing outlives it.

use std::path::PathBuf;

use redis::Commands as _;
use serde_json::json;

use crate::lab::{Certificates, DeafServer, Keyspace, Lab, Monitor, SOON, wait_until};

#[test]
fn nothing_outlives_a_lab() {
    let lab = Lab::new();
    let server = lab.redis();
    let worker = lab.worker("w1", &json!({"broker_url": server.db(0)}), &[]);
    let worker_process = PathBuf::from(format!("/proc/{}", worker.pid().as_raw_nonzero()));
    let (folder, port) = (lab.folder().to_owned(), server.port);
    assert!(worker_process.exists());
    drop(lab);
    // The test is still the dead worker's parent, so that its entry stays until it is waited for; its sockets don't.
    wait_until("the server is gone", SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .is_err()
            .then_some(())
    });
    assert!(!folder.exists());
    // The kernel takes a moment to end what was killed.
    wait_until("the worker is gone", SOON, || {
        std::fs::read(worker_process.join("exe"))
            .is_err()
            .then_some(())
    });
}

#[test]
fn servers_of_each_kind_start() {
    let lab = Lab::new();
    let master = lab.redis_with(&["--requirepass", "hunter2"]);
    let port = master.port.to_string();
    lab.redis_with(&["--replicaof", "127.0.0.1", &port, "--masterauth", "hunter2"]);
    lab.sentinel("mymaster", &master, "sentinel auth-pass mymaster hunter2");
    lab.redis_tls(&Certificates::new(&lab), &["--maxmemory", "100mb"]);
    assert!(
        master.connect().ping::<String>().is_err(),
        "the password is asked for"
    );
}

#[test]
fn workers_run_tasks_and_die() {
    let lab = Lab::new();
    let server = lab.redis();
    let config = json!({"broker_url": server.db(0), "result_backend": server.db(1)});
    let mut worker = lab.worker("w1", &config, &[]);
    let id = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    worker.wait_for_log(&format!("labapp.add[{id}] succeeded"), SOON);
    assert!(
        server
            .connect_to(1)
            .exists::<_, bool>(format!("celery-task-meta-{id}"))
            .unwrap()
    );
    worker.freeze();
    worker.thaw();
    worker.kill();
}

#[test]
fn monitor_shows_what_came_through_the_port_and_nothing_else() {
    let lab = Lab::new();
    let server = lab.redis();
    let mut monitor = Monitor::new(&server);
    let _: () = server.connect().set("mine", "1").unwrap();
    let mut other = redis::Client::open(server.db(2))
        .unwrap()
        .get_connection()
        .unwrap();
    let _: () = other.set("a \"b\"\u{6}\u{16}3", "\r\n\\x").unwrap();
    let commands = monitor.commands();
    assert!(
        commands
            .iter()
            .all(|one| !one.words.contains(&"mine".into())),
        "{commands:?}"
    );
    let last = commands.last().unwrap();
    assert_eq!(
        (last.db.as_str(), &last.words[..]),
        (
            "2",
            &["SET", "a \"b\"\u{6}\u{16}3", "\r\n\\x"].map(String::from)[..]
        )
    );
}

#[test]
fn a_changed_key_is_noticed() {
    let lab = Lab::new();
    let server = lab.redis();
    let mut connection = server.connect_to(1);
    let _: () = connection.lpush("list", &["a", "b"]).unwrap();
    let before = Keyspace::of(&server);
    before.assert_same_now(&server);
    let _: bool = connection.expire("list", 1000).unwrap();
    assert_ne!(before, Keyspace::of(&server));
    let _: bool = connection.persist("list").unwrap();
    assert_eq!(before, Keyspace::of(&server));
    let _: String = connection.rpop("list", None).unwrap();
    assert_ne!(before, Keyspace::of(&server));
}

#[test]
fn a_false_server_says_what_it_is_told() {
    let server = DeafServer::answering(b"-LOADING Redis is loading the dataset in memory\r\n");
    let mut connection = redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let said = connection.ping::<String>().unwrap_err();
    assert!(said.to_string().contains("loading"), "{said}");
}
