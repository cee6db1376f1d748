//! What became of one task: where its copies are, who has them, and what will become of them.

use std::time::Duration;

use super::deployment::Store;
use super::room::Overfull;
use super::route::Route;
use crate::celery::control::ClaimState;
use crate::celery::message::Envelope;
use crate::evidence::{
    Copy, Evidence, List, Observed, OtherDatabase, Place, RabbitMq, Source, StoredResult,
    TaskEvidence, UnackedNames, Worker, WorkerClaim, Workers,
};

/// Seconds for which a worker's start is uncertain: it tells its uptime in whole seconds (Celery 5.7
/// worker/worker.py, `WorkController.stats`), and clocks differ a little.
const UPTIME_MARGIN: f64 = 1.0;

/// Why nothing can be said while [`Evidence::unheard_consumers`] finds any.
pub(in crate::diagnose) const UNHEARD: &str = "something takes messages from this broker and answers no remote control: a worker \
                                  that shuts down warmly, or has remote control switched off";

/// One traced task, with the evidence around it.
#[derive(Clone, Copy)]
pub struct Case<'e> {
    /// The whole reading.
    pub evidence: &'e Evidence,
    /// The id.
    pub id: &'e str,
    /// What was found about it.
    pub task: &'e TaskEvidence,
}

/// A copy in a queue's list.
#[derive(Clone, Copy)]
pub struct Queued<'e> {
    /// The message.
    pub envelope: &'e Envelope,
    /// The list's key.
    pub key: &'e str,
    /// How many deliveries away it is: 1 is next.
    pub position: u64,
    /// The list's length.
    pub of: u64,
    /// The list, where the reading names it.
    pub list: Option<&'e List>,
}

/// A copy in `unacked`.
#[derive(Clone, Copy)]
pub struct Held<'e> {
    /// The message.
    pub envelope: &'e Envelope,
    /// The `global_keyprefix` before the key.
    pub prefix: &'e str,
    /// The names of the keys.
    pub names: &'e UnackedNames,
    /// The delivery tag.
    pub tag: &'e str,
    /// Unix seconds of its delivery; none without an index entry.
    pub delivered_at: Option<f64>,
    /// The exchange through which a restore would send it.
    pub exchange: &'e str,
    /// The routing key with which a restore would send it.
    pub routing_key: &'e str,
}

/// A worker of another database of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere<'e> {
    /// Its node name.
    pub node: &'e str,
    /// Its database.
    pub database: u32,
    /// Whether the task is sure to be its; else a worker of the broker's own database has the name too.
    pub sure: bool,
}

/// What will become of a copy in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A live worker that will run it takes from this list.
    Waiting,
    /// No live worker takes from its queue.
    NobodyReads,
    /// Kombu put it where it puts what no binding takes, and no live worker takes from there: none need.
    DeadLettered,
    /// Live workers take from its queue, and none from its priority's list.
    PriorityNotPolled,
    /// Its `expires` has passed.
    Expired,
    /// Every worker that takes from the list has revoked it.
    Revoked,
    /// No worker that takes from the list knows the task.
    NotRegistered,
    /// No worker that takes from the list accepts its content type.
    ContentRefused,
    /// What would decide was not read; why.
    Undecided(String),
}

/// Who holds a copy in `unacked`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A live worker says so.
    Claimed,
    /// Nobody says so, and its task is rate limited on these nodes: it can wait in a bucket that no reply shows.
    MaybeRateLimited(Vec<String>),
    /// As [`Holder::MaybeRateLimited`], and more is unacknowledged than the live workers can hold: some of it is nobody's,
    /// and which can't be told.
    RateLimitedOrNobody(Vec<String>, Overfull),
    /// Every live worker answered, and none has it.
    Nobody,
    /// What would decide was not read; why.
    Undecided(String),
}

impl<'e> Case<'e> {
    /// The case of an id, where the reading looked for it.
    pub fn of(evidence: &'e Evidence, id: &'e str) -> Option<Self> {
        let task = evidence.tasks.get(id)?;
        Some(Self { evidence, id, task })
    }

    /// The moment of the reading, in Unix seconds.
    pub fn now(&self) -> f64 {
        self.evidence.now()
    }

    /// The task's name, by whatever tells it.
    pub fn name(&self) -> Option<&'e str> {
        let copies = self.task.copies.iter().map(|copy| &copy.envelope.task);
        let claims = self.task.claims.iter().map(|claim| &claim.claim.task);
        let result = self.result().map(|result| &result.doc.name);
        copies
            .chain(claims)
            .chain(result)
            .find_map(|name| name.as_deref())
    }

    /// Its envelope, from whichever copy there is.
    pub fn envelope(&self) -> Option<&'e Envelope> {
        self.task.copies.first().map(|copy| &copy.envelope)
    }

    /// Its copies in queues of the broker's database.
    pub fn queued(&self) -> Vec<Queued<'e>> {
        let evidence = self.evidence;
        self.task
            .copies
            .iter()
            .filter_map(|copy| match &copy.place {
                Place::Queue { key, position, of } => Some(Queued {
                    envelope: &copy.envelope,
                    key,
                    position: *position,
                    of: *of,
                    list: evidence.list(key),
                }),
                _ => None,
            })
            .collect()
    }

    /// Its copies in `unacked`.
    pub fn held(&self) -> Vec<Held<'e>> {
        self.task.copies.iter().filter_map(held).collect()
    }

    /// Its copies in dead-letter queues.
    pub fn dead_lettered(&self) -> Vec<&'e Copy> {
        self.copies_in(|place| matches!(place, Place::DeadLetter { .. }))
    }

    /// Its copies in queues of native delayed delivery.
    pub fn delayed(&self) -> Vec<&'e Copy> {
        self.copies_in(|place| matches!(place, Place::Delayed { .. }))
    }

    fn copies_in(&self, wanted: fn(&Place) -> bool) -> Vec<&'e Copy> {
        let copies = self.task.copies.iter();
        copies.filter(|copy| wanted(&copy.place)).collect()
    }

    /// Its copies in other databases of the server.
    pub fn elsewhere(&self) -> Vec<&'e Copy> {
        self.copies_in(|place| matches!(place, Place::OtherDatabase { .. }))
    }

    /// The stored result, as it stood last.
    pub fn result(&self) -> Option<&'e StoredResult> {
        self.task.result.seen().and_then(Option::as_ref)
    }

    /// The stored result, where its state is final.
    pub fn final_result(&self) -> Option<&'e StoredResult> {
        self.result().filter(|result| result.doc.ready)
    }

    /// The stored result, where it is a failure with an exception of this class.
    pub fn failed_with(&self, exception: &str) -> Option<&'e StoredResult> {
        self.final_result()
            .filter(|result| result.doc.state == "FAILURE")
            .filter(|result| result.doc.exc_type.as_deref() == Some(exception))
    }

    /// The stored result, where Celery dropped it for this (see [`crate::celery::result::REVOKED_FOR`]).
    pub fn dropped_for(&self, why: &str) -> Option<&'e StoredResult> {
        self.final_result()
            .filter(|result| result.doc.revoked_for.as_deref() == Some(why))
    }

    /// What workers say of it, in this state.
    pub fn claims(&self, state: ClaimState) -> Vec<&'e WorkerClaim> {
        self.task
            .claims
            .iter()
            .filter(|claim| claim.claim.state == state)
            .collect()
    }

    /// What it was sent with: `expires` has passed, by the server's clock.
    pub fn expired(&self, envelope: &Envelope) -> bool {
        let known = self.evidence.unknown_clock().is_none();
        let expires = envelope.expires.filter(|_| known);
        expires.is_some_and(|expires| expires.seconds_until(self.evidence.taken_at) < 0.0)
    }

    /// A worker will drop it: `expires` has passed, or will have when its ETA comes.
    pub fn comes_too_late(&self, envelope: &Envelope) -> bool {
        let before_eta = envelope.eta.zip(envelope.expires);
        self.expired(envelope) || before_eta.is_some_and(|(eta, expires)| eta > expires)
    }

    /// What will become of a copy in a queue.
    pub fn fate(&self, copy: &Queued<'_>) -> Fate {
        if self.comes_too_late(copy.envelope) {
            return Fate::Expired;
        }
        if let (Some(_), Some(why)) = (copy.envelope.expires, self.evidence.unknown_clock()) {
            let what = format!("whether it has expired can't be told: {}", why.detail);
            return Fate::Undecided(what);
        }
        let place = self.fate_of_place(copy);
        if place != Fate::Waiting {
            return place;
        }
        let readers = copy
            .list
            .map(|list| self.evidence.readers(list))
            .unwrap_or_default();
        if readers
            .iter()
            .all(|w| self.task.revoked_by.contains(&w.node))
        {
            return self.unless_unsure(Fate::Revoked);
        }
        let refused = |answers: Vec<Option<bool>>, fate: Fate| {
            if answers.contains(&Some(true)) {
                None
            } else if answers.contains(&None) {
                Some(Fate::Undecided(
                    "a worker did not say what it takes".to_owned(),
                ))
            } else {
                Some(self.unless_unsure(fate))
            }
        };
        let task = copy.envelope.task.as_deref();
        let known = readers.iter().map(|w| task.and_then(|t| w.knows(t)));
        if let Some(fate) = refused(known.collect(), Fate::NotRegistered) {
            return fate;
        }
        let content = copy.envelope.content_type.as_deref();
        let accepted = readers
            .iter()
            .map(|w| content.map_or(Some(true), |c| w.accepts(c)));
        refused(accepted.collect(), Fate::ContentRefused).unwrap_or(Fate::Waiting)
    }

    /// What will become of any message that stands where this copy does, whatever is in it.
    pub fn fate_of_place(&self, copy: &Queued<'_>) -> Fate {
        // The broker's own word needs no worker's.
        if copy
            .list
            .and_then(|list| self.evidence.consumers_told(list))
            == Some(0)
        {
            let known = |rabbit: &RabbitMq| rabbit.dead_letters_are_known();
            return if self.evidence.rabbitmq.as_ref().is_none_or(known) {
                Fate::NobodyReads
            } else {
                Fate::Undecided("its queue may be for dead letters".to_owned())
            };
        }
        if let Some(why) = self.evidence.workers.unseen() {
            return Fate::Undecided(format!("the workers were not asked: {}", why.detail));
        }
        let Some(list) = copy.list else {
            return Fate::Undecided("its list was not read".to_owned());
        };
        if !self.evidence.readers(list).is_empty() {
            Fate::Waiting
        } else if self.evidence.consumers(list).is_empty() {
            let by_design = self
                .evidence
                .is_dead_letter_queue(&list.prefix, &list.queue);
            self.unless_unsure(if by_design {
                Fate::DeadLettered
            } else {
                Fate::NobodyReads
            })
        } else if self
            .evidence
            .consumers(list)
            .iter()
            .any(|w| w.stats.seen().is_none())
        {
            Fate::Undecided("a worker did not say which priorities it takes".to_owned())
        } else {
            self.unless_unsure(Fate::PriorityNotPolled)
        }
    }

    /// A fate that holds only if no worker has kept its word to itself.
    fn unless_unsure(&self, fate: Fate) -> Fate {
        let unsaid = |w: &Worker| w.queues.seen().is_none();
        let silent = !self.evidence.all_workers_answered();
        if silent || self.evidence.answered().iter().any(unsaid) {
            let workers = self.evidence.workers.seen();
            let how = workers.map_or("did not answer", Workers::unheard_how);
            return Fate::Undecided(format!("a worker that may take it {how}"));
        }
        if self.evidence.unheard_takers() > 0 {
            return Fate::Undecided(UNHEARD.to_owned());
        }
        fate
    }

    /// Who holds a copy in `unacked`.
    pub fn holder(&self, held: &Held<'_>) -> Holder {
        if !self.task.claims.is_empty() {
            return Holder::Claimed;
        }
        let Some(workers) = self.evidence.workers.seen() else {
            return Holder::Undecided("the workers were not asked".to_owned());
        };
        if workers.silent > 0 {
            let how = workers.unheard_how();
            return Holder::Undecided(format!("a worker that may hold it {how}"));
        }
        // Who came was not asked everything, and who left may be finishing it.
        if !workers.are_settled() {
            let what = "workers came or left while they were asked, and one of them may hold it";
            return Holder::Undecided(what.to_owned());
        }
        let unheard = self
            .evidence
            .unheard_may_hold(held.store(), held.delivered_at);
        if unheard || self.may_be_ending() {
            return Holder::Undecided(UNHEARD.to_owned());
        }
        // Before Celery 5.7 query_task does not know tasks that wait for their ETA.
        let unsaid = |w: &Worker| w.scheduled.seen().is_none();
        if held.envelope.eta.is_some() && workers.answered.iter().any(unsaid) {
            return Holder::Undecided("a worker did not say what it has scheduled".to_owned());
        }
        let task = held.envelope.task.as_deref().unwrap_or_default();
        let limited: Vec<String> = workers
            .answered
            .iter()
            .filter(|w| w.prefix == held.prefix && w.rate_limit(task).is_some())
            .filter(|w| self.may_take(w, held) && !self.came_after(w, held))
            .filter(|_| !self.was_started_elsewhere(held))
            .map(|w| w.node.clone())
            .collect();
        if !limited.is_empty() {
            return match self.evidence.overfull(held.store()) {
                None => Holder::MaybeRateLimited(limited),
                Some(overfull) => Holder::RateLimitedOrNobody(limited, overfull),
            };
        }
        match self.may_be_finishing(held) {
            Some(why) => Holder::Undecided(why),
            None => Holder::Nobody,
        }
    }

    /// Why it can't be told who holds a copy in `unacked`; none where that can, or there is none.
    pub fn undecided(&self) -> Option<String> {
        self.held().iter().find_map(|held| match self.holder(held) {
            Holder::Undecided(why) => Some(why),
            _ => None,
        })
    }

    /// Whether a worker consumes a queue that a message stood in, as far as is known.
    fn may_take(&self, worker: &Worker, held: &Held<'_>) -> bool {
        let route = self
            .evidence
            .route(held.prefix, held.exchange, held.routing_key);
        match route {
            Route::Queues(queues) if worker.queues.seen().is_some() => {
                queues.iter().any(|queue| worker.consumes(queue))
            }
            _ => true,
        }
    }

    /// Whether a worker that did not answer began to execute this very delivery: then it is in no bucket any more.
    fn was_started_elsewhere(&self, held: &Held<'_>) -> bool {
        let started = self.result().filter(|r| r.doc.state == "STARTED");
        let node = started.and_then(|result| result.doc.worker.as_deref());
        !held.envelope.redelivered && node.is_some_and(|node| !self.evidence.answers(node))
    }

    /// Whether a worker was started after a message had been delivered: then it was delivered to another.
    fn came_after(&self, worker: &Worker, held: &Held<'_>) -> bool {
        let uptime = worker.stats.seen().and_then(|stats| stats.uptime);
        // It told its uptime early in the reading, whose moment is its end.
        let read = self.evidence.read(Source::Workers);
        let length = Duration::from_millis(read.map_or(0, |read| read.elapsed_ms)).as_secs_f64();
        match (uptime, held.delivered_at) {
            (Some(uptime), Some(at)) => at + UPTIME_MARGIN < self.now() - length - uptime,
            _ => false,
        }
    }

    /// Whether a worker says that it executes the task.
    pub fn is_running(&self) -> bool {
        self.task
            .claims
            .iter()
            .any(|claim| claim.claim.state == ClaimState::Active)
    }

    /// Whether every worker that holds it looks at `expires` once more before it runs it. A task that waits for its
    /// ETA is looked at then. One that waits for a free process is looked at only in the prefork pool: other pools
    /// have taken it over already (Celery 5.7 worker/worker.py, `_process_task_sem`).
    pub fn expires_in_worker(&self) -> bool {
        let prefork = |node: &str| {
            self.evidence
                .answered()
                .iter()
                .filter(|w| w.node == node)
                .filter_map(|w| w.stats.seen()?.pool.as_deref())
                .any(|pool| pool.contains("prefork"))
        };
        self.task
            .claims
            .iter()
            .all(|holder| match holder.claim.state {
                ClaimState::Scheduled => true,
                ClaimState::Reserved => prefork(&holder.node),
                ClaimState::Active | ClaimState::Ready => false,
            })
    }

    /// Whether a worker has had it in hand, by its result.
    pub(in crate::diagnose) fn has_begun(&self) -> bool {
        let begun = ["RECEIVED", "STARTED"];
        self.result()
            .is_some_and(|result| begun.contains(&result.doc.state.as_str()))
    }

    /// Whether nothing of it was found: no copy, no claim, no result.
    pub fn is_unheard_of(&self) -> bool {
        self.task.copies.is_empty() && self.task.claims.is_empty() && self.result().is_none()
    }

    /// Whether every place in the broker and every worker was read whole, and none has it, nor a message that sends it.
    pub fn is_nowhere(&self) -> bool {
        let whole = self.unread_places().is_empty();
        let found = !self.task.copies.is_empty() || !self.task.claims.is_empty();
        let heard = self.evidence.all_workers_answered() && self.evidence.unheard_consumers() == 0;
        let gone = self.worker_elsewhere().is_none() && !self.may_be_ending();
        whole && heard && !found && gone && self.hidden_bucket().is_none() && !self.is_carried()
    }

    /// A worker that may have it in the bucket of a rate limit, and the task that is limited. No reply tells of such a
    /// task, and with `ack_emulation` off no key does (kombu 5.7 transport/redis.py, `Channel.__init__`).
    pub fn hidden_bucket(&self) -> Option<(&'e str, &'e str)> {
        if self.evidence.rabbitmq.is_some() {
            return None;
        }
        let waits = ["PENDING", "RECEIVED", "RETRY"];
        // What has begun has left the bucket.
        if let Some(result) = self.result()
            && !waits.contains(&result.doc.state.as_str())
        {
            return None;
        }
        let mut workers = self
            .evidence
            .answered()
            .iter()
            .filter(|w| w.keeps_nothing());
        workers.find_map(|worker| {
            let mut limited = worker.rate_limits().into_iter().map(|(task, _)| task);
            let task = limited.find(|task| self.name().is_none_or(|name| name == *task))?;
            Some((worker.node.as_str(), task))
        })
    }

    /// The worker that its unfinished result names, where one of this name works in another database of the server. Two
    /// workers of one name are told apart by what those there say that they have.
    pub fn worker_elsewhere(&self) -> Option<Elsewhere<'e>> {
        let result = self.result().filter(|result| !result.doc.ready)?;
        let node = result.doc.worker.as_deref()?;
        let workers = self.evidence.workers.seen()?;
        let left = workers.unanswered_names.iter().any(|name| name == node);
        let here_too = left || self.evidence.answers(node);
        let has = |other: &OtherDatabase| Some(other.claimed.as_ref()?.contains(self.id));
        let others = self.evidence.other_databases.seen()?;
        let home = others.iter().find(|other| {
            let there = self.evidence.workers_in(other.database) != Some(0);
            let theirs = !here_too || has(other) != Some(false);
            there && theirs && other.mailboxes.iter().any(|name| name == node)
        })?;
        Some(Elsewhere {
            node,
            database: home.database,
            sure: !here_too || has(home) == Some(true),
        })
    }

    /// Whether the worker that its unfinished result names may be shutting down warmly: it took its mailbox away, as
    /// only one that ends in order does, and a connection that last took a message is left beside those of the workers
    /// that answered. It then finishes its tasks without another word. In a rolling restart one of its name answers by
    /// then, and has not got them.
    pub fn may_be_ending(&self) -> bool {
        let result = self.result().filter(|result| !result.doc.ready);
        let Some(node) = result.and_then(|result| result.doc.worker.as_deref()) else {
            return false;
        };
        let Some(workers) = self.evidence.workers.seen() else {
            return false;
        };
        let left = workers.unanswered_names.iter().any(|name| name == node);
        !left && self.evidence.takers() > workers.answered.len()
    }

    /// The stored result, where it is not final and said the same before the broker was read and after it.
    pub fn unfinished_result(&self) -> Option<&'e StoredResult> {
        let last = self.result().filter(|result| !result.doc.ready)?;
        let first = stored(&self.task.first_result)?;
        (first.doc.state == last.doc.state).then_some(last)
    }

    /// The task's name in a sentence.
    pub fn called(&self) -> &'e str {
        self.name().unwrap_or("the task")
    }
}

impl<'e> Held<'e> {
    /// Where it is kept.
    pub fn store(&self) -> Store<'e> {
        Store {
            prefix: self.prefix,
            names: Some(self.names),
        }
    }

    /// The key of the hash.
    pub fn hash(&self) -> String {
        format!("{}{}", self.prefix, self.names.hash)
    }

    /// The key of the index.
    pub fn index(&self) -> String {
        format!("{}{}", self.prefix, self.names.index)
    }

    /// The key of the sweep's lock.
    pub fn mutex(&self) -> String {
        format!("{}{}", self.prefix, self.names.mutex)
    }
}

fn held(copy: &Copy) -> Option<Held<'_>> {
    match &copy.place {
        Place::Unacked {
            prefix,
            names,
            tag,
            delivered_at,
            exchange,
            routing_key,
        } => Some(Held {
            envelope: &copy.envelope,
            prefix,
            names,
            tag,
            delivered_at: *delivered_at,
            exchange,
            routing_key,
        }),
        _ => None,
    }
}

/// The stored result, where it was read and there is one.
pub(in crate::diagnose) fn stored(
    result: &Observed<Option<StoredResult>>,
) -> Option<&StoredResult> {
    result.seen().and_then(Option::as_ref)
}
