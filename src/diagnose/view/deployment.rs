//! What holds for the deployment as a whole: who is there, what is consumed, which timeouts are in force.

use super::worker::{DEFAULT_VISIBILITY_TIMEOUT, is_fanout};
use crate::celery::control::DISABLED;
use crate::evidence::{ClientFacts, Evidence, List, Observed, Reservations, UnackedNames, Worker};

/// The visibility timeout in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Visibility {
    /// In seconds: the shortest of all, because each worker sweeps everyone's reservations with its own.
    pub seconds: f64,
    /// Where it comes from, in words.
    pub source: String,
}

/// Where messages are kept that are delivered and not acknowledged. Each worker sweeps one such store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store<'e> {
    /// The `global_keyprefix` before the keys.
    pub prefix: &'e str,
    /// The names of the keys; none where it is not known which of those under the prefix it is.
    pub names: Option<&'e UnackedNames>,
}

impl Store<'_> {
    /// Whether a worker keeps there what it was given, as far as it told.
    pub(super) fn is_of(self, worker: &Worker) -> bool {
        let told = self.names.zip(worker.stats.seen());
        worker.prefix == self.prefix
            && told.is_none_or(|(names, stats)| names.are_of(&stats.transport))
    }
}

impl Reservations {
    /// Where they are kept.
    pub fn store(&self) -> Store<'_> {
        Store {
            prefix: &self.prefix,
            names: Some(&self.names),
        }
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
        // On RabbitMQ a queue is one list, whatever the priorities in it.
        if self.rabbitmq.is_some() {
            return self.consumers(list);
        }
        let workers = self.answered().iter();
        workers.filter(|w| w.polls(list)).collect()
    }

    /// The workers that answered and take from a list of this queue, whatever its priority.
    pub fn consumers(&self, list: &List) -> Vec<&Worker> {
        let takes = |worker: &&Worker| {
            let queues = worker.queues.seen().into_iter().flatten();
            // On RabbitMQ a queue behind a fanout exchange is a queue like any other.
            let mut lists = queues.filter(|queue| self.rabbitmq.is_some() || !is_fanout(queue));
            worker.prefix == list.prefix && lists.any(|queue| queue.name == list.queue)
        };
        self.answered().iter().filter(takes).collect()
    }

    /// The workers that have the queue of a list and get its messages from a channel: a Broadcast queue, whose list on
    /// Redis nobody takes from. Kombu puts a message there where its sender never declared the exchange as fanout (kombu
    /// 5.7 transport/redis.py, `Channel.active_queues`; transport/virtual/base.py, `typeof`).
    pub fn subscribers(&self, list: &List) -> Vec<&Worker> {
        let named = |worker: &&Worker| {
            let queues = worker.queues.seen().into_iter().flatten();
            let mut fanout = queues.filter(|queue| is_fanout(queue));
            worker.prefix == list.prefix && fanout.any(|queue| queue.name == list.queue)
        };
        let workers = self.answered().iter().filter(|_| self.rabbitmq.is_none());
        workers.filter(named).collect()
    }

    /// The queues of whose lists, or on RabbitMQ of which, the workers that answered take.
    pub fn consumed_queues(&self) -> Vec<&str> {
        let workers = self.answered().iter();
        let queues = workers.filter_map(|worker| worker.queues.seen()).flatten();
        let taken = queues.filter(|queue| self.rabbitmq.is_some() || !is_fanout(queue));
        taken.map(|queue| queue.name.as_str()).collect()
    }

    /// The reservations of a store.
    pub fn reservations_of(&self, store: Store<'_>) -> Option<&Reservations> {
        let all = self.reservations.seen()?;
        all.iter().find(|entry| entry.store() == store)
    }

    /// The store of the workers that take from a list, where it is known.
    pub fn store_of<'e>(&'e self, list: &'e List) -> Store<'e> {
        let takers = self.consumers(list);
        let stores = self.reservations.seen().into_iter().flatten();
        let mut stores = stores.map(Reservations::store);
        let theirs = stores.find(|store| takers.iter().any(|worker| store.is_of(worker)));
        theirs.unwrap_or(Store {
            prefix: &list.prefix,
            names: None,
        })
    }

    /// The visibility timeout in force for a store: what the user said, else the shortest that a live worker has, else
    /// kombu's default.
    pub fn visibility(&self, store: Store<'_>) -> Visibility {
        if let Some(seconds) = self.visibility_timeout_given {
            return Visibility {
                seconds,
                source: "given by --visibility-timeout".to_owned(),
            };
        }
        let shortest = self
            .answered()
            .iter()
            .filter(|w| store.is_of(w))
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
    pub fn sweep_period(&self, store: Store<'_>) -> Option<f64> {
        self.answered()
            .iter()
            .filter(|w| store.is_of(w) && w.queues.seen().is_none_or(|q| !q.is_empty()))
            .map(Worker::sweep_period)
            .min_by(f64::total_cmp)
    }

    /// Seconds by which a restore comes late where all is well; none where nobody is there to do it. One sweep can find
    /// the lock taken by another worker, and with `unacked_restore_limit` in all workers one restores only so many, the
    /// newest first (kombu 5.7 transport/redis.py, `restore_visible`).
    pub fn restore_delay(&self, store: Store<'_>) -> Option<f64> {
        let period = self.sweep_period(store)?;
        let workers = self.answered().iter().filter(|w| store.is_of(w));
        let limits: Option<Vec<u64>> = workers
            .map(|w| w.stats.seen()?.transport.unacked_restore_limit)
            .collect();
        let limit = limits.into_iter().flatten().max();
        let held = self.reservations_of(store).map_or(0, |entry| entry.unacked);
        let more = limit.map_or(0, |limit| held / limit.max(1));
        #[expect(
            clippy::cast_precision_loss,
            reason = "a number of messages is far below 2^52"
        )]
        let sweeps = more as f64 + 2.0;
        Some(sweeps * period)
    }

    /// How many connections of workers there are in another database: those that wait in BRPOP or are subscribed to
    /// a pattern. None where CLIENT LIST was not read, or shows such a connection without its database.
    pub fn workers_in(&self, database: u32) -> Option<u64> {
        let clients = self.broker.server.seen()?.clients.seen()?;
        let of_worker =
            |client: &&ClientFacts| client.command == "brpop" || client.pattern_subscriptions > 0;
        let databases: Option<Vec<u32>> = (clients.iter().filter(of_worker))
            .map(|client| client.database)
            .collect();
        let there = databases?.into_iter().filter(|db| *db == database);
        Some(there.count() as u64)
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
                    .is_some_and(|conf| conf.result_backend.as_deref() == Some(DISABLED))
            })
    }

    /// The visibility timeout, where somebody told it: the user, or a live worker of this store. A worker that told it
    /// sweeps with it, so that others, silent ones too, can only make it shorter.
    pub fn visibility_told(&self, store: Store<'_>) -> Option<Visibility> {
        let told = self.visibility_timeout_given.is_some()
            || self
                .answered()
                .iter()
                .any(|w| store.is_of(w) && w.visibility_timeout().is_some());
        told.then(|| self.visibility(store))
    }

    /// Whether it is sure that no worker is there to sweep a store: none of it answered, none is silent, and nothing
    /// takes messages without remote control.
    pub fn nobody_sweeps(&self, store: Store<'_>) -> bool {
        self.all_workers_answered()
            && self.sweep_period(store).is_none()
            && (self.unheard_consumers() == 0 || self.only_strangers_beside(store))
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

    /// Whether something is known to wait, to be unacknowledged or to run.
    pub fn is_at_work(&self) -> bool {
        let mut lists = self.lists.seen().into_iter().flatten();
        let mut stores = self.reservations.seen().into_iter().flatten();
        lists.any(|list| list.named && list.length > 0)
            || stores.any(|store| store.unacked > 0)
            || self.answered().iter().any(|worker| {
                let runs = worker.active.seen().is_some_and(|tasks| !tasks.is_empty());
                let holds = |count: &Observed<u64>| count.seen().is_some_and(|count| *count > 0);
                runs || holds(&worker.reserved) || holds(&worker.scheduled)
            })
    }

    /// Whether a worker of this name answered.
    pub fn answers(&self, node: &str) -> bool {
        self.answered().iter().any(|worker| worker.node == node)
    }

    /// What the workers' answers say of a worker that a result names, to stand after its name. A killed worker leaves its
    /// mailbox behind; one that shuts down in order takes it away first, and then ends its tasks or is killed too
    /// (tried with Celery 5.7 and Redis 7). On RabbitMQ the mailbox goes with the connection, however that ends.
    pub fn whereabouts(&self, node: &str) -> &'static str {
        let workers = self.workers.seen();
        let left = workers.is_some_and(|w| w.unanswered_names.iter().any(|name| name == node));
        if self.answers(node) {
            "which answers and does not have it"
        } else if left {
            "which is not among the live workers"
        } else {
            "which is not among the live workers, and may be finishing it if its process is still there"
        }
    }

    /// Seconds for which results are kept: the shortest of the live workers' settings; infinite where all keep them for
    /// ever. None where no worker answered, or one did not tell.
    pub fn result_expires(&self) -> Option<f64> {
        let told: Option<Vec<f64>> = self
            .answered()
            .iter()
            .map(|worker| worker.conf.seen()?.result_expires)
            .collect();
        let kept = told?.into_iter().map(|seconds| {
            if seconds > 0.0 {
                seconds
            } else {
                f64::INFINITY
            }
        });
        kept.min_by(f64::total_cmp)
    }

    /// Seconds for which a worker keeps results; none where it did not say, or keeps them for ever.
    pub fn results_kept_by(&self, worker: &Worker) -> Option<f64> {
        let conf = worker.conf.seen()?;
        let kept = conf.result_expires?;
        (kept > 0.0).then_some(kept)
    }
}
