//! What several traced tasks have in common, said once.

use std::collections::BTreeMap;

use super::audit::{about_task, merged};
use super::{Cause, Finding, Trace};

/// Findings of one cause that were made for several traced tasks.
pub struct Shared {
    /// Each once, with the ids of all its tasks; in the order of reports.
    pub findings: Vec<Finding>,
}

/// One cause: a rule, and what its finding is about.
type Key = (String, BTreeMap<String, String>);

impl Shared {
    /// What the traces have in common.
    pub fn of(traces: &[&Trace]) -> Self {
        let mut all: BTreeMap<Key, Vec<Finding>> = BTreeMap::new();
        for trace in traces {
            for finding in &trace.findings {
                let mut finding = about(finding, trace);
                // A rule that leaves them out speaks of the trace's task all the same.
                if finding.task_ids.is_empty() {
                    finding.task_ids.push(trace.id.clone());
                }
                let key = (finding.code.clone(), finding.subject.clone());
                all.entry(key).or_default().push(finding);
            }
        }
        let several = all.into_values().filter(|same| same.len() > 1);
        let mut findings: Vec<Finding> = several
            .flat_map(|same| {
                let ids: Vec<String> = same.iter().flat_map(|f| f.task_ids.clone()).collect();
                let mut one = merged(same.into_iter());
                if let [one] = one.as_mut_slice() {
                    // The user named each of them: none is left out.
                    one.task_ids = ids;
                }
                one
            })
            .collect();
        findings.sort_by(Finding::order);
        Self { findings }
    }

    /// Whether a trace's finding is among them.
    pub fn has(&self, finding: &Finding, trace: &Trace) -> bool {
        let one = about(finding, trace);
        let mut findings = self.findings.iter();
        findings.any(|shared| shared.code == one.code && shared.subject == one.subject)
    }
}

/// The finding with a subject that does not depend on the task's id.
fn about(finding: &Finding, trace: &Trace) -> Finding {
    about_task(finding.clone(), &trace.id, trace.task.as_deref())
}

/// The first of the traces for which the same may have happened.
pub fn first_with<'t>(traces: &[&'t Trace], causes: &[Cause]) -> Option<&'t Trace> {
    let same = |trace: &&&Trace| {
        let texts = trace.causes.iter().map(|cause| &cause.text);
        texts.eq(causes.iter().map(|cause| &cause.text))
    };
    traces.iter().find(same).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Lab;
    use crate::diagnose::{judge, registry};

    #[test]
    fn one_cause_is_told_once() {
        let mut lab = Lab::new().worker("w1", &["celery"]);
        let ids = ["t1", "t2", "t3"].map(str::to_owned);
        for id in &ids {
            lab = lab.queued(id, "emials");
        }
        let diagnosis = judge(&lab.evidence, &ids);
        let traces: Vec<&Trace> = diagnosis.traces.iter().collect();
        let shared = Shared::of(&traces);
        let code = registry::find("no-consumer").map(|rule| rule.code);
        let consumer: Vec<&Finding> = shared
            .findings
            .iter()
            .filter(|finding| Some(finding.code.as_str()) == code)
            .collect();
        assert_eq!(consumer.len(), 1);
        assert_eq!(consumer[0].task_ids, ids);
        for trace in &traces {
            assert!(trace.findings.iter().all(|one| shared.has(one, trace)));
        }
        assert!(Shared::of(&traces[..1]).findings.is_empty());
    }
}
