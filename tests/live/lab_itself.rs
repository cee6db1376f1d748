//! The lab keeps its promises: what it starts answers, and nothing outlives it.

use std::path::PathBuf;

use redis::Commands as _;
use serde_json::json;

use crate::lab::{Certificates, Lab, SOON, wait_until};

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
    assert!(std::fs::read(worker_process.join("exe")).is_err());
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
