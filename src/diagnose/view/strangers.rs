//! Who takes from task queues and is no worker that is known.

use std::collections::{BTreeMap, BTreeSet};

use crate::evidence::rabbitmq::{Connection, Consumer, Queue, Role};
use crate::evidence::{ClientFacts, Evidence, RabbitMq, Worker, Workers};

/// Celery's default queue (Celery 5.7 app/defaults.py, `task_default_queue`).
const DEFAULT_QUEUE: &str = "celery";

/// What the names of mailboxes end with, and what those of the addresses for answers hold besides (kombu 5.7 pidbox.py).
const MAILBOX: &str = ".pidbox";
const REPLIES: &str = ".reply.";

/// Seconds for which a connection of a worker may be there before it listens to remote control.
const STARTING: u64 = 5;

/// The library through which kombu speaks to Redis, as it tells the server since redis-py 5.0.
const REDIS_PY: &str = "redis-py";

/// Consumers of one task queue that belong to no worker that answered or is known to be silent.
#[derive(Debug, PartialEq)]
pub(in crate::diagnose) struct Strangers<'e> {
    /// The queue.
    pub(in crate::diagnose) queue: &'e str,
    /// How many there are.
    pub(in crate::diagnose) count: u64,
    /// Those among whom they are: more where a worker's own can't be told from them, none where only the number is known.
    pub(in crate::diagnose) among: Vec<&'e Consumer>,
}

impl Evidence {
    /// Who takes from the task queues of a virtual host and is no worker that answered or is known to be silent. A worker
    /// is known by its mailbox, which its connection consumes beside its queues; with gevent and eventlet it has a
    /// connection of its own (Celery 5.7 worker/pidbox.py, `gPidbox`), and then only the numbers tell. Nobody where the
    /// workers were not asked, or came or went meanwhile.
    pub(in crate::diagnose) fn strangers_on<'e>(
        &'e self,
        rabbit: &'e RabbitMq,
    ) -> Vec<Strangers<'e>> {
        let Some(workers) = self.workers.seen().filter(|workers| workers.are_settled()) else {
            return Vec::new();
        };
        let queues = rabbit.queues_of(Role::Tasks);
        let queues = queues.filter(|queue| self.is_for_tasks(&queue.name));
        match rabbit.consumers.seen() {
            Some(consumers) => {
                let mailboxes = Mailboxes::of(workers, consumers, rabbit);
                let strangers = queues.filter_map(|queue| mailboxes.strangers(queue, rabbit));
                strangers.collect()
            }
            None => queues
                .filter_map(|queue| uncounted(workers, queue))
                .collect(),
        }
    }

    /// Whether the workers that answered take or send tasks through a queue, or it is Celery's default one. What only
    /// other programs use is none of Celery's.
    fn is_for_tasks(&self, queue: &str) -> bool {
        let names = |worker: &Worker| {
            let routes = worker.conf.seen().and_then(|c| c.task_routes.as_deref());
            let mut routes = routes.into_iter().flatten();
            worker.consumes(queue) || routes.any(|route| route.queue.as_deref() == Some(queue))
        };
        queue == DEFAULT_QUEUE || self.answered().iter().any(names)
    }

    /// The connections that wait in BRPOP in the broker's database, are no worker's that answered, and may be one's that
    /// does not listen to remote control. None where they can't be told from the workers' own. What they wait for CLIENT
    /// LIST does not say.
    pub(in crate::diagnose) fn strangers_in_brpop(&self) -> Vec<&ClientFacts> {
        let clients = self.broker.server.seen().and_then(|s| s.clients.seen());
        let workers = self.workers.seen().filter(|workers| workers.are_settled());
        let (Some(clients), Some(workers)) = (clients, workers) else {
            return Vec::new();
        };
        let here = || {
            clients
                .iter()
                .filter(|c| c.database == Some(self.broker.database))
        };
        let listening: BTreeSet<&str> = here()
            .filter(|client| client.pattern_subscriptions > 0)
            .map(|client| client.host.as_str())
            .collect();
        // A client that waits for the workers' answers does so in BRPOP too, and is told by no more than its number.
        if self.asking() > 0 || workers.answered.iter().any(|worker| worker.twins) {
            return Vec::new();
        }
        let waiting: Vec<&ClientFacts> = here()
            .filter(|client| client.command == "brpop" && client.blocked)
            .collect();
        // From where no worker listens to remote control none has answered either.
        let elsewhere: Vec<&ClientFacts> = waiting
            .iter()
            .copied()
            .filter(|client| !listening.contains(client.host.as_str()))
            .collect();
        let known = usize::try_from(workers.silent)
            .unwrap_or(usize::MAX)
            .saturating_add(workers.answered.len());
        let subscribed = here()
            .filter(|client| client.pattern_subscriptions > 0)
            .count();
        let strangers = if !elsewhere.is_empty() {
            elsewhere
        } else if waiting.len() > known && subscribed <= known.saturating_mul(2) {
            waiting
        } else {
            Vec::new()
        };
        let like_a_worker = strangers.into_iter().filter(|client| may_be_kombu(client));
        like_a_worker.collect()
    }
}

/// Whether kombu may be behind a connection, and has been for so long that its worker would listen by now. Kombu waits a
/// second at a time, and gives its connections a name only where it is told to; other queues do otherwise (RQ waits for
/// minutes, Sidekiq gives a name).
fn may_be_kombu(client: &ClientFacts) -> bool {
    let who = &client.identity;
    let library = who
        .library
        .as_deref()
        .is_none_or(|l| l.starts_with(REDIS_PY));
    let at_work = client.age_seconds.is_none_or(|age| age >= STARTING);
    let polls = client.idle_seconds.is_none_or(|idle| idle <= 2);
    who.name.is_none() && library && at_work && polls
}

/// The workers' mailboxes, and whose connections they are on.
struct Mailboxes<'e> {
    workers: &'e Workers,
    consumers: &'e [Consumer],
    /// The connections that consume a mailbox.
    connections: BTreeSet<&'e str>,
    /// Of these, those that consume no queue of tasks, with the node: its tasks come over another connection.
    apart: Vec<(&'e str, &'e str)>,
    /// Nodes whose mailbox is not among the consumers that were told.
    untold: Vec<&'e str>,
}

impl<'e> Mailboxes<'e> {
    fn of(workers: &'e Workers, consumers: &'e [Consumer], rabbit: &'e RabbitMq) -> Self {
        let tasks: BTreeSet<&str> = rabbit
            .queues_of(Role::Tasks)
            .map(|queue| queue.name.as_str())
            .collect();
        let with_tasks: BTreeSet<&str> = consumers
            .iter()
            .filter(|consumer| tasks.contains(consumer.queue.as_str()))
            .map(|consumer| consumer.connection.as_str())
            .collect();
        let mailboxes: BTreeMap<&str, &str> = consumers
            .iter()
            .filter_map(|consumer| Some((consumer.connection.as_str(), node_of(consumer)?)))
            .collect();
        let nodes: BTreeSet<&str> = mailboxes.values().copied().collect();
        let answered = workers.answered.iter().map(|worker| worker.node.as_str());
        let known = answered.chain(workers.unanswered_names.iter().map(String::as_str));
        Self {
            workers,
            consumers,
            connections: mailboxes.keys().copied().collect(),
            apart: mailboxes
                .iter()
                .filter(|(connection, _)| !with_tasks.contains(*connection))
                .map(|(connection, node)| (*connection, *node))
                .collect(),
            untold: known.filter(|node| !nodes.contains(node)).collect(),
        }
    }

    /// Who takes from a queue over no connection of a worker, as far as there are more of them than workers whose own
    /// connection is not known.
    fn strangers(&self, queue: &'e Queue, rabbit: &'e RabbitMq) -> Option<Strangers<'e>> {
        let all = || self.consumers.iter().filter(|c| c.queue == queue.name);
        let mut among: Vec<&Consumer> = all()
            .filter(|consumer| !self.connections.contains(consumer.connection.as_str()))
            .collect();
        let takes = |node: &&str| {
            let worker = self.workers.answered.iter().find(|w| w.node == **node);
            worker
                .is_none_or(|worker| worker.queues.seen().is_none() || worker.consumes(&queue.name))
        };
        let apart = || self.apart.iter().filter(|(_, node)| takes(node));
        let untold = self.untold.iter().filter(|node| takes(node)).count();
        // The consumers come with the statistics; who has gone since is in the queue's own number no more.
        let now = queue.consumers.seen().copied()?;
        let gone = (all().count() as u64).saturating_sub(now);
        let workers = (apart().count() + untold) as u64;
        let count = (among.len() as u64)
            .saturating_sub(workers)
            .saturating_sub(gone);
        if count == 0 {
            return None;
        }
        // The two connections of a worker come from one host.
        for (connection, _) in apart() {
            let host = host(rabbit, connection);
            let mut here = among.iter().enumerate();
            let mut here = here
                .by_ref()
                .filter(|(_, c)| host.is_some() && self::host(rabbit, &c.connection) == host);
            if let (Some((at, _)), None) = (here.next(), here.next()) {
                among.remove(at);
            }
        }
        let queue = queue.name.as_str();
        Some(Strangers {
            queue,
            count,
            among,
        })
    }
}

/// How many consumers a queue has beyond the workers', where nobody tells which.
fn uncounted<'e>(workers: &Workers, queue: &'e Queue) -> Option<Strangers<'e>> {
    let now = queue.consumers.seen().copied()?;
    let may_take =
        |worker: &&Worker| worker.queues.seen().is_none() || worker.consumes(&queue.name);
    let known = workers.answered.iter().filter(may_take).count() as u64;
    let twins = workers.answered.iter().any(|worker| worker.twins);
    let count = now.saturating_sub(known).saturating_sub(workers.silent);
    (count > 0 && !twins).then_some(Strangers {
        queue: &queue.name,
        count,
        among: Vec::new(),
    })
}

/// The node whose mailbox a consumer reads; none where it reads something else.
pub(in crate::diagnose) fn node_of(consumer: &Consumer) -> Option<&str> {
    let mailbox = consumer.queue.strip_suffix(MAILBOX)?;
    // The control exchange stands between: `NODE.celery.pidbox`.
    let (node, _) = mailbox.rsplit_once('.')?;
    (!mailbox.contains(REPLIES)).then_some(node)
}

/// A connection by its name.
pub(in crate::diagnose) fn connection<'e>(
    rabbit: &'e RabbitMq,
    name: &str,
) -> Option<&'e Connection> {
    let mut all = rabbit.connections.seen()?.iter();
    all.find(|connection| connection.name == name)
}

fn host<'e>(rabbit: &'e RabbitMq, name: &str) -> Option<&'e str> {
    connection(rabbit, name)?.peer_host.as_deref()
}
