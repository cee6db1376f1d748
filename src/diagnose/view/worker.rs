//! What one worker consumes, knows and accepts, and with which timeouts.

use crate::celery::control::ActiveQueue;
use crate::celery::exchange::{self, DEFAULT_SEP, DEFAULT_STEPS};
use crate::evidence::{List, Worker};

/// Kombu's visibility timeout where nothing sets another, in seconds (kombu 5.7 transport/redis.py, `Channel`).
pub(in crate::diagnose) const DEFAULT_VISIBILITY_TIMEOUT: f64 = 3600.0;

/// Seconds between two sweeps of a worker where nothing sets others: every tenth call of one that comes every 10 s
/// (kombu 5.7 transport/redis.py, `unacked_restore_interval` and `unacked_restore_throttle`).
pub(in crate::diagnose) const DEFAULT_SWEEP_PERIOD: f64 = 100.0;

/// Content types that kombu takes whatever `accept_content` says (kombu 5.7 serialization.py, `TRUSTED_CONTENT`).
const TRUSTED_CONTENT: [&str; 2] = ["application/data", "application/text"];

impl Worker {
    /// Whether it consumes a queue, whatever the priority.
    pub fn consumes(&self, queue: &str) -> bool {
        let queues = self.queues.seen();
        queues.is_some_and(|queues| queues.iter().any(|q| q.name == queue))
    }

    /// Whether its pool runs tasks in green threads.
    pub(in crate::diagnose) fn has_green_pool(&self) -> bool {
        let pool = self.stats.seen().and_then(|stats| stats.pool.as_deref());
        pool.is_some_and(|pool| pool.contains("gevent") || pool.contains("eventlet"))
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
        let queues = self.queues.seen().into_iter().flatten();
        let mut named = queues.filter(|queue| key.starts_with(&queue.name) && !is_fanout(queue));
        named.any(|queue| {
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
        let accepted = conf.accept_content.as_deref()?;
        if accepted
            .iter()
            .any(|name| content_type_of(name) == Some(content_type))
        {
            return Some(true);
        }
        // An app can register serializers of its own, and nobody but the app knows their content types; that of the one
        // with which it sends tasks stands in the worker's answers.
        let own = accepted.iter().any(|name| content_type_of(name).is_none());
        if own && self.dialect.as_deref() == Some(content_type) {
            return Some(true);
        }
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
    pub(super) fn sweep_period(&self) -> f64 {
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

    /// The tasks that are rate limited on this worker, with their limits.
    pub fn rate_limits(&self) -> Vec<(&str, &str)> {
        let tasks = self.registered.seen().into_iter().flatten();
        tasks
            .filter_map(|(name, traits)| Some((name.as_str(), traits.rate_limit.as_deref()?)))
            .collect()
    }

    /// Whether it keeps nowhere what it was given and has not acknowledged, by its own word: the transport option
    /// `ack_emulation` of Redis is off.
    pub fn keeps_nothing(&self) -> bool {
        let stats = self.stats.seen();
        stats.is_some_and(|stats| stats.transport.ack_emulation == Some(false))
    }

    /// How many of its slots are free; none where it did not say.
    pub fn free_slots(&self) -> Option<u64> {
        let slots = self.stats.seen()?.concurrency?;
        let busy = self.active.seen()?.len() as u64;
        Some(slots.saturating_sub(busy))
    }
}

/// Whether a queue gets its messages from a channel: then nobody takes from its list (kombu 5.7 transport/redis.py,
/// `Channel.active_queues`).
pub(super) fn is_fanout(queue: &ActiveQueue) -> bool {
    queue.exchange_type.as_deref() == Some("fanout")
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
