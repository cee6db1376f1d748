//! Whether an unfinished result is one of this broker's: who shares a result backend may have another broker.

use super::Case;
use crate::evidence::{Evidence, StoredResult, Worker};

/// Whose an unfinished result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belonging {
    /// This broker's: its worker is, or was, one of this broker's.
    Ours,
    /// Another's: no worker here knows the task.
    Foreign,
    /// It can't be told.
    Unclear,
}

/// Whose the unfinished result of a task is; a task without one was found on this broker.
pub(super) fn belonging(case: &Case<'_>) -> Belonging {
    let Some(result) = case.result().filter(|result| !result.doc.ready) else {
        return Belonging::Ours;
    };
    let evidence = case.evidence;
    let seen_here = !case.task.copies.is_empty() || !case.task.claims.is_empty();
    if seen_here || was_here(evidence, result) {
        return Belonging::Ours;
    }
    let workers = evidence.answered();
    let unknown_to = |worker: &Worker| {
        let task = result.doc.name.as_deref();
        task.and_then(|task| worker.knows(task)) == Some(false)
    };
    if !workers.is_empty() && workers.iter().all(unknown_to) {
        return Belonging::Foreign;
    }
    Belonging::Unclear
}

/// Whether the worker that the result names is one of this broker's: it left its mailbox here, it answers and knows the
/// task as far as that is named, or another has taken its place.
fn was_here(evidence: &Evidence, result: &StoredResult) -> bool {
    let Some(node) = result.doc.worker.as_deref() else {
        return false;
    };
    let workers = evidence.workers.seen();
    let left = workers.is_some_and(|w| w.unanswered_names.iter().any(|name| name == node));
    let mut answering = evidence.answered().iter();
    left || answering.any(|worker| {
        let knows = result
            .doc
            .name
            .as_deref()
            .is_none_or(|task| worker.knows(task) != Some(false));
        knows && (worker.node == node || replaced(node, worker, evidence, result))
    })
}

/// Whether a live worker has taken a gone one's place: both are replicas of one Deployment of Kubernetes with one
/// template, and the live one is younger than the task's run. The age of a STARTED result is what is gone of its time to
/// live.
fn replaced(gone: &str, live: &Worker, evidence: &Evidence, result: &StoredResult) -> bool {
    let kept = evidence.result_expires().filter(|kept| kept.is_finite());
    let age = kept.zip(result.ttl_seconds).map(|(kept, left)| kept - left);
    let up = live.stats.seen().and_then(|stats| stats.uptime);
    let younger = age.zip(up).is_some_and(|(age, up)| up <= age);
    younger && are_replicas(gone, &live.node)
}

/// Whether two node names differ in nothing but the random end of a pod's name, `worker-7f9c6d8b5-x2x9z`.
fn are_replicas(one: &str, other: &str) -> bool {
    let (Some((name, host)), Some((other_name, other_host))) =
        (one.split_once('@'), other.split_once('@'))
    else {
        return false;
    };
    let same_pods = |a: &str, b: &str| template(a).is_some_and(|stem| template(b) == Some(stem));
    (host == other_host && same_pods(name, other_name))
        || (name == other_name && same_pods(host, other_host))
}

/// The part of a pod's name that its Deployment and the hash of its template give: without the last five characters.
fn template(pod: &str) -> Option<&str> {
    let random = |text: &str, least: usize, most: usize| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        (least..=most).contains(&text.len()) && text.chars().all(plain)
    };
    let (stem, end) = pod.rsplit_once('-')?;
    let (deployment, hash) = stem.rsplit_once('-')?;
    let has_digit = hash.contains(|c: char| c.is_ascii_digit());
    (random(end, 5, 5) && random(hash, 4, 10) && has_digit && !deployment.is_empty())
        .then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::result::ResultDoc;
    use crate::diagnose::testkit::{Lab, TASK, doc_of_state};

    const GONE: &str = "celery@worker-7f9c-aaaaa";

    fn started(node: Option<&str>, task: Option<&str>, live: &str) -> Lab {
        let doc = ResultDoc {
            worker: node.map(str::to_owned),
            name: task.map(str::to_owned),
            ..doc_of_state("STARTED")
        };
        let mut lab = Lab::new()
            .worker(live, &["celery"])
            .with_worker(|worker| worker.stats.seen_mut().expect("seen").uptime = Some(60.0))
            .result_as("t1", doc);
        aged(&mut lab, 3_600.0);
        lab
    }

    fn aged(lab: &mut Lab, seconds: f64) {
        let result = lab.task("t1").result.seen_mut().expect("seen");
        result.as_mut().expect("stored").ttl_seconds = Some(86_400.0 - seconds);
    }

    fn of(lab: &Lab) -> Belonging {
        belonging(&Case::of(&lab.evidence, "t1").expect("looked for"))
    }

    #[test]
    fn a_pod_s_successor_tells() {
        assert_eq!(
            of(&started(Some(GONE), None, "celery@worker-7f9c-bbbbb")),
            Belonging::Ours
        );
        let by_name = started(Some("worker-7f9c-aaaaa@h"), None, "worker-7f9c-bbbbb@h");
        assert_eq!(of(&by_name), Belonging::Ours);
        // One that was there before the run is no successor.
        let mut older = started(Some(GONE), None, "celery@worker-7f9c-bbbbb");
        aged(&mut older, 30.0);
        assert_eq!(of(&older), Belonging::Unclear);
    }

    #[test]
    fn a_mailbox_or_an_answer_tells() {
        let mut left = started(Some("w0@h"), None, "w1@h");
        assert_eq!(of(&left), Belonging::Unclear);
        left.workers_mut().unanswered_names.push("w0@h".to_owned());
        assert_eq!(of(&left), Belonging::Ours);
        assert_eq!(
            of(&started(Some("w1@h"), Some(TASK), "w1@h")),
            Belonging::Ours
        );
    }

    #[test]
    fn what_no_worker_here_knows_is_another_s() {
        for node in [None, Some(GONE), Some("w1@h")] {
            assert_eq!(
                of(&started(node, Some("other.task"), "w1@h")),
                Belonging::Foreign
            );
        }
    }

    #[test]
    fn other_names_tell_nothing() {
        for (gone, live) in [
            (GONE, "celery@worker-8a1b-bbbbb"),
            ("celery@eu-alpha", "celery@eu-gamma"),
            ("tenant1@h", "tenant2@h"),
            ("celery@3f2a9c1b7d4e", "celery@a81bc81bdead"),
            ("w0", "w1"),
        ] {
            assert_eq!(
                of(&started(Some(gone), None, live)),
                Belonging::Unclear,
                "{gone}"
            );
        }
        assert_eq!(of(&started(None, None, "w1@h")), Belonging::Unclear);
    }
}
