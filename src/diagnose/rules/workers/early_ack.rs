//! CD702: tasks that a crash loses, as Celery has it by default.

use std::collections::BTreeSet;

use crate::celery::control::TaskTraits;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Source};

/// The rule.
pub static EARLY_ACK: Rule = Rule {
    code: "CD702",
    name: "early-ack",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "These tasks are acknowledged before they run. If the worker dies while it runs one, no copy is left.",
        cause: "acks_late is False by default, which suits tasks that must not run twice.",
        read: "The attribute acks_late of each registered task, as the live workers tell it. Celery's own tasks are \
               left out.",
        confirm: "Run `celery -A APP inspect --timeout 3 registered acks_late`.",
        mend: "Nothing needs mending for tasks that may be lost.",
        prevent: "Set acks_late=True on tasks that may run twice and must not be lost, and reject_on_worker_lost=True \
                  with it.",
        references: &[
            "https://docs.celeryq.dev/en/stable/faq.html#faq-acks-late-vs-retry",
            "celery issue 3057",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Audit(check),
};

/// The names of the app's tasks that have this trait on any live worker.
pub(super) fn tasks_with(evidence: &Evidence, wanted: fn(&TaskTraits) -> bool) -> BTreeSet<&str> {
    let workers = evidence.answered().iter();
    workers
        .filter_map(|worker| worker.registered.seen())
        .flatten()
        .filter(|(name, traits)| !name.starts_with("celery.") && wanted(traits))
        .map(|(name, _)| name.as_str())
        .collect()
}

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let tasks = tasks_with(evidence, |traits| traits.acks_late == Some(false));
    if tasks.is_empty() {
        return Vec::new();
    }
    let number = plain::count(tasks.len() as u64, "task");
    let verb = if tasks.len() == 1 { "is" } else { "are" };
    let mut finding = Finding::of(
        &EARLY_ACK,
        format!(
            "{number} {verb} acknowledged before the run: a worker that dies meanwhile loses it"
        ),
    )
    .confirm(evidence.inspect("registered acks_late"))
    .remedy(
        "set acks_late and reject_on_worker_lost on tasks that may run twice and must not be lost",
    );
    finding.count = tasks.len() as u64;
    vec![finding.evidence("tasks", tasks.into_iter().collect::<Vec<&str>>())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, TASK, names};

    fn lab(acks_late: Option<bool>) -> Lab {
        Lab::new().worker("w1", &["celery"]).with_worker(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.get_mut(TASK).expect("known").acks_late = acks_late;
            let own = TaskTraits {
                acks_late: Some(false),
                ..TaskTraits::default()
            };
            tasks.insert("celery.chord".to_owned(), own);
        })
    }

    #[test]
    fn tasks_that_are_acknowledged_early_are_named() {
        let found = lab(Some(false)).check(&EARLY_ACK, "");
        assert_eq!(names(&found), ["early-ack"]);
        assert_eq!(found[0].count, 1);
    }

    #[test]
    fn late_ones_and_what_was_not_told_are_clear() {
        for lab in [lab(Some(true)), lab(None), Lab::new()] {
            assert!(lab.check(&EARLY_ACK, "").is_empty());
        }
    }
}
