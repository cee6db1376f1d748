//! What was seen at each step of a task's path.

use serde::Serialize;

use super::plain;
use super::view::{Case, UNHEARD};
use crate::celery::control::ClaimState;
use crate::celery::when::When;
use crate::evidence::{Observed, Place, Source, WorkerClaim};

/// One step of a task's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Which.
    pub stage: StageName,
    /// Whether it was seen there.
    pub status: StageStatus,
    /// In words.
    pub detail: String,
    /// When, in RFC 3339, where a time is known.
    pub at: Option<String>,
}

/// The steps of a task's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// Sent.
    Publish,
    /// In a queue.
    Queue,
    /// Delivered, and not acknowledged.
    Unacked,
    /// In a worker's hands.
    Worker,
    /// In the result backend.
    Result,
}

impl StageName {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Queue => "queue",
            Self::Unacked => "unacked",
            Self::Worker => "worker",
            Self::Result => "result",
        }
    }
}

/// Whether a task was seen at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// It was.
    Seen,
    /// The place was read whole, and it was not there.
    Absent,
    /// The place was not read, or not whole.
    NotRead,
}

impl StageStatus {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Absent => "absent",
            Self::NotRead => "not_read",
        }
    }
}

/// What was seen at each step.
pub(super) fn stages(case: &Case<'_>) -> Vec<Stage> {
    vec![
        publish(case),
        queue(case),
        hold(case),
        worker(case),
        result(case),
    ]
}

fn stage(stage: StageName, status: StageStatus, detail: impl Into<String>) -> Stage {
    Stage {
        stage,
        status,
        detail: detail.into(),
        at: None,
    }
}

fn not_seen(case: &Case<'_>, name: StageName, source: Source) -> Stage {
    let read = case.evidence.read(source);
    let detail = read.map_or("not read", |read| read.detail.as_str());
    if case.evidence.complete(source) {
        stage(name, StageStatus::Absent, format!("not there ({detail})"))
    } else {
        stage(name, StageStatus::NotRead, detail)
    }
}

fn publish(case: &Case<'_>) -> Stage {
    let traces =
        !case.task.copies.is_empty() || !case.task.claims.is_empty() || case.result().is_some();
    if traces {
        let origin = case
            .envelope()
            .and_then(|envelope| envelope.origin.as_deref());
        let by = origin.map_or(String::new(), |origin| format!(" by {origin}"));
        return stage(
            StageName::Publish,
            StageStatus::Seen,
            format!("it was sent{by}"),
        );
    }
    stage(
        StageName::Publish,
        StageStatus::NotRead,
        "the broker keeps no record of what was sent",
    )
}

fn queue(case: &Case<'_>) -> Stage {
    let copies = case.queued();
    let Some(copy) = copies.first() else {
        let elsewhere = case
            .delayed()
            .into_iter()
            .chain(case.dead_lettered())
            .next();
        return match elsewhere.map(|copy| &copy.place) {
            Some(Place::Delayed { queue, .. }) => stage(
                StageName::Queue,
                StageStatus::Seen,
                format!("delayed, in {queue}"),
            ),
            Some(Place::DeadLetter {
                queue,
                position,
                of,
                ..
            }) => stage(
                StageName::Queue,
                StageStatus::Seen,
                format!("in dead-letter queue {queue}, place {position} of {of}"),
            ),
            _ => match (
                not_seen(case, StageName::Queue, Source::Queues),
                case.held_inside(),
            ) {
                (unread, Some(held)) if unread.status == StageStatus::Absent => {
                    stage(StageName::Queue, StageStatus::NotRead, held)
                }
                (seen, _) => seen,
            },
        };
    };
    let more = match copies.len() {
        1 => String::new(),
        all => format!(", and in {} more places", all - 1),
    };
    let list = copy.list.map_or(copy.key, |list| list.queue.as_str());
    let priority = copy.list.and_then(|list| list.priority.as_ref());
    let priority = priority.map_or(String::new(), |(_, p)| format!(", priority list {p}"));
    let text = format!(
        "in {list}{priority}, place {} of {}{more}",
        copy.position, copy.of
    );
    stage(StageName::Queue, StageStatus::Seen, text)
}

fn hold(case: &Case<'_>) -> Stage {
    if case.evidence.rabbitmq.is_some() {
        return hold_on_rabbitmq(case);
    }
    let copies = case.held();
    let Some(held) = copies.first() else {
        return not_seen(case, StageName::Unacked, Source::Unacked);
    };
    let age = held
        .delivered_at
        .map_or("with no entry in the index".to_owned(), |at| {
            match case.evidence.unknown_clock() {
                None => format!("delivered {} ago", plain::duration(case.now() - at)),
                Some(_) => "delivered, by its worker's clock".to_owned(),
            }
        });
    Stage {
        at: held.delivered_at.and_then(moment),
        ..stage(
            StageName::Unacked,
            StageStatus::Seen,
            format!("unacknowledged, {age}"),
        )
    }
}

/// RabbitMQ shows how many messages are unacknowledged, and not which: only the workers' word tells.
fn hold_on_rabbitmq(case: &Case<'_>) -> Stage {
    let unacknowledged = |claim: &&&WorkerClaim| match claim.claim.state {
        ClaimState::Active => claim.claim.acknowledged == Some(false),
        ClaimState::Reserved | ClaimState::Scheduled => true,
        ClaimState::Ready => false,
    };
    let claims: Vec<&WorkerClaim> = case.task.claims.iter().collect();
    if let Some(claim) = claims.iter().find(unacknowledged) {
        let text = format!("{} has not acknowledged it", claim.node);
        return stage(StageName::Unacked, StageStatus::Seen, text);
    }
    let read = case.evidence.read(Source::Unacked);
    let detail = read.map_or("not read", |read| read.detail.as_str());
    if claims.is_empty() && case.evidence.is_unacked_unclear() {
        return stage(StageName::Unacked, StageStatus::NotRead, detail);
    }
    let text = format!("no live worker says that it holds it unacknowledged ({detail})");
    stage(StageName::Unacked, StageStatus::Absent, text)
}

fn worker(case: &Case<'_>) -> Stage {
    let claims = &case.task.claims;
    if claims.is_empty() {
        let stage_of_answers = not_seen(case, StageName::Worker, Source::Workers);
        // Who answers no remote control was not asked.
        if stage_of_answers.status == StageStatus::Absent && case.evidence.unheard_consumers() > 0 {
            return stage(StageName::Worker, StageStatus::NotRead, UNHEARD);
        }
        return stage_of_answers;
    }
    let said: Vec<String> = claims
        .iter()
        .map(|claim| format!("{} says {}", claim.node, claim.claim.state.name()))
        .collect();
    Stage {
        at: claims[0].claim.time_start.and_then(moment),
        ..stage(StageName::Worker, StageStatus::Seen, said.join(", "))
    }
}

fn result(case: &Case<'_>) -> Stage {
    match &case.task.result {
        Observed::Seen(Some(result)) => Stage {
            at: result.doc.date_done.and_then(rfc3339),
            ..stage(
                StageName::Result,
                StageStatus::Seen,
                result.doc.state.clone(),
            )
        },
        Observed::Seen(None) => stage(
            StageName::Result,
            StageStatus::Absent,
            "no result is stored",
        ),
        Observed::Unseen(why) => stage(StageName::Result, StageStatus::NotRead, why.detail.clone()),
    }
}

/// Unix seconds in RFC 3339.
fn moment(seconds: f64) -> Option<String> {
    rfc3339(When::from_epoch(seconds)?)
}

/// The far future has no such form.
fn rfc3339(when: When) -> Option<String> {
    match when {
        When::At(at) => Some(at.to_string()),
        When::FarFuture => None,
    }
}
