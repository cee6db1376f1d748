//! A reading of RabbitMQ from start to end. Without a look into queues it touches no message: what the workers say, what
//! the management API tells, and how many messages and consumers each queue has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::amqp::AmqpClient;
use super::leaderless::{Leaders, believed};
use super::management::{ManagementReader, leave_unseen};
use super::queues::{coverage, lists, note_depth, note_new, to_declare, unacknowledged};
use super::{looks, replies};
use crate::collect::broker::by_id;
use crate::collect::cleanup::Cleanup;
use crate::collect::deadline::Deadline;
use crate::collect::notes::{
    blank, line, note_endpoint, note_results, note_workers, replace_read, task,
};
use crate::collect::related;
use crate::collect::results::Results;
use crate::collect::wanted::Wanted;
use crate::collect::workers::Panel;
use crate::collect::{Plan, Progress, Question, RabbitTarget, SERVER_TIMEOUT};
use crate::config::url::ResultBackend;
use crate::config::url::amqp::ManagementServer;
use crate::evidence::{
    Evidence, Observed, RabbitMq, Read, ReadStatus, Reason, Source, TaskEvidence, Why, count,
};

/// Between delivery and the worker's first word about a task it is nowhere; a second question comes this much later.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Of the time until a deadline so much may have gone by when the broker has let us in, the management API has told its
/// part, the workers have answered their first questions, and the keys of the results are known.
const FOR_CONNECTING: f64 = 0.4;
const FOR_MANAGEMENT: f64 = 0.6;
pub(super) const FOR_WORKERS: f64 = 0.7;
const FOR_KEYS: f64 = 0.8;

/// Of more messages than these, all queues together, no classes are made.
const MOST_COUNTED: u64 = 200_000;

/// Celery's default queue (Celery 5.7 app/defaults.py, `task_default_queue`).
pub(super) const DEFAULT_QUEUE: &str = "celery";

/// Reads everything that the plan asks for. What can't be read is said in the evidence; there is no other error.
pub(crate) async fn collect(
    plan: &Plan,
    target: &RabbitTarget,
    cleanup: &Cleanup,
    progress: Progress<'_>,
) -> Evidence {
    let deadline = Deadline::starting(plan);
    let started = deadline.started();
    let servers: Vec<_> = target.servers.iter().cloned().collect();
    let connecting = AmqpClient::connect(&servers, cleanup);
    let (mut results, client) = tokio::join!(
        Results::connect(
            plan.result_backend.as_ref(),
            deadline.patience(SERVER_TIMEOUT)
        ),
        deadline.within_part(FOR_CONNECTING, connecting),
    );
    let client = client.flatten();
    // Each of several URLs has a virtual host of its own (kombu 5.7 connection.py, `switch`).
    let vhost = client
        .as_ref()
        .map_or(target.servers.first.vhost.as_str(), AmqpClient::vhost);
    let (mut rabbit, managed) = read_management(&target.management, vhost, deadline).await;
    let all_queues = rabbit.overview.seen().is_some() && rabbit.queues.seen().is_some();
    if let Some(why) = rabbit.queues.unseen() {
        // Queues that are named and declared are not all of them: nobody can tell where an exchange leads.
        rabbit.exchanges = Observed::Unseen(why.clone());
    }
    let mut evidence = blank(plan, &results);
    evidence.rabbitmq = Some(rabbit);
    evidence.reads.push(managed);
    let none = Why::new(
        Reason::Unsupported,
        "RabbitMQ does not show unacknowledged messages",
    );
    evidence.reservations = Observed::Unseen(none);
    evidence.other_databases =
        Observed::not_asked("RabbitMQ has virtual hosts, which share nothing");
    let mut looked_through = None;
    match client {
        Ok(client) => {
            let mut reading = Reading {
                plan,
                target,
                progress,
                evidence: &mut evidence,
                results: &mut results,
                client: Arc::new(client),
                panel: None,
                deadline,
                looked_through: None,
                all_queues,
            };
            reading.run(cleanup).await;
            looked_through = reading.looked_through;
        }
        Err(why) => without_broker(&mut evidence, &mut results, &why, started).await,
    }
    evidence.result_backend.readable = results.readable();
    note_endpoint(&mut evidence, plan, &results).await;
    note_results(&mut evidence, started, looked_through);
    if results.stand_in_queues(evidence.tasks.keys()) {
        note_all_found(&mut evidence);
    }
    evidence
}

/// A backend of which no more is read has told all that was asked. What the look did to its queues is still said.
fn note_all_found(evidence: &mut Evidence) {
    evidence.result_backend.readable = Observed::Seen(());
    let mut reads = evidence.reads.iter_mut();
    if let Some(read) = reads.find(|read| read.source == Source::Results) {
        (read.status, read.reason) = (ReadStatus::Complete, None);
    }
}

/// Asks the management API for all that it tells of the virtual host.
async fn read_management(
    server: &ManagementServer,
    vhost: &str,
    deadline: Deadline,
) -> (RabbitMq, Read) {
    let started = deadline.started();
    let mut rabbit = RabbitMq::unread(vhost, "not read yet");
    rabbit.management_url = Some(server.to_string());
    let end = deadline.at(FOR_MANAGEMENT);
    let reader = match ManagementReader::connect(server, end).await {
        Ok(reader) => reader,
        Err(why) => {
            leave_unseen(&mut rabbit, &why);
            return (rabbit, line(Source::Management, started, Err(&why)));
        }
    };
    reader.read_all(vhost, &mut rabbit).await;
    let mut read = line(
        Source::Management,
        started,
        Ok((ReadStatus::Complete, server.to_string())),
    );
    if let Some((what, why)) = rabbit.first_unseen() {
        read.status = ReadStatus::Partial;
        read.detail = format!("{what}: {}", why.detail);
        read.reason = Some(why.reason);
    }
    (rabbit, read)
}

async fn without_broker(
    evidence: &mut Evidence,
    results: &mut Results,
    why: &Why,
    started: Instant,
) {
    evidence.broker.server = Observed::Unseen(why.clone());
    evidence.workers = Observed::Unseen(why.clone());
    evidence.lists = Observed::Unseen(why.clone());
    for source in [
        Source::Server,
        Source::Queues,
        Source::Unacked,
        Source::Workers,
    ] {
        evidence.reads.push(line(source, started, Err(why)));
    }
    let ids: Vec<String> = evidence.tasks.keys().cloned().collect();
    for (id, result) in results.read(&ids).await {
        let task = task(evidence, &id);
        task.first_result = result.clone();
        task.result = result;
    }
}

/// A reading under way.
pub(super) struct Reading<'r> {
    pub(super) plan: &'r Plan,
    pub(super) target: &'r RabbitTarget,
    progress: Progress<'r>,
    pub(super) evidence: &'r mut Evidence,
    pub(super) results: &'r mut Results,
    pub(super) client: Arc<AmqpClient>,
    pub(super) panel: Option<Panel>,
    pub(super) deadline: Deadline,
    /// How the look through the results ended, where there was one: how many there are.
    pub(super) looked_through: Option<Result<u64, Why>>,
    /// Whether the management API told all queues. Without it only those are known that somebody names.
    all_queues: bool,
}

impl Reading<'_> {
    async fn run(&mut self, cleanup: &Cleanup) {
        let started = Instant::now();
        self.note_server(started);
        let deadline = self.deadline;
        let read = deadline.within(Box::pin(self.read_all(cleanup))).await;
        if let Err(why) = read.flatten() {
            self.without_rest(&why, started);
            let ids: Vec<String> = self.evidence.tasks.keys().cloned().collect();
            // Where the deadline is over this is over at once.
            if let Ok(found) = deadline.within(self.results.read(&ids)).await {
                related::note_last_results(self.evidence, found);
            }
        }
        note_workers(self.evidence, started);
        // RabbitMQ tells no time.
        self.evidence.taken_at = Timestamp::now();
        if let Question::Everything(_) = self.plan.question {
            self.classify();
        }
    }

    /// The broker went away, or the deadline came: what was read stays, all else is unread.
    fn without_rest(&mut self, why: &Why, started: Instant) {
        for source in [Source::Queues, Source::Unacked, Source::Workers] {
            if self.evidence.read(source).is_some() {
                continue;
            }
            let read = line(source, started, Err(why));
            self.evidence.reads.push(read);
            if source == Source::Queues {
                self.evidence.lists = Observed::Unseen(why.clone());
            }
        }
        if self.plan.ask_workers {
            self.evidence.workers = Observed::Unseen(why.clone());
        }
    }

    fn note_server(&mut self, started: Instant) {
        let (product, version) = (self.client.product.clone(), self.client.version.clone());
        let name = product.seen().map_or("the broker", String::as_str);
        let number = version.seen().map_or("of unknown version", String::as_str);
        let detail = format!("{name} {number}");
        let read = line(Source::Server, started, Ok((ReadStatus::Complete, detail)));
        self.evidence.reads.push(read);
        if let Some(rabbit) = &mut self.evidence.rabbitmq {
            (rabbit.product, rabbit.version) = (product, version);
        }
        self.evidence.broker.server = Observed::not_asked("RabbitMQ tells other facts");
        self.note_bindings(started);
    }

    fn note_bindings(&mut self, started: Instant) {
        let Some(rabbit) = &self.evidence.rabbitmq else {
            return;
        };
        let unseen = [
            rabbit.exchanges.unseen(),
            rabbit.bindings.unseen(),
            rabbit.queues.unseen(),
        ];
        let outcome = if let Some(why) = unseen.into_iter().flatten().next() {
            Err(why)
        } else {
            let number = rabbit.bindings.seen().map_or(0, Vec::len);
            Ok((ReadStatus::Complete, count(number as u64, "binding")))
        };
        let read = line(Source::Bindings, started, outcome);
        self.evidence.reads.push(read);
    }

    async fn read_all(&mut self, cleanup: &Cleanup) -> Result<(), Why> {
        self.meet_workers(cleanup).await?;
        let settled = related::settle_prefix(self.plan, self.evidence, self.results);
        if let Err(why) = self.deadline.within_part(FOR_KEYS, settled).await {
            self.results.give_up(&why);
        }
        let ids: Vec<String> = self.evidence.tasks.keys().cloned().collect();
        for (id, result) in self.results.read(&ids).await {
            self.task(&id).first_result = result;
        }
        self.declare_queues().await?;
        if let Question::Everything(wanted) = self.plan.question {
            return self.read_everything(&wanted).await;
        }
        let ids: BTreeSet<String> = ids.into_iter().collect();
        // Whom a worker has needs no look into queues.
        self.ask_for(&ids).await?;
        self.settle_claims().await?;
        self.look_for_replies(&ids).await?;
        let mut ids = ids;
        if self.look_into_queues(&ids).await? {
            // Whose messages lead to the ids is asked for too.
            ids.extend(self.evidence.tasks.keys().cloned());
            self.ask_for(&ids).await?;
        }
        self.read_results(&ids).await;
        let open = self.open(&ids);
        if !open.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.ask_for(&open).await?;
            self.read_results(&open).await;
            self.declare_again().await?;
        }
        let children = related::children(self.evidence, self.results).await;
        if !children.is_empty() {
            self.ask_for(&children).await?;
            self.read_results(&children).await;
        }
        related::read_chords(self.evidence, self.results).await;
        related::look_for_chords(self.evidence, self.results, self.plan).await;
        self.note_queues();
        Ok(())
    }

    /// The queues that workers, their settings and flags name.
    fn named(&self) -> Vec<String> {
        let mut names: BTreeSet<String> = self.plan.queues.iter().cloned().collect();
        for worker in self.evidence.answered() {
            let consumed = worker.queues.seen().into_iter().flatten();
            names.extend(consumed.map(|queue| queue.name.clone()));
            let routes = worker.conf.seen().and_then(|c| c.task_routes.as_deref());
            names.extend(
                routes
                    .into_iter()
                    .flatten()
                    .filter_map(|route| route.queue.clone()),
            );
        }
        let rabbit = self.evidence.rabbitmq.as_ref();
        if rabbit.is_none_or(|rabbit| rabbit.queues.seen().is_none()) {
            names.insert(DEFAULT_QUEUE.to_owned());
        }
        names.into_iter().collect()
    }

    /// Asks how many messages and consumers the queues have now: the statistics are seconds old.
    async fn declare_queues(&mut self) -> Result<(), Why> {
        let named = self.named();
        let Some(rabbit) = &mut self.evidence.rabbitmq else {
            return Ok(());
        };
        let queues = to_declare(rabbit, &named);
        let leaders = Leaders::of(&self.target.management, self.deadline.at(1.0));
        for (name, depth) in believed(&self.client, rabbit, &leaders, queues).await? {
            note_depth(rabbit, &name, depth);
        }
        self.note_queues();
        Ok(())
    }

    /// Looks whether queues that were found empty, or were looked into, still are as they were: a message that came in
    /// since may be the one that was looked for.
    pub(super) async fn declare_again(&mut self) -> Result<(), Why> {
        let Some(rabbit) = &mut self.evidence.rabbitmq else {
            return Ok(());
        };
        let names = to_declare(rabbit, &[]);
        let leaders = Leaders::of(&self.target.management, self.deadline.at(1.0));
        for (name, depth) in believed(&self.client, rabbit, &leaders, names).await? {
            note_new(rabbit, &name, depth);
        }
        Ok(())
    }

    pub(super) fn note_queues(&mut self) {
        let started = Instant::now();
        let Some(rabbit) = &self.evidence.rabbitmq else {
            return;
        };
        let all_known = self.all_queues;
        let (status, detail, reason) = coverage(rabbit, all_known);
        let mut read = line(Source::Queues, started, Ok((status, detail)));
        read.reason = reason;
        let counted = if all_known {
            unacknowledged(rabbit)
        } else {
            let why = Why::new(Reason::NotAsked, "only the management API counts them");
            Err(why)
        };
        let counted = counted.as_ref().map(|unacked| {
            let detail = format!("{unacked} unacknowledged, by the statistics");
            (ReadStatus::Complete, detail)
        });
        let held = line(Source::Unacked, started, counted);
        self.evidence.lists = Observed::Seen(lists(rabbit));
        replace_read(self.evidence, read);
        replace_read(self.evidence, held);
    }

    /// Looks into queues for what nobody has yet, where the user asked for it. Returns whether it did.
    pub(super) async fn look_into_queues(&mut self, ids: &BTreeSet<String>) -> Result<bool, Why> {
        let everything = match self.plan.question {
            Question::Ids(_) => None,
            Question::Everything(everything) => Some(everything),
        };
        let open = if everything.is_some() {
            BTreeSet::new()
        } else {
            self.read_results(ids).await;
            self.open(ids)
        };
        let (Some(limit), Some(rabbit)) = (self.target.peek, &mut self.evidence.rabbitmq) else {
            return Ok(false);
        };
        if everything.is_none() && open.is_empty() {
            return Ok(false);
        }
        let mut wanted = match everything {
            Some(everything) => Wanted::all(everything.keep.unwrap_or(MOST_COUNTED)),
            None => Wanted::ids(open.iter().cloned()),
        };
        let keep = self.plan.keep;
        let copies = looks::look(
            &self.client,
            rabbit,
            limit,
            &mut wanted,
            &open,
            keep,
            self.progress,
        );
        let mut copies = copies.await?;
        related::note_gap(self.evidence, &wanted);
        related::note_canvases(self.evidence, &mut copies);
        for (id, copies) in by_id(copies) {
            self.task(&id).copies = copies;
        }
        self.note_queues();
        Ok(true)
    }

    /// Results of `rpc://` wait in queues too. There too a look marks what it sees, and is taken only where it was asked for.
    async fn look_for_replies(&mut self, ids: &BTreeSet<String>) -> Result<(), Why> {
        let (Some(ResultBackend::Rpc), Some(rabbit)) =
            (&self.plan.result_backend, &self.evidence.rabbitmq)
        else {
            return Ok(());
        };
        let open = self.open(ids);
        let looked = match self.target.peek {
            Some(limit) if !open.is_empty() => {
                Some(replies::look(&self.client, rabbit, limit, &open).await?)
            }
            _ => None,
        };
        let otherwise = replies::unread(rabbit, self.all_queues, looked.as_ref());
        let found = looked.map(|looked| looked.found).unwrap_or_default();
        self.results.take_replies(found, otherwise);
        self.read_results(ids).await;
        Ok(())
    }

    pub(super) async fn read_results(&mut self, ids: &BTreeSet<String>) {
        let ids: Vec<String> = ids.iter().cloned().collect();
        let found = self.results.read(&ids).await;
        related::note_last_results(self.evidence, found);
    }

    /// The ids that nothing accounts for yet.
    fn open(&self, ids: &BTreeSet<String>) -> BTreeSet<String> {
        let accounted = |task: &TaskEvidence| {
            let result = task.result.seen().and_then(Option::as_ref);
            !task.copies.is_empty()
                || !task.claims.is_empty()
                || result.is_some_and(|result| result.doc.ready)
        };
        let known = |id: &String| self.evidence.tasks.get(id).is_some_and(accounted);
        ids.iter().filter(|id| !known(id)).cloned().collect()
    }

    pub(super) fn task(&mut self, id: &str) -> &mut TaskEvidence {
        task(self.evidence, id)
    }
}
