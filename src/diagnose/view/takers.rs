//! Which connections of CLIENT LIST may be of a process that took a message and tells nobody so.

use std::time::Duration;

use super::case::{Case, Held};
use super::worker::is_fanout;
use crate::evidence::{ClientFacts, Evidence};

/// Seconds by which times of one moment differ: Redis tells whole ones, and the time of a delivery is by the worker's
/// clock.
const MARGIN: f64 = 2.0;

/// Seconds for which a client waits for the workers' answers to a question. `celery inspect` and Flower wait for one.
const ASKED: f64 = 3.0;

/// Why nobody knows who has a message of which [`Evidence::may_have_been_taken`] is true.
const TAKER: &str = "a connection that took messages when it was delivered is still there (CLIENT LIST, cmd=brpop), and \
                     belongs to no worker that answered: one that shuts down warmly finishes its tasks without another \
                     word";

impl Evidence {
    /// Whether a process that answers nothing may have taken a message that was delivered at this time (Unix seconds,
    /// where the index tells), and have it still: a connection that answers for none of the workers heard last took
    /// something with BRPOP, was there at that time, and has taken nothing before it since. A worker that shuts down
    /// warmly leaves it so until its last task has ended. A client that has asked the workers something looks the same;
    /// it is known by the question that it published just before, unless its last BRPOP ended when the message went.
    pub(in crate::diagnose) fn may_have_been_taken(&self, delivered_at: Option<f64>) -> bool {
        let margin = MARGIN + self.reading_seconds();
        let since = delivered_at.map(|at| (self.now() - at).max(0.0));
        let mut questions = self.questions();
        let mut heard = self.takers_that_answered();
        let (mut others, mut candidates) = (0, 0);
        for taker in self.clients_here().filter(|c| c.command == "brpop") {
            // It has room for more, and is a worker's that answered: `unheard_consumers` counts whether there are more.
            if taker.blocked {
                heard = heard.saturating_sub(1);
                continue;
            }
            let idle = taker.idle_seconds.map(float);
            let age = taker.age_seconds.map(float);
            let within = since.zip(idle).map(|(since, idle)| idle - since);
            if within.is_none_or(|off| off.abs() > margin) && has_asked(&mut questions, idle) {
                continue;
            }
            others += 1;
            let there = since
                .zip(age)
                .is_none_or(|(since, age)| age + margin >= since);
            let took = within.is_none_or(|off| off <= margin);
            candidates += usize::from(there && took);
        }
        candidates > 0 && others > heard
    }

    /// How many connections with BRPOP the workers that answered have: one each, where it consumes anything from a list.
    fn takers_that_answered(&self) -> usize {
        let consumes = |queues: &Vec<_>| queues.iter().any(|queue| !is_fanout(queue));
        let workers = self.answered().iter();
        workers
            .filter(|worker| worker.queues.seen().is_none_or(consumes))
            .count()
    }

    /// How long ago, in seconds, each question to the workers was published: what the workers that answered publish at
    /// their start is none, nor are heartbeats.
    fn questions(&self) -> Vec<f64> {
        let starts: Vec<f64> = self
            .answered()
            .iter()
            .filter_map(|worker| worker.stats.seen()?.uptime)
            .collect();
        let at_a_start = |idle: f64| starts.iter().any(|up| (up - idle).abs() <= ASKED + MARGIN);
        self.clients_here()
            .filter(|client| client.command == "publish" && !client.beats())
            .filter_map(|client| client.idle_seconds.map(float))
            .filter(|idle| !at_a_start(*idle))
            .collect()
    }

    /// Seconds for which the reading went on: CLIENT LIST comes first, and its moment is the end.
    fn reading_seconds(&self) -> f64 {
        let all = self.reads.iter().map(|read| read.elapsed_ms);
        Duration::from_millis(all.fold(0, u64::saturating_add)).as_secs_f64()
    }
}

impl Case<'_> {
    /// Why a worker that answers no more may be finishing what it was given; none where none can.
    pub(super) fn may_be_finishing(&self, held: &Held<'_>) -> Option<String> {
        if self.was_killed(held) {
            return None;
        }
        if let Some(why) = self.evidence.endings_unseen() {
            return Some(format!(
                "a worker in a warm shutdown may be finishing it, which can't be told here: {why}"
            ));
        }
        let taken = self.evidence.may_have_been_taken(held.delivered_at);
        taken.then(|| TAKER.to_owned())
    }

    /// Whether the worker that began this very delivery was killed: it left its mailbox, as none does that ends in order.
    fn was_killed(&self, held: &Held<'_>) -> bool {
        let workers = self.evidence.workers.seen();
        let left = |node: &str| {
            workers.is_some_and(|w| w.unanswered_names.iter().any(|name| name == node))
        };
        let started = self.result().filter(|r| r.doc.state == "STARTED");
        let node = started.and_then(|result| result.doc.worker.as_deref());
        !held.envelope.redelivered && node.is_some_and(left)
    }
}

/// Whether a question belongs to a connection that has last waited so long ago; it then belongs to no other.
fn has_asked(questions: &mut Vec<f64>, idle: Option<f64>) -> bool {
    let Some(idle) = idle else { return false };
    let asked = |question: &f64| (idle - 1.0..=idle + ASKED).contains(question);
    let found = questions.iter().position(asked);
    found.map(|at| questions.swap_remove(at)).is_some()
}

#[expect(clippy::cast_precision_loss, reason = "seconds of this century fit")]
fn float(seconds: u64) -> f64 {
    seconds as f64
}

impl ClientFacts {
    /// Whether it may be connected to this database.
    pub(super) fn may_be_in(&self, database: u32) -> bool {
        self.database.is_none_or(|own| own == database)
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnose::testkit::{Lab, NOW};
    use crate::evidence::{ClientFacts, Observed};

    fn client(command: &str, age: u64, idle: u64) -> ClientFacts {
        ClientFacts {
            host: "10.0.0.1".to_owned(),
            database: Some(0),
            command: command.to_owned(),
            blocked: false,
            pattern_subscriptions: 0,
            age_seconds: Some(age),
            idle_seconds: Some(idle),
            id: None,
            blocked_throughout: false,
            identity: crate::evidence::ClientIdentity::default(),
        }
    }

    /// Whether the taker of a message of 40 seconds ago may be among these, beside one worker that answers.
    fn taken(clients: &[ClientFacts]) -> bool {
        let mut own = [
            client("psubscribe", 900, 1),
            client("publish", 900, 1),
            client("brpop", 900, 0),
        ];
        own[2].blocked = true;
        let mut lab = Lab::new().worker("w1", &["celery"]).clients(&[]);
        let facts = lab.evidence.broker.server.seen_mut().expect("seen");
        facts.clients = Observed::Seen([&own, clients].concat());
        lab.evidence.may_have_been_taken(Some(NOW - 40.0))
    }

    #[test]
    fn a_connection_that_took_last_when_the_message_went_may_have_it() {
        assert!(taken(&[client("brpop", 60, 40)]));
        // One of several was acknowledged, or it waited for a moment more.
        assert!(taken(&[client("brpop", 60, 12)]));
        assert!(!taken(&[]), "the one there is the worker's that answers");
    }

    #[test]
    fn one_that_came_later_or_has_waited_longer_has_not() {
        assert!(!taken(&[client("brpop", 20, 12)]));
        assert!(!taken(&[client("brpop", 90, 70)]));
    }

    #[test]
    fn one_that_has_asked_the_workers_something_has_not() {
        let asked = |idle| [client("brpop", 90, idle), client("publish", 90, idle + 1)];
        assert!(!taken(&asked(12)));
        // At the very time of the delivery that can't be told.
        assert!(taken(&asked(40)));
        // A question explains one.
        let two = [asked(12).to_vec(), vec![client("brpop", 90, 12)]].concat();
        assert!(taken(&two));
    }

    #[test]
    fn a_connection_whose_database_is_not_told_may_be_one() {
        let mut unknown = client("brpop", 60, 40);
        unknown.database = None;
        assert!(taken(&[unknown.clone()]));
        unknown.database = Some(3);
        assert!(!taken(&[unknown]));
    }
}
