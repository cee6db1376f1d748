//! The program under test, and any other that a test runs to its end.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Lab;

/// What a finished program left.
#[derive(Debug)]
pub struct Outcome {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Outcome {
    /// Standard output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("standard output is not JSON ({e}): {self:#?}"))
    }

    /// Findings above information that speak of the deployment, and not of what could not be read.
    pub fn alarms(&self) -> Vec<String> {
        let report = self.json();
        let all = report["findings"].as_array().expect("findings").iter();
        let loud = all.filter(|finding| finding["severity"] != "info");
        loud.filter(|finding| {
            let code = finding["code"].as_str().unwrap_or_default();
            !code.starts_with("CD8")
        })
        .map(ToString::to_string)
        .collect()
    }

    /// Fails when the program panicked, or when what it printed holds one of `secrets`.
    pub fn assert_decent(&self, secrets: &[&str]) {
        assert!(
            !self.stderr.contains("panicked at"),
            "it panicked: {self:#?}"
        );
        assert!(self.code != Some(101), "it panicked: {self:#?}");
        for secret in secrets {
            assert!(
                !self.stdout.contains(secret) && !self.stderr.contains(secret),
                "it printed {secret:?}: {self:#?}"
            );
        }
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
}

impl Running {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the program still runs");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, at most `limit`.
    pub fn wait(mut self, limit: Duration) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                break status;
            }
            assert!(
                self.started.elapsed() < limit,
                "the program has not ended within {limit:?}"
            );
            // Short, because benchmarks measure by it.
            thread::sleep(Duration::from_millis(1));
        };
        Outcome {
            code: status.code(),
            elapsed: self.started.elapsed(),
            stdout: String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default())
                .into_owned(),
            stderr: String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default())
                .into_owned(),
        }
    }
}

impl Lab {
    /// The tool, with nothing in its environment that could change what it prints or connects to.
    pub fn doctor(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_celery-doctor"));
        command
            .env_clear()
            .env("HOME", self.folder())
            .current_dir(self.folder())
            .args(arguments);
        command
    }

    /// Runs the tool to its end.
    pub fn run_doctor(&self, arguments: &[&str]) -> Outcome {
        self.run(&mut self.doctor(arguments), Duration::from_mins(2))
    }

    /// Traces one id, and returns the outcome with a JSON report.
    pub fn trace(&self, task_id: &str, arguments: &[&str]) -> Outcome {
        let all = [&["trace", task_id, "--format", "json"], arguments].concat();
        self.run_doctor(&all)
    }

    /// Starts a program without waiting for it.
    pub fn spawn(&self, command: &mut Command) -> Running {
        let (stdout, stderr) = (self.fresh_path("stdout"), self.fresh_path("stderr"));
        let child = self.start(command, &stdout, &stderr, ".ci/setup");
        Running {
            child,
            stdout,
            stderr,
            started: Instant::now(),
        }
    }
}
