//! What CLIENT LIST tells of workers that answer no remote control.

use crate::evidence::{ClientFacts, Evidence};

/// Seconds within which a live worker has sent its last heartbeat: it sends one every 2 s, and does so to the end of a
/// warm shutdown (Celery 5.7 worker/heartbeat.py, `Heart`).
const HEARTBEAT: u64 = 3;

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
        let beating = self.connections(ClientFacts::beats).saturating_sub(known);
        // A worker that answers has two pattern subscriptions, for remote control and for gossip. Flower,
        // `celery events` and exporters have one, for all events.
        let listeners = self
            .connections(|c| c.pattern_subscriptions > 0)
            .saturating_sub(known.saturating_mul(2))
            .saturating_sub(self.bound(EVENT_EXCHANGE, |key| key != GOSSIP_KEY));
        let published = self.connections(|c| c.command == "publish");
        let signs = beating.max(listeners).max(busy.saturating_sub(published));
        blocked.max(busy.min(signs))
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
    fn connections(&self, wanted: fn(&ClientFacts) -> bool) -> usize {
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
}
