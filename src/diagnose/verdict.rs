//! Where a task is, in one word and one sentence.

use serde::{Deserialize, Serialize};

mod leads;

use self::leads::{group, locked};
use super::causes;
use super::finding::Finding;
use super::later;
use super::plain;
use super::stages::stages;
use super::view::{Case, Elsewhere, Fate, Held, Holder, QUIET_END, Route, UNHEARD};
use super::{Severity, Trace};
use crate::celery::control::ClaimState;
use crate::celery::message::Envelope;
use crate::evidence::rabbitmq::{Queue, Role, role_by_name};
use crate::evidence::{Evidence, Observed, Place, Reason, Source, WorkerClaim};

/// Where a task is. The order is the one of the table in the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The result backend holds a final state.
    Finished,
    /// A live worker is executing it.
    Running,
    /// A live worker holds it: prefetched, or waiting for its ETA.
    Reserved,
    /// It waits in a queue that a live worker which knows the task consumes.
    Queued,
    /// It is a later step of a canvas, whose earlier steps are accounted for.
    NotYetSent,
    /// A copy exists, and nothing will move it without help.
    Stuck,
    /// A copy exists, and will be dropped instead of run.
    Doomed,
    /// It was moved to a dead-letter queue.
    DeadLettered,
    /// It existed, and no copy is left and no live worker has it.
    Lost,
    /// Everything was read, and nothing knows this id.
    Unknown,
    /// What would decide could not be read.
    Undetermined,
}

impl Verdict {
    /// All of them, in the order above.
    pub const ALL: [Self; 11] = [
        Self::Finished,
        Self::Running,
        Self::Reserved,
        Self::Queued,
        Self::NotYetSent,
        Self::Stuck,
        Self::Doomed,
        Self::DeadLettered,
        Self::Lost,
        Self::Unknown,
        Self::Undetermined,
    ];

    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Running => "running",
            Self::Reserved => "reserved",
            Self::Queued => "queued",
            Self::NotYetSent => "not-yet-sent",
            Self::Stuck => "stuck",
            Self::Doomed => "doomed",
            Self::DeadLettered => "dead-lettered",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
            Self::Undetermined => "undetermined",
        }
    }
}

/// Puts together the trace of one id.
pub(super) fn trace(evidence: &Evidence, id: &str, findings: Vec<Finding>) -> Trace {
    let Some(case) = Case::of(evidence, id) else {
        return Trace {
            id: id.to_owned(),
            task: None,
            verdict: Verdict::Undetermined,
            summary: "this reading did not look for the id".to_owned(),
            stages: Vec::new(),
            findings,
            causes: Vec::new(),
        };
    };
    let (verdict, mut summary) = decide(&case);
    if matches!(verdict, Verdict::Lost | Verdict::Unknown) {
        summary.push_str(&locked(&case));
    }
    let worst = findings.iter().find(|f| f.severity == Severity::Error);
    if let (
        Verdict::Finished
        | Verdict::Running
        | Verdict::Reserved
        | Verdict::Queued
        | Verdict::NotYetSent,
        Some(worst),
    ) = (verdict, worst)
    {
        summary = format!("{summary}; but {}", worst.message);
    }
    let causes = match verdict {
        Verdict::Unknown | Verdict::Lost => causes::remaining(&case, verdict),
        _ => Vec::new(),
    };
    Trace {
        id: id.to_owned(),
        task: case.name().map(str::to_owned),
        verdict,
        summary,
        stages: stages(&case),
        findings,
        causes,
    }
}

/// The verdict, and the sentence that says so.
fn decide(case: &Case<'_>) -> (Verdict, String) {
    of_copies(case)
        .or_else(|| later::not_yet_sent(case))
        .or_else(|| group(case))
        .or_else(|| later::of_group(case))
        .unwrap_or_else(|| nowhere(case))
}

/// The same of a task that leads to another one: what leads to it is not asked again.
pub(super) fn decide_itself(case: &Case<'_>) -> (Verdict, String) {
    of_copies(case).unwrap_or_else(|| nowhere(case))
}

/// The verdict of the copy that is furthest on.
fn of_copies(case: &Case<'_>) -> Option<(Verdict, String)> {
    finished(case)
        .or_else(|| in_worker(case))
        .or_else(|| unacked(case))
        .or_else(|| queued(case))
        .or_else(|| delayed(case))
        .or_else(|| dead_lettered(case))
        .or_else(|| elsewhere(case))
}

fn finished(case: &Case<'_>) -> Option<(Verdict, String)> {
    let result = case.final_result()?;
    let when = match result.doc.date_done {
        Some(done) => format!(
            " {} ago",
            plain::duration(done.seconds_until(case.evidence.taken_at))
        ),
        None => String::new(),
    };
    let how = match &result.doc.exc_type {
        Some(exception) => format!(" ({exception})"),
        None => String::new(),
    };
    let on = match &result.doc.worker {
        Some(node) => format!(" on {node}"),
        None => String::new(),
    };
    let summary = if case.dropped_for("expired").is_some() {
        format!("it never ran: its expires had passed, and a worker dropped it (REVOKED){on}{when}")
    } else {
        format!("it ended with state {}{how}{on}{when}", result.doc.state)
    };
    Some((Verdict::Finished, summary))
}

fn in_worker(case: &Case<'_>) -> Option<(Verdict, String)> {
    if let [first, ..] = case.claims(ClaimState::Active).as_slice() {
        // How long is told by the server's clock alone.
        let start = (first.claim.time_start).filter(|_| case.evidence.unknown_clock().is_none());
        let runs = match start {
            Some(start) => format!(
                "has been running it for {}",
                plain::duration((case.now() - start).max(0.0))
            ),
            None => "is running it".to_owned(),
        };
        return Some((Verdict::Running, format!("{} {runs}", first.node)));
    }
    let holder = case.task.claims.first()?;
    let late = case
        .envelope()
        .filter(|envelope| case.comes_too_late(envelope));
    if let Some(envelope) = late.filter(|_| case.expires_in_worker()) {
        let why = too_late(case, envelope);
        return Some((
            Verdict::Doomed,
            format!("{} holds it, and will drop it: {why}", holder.node),
        ));
    }
    if case.task.revoked_by.contains(&holder.node) {
        return Some((
            Verdict::Doomed,
            format!("{} holds it, and will drop it: it was revoked", holder.node),
        ));
    }
    Some((Verdict::Reserved, reserved(case, holder)))
}

/// Why a message that comes too late will be dropped.
fn too_late(case: &Case<'_>, envelope: &Envelope) -> &'static str {
    if case.expired(envelope) {
        "its expires has passed"
    } else {
        "its expires lies before its ETA"
    }
}

fn reserved(case: &Case<'_>, holder: &WorkerClaim) -> String {
    let eta = holder.claim.eta.or_else(|| case.envelope()?.eta);
    let node = &holder.node;
    match (holder.claim.state, eta) {
        (ClaimState::Scheduled, Some(eta)) => {
            let left = eta.seconds_until(case.evidence.taken_at);
            if left > 0.0 {
                format!(
                    "{node} holds it until its ETA, in {}",
                    plain::duration(left)
                )
            } else {
                format!(
                    "{node} holds it, its ETA has come {} ago",
                    plain::duration(left)
                )
            }
        }
        (ClaimState::Scheduled, None) => format!("{node} holds it until its ETA"),
        _ => format!("{node} has reserved it, and runs it as soon as a slot is free"),
    }
}

fn unacked(case: &Case<'_>) -> Option<(Verdict, String)> {
    let held = *case.held().first()?;
    Some(match case.holder(&held) {
        // A claim was dealt with before.
        Holder::Claimed => return None,
        Holder::Undecided(why) => (
            Verdict::Undetermined,
            format!("it was delivered and is not acknowledged; who holds it can't be told: {why}"),
        ),
        Holder::MaybeRateLimited(nodes) => (
            Verdict::Reserved,
            format!(
                "it is unacknowledged and its task is rate limited on {}: it most likely waits there for its turn",
                plain::names(&nodes)
            ),
        ),
        Holder::RateLimitedOrNobody(nodes, overfull) => (
            Verdict::Undetermined,
            format!(
                "it is unacknowledged and its task is rate limited on {}, where it may wait; but {}",
                plain::names(&nodes),
                overfull.told()
            ),
        ),
        Holder::Nobody if case.comes_too_late(held.envelope) => (
            Verdict::Doomed,
            format!(
                "it is unacknowledged, no live worker has it, and {}",
                too_late(case, held.envelope)
            ),
        ),
        Holder::Nobody => (Verdict::Stuck, orphan(case, &held)),
    })
}

fn orphan(case: &Case<'_>, held: &Held<'_>) -> String {
    let visibility = case.evidence.visibility(held.store()).seconds;
    let due = held.delivered_at.map(|at| at + visibility - case.now());
    let later = match (case.evidence.sweep_period(held.store()), due) {
        (None, _) => "no live worker is there to restore it".to_owned(),
        (Some(_), None) => "nothing restores it without an index entry".to_owned(),
        // The same time as CD401 tells: the timeout has to pass, and then a worker to sweep.
        (Some(period), Some(due)) if due > 0.0 => format!(
            "it stays hidden until the visibility timeout has passed, and is restored in about {}",
            plain::duration(due + period)
        ),
        (Some(_), Some(due)) => format!(
            "the visibility timeout passed {} ago and it was not restored",
            plain::duration(due)
        ),
    };
    format!("it was delivered to a worker that is gone and is still unacknowledged; {later}")
}

fn queued(case: &Case<'_>) -> Option<(Verdict, String)> {
    let copies = case.queued();
    let judged = copies.iter().map(|copy| (copy, case.fate(copy)));
    let (copy, fate) = judged.min_by_key(|(_, fate)| rank(fate))?;
    let queue = copy.list.map_or(copy.key, |list| list.queue.as_str());
    let place = format!("queue {queue} at place {} of {}", copy.position, copy.of);
    let task = copy.envelope.task.as_deref().unwrap_or("the task");
    Some(match fate {
        Fate::Waiting => (
            Verdict::Queued,
            format!("it waits in {place}, and live workers take from it"),
        ),
        Fate::Undecided(why) => (
            Verdict::Undetermined,
            format!("it waits in {place}; what will become of it can't be told: {why}"),
        ),
        Fate::NobodyReads
            if copy
                .list
                .is_some_and(|l| !case.evidence.subscribers(l).is_empty()) =>
        {
            (
                Verdict::Stuck,
                format!(
                    "it waits in the list of {place}, a broadcast queue: its workers get what is broadcast from a channel, and \
                 nobody takes from this list"
                ),
            )
        }
        Fate::NobodyReads => (
            Verdict::Stuck,
            format!("it waits in {place}, and no live worker consumes that queue"),
        ),
        Fate::DeadLettered => (
            Verdict::DeadLettered,
            format!(
                "it waits in {place}, where kombu puts what no binding takes; no live worker takes from there"
            ),
        ),
        Fate::PriorityNotPolled => (
            Verdict::Stuck,
            format!("it waits in {place}, in a priority's list that no live worker takes from"),
        ),
        Fate::Expired => (
            Verdict::Doomed,
            format!(
                "it waits in {place} and {}: it will be dropped instead of run",
                too_late(case, copy.envelope)
            ),
        ),
        Fate::Revoked => (
            Verdict::Doomed,
            format!("it waits in {place} and was revoked: it will be dropped on delivery"),
        ),
        Fate::NotRegistered => (
            Verdict::Doomed,
            format!("it waits in {place}, and no worker there knows {task}: it will be discarded"),
        ),
        Fate::ContentRefused => (
            Verdict::Doomed,
            format!(
                "it waits in {place}, and no worker there accepts its content type: it will be discarded"
            ),
        ),
    })
}

/// Of several copies in queues the one with the best prospects decides.
fn rank(fate: &Fate) -> u8 {
    match fate {
        Fate::Waiting => 0,
        Fate::Undecided(_) => 1,
        Fate::NobodyReads | Fate::PriorityNotPolled | Fate::DeadLettered => 2,
        Fate::Expired | Fate::Revoked | Fate::NotRegistered | Fate::ContentRefused => 3,
    }
}

/// In native delayed delivery a task waits in the broker, and no worker holds it.
fn delayed(case: &Case<'_>) -> Option<(Verdict, String)> {
    let copy = *case.delayed().first()?;
    let Place::Delayed { queue, target } = &copy.place else {
        return None;
    };
    if role_by_name(queue) != Some(Role::Delayed) {
        return Some(waiting(case, queue, target));
    }
    let left = copy
        .envelope
        .eta
        .map(|eta| eta.seconds_until(case.evidence.taken_at));
    let due = match left {
        Some(left) if left > 0.0 => format!("until its ETA, in {}", plain::duration(left)),
        Some(left) => format!("its ETA has come {} ago", plain::duration(left)),
        None => "until its ETA".to_owned(),
    };
    if case.comes_too_late(&copy.envelope) {
        let why = too_late(case, &copy.envelope);
        return Some((
            Verdict::Doomed,
            format!("it waits in {queue} ({due}), and {why}"),
        ));
    }
    Some(match case.evidence.route_of_delayed(target) {
        Route::Nowhere if keeps_dead_letters(case, queue) => (
            Verdict::Stuck,
            format!(
                "it waits in {queue} ({due}), and {target} is not bound to what it is sent to then: RabbitMQ keeps it \
                 inside {queue} until it is"
            ),
        ),
        Route::Nowhere => (
            Verdict::Doomed,
            format!(
                "it waits in {queue} ({due}), and {target} is not bound to what it is sent to then: it will be dropped"
            ),
        ),
        _ => (
            Verdict::Reserved,
            format!(
                "the broker holds it in {queue}, for native delayed delivery to {target}: {due}"
            ),
        ),
    })
}

fn keeps_dead_letters(case: &Case<'_>, queue: &str) -> bool {
    let rabbit = case.evidence.rabbitmq.as_ref();
    let queue = rabbit.and_then(|rabbit| rabbit.queue(queue));
    queue.is_some_and(Queue::keeps_dead_letters)
}

/// A queue without consumers whose messages are dead-lettered into another when their time to live is over.
fn waiting(case: &Case<'_>, queue: &str, target: &str) -> (Verdict, String) {
    let place =
        format!("it waits in {queue}, which has no consumer, until its time to live is over");
    if target.is_empty() {
        return (
            Verdict::Doomed,
            format!("{place}, and is dropped then: its dead letters lead nowhere"),
        );
    }
    let list = case.evidence.list(target);
    match list.and_then(|list| case.evidence.consumers_told(list)) {
        Some(0) => (
            Verdict::Stuck,
            format!("{place}; it then goes to {target}, which has no consumer either"),
        ),
        _ => (
            Verdict::Reserved,
            format!("{place}; it then goes to {target}"),
        ),
    }
}

fn dead_lettered(case: &Case<'_>) -> Option<(Verdict, String)> {
    let copy = *case.dead_lettered().first()?;
    let Place::DeadLetter {
        queue,
        position,
        of,
        death,
    } = &copy.place
    else {
        return None;
    };
    let place = format!("dead-letter queue {queue} at place {position} of {of}");
    let how = death.as_ref().map_or(String::new(), |death| {
        let ago = death.at.map_or(String::new(), |at| {
            #[expect(clippy::cast_precision_loss, reason = "seconds of this century fit")]
            let seconds = case.now() - at as f64;
            format!(" {} ago", plain::duration(seconds))
        });
        let why = match death.reason.as_str() {
            "rejected" => "it was rejected",
            "expired" => "its time to live in the queue was over",
            "maxlen" => "the queue was full",
            "delivery_limit" => "it had been delivered as often as the queue allows",
            other => other,
        };
        format!("; it came out of queue {}{ago}: {why}", death.queue)
    });
    Some((Verdict::DeadLettered, format!("it stands in {place}{how}")))
}

fn elsewhere(case: &Case<'_>) -> Option<(Verdict, String)> {
    let copy = *case.elsewhere().first()?;
    let Place::OtherDatabase {
        database, key, of, ..
    } = &copy.place
    else {
        return None;
    };
    let place = format!(
        "{key} of database {database}, not {}",
        case.evidence.broker.database
    );
    if *of == 0 {
        return Some((
            Verdict::Undetermined,
            format!("it is unacknowledged, in {place}: trace it with that database's URL"),
        ));
    }
    Some(match case.evidence.workers_in(*database) {
        Some(0) => (
            Verdict::Stuck,
            format!("it waits in {place}, and no worker is connected to that database"),
        ),
        Some(_) => (
            Verdict::Undetermined,
            format!(
                "it waits in {place}; workers are connected there: trace it with that database's URL"
            ),
        ),
        None => (
            Verdict::Undetermined,
            format!("it waits in {place}; whether workers are connected there can't be told"),
        ),
    })
}

fn nowhere(case: &Case<'_>) -> (Verdict, String) {
    let mut unread = case.unread_places();
    let result = match &case.task.result {
        Observed::Seen(result) => result.as_ref(),
        Observed::Unseen(_) if case.evidence.results_are_off() => None,
        Observed::Unseen(_) => {
            unread.push(Source::Results.name().to_owned());
            None
        }
    };
    let others = case.evidence.other_databases.unseen();
    if others.is_some_and(|why| matches!(why.reason, Reason::TimedOut | Reason::Unreachable)) {
        unread.push(Source::OtherDatabases.name().to_owned());
    }
    if !unread.is_empty() {
        let state = result.map_or(String::new(), |r| {
            format!(" its result says {};", r.doc.state)
        });
        return (
            Verdict::Undetermined,
            format!(
                "it was not found;{state} not read whole: {}",
                unread.join(", ")
            ),
        );
    }
    if let Some(Elsewhere {
        node,
        database,
        sure,
    }) = case.worker_elsewhere()
    {
        let ours = case.evidence.broker.database;
        let whose = if sure {
            format!("a worker of database {database}, not {ours}")
        } else {
            format!(
                "a name that workers of database {ours} and of {database} have, and those of {database} did not all \
                 say what they have"
            )
        };
        return (
            Verdict::Undetermined,
            format!(
                "its result names {node}, {whose}: trace it with the URL of database {database}"
            ),
        );
    }
    if case.evidence.unheard_consumers() > 0 || case.may_be_ending() {
        return (
            Verdict::Undetermined,
            format!("it was not found; who has it can't be told: {UNHEARD}"),
        );
    }
    if let (Some(node), Some(result)) = (case.began_in_a_worker_that_lives(), result) {
        let state = &result.doc.state;
        return (
            Verdict::Undetermined,
            format!(
                "its result still says {state}, and no copy is left, and yet it was not killed: {node}, which began it, \
                 lives; {QUIET_END}, which the log of {node} tells by `ignored`"
            ),
        );
    }
    if let Some((node, task)) = case.hidden_bucket() {
        return (
            Verdict::Undetermined,
            format!(
                "it was not found; it may wait for the rate limit of {task} on {node}, which tells of no such task and, \
                 with ack_emulation off, keeps it in no key"
            ),
        );
    }
    if let Some(queue) = case.held_as_cycle() {
        return (
            Verdict::Lost,
            format!(
                "its result still says RETRY, and nothing delivers the retry: RabbitMQ before 4.0.1 takes it for a cycle, and \
                 {queue} holds a message inside that can't get out"
            ),
        );
    }
    match result {
        Some(result) => (
            Verdict::Lost,
            format!(
                "its result still says {}, and no copy is left and no live worker has it",
                result.doc.state
            ),
        ),
        None if case.evidence.rabbitmq.is_some() => (
            Verdict::Unknown,
            "everything was read, and nothing knows this id".to_owned(),
        ),
        None => match case.evidence.other_databases.unseen() {
            // Nobody who sends to this database comes past another, so that this is no gap in its own path.
            Some(why) if why.reason != Reason::NotAsked => (
                Verdict::Unknown,
                format!(
                    "nothing in this database knows this id; the server's other databases could not be read: {}",
                    why.detail
                ),
            ),
            _ => (
                Verdict::Unknown,
                "everything was read, and nothing knows this id".to_owned(),
            ),
        },
    }
}
