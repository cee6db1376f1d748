//! From evidence to findings and verdicts: pure functions, sorted, the same every time.

pub mod audit;
mod belonging;
mod causes;
pub(crate) mod command;
mod finding;
mod later;
pub mod outcome;
pub(crate) mod plain;
pub mod policy;
pub mod registry;
pub mod routes;
pub mod rules;
pub mod shared;
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
use crate::evidence::{Evidence, RabbitMq, Reason, ServerFacts, Source, Why};

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

impl Rule {
    /// The worst severity of its findings, where the user sets none: some tell of a risk, and of its having come true.
    pub fn worst(&self) -> Severity {
        match self.name {
            "consumer-timeout" => Severity::Error,
            _ => self.severity,
        }
    }
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
    /// The broker was to be read and could not be: nothing is accounted for then, whatever the results say.
    pub broker_unread: bool,
}

impl Diagnosis {
    /// Names the app in commands for Celery, where the user told which it is.
    pub(crate) fn name_app(&mut self, app: &str) {
        let of_tasks = self.traces.iter_mut().flat_map(|trace| &mut trace.findings);
        for finding in of_tasks.chain(&mut self.findings) {
            finding.name_app(app);
        }
        for cause in self.traces.iter_mut().flat_map(|trace| &mut trace.causes) {
            finding::name_app(&mut cause.confirm, app);
        }
    }
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
    /// For `not_judged`: whose doing it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unjudged: Option<Unjudged>,
}

/// Whose doing it is that a rule was not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unjudged {
    /// The user's: a flag left out what it needs, or none asked for it.
    Chosen,
    /// Nobody's: what it needs could not be read or told.
    Unread,
}

/// What a rule would have needed.
#[derive(PartialEq)]
pub(crate) struct Gap {
    what: String,
    by: Unjudged,
}

impl Gap {
    fn unread(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            by: Unjudged::Unread,
        }
    }

    fn chosen(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            by: Unjudged::Chosen,
        }
    }
}

impl Checked {
    /// What came of a rule that found something or not, where this was missing. A rule that the user's choice alone
    /// keeps from judging is not judged by choice, whatever else is missing.
    fn of(rule: &Rule, found: bool, gaps: Vec<Gap>) -> Self {
        let status = match (found, gaps.is_empty()) {
            (true, _) => CheckStatus::Found,
            (false, true) => CheckStatus::Clear,
            (false, false) => CheckStatus::NotJudged,
        };
        let gaps = if found { Vec::new() } else { gaps };
        let chosen = gaps.iter().any(|gap| gap.by == Unjudged::Chosen);
        let unjudged = match (gaps.is_empty(), chosen) {
            (true, _) => None,
            (false, true) => Some(Unjudged::Chosen),
            (false, false) => Some(Unjudged::Unread),
        };
        Self {
            code: rule.code.to_owned(),
            name: rule.name.to_owned(),
            status,
            missing: gaps.into_iter().map(|gap| gap.what).collect(),
            unjudged,
        }
    }
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
    let cases = ids.iter().filter_map(|id| Case::of(evidence, id));
    let cases: Vec<(Case<'_>, Vec<Case<'_>>)> = cases
        .map(|case| {
            let earlier = earlier_steps(&case);
            (case, earlier)
        })
        .collect();
    for rule in registry::ALL
        .iter()
        .filter(|rule| rule.brokers.has(evidence))
    {
        if matches!(rule.check, Check::Audit(_) | Check::Routing(_)) {
            continue;
        }
        if timeless(rule, evidence).is_some() {
            checks.push(Checked::of(rule, false, gaps(rule, evidence)));
            continue;
        }
        let mut found = false;
        let mut gaps = gaps(rule, evidence);
        if let Some(check) = rule.check.of_task() {
            for (case, earlier) in &cases {
                let mut findings = check(case);
                findings.extend(of_earlier_steps(earlier, check));
                found |= !findings.is_empty();
                by_task.entry(case.id).or_default().extend(findings);
                let untold = untold_holder(rule, case);
                gaps.extend(untold.filter(|gap| !gaps.contains(gap)));
            }
        }
        if let Some(check) = rule.check.of_deployment() {
            let findings = check(evidence);
            found |= !findings.is_empty();
            deployment.extend(findings);
        }
        checks.push(Checked::of(rule, found, gaps));
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
        broker_unread: rules::is_broker_away(evidence),
    }
}

/// The tasks in whose place a later step of a canvas, or a group, is judged: those that were met.
fn earlier_steps<'e>(case: &Case<'e>) -> Vec<Case<'e>> {
    // What is met itself speaks for itself.
    let task = case.task;
    if !task.copies.is_empty() || !task.claims.is_empty() || case.final_result().is_some() {
        return Vec::new();
    }
    let leads = case.leads().into_iter();
    let leads = leads.filter_map(|lead| Case::of(case.evidence, lead.id));
    leads.chain(case.parts()).collect()
}

/// What keeps a later step of a canvas, or a group, from coming about: the errors of what stands in its place.
fn of_earlier_steps(earlier: &[Case<'_>], check: fn(&Case<'_>) -> Vec<Finding>) -> Vec<Finding> {
    let said = earlier.iter().flat_map(check);
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
        let missing: Vec<String> = judged.unknown.iter().map(ToString::to_string).collect();
        for why in &missing {
            if !diagnosis.unknown.contains(why) {
                diagnosis.unknown.push(why.clone());
            }
        }
        // What could not be known is told apart from what nobody gave: a broker, or the workers' command lines.
        let unknown = missing.into_iter().map(Gap::unread);
        let gaps = judged.missing.into_iter().map(Gap::chosen).chain(unknown);
        let found = !judged.findings.is_empty();
        diagnosis
            .checks
            .push(Checked::of(rule, found, gaps.collect()));
        diagnosis.findings.extend(judged.findings);
    }
    diagnosis.findings.sort_by(Finding::order);
    diagnosis.findings.dedup();
    diagnosis
}

/// What a rule would have needed and was not read or can't be told.
fn gaps(rule: &Rule, evidence: &Evidence) -> Vec<Gap> {
    let unread = rule.needs.iter();
    let unread = unread.filter_map(|source| missing(rule, evidence, *source));
    let unread = unread.chain(timeless(rule, evidence));
    let unread = unread.chain(unheard(rule, evidence));
    unread.chain(nobody_answered(rule, evidence)).collect()
}

/// Why it can't be told whether an unacknowledged message is an orphan: who holds it is not known.
fn untold_holder(rule: &Rule, case: &Case<'_>) -> Option<Gap> {
    let held = case.held().into_iter();
    let mut untold = held.filter_map(|held| match case.holder(&held) {
        view::Holder::Undecided(why) => Some(Gap::unread(why)),
        _ => None,
    });
    untold
        .next()
        .filter(|_| rule.name == "orphaned-reservation")
}

/// Rules that compare what workers say of themselves: where none is there, there is nothing to compare.
const OF_WORKERS_WORDS: &[&str] = &[
    "default-queue-unconsumed",
    "mixed-registries",
    "not-registered",
    "content-refused",
    "visibility-conflict",
    "prefetch-hoarding",
    "early-ack",
    "late-ack-without-reject",
    "saturated",
    "config-drift",
    "duplicate-node-name",
];

fn nobody_answered(rule: &Rule, evidence: &Evidence) -> Option<Gap> {
    let nobody = evidence.workers.seen()?.answered.is_empty();
    (nobody && OF_WORKERS_WORDS.contains(&rule.name))
        .then(|| Gap::unread("no worker answered, and there is nothing to compare"))
}

/// Rules that hold a time against the server's clock.
const BY_THE_CLOCK: &[&str] = &[
    "expired",
    "visibility-expired",
    "eta-beyond-visibility",
    "run-beyond-visibility",
    "clock-skew",
    "foreign-sweep",
    "prefetch-hoarding",
    "result-expires",
    "long-running",
];

/// Why a rule that needs the server's clock can't judge: Redis did not tell it. This machine's clock is no substitute.
fn timeless(rule: &Rule, evidence: &Evidence) -> Option<Gap> {
    let why = evidence.unknown_clock()?;
    BY_THE_CLOCK
        .contains(&rule.name)
        .then(|| Gap::unread(format!("the server's clock: {}", why.detail)))
}

/// Where something takes messages and answers no remote control, the workers' own word is not all of it. Of what waits
/// in a list nothing takes that stays blocked beside it.
fn unheard(rule: &Rule, evidence: &Evidence) -> Option<Gap> {
    let waiting = rule.needs.contains(&Source::Queues) && !rule.needs.contains(&Source::Unacked);
    let strangers = if waiting {
        evidence.unheard_takers()
    } else {
        evidence.unheard_consumers()
    };
    let asks_workers = rule.needs.contains(&Source::Workers);
    let what = "something takes messages from this broker and answers no remote control";
    (asks_workers && strangers > 0).then(|| Gap::unread(what))
}

/// What of a place was not read, as "place: detail"; none where it was read whole, or as far as the rule looks.
fn missing(rule: &Rule, evidence: &Evidence, source: Source) -> Option<Gap> {
    if let (Source::Server, None, Some(server)) =
        (source, &evidence.rabbitmq, evidence.broker.server.seen())
    {
        let why = unseen_fact(rule, server)?;
        let what = format!("{}: {}", source.name(), why.detail);
        return Some(match why.reason {
            Reason::NotAsked => Gap::chosen(what),
            _ => Gap::unread(what),
        });
    }
    let Some(read) = evidence.read(source) else {
        return Some(Gap::unread(format!("{}: not read", source.name())));
    };
    // Of single tasks each may be one of those; of a deployment they are a matter of their own.
    if source == Source::Queues && evidence.is_of_ids() && !read.falls_short() {
        let held = evidence.rabbitmq.as_ref().and_then(RabbitMq::held_inside);
        return held.map(|held| Gap::unread(format!("{}: {held}", source.name())));
    }
    let what = format!("{}: {}", source.name(), read.detail);
    let chosen = match read.reason {
        Some(Reason::NotAsked) => true,
        // What is not read of a backend of another kind is CD807's to say.
        Some(Reason::Unsupported) => source == Source::Results,
        _ => false,
    };
    read.falls_short().then(|| {
        if chosen {
            Gap::chosen(what)
        } else {
            Gap::unread(what)
        }
    })
}

/// Why Redis did not tell what a rule looks at: a managed server refuses CONFIG, and INFO tells most of it.
fn unseen_fact<'e>(rule: &Rule, server: &'e ServerFacts) -> Option<&'e Why> {
    let facts = match rule.name {
        "eviction-enabled" => [server.maxmemory.unseen(), server.maxmemory_policy.unseen()],
        "evictions-happened" => [server.evicted_keys.unseen(), None],
        "memory-pressure" | "writes-refused" => {
            [server.maxmemory.unseen(), server.used_memory.unseen()]
        }
        "no-persistence" if server.append_only.seen() == Some(&true) => [None, None],
        "no-persistence" => [server.append_only.unseen(), server.rdb_saves.unseen()],
        "broker-restarted" => [server.uptime_seconds.unseen(), None],
        "failover-risk" => [server.role.unseen(), None],
        "connections-refused" => [server.health.rejected_connections.unseen(), None],
        "clock-skew" => [server.clock_ahead_seconds.unseen(), None],
        _ => [server.version.unseen(), None],
    };
    facts.into_iter().flatten().next()
}
