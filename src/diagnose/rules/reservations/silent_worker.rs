//! CD402: a worker is subscribed to remote control, and does not answer.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Silence, Source};

/// The rule.
pub static SILENT_WORKER: Rule = Rule {
    code: "CD402",
    name: "silent-worker",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A worker is connected to the broker and listens to remote control, and does not answer it. Either \
                  it hangs, and the tasks that it holds stay where they are; or it uses the solo pool and runs a task \
                  at this moment, or gevent or eventlet and a task computes without yielding; or it is in a soft shutdown and waits for its tasks to end. What it holds can't be \
                  known until it answers.",
        cause: "The worker's main process answers remote control between other work. It can't while it is frozen \
                (SIGSTOP, a paused container, a swapped-out machine), while it waits in a call that never returns, or \
                while the solo pool runs a task in the same thread. With gevent and eventlet a task that never yields \
                blocks it too. Nor can it while it sleeps for worker_soft_shutdown_timeout (Celery 5.5 and later): a \
                worker that runs tasks does so on SIGQUIT, a second Ctrl-C, or SIGTERM under REMAP_SIGTERM=SIGQUIT, \
                and ends by itself after that. A worker whose accept_content leaves JSON out refuses the question, which \
                is in JSON, and works all the same (Celery 5.7 app/control.py, `Control.__init__`).",
        read: "On Redis PUBLISH on the pidbox channel returns how many subscribers received the request; fewer replies \
               came within the time given. The names are those in `_kombu.binding.celery.pidbox` that did not answer. \
               Dead workers stay in that set for a while, so that there can be more names than silent workers. On \
               RabbitMQ the management API shows who consumes a worker's mailbox. While an alarm blocks publishers \
               no worker can answer, and none is called silent.",
        confirm: "Run `celery -A APP inspect --timeout 10 ping -d NODE`. On the worker's machine look at its main \
                  process: `ps -o pid,stat,etime,cmd` (state T is stopped, D waits for a disk), and `py-spy dump \
                  --pid PID`, which shows where it stands.",
        mend: "If a solo, gevent or eventlet pool computes, wait, or ask again with a longer --timeout. If its log says `Initiating \
               Soft Shutdown`, let it end. If it hangs, restart it: unacknowledged messages come back, on Redis after \
               the visibility timeout, on RabbitMQ at once.",
        prevent: "Use the prefork pool for tasks that take longer than a second. Give network calls in tasks a \
                  timeout. Watch workers with a probe that asks them, not only for their process.",
        references: &[
            "celery issues 9245, 5685, 3430",
            "celery 5.7 worker/worker.py, wait_for_soft_shutdown",
            "https://docs.celeryq.dev/en/stable/userguide/workers.html#remote-control",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(workers) = evidence.workers.seen() else {
        return Vec::new();
    };
    let within = plain::duration(workers.timeout_seconds);
    let why = "it hangs, a solo, gevent or eventlet pool computes, it is in a soft shutdown, or it accepts no JSON";
    match workers.silence() {
        Silence::None => Vec::new(),
        Silence::Named(nodes) => nodes
            .iter()
            .map(|node| {
                let message = format!("worker {node} did not answer within {within}: {why}");
                finding(evidence, message).subject("worker", node.as_str())
            })
            .collect(),
        Silence::Among(silent, nodes) => {
            let number = plain::count(silent, "worker");
            let message = match nodes {
                [] => format!(
                    "{number} did not answer within {within}, and no name tells which: {why}"
                ),
                // Names without an answer can be fewer than the silent workers too: two workers under one name.
                nodes => format!(
                    "{number} did not answer within {within}, by these names: {}; {why}",
                    plain::names(nodes)
                ),
            };
            let mut finding = finding(evidence, message).evidence("names", nodes.to_vec());
            finding.count = silent;
            vec![finding]
        }
    }
    .into_iter()
    .map(|found| {
        found
            .evidence("answered", workers.answered.len())
            .evidence("silent", workers.silent)
            .evidence("timeout_seconds", workers.timeout_seconds)
    })
    .collect()
}

fn finding(evidence: &Evidence, message: String) -> Finding {
    Finding::of(&SILENT_WORKER, message)
        .confirm(evidence.inspect("ping"))
        .look("run `py-spy dump` on the worker's main process, on its machine")
        .look("look for `Initiating Soft Shutdown` or `ContentDisallowed` at the end of the worker's log")
        .remedy(
            "ask again with a longer --timeout; restart the worker if it hangs, and leave it alone if it is in a soft \
             shutdown, which ends by itself, or accepts no JSON",
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    fn messages(lab: &Lab) -> Vec<String> {
        let findings = lab.check(&SILENT_WORKER, "");
        findings
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_silent_worker_is_named() {
        let lab = Lab::new().worker("w1", &["celery"]).silent("w2");
        assert_eq!(
            messages(&lab),
            [
                "worker w2 did not answer within 2s: it hangs, a solo, gevent or eventlet pool computes, it is in a soft shutdown, or it accepts no JSON"
            ]
        );
        let findings = lab.check(&SILENT_WORKER, "");
        assert_eq!(names(&findings), ["silent-worker"]);
        assert_eq!(findings[0].subject["worker"], "w2");
    }

    #[test]
    fn one_of_several_names_is_said_so() {
        let mut lab = Lab::new().silent("w2");
        lab.workers_mut().unanswered_names.push("w3".to_owned());
        let said = messages(&lab);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("1 worker did not answer within 2s, by these names: w2 and w3")
        );
    }

    #[test]
    fn a_worker_without_a_name_is_found() {
        let mut lab = Lab::new().silent("w2");
        lab.workers_mut().unanswered_names.clear();
        assert!(messages(&lab)[0].contains("no name tells which"));
    }

    #[test]
    fn dead_names_alone_are_clear() {
        let mut lab = Lab::new().worker("w1", &["celery"]);
        lab.workers_mut().unanswered_names.push("dead".to_owned());
        assert!(messages(&lab).is_empty());
    }

    #[test]
    fn nothing_is_said_of_workers_that_were_not_asked() {
        let lab = Lab::new()
            .silent("w2")
            .unread(Source::Workers, Reason::NotAsked);
        assert!(messages(&lab).is_empty());
    }
}
