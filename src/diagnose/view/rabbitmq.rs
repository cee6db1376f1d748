//! What holds on RabbitMQ: who consumes what, which queues were looked into, where a queue's messages go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::celery::control::ClaimState;
use crate::diagnose::command::Command;
use crate::diagnose::plain;
use crate::evidence::rabbitmq::{Queue, QueueType, Role};
use crate::evidence::{Evidence, List, RabbitMq, ReadStatus, Source, Worker};

/// RabbitMQ's default for `consumer_timeout` in seconds (RabbitMQ 3.8.17 to 4.2; 3.8.15 and 3.8.16 had half of it, and
/// nothing before).
const DEFAULT_CONSUMER_TIMEOUT: f64 = 1800.0;
const FIRST_WITH_A_TIMEOUT: (u32, u32, u32) = (3, 8, 17);
const FIRST_WITHOUT: (u32, u32, u32) = (4, 3, 0);
/// From here on `x-consumer-timeout` and its policy count (RabbitMQ 3.12 release notes).
const QUEUES_HAVE_A_TIMEOUT: (u32, u32, u32) = (3, 12, 0);

const DROPS_NO_CYCLE_OF_CLIENTS: (u32, u32, u32) = (4, 0, 1);

/// How long a consumer may keep a message of a queue unacknowledged.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::diagnose) struct ConsumerTimeout {
    /// In seconds.
    pub(in crate::diagnose) seconds: f64,
    /// Where it comes from, in words.
    pub(in crate::diagnose) source: &'static str,
    /// Whether it is RabbitMQ's default, of a server that does not tell its own.
    pub(in crate::diagnose) assumed: bool,
}

impl Evidence {
    /// How many consumers of task queues belong to no worker that answered or is known to be silent: of a worker with
    /// `worker_enable_remote_control` off, or of another program.
    pub(super) fn unheard_on(&self, rabbit: &RabbitMq) -> usize {
        let silent = self.workers.seen().map_or(0, |workers| workers.silent);
        let answered = self.answered();
        let strangers = |queue: &Queue| {
            // Of a queue for one connection alone nobody else's tasks are taken.
            if queue.exclusive.seen() == Some(&true) {
                return 0;
            }
            let all = queue.consumers.seen().copied().unwrap_or_default();
            let known = answered.iter().filter(|w| w.consumes(&queue.name)).count() as u64;
            all.saturating_sub(known).saturating_sub(silent)
        };
        let most = rabbit.queues_of(Role::Tasks).map(strangers).max();
        usize::try_from(most.unwrap_or_default()).unwrap_or(usize::MAX)
    }

    /// The queues of tasks, but those that only other programs consume. Where no worker answered, nobody can tell them
    /// apart.
    pub(in crate::diagnose) fn task_queues<'e>(
        &'e self,
        rabbit: &'e RabbitMq,
    ) -> impl Iterator<Item = &'e Queue> {
        let foreign = |queue: &Queue| {
            let consumed = queue.consumers.seen().is_some_and(|number| *number > 0);
            let answered = self.answered();
            let by_workers = answered.iter().any(|w| w.consumes(&queue.name));
            consumed && !by_workers && !answered.is_empty()
        };
        rabbit
            .queues_of(Role::Tasks)
            .filter(move |queue| !foreign(queue))
    }

    /// What of the places in which a task can be was not read whole, in words. Of each of them "absent" must not be
    /// said.
    pub(in crate::diagnose) fn unread_places(&self) -> Vec<String> {
        let unread = |source: &Source| !self.complete(*source);
        let Some(rabbit) = &self.rabbitmq else {
            let places = [Source::Queues, Source::Unacked, Source::Workers];
            let unread = places.into_iter().filter(unread);
            return unread.map(|source| source.name().to_owned()).collect();
        };
        let mut places = Vec::new();
        if let Some(read) = self.read(Source::Queues)
            && read.status != ReadStatus::Complete
        {
            places.push(format!("queues ({})", read.detail));
        }
        // Who holds something and is no worker is known by its number alone.
        if let Some(read) = self.read(Source::Unacked)
            && read.status != ReadStatus::Complete
        {
            places.push(format!("{} ({})", Source::Unacked.name(), read.detail));
        }
        if unread(&Source::Workers) {
            places.push(Source::Workers.name().to_owned());
        }
        places.extend(self.unclaimed_on(rabbit));
        places
    }

    /// Whether a message may be unacknowledged without a word of any worker.
    pub(in crate::diagnose) fn is_unacked_unclear(&self) -> bool {
        let unclaimed = self
            .rabbitmq
            .as_ref()
            .and_then(|rabbit| self.unclaimed_on(rabbit));
        !self.complete(Source::Workers) || self.unheard_consumers() > 0 || unclaimed.is_some()
    }

    /// What is unacknowledged and not accounted for by the workers' own word. RabbitMQ shows no ids of such messages,
    /// only their number for each queue and channel.
    fn unclaimed_on(&self, rabbit: &RabbitMq) -> Option<String> {
        let connections = self.worker_connections(rabbit);
        let channels = rabbit.channels.seen().into_iter().flatten();
        let strange: u64 = channels
            .filter(|channel| !connections.contains(channel.connection.as_str()))
            .filter_map(|channel| channel.unacknowledged.seen())
            .sum();
        if strange > 0 && rabbit.consumers.seen().is_some() {
            let what = plain::count(strange, "message");
            return Some(format!(
                "{what} unacknowledged on connections of no worker that answered"
            ));
        }
        let beyond = self.in_buckets(rabbit)?;
        let what = plain::count(beyond, "message");
        Some(format!(
            "{what} unacknowledged beyond what the workers tell, some of whose tasks are rate limited"
        ))
    }

    /// How many messages are unacknowledged beyond what the workers tell, where some of their tasks are rate limited:
    /// one that waits for its limit is in no reply (Celery 5.7 worker/consumer/consumer.py, `_limit_task`).
    pub(in crate::diagnose) fn in_buckets(&self, rabbit: &RabbitMq) -> Option<u64> {
        let unacked: u64 = rabbit
            .queues_of(Role::Tasks)
            .filter_map(|queue| queue.unacknowledged.seen())
            .sum();
        let claimed: u64 = self.answered().iter().map(claimed_by).sum();
        let limited = |worker: &Worker| !worker.rate_limits().is_empty();
        (unacked > claimed && self.answered().iter().any(limited)).then(|| unacked - claimed)
    }

    /// The connections of workers that answered. A worker with a green pool (gevent, eventlet) has its mailbox on a
    /// connection of its own (Celery 5.7 worker/pidbox.py, `gPidbox`): its tasks come by another, which is known by what
    /// it consumes, where no more such connections consume a queue than such workers do.
    pub(in crate::diagnose) fn worker_connections<'e>(
        &'e self,
        rabbit: &'e RabbitMq,
    ) -> BTreeSet<&'e str> {
        let named = self.connections_of_workers(rabbit);
        let mut consumed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut consumers: BTreeMap<&str, usize> = BTreeMap::new();
        let of_tasks: BTreeSet<&str> = rabbit
            .queues_of(Role::Tasks)
            .map(|queue| queue.name.as_str())
            .collect();
        for consumer in rabbit.consumers.seen().into_iter().flatten() {
            let (connection, queue) = (consumer.connection.as_str(), consumer.queue.as_str());
            if of_tasks.contains(queue) && !named.contains_key(connection) {
                consumed.entry(connection).or_default().insert(queue);
                *consumers.entry(queue).or_default() += 1;
            }
        }
        let green = |queue: &str| {
            let workers = self.answered().iter();
            workers
                .filter(|w| w.has_green_pool() && w.consumes(queue))
                .count()
        };
        let accounted = |queue: &&str| consumers.get(queue).is_some_and(|n| *n <= green(queue));
        let of_green = consumed
            .into_iter()
            .filter(|(_, queues)| queues.iter().all(&accounted))
            .map(|(connection, _)| connection);
        of_green.chain(named.into_keys()).collect()
    }

    /// The node of each connection whose worker answered: it is the one that consumes the worker's mailbox.
    pub(in crate::diagnose) fn connections_of_workers<'e>(
        &'e self,
        rabbit: &'e RabbitMq,
    ) -> BTreeMap<&'e str, &'e str> {
        let consumers = rabbit.consumers.seen().into_iter().flatten();
        consumers
            .filter_map(|consumer| {
                let node = consumer.queue.strip_suffix(".celery.pidbox")?;
                self.answers(node)
                    .then_some((consumer.connection.as_str(), node))
            })
            .collect()
    }

    /// Whether native delayed delivery is in use on a RabbitMQ that drops as a cycle what has been dead-lettered through a
    /// queue before and comes to it again. Before RabbitMQ 4.0.1 the `x-death` of a message that a client publishes counts
    /// for that, and a retry by Celery 5.5.0 to 5.6.2 has it (celery issue 9867).
    pub(in crate::diagnose) fn drops_delayed_retries(&self) -> bool {
        let Some(rabbit) = &self.rabbitmq else {
            return false;
        };
        let version = rabbit.version.seen().and_then(|version| numbers(version));
        let is_old = version.is_some_and(|version| version < DROPS_NO_CYCLE_OF_CLIENTS);
        let product = rabbit.product.seen();
        let is_rabbitmq = product.is_none_or(|product| product == "RabbitMQ");
        let of_quorum = |queue: &Queue| queue.kind.seen() == Some(&QueueType::Quorum);
        is_old
            && is_rabbitmq
            && rabbit.queues_of(Role::Delayed).next().is_some()
            && rabbit.queues_of(Role::Tasks).any(of_quorum)
    }

    /// How many consumers the broker says a queue has; none where it does not say, or is Redis.
    pub(crate) fn consumers_told(&self, list: &List) -> Option<u64> {
        let queue = self.rabbitmq.as_ref()?.queue(&list.queue)?;
        queue.consumers.seen().copied()
    }

    /// How long a consumer may keep a message of this queue; none where it may for ever, or where that is not known.
    pub(in crate::diagnose) fn consumer_timeout(&self, queue: &Queue) -> Option<ConsumerTimeout> {
        let rabbit = self.rabbitmq.as_ref()?;
        let told = rabbit
            .consumers
            .seen()
            .into_iter()
            .flatten()
            .filter(|consumer| consumer.queue == queue.name)
            .find_map(|consumer| consumer.timeout_ms.seen());
        let of = |ms: u64, source| ConsumerTimeout {
            seconds: Duration::from_millis(ms).as_secs_f64(),
            source,
            assumed: false,
        };
        if let Some(timeout) = told {
            return timeout.map(|ms| of(ms, "the management API"));
        }
        if rabbit.product.seen().is_some_and(|p| p != "RabbitMQ") {
            return None;
        }
        let version = numbers(rabbit.version.seen()?)?;
        let set = queue
            .number("consumer-timeout")
            .and_then(|ms| u64::try_from(ms).ok());
        match set {
            Some(0) => None,
            Some(ms) if version >= QUEUES_HAVE_A_TIMEOUT => Some(of(ms, "the queue's settings")),
            // From RabbitMQ 4.3 on it is not looked at for classic queues.
            _ => (FIRST_WITH_A_TIMEOUT..FIRST_WITHOUT)
                .contains(&version)
                .then_some(ConsumerTimeout {
                    seconds: DEFAULT_CONSUMER_TIMEOUT,
                    source: "RabbitMQ's default; this version does not tell",
                    assumed: true,
                }),
        }
    }

    /// Commands that show how many messages wait in a queue.
    pub(in crate::diagnose) fn depth(&self, list: &List) -> Vec<Command> {
        match &self.rabbitmq {
            None => vec![self.redis_cli("LLEN").name(&list.key)],
            Some(rabbit) => rabbit.list_queues(),
        }
    }

    /// The broker's database or virtual host in a sentence.
    pub(in crate::diagnose) fn place(&self) -> String {
        match &self.rabbitmq {
            None => format!("database {}", self.broker.database),
            Some(rabbit) => format!("virtual host {}", rabbit.vhost),
        }
    }
}

/// How many unacknowledged messages a worker admits to.
fn claimed_by(worker: &Worker) -> u64 {
    let active = worker.active.seen().into_iter().flatten();
    let late = active
        .filter(|claim| claim.state == ClaimState::Active && claim.acknowledged != Some(true));
    let others = [&worker.reserved, &worker.scheduled];
    let others: u64 = others.into_iter().filter_map(|number| number.seen()).sum();
    late.count() as u64 + others
}

/// Major, minor and patch number of a version; what is no number at the end is left out.
pub(in crate::diagnose) fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next().and_then(|patch| patch.parse().ok());
    Some((major, minor, patch.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use crate::diagnose::testkit::{Lab, Rabbit};
    use crate::evidence::Observed;
    use crate::evidence::rabbitmq::Consumer;

    /// A worker whose tasks come by another connection than its mailbox, with two unacknowledged messages on it.
    fn with_pool(pool: &str, takers: u64) -> Lab {
        let mut lab = Rabbit::new()
            .queue("celery", 0, takers)
            .channel("c", 0, false)
            .lab()
            .worker("w1", &["celery"])
            .with_worker(|w| w.stats.seen_mut().expect("seen").pool = Some(pool.to_owned()));
        let rabbit = lab.evidence.rabbitmq.as_mut().expect("a RabbitMQ");
        let consumers = rabbit.consumers.seen_mut().expect("seen");
        let mailbox = Consumer {
            queue: "w1.celery.pidbox".to_owned(),
            connection: "mailbox".to_owned(),
            ..consumers[0].clone()
        };
        consumers.push(mailbox);
        let channel = &mut rabbit.channels.seen_mut().expect("seen")[0];
        channel.connection = "connection 0".to_owned();
        channel.unacknowledged = Observed::Seen(2);
        lab
    }

    #[test]
    fn a_green_pool_s_tasks_come_by_a_connection_of_their_own() {
        let unclaimed = |lab: Lab| {
            let rabbit = lab.evidence.rabbitmq.as_ref().expect("a RabbitMQ");
            lab.evidence.unclaimed_on(rabbit).is_some()
        };
        for pool in [
            "celery.concurrency.gevent:TaskPool",
            "celery.concurrency.eventlet:TaskPool",
        ] {
            assert!(!unclaimed(with_pool(pool, 1)), "{pool}");
            // One more than such workers is somebody else.
            assert!(unclaimed(with_pool(pool, 2)), "{pool}");
        }
        assert!(unclaimed(with_pool(
            "celery.concurrency.prefork:TaskPool",
            1
        )));
    }

    #[test]
    fn a_queue_of_one_connection_alone_is_nobody_s_task_queue() {
        let strangers = |exclusive| {
            let lab = Rabbit::new()
                .queue("amq.gen-1", 0, 1)
                .with(|queue| queue.exclusive = Observed::Seen(exclusive))
                .lab();
            lab.evidence.unheard_consumers()
        };
        assert_eq!((strangers(true), strangers(false)), (0, 1));
    }
}
