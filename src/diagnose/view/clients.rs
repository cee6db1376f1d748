//! What CLIENT LIST tells of workers that answer no remote control.

use std::time::Duration;

use super::Store;
use super::worker::DEFAULT_SWEEP_PERIOD;
use crate::evidence::{ClientFacts, Evidence};

/// Seconds within which a live worker has sent its last heartbeat: it sends one every 2 s, and does so to the end of a
/// warm shutdown (Celery 5.7 worker/heartbeat.py, `Heart`).
const HEARTBEAT: u64 = 3;

/// Seconds by which the ages of connections and of deliveries may differ: they were not read at one moment.
const MARGIN: f64 = 30.0;

/// Seconds after it connected from which on a connection that publishes does so again and again. A worker publishes once
/// over some others while it starts.
const STARTED: u64 = 2;

/// The exchange to which whoever has asked workers something binds the queue of the answers (kombu 5.7 pidbox.py).
const REPLY_EXCHANGE: &str = "reply.celery.pidbox";

/// The exchange to which whoever follows events binds a queue (Celery 5.7 events/event.py).
const EVENT_EXCHANGE: &str = "celeryev";

/// The routing key with which workers listen to each other (Celery 5.7 worker/consumer/gossip.py).
const GOSSIP_KEY: &str = "worker.#";

impl Evidence {
    /// How many connections last took a message from the broker's database with BRPOP, whether they wait for another or
    /// not. Zero where CLIENT LIST was not read.
    pub(in crate::diagnose) fn takers(&self) -> usize {
        self.connections(|c| c.command == "brpop")
    }

    /// How many more consumers there seem to be in the broker's database than workers answered: with
    /// `worker_enable_remote_control` off a worker is never heard, and one that shuts down warmly is heard no more. It
    /// blocks in BRPOP while it has room, as a client does that waits for the workers' answers. A busy one keeps BRPOP
    /// as its last command, as a client that has asked the workers something does (Flower keeps several such
    /// connections); but such a client has published its questions and publishes nothing by itself. So more is needed to
    /// count a busy one: heartbeats of more workers than are known, more listeners to the other workers' events than
    /// those have, or no connection that ever published. Zero where CLIENT LIST was not read, and where workers of one
    /// name answered as one, so that they cannot be counted.
    pub fn unheard_consumers(&self) -> usize {
        if self.answered().iter().any(|w| w.twins) {
            return 0;
        }
        if let Some(rabbit) = &self.rabbitmq {
            return self.unheard_on(rabbit);
        }
        let (answered, silent) = self
            .workers
            .seen()
            .map_or((0, 0), |w| (w.answered.len(), w.silent));
        let known = answered.saturating_add(usize::try_from(silent).unwrap_or(usize::MAX));
        let blocked = self
            .connections(|c| c.command == "brpop" && c.blocked)
            .saturating_sub(answered)
            .saturating_sub(self.asking());
        let busy = self.takers().saturating_sub(answered);
        let published = self.connections(|c| c.command == "publish");
        let signs = self
            .signs_of_life(known)
            .max(busy.saturating_sub(published));
        blocked.max(busy.min(signs))
    }

    /// Of [`Evidence::unheard_consumers`] those that may take what waits in a list: not those that stayed blocked in BRPOP
    /// while it stood there. A worker whose prefetch is full sends no BRPOP, so that it is not blocked.
    pub fn unheard_takers(&self) -> usize {
        let all = self.unheard_consumers();
        if self.rabbitmq.is_some() {
            return all;
        }
        all.min(self.connections(|c| c.command == "brpop" && !c.blocked_throughout))
    }

    /// Heartbeats of more workers than are known, or listeners to their events.
    fn signs_of_life(&self, known: usize) -> usize {
        let beating = self.connections(ClientFacts::beats).saturating_sub(known);
        // A worker that answers has two pattern subscriptions, for remote control and for gossip. Flower,
        // `celery events` and exporters have one, for all events.
        let listeners = self
            .connections(|c| c.pattern_subscriptions > 0)
            .saturating_sub(known.saturating_mul(2))
            .saturating_sub(self.bound(EVENT_EXCHANGE, |key| key != GOSSIP_KEY));
        beating.max(listeners)
    }

    /// Whether what takes messages unheard may hold one that was delivered then. Who has been blocked since before the
    /// delivery has taken nothing since, and what is far older than a connection was not delivered over it; a sweep
    /// would have restored it besides.
    pub(in crate::diagnose) fn unheard_may_hold(
        &self,
        store: Store<'_>,
        delivered_at: Option<f64>,
    ) -> bool {
        if self.unheard_consumers() == 0 {
            return false;
        }
        let Some(at) = delivered_at.filter(|_| self.rabbitmq.is_none()) else {
            return true;
        };
        let age = self.now() - at;
        let overdue = age > self.visibility(store).seconds + 2.0 * DEFAULT_SWEEP_PERIOD;
        let may_hold = |client: &ClientFacts| {
            let longer = |seconds: Option<u64>, than: f64| {
                seconds.is_none_or(|s| Duration::from_secs(s).as_secs_f64() + MARGIN > than)
            };
            let idle = client.idle_seconds.filter(|_| client.blocked);
            let waits = idle.is_some_and(|s| Duration::from_secs(s).as_secs_f64() > age + MARGIN);
            client.command == "brpop" && !waits && (!overdue || longer(client.age_seconds, age))
        };
        self.connections(may_hold) > 0
    }

    /// Whether what takes messages unheard is no worker that would restore what is in a store: each stays blocked while
    /// messages stand in lists, none shows a worker's heartbeats or interest in others', and what a worker would have put
    /// back is still there.
    pub(in crate::diagnose) fn only_strangers_beside(&self, store: Store<'_>) -> bool {
        let workers = self.workers.seen();
        let known = workers.map_or(0, |w| w.answered.len());
        let limit = self.visibility(store).seconds + 2.0 * DEFAULT_SWEEP_PERIOD;
        let oldest = self.reservations_of(store).and_then(|entry| entry.oldest);
        self.rabbitmq.is_none()
            && self.unheard_takers() == 0
            && self.signs_of_life(known) == 0
            && oldest.is_some_and(|at| self.now() - at > limit)
    }

    /// Why [`Evidence::unheard_consumers`] would not see a worker in a warm shutdown, which finishes what it has without
    /// answering; none where it would.
    pub(in crate::diagnose) fn endings_unseen(&self) -> Option<&'static str> {
        let clients = &self.broker.server.seen()?.clients;
        if self.rabbitmq.is_some() {
            None
        } else if clients.unseen().is_some() {
            Some("CLIENT LIST was not read")
        } else if self.answered().iter().any(|w| w.twins) {
            Some("several workers answer to one name, and can't be told apart in CLIENT LIST")
        } else {
            None
        }
    }

    /// How many clients seem to wait for answers of the workers. Those that are gone without a word are among them.
    pub(super) fn asking(&self) -> usize {
        self.bound(REPLY_EXCHANGE, |_| true)
    }

    /// How many queues are bound to an exchange with such a routing key. Those of clients that are gone without a word
    /// are among them.
    fn bound(&self, exchange: &str, wanted: fn(&str) -> bool) -> usize {
        let tables = self.bindings.seen().into_iter().flatten();
        tables
            .filter(|table| table.exchange == exchange)
            .flat_map(|table| &table.bindings)
            .filter(|binding| wanted(&binding.routing_key))
            .count()
    }

    /// The number of connections of this kind to the broker's database.
    fn connections(&self, wanted: impl Fn(&ClientFacts) -> bool) -> usize {
        self.clients_here().filter(|c| wanted(c)).count()
    }

    /// The connections to the broker's database, and those of which that can't be told.
    pub(super) fn clients_here(&self) -> impl Iterator<Item = &ClientFacts> {
        let clients = self.broker.server.seen().and_then(|s| s.clients.seen());
        let all = clients.into_iter().flatten();
        all.filter(|client| client.may_be_in(self.broker.database))
    }
}

impl ClientFacts {
    /// Whether a worker sends its heartbeats over this connection.
    pub(super) fn beats(&self) -> bool {
        let (Some(age), Some(idle)) = (self.age_seconds, self.idle_seconds) else {
            return false;
        };
        self.command == "publish" && idle <= HEARTBEAT && age.saturating_sub(idle) >= STARTED
    }
}

#[cfg(test)]
mod tests {
    use crate::celery::exchange::Binding;
    use crate::diagnose::judge;
    use crate::diagnose::testkit::Lab;
    use crate::evidence::{BindingTable, ClientFacts, ClientIdentity, Observed};

    fn client(command: &str, idle: u64) -> ClientFacts {
        ClientFacts {
            host: "10.0.0.1".to_owned(),
            database: Some(0),
            command: command.to_owned(),
            blocked: false,
            pattern_subscriptions: u64::from(command == "psubscribe"),
            age_seconds: Some(90),
            idle_seconds: Some(idle),
            id: None,
            blocked_throughout: false,
            identity: ClientIdentity::default(),
        }
    }

    fn unheard(mut lab: Lab, clients: Vec<ClientFacts>) -> usize {
        lab = lab.clients(&[]);
        let facts = lab.evidence.broker.server.seen_mut().expect("seen");
        facts.clients = Observed::Seen(clients);
        lab.evidence.unheard_consumers()
    }

    /// What a worker that answers has: remote control, gossip, heartbeats and BRPOP.
    fn heard() -> Vec<ClientFacts> {
        vec![
            client("psubscribe", 1),
            client("psubscribe", 1),
            client("publish", 1),
            client("publish", 40),
            client("brpop", 40),
        ]
    }

    /// Flower, as it stands some time after it asked its questions.
    fn flower() -> Vec<ClientFacts> {
        let asked = ["brpop", "brpop", "publish", "publish", "ping"];
        let mut clients: Vec<ClientFacts> = asked.map(|c| client(c, 60)).to_vec();
        clients.push(client("psubscribe", 0));
        clients
    }

    fn follower() -> BindingTable {
        BindingTable {
            prefix: String::new(),
            exchange: "celeryev".to_owned(),
            sep: "\u{6}\u{16}".to_owned(),
            bindings: ["worker.#", "#"]
                .map(|key| Binding {
                    routing_key: key.to_owned(),
                    pattern: String::new(),
                    queue: format!("celeryev.{key}"),
                })
                .to_vec(),
        }
    }

    #[test]
    fn flower_is_no_worker() {
        let mut lab = Lab::new().worker("w1", &["celery"]);
        lab.evidence.bindings = Observed::Seen(vec![follower()]);
        assert_eq!(unheard(lab, [heard(), flower()].concat()), 0);
        let mut alone = Lab::new();
        alone.evidence.bindings = Observed::Seen(vec![follower()]);
        assert_eq!(unheard(alone, flower()), 0);
    }

    #[test]
    fn a_worker_in_warm_shutdown_still_beats() {
        // Its subscriptions are gone, and its last task runs.
        let ending = || vec![client("brpop", 30), client("publish", 2)];
        assert_eq!(unheard(Lab::new(), ending()), 1);
        let other = Lab::new().worker("w1", &["celery"]);
        assert_eq!(unheard(other, [heard(), ending()].concat()), 1);
        let mut watched = Lab::new();
        watched.evidence.bindings = Observed::Seen(vec![follower()]);
        assert_eq!(unheard(watched, [flower(), ending()].concat()), 1);
    }

    #[test]
    fn a_busy_worker_without_remote_control_is_counted_beside_one_without_gossip() {
        let quiet = vec![
            client("psubscribe", 1),
            client("publish", 1),
            client("brpop", 1),
        ];
        let deaf = vec![
            client("psubscribe", 1),
            client("publish", 0),
            client("brpop", 50),
        ];
        let lab = Lab::new().worker("w1", &["celery"]);
        assert_eq!(unheard(lab, [quiet, deaf].concat()), 1);
    }

    #[test]
    fn who_takes_messages_and_never_published_is_no_client() {
        // Remote control, gossip, mingle and heartbeats are all off.
        assert_eq!(
            unheard(Lab::new(), vec![client("brpop", 50), client("exec", 50)]),
            1
        );
        let asked = vec![client("brpop", 50), client("publish", 50)];
        assert_eq!(unheard(Lab::new(), asked), 0);
    }

    #[test]
    fn a_client_that_waits_for_the_workers_answers_is_none() {
        let asking = || {
            let mut question = client("publish", 1);
            question.age_seconds = Some(1);
            let mut answer = client("brpop", 0);
            answer.blocked = true;
            vec![question, answer]
        };
        let mut lab = Lab::new().worker("w1", &["celery"]);
        lab.evidence.bindings = Observed::Seen(vec![BindingTable {
            exchange: "reply.celery.pidbox".to_owned(),
            ..follower()
        }]);
        lab.evidence.bindings.seen_mut().expect("seen")[0]
            .bindings
            .truncate(1);
        assert_eq!(unheard(lab, [heard(), asking()].concat()), 0);
        assert_eq!(unheard(Lab::new(), asking()), 1);
    }

    #[test]
    fn what_a_worker_publishes_at_its_start_is_no_heartbeat() {
        let mut hello = client("publish", 2);
        hello.age_seconds = Some(3);
        let lab = || {
            let mut lab = Lab::new().worker("w1", &["celery"]);
            lab.evidence.bindings = Observed::Seen(vec![follower()]);
            lab
        };
        let clients = [heard(), flower(), vec![hello]].concat();
        assert_eq!(unheard(lab(), clients), 0);
    }

    #[test]
    fn workers_that_all_answer_leave_none() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .worker("w2", &["celery"]);
        assert_eq!(unheard(lab, [heard(), heard()].concat()), 0);
    }

    /// A client of another program, blocked in BRPOP while messages stand in lists.
    fn foreign() -> ClientFacts {
        ClientFacts {
            blocked: true,
            blocked_throughout: true,
            ..client("brpop", 600)
        }
    }

    #[test]
    fn who_stays_blocked_beside_messages_takes_none_of_them() {
        let with = |client: ClientFacts| {
            let mut lab = Lab::new().clients(&[]);
            let facts = lab.evidence.broker.server.seen_mut().expect("seen");
            facts.clients = Observed::Seen(vec![client]);
            let evidence = lab.evidence;
            (evidence.unheard_consumers(), evidence.unheard_takers())
        };
        assert_eq!(with(foreign()), (1, 0));
        // One that was served meanwhile, or is busy, may take them.
        let mut served = foreign();
        served.blocked_throughout = false;
        assert_eq!(with(served), (1, 1));
    }

    /// The rules at work on a reservation of this age and a queue with messages, beside this client.
    fn said(client: ClientFacts, age: f64) -> Vec<String> {
        let mut lab = Lab::new()
            .clients(&[])
            .queued("t1", "celery")
            .unacked("t2", age);
        lab.workers_mut();
        let facts = lab.evidence.broker.server.seen_mut().expect("seen");
        facts.clients = Observed::Seen(vec![client]);
        let ids = ["t1".to_owned(), "t2".to_owned()];
        let found = judge(&lab.evidence, &ids);
        let of_tasks = found.traces.into_iter().flat_map(|trace| trace.findings);
        let all = found.findings.into_iter().chain(of_tasks);
        all.map(|finding| finding.code).collect()
    }

    #[test]
    fn a_stranger_hides_no_missing_worker() {
        let found = said(foreign(), 100_000.0);
        for code in ["CD101", "CD301", "CD308", "CD401", "CD701"] {
            assert!(found.iter().any(|one| one == code), "{code}: {found:?}");
        }
    }

    #[test]
    fn a_worker_without_remote_control_may_hold_what_is_young() {
        let found = said(foreign(), 1000.0);
        for code in ["CD308", "CD401", "CD701"] {
            assert!(found.iter().all(|one| one != code), "{code}: {found:?}");
        }
    }
}
