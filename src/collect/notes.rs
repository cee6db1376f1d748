//! What is noted of a reading, whatever the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::Timestamp;

use super::connect::reached;
use super::results::Results;
use super::{Plan, Question};
use crate::evidence::{
    Broker, CanvasGap, Evidence, Observed, Read, ReadStatus, Reason, ResultBackend, Scope, Source,
    TaskEvidence, Why, Workers,
};

pub(super) fn traced(plan: &Plan) -> Vec<String> {
    match &plan.question {
        Question::Ids(ids) => ids.clone(),
        Question::Everything(_) => Vec::new(),
    }
}

/// What is known of an id of which nothing is known.
pub(super) fn nothing() -> TaskEvidence {
    let unread = || Observed::not_asked("not read");
    TaskEvidence {
        copies: Vec::new(),
        claims: Vec::new(),
        revoked_by: Vec::new(),
        first_result: unread(),
        result: unread(),
        chord: Observed::not_asked("it belongs to no group that is known"),
        children: Vec::new(),
        saved_group: None,
        locks: Vec::new(),
    }
}

pub(super) fn blank(plan: &Plan, results: &Results) -> Evidence {
    let kind = match &plan.result_backend {
        Some(crate::config::url::ResultBackend::Redis(_)) => "redis",
        Some(crate::config::url::ResultBackend::Rpc) => "rpc",
        Some(crate::config::url::ResultBackend::Unsupported { kind }) => kind,
        Some(crate::config::url::ResultBackend::Disabled) => "disabled",
        None => "none",
    };
    Evidence {
        taken_at: Timestamp::now(),
        scope: match &plan.question {
            Question::Ids(ids) => Scope::Ids(ids.clone()),
            Question::Everything(_) => Scope::Everything,
        },
        broker: Broker {
            url: plan.broker_url.clone(),
            kind: plan.broker.kind().to_owned(),
            database: plan.broker.database(),
            endpoint: None,
            server: Observed::not_asked("not read yet"),
        },
        result_backend: ResultBackend {
            url: plan.result_backend_url.clone(),
            kind: kind.to_owned(),
            readable: results.readable(),
            endpoint: None,
            key_prefix: String::new(),
        },
        bindings: Observed::not_asked("not read yet"),
        lists: Observed::not_asked("not read yet"),
        reservations: Observed::not_asked("not read yet"),
        other_databases: Observed::not_asked("not needed: every id was found, or is accounted for"),
        rabbitmq: None,
        workers: Observed::not_asked("not asked yet"),
        tasks: traced(plan).into_iter().map(|id| (id, nothing())).collect(),
        canvases: BTreeMap::new(),
        canvas_gap: CanvasGap::default(),
        of_waiting_chords: BTreeSet::new(),
        census: None,
        reads: Vec::new(),
        visibility_timeout_given: plan.visibility_timeout.map(|timeout| timeout.as_secs_f64()),
    }
}

/// Notes how the server with the results was reached, where it was.
pub(super) async fn note_endpoint(evidence: &mut Evidence, plan: &Plan, results: &Results) {
    let backend = &mut evidence.result_backend;
    if let Some(crate::config::url::ResultBackend::Redis(server)) = &plan.result_backend
        && backend.readable.seen().is_some()
    {
        backend.endpoint = reached(server).await;
        results.prefix().clone_into(&mut backend.key_prefix);
    }
}

/// One line about what was read.
pub(super) fn line(
    source: Source,
    started: Instant,
    outcome: Result<(ReadStatus, String), &Why>,
) -> Read {
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (status, detail, reason) = match outcome {
        Ok((status, detail)) => (status, detail, None),
        Err(why) if why.reason == Reason::NotAsked => {
            (ReadStatus::Skipped, why.detail.clone(), Some(why.reason))
        }
        Err(why) => (
            ReadStatus::Unavailable,
            why.detail.clone(),
            Some(why.reason),
        ),
    };
    Read {
        source,
        status,
        detail,
        elapsed_ms,
        reason,
    }
}

pub(super) fn note_results(
    evidence: &mut Evidence,
    started: Instant,
    looked_through: Option<Result<u64, Why>>,
) {
    // An audit that ended before it came to the results has read none of them.
    let looked_through = looked_through.or_else(|| {
        let unread = "the results were not looked through: the reading ended before";
        (!evidence.is_of_ids()).then(|| Err(Why::new(Reason::Truncated, unread)))
    });
    // Of a task that is accounted for without its result nobody asks for it in an audit.
    let unread = |task: &TaskEvidence| task.result.unseen().cloned();
    let gaps: Vec<Why> = (evidence.tasks.values().filter_map(unread))
        .filter(|why| why.reason != Reason::NotAsked || evidence.is_of_ids())
        .collect();
    let all = evidence.tasks.len();
    let read = match (&evidence.result_backend.readable, gaps.first()) {
        (Observed::Unseen(why), _) => line(Source::Results, started, Err(why)),
        (_, None) => match looked_through {
            // A limit that the user knows of is no obstacle, and yet not all was read.
            Some(Err(why)) => {
                let detail = why.detail;
                let mut read = line(Source::Results, started, Ok((ReadStatus::Partial, detail)));
                read.reason = Some(why.reason);
                read
            }
            Some(Ok(results)) => {
                let detail = format!("{results} looked through");
                line(Source::Results, started, Ok((ReadStatus::Complete, detail)))
            }
            None => {
                let detail = format!("{all} looked up");
                line(Source::Results, started, Ok((ReadStatus::Complete, detail)))
            }
        },
        (_, Some(why)) => {
            let detail = format!("{} of {all} could not be read: {}", gaps.len(), why.detail);
            let mut read = line(Source::Results, started, Ok((ReadStatus::Partial, detail)));
            read.reason = Some(why.reason);
            read
        }
    };
    evidence.reads.push(read);
}

fn answered(workers: &Workers) -> (ReadStatus, String) {
    let there = workers.answered.len();
    let all = there as u64 + workers.silent;
    let detail = if all == 0 {
        "nobody answers remote control".to_owned()
    } else {
        format!("{there} of {all} answered")
    };
    let detail = match workers.answered_unreadably() {
        0 => detail,
        more => {
            let types: Vec<&str> = workers.unreadable.keys().map(String::as_str).collect();
            format!(
                "{detail}; {more} answered in what is not read ({})",
                types.join(", ")
            )
        }
    };
    let others = workers.others_unsettled.then_some("others");
    let nodes = workers.unsettled.iter().map(String::as_str);
    let detail = match (workers.unsettled.is_empty(), others) {
        (true, None) => detail,
        (true, Some(_)) => format!("{detail}; workers came or left meanwhile"),
        (false, _) => {
            let nodes: Vec<&str> = nodes.chain(others).collect();
            format!("{detail}; {} came or left meanwhile", nodes.join(", "))
        }
    };
    let status = if workers.silent == 0 && workers.are_settled() {
        ReadStatus::Complete
    } else {
        ReadStatus::Partial
    };
    (status, detail)
}

/// The evidence about an id.
pub(super) fn task<'e>(evidence: &'e mut Evidence, id: &str) -> &'e mut TaskEvidence {
    evidence.tasks.entry(id.to_owned()).or_insert_with(nothing)
}

/// Notes how far a place was read, in place of what was noted before.
pub(super) fn replace_read(evidence: &mut Evidence, read: Read) {
    evidence.reads.retain(|known| known.source != read.source);
    evidence.reads.push(read);
}

/// Notes how many workers answered.
pub(super) fn note_workers(evidence: &mut Evidence, started: Instant) {
    let outcome = match &evidence.workers {
        Observed::Seen(workers) => Ok(answered(workers)),
        Observed::Unseen(why) => Err(why),
    };
    let mut read = line(Source::Workers, started, outcome);
    if read.status == ReadStatus::Partial {
        let silent = evidence.workers.seen().filter(|w| w.silent > 0);
        read.reason = Some(match silent {
            None => Reason::Unreachable,
            Some(workers) if workers.answered_unreadably() == workers.silent => Reason::Unsupported,
            Some(_) => Reason::TimedOut,
        });
    }
    replace_read(evidence, read);
}
