//! Real servers and real Celery workers, private to one test and gone after it.
//!
//! Whatever happens to the test (it passes, panics, or is killed), nothing stays behind: a small shell, the reaper,
//! holds the reading end of a pipe and kills every process group it was told of when the pipe closes, and removes the folder.

mod doctor;
mod proxy;
mod rabbit_node;
mod rabbitmq;
mod redis_server;
mod watch;
mod worker;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use doctor::{Outcome, Running};
pub use proxy::{Fault, Proxy};
#[allow(unused_imports, reason = "the tests of the binary will use the rest")]
pub use rabbit_node::{RabbitNode, RabbitUser, Vhost};
#[allow(unused_imports, reason = "the tests of the binary will use the rest")]
pub use rabbitmq::PrivateRabbit;
pub use redis_server::{Certificates, DeafServer, RedisServer, SOON, free_port};
pub use watch::{Keyspace, Monitor, Seen};
pub use worker::Worker;

/// Where the tests' own Celery application stands.
const APPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/apps");

/// How long a server or a worker may take to start on a busy machine.
pub const START: Duration = Duration::from_mins(1);

/// One test's private deployment.
pub struct Lab {
    folder: TempDir,
    reaper: Child,
    /// Process group ids are written here, one a line. Taken on drop.
    groups: Option<ChildStdin>,
}

impl Lab {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("celery-doctor-lab-")
            .tempdir()
            .expect("a temporary folder can be made");
        let mut reaper = Command::new("sh")
            .arg("-c")
            .arg("while read -r group; do set -- \"$@\" \"-$group\"; done; [ $# = 0 ] || kill -s KILL -- \"$@\" 2>/dev/null; rm -rf -- \"$0\"")
            .arg(folder.path()) // the script's $0
            .stdin(Stdio::piped())
            // A group of its own: Ctrl-C or a test runner's kill must not take the reaper before its work.
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        let groups = reaper.stdin.take();
        Self {
            folder,
            reaper,
            groups,
        }
    }

    /// The folder that all servers and workers of this test run in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a program in a process group of its own that ends with the lab. Its output goes to files, so that no
    /// pipe can fill.
    fn start(&self, command: &mut Command, stdout: &Path, stderr: &Path, install: &str) -> Child {
        let file = |path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .expect("the lab's folder can be written")
        };
        let child = command
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(file(stdout))
            .stderr(file(stderr))
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| {
                panic!(
                    "cannot start {:?}: {e}. Install it with: {install}",
                    command.get_program().display()
                )
            });
        let mut groups = self
            .groups
            .as_ref()
            .expect("the reaper's pipe is open until drop");
        writeln!(groups, "{}", child.id()).expect("the reaper listens");
        child
    }

    /// Starts a Celery worker named `name@lab` and waits until it is ready. `options` are those of `celery worker`.
    pub fn worker(&self, name: &str, config: &Value, options: &[&str]) -> Worker {
        let worker = self.worker_starting(name, config, options);
        worker.wait_for_log(" ready.", START);
        worker
    }

    /// As [`Lab::worker`], and does not wait.
    pub fn worker_starting(&self, name: &str, config: &Value, options: &[&str]) -> Worker {
        let mut command = self.python_command(config);
        command.args([
            "-m",
            "celery",
            "-A",
            "labapp",
            "worker",
            "--loglevel",
            "INFO",
        ]);
        command.args(["-n", &format!("{name}@lab")]).args(options);
        if !options.contains(&"-c") {
            command.args(["-c", "1"]);
        }
        self.start_worker(&format!("{name}@lab"), &mut command)
    }

    /// Starts the worker of this node name by a command of the test's own, and does not wait.
    pub fn start_worker(&self, node: &str, command: &mut Command) -> Worker {
        let log = self.fresh_path(&format!("worker-{node}.log"));
        let child = self.start(command, &log, &log, ".ci/setup");
        Worker::new(node.to_owned(), child, log)
    }

    /// Runs Python code that can `import labapp`, with Celery configured by `config`; returns what it prints.
    pub fn python(&self, config: &Value, code: &str) -> String {
        let done = self.run(
            self.python_command(config).arg("-c").arg(code),
            Duration::from_mins(1),
        );
        assert!(
            done.code == Some(0),
            "python failed:\n{code}\n{}{}",
            done.stdout,
            done.stderr
        );
        done.stdout
    }

    /// As [`Lab::python`], for code whose last line of output is JSON.
    pub fn python_json(&self, config: &Value, code: &str) -> Value {
        let printed = self.python(config, code);
        let last = printed.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("not JSON ({e}): {printed}"))
    }

    /// Publishes one task with Celery itself and returns its id. `options` are those of `apply_async`.
    pub fn send(&self, config: &Value, task: &str, arguments: &Value, options: &Value) -> String {
        let code = format!(
            "import json, labapp\n\
             print(json.dumps(labapp.app.send_task({task:?}, args=json.loads({:?}), **json.loads({:?})).id))",
            arguments.to_string(),
            options.to_string()
        );
        match self.python_json(config, &code) {
            Value::String(id) => id,
            other => panic!("not an id: {other}"),
        }
    }

    fn python_command(&self, config: &Value) -> Command {
        let mut command = Command::new(python());
        self.prepare(&mut command);
        command.env("LABAPP_CONFIG", config.to_string());
        command
    }

    /// Makes a Python find the apps of the tests, and no settings of this machine.
    pub fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.folder())
            .env("PYTHONPATH", APPS)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONWARNINGS", "ignore");
        for name in [
            "CELERY_BROKER_URL",
            "CELERY_RESULT_BACKEND",
            "CELERY_CONFIG_MODULE",
        ] {
            command.env_remove(name);
        }
    }

    /// Runs a program to its end, and kills it when it takes longer than `limit`.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Outcome {
        self.spawn(command).wait(limit)
    }

    /// A path in the lab's folder that no file has yet.
    fn fresh_path(&self, name: &str) -> PathBuf {
        (0..10_000)
            .map(|n| self.folder().join(format!("{n}-{name}")))
            .find(|path| !path.exists())
            .expect("some number is free")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.groups.take());
        // Nothing can be done about a failure here, and a panic in a drop would hide the test's own.
        let _ = self.reaper.wait();
    }
}

/// The Python that has Celery: `CELERY_DOCTOR_TEST_PYTHON`, or the one that `.ci/setup` makes in the target folder.
pub fn python() -> PathBuf {
    if let Some(named) = std::env::var_os("CELERY_DOCTOR_TEST_PYTHON") {
        return named.into();
    }
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../test-venv/bin/python");
    assert!(
        made.exists(),
        "the live tests need a Python with Celery. Make one with: .ci/setup"
    );
    made
}

/// The Python that has another version of Celery, which `.ci/setup` makes in the target folder.
pub fn venv(celery: &str) -> PathBuf {
    let made = format!("../test-venv-celery-{celery}/bin/python");
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(made);
    assert!(
        made.exists(),
        "this test needs Celery {celery}. Install it with: .ci/setup"
    );
    made
}

/// Asks `probe` again and again until it has an answer. Panics after `limit`, saying what was waited for.
pub fn wait_until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `log` has `text`, and shows the log's end when it never does.
fn wait_for_log(log: &Path, text: &str, limit: Duration) {
    let start = Instant::now();
    loop {
        let seen = read_lossy(log);
        if seen.contains(text) {
            return;
        }
        assert!(
            start.elapsed() < limit,
            "{} never says {text:?}:\n{seen}",
            log.display()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Runs a tool that must succeed, such as `openssl`.
fn must_run(program: &str, arguments: &[&OsStr], folder: &Path, install: &str) {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|e| panic!("cannot start {program}: {e}. Install it with: {install}"));
    assert!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}
