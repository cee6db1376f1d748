//! A reading from start to end: in the direction in which messages move, so that one which moves meanwhile is seen
//! twice rather than never, and once more for whatever was not found or stood in two places.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::broker::{BrokerReader, QueuePass, Wanted, by_id};
use super::cleanup::Cleanup;
use super::redis::keys::Names;
use super::redis::server;
use super::redis::unacked::Keys;
use super::results::{ById, Results};
use super::workers::{Claims, Panel};
use super::{Plan, Progress, Question};
use crate::celery::control::{STARRED, TransportOptions};
use crate::evidence::{
    BindingTable, Broker, Copy, Evidence, Observed, Place, Read, ReadStatus, Reason, ResultBackend,
    Scope, Source, TaskEvidence, Why, Workers,
};

/// Between BRPOP and the write to `unacked` a message is in no key at all; a second look comes this much later.
const PAUSE: Duration = Duration::from_millis(20);

/// Reads everything that the plan asks for. What can't be read is said in the evidence; there is no other error.
pub(crate) async fn collect(plan: &Plan, cleanup: &Cleanup, progress: Progress<'_>) -> Evidence {
    let started = Instant::now();
    let (mut results, broker) = tokio::join!(
        Results::connect(plan.result_backend.as_ref()),
        BrokerReader::connect(plan),
    );
    let mut evidence = blank(plan, &results);
    match broker {
        Ok(broker) => {
            let mut reading = Reading {
                plan,
                progress,
                evidence: &mut evidence,
                broker,
                results: &mut results,
                names: Names::default(),
                keys: Vec::new(),
                panel: None,
                queues: QueuePass::default(),
            };
            reading.run(cleanup).await;
        }
        Err(why) => {
            without_broker(&mut evidence, &why, started);
            let ids = traced(plan);
            let found = results.read(&ids).await;
            for (id, result) in found {
                let task = evidence.tasks.entry(id).or_insert_with(nothing);
                task.first_result = result.clone();
                task.result = result;
            }
        }
    }
    evidence.result_backend.readable = results.readable();
    note_results(&mut evidence, started);
    evidence
}

fn traced(plan: &Plan) -> Vec<String> {
    match &plan.question {
        Question::Ids(ids) => ids.clone(),
        Question::Everything { .. } => Vec::new(),
    }
}

/// What is known of an id of which nothing is known.
fn nothing() -> TaskEvidence {
    let unread = || Observed::not_asked("not read");
    TaskEvidence {
        copies: Vec::new(),
        claims: Vec::new(),
        revoked_by: Vec::new(),
        first_result: unread(),
        result: unread(),
        chord: Observed::not_asked("it belongs to no group that is known"),
        children: Vec::new(),
    }
}

fn blank(plan: &Plan, results: &Results) -> Evidence {
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
            Question::Everything { .. } => Scope::Everything,
        },
        broker: Broker {
            url: plan.broker_url.clone(),
            kind: "redis".to_owned(),
            database: plan.broker.db,
            server: Observed::not_asked("not read yet"),
        },
        result_backend: ResultBackend {
            url: plan.result_backend_url.clone(),
            kind: kind.to_owned(),
            readable: results.readable(),
        },
        bindings: Observed::not_asked("not read yet"),
        lists: Observed::not_asked("not read yet"),
        reservations: Observed::not_asked("not read yet"),
        other_databases: Observed::not_asked("not needed: every id was found, or is accounted for"),
        rabbitmq: None,
        workers: Observed::not_asked("not asked yet"),
        tasks: traced(plan).into_iter().map(|id| (id, nothing())).collect(),
        reads: Vec::new(),
        visibility_timeout_given: plan.visibility_timeout.map(|timeout| timeout.as_secs_f64()),
    }
}

/// One line about what was read.
fn line(source: Source, started: Instant, outcome: Result<(ReadStatus, String), &Why>) -> Read {
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

fn without_broker(evidence: &mut Evidence, why: &Why, started: Instant) {
    evidence.broker.server = Observed::Unseen(why.clone());
    evidence.bindings = Observed::Unseen(why.clone());
    evidence.lists = Observed::Unseen(why.clone());
    evidence.reservations = Observed::Unseen(why.clone());
    evidence.workers = Observed::Unseen(why.clone());
    for source in [
        Source::Server,
        Source::Bindings,
        Source::Queues,
        Source::Unacked,
        Source::Workers,
        Source::Clients,
    ] {
        if evidence.read(source).is_none() {
            evidence.reads.push(line(source, started, Err(why)));
        }
    }
}

fn note_results(evidence: &mut Evidence, started: Instant) {
    let unread = |task: &TaskEvidence| task.result.unseen().cloned();
    let gaps: Vec<Why> = evidence.tasks.values().filter_map(unread).collect();
    let all = evidence.tasks.len();
    let read = match (&evidence.result_backend.readable, gaps.first()) {
        (Observed::Unseen(why), _) => line(Source::Results, started, Err(why)),
        (_, None) => {
            let detail = format!("{all} looked up");
            line(Source::Results, started, Ok((ReadStatus::Complete, detail)))
        }
        (_, Some(why)) => {
            let detail = format!("{} of {all} could not be read: {}", gaps.len(), why.detail);
            let mut read = line(Source::Results, started, Ok((ReadStatus::Partial, detail)));
            read.reason = Some(why.reason);
            read
        }
    };
    evidence.reads.push(read);
}

/// A reading under way.
struct Reading<'r> {
    plan: &'r Plan,
    progress: Progress<'r>,
    evidence: &'r mut Evidence,
    broker: BrokerReader<'r>,
    results: &'r mut Results,
    names: Names,
    keys: Vec<Keys>,
    panel: Option<Panel>,
    queues: QueuePass,
}

impl Reading<'_> {
    async fn run(&mut self, cleanup: &Cleanup) {
        let started = Instant::now();
        if let Err(why) = self.read_all(cleanup).await {
            // The broker went away: what was read stays, all else is unread.
            let missing = |evidence: &Evidence, source| evidence.read(source).is_none();
            for source in [
                Source::Server,
                Source::Bindings,
                Source::Queues,
                Source::Unacked,
                Source::Workers,
            ] {
                if missing(self.evidence, source) {
                    let read = line(source, started, Err(&why));
                    self.evidence.reads.push(read);
                    match source {
                        Source::Server => {
                            self.evidence.broker.server = Observed::Unseen(why.clone());
                        }
                        Source::Bindings => self.evidence.bindings = Observed::Unseen(why.clone()),
                        Source::Queues => self.evidence.lists = Observed::Unseen(why.clone()),
                        Source::Unacked => {
                            self.evidence.reservations = Observed::Unseen(why.clone());
                        }
                        _ => {}
                    }
                }
            }
            // They may have been asked who is there, and not who has the tasks.
            if self.plan.ask_workers {
                self.evidence.workers = Observed::Unseen(why.clone());
            }
            if why.reason == Reason::TimedOut && self.plan.one_server() {
                self.results.give_up(&why);
            }
            let ids: Vec<String> = self.evidence.tasks.keys().cloned().collect();
            let found = self.results.read(&ids).await;
            self.note_last_results(found);
            self.note_workers(started);
            // Its clock is not worth a further wait.
            return;
        }
        self.note_workers(started);
        let fell_silent = |why: &Why| why.reason == Reason::TimedOut;
        if self
            .evidence
            .other_databases
            .unseen()
            .is_some_and(fell_silent)
        {
            return;
        }
        if let Ok((now, ahead)) = server::clock(&self.broker.client).await {
            self.evidence.taken_at = now;
            if let Some(facts) = self.evidence.broker.server.seen_mut() {
                facts.clock_ahead_seconds = ahead;
            }
        }
    }

    async fn read_all(&mut self, cleanup: &Cleanup) -> Result<(), Why> {
        self.read_server().await?;
        let tables = self.read_bindings().await?;
        self.meet_workers(&tables, cleanup).await?;
        let ids: Vec<String> = self.evidence.tasks.keys().cloned().collect();
        let first = self.results.read(&ids).await;
        for (id, result) in first {
            self.task(&id).first_result = result;
        }
        self.unless_silent()?;
        let everything = matches!(self.plan.question, Question::Everything { .. });
        if everything {
            return self.read_everything().await;
        }
        self.look(&ids.into_iter().collect(), Look::Whole).await?;
        let (again, look) = self.unsettled();
        if !again.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.look(&again, look).await?;
        }
        let children = self.children().await;
        if !children.is_empty() {
            self.look(&children, Look::Whole).await?;
        }
        self.read_chords().await;
        self.read_other_databases().await;
        Ok(())
    }

    async fn read_server(&mut self) -> Result<(), Why> {
        let started = Instant::now();
        let facts = server::facts(&self.broker.client).await?;
        let version = facts
            .version
            .seen()
            .map_or("of unknown version", String::as_str);
        let detail = format!("Redis {version}");
        let status = match facts.version.unseen() {
            None => Ok((ReadStatus::Complete, detail)),
            Some(why) => Err(why),
        };
        let mut read = line(Source::Server, started, status);
        if let (ReadStatus::Complete, Some(why)) = (read.status, facts.rdb_saves.unseen()) {
            read.status = ReadStatus::Partial;
            read.detail = format!("{}; {}", read.detail, why.detail);
            read.reason = Some(why.reason);
        }
        self.evidence.reads.push(read);
        let clients = match &facts.clients {
            Observed::Seen(clients) => Ok((
                ReadStatus::Complete,
                format!("{} connections", clients.len()),
            )),
            Observed::Unseen(why) => Err(why),
        };
        self.evidence
            .reads
            .push(line(Source::Clients, started, clients));
        self.evidence.broker.server = Observed::Seen(facts);
        Ok(())
    }

    async fn read_bindings(&mut self) -> Result<Vec<BindingTable>, Why> {
        let started = Instant::now();
        let outcome = self.broker.bindings().await;
        let tables = match outcome {
            Ok(tables) => {
                let detail = format!("{} exchanges", tables.len());
                self.evidence.reads.push(line(
                    Source::Bindings,
                    started,
                    Ok((ReadStatus::Complete, detail)),
                ));
                self.evidence.bindings = Observed::Seen(tables.clone());
                tables
            }
            Err(why) if matches!(why.reason, Reason::Unreachable | Reason::TimedOut) => {
                return Err(why);
            }
            Err(why) => {
                self.evidence
                    .reads
                    .push(line(Source::Bindings, started, Err(&why)));
                self.evidence.bindings = Observed::Unseen(why);
                Vec::new()
            }
        };
        self.names = Names::of(&tables, self.plan.key_prefix.as_deref(), &self.plan.queues);
        Ok(tables)
    }

    /// Asks the workers what does not change while we look, and learns the names of queues and keys from them.
    async fn meet_workers(
        &mut self,
        tables: &[BindingTable],
        cleanup: &Cleanup,
    ) -> Result<(), Why> {
        self.evidence.workers = if self.plan.ask_workers {
            match Panel::open(self.plan, tables, &self.names, cleanup).await {
                Ok(panel) => {
                    let workers = panel.workers.clone();
                    self.panel = Some(panel);
                    Observed::Seen(workers)
                }
                Err(why) if matches!(why.reason, Reason::Unreachable | Reason::TimedOut) => {
                    return Err(why);
                }
                Err(why) => Observed::Unseen(why),
            }
        } else {
            Observed::not_asked("left out by --no-workers")
        };
        let mut options: BTreeMap<String, TransportOptions> = BTreeMap::new();
        for worker in self.evidence.answered() {
            for queue in worker.queues.seen().into_iter().flatten() {
                self.names
                    .queues
                    .insert((worker.prefix.clone(), queue.name.clone()));
            }
            if let Some(stats) = worker.stats.seen() {
                self.names.seps.extend(stats.transport.sep.clone());
                options
                    .entry(worker.prefix.clone())
                    .or_insert_with(|| stats.transport.clone());
            }
        }
        let keys = |prefix: &String| Keys::of(prefix, options.get(prefix));
        self.keys = self.names.prefixes.iter().map(keys).collect();
        let mut told = self
            .evidence
            .answered()
            .iter()
            .filter_map(|w| w.conf.seen());
        let learned = told.find_map(|conf| conf.result_key_prefix.clone());
        let nobody_told = self
            .evidence
            .answered()
            .iter()
            .all(|w| w.conf.seen().is_none());
        match (&self.plan.result_key_prefix, learned) {
            (Some(given), _) => self.results.set_prefix(given),
            (None, Some(told)) if told != STARRED => self.results.set_prefix(&told),
            // There is one and it is starred, or nobody is there to tell.
            (None, Some(_)) => self.results.find_prefix(&traced(self.plan)).await,
            (None, None) if nobody_told => {
                self.results.find_prefix(&traced(self.plan)).await;
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Follows ids from queues to results, and notes what was found in place of what was known before.
    async fn look(&mut self, ids: &BTreeSet<String>, look: Look) -> Result<(), Why> {
        let mut copies = Vec::new();
        let claims = self.follow(ids, look, &mut copies).await;
        let mut by_id = by_id(copies);
        let claims = match claims {
            Ok(claims) => claims,
            Err(why) => {
                // The broker went away: what was found by then stays.
                for (id, found) in by_id {
                    self.task(&id).copies = found;
                }
                return Err(why);
            }
        };
        let ids: Vec<String> = ids.iter().cloned().collect();
        let results = self.results.read(&ids).await;
        for id in &ids {
            let found = by_id.remove(id).unwrap_or_default();
            let held = claims.held.get(id).cloned().unwrap_or_default();
            let task = self.task(id);
            // A second look that finds nothing at all does not unsay what the first one saw.
            if look == Look::Whole || !found.is_empty() || !held.is_empty() {
                task.copies = found;
                task.claims = held;
            }
            task.revoked_by = claims.revoked.get(id).cloned().unwrap_or_default();
        }
        self.note_last_results(results);
        self.unless_silent()?;
        self.drop_moved(&ids).await
    }

    /// A result backend that fell silent and is the broker too would only be waited for again.
    fn unless_silent(&self) -> Result<(), Why> {
        match self.results.silent() {
            Some(why) if self.plan.one_server() => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Looks into queues and `unacked`, and asks the workers.
    async fn follow(
        &mut self,
        ids: &BTreeSet<String>,
        look: Look,
        copies: &mut Vec<Copy>,
    ) -> Result<Claims, Why> {
        let mut wanted = Wanted::ids(ids.iter().cloned());
        self.look_into_queues(&mut wanted, look, copies).await?;
        copies.extend(self.look_into_unacked(&wanted).await?);
        self.ask_for(ids, copies).await
    }

    async fn look_into_queues(
        &mut self,
        wanted: &mut Wanted,
        look: Look,
        copies: &mut Vec<Copy>,
    ) -> Result<(), Why> {
        let started = Instant::now();
        let mut pass = if look == Look::Newcomers {
            self.broker
                .search_again(&self.queues, &self.names, wanted, self.progress)
                .await?
        } else {
            let (lists, obstacle) = self.broker.lists(&self.names).await?;
            let mut pass = self.broker.search(lists, wanted, self.progress).await;
            pass.obstacle = obstacle.or(pass.obstacle);
            pass
        };
        copies.append(&mut pass.copies);
        let silent = pass
            .obstacle
            .clone()
            .filter(|why| why.reason == Reason::TimedOut);
        match look {
            Look::Whole => self.note_queues(started, pass),
            Look::Newcomers => self.note_gap(Source::Queues, pass.obstacle.as_ref()),
        }
        // A server that fell silent is not asked for more: each question would wait as long again.
        silent.map_or(Ok(()), Err)
    }

    /// Notes what kept a second look from being whole.
    fn note_gap(&mut self, source: Source, obstacle: Option<&Why>) {
        let known = self.evidence.reads.iter_mut();
        let whole = known
            .filter(|read| read.source == source)
            .find(|read| read.status == ReadStatus::Complete);
        if let (Some(read), Some(why)) = (whole, obstacle) {
            read.status = ReadStatus::Partial;
            read.detail = format!("{}; at a second look: {}", read.detail, why.detail);
            read.reason = Some(why.reason);
        }
    }

    fn note_queues(&mut self, started: Instant, pass: QueuePass) {
        let lists = pass.lists.iter().filter(|list| list.length > 0).count();
        let mut detail = format!("{} messages in {lists} lists", pass.messages);
        let mut status = ReadStatus::Complete;
        if let Some(why) = &pass.obstacle {
            status = ReadStatus::Partial;
            detail = format!("{detail}; {}", why.detail);
        }
        let mut read = line(Source::Queues, started, Ok((status, detail)));
        read.reason = pass.obstacle.as_ref().map(|why| why.reason);
        self.replace_read(read);
        self.evidence.lists = Observed::Seen(pass.lists.clone());
        self.queues = pass;
    }

    async fn look_into_unacked(&mut self, wanted: &Wanted) -> Result<Vec<Copy>, Why> {
        let started = Instant::now();
        match self.broker.reservations(&self.keys, wanted).await {
            Ok((reservations, copies)) => {
                let entries: u64 = reservations.iter().map(|r| r.unacked).sum();
                let detail = format!("{entries} unacknowledged");
                self.replace_read(line(
                    Source::Unacked,
                    started,
                    Ok((ReadStatus::Complete, detail)),
                ));
                self.evidence.reservations = Observed::Seen(reservations);
                Ok(copies)
            }
            Err(why) if matches!(why.reason, Reason::Unreachable | Reason::TimedOut) => Err(why),
            Err(why) => {
                self.replace_read(line(Source::Unacked, started, Err(&why)));
                self.evidence.reservations = Observed::Unseen(why);
                Ok(Vec::new())
            }
        }
    }

    /// Asks the workers for these ids. Their ETA tasks are asked for only where an id would stay unaccounted for.
    async fn ask_for(&mut self, ids: &BTreeSet<String>, copies: &[Copy]) -> Result<Claims, Why> {
        let Some(panel) = &mut self.panel else {
            return Ok(Claims::default());
        };
        let mut claims = panel.claims(Some(ids), false).await?;
        let mut places: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
        for copy in copies {
            let of_task = places.entry(copy.envelope.id.as_str()).or_default();
            of_task.push(&copy.place);
        }
        let open = |id: &String| {
            let mut places = places.get(id.as_str()).into_iter().flatten().peekable();
            let in_queue =
                places.peek().is_some() && places.all(|place| matches!(place, Place::Queue { .. }));
            !in_queue && !claims.held.contains_key(id)
        };
        if !panel.workers.answered.is_empty() && ids.iter().any(open) {
            claims = panel.claims(Some(ids), true).await?;
        }
        self.evidence.workers = Observed::Seen(panel.workers.clone());
        Ok(claims)
    }

    fn note_last_results(&mut self, results: ById) {
        for (id, result) in results {
            let children = result
                .seen()
                .and_then(Option::as_ref)
                .map(|r| r.doc.children.clone());
            let task = self.task(&id);
            task.result = result;
            task.children = children.unwrap_or_default();
        }
    }

    /// Drops copies in `unacked` that were acknowledged or restored while the rest was read.
    async fn drop_moved(&mut self, ids: &[String]) -> Result<(), Why> {
        for id in ids {
            let mut copies = std::mem::take(&mut self.task(id).copies);
            self.broker.still_reserved(&mut copies, &self.keys).await?;
            self.task(id).copies = copies;
        }
        Ok(())
    }

    /// The ids that deserve a second look, and how: those that were found nowhere or that no worker claims, where
    /// only what came in since need be read; those that were seen in two places, where all must be read again.
    fn unsettled(&self) -> (BTreeSet<String>, Look) {
        let mut again = BTreeSet::new();
        let mut look = Look::Newcomers;
        for (id, task) in &self.evidence.tasks {
            let ended = |result: &Observed<_>| {
                let result: Option<&Option<crate::evidence::StoredResult>> = result.seen();
                result
                    .and_then(Option::as_ref)
                    .is_some_and(|result| result.doc.ready)
            };
            let queued = task
                .copies
                .iter()
                .any(|copy| matches!(copy.place, Place::Queue { .. }));
            let alone = task.copies.len() == 1;
            let twice = queued && (!alone || !task.claims.is_empty() || ended(&task.result));
            let unclaimed = !queued && task.claims.is_empty() && !ended(&task.result);
            if twice {
                look = Look::Whole;
            }
            if twice || unclaimed {
                again.insert(id.clone());
            }
        }
        (again, look)
    }

    /// The tasks that follow a finished one and are not known yet, with their results.
    async fn children(&mut self) -> BTreeSet<String> {
        let named: BTreeSet<String> = self
            .evidence
            .tasks
            .values()
            .flat_map(|task| task.children.iter().cloned())
            .filter(|id| !self.evidence.tasks.contains_key(id))
            .collect();
        let ids: Vec<String> = named.into_iter().collect();
        let mut open = BTreeSet::new();
        for (id, result) in self.results.read(&ids).await {
            if result.seen().is_some_and(Option::is_none) {
                open.insert(id.clone());
            }
            let task = self.task(&id);
            task.first_result = result.clone();
            task.result = result;
        }
        open
    }

    async fn read_chords(&mut self) {
        let group = |task: &TaskEvidence| {
            let of_message = task
                .copies
                .iter()
                .find_map(|copy| copy.envelope.group.clone());
            let stored = task.result.seen().and_then(Option::as_ref);
            of_message.or_else(|| stored?.doc.group_id.clone())
        };
        let groups: Vec<(String, String)> = self
            .evidence
            .tasks
            .iter()
            .filter_map(|(id, task)| Some((id.clone(), group(task)?)))
            .collect();
        for (id, group) in groups {
            let chord = self.results.chord(&group).await;
            self.task(&id).chord = chord;
        }
    }

    /// Looks into the server's other databases, where an id was found nowhere, or waits where nobody answers.
    async fn read_other_databases(&mut self) {
        let nobody = self.evidence.answered().is_empty() && self.panel.is_some();
        let lost = |task: &TaskEvidence| {
            task.copies.is_empty()
                && task.claims.is_empty()
                && !task
                    .result
                    .seen()
                    .is_some_and(|result| result.as_ref().is_some_and(|r| r.doc.ready))
        };
        let ids: BTreeSet<String> = self
            .evidence
            .tasks
            .iter()
            .filter(|(_, task)| lost(task))
            .map(|(id, _)| id.clone())
            .collect();
        if ids.is_empty() && !nobody {
            // No obstacle, hence no reason.
            self.replace_read(Read {
                source: Source::OtherDatabases,
                status: ReadStatus::Skipped,
                detail: "not needed: every id was found without them".to_owned(),
                elapsed_ms: 0,
                reason: None,
            });
            return;
        }
        let started = Instant::now();
        let mut wanted = Wanted::ids(ids);
        match self
            .broker
            .other_databases(&mut wanted, self.progress)
            .await
        {
            Ok((databases, copies)) => {
                let detail = format!("{} other databases", databases.len());
                self.replace_read(line(
                    Source::OtherDatabases,
                    started,
                    Ok((ReadStatus::Complete, detail)),
                ));
                self.evidence.other_databases = Observed::Seen(databases);
                for (id, copies) in by_id(copies) {
                    self.task(&id).copies.extend(copies);
                }
            }
            Err(why) => {
                self.replace_read(line(Source::OtherDatabases, started, Err(&why)));
                self.evidence.other_databases = Observed::Unseen(why);
            }
        }
    }

    /// Reads every message, for a snapshot. A message that moved meanwhile keeps its later place.
    async fn read_everything(&mut self) -> Result<(), Why> {
        let Question::Everything { limit } = self.plan.question else {
            return Ok(());
        };
        let mut wanted = Wanted::All { left: limit };
        let mut queued = Vec::new();
        self.look_into_queues(&mut wanted, Look::Whole, &mut queued)
            .await?;
        let held = self.look_into_unacked(&wanted).await?;
        let tags: BTreeSet<String> = held
            .iter()
            .filter_map(|c| c.envelope.delivery_tag.clone())
            .collect();
        let moved = |copy: &Copy| {
            copy.envelope
                .delivery_tag
                .as_ref()
                .is_some_and(|tag| tags.contains(tag))
        };
        let queued = queued.into_iter().filter(|copy| !moved(copy));
        for (id, copies) in by_id(queued.chain(held).collect()) {
            self.task(&id).copies = copies;
        }
        if let Some(panel) = &mut self.panel {
            let claims = panel.claims(None, true).await?;
            self.evidence.workers = Observed::Seen(panel.workers.clone());
            for (id, held) in claims.held {
                self.task(&id).claims = held;
            }
            for (id, nodes) in claims.revoked {
                self.task(&id).revoked_by = nodes;
            }
        }
        let ids: Vec<String> = self.evidence.tasks.keys().cloned().collect();
        let results = self.results.read(&ids).await;
        for (id, result) in &results {
            self.task(id).first_result = result.clone();
        }
        self.note_last_results(results);
        self.drop_moved(&ids).await?;
        self.read_chords().await;
        Ok(())
    }

    fn note_workers(&mut self, started: Instant) {
        let outcome = match &self.evidence.workers {
            Observed::Seen(workers) => Ok(answered(workers)),
            Observed::Unseen(why) => Err(why),
        };
        let mut read = line(Source::Workers, started, outcome);
        if read.status == ReadStatus::Partial {
            read.reason = Some(Reason::TimedOut);
        }
        self.replace_read(read);
    }

    fn replace_read(&mut self, read: Read) {
        self.evidence
            .reads
            .retain(|known| known.source != read.source);
        self.evidence.reads.push(read);
    }

    fn task(&mut self, id: &str) -> &mut TaskEvidence {
        self.evidence
            .tasks
            .entry(id.to_owned())
            .or_insert_with(nothing)
    }
}

/// How a look goes about the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Every list from its head to its end.
    Whole,
    /// Only what came in since the last look.
    Newcomers,
}

fn answered(workers: &Workers) -> (ReadStatus, String) {
    let there = workers.answered.len();
    let all = there as u64 + workers.silent;
    let detail = if all == 0 {
        "nobody is subscribed to remote control".to_owned()
    } else {
        format!("{there} of {all} answered")
    };
    let status = if workers.silent == 0 {
        ReadStatus::Complete
    } else {
        ReadStatus::Partial
    };
    (status, detail)
}
