//! What `audit` and `routes check` found, as the forms for other programs take it: plain and borrowed, judged already.

use std::time::Duration;

use crate::diagnose::policy::Applied;
use crate::diagnose::{CheckStatus, Checked, Finding, Outcome, Severity};
use crate::evidence::{Evidence, List, Reason};

/// One run of a command.
pub(crate) struct Summary<'a> {
    /// The command, as it is typed: `audit`, `routes check`.
    pub command: &'static str,
    /// One for each deployment; one alone where they have no names.
    pub sections: &'a [Section<'a>],
    /// Entries of the settings file that are of no use any more, as sentences.
    pub notes: &'a [String],
    /// The lowest severity that makes the run fail.
    pub fail_on: Severity,
    /// The exit code, and why.
    pub outcome: &'a Outcome,
    /// How long it took, by this machine's clock.
    pub elapsed: Duration,
}

/// What was found in one deployment, or in one folder.
pub(crate) struct Section<'a> {
    /// The deployment's name in the settings file; none where there is but one and it has none.
    pub name: Option<&'a str>,
    /// What was found, in the order of reports, and what the user does not want to see again.
    pub applied: &'a Applied,
    /// Every rule that was asked.
    pub checks: &'a [Checked],
    /// What it rests on; none where no broker was read.
    pub evidence: Option<&'a Evidence>,
}

impl Summary<'_> {
    /// All findings, with the name of their deployment.
    pub(super) fn findings(&self) -> impl Iterator<Item = (Option<&str>, &Finding)> {
        self.sections.iter().flat_map(|section| {
            let findings = section.applied.findings.iter();
            findings.map(move |finding| (section.name, finding))
        })
    }

    /// How many findings have this severity.
    pub(super) fn count(&self, severity: Severity) -> usize {
        let findings = self.findings();
        findings.filter(|(_, one)| one.severity == severity).count()
    }
}

impl<'a> Section<'a> {
    /// The rules that found nothing and could not see everything.
    pub(super) fn not_judged(&self) -> impl Iterator<Item = &'a Checked> {
        let checks = self.checks.iter();
        checks.filter(|check| check.status == CheckStatus::NotJudged)
    }

    /// Messages that wait in each list of a task queue, where that is known; queues of other programs are left out.
    pub(super) fn backlogs(&self) -> Vec<(&'a str, Option<u64>)> {
        let Some(evidence) = self.evidence else {
            return Vec::new();
        };
        let lists = evidence.lists.seen().into_iter().flatten();
        lists
            .filter(|list| list.named)
            .map(|list| (list.queue.as_str(), length(evidence, list)))
            .collect()
    }

    /// Messages that wait in all task queues, where all are known.
    pub(super) fn waiting(&self) -> Option<u64> {
        self.evidence?.lists.seen()?;
        let backlogs = self.backlogs().into_iter();
        backlogs.map(|(_, messages)| messages).sum()
    }

    /// Messages that are delivered and not acknowledged, where all of them could be counted.
    pub(super) fn unacked(&self) -> Option<u64> {
        let evidence = self.evidence?;
        let Some(rabbitmq) = &evidence.rabbitmq else {
            let reservations = evidence.reservations.seen()?.iter();
            return Some(reservations.map(|one| one.unacked).sum());
        };
        let is_task_queue = |name: &str| {
            let mut lists = evidence.lists.seen().into_iter().flatten();
            lists.any(|list| list.named && list.queue == name)
        };
        let queues = rabbitmq.queues.seen()?.iter();
        let counts = queues
            .filter(|queue| is_task_queue(&queue.name))
            .map(|queue| queue.unacknowledged.seen().copied());
        counts.sum()
    }

    /// Seconds since the oldest delivery that is not acknowledged; 0 where there is none. Only Redis keeps its time.
    pub(super) fn oldest_reservation(&self) -> Option<f64> {
        let evidence = self.evidence?;
        if evidence.rabbitmq.is_some() {
            return None;
        }
        let reservations = evidence.reservations.seen()?;
        if reservations.iter().all(|one| one.unacked == 0) {
            return Some(0.0);
        }
        let oldest = reservations.iter().filter_map(|one| one.oldest);
        let oldest = oldest.min_by(f64::total_cmp).filter(|at| at.is_finite())?;
        // A worker whose clock is ahead delivers in the future.
        let now = evidence.taken_at.as_duration().as_secs_f64();
        Some((now - oldest).max(0.0))
    }

    /// Whether everything was read that the user did not leave out.
    pub(super) fn read_whole(&self) -> Option<bool> {
        let mut reads = self.evidence?.reads.iter();
        Some(!reads.any(|read| read.falls_short() && read.reason != Some(Reason::NotAsked)))
    }
}

/// How many messages a queue's list holds, where that is known.
pub(super) fn length(evidence: &Evidence, list: &List) -> Option<u64> {
    if let Some(rabbitmq) = &evidence.rabbitmq {
        // The length of a queue there is known without looking into it.
        let mut queues = rabbitmq.queues.seen()?.iter();
        let queue = queues.find(|queue| queue.name == list.queue)?;
        return queue.ready.seen().copied();
    }
    match list.read.unseen().map(|why| why.reason) {
        // Of a list that was not read to its end the length is known all the same.
        None | Some(Reason::Truncated) => Some(list.length),
        Some(_) => None,
    }
}
