//! From evidence to findings and verdicts: pure functions, sorted, the same every time.

pub mod audit;
mod belonging;
mod causes;
mod finding;
mod later;
pub mod outcome;
pub(crate) mod plain;
pub mod policy;
pub mod registry;
pub mod routes;
pub mod rules;
mod stages;
#[cfg(test)]
pub(crate) mod testkit;
pub mod thresholds;
mod verdict;
mod view;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::causes::Cause;
pub use self::finding::{Finding, Location, Severity};
pub use self::outcome::Outcome;
pub use self::stages::{Stage, StageName, StageStatus};
pub use self::thresholds::Thresholds;
pub use self::verdict::Verdict;
pub use self::view::{Case, Fate, Judged, Visibility};
use crate::evidence::routing::Routing;
use crate::evidence::{Evidence, RabbitMq, Source};

/// A rule: one kind of finding. Each lives in a file of its own and stands in [`registry::ALL`].
pub struct Rule {
    /// Stable for ever, such as `CD101`.
    pub code: &'static str,
    /// What people say, such as `no-consumer`.
    pub name: &'static str,
    /// The severity that it has unless the user sets another.
    pub severity: Severity,
    /// On which brokers its finding can occur. On others it is not asked, and no report lists it.
    pub brokers: Brokers,
    /// What `explain` prints.
    pub page: Page,
    /// The places that must have been read whole before "clear" may be said.
    pub needs: &'static [Source],
    /// From evidence to findings. It finds only what the evidence proves, complete or not.
    pub check: Check,
}

/// On which brokers a finding can occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brokers {
    /// On each.
    Any,
    /// On Redis: it is about the transport that kombu builds there.
    Redis,
    /// On RabbitMQ, and on servers that speak AMQP 0-9-1 as it does.
    RabbitMq,
}

impl Brokers {
    /// Whether a finding can occur on the broker of this evidence.
    fn has(self, evidence: &Evidence) -> bool {
        match self {
            Self::Any => true,
            Self::Redis => evidence.rabbitmq.is_none(),
            Self::RabbitMq => evidence.rabbitmq.is_some(),
        }
    }
}

/// What a rule looks at.
#[derive(Clone, Copy)]
pub enum Check {
    /// One traced task at a time.
    Task(fn(&Case<'_>) -> Vec<Finding>),
    /// The deployment as a whole.
    Deployment(fn(&Evidence) -> Vec<Finding>),
    /// One traced task at a time, and then the deployment as far as no traced task showed it.
    Both(fn(&Case<'_>) -> Vec<Finding>, fn(&Evidence) -> Vec<Finding>),
    /// The deployment as a whole, where every message was read and the user's limits are known: a matter of audits.
    Audit(fn(&Evidence, &Thresholds) -> Vec<Finding>),
    /// What a project's files say of routing, and nothing of a live deployment.
    Routing(fn(&Routing) -> Judged),
}

impl Check {
    /// What it says of one task.
    pub fn of_task(self) -> Option<fn(&Case<'_>) -> Vec<Finding>> {
        match self {
            Self::Task(check) | Self::Both(check, _) => Some(check),
            Self::Deployment(_) | Self::Audit(_) | Self::Routing(_) => None,
        }
    }

    /// What it says of the deployment, traced tasks or not.
    pub fn of_deployment(self) -> Option<fn(&Evidence) -> Vec<Finding>> {
        match self {
            Self::Deployment(check) | Self::Both(_, check) => Some(check),
            Self::Task(_) | Self::Audit(_) | Self::Routing(_) => None,
        }
    }
}

/// The page of a finding, in the order in which it is printed. Plain text, wrapped by the printer.
pub struct Page {
    /// What it means.
    pub meaning: &'static str,
    /// How it comes about in Celery.
    pub cause: &'static str,
    /// What was read to conclude it.
    pub read: &'static str,
    /// How to confirm it by hand.
    pub confirm: &'static str,
    /// How to mend it now.
    pub mend: &'static str,
    /// How to prevent it.
    pub prevent: &'static str,
    /// Issues and documentation.
    pub references: &'static [&'static str],
}

/// The diagnosis of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnosis {
    /// One entry for each id asked, in the order asked.
    pub traces: Vec<Trace>,
    /// Findings that concern the deployment.
    pub findings: Vec<Finding>,
    /// Every rule that was asked.
    pub checks: Vec<Checked>,
}

/// What became of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Its id.
    pub id: String,
    /// Its name, where anything told.
    pub task: Option<String>,
    /// Where it is, in a word.
    pub verdict: Verdict,
    /// Where it is, in a sentence.
    pub summary: String,
    /// What was seen at each step of its path.
    pub stages: Vec<Stage>,
    /// Findings that concern it.
    pub findings: Vec<Finding>,
    /// For `unknown` and `lost`: what may have happened, the likeliest first.
    pub causes: Vec<Cause>,
}

/// That a rule was asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The rule's code.
    pub code: String,
    /// The rule's name.
    pub name: String,
    /// What came of it.
    pub status: CheckStatus,
    /// For `not_judged`: what was missing.
    pub missing: Vec<String>,
}

/// What came of asking a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Everything that it needs was read, and it has nothing to say.
    Clear,
    /// It found something.
    Found,
    /// It found nothing, and could not see everything.
    NotJudged,
}

impl CheckStatus {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Found => "found",
            Self::NotJudged => "not_judged",
        }
    }
}

/// Judges evidence: for each id a verdict with its findings, then what concerns the deployment.
pub fn judge(evidence: &Evidence, ids: &[String]) -> Diagnosis {
    let mut by_task: BTreeMap<&str, Vec<Finding>> = BTreeMap::new();
    let mut deployment = Vec::new();
    let mut checks = Vec::new();
    for rule in registry::ALL
        .iter()
        .filter(|rule| rule.brokers.has(evidence))
    {
        if matches!(rule.check, Check::Audit(_) | Check::Routing(_)) {
            continue;
        }
        let mut found = false;
        if let Some(check) = rule.check.of_task() {
            for id in ids {
                if let Some(case) = Case::of(evidence, id) {
                    let mut findings = check(&case);
                    findings.extend(of_earlier_steps(&case, check));
                    found |= !findings.is_empty();
                    by_task.entry(id).or_default().extend(findings);
                }
            }
        }
        if let Some(check) = rule.check.of_deployment() {
            let findings = check(evidence);
            found |= !findings.is_empty();
            deployment.extend(findings);
        }
        checks.push(checked(rule, evidence, found));
    }
    deployment.sort_by(Finding::order);
    let traces = ids
        .iter()
        .map(|id| {
            let mut findings = by_task.remove(id.as_str()).unwrap_or_default();
            findings.sort_by(Finding::order);
            verdict::trace(evidence, id, findings)
        })
        .collect();
    Diagnosis {
        traces,
        findings: deployment,
        checks,
    }
}

/// What keeps a later step of a canvas, or a group, from coming about: the errors of the tasks that were met in its place.
fn of_earlier_steps(case: &Case<'_>, check: fn(&Case<'_>) -> Vec<Finding>) -> Vec<Finding> {
    if !case.is_unheard_of() {
        return Vec::new();
    }
    let leads = case.leads().into_iter();
    let leads = leads.filter_map(|lead| Case::of(case.evidence, lead.id));
    let said = leads.chain(case.parts()).flat_map(|case| check(&case));
    audit::merged(said.filter(|finding| finding.severity == Severity::Error))
}

/// The diagnosis of a project's routing.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingDiagnosis {
    /// What was found.
    pub findings: Vec<Finding>,
    /// Every rule that was asked.
    pub checks: Vec<Checked>,
    /// What could not be known and kept a rule from judging, as sentence parts.
    pub unknown: Vec<String>,
}

/// Judges a project's routing, by the rules whose codes are asked for.
pub fn judge_routing(routing: &Routing, asked: &dyn Fn(&str) -> bool) -> RoutingDiagnosis {
    let mut diagnosis = RoutingDiagnosis {
        findings: Vec::new(),
        checks: Vec::new(),
        unknown: Vec::new(),
    };
    for (rule, check) in registry::routing().filter(|(rule, _)| asked(rule.code)) {
        let judged = check(routing);
        let mut missing: Vec<String> = judged.unknown.iter().map(ToString::to_string).collect();
        for why in &missing {
            if !diagnosis.unknown.contains(why) {
                diagnosis.unknown.push(why.clone());
            }
        }
        missing.extend(judged.missing);
        let status = match (judged.findings.is_empty(), missing.is_empty()) {
            (false, _) => CheckStatus::Found,
            (true, true) => CheckStatus::Clear,
            (true, false) => CheckStatus::NotJudged,
        };
        diagnosis.checks.push(Checked {
            code: rule.code.to_owned(),
            name: rule.name.to_owned(),
            status,
            missing: if status == CheckStatus::NotJudged {
                missing
            } else {
                Vec::new()
            },
        });
        diagnosis.findings.extend(judged.findings);
    }
    diagnosis.findings.sort_by(Finding::order);
    diagnosis.findings.dedup();
    diagnosis
}

fn checked(rule: &Rule, evidence: &Evidence, found: bool) -> Checked {
    let missing: Vec<String> = rule
        .needs
        .iter()
        .filter_map(|source| missing(evidence, *source))
        .collect();
    let status = match (found, missing.is_empty()) {
        (true, _) => CheckStatus::Found,
        (false, true) => CheckStatus::Clear,
        (false, false) => CheckStatus::NotJudged,
    };
    Checked {
        code: rule.code.to_owned(),
        name: rule.name.to_owned(),
        status,
        missing: if status == CheckStatus::NotJudged {
            missing
        } else {
            Vec::new()
        },
    }
}

/// What of a place was not read, as "place: detail"; none where it was read whole.
fn missing(evidence: &Evidence, source: Source) -> Option<String> {
    let held = evidence.rabbitmq.as_ref().and_then(RabbitMq::held_inside);
    match evidence.read(source) {
        // Of single tasks each may be one of those; of a deployment they are a matter of their own.
        Some(read) if source == Source::Queues && evidence.is_of_ids() && !read.falls_short() => {
            held.map(|held| format!("{}: {held}", source.name()))
        }
        Some(read) if !read.falls_short() => None,
        Some(read) => Some(format!("{}: {}", source.name(), read.detail)),
        None => Some(format!("{}: not read", source.name())),
    }
}
