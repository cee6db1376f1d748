//! What a reading knows of workers' settings, held against `app.conf` of apps that are configured in every usual way, under
//! several versions of Celery.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use celery_doctor::celery::control::Conf;
use celery_doctor::evidence::file;
use serde_json::{Value, json};

use crate::lab::{Lab, python, venv};

/// The apps: Django under a namespace, Flask in both usual ways, old names, and a namespace of several words.
const APPS: [&str; 5] = [
    "shopdjango",
    "shopflask",
    "shopflaskold",
    "shopold",
    "shopnamespace",
];

/// What the app has, in the form in which the reading should have it.
const TRUTH: &str = "
import json, sys
from importlib import import_module
app = import_module(sys.argv[1]).app
app.finalize()
conf = app.conf
seconds = lambda value: value.total_seconds() if hasattr(value, 'total_seconds') else float(value or 0)
backend = conf.result_backend
print(json.dumps({
    'accept_content': sorted(conf.accept_content),
    'task_ignore_result': conf.task_ignore_result,
    'result_expires': seconds(conf.result_expires),
    'result_backend': backend.split(':')[0],
    'result_database': int(backend.rsplit('/', 1)[1]),
    'task_acks_late': conf.task_acks_late,
    'worker_prefetch_multiplier': conf.worker_prefetch_multiplier,
    'worker_proc_alive_timeout': conf.worker_proc_alive_timeout,
    'task_default_queue': conf.task_default_queue,
    'task_track_started': conf.task_track_started,
    'result_extended': conf.result_extended,
    'has_prefix': 'global_keyprefix' in conf.result_backend_transport_options,
    'routes': 0 if not conf.task_routes else sum(
        len(routes) if isinstance(routes, dict) else 1 for routes in
        ([conf.task_routes] if isinstance(conf.task_routes, dict) else conf.task_routes)
        if not isinstance(routes, str)),
}))
";

/// What was read, in the form of [`TRUTH`].
fn read(conf: &Conf) -> Value {
    let mut accepted = conf.accept_content.clone().unwrap_or_default();
    accepted.sort();
    json!({
        "accept_content": accepted,
        "task_ignore_result": conf.task_ignore_result,
        "result_expires": conf.result_expires,
        "result_backend": conf.result_backend,
        "result_database": conf.result_database,
        "task_acks_late": conf.task_acks_late,
        "worker_prefetch_multiplier": conf.worker_prefetch_multiplier,
        "worker_proc_alive_timeout": conf.worker_proc_alive_timeout,
        "task_default_queue": conf.task_default_queue,
        "task_track_started": conf.task_track_started,
        "result_extended": conf.result_extended,
        "has_prefix": conf.result_key_prefix.as_ref().map(|prefix| !prefix.is_empty()),
        "routes": conf.task_routes.as_ref().map(Vec::len),
    })
}

fn settings_are_read(python: &PathBuf) {
    let lab = Lab::new();
    let server = lab.redis();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(python);
        lab.prepare(&mut command);
        command
            .env("SHOP_BROKER", server.db(0))
            .env("SHOP_RESULTS", server.db(1))
            // Some accept pickle, which Celery allows root only so.
            .env("C_FORCE_ROOT", "1")
            .args(arguments);
        if arguments.contains(&"shopdjango") {
            command.env("CELERY_RESULT_BACKEND", server.db(2));
        }
        command
    };
    let workers: Vec<_> = APPS
        .into_iter()
        .map(|app| {
            let node = format!("{app}@lab");
            let mut worker = command(&["-m", "celery", "-A", app, "worker", "--loglevel", "INFO"]);
            worker.args(["-P", "solo", "-n", &node]);
            lab.start_worker(&node, &mut worker)
        })
        .collect();
    let mut expected = BTreeMap::new();
    for app in APPS {
        let done = lab.run(&mut command(&["-c", TRUTH, app]), Duration::from_mins(1));
        assert_eq!(done.code, Some(0), "{app}: {done:#?}");
        let truth: Value = serde_json::from_str(done.stdout.trim()).expect("JSON");
        expected.insert(format!("{app}@lab"), truth);
    }
    for worker in &workers {
        worker.wait_for_log(" ready.", Duration::from_mins(2));
    }
    let path = lab.folder().join("snapshot.gz");
    let mut doctor = lab.doctor(&["snapshot", "--timeout", "10s", "--output"]);
    doctor
        .arg(&path)
        .args(["--broker", &server.db(0), "--result-backend", &server.db(1)]);
    let done = lab.run(&mut doctor, Duration::from_mins(1));
    let snapshot = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{e}: {done:#?}"));
    let evidence = file::read(snapshot).expect("a snapshot");
    let told: BTreeMap<String, Value> = evidence
        .answered()
        .iter()
        .map(|worker| (worker.node.clone(), read(worker.conf.seen().expect("told"))))
        .collect();
    assert_eq!(told, expected);
    let routers = |node: &str| {
        let worker = evidence
            .answered()
            .iter()
            .find(|worker| worker.node == node);
        worker
            .expect("it answers")
            .conf
            .seen()
            .expect("told")
            .has_other_routers
    };
    assert!(routers("shopold@lab") && routers("shopnamespace@lab") && !routers("shopflask@lab"));
}

#[test]
fn settings_are_those_of_the_app_under_celery_5_2() {
    settings_are_read(&venv("5.2.7"));
}

#[test]
fn settings_are_those_of_the_app_under_celery_5_4() {
    settings_are_read(&venv("5.4.0"));
}

#[test]
fn settings_are_those_of_the_app_under_celery_5_7() {
    settings_are_read(&python());
}
