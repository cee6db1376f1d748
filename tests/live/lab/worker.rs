//! A Celery worker process, and the ways in which it can die.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{read_lossy, wait_for_log};

/// A running Celery worker. It lives until it is killed, or its lab ends.
pub struct Worker {
    /// The node's name, `name@lab`.
    pub name: String,
    process: Child,
    log: PathBuf,
}

impl Worker {
    pub(super) fn new(name: String, process: Child, log: PathBuf) -> Self {
        Self { name, process, log }
    }

    /// Every process of the worker dies at once, as by a power failure: nothing is acknowledged or restored.
    pub fn kill(&mut self) {
        self.signal_group(Signal::KILL);
        self.process
            .wait()
            .expect("a killed child can be waited for");
    }

    /// The whole worker hangs: its sockets stay open, and nothing answers.
    pub fn freeze(&self) {
        self.signal_group(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal_group(Signal::CONT);
    }

    /// Celery's own warm shutdown, to its end.
    pub fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).expect("the worker is alive");
        self.process.wait().expect("a child can be waited for");
    }

    /// Celery's own warm shutdown, begun.
    pub fn begin_to_stop(&self) {
        kill_process(self.pid(), Signal::TERM).expect("the worker is alive");
        self.wait_for_log("Warm shutdown", Duration::from_secs(30));
    }

    pub fn wait_for_log(&self, text: &str, limit: Duration) {
        wait_for_log(&self.log, text, limit);
    }

    /// Waits until the worker has taken a task.
    pub fn wait_received(&self, task_id: &str) {
        self.wait_for_log(&format!("[{task_id}] received"), Duration::from_secs(30));
    }

    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).expect("the worker's process group exists");
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}
