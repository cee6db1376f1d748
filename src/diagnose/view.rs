//! Questions that several rules and the verdict ask of the evidence, answered in one place.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::celery::control::{ClaimState, STARRED};
use crate::celery::exchange::{self, Binding, DEFAULT_SEP, DEFAULT_STEPS, ExchangeType};
use crate::celery::message::Envelope;
use crate::evidence::{
    ClientFacts, Copy, Evidence, List, Observed, Place, Reservations, Source, StoredResult,
    TaskEvidence, Worker, WorkerClaim,
};

/// Kombu's visibility timeout where nothing sets another, in seconds (kombu 5.7 transport/redis.py, `Channel`).
pub(super) const DEFAULT_VISIBILITY_TIMEOUT: f64 = 3600.0;

/// Seconds between two sweeps of a worker where nothing sets others: every tenth call of one that comes every 10 s
/// (kombu 5.7 transport/redis.py, `unacked_restore_interval` and `unacked_restore_throttle`).
pub(super) const DEFAULT_SWEEP_PERIOD: f64 = 100.0;

/// Seconds for which Celery keeps results where nothing sets another time (Celery 5.7 app/defaults.py).
const DEFAULT_RESULT_EXPIRES: f64 = 86_400.0;

/// Seconds for which a worker's start is uncertain: it tells its uptime in whole seconds (Celery 5.7
/// worker/worker.py, `WorkController.stats`), and clocks differ a little.
const UPTIME_MARGIN: f64 = 1.0;

/// Why nothing can be said while [`Evidence::unheard_consumers`] finds any.
pub(super) const UNHEARD: &str = "something takes messages from this database and answers no remote control: a worker \
                                  that shuts down warmly, or has remote control switched off";

/// Content types that kombu takes whatever `accept_content` says (kombu 5.7 serialization.py, `TRUSTED_CONTENT`).
const TRUSTED_CONTENT: [&str; 2] = ["application/data", "application/text"];

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
    /// The delivery tag.
    pub tag: &'e str,
    /// Unix seconds of its delivery; none without an index entry.
    pub delivered_at: Option<f64>,
    /// The exchange through which a restore would send it.
    pub exchange: &'e str,
    /// The routing key with which a restore would send it.
    pub routing_key: &'e str,
}

/// What will become of a copy in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A live worker that will run it takes from this list.
    Waiting,
    /// No live worker takes from its queue.
    NobodyReads,
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
    /// Every live worker answered, and none has it.
    Nobody,
    /// What would decide was not read; why.
    Undecided(String),
}

/// Where an exchange and a routing key lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To these queues.
    Queues(BTreeSet<String>),
    /// To none: what is sent there is dropped.
    Nowhere,
    /// It can't be told; why.
    Unknown(String),
}

/// The visibility timeout in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Visibility {
    /// In seconds: the shortest of all, because each worker sweeps everyone's reservations with its own.
    pub seconds: f64,
    /// Where it comes from, in words.
    pub source: String,
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

    /// Its copies in other databases of the server.
    pub fn elsewhere(&self) -> Vec<&'e Copy> {
        self.task
            .copies
            .iter()
            .filter(|copy| matches!(copy.place, Place::OtherDatabase { .. }))
            .collect()
    }

    /// The stored result, as it stood last.
    pub fn result(&self) -> Option<&'e StoredResult> {
        self.task.result.seen().and_then(Option::as_ref)
    }

    /// The stored result, where its state is final.
    pub fn final_result(&self) -> Option<&'e StoredResult> {
        self.result().filter(|result| result.doc.ready)
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
        envelope
            .expires
            .is_some_and(|expires| expires.seconds_until(self.evidence.taken_at) < 0.0)
    }

    /// What will become of a copy in a queue.
    pub fn fate(&self, copy: &Queued<'_>) -> Fate {
        if self.expired(copy.envelope) {
            return Fate::Expired;
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
        if let Some(why) = self.evidence.workers.unseen() {
            return Fate::Undecided(format!("the workers were not asked: {}", why.detail));
        }
        let Some(list) = copy.list else {
            return Fate::Undecided("its list was not read".to_owned());
        };
        if !self.evidence.readers(list).is_empty() {
            Fate::Waiting
        } else if self.evidence.consumers(list).is_empty() {
            self.unless_unsure(Fate::NobodyReads)
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
        let silent = !self.evidence.all_workers_answered();
        if silent
            || self
                .evidence
                .answered()
                .iter()
                .any(|w| w.queues.seen().is_none())
        {
            return Fate::Undecided("a worker that may take it did not answer".to_owned());
        }
        if self.evidence.unheard_consumers() > 0 {
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
            return Holder::Undecided("a worker that may hold it did not answer".to_owned());
        }
        if self.evidence.unheard_consumers() > 0 || self.may_be_ending() {
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
            .filter(|w| !self.came_after(w, held))
            .map(|w| w.node.clone())
            .collect();
        if limited.is_empty() {
            Holder::Nobody
        } else {
            Holder::MaybeRateLimited(limited)
        }
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

    /// Whether nothing of it was found: no copy, no claim, no result.
    pub fn is_unheard_of(&self) -> bool {
        self.task.copies.is_empty() && self.task.claims.is_empty() && self.result().is_none()
    }

    /// Whether every place in the broker and every worker was read whole, and none has it.
    pub fn is_nowhere(&self) -> bool {
        let places = [Source::Queues, Source::Unacked, Source::Workers];
        let whole = places.iter().all(|place| self.evidence.complete(*place));
        let found = !self.task.copies.is_empty() || !self.task.claims.is_empty();
        let heard = self.evidence.all_workers_answered() && self.evidence.unheard_consumers() == 0;
        let gone = self.worker_elsewhere().is_none() && !self.may_be_ending();
        whole && heard && !found && gone
    }

    /// The worker that its unfinished result names and its database, where the worker is connected to another database
    /// of the server and has no mailbox here.
    pub fn worker_elsewhere(&self) -> Option<(&'e str, u32)> {
        let result = self.result().filter(|result| !result.doc.ready)?;
        let node = result.doc.worker.as_deref()?;
        let workers = self.evidence.workers.seen()?;
        if self.evidence.answers(node) || workers.unanswered_names.iter().any(|name| name == node) {
            return None;
        }
        let others = self.evidence.other_databases.seen()?;
        let home = others.iter().find(|other| {
            let there = self.evidence.workers_in(other.database) != Some(0);
            there && other.mailboxes.iter().any(|name| name == node)
        })?;
        Some((node, home.database))
    }

    /// Whether the worker that its unfinished result names may be shutting down warmly: it took its mailbox away, as
    /// only one that ends in order does, and a connection that last took a message is left beside those of the workers
    /// that answered. It then finishes its tasks without another word.
    pub fn may_be_ending(&self) -> bool {
        let result = self.result().filter(|result| !result.doc.ready);
        let Some(node) = result.and_then(|result| result.doc.worker.as_deref()) else {
            return false;
        };
        let Some(workers) = self.evidence.workers.seen() else {
            return false;
        };
        let left = workers.unanswered_names.iter().any(|name| name == node);
        !self.evidence.answers(node) && !left && self.evidence.takers() > workers.answered.len()
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

fn held(copy: &Copy) -> Option<Held<'_>> {
    match &copy.place {
        Place::Unacked {
            prefix,
            tag,
            delivered_at,
            exchange,
            routing_key,
        } => Some(Held {
            envelope: &copy.envelope,
            prefix,
            tag,
            delivered_at: *delivered_at,
            exchange,
            routing_key,
        }),
        _ => None,
    }
}

impl Evidence {
    /// The moment of the reading, in Unix seconds.
    pub fn now(&self) -> f64 {
        let now = self.taken_at;
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of this century fit"
        )]
        let micros = now.as_microsecond() as f64;
        micros / 1e6
    }

    /// A list by its key.
    pub fn list(&self, key: &str) -> Option<&List> {
        self.lists.seen()?.iter().find(|list| list.key == key)
    }

    /// The workers that answered and take from this very list.
    pub fn readers(&self, list: &List) -> Vec<&Worker> {
        let workers = self.answered().iter();
        workers.filter(|w| w.polls(list)).collect()
    }

    /// The workers that answered and consume the list's queue, whatever its priority.
    pub fn consumers(&self, list: &List) -> Vec<&Worker> {
        self.answered()
            .iter()
            .filter(|w| w.prefix == list.prefix && w.consumes(&list.queue))
            .collect()
    }

    /// The reservations under a key prefix.
    pub fn reservations_of(&self, prefix: &str) -> Option<&Reservations> {
        let all = self.reservations.seen()?;
        all.iter().find(|entry| entry.prefix == prefix)
    }

    /// The visibility timeout in force for a key prefix: what the user said, else the shortest that a live worker
    /// has, else kombu's default.
    pub fn visibility(&self, prefix: &str) -> Visibility {
        if let Some(seconds) = self.visibility_timeout_given {
            return Visibility {
                seconds,
                source: "given by --visibility-timeout".to_owned(),
            };
        }
        let shortest = self
            .answered()
            .iter()
            .filter(|w| w.prefix == prefix)
            .filter_map(|w| Some((w.visibility_timeout()?, &w.node)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        match shortest {
            Some((seconds, node)) => Visibility {
                seconds,
                source: format!("the shortest of the live workers, {node}'s"),
            },
            None => Visibility {
                seconds: DEFAULT_VISIBILITY_TIMEOUT,
                source: "kombu's default; no worker said another".to_owned(),
            },
        }
    }

    /// Seconds within which live workers restore what has become visible again; none where nobody is there to do it.
    pub fn sweep_period(&self, prefix: &str) -> Option<f64> {
        self.answered()
            .iter()
            .filter(|w| w.prefix == prefix && w.queues.seen().is_none_or(|q| !q.is_empty()))
            .map(Worker::sweep_period)
            .min_by(f64::total_cmp)
    }

    /// Where kombu would send a message with this exchange and routing key (kombu 5.7 transport/virtual/base.py,
    /// `Channel._lookup`).
    pub fn route(&self, prefix: &str, exchange: &str, routing_key: &str) -> Route {
        if exchange.is_empty() {
            return Route::Queues(BTreeSet::from([routing_key.to_owned()]));
        }
        let Some(tables) = self.bindings.seen() else {
            return Route::Unknown("the bindings were not read".to_owned());
        };
        let table: &[Binding] = tables
            .iter()
            .find(|table| table.prefix == prefix && table.exchange == exchange)
            .map_or(&[], |table| table.bindings.as_slice());
        if let Some(queue) = self.dead_letter_queue(prefix) {
            return Route::Queues(BTreeSet::from([queue.to_owned()]));
        }
        // Of a starred key no more can be said than of the exchange: bound to nothing, it takes no key.
        if routing_key == STARRED && !table.is_empty() {
            return Route::Unknown(
                "workers do not tell the routing keys of their routes".to_owned(),
            );
        }
        let kinds: &[ExchangeType] = match self.exchange_type(prefix, exchange) {
            Some(kind) => &[kind],
            None => &[ExchangeType::Direct, ExchangeType::Topic],
        };
        let queues: BTreeSet<String> = kinds
            .iter()
            .flat_map(|kind| exchange::lookup(*kind, table, routing_key))
            .map(str::to_owned)
            .collect();
        let may_be_fanout = kinds.len() > 1 && table.iter().any(|b| b.pattern.is_empty());
        match (queues.is_empty(), may_be_fanout) {
            (false, _) => Route::Queues(queues),
            (true, true) => Route::Unknown(format!("the type of exchange {exchange} is not known")),
            (true, false) if self.complete(Source::Bindings) => Route::Nowhere,
            (true, false) => Route::Unknown("the bindings were not read whole".to_owned()),
        }
    }

    /// How many connections of workers there are in another database: those that wait in BRPOP or are subscribed to
    /// a pattern. None where CLIENT LIST was not read.
    pub fn workers_in(&self, database: u32) -> Option<u64> {
        let clients = self.broker.server.seen()?.clients.seen()?;
        let of_worker = |client: &&ClientFacts| {
            client.database == database
                && (client.command == "brpop" || client.pattern_subscriptions > 0)
        };
        Some(clients.iter().filter(of_worker).count() as u64)
    }

    /// Whether no worker has a result backend, by the word of all of them, and none was given: then there is none to
    /// read.
    pub fn results_are_off(&self) -> bool {
        let workers = self.answered();
        self.result_backend.url.is_none()
            && self.all_workers_answered()
            && !workers.is_empty()
            && workers.iter().all(|w| {
                w.conf
                    .seen()
                    .is_some_and(|conf| conf.result_backend.is_none())
            })
    }

    /// The visibility timeout, where somebody told it: the user, or a live worker of this key prefix. A worker that
    /// told it sweeps with it, so that others, silent ones too, can only make it shorter.
    pub fn visibility_told(&self, prefix: &str) -> Option<Visibility> {
        let told = self.visibility_timeout_given.is_some()
            || self
                .answered()
                .iter()
                .any(|w| w.prefix == prefix && w.visibility_timeout().is_some());
        told.then(|| self.visibility(prefix))
    }

    /// Whether it is sure that no worker is there to sweep the reservations of a key prefix: none of it answered,
    /// none is silent, and nothing takes messages without remote control.
    pub fn nobody_sweeps(&self, prefix: &str) -> bool {
        self.all_workers_answered()
            && self.sweep_period(prefix).is_none()
            && self.unheard_consumers() == 0
    }

    /// How many connections last took a message from the broker's database with BRPOP, whether they wait for another or
    /// not. Zero where CLIENT LIST was not read.
    fn takers(&self) -> usize {
        let clients = self.broker.server.seen().and_then(|s| s.clients.seen());
        let here = clients.into_iter().flatten();
        here.filter(|c| c.database == self.broker.database && c.command == "brpop")
            .count()
    }

    /// How many more consumers there seem to be in the broker's database than workers answered: with
    /// `worker_enable_remote_control` off a worker is never heard. It blocks in BRPOP while it has room. A busy one keeps
    /// BRPOP as its last command, as a client that has asked the workers something does; but it listens to the other
    /// workers' events too, in a pattern subscription beside the two of each worker that answers (Celery 5.7
    /// worker/consumer/gossip.py). Zero where CLIENT LIST was not read, and where workers of one name answered as one, so
    /// that they cannot be counted.
    pub fn unheard_consumers(&self) -> usize {
        let (answered, silent) = self
            .workers
            .seen()
            .map_or((0, 0), |w| (w.answered.len(), w.silent));
        if self.answered().iter().any(|w| w.twins) {
            return 0;
        }
        let clients = self.broker.server.seen().and_then(|s| s.clients.seen());
        let here = |wanted: fn(&&ClientFacts) -> bool| {
            clients
                .into_iter()
                .flatten()
                .filter(|c| c.database == self.broker.database)
                .filter(wanted)
                .count()
        };
        let blocked = here(|c| c.command == "brpop" && c.blocked);
        let busy = self.takers().saturating_sub(answered);
        let known = answered.saturating_add(usize::try_from(silent).unwrap_or(usize::MAX));
        let listeners =
            here(|c| c.pattern_subscriptions > 0).saturating_sub(known.saturating_mul(2));
        blocked.saturating_sub(answered).max(busy.min(listeners))
    }

    /// Whether it is sure that no live worker works under this key prefix, while some do under others.
    pub fn is_foreign_prefix(&self, prefix: &str) -> bool {
        let workers = self.answered();
        self.all_workers_answered()
            && self.unheard_consumers() == 0
            && !workers.is_empty()
            && workers.iter().all(|w| w.prefix != prefix)
    }

    /// Whether no message is in a queue or unacknowledged, and no worker has anything to do: then nothing is left
    /// that could still send a task, or report an end.
    pub fn nothing_in_flight(&self) -> bool {
        let queues = self.lists.seen();
        let empty = queues.is_some_and(|lists| {
            let mut named = lists.iter().filter(|list| list.named);
            named.all(|list| list.length == 0)
        });
        let held = self.reservations.seen();
        let released = held.is_some_and(|all| all.iter().all(|entry| entry.unacked == 0));
        let idle = self.answered().iter().all(|worker| {
            worker.active.seen().is_some_and(Vec::is_empty) && worker.reserved.seen() == Some(&0)
        });
        empty && released && idle && self.unheard_consumers() == 0
    }

    /// A command for `redis-cli` in the broker's database.
    pub fn redis_cli(&self, command: &str) -> String {
        format!("{} {command}", self.broker_cli())
    }

    /// Whether a worker of this name answered.
    pub fn answers(&self, node: &str) -> bool {
        self.answered().iter().any(|worker| worker.node == node)
    }

    /// What the workers' answers say of a worker that a result names, to stand after its name. A killed worker leaves its
    /// mailbox behind; one that shuts down in order takes it away first, and then ends its tasks or is killed too
    /// (tried with Celery 5.7 and Redis 7).
    pub fn whereabouts(&self, node: &str) -> &'static str {
        let workers = self.workers.seen();
        let left = workers.is_some_and(|w| w.unanswered_names.iter().any(|name| name == node));
        if self.answers(node) {
            "which answers and does not have it"
        } else if left {
            "which is not among the live workers"
        } else {
            "which has signed off, and may be finishing it if its process is still there"
        }
    }

    /// Seconds for which results are kept: the shortest of the live workers' settings, else Celery's default of a day
    /// (Celery 5.7 app/defaults.py, `result_expires`). 0 is for ever.
    pub fn result_expires(&self) -> f64 {
        self.answered()
            .iter()
            .filter_map(|w| w.conf.seen())
            .map(|conf| conf.result_expires.unwrap_or(DEFAULT_RESULT_EXPIRES))
            .min_by(f64::total_cmp)
            .unwrap_or(DEFAULT_RESULT_EXPIRES)
    }

    /// `redis-cli` with the broker's database, for commands that confirm something.
    pub fn broker_cli(&self) -> String {
        format!("redis-cli -n {}", self.broker.database)
    }

    /// `redis-cli` with the result backend's database, as far as its URL names one.
    pub fn results_cli(&self) -> String {
        let url = self.result_backend.url.as_deref().unwrap_or_default();
        let path = url.split('?').next().unwrap_or_default();
        let database = path
            .rsplit('/')
            .next()
            .and_then(|last| last.parse::<u32>().ok());
        format!("redis-cli -n {}", database.unwrap_or(0))
    }

    /// The type of an exchange, by the word of a worker that declares it.
    fn exchange_type(&self, prefix: &str, exchange: &str) -> Option<ExchangeType> {
        self.answered()
            .iter()
            .filter(|w| w.prefix == prefix)
            .filter_map(|w| w.queues.seen())
            .flatten()
            .find(|queue| queue.exchange.as_deref() == Some(exchange))
            .and_then(|queue| exchange_type_of(queue.exchange_type.as_deref()?))
    }

    fn dead_letter_queue(&self, prefix: &str) -> Option<&str> {
        self.answered()
            .iter()
            .filter(|w| w.prefix == prefix)
            .filter_map(|w| w.stats.seen())
            .find_map(|stats| stats.transport.deadletter_queue.as_deref())
    }
}

impl Worker {
    /// Whether it consumes a queue, whatever the priority.
    pub fn consumes(&self, queue: &str) -> bool {
        let queues = self.queues.seen();
        queues.is_some_and(|queues| queues.iter().any(|q| q.name == queue))
    }

    /// Whether it takes from this very list (kombu 5.7 transport/redis.py, `_brpop_start`).
    pub fn polls(&self, list: &List) -> bool {
        if self.prefix != list.prefix {
            return false;
        }
        let transport = self.stats.seen().map(|stats| &stats.transport);
        let steps = transport
            .and_then(|t| t.priority_steps.as_deref())
            .unwrap_or(DEFAULT_STEPS);
        let sep = transport
            .and_then(|t| t.sep.as_deref())
            .unwrap_or(DEFAULT_SEP);
        let key = list.key.strip_prefix(&self.prefix).unwrap_or(&list.key);
        self.queues.seen().into_iter().flatten().any(|queue| {
            steps
                .iter()
                .any(|step| exchange::queue_key(&queue.name, *step, steps, sep) == key)
        })
    }

    /// Whether it knows a task; none where it did not say.
    pub fn knows(&self, task: &str) -> Option<bool> {
        Some(self.registered.seen()?.contains_key(task))
    }

    /// Whether it accepts a content type; none where it did not say.
    pub fn accepts(&self, content_type: &str) -> Option<bool> {
        let conf = self.conf.seen()?;
        if TRUSTED_CONTENT.contains(&content_type) {
            return Some(true);
        }
        // Celery 5.7 app/defaults.py: accept_content is ('json',).
        let default = ["json".to_owned()];
        let accepted = conf.accept_content.as_deref().unwrap_or(&default);
        if accepted
            .iter()
            .any(|name| content_type_of(name) == Some(content_type))
        {
            return Some(true);
        }
        // An app can register serializers of its own, and nobody but the app knows their content types.
        let own = accepted.iter().any(|name| content_type_of(name).is_none());
        (!own).then_some(false)
    }

    /// The visibility timeout with which it sweeps; none where it did not say.
    pub fn visibility_timeout(&self) -> Option<f64> {
        let stats = self.stats.seen()?;
        Some(
            stats
                .transport
                .visibility_timeout
                .unwrap_or(DEFAULT_VISIBILITY_TIMEOUT),
        )
    }

    /// Seconds between its sweeps.
    fn sweep_period(&self) -> f64 {
        let transport = self.stats.seen().map(|stats| &stats.transport);
        let interval = transport
            .and_then(|t| t.unacked_restore_interval)
            .unwrap_or(10.0);
        let throttle = transport
            .and_then(|t| t.unacked_restore_throttle)
            .unwrap_or(10.0);
        if transport.is_some() {
            interval * throttle.max(1.0)
        } else {
            DEFAULT_SWEEP_PERIOD
        }
    }

    /// The rate limit of a task on this worker.
    pub fn rate_limit(&self, task: &str) -> Option<&str> {
        let traits = self.registered.seen()?.get(task)?;
        traits.rate_limit.as_deref()
    }

    /// How many of its slots are free; none where it did not say.
    pub fn free_slots(&self) -> Option<u64> {
        let slots = self.stats.seen()?.concurrency?;
        let busy = self.active.seen()?.len() as u64;
        Some(slots.saturating_sub(busy))
    }
}

/// The exchange type of this name; none for a type that kombu's virtual transports do not have.
fn exchange_type_of(name: &str) -> Option<ExchangeType> {
    match name {
        "direct" => Some(ExchangeType::Direct),
        "topic" => Some(ExchangeType::Topic),
        "fanout" => Some(ExchangeType::Fanout),
        _ => None,
    }
}

/// The content type that a name of `accept_content` stands for (kombu 5.7 serialization.py); none for a name that kombu
/// does not have of itself.
fn content_type_of(name: &str) -> Option<&str> {
    match name {
        "json" => Some("application/json"),
        "pickle" => Some("application/x-python-serialize"),
        "yaml" => Some("application/x-yaml"),
        "msgpack" => Some("application/x-msgpack"),
        "raw" => Some("application/data"),
        content_type if content_type.contains('/') => Some(content_type),
        _ => None,
    }
}

/// The stored result, where it was read and there is one.
pub(super) fn stored(result: &Observed<Option<StoredResult>>) -> Option<&StoredResult> {
    result.seen().and_then(Option::as_ref)
}
