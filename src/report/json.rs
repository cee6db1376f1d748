//! The JSON report, schema `celery-doctor/1`: fields may be added to it, never changed. Its types are its own, so that
//! a change inside the program does not change it by accident.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::plain;
use super::summary::{Section, Summary};
use super::{Asked, TakenId};
use crate::celery::task_id;
use crate::diagnose::policy::{Suppressed, Suppression};
use crate::diagnose::{
    Cause, Checked, Diagnosis, Finding, Location, Outcome, Severity, Stage, Trace,
};
use crate::evidence::{
    Broker, Copy, Evidence, Place, Read, ResultBackend, StoredResult, TaskEvidence, WorkerClaim,
};

/// The name of the schema.
pub(crate) const SCHEMA: &str = "celery-doctor/1";

/// Writes the report of a trace.
pub(crate) fn trace(
    evidence: &Evidence,
    diagnosis: &Diagnosis,
    asked: &Asked,
    outcome: &Outcome,
    out: &mut dyn Write,
) -> io::Result<()> {
    let report = ReportV1 {
        schema: SCHEMA,
        command: "trace",
        version: env!("CARGO_PKG_VERSION"),
        taken_at: milliseconds(evidence.taken_at),
        broker: BrokerV1::of(&evidence.broker),
        result_backend: ResultBackendV1::of(&evidence.result_backend),
        evidence: evidence.reads.iter().map(ReadV1::of).collect(),
        taken: asked.taken.iter().map(TakenV1::of).collect(),
        traces: diagnosis
            .traces
            .iter()
            .map(|trace| TraceV1::of(evidence, trace, asked))
            .collect(),
        findings: diagnosis.findings.iter().map(FindingV1::of).collect(),
        checks: diagnosis.checks.iter().map(CheckV1::of).collect(),
        exit: ExitV1::of(outcome),
    };
    let json = serde_json::to_string_pretty(&report)?;
    // The report may be read on a terminal too.
    out.write_all(plain::escape_json(&json).as_bytes())?;
    out.write_all(b"\n")
}

/// Writes the report of an audit, or of a check of routes. Where several deployments have names, each has its own entry
/// under `deployments`, and what stands at the top is said of all.
pub(crate) fn audit(summary: &Summary<'_>, out: &mut dyn Write) -> io::Result<()> {
    let sections: Vec<SectionV1<'_>> = summary.sections.iter().map(SectionV1::of).collect();
    let named = summary
        .sections
        .iter()
        .any(|section| section.name.is_some());
    let (one, deployments) = if named {
        (None, Some(sections))
    } else {
        (sections.into_iter().next(), None)
    };
    let report = AuditV1 {
        schema: SCHEMA,
        command: summary.command,
        version: env!("CARGO_PKG_VERSION"),
        one,
        findings: deployments.is_some().then(|| {
            let findings = summary.findings();
            findings
                .map(|(deployment, finding)| NamedFindingV1 {
                    deployment,
                    finding: FindingV1::of(finding),
                })
                .collect()
        }),
        deployments,
        notes: summary.notes,
        exit: ExitV1 {
            code: summary.outcome.code,
            reason: &summary.outcome.reason,
        },
    };
    let json = serde_json::to_string_pretty(&report)?;
    out.write_all(plain::escape_json(&json).as_bytes())?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
struct AuditV1<'a> {
    schema: &'static str,
    command: &'static str,
    version: &'static str,
    #[serde(flatten)]
    one: Option<SectionV1<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<NamedFindingV1<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployments: Option<Vec<SectionV1<'a>>>,
    /// Settings that are of no use.
    notes: &'a [String],
    exit: ExitV1<'a>,
}

#[derive(Serialize)]
struct NamedFindingV1<'a> {
    deployment: Option<&'a str>,
    #[serde(flatten)]
    finding: FindingV1<'a>,
}

/// One deployment.
#[derive(Serialize)]
struct SectionV1<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    taken_at: Option<String>,
    broker: Option<BrokerV1<'a>>,
    result_backend: Option<ResultBackendV1<'a>>,
    evidence: Vec<ReadV1<'a>>,
    findings: Vec<FindingV1<'a>>,
    /// Findings that the user ignores, or that stand in the baseline.
    suppressed: Vec<SuppressedV1<'a>>,
    checks: Vec<CheckV1<'a>>,
}

impl<'a> SectionV1<'a> {
    fn of(section: &'a Section<'a>) -> Self {
        let evidence = section.evidence;
        Self {
            name: section.name,
            taken_at: evidence.map(|evidence| milliseconds(evidence.taken_at)),
            broker: evidence.map(|evidence| BrokerV1::of(&evidence.broker)),
            result_backend: evidence.map(|e| ResultBackendV1::of(&e.result_backend)),
            evidence: evidence.map_or_else(Vec::new, |evidence| {
                evidence.reads.iter().map(ReadV1::of).collect()
            }),
            findings: section.applied.findings.iter().map(FindingV1::of).collect(),
            suppressed: section
                .applied
                .suppressed
                .iter()
                .map(SuppressedV1::of)
                .collect(),
            checks: section.checks.iter().map(CheckV1::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct SuppressedV1<'a> {
    /// `ignored` or `known`.
    why: &'static str,
    reason: Option<&'a str>,
    until: Option<String>,
    finding: FindingV1<'a>,
}

impl<'a> SuppressedV1<'a> {
    fn of(suppressed: &'a Suppressed) -> Self {
        let finding = FindingV1::of(&suppressed.finding);
        match &suppressed.why {
            Suppression::Ignored { reason, until } => Self {
                why: "ignored",
                reason: Some(reason),
                until: until.map(|day| day.to_string()),
                finding,
            },
            Suppression::Known => Self {
                why: "known",
                reason: None,
                until: None,
                finding,
            },
        }
    }
}

/// RFC 3339 in UTC with three digits of the second.
fn milliseconds(at: Timestamp) -> String {
    format!("{at:.3}")
}

#[derive(Serialize)]
struct ReportV1<'a> {
    schema: &'static str,
    command: &'static str,
    version: &'static str,
    taken_at: String,
    broker: BrokerV1<'a>,
    result_backend: ResultBackendV1<'a>,
    evidence: Vec<ReadV1<'a>>,
    /// Ids that were taken out of what was given.
    taken: Vec<TakenV1<'a>>,
    traces: Vec<TraceV1<'a>>,
    findings: Vec<FindingV1<'a>>,
    checks: Vec<CheckV1<'a>>,
    exit: ExitV1<'a>,
}

#[derive(Serialize)]
struct BrokerV1<'a> {
    url: &'a str,
    kind: &'a str,
    version: Option<&'a str>,
    database: u32,
}

impl<'a> BrokerV1<'a> {
    fn of(broker: &'a Broker) -> Self {
        let server = broker.server.seen();
        let version = server.and_then(|server| server.version.seen());
        Self {
            url: &broker.url,
            kind: &broker.kind,
            version: version.map(String::as_str),
            database: broker.database,
        }
    }
}

#[derive(Serialize)]
struct ResultBackendV1<'a> {
    url: Option<&'a str>,
    kind: &'a str,
}

impl<'a> ResultBackendV1<'a> {
    fn of(backend: &'a ResultBackend) -> Self {
        Self {
            url: backend.url.as_deref(),
            kind: &backend.kind,
        }
    }
}

#[derive(Serialize)]
struct ReadV1<'a> {
    source: &'static str,
    status: &'static str,
    detail: &'a str,
    elapsed_ms: u64,
}

impl<'a> ReadV1<'a> {
    fn of(read: &'a Read) -> Self {
        Self {
            source: read.source.name(),
            status: read.status.name(),
            detail: &read.detail,
            elapsed_ms: read.elapsed_ms,
        }
    }
}

#[derive(Serialize)]
pub(super) struct TraceV1<'a> {
    task_id: &'a str,
    task: Option<&'a str>,
    verdict: &'static str,
    summary: &'a str,
    stages: Vec<StageV1<'a>>,
    copies: Vec<CopyV1<'a>>,
    result: Option<ResultV1<'a>>,
    findings: Vec<FindingV1<'a>>,
    /// For `unknown` and `lost`: what may have happened, the likeliest first.
    causes: Vec<CauseV1<'a>>,
    /// What the id looks like: `uuid`, `cut`, `typo` or `custom`.
    id_shape: &'static str,
    /// For ids that nothing knows: those in reach that may be meant.
    near: Vec<NearV1<'a>>,
}

/// An id that was taken out of something.
#[derive(Serialize)]
struct TakenV1<'a> {
    task_id: &'a str,
    from: &'a str,
}

impl<'a> TakenV1<'a> {
    fn of(taken: &'a TakenId) -> Self {
        Self {
            task_id: &taken.id,
            from: taken.from,
        }
    }
}

/// An id that may be meant.
#[derive(Serialize)]
struct NearV1<'a> {
    task_id: &'a str,
    /// `queue`, `unacked`, `worker` or `result`.
    place: &'a str,
}

impl<'a> TraceV1<'a> {
    pub(super) fn of(evidence: &'a Evidence, trace: &'a Trace, asked: &'a Asked) -> Self {
        let near = asked.near.get(&trace.id).into_iter().flatten();
        let task = evidence.tasks.get(&trace.id);
        let result = task.and_then(|task| task.result.seen()?.as_ref());
        Self {
            task_id: &trace.id,
            task: trace.task.as_deref(),
            verdict: trace.verdict.name(),
            summary: &trace.summary,
            stages: trace.stages.iter().map(StageV1::of).collect(),
            copies: task.map_or_else(Vec::new, |task| copies(evidence, task)),
            result: result.map(ResultV1::of),
            id_shape: task_id::shape(&trace.id).name(),
            near: near
                .map(|(id, place)| NearV1 { task_id: id, place })
                .collect(),
            findings: trace.findings.iter().map(FindingV1::of).collect(),
            causes: trace.causes.iter().map(CauseV1::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct StageV1<'a> {
    stage: &'static str,
    status: &'static str,
    detail: &'a str,
    at: Option<&'a str>,
}

impl<'a> StageV1<'a> {
    fn of(stage: &'a Stage) -> Self {
        Self {
            stage: stage.stage.name(),
            status: stage.status.name(),
            detail: &stage.detail,
            at: stage.at.as_deref(),
        }
    }
}

/// A message, or a worker's word that it has the task. What does not apply to the place is null.
#[derive(Default, Serialize)]
struct CopyV1<'a> {
    place: &'static str,
    queue: Option<&'a str>,
    position: Option<u64>,
    of: Option<u64>,
    worker: Option<&'a str>,
    /// What the worker says: active, reserved, scheduled or ready.
    state: Option<&'static str>,
    database: Option<u32>,
    /// The key of the list, with prefix and priority.
    key: Option<&'a str>,
    priority: Option<i64>,
    delivered_at: Option<String>,
    delivery_tag: Option<&'a str>,
    redelivered: bool,
    exchange: Option<&'a str>,
    routing_key: Option<&'a str>,
    eta: Option<String>,
    expires: Option<String>,
    retries: Option<u64>,
    origin: Option<&'a str>,
    /// Only where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a str>,
}

fn copies<'a>(evidence: &'a Evidence, task: &'a TaskEvidence) -> Vec<CopyV1<'a>> {
    let messages = task.copies.iter().map(|copy| message(evidence, copy));
    messages.chain(task.claims.iter().map(claim)).collect()
}

fn message<'a>(evidence: &'a Evidence, copy: &'a Copy) -> CopyV1<'a> {
    let envelope = &copy.envelope;
    let common = CopyV1 {
        database: Some(evidence.broker.database),
        priority: envelope.priority,
        redelivered: envelope.redelivered,
        delivery_tag: envelope.delivery_tag.as_deref(),
        exchange: envelope.exchange.as_deref(),
        routing_key: envelope.routing_key.as_deref(),
        eta: envelope.eta.map(|eta| eta.to_string()),
        expires: envelope.expires.map(|expires| expires.to_string()),
        retries: envelope.retries,
        origin: envelope.origin.as_deref(),
        args: envelope.args.as_deref(),
        ..CopyV1::default()
    };
    match &copy.place {
        Place::Queue { key, position, of } => CopyV1 {
            place: "queue",
            queue: Some(
                evidence
                    .list(key)
                    .map_or(key.as_str(), |list| list.queue.as_str()),
            ),
            key: Some(key),
            position: Some(*position),
            of: Some(*of),
            ..common
        },
        Place::DeadLetter {
            queue,
            position,
            of,
            ..
        } => CopyV1 {
            place: "dead_letter",
            queue: Some(queue),
            position: Some(*position),
            of: Some(*of),
            ..common
        },
        // It waits in a queue, and is bound for another.
        Place::Delayed { queue, .. } => CopyV1 {
            place: "queue",
            queue: Some(queue),
            ..common
        },
        Place::OtherDatabase {
            database,
            key,
            position,
            of,
        } => CopyV1 {
            place: if *of == 0 { "unacked" } else { "queue" },
            queue: (*of > 0).then_some(key),
            key: Some(key),
            database: Some(*database),
            position: (*of > 0).then_some(*position),
            of: (*of > 0).then_some(*of),
            ..common
        },
        Place::Unacked {
            tag,
            delivered_at,
            exchange,
            routing_key,
            ..
        } => CopyV1 {
            place: "unacked",
            // Through the default exchange a restore goes to the queue of the routing key's name.
            queue: exchange.is_empty().then_some(routing_key),
            delivered_at: delivered_at.and_then(epoch),
            delivery_tag: Some(tag),
            exchange: Some(exchange),
            routing_key: Some(routing_key),
            ..common
        },
    }
}

fn claim(holder: &WorkerClaim) -> CopyV1<'_> {
    let claim = &holder.claim;
    CopyV1 {
        place: "worker",
        worker: Some(&holder.node),
        state: Some(claim.state.name()),
        redelivered: claim.redelivered,
        exchange: claim.exchange.as_deref(),
        routing_key: claim.routing_key.as_deref(),
        eta: claim.eta.map(|eta| eta.to_string()),
        ..CopyV1::default()
    }
}

/// Unix seconds in RFC 3339; none for what is out of its range.
fn epoch(seconds: f64) -> Option<String> {
    use crate::celery::when::When;
    match When::from_epoch(seconds)? {
        When::At(at) => Some(milliseconds(at)),
        When::FarFuture => None,
    }
}

#[derive(Serialize)]
struct ResultV1<'a> {
    state: &'a str,
    date_done: Option<String>,
    exception: Option<&'a str>,
    worker: Option<&'a str>,
    retries: Option<u64>,
    children: &'a [String],
    ttl_seconds: Option<f64>,
}

impl<'a> ResultV1<'a> {
    fn of(result: &'a StoredResult) -> Self {
        let doc = &result.doc;
        Self {
            state: &doc.state,
            date_done: doc.date_done.map(|done| done.to_string()),
            exception: doc.exc_type.as_deref(),
            worker: doc.worker.as_deref(),
            retries: doc.retries,
            children: &doc.children,
            ttl_seconds: result.ttl_seconds,
        }
    }
}

#[derive(Serialize)]
pub(super) struct FindingV1<'a> {
    code: &'a str,
    name: &'a str,
    severity: &'static str,
    message: &'a str,
    evidence: &'a BTreeMap<String, Value>,
    confirm: &'a [String],
    look: &'a [String],
    remedy: String,
    remedy_commands: &'a [String],
    subject: &'a BTreeMap<String, String>,
    task_ids: &'a [String],
    count: u64,
    /// Where it is about a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a Location>,
}

impl<'a> FindingV1<'a> {
    pub(super) fn of(finding: &'a Finding) -> Self {
        Self {
            code: &finding.code,
            name: &finding.name,
            severity: Severity::name(finding.severity),
            message: &finding.message,
            evidence: &finding.evidence,
            confirm: &finding.confirm,
            look: &finding.look,
            remedy: finding.whole_remedy(),
            remedy_commands: &finding.remedy_commands,
            subject: &finding.subject,
            task_ids: &finding.task_ids,
            count: finding.count,
            location: finding.location.as_ref(),
        }
    }
}

#[derive(Serialize)]
struct CauseV1<'a> {
    name: &'static str,
    text: &'a str,
    confirm: &'a str,
}

impl<'a> CauseV1<'a> {
    fn of(cause: &'a Cause) -> Self {
        Self {
            name: cause.name,
            text: &cause.text,
            confirm: &cause.confirm,
        }
    }
}

#[derive(Serialize)]
pub(super) struct CheckV1<'a> {
    code: &'a str,
    name: &'a str,
    status: &'static str,
    missing: &'a [String],
}

impl<'a> CheckV1<'a> {
    pub(super) fn of(check: &'a Checked) -> Self {
        Self {
            code: &check.code,
            name: &check.name,
            status: check.status.name(),
            missing: &check.missing,
        }
    }
}

#[derive(Serialize)]
pub(super) struct ExitV1<'a> {
    code: u8,
    reason: &'a str,
}

impl<'a> ExitV1<'a> {
    pub(super) fn of(outcome: &'a Outcome) -> Self {
        Self {
            code: outcome.code,
            reason: &outcome.reason,
        }
    }
}
