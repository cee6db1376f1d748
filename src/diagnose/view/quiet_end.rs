//! Whether a task ended, or went on as another, without a result of its own.

use std::time::Duration;

use super::case::Case;
use crate::evidence::{Source, Worker};

/// Seconds within which a task's beginning and a worker's start can't be put in order: both are told in whole seconds.
const MARGIN: f64 = 2.0;

/// What leaves STARTED as it is, with nothing killed.
pub(in crate::diagnose) const QUIET_END: &str = "it raised Ignore or Reject and has ended, or it replaced itself (self.replace) and lives on as the last step of \
     what took its place";

impl<'e> Case<'e> {
    /// The worker that began it and lives on, in whose hands it was not killed: Celery leaves STARTED for ever where a task
    /// raises Ignore, which `self.replace` does too (Celery 5.7 app/trace.py, `handle_ignore`). Its process is still there;
    /// or its worker has been there since before it began, and would have stored what became of a process of its own that
    /// died. A process of the same number can be another, where the worker was started since: in a container they count
    /// from 1.
    pub fn began_in_a_worker_that_lives(&self) -> Option<&'e str> {
        let result = self.unfinished_result()?;
        let node = result.doc.worker.as_deref()?;
        let pid = result.doc.pid?;
        let worker = self.evidence.answered().iter().find(|w| w.node == node)?;
        let stats = worker.stats.seen().filter(|_| !worker.twins)?;
        let there = stats.pid == Some(pid) || stats.process_ids.contains(&pid);
        let older = self.was_up_when_it_began(worker, result.ttl_seconds);
        older.unwrap_or(there).then_some(node)
    }

    /// Whether a worker was up already when the result was stored, where it is told for how long results are kept.
    fn was_up_when_it_began(&self, worker: &Worker, ttl: Option<f64>) -> Option<bool> {
        let kept = self.evidence.results_kept_by(worker)?;
        let stored_ago = kept - ttl?;
        let up = worker.stats.seen()?.uptime?;
        // The worker tells its uptime early in the reading, and the result is read at its end.
        let read = self.evidence.read(Source::Workers);
        let length = Duration::from_millis(read.map_or(0, |read| read.elapsed_ms)).as_secs_f64();
        if stored_ago < 0.0 || (stored_ago - up).abs() <= MARGIN + length {
            return None;
        }
        Some(stored_ago < up)
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnose::rules::results::vanished_while_running::VANISHED_WHILE_RUNNING;
    use crate::diagnose::testkit::{Lab, doc_of_state, names};
    use crate::diagnose::{Verdict, judge};

    /// A task that began in process 42 of w1, with a result that has so long to live.
    fn started(ttl: Option<f64>) -> Lab {
        let mut doc = doc_of_state("STARTED");
        doc.worker = Some("w1".to_owned());
        doc.pid = Some(42);
        let mut lab = Lab::new().worker("w1", &["celery"]).result_as("t1", doc);
        let task = lab.task("t1");
        for result in [&mut task.first_result, &mut task.result] {
            result
                .seen_mut()
                .and_then(Option::as_mut)
                .expect("a result")
                .ttl_seconds = ttl;
        }
        lab
    }

    fn pool(lab: Lab, processes: &[i64], uptime: Option<f64>) -> Lab {
        lab.with_worker(|worker| {
            let stats = worker.stats.seen_mut().expect("seen");
            stats.process_ids = processes.to_vec();
            stats.uptime = uptime;
        })
    }

    fn is_lost(lab: &Lab) -> bool {
        let findings = lab.check(&VANISHED_WHILE_RUNNING, "t1");
        let judged = judge(&lab.evidence, &["t1".to_owned()]);
        let verdict = judged.traces[0].verdict;
        match names(&findings).as_slice() {
            [] => {
                assert_eq!(verdict, Verdict::Undetermined);
                assert!(judged.traces[0].summary.contains("Ignore"));
                false
            }
            ["vanished-while-running"] => {
                assert_eq!(verdict, Verdict::Lost);
                true
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_task_whose_process_is_still_there_was_not_killed() {
        assert!(!is_lost(&pool(started(None), &[41, 42], None)));
        // A missing process proves nothing, and nothing else speaks for the worker.
        assert!(is_lost(&pool(started(None), &[41, 43], None)));
        // In the solo pool and those of threads it is the worker's own.
        let solo = started(None).with_worker(|worker| {
            worker.stats.seen_mut().expect("seen").pid = Some(42);
        });
        assert!(!is_lost(&solo));
    }

    #[test]
    fn a_worker_that_is_older_than_the_task_would_have_said_what_became_of_it() {
        // It began a minute ago, in a process that was replaced since.
        let minute = 86_400.0 - 60.0;
        assert!(!is_lost(&pool(started(Some(minute)), &[43], Some(600.0))));
    }

    #[test]
    fn a_process_of_a_worker_that_started_later_is_another_one() {
        let hour = 86_400.0 - 3600.0;
        assert!(is_lost(&pool(started(Some(hour)), &[42], Some(600.0))));
    }

    #[test]
    fn workers_of_one_name_and_other_workers_prove_nothing() {
        let twins = pool(started(None), &[42], None).with_worker(|worker| worker.twins = true);
        assert!(is_lost(&twins));
        let other = pool(started(None).worker("w2", &["celery"]), &[42], None);
        assert!(is_lost(&other));
    }
}
