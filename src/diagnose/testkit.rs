//! Small evidence for the tests of rules and verdicts.

mod rabbit;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub(crate) use self::rabbit::Rabbit;
use super::{Case, Check, Finding, Rule, Thresholds};
use crate::celery::control::{ActiveQueue, Claim, ClaimState, Conf, Stats, TaskTraits};
use crate::celery::message::{Envelope, Protocol};
use crate::celery::result::ResultDoc;
use crate::evidence::{
    Broker, CanvasGap, Census, Class, ClientFacts, ClientIdentity, Copy, Evidence, Health, List,
    Observed, Place, Read, ReadStatus, Reason, RedisAddress, RedisEndpoint, Reservations,
    ResultBackend, Scope, ServerFacts, Source, StoredResult, TaskEvidence, UnackedNames, Why,
    Worker, WorkerClaim, Workers,
};

/// The task that every message carries unless a test says otherwise.
pub(crate) const TASK: &str = "shop.send_mail";

/// A deployment in the making. Everything is complete and healthy until a test breaks it.
pub(crate) struct Lab {
    /// The evidence as it stands; tests may change it directly.
    pub(crate) evidence: Evidence,
}

/// The moment of every reading in tests.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a valid time")
}

/// The same moment in Unix seconds.
pub(crate) const NOW: f64 = 1_800_000_000.0;

/// The names of findings, for short assertions.
pub(crate) fn names(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .map(|finding| finding.name.as_str())
        .collect()
}

/// An envelope of an ordinary task.
pub(crate) fn envelope(id: &str) -> Envelope {
    Envelope {
        protocol: Protocol::Two,
        id: id.to_owned(),
        task: Some(TASK.to_owned()),
        content_type: Some("application/json".to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        exchange: Some(String::new()),
        routing_key: Some("celery".to_owned()),
        delivery_tag: Some(format!("tag-{id}")),
        ..empty_envelope(id)
    }
}

/// An envelope with nothing in it but the id.
pub(crate) fn empty_envelope(id: &str) -> Envelope {
    Envelope {
        protocol: Protocol::Two,
        id: id.to_owned(),
        task: None,
        eta: None,
        expires: None,
        retries: None,
        root_id: None,
        parent_id: None,
        group: None,
        origin: None,
        correlation_id: None,
        reply_to: None,
        delivery_tag: None,
        exchange: None,
        routing_key: None,
        redelivered: false,
        priority: None,
        content_type: None,
        content_encoding: None,
        compression: None,
        ignore_result: None,
        time_limit: None,
        chord: None,
        chain_next: None,
        canvas: Vec::new(),
        body_bytes: 0,
        args: None,
    }
}

/// A result document in this state, with nothing else in it.
pub(crate) fn doc_of_state(state: &str) -> ResultDoc {
    ResultDoc {
        state: state.to_owned(),
        date_done: None,
        exc_type: None,
        worker: None,
        pid: None,
        parent_id: None,
        group_id: None,
        children: Vec::new(),
        name: None,
        queue: None,
        retries: None,
        revoked_for: None,
        ready: ["SUCCESS", "FAILURE", "REVOKED"].contains(&state),
    }
}

/// A database of the Redis server of a test.
pub(crate) fn endpoint(database: u32) -> RedisEndpoint {
    RedisEndpoint {
        address: RedisAddress::Tcp {
            host: "localhost".to_owned(),
            port: 6379,
        },
        database,
        username: None,
        password: false,
        tls: None,
    }
}

impl Lab {
    /// A healthy, empty deployment in which everything was read.
    pub(crate) fn new() -> Self {
        let sources = [
            Source::Server,
            Source::Bindings,
            Source::Queues,
            Source::Unacked,
            Source::Workers,
            Source::Results,
            Source::Clients,
            Source::OtherDatabases,
        ];
        let reads = sources.map(|source| Read {
            source,
            status: ReadStatus::Complete,
            detail: "read whole".to_owned(),
            elapsed_ms: 1,
            reason: None,
        });
        let reservations = Reservations {
            prefix: String::new(),
            names: UnackedNames::default(),
            unacked: 0,
            indexed: 0,
            malformed: 0,
            oldest: None,
            newest: None,
            mutex: None,
        };
        Self {
            evidence: Evidence {
                taken_at: now(),
                scope: Scope::Ids(Vec::new()),
                broker: Broker {
                    url: "redis://localhost:6379/0".to_owned(),
                    kind: "redis".to_owned(),
                    database: 0,
                    endpoint: Some(endpoint(0)),
                    server: Observed::not_asked("a test"),
                },
                result_backend: ResultBackend {
                    url: Some("redis://localhost:6379/1".to_owned()),
                    kind: "redis".to_owned(),
                    readable: Observed::Seen(()),
                    endpoint: Some(endpoint(1)),
                    key_prefix: String::new(),
                },
                bindings: Observed::Seen(Vec::new()),
                lists: Observed::Seen(Vec::new()),
                reservations: Observed::Seen(vec![reservations]),
                other_databases: Observed::Seen(Vec::new()),
                rabbitmq: None,
                workers: Observed::Seen(Workers {
                    answered: Vec::new(),
                    silent: 0,
                    unreadable: BTreeMap::new(),
                    unanswered_names: Vec::new(),
                    unsettled: Vec::new(),
                    others_unsettled: false,
                    timeout_seconds: 2.0,
                }),
                tasks: BTreeMap::new(),
                canvases: BTreeMap::new(),
                canvas_gap: CanvasGap::default(),
                of_waiting_chords: BTreeSet::new(),
                census: None,
                reads: reads.to_vec(),
                visibility_timeout_given: None,
            },
        }
    }

    /// Adds a worker with one slot, which consumes these queues and knows [`TASK`].
    pub(crate) fn worker(mut self, node: &str, queues: &[&str]) -> Self {
        let queues = queues.iter().map(|name| ActiveQueue {
            name: (*name).to_owned(),
            exchange: Some((*name).to_owned()),
            exchange_type: Some("direct".to_owned()),
            routing_key: Some((*name).to_owned()),
        });
        let worker = Worker {
            node: node.to_owned(),
            prefix: String::new(),
            twins: false,
            dialect: None,
            queues: Observed::Seen(queues.collect()),
            registered: Observed::Seen(BTreeMap::from([(TASK.to_owned(), TaskTraits::default())])),
            stats: Observed::Seen(Stats {
                concurrency: Some(1),
                ..Stats::default()
            }),
            conf: Observed::Seen(Conf::defaults()),
            active: Observed::Seen(Vec::new()),
            reserved: Observed::Seen(0),
            scheduled: Observed::Seen(0),
        };
        self.workers_mut().answered.push(worker);
        self
    }

    /// The answers of the workers, to be changed.
    pub(crate) fn workers_mut(&mut self) -> &mut Workers {
        self.evidence
            .workers
            .seen_mut()
            .expect("the lab's workers are seen")
    }

    /// Changes the worker that was added last.
    pub(crate) fn with_worker(mut self, change: impl FnOnce(&mut Worker)) -> Self {
        change(
            self.workers_mut()
                .answered
                .last_mut()
                .expect("a worker was added"),
        );
        self
    }

    /// Adds a worker that is subscribed and does not answer.
    pub(crate) fn silent(mut self, node: &str) -> Self {
        self.workers_mut().silent += 1;
        self.workers_mut().unanswered_names.push(node.to_owned());
        self.read_only_part(Source::Workers, Reason::TimedOut)
    }

    /// Marks a place as read in part only.
    pub(crate) fn read_only_part(mut self, source: Source, reason: Reason) -> Self {
        for read in self
            .evidence
            .reads
            .iter_mut()
            .filter(|read| read.source == source)
        {
            read.status = ReadStatus::Partial;
            read.reason = Some(reason);
        }
        self
    }

    /// Marks a place as not read at all.
    pub(crate) fn unread(mut self, source: Source, reason: Reason) -> Self {
        for read in self
            .evidence
            .reads
            .iter_mut()
            .filter(|read| read.source == source)
        {
            read.status = ReadStatus::Unavailable;
            read.reason = Some(reason);
        }
        let why = || Why::new(reason, "a test");
        match source {
            Source::Workers => self.evidence.workers = Observed::Unseen(why()),
            Source::Queues => self.evidence.lists = Observed::Unseen(why()),
            Source::Unacked => self.evidence.reservations = Observed::Unseen(why()),
            Source::Bindings => self.evidence.bindings = Observed::Unseen(why()),
            Source::Results => {
                self.evidence.result_backend.readable = Observed::Unseen(why());
                for task in self.evidence.tasks.values_mut() {
                    task.first_result = Observed::Unseen(why());
                    task.result = Observed::Unseen(why());
                }
            }
            _ => {}
        }
        self
    }

    /// The facts about an id, which is traced from now on.
    pub(crate) fn task(&mut self, id: &str) -> &mut TaskEvidence {
        self.evidence
            .tasks
            .entry(id.to_owned())
            .or_insert_with(|| TaskEvidence {
                copies: Vec::new(),
                claims: Vec::new(),
                revoked_by: Vec::new(),
                first_result: Observed::Seen(None),
                result: Observed::Seen(None),
                chord: Observed::Seen(None),
                children: Vec::new(),
                saved_group: None,
                locks: Vec::new(),
            })
    }

    /// Traces an id that nothing knows.
    pub(crate) fn absent(mut self, id: &str) -> Self {
        self.task(id);
        self
    }

    /// Puts an ordinary message into a queue.
    pub(crate) fn queued(self, id: &str, queue: &str) -> Self {
        self.queued_as(queue, envelope(id))
    }

    /// Puts this message into a queue.
    pub(crate) fn queued_as(mut self, queue: &str, envelope: Envelope) -> Self {
        self.list(queue, queue, None);
        let id = envelope.id.clone();
        let place = Place::Queue {
            key: queue.to_owned(),
            position: 1,
            of: 1,
        };
        self.task(&id).copies.push(Copy { place, envelope });
        self
    }

    /// Adds one to the length of a list, which is added where it is not there yet.
    pub(crate) fn list(&mut self, key: &str, queue: &str, priority: Option<(String, i64)>) {
        let lists = self
            .evidence
            .lists
            .seen_mut()
            .expect("the lab's lists are seen");
        if let Some(list) = lists.iter_mut().find(|list| list.key == key) {
            list.length += 1;
            return;
        }
        lists.push(List {
            key: key.to_owned(),
            prefix: String::new(),
            queue: queue.to_owned(),
            priority,
            named: true,
            length: 1,
            malformed: 0,
            read: Observed::Seen(()),
        });
    }

    /// Puts an ordinary message of the queue `celery` into `unacked`, delivered so many seconds ago.
    pub(crate) fn unacked(self, id: &str, seconds_ago: f64) -> Self {
        self.unacked_as(envelope(id), Some(NOW - seconds_ago))
    }

    /// Puts this message into `unacked`.
    pub(crate) fn unacked_as(mut self, envelope: Envelope, delivered_at: Option<f64>) -> Self {
        let all = self
            .evidence
            .reservations
            .seen_mut()
            .expect("the lab's reservations are seen");
        all[0].unacked += 1;
        if let Some(score) = delivered_at {
            all[0].indexed += 1;
            all[0].oldest = Some(all[0].oldest.map_or(score, |oldest| oldest.min(score)));
            all[0].newest = Some(all[0].newest.map_or(score, |newest| newest.max(score)));
        }
        let id = envelope.id.clone();
        let place = Place::Unacked {
            prefix: String::new(),
            names: UnackedNames::default(),
            tag: format!("tag-{id}"),
            delivered_at,
            exchange: String::new(),
            routing_key: "celery".to_owned(),
        };
        self.task(&id).copies.push(Copy { place, envelope });
        self
    }

    /// Lets a worker say that it holds a task in this state. An active one has run for a minute.
    pub(crate) fn claimed(mut self, id: &str, node: &str, state: ClaimState) -> Self {
        let claim = Claim {
            id: id.to_owned(),
            task: Some(TASK.to_owned()),
            time_start: (state == ClaimState::Active).then_some(NOW - 60.0),
            state,
            eta: None,
            acknowledged: None,
            redelivered: false,
            exchange: Some(String::new()),
            routing_key: Some("celery".to_owned()),
            pid: None,
        };
        let holder = WorkerClaim {
            again: 0,
            node: node.to_owned(),
            claim: claim.clone(),
        };
        self.task(id).claims.push(holder);
        let workers = &mut self.workers_mut().answered;
        let worker = workers.iter_mut().find(|worker| worker.node == node);
        if let (ClaimState::Active, Some(worker)) = (state, worker) {
            worker
                .active
                .seen_mut()
                .expect("the lab's worker said what it runs")
                .push(claim);
        }
        self
    }

    /// Stores a result in this state, before the reading and after it.
    pub(crate) fn result(self, id: &str, state: &str) -> Self {
        self.result_as(id, doc_of_state(state))
    }

    /// Stores this result, before the reading and after it. It expires in half a day.
    pub(crate) fn result_as(mut self, id: &str, doc: ResultDoc) -> Self {
        let stored = StoredResult {
            doc,
            ttl_seconds: Some(43_200.0),
        };
        let task = self.task(id);
        task.first_result = Observed::Seen(Some(stored.clone()));
        task.result = Observed::Seen(Some(stored));
        self
    }

    /// Adds the broker's connections, each by its last command.
    pub(crate) fn clients(self, commands: &[&str]) -> Self {
        let clients = commands.iter().map(|command| ClientFacts {
            host: "10.0.0.1".to_owned(),
            database: Some(0),
            command: (*command).to_owned(),
            blocked: true,
            pattern_subscriptions: 0,
            age_seconds: Some(90),
            idle_seconds: Some(60),
            id: None,
            blocked_throughout: false,
            identity: ClientIdentity::default(),
        });
        self.server(|server| server.clients = Observed::Seen(clients.collect()))
    }

    /// Changes what the server says of itself, which is nothing at first.
    pub(crate) fn server(mut self, change: impl FnOnce(&mut ServerFacts)) -> Self {
        let server = &mut self.evidence.broker.server;
        if server.seen().is_none() {
            *server = Observed::Seen(ServerFacts {
                version: Observed::not_asked("a test"),
                uptime_seconds: Observed::not_asked("a test"),
                role: Observed::not_asked("a test"),
                connected_replicas: Observed::not_asked("a test"),
                append_only: Observed::not_asked("a test"),
                rdb_saves: Observed::not_asked("a test"),
                maxmemory: Observed::not_asked("a test"),
                maxmemory_policy: Observed::not_asked("a test"),
                used_memory: Observed::not_asked("a test"),
                evicted_keys: Observed::not_asked("a test"),
                clock_ahead_seconds: Observed::Seen(0.0),
                clients: Observed::not_asked("a test"),
                health: Health::default(),
            });
        }
        change(server.seen_mut().expect("the server was seen"));
        self
    }

    /// Counts what there is, as a reading of everything does: each task is a class of its own.
    pub(crate) fn counted(mut self) -> Self {
        let classes = self.evidence.tasks.iter().map(|(id, task)| Class {
            id: id.clone(),
            count: 1,
            ids: vec![id.clone()],
            task: task.clone(),
        });
        self.evidence.census = Some(Census {
            classes: classes.collect(),
            ..Census::default()
        });
        self.evidence.scope = Scope::Everything;
        self
    }

    /// What a rule says: of this id, or of the deployment.
    pub(crate) fn check(&self, rule: &Rule, id: &str) -> Vec<Finding> {
        if let Check::Audit(check) = rule.check {
            return check(&self.evidence, &Thresholds::default());
        }
        let of_task = rule.check.of_task().filter(|_| !id.is_empty());
        let case = || Case::of(&self.evidence, id).expect("the id was traced");
        let mut findings = of_task.map_or_else(Vec::new, |check| check(&case()));
        if let Some(check) = rule.check.of_deployment() {
            findings.extend(check(&self.evidence));
        }
        findings
    }
}
