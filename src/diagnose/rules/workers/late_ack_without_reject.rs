//! CD703: tasks whose message goes when their process is killed, late acknowledgement or not.

use super::early_ack::tasks_with;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Source};

/// The rule.
pub static LATE_ACK_WITHOUT_REJECT: Rule = Rule {
    code: "CD703",
    name: "late-ack-without-reject",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "These tasks are acknowledged after they ran, and still lost when their process alone is killed: the \
                  worker then stores WorkerLostError and acknowledges the message.",
        cause: "reject_on_worker_lost is False by default, so that a task which kills its process does not come back \
                for ever.",
        read: "The attributes acks_late and reject_on_worker_lost of each registered task, as the live workers tell \
               them.",
        confirm: "Run `celery -A APP inspect --timeout 3 registered acks_late reject_on_worker_lost`.",
        mend: "Nothing needs mending for tasks that may be lost that way.",
        prevent: "Set reject_on_worker_lost=True, or task_reject_on_worker_lost for all, where tasks may run twice. A \
                  task that runs out of memory each time then comes back each time: give it a time and a memory limit.",
        references: &[
            "Celery 5.7 worker/request.py, Request.on_failure",
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-reject-on-worker-lost",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let tasks = tasks_with(evidence, |traits| {
        traits.acks_late == Some(true) && traits.reject_on_worker_lost != Some(true)
    });
    if tasks.is_empty() {
        return Vec::new();
    }
    let number = plain::count(tasks.len() as u64, "task");
    let verb = if tasks.len() == 1 { "is" } else { "are" };
    let mut finding = Finding::of(
        &LATE_ACK_WITHOUT_REJECT,
        format!(
            "{number} {verb} acknowledged late, and still lost when the process alone is killed"
        ),
    )
    .confirm(evidence.inspect("registered acks_late reject_on_worker_lost"))
    .remedy("set reject_on_worker_lost where a task may run twice");
    finding.count = tasks.len() as u64;
    vec![finding.evidence("tasks", tasks.into_iter().collect::<Vec<&str>>())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, TASK, names};

    fn lab(late: bool, reject: Option<bool>) -> Lab {
        Lab::new().worker("w1", &["celery"]).with_worker(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            let traits = tasks.get_mut(TASK).expect("known");
            traits.acks_late = Some(late);
            traits.reject_on_worker_lost = reject;
        })
    }

    #[test]
    fn late_acknowledgement_alone_is_found() {
        for reject in [None, Some(false)] {
            let found = lab(true, reject).check(&LATE_ACK_WITHOUT_REJECT, "");
            assert_eq!(names(&found), ["late-ack-without-reject"]);
        }
    }

    #[test]
    fn with_reject_and_without_late_acknowledgement_it_is_clear() {
        for lab in [lab(true, Some(true)), lab(false, None)] {
            assert!(lab.check(&LATE_ACK_WITHOUT_REJECT, "").is_empty());
        }
    }
}
