//! A reading from start to end: in the direction in which messages move, so that one which moves meanwhile is seen
//! twice rather than never, and once more for whatever was not found or stood in two places.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::broker::{BrokerReader, KEPT, QueuePass, by_id};
use super::cleanup::Cleanup;
use super::connect::reached;
use super::deadline::Deadline;
use super::notes::{
    blank, line, note_endpoint, note_results, note_workers, nothing, replace_read, task, traced,
};
use super::redis::client::decode;
use super::redis::keys::Names;
use super::redis::server;
use super::redis::unacked::Keys;
use super::related;
use super::results::Results;
use super::wanted::Wanted;
use super::workers::{Claims, Panel};
use super::{Plan, Progress, Question, SERVER_TIMEOUT, Target, rabbitmq};
use crate::config::url::RedisServer;
use crate::evidence::{
    BindingTable, ClientFacts, Copy, Evidence, Observed, Place, Read, ReadStatus, Reason, Source,
    TaskEvidence, Why, count,
};

/// Between BRPOP and the write to `unacked` a message is in no key at all; a second look comes this much later.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Of the time until a deadline so much may have gone by when the workers have answered their first questions, and the
/// keys of the results are known.
const FOR_WORKERS: f64 = 0.4;
const FOR_KEYS: f64 = 0.5;
/// Lists that are looked at again at most, to see who stays blocked beside them.
const MOST_LENGTHS: usize = 1_000;

/// Reads everything that the plan asks for. What can't be read is said in the evidence; there is no other error.
pub(crate) async fn collect(plan: &Plan, cleanup: &Cleanup, progress: Progress<'_>) -> Evidence {
    match &plan.broker {
        Target::Redis(server) => collect_redis(plan, server, cleanup, progress).await,
        Target::RabbitMq(target) => rabbitmq::collect(plan, target, cleanup, progress).await,
    }
}

async fn collect_redis(
    plan: &Plan,
    server: &RedisServer,
    cleanup: &Cleanup,
    progress: Progress<'_>,
) -> Evidence {
    let deadline = Deadline::starting(plan);
    let started = deadline.started();
    let patience = deadline.patience(SERVER_TIMEOUT);
    let (mut results, broker) = tokio::join!(
        Results::connect(plan.result_backend.as_ref(), patience),
        deadline.within(BrokerReader::connect(plan, server)),
    );
    let broker = broker.flatten();
    let mut evidence = blank(plan, &results);
    let mut looked_through = None;
    match broker {
        Ok(broker) => {
            evidence.broker.endpoint = reached(server).await;
            let mut reading = Reading {
                plan,
                server,
                deadline,
                progress,
                evidence: &mut evidence,
                broker,
                results: &mut results,
                names: Names::default(),
                keys: Vec::new(),
                panel: None,
                queues: QueuePass::default(),
                looked_through: None,
            };
            let outcome = deadline.within(Box::pin(reading.run(cleanup))).await;
            looked_through = reading.looked_through.take();
            if let Err(why) = outcome {
                without_rest(&mut evidence, plan, &why, started);
            }
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
    note_endpoint(&mut evidence, plan, &results).await;
    note_results(&mut evidence, started, looked_through);
    evidence
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

/// The reading ended early: what was read stays, all else is unread.
fn without_rest(evidence: &mut Evidence, plan: &Plan, why: &Why, started: Instant) {
    for source in [
        Source::Server,
        Source::Bindings,
        Source::Queues,
        Source::Unacked,
        Source::Workers,
    ] {
        if evidence.read(source).is_some() {
            continue;
        }
        evidence.reads.push(line(source, started, Err(why)));
        match source {
            Source::Server => evidence.broker.server = Observed::Unseen(why.clone()),
            Source::Bindings => evidence.bindings = Observed::Unseen(why.clone()),
            Source::Queues => evidence.lists = Observed::Unseen(why.clone()),
            Source::Unacked => evidence.reservations = Observed::Unseen(why.clone()),
            _ => {}
        }
    }
    // They may have been asked who is there, and not who has the tasks.
    if plan.ask_workers {
        evidence.workers = Observed::Unseen(why.clone());
    }
}

/// A reading under way.
pub(super) struct Reading<'r> {
    pub(super) plan: &'r Plan,
    pub(super) deadline: Deadline,
    pub(super) server: &'r RedisServer,
    pub(super) progress: Progress<'r>,
    pub(super) evidence: &'r mut Evidence,
    pub(super) broker: BrokerReader<'r>,
    pub(super) results: &'r mut Results,
    pub(super) names: Names,
    pub(super) keys: Vec<Keys>,
    pub(super) panel: Option<Panel>,
    queues: QueuePass,
    /// How the look through the results ended, where there was one: how many there are.
    pub(super) looked_through: Option<Result<u64, Why>>,
}

impl Reading<'_> {
    async fn run(&mut self, cleanup: &Cleanup) {
        let started = Instant::now();
        if let Err(why) = self.read_all(cleanup).await {
            without_rest(self.evidence, self.plan, &why, started);
            if why.reason == Reason::TimedOut && self.plan.one_server() {
                self.results.give_up(&why);
            }
            let ids: Vec<String> = self.evidence.tasks.keys().cloned().collect();
            let found = self.results.read(&ids).await;
            related::note_last_results(self.evidence, found);
            self.note_workers(started);
            self.evidence.taken_at = self.server_now();
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
        self.look_at_blocked_again(started).await;
        self.evidence.taken_at = self.server_now();
    }

    /// The moment by the server's clock; by this machine's where the server did not tell it.
    pub(super) fn server_now(&self) -> Timestamp {
        let now = Timestamp::now();
        let server = self.evidence.broker.server.seen();
        let Some(ahead) = server.and_then(|facts| facts.clock_ahead_seconds.seen()) else {
            return now;
        };
        let by = SignedDuration::try_from_secs_f64(*ahead).unwrap_or_default();
        now.checked_add(by).unwrap_or(now)
    }

    /// Looks whether those that were blocked in BRPOP at the beginning still are. Who was it all the time takes from no
    /// list that held messages, and neither does who is blocked while all these lists still hold some.
    async fn look_at_blocked_again(&mut self, started: Instant) {
        let blocked = |client: &ClientFacts| client.blocked && client.command == "brpop";
        let clients = (self.evidence.broker.server.seen()).and_then(|server| server.clients.seen());
        if !clients.into_iter().flatten().any(blocked) {
            return;
        }
        let lists = self.evidence.lists.seen().into_iter().flatten();
        let lengths: Vec<_> = lists
            .filter(|list| list.length > 0)
            .map(|list| {
                let mut length = redis::cmd("LLEN");
                length.arg(&list.key);
                length
            })
            .take(MOST_LENGTHS)
            .collect();
        let client = &self.broker.client;
        let answers = client.ask_all(&lengths).await.unwrap_or_default();
        let lengths = answers
            .into_iter()
            .map(|answer| decode::<u64>(answer.ok()?, "LLEN").ok());
        let stand = lengths.fold((0, true), |(all, stand), length| {
            (all + 1, stand && length.is_some_and(|length| length > 0))
        });
        let stand = stand.0 > 0 && stand.1;
        let Observed::Seen(again) = server::clients(client).await else {
            return;
        };
        let elapsed = started.elapsed().as_secs();
        let Some(clients) =
            (self.evidence.broker.server.seen_mut()).and_then(|server| server.clients.seen_mut())
        else {
            return;
        };
        for one in clients
            .iter_mut()
            .filter(|one| blocked(one) && one.id.is_some())
        {
            let now = again.iter().find(|now| now.id == one.id && blocked(now));
            one.blocked_throughout =
                now.is_some_and(|now| stand || now.idle_seconds.is_some_and(|idle| idle > elapsed));
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
        if let Question::Everything(wanted) = self.plan.question {
            self.read_everything(&wanted).await?;
            self.ask_namesakes(cleanup).await?;
            self.follow_leads().await;
            return Ok(());
        }
        self.look(&ids.into_iter().collect(), Look::Whole).await?;
        let (again, look) = self.unsettled();
        if !again.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.look(&again, look).await?;
        }
        let children = related::children(self.evidence, self.results).await;
        if !children.is_empty() {
            self.look(&children, Look::Whole).await?;
        }
        related::read_chords(self.evidence, self.results).await;
        self.read_other_databases().await;
        related::look_for_chords(self.evidence, self.results, self.plan).await;
        self.ask_namesakes(cleanup).await?;
        self.follow_leads().await;
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
        if let Some(why) = facts.clock_ahead_seconds.unseen() {
            read.status = match read.status {
                ReadStatus::Complete => ReadStatus::Partial,
                status => status,
            };
            read.detail = format!("{}; its clock is not known: {}", read.detail, why.detail);
            read.reason = Some(why.reason);
        }
        self.evidence.reads.push(read);
        let clients = match &facts.clients {
            Observed::Seen(clients) => Ok((
                ReadStatus::Complete,
                count(clients.len() as u64, "connection"),
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
                let detail = count(tables.len() as u64, "exchange");
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
            let opened = Panel::open(self.plan, self.server, tables, &self.names, cleanup);
            let opened = self.deadline.within_part(FOR_WORKERS, opened).await;
            match opened.flatten() {
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
        for worker in self.evidence.answered() {
            for queue in worker.queues.seen().into_iter().flatten() {
                self.names
                    .queues
                    .insert((worker.prefix.clone(), queue.name.clone()));
            }
            if let Some(stats) = worker.stats.seen() {
                self.names.seps.extend(stats.transport.sep.clone());
            }
        }
        let keys = |prefix: &String| Keys::under(prefix, self.evidence.answered());
        self.keys = self.names.prefixes.iter().flat_map(keys).collect();
        let settled = related::settle_prefix(self.plan, self.evidence, self.results);
        if let Err(why) = self.deadline.within_part(FOR_KEYS, settled).await {
            self.results.give_up(&why);
        }
        Ok(())
    }

    /// Follows ids from queues to results, and notes what was found in place of what was known before.
    pub(super) async fn look(&mut self, ids: &BTreeSet<String>, look: Look) -> Result<(), Why> {
        let mut copies = Vec::new();
        let claims = self.follow(ids, look, &mut copies).await;
        related::note_canvases(self.evidence, &mut copies);
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
        let ids: Vec<String> = and_leads(ids, by_id.keys());
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
        related::note_last_results(self.evidence, results);
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
        let held = self.look_into_unacked(&mut wanted).await;
        related::note_gap(self.evidence, &wanted);
        copies.extend(held?);
        let ids = and_leads(ids, copies.iter().map(|copy| &copy.envelope.id));
        self.ask_for(&ids.into_iter().collect(), copies).await
    }

    pub(super) async fn look_into_queues(
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
    pub(super) fn note_gap(&mut self, source: Source, obstacle: Option<&Why>) {
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
        let (messages, lists) = (count(pass.messages, "message"), count(lists as u64, "list"));
        let mut detail = format!("{messages} in {lists}");
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

    pub(super) async fn look_into_unacked(
        &mut self,
        wanted: &mut Wanted,
    ) -> Result<Vec<Copy>, Why> {
        let started = Instant::now();
        match self.broker.reservations(&self.keys, wanted).await {
            Ok((reservations, copies)) => {
                let entries: u64 = reservations.iter().map(|r| r.unacked).sum();
                let detail = format!("{entries} unacknowledged");
                let mut read = line(Source::Unacked, started, Ok((ReadStatus::Complete, detail)));
                let full = matches!(wanted, Wanted::All { left: Some(0), .. });
                if full && (copies.len() as u64) < entries {
                    read.status = ReadStatus::Partial;
                    read.detail = format!("{}; {KEPT}", read.detail);
                    read.reason = Some(Reason::Truncated);
                }
                self.replace_read(read);
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

    /// Drops copies in `unacked` that were acknowledged or restored while the rest was read.
    pub(super) async fn drop_moved(&mut self, ids: &[String]) -> Result<(), Why> {
        let mut copies = Vec::new();
        for id in ids {
            copies.append(&mut self.task(id).copies);
        }
        let outcome = self.broker.still_reserved(&mut copies, &self.keys).await;
        for (id, copies) in by_id(copies) {
            self.task(&id).copies = copies;
        }
        outcome
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

    fn note_workers(&mut self, started: Instant) {
        note_workers(self.evidence, started);
    }

    pub(super) fn replace_read(&mut self, read: Read) {
        replace_read(self.evidence, read);
    }

    pub(super) fn task(&mut self, id: &str) -> &mut TaskEvidence {
        task(self.evidence, id)
    }
}

/// The ids that are looked for, and those of the tasks whose messages lead to them.
fn and_leads<'i>(
    ids: &'i BTreeSet<String>,
    found: impl Iterator<Item = &'i String>,
) -> Vec<String> {
    let all: BTreeSet<&String> = ids.iter().chain(found).collect();
    all.into_iter().cloned().collect()
}

/// How a look goes about the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Every list from its head to its end.
    Whole,
    /// Only what came in since the last look.
    Newcomers,
}
