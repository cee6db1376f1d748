//! The workers' own word: who is there, what each consumes and knows, and who holds a task.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use super::Plan;
use super::audience::{listening, note_departed, still_answers, take_in};
use super::cleanup::Cleanup;
use super::mailbox::{Audience, Mailbox, Replies, Until, Voices};
use super::rabbitmq::amqp::AmqpClient;
use super::rabbitmq::control::Mailbox as AmqpMailbox;
use super::redis::control::Mailbox as RedisMailbox;
use super::redis::keys::Names;
use crate::celery::control::{self, Claim, ClaimState, Report, Stats, TASK_INFO_ITEMS};
use crate::config::url::RedisServer;
use crate::evidence::{
    BindingTable, Observed, Reason, Software, Why, Worker, WorkerClaim, Workers,
};

/// What a worker that does not run its tasks by these says of itself does not change while we look.
const STANDING: [&str; 5] = ["active_queues", "stats", "conf", "registered", "report"];

/// Where it is known who answers, no more than this is waited for the others.
pub(super) const GRACE: Duration = Duration::from_millis(300);

/// The open mailboxes, one for each key prefix, and what is known so far.
pub(crate) struct Panel {
    pub(super) mailboxes: Vec<(String, Mailbox)>,
    /// What the workers said.
    pub(crate) workers: Workers,
    /// Who received the last questions, by prefix.
    pub(super) audiences: HashMap<String, Audience>,
    pub(super) timeout: Duration,
    /// Which software the workers run.
    pub(super) software: BTreeMap<String, Software>,
}

/// Which workers should answer over AMQP, where no server counts the receivers.
#[derive(Clone, Copy)]
pub(crate) enum Expected<'a> {
    /// These nodes have a mailbox with a consumer, by the management API.
    Nodes(&'a BTreeSet<String>),
    /// Nobody told. The function says whether the answers explain all consumers that were seen; until then, the
    /// patience is waited for.
    Unknown(&'a (dyn Fn(&Replies) -> bool + Sync)),
}

/// How many tasks a worker has begun since it started, and its process, since a restart begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    process: i64,
    tasks: u64,
}

impl Begun {
    /// By the worker's own word; none where it does not name its process.
    pub(crate) fn of(stats: &Stats) -> Option<Self> {
        let process = stats.pid?;
        let tasks = stats.begun();
        Some(Self { process, tasks })
    }
}

/// What workers say about tasks.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// By task id.
    pub(crate) held: BTreeMap<String, Vec<WorkerClaim>>,
    /// Nodes, by the ids that they have revoked.
    pub(crate) revoked: BTreeMap<String, Vec<String>>,
}

impl Panel {
    /// Asks under every prefix who is there and what each consumes, knows and is configured with.
    pub(crate) async fn open(
        plan: &Plan,
        server: &RedisServer,
        tables: &[BindingTable],
        names: &Names,
        cleanup: &Cleanup,
    ) -> Result<Self, Why> {
        let mut panel = Self::empty(plan.timeout);
        let given = plan.key_prefix.clone().unwrap_or_default();
        for prefix in &names.prefixes {
            let declared = Names::mailboxes(tables, prefix);
            // A prefix without any mailbox has no workers; nothing need be announced there.
            if declared.is_empty() && *prefix != given {
                continue;
            }
            let sep = Names::reply_separator(tables, prefix);
            let exchanges = Names::control_exchanges(tables, prefix);
            let mailbox = RedisMailbox::open(server, prefix, &sep, exchanges, cleanup).await?;
            let mailbox = Mailbox::Redis(Box::new(mailbox));
            panel
                .introduce(prefix, &mailbox, declared, Until::Everyone)
                .await?;
            panel.mailboxes.push((prefix.clone(), mailbox));
        }
        Ok(panel)
    }

    /// Asks over AMQP who is there and what each consumes, knows and is configured with.
    ///
    /// # Errors
    /// Also where the broker blocks publishers: then no worker was asked, and none is silent.
    pub(crate) async fn open_amqp(
        client: &AmqpClient,
        timeout: Duration,
        expected: Expected<'_>,
        cleanup: &Cleanup,
    ) -> Result<Self, Why> {
        let mut panel = Self::empty(timeout);
        let known: Audience;
        let (declared, until) = match expected {
            Expected::Nodes(nodes) => {
                known = Audience {
                    voices: nodes.iter().map(|node| (node.clone(), 1)).collect(),
                    ..Audience::default()
                };
                (nodes.iter().cloned().collect(), Until::Nodes(&known))
            }
            Expected::Unknown(explained) => (Vec::new(), Until::Explained(explained)),
        };
        let Some(mailbox) = AmqpMailbox::open(client, cleanup).await? else {
            panel.workers.silent = declared.len() as u64;
            panel.workers.unanswered_names = declared;
            return Ok(panel);
        };
        let mailbox = Mailbox::Amqp(Box::new(mailbox));
        panel.introduce("", &mailbox, declared, until).await?;
        note_departed(&mut panel.workers, &mailbox);
        // Every node has a queue of its own, so that the names say how many are silent.
        panel.workers.silent = panel.workers.unanswered_names.len() as u64;
        panel.mailboxes.push((String::new(), mailbox));
        Ok(panel)
    }

    fn empty(timeout: Duration) -> Self {
        Self {
            mailboxes: Vec::new(),
            workers: Workers {
                answered: Vec::new(),
                silent: 0,
                unreadable: BTreeMap::new(),
                unanswered_names: Vec::new(),
                unsettled: Vec::new(),
                others_unsettled: false,
                timeout_seconds: timeout.as_secs_f64(),
            },
            audiences: HashMap::new(),
            timeout,
            software: BTreeMap::new(),
        }
    }

    async fn introduce(
        &mut self,
        prefix: &str,
        mailbox: &Mailbox,
        declared: Vec<String>,
        until: Until<'_>,
    ) -> Result<(), Why> {
        let requests = STANDING.map(|method| {
            let arguments = match method {
                "registered" => json!({"taskinfoitems": TASK_INFO_ITEMS, "builtins": true}),
                // Else settings stand under the names that the project gave them, which only the app can tell.
                "conf" => json!({"with_defaults": true}),
                _ => json!({}),
            };
            (method, arguments)
        });
        let answers = mailbox.ask(&requests, self.timeout, until).await?;
        let nodes = nodes(&answers);
        let answering: u64 = nodes.values().sum();
        let receivers = answers
            .values()
            .map(|a| a.receivers)
            .max()
            .unwrap_or_default();
        let audience = Audience {
            voices: nodes.clone(),
            silent: receivers.saturating_sub(answering),
            strangers: 0,
        };
        self.workers.silent += audience.silent;
        self.note_unreadable(&answers);
        self.audiences.insert(prefix.to_owned(), audience);
        let silent_names = declared
            .into_iter()
            .filter(|node| !nodes.contains_key(node));
        self.workers.unanswered_names.extend(silent_names);
        for (node, voices) in nodes {
            if let Some(report) = report(&answers, &node) {
                let Report { celery, kombu, .. } = report;
                self.software
                    .insert(node.clone(), Software { celery, kombu });
            }
            self.workers
                .answered
                .push(worker(prefix, &node, voices > 1, &answers));
        }
        self.workers
            .answered
            .sort_by(|a, b| (&a.prefix, &a.node).cmp(&(&b.prefix, &b.node)));
        Ok(())
    }

    /// Notes how many answered what can't be read. Who answers one question so answers all so.
    fn note_unreadable(&mut self, answers: &Replies) {
        let mut most: BTreeMap<&String, u64> = BTreeMap::new();
        for (content_type, count) in answers.values().flat_map(|answers| &answers.unreadable) {
            let known = most.entry(content_type).or_default();
            *known = (*known).max(*count);
        }
        for (content_type, count) in most {
            *self
                .workers
                .unreadable
                .entry(content_type.clone())
                .or_default() += count;
        }
    }

    /// Asks the workers that are known how many tasks they have begun; who does not tell is left out.
    pub(crate) async fn begun(&self) -> Result<BTreeMap<String, Begun>, Why> {
        let mut begun = BTreeMap::new();
        for (prefix, mailbox) in &self.mailboxes {
            let Some(known) = listening(&self.audiences, prefix, mailbox) else {
                continue;
            };
            let answers = mailbox
                .ask(&[("stats", json!({}))], self.timeout, Until::Nodes(known))
                .await?;
            for worker in self.workers.answered.iter().filter(|w| w.prefix == *prefix) {
                let said = said(&answers, "stats", &worker.node);
                let stats = said.seen().and_then(|given| given.first());
                if let Some(count) =
                    stats.and_then(|stats| Begun::of(&control::decode_stats(stats)))
                {
                    begun.insert(worker.node.clone(), count);
                }
            }
        }
        Ok(begun)
    }

    /// Asks who holds these tasks: all where no ids are given. `scheduled` is asked only where wanted, because it
    /// costs a worker with many ETA tasks dear.
    pub(crate) async fn claims(
        &mut self,
        ids: Option<&BTreeSet<String>>,
        scheduled: bool,
    ) -> Result<Claims, Why> {
        let mut requests = vec![
            ("active", json!({"safe": true})),
            ("reserved", json!({})),
            ("revoked", json!({})),
        ];
        if let Some(ids) = ids {
            requests.push(("query_task", json!({"ids": ids})));
        }
        if scheduled || ids.is_none() {
            requests.push(("scheduled", json!({})));
        }
        let mut claims = Claims::default();
        for (prefix, mailbox) in &self.mailboxes {
            let Some(known) = listening(&self.audiences, prefix, mailbox) else {
                continue;
            };
            let all_there = self.workers.silent == 0;
            let patience = if all_there {
                self.timeout
            } else {
                self.timeout.max(GRACE)
            };
            let answers = mailbox
                .ask(&requests, patience, Until::Nodes(known))
                .await?;
            let received = mailbox.received(answers.values().map(|answers| answers.receivers));
            let audience = take_in(&mut self.workers, prefix, known, nodes(&answers), received);
            note_departed(&mut self.workers, mailbox);
            for worker in self
                .workers
                .answered
                .iter_mut()
                .filter(|w| w.prefix == *prefix)
            {
                note_work(worker, &answers, ids, &mut claims);
            }
            // Who came meanwhile was not asked everything; its word about a task is as good as any.
            for node in audience.voices.keys() {
                if !still_answers(&self.workers, prefix, node) {
                    let mut newcomer = worker(prefix, node, false, &answers);
                    note_work(&mut newcomer, &answers, ids, &mut claims);
                }
            }
            self.audiences.insert(prefix.clone(), audience);
        }
        Ok(claims)
    }
}

/// The nodes that answered anything, and with how many voices each.
fn nodes(answers: &Replies) -> Voices {
    let mut nodes = Voices::new();
    for answers in answers.values() {
        for (node, given) in &answers.by_node {
            let voices = nodes.entry(node.clone()).or_insert(0);
            *voices = (*voices).max(given.len() as u64);
        }
    }
    nodes
}

/// What a node answered to a question, where it did and did not fail.
fn said<'a>(answers: &'a Replies, method: &str, node: &str) -> Observed<Vec<&'a Value>> {
    let given = answers
        .get(method)
        .and_then(|answers| answers.by_node.get(node));
    match given {
        None => Observed::Unseen(Why::new(
            Reason::TimedOut,
            format!("{node} did not answer {method}"),
        )),
        Some(given) if given.iter().any(control::is_error) => Observed::Unseen(Why::new(
            Reason::Refused,
            format!("{node} failed to answer {method}"),
        )),
        Some(given) => Observed::Seen(given.iter().collect()),
    }
}

/// What a node answered to `report`.
fn report(answers: &Replies, node: &str) -> Option<Report> {
    let given = said(answers, "report", node);
    Some(control::decode_report(given.seen()?.first()?))
}

fn worker(prefix: &str, node: &str, twins: bool, answers: &Replies) -> Worker {
    let first = |method: &str| said(answers, method, node).map(|given| given[0].clone());
    let queues = said(answers, "active_queues", node).map(|given| {
        given
            .into_iter()
            .flat_map(control::decode_active_queues)
            .collect()
    });
    let registered = said(answers, "registered", node).map(|given| {
        given
            .into_iter()
            .flat_map(control::decode_registered)
            .collect()
    });
    Worker {
        node: node.to_owned(),
        prefix: prefix.to_owned(),
        twins,
        dialect: answers
            .values()
            .find_map(|answers| answers.dialects.get(node).cloned()),
        queues,
        registered,
        stats: first("stats").map(|value| control::decode_stats(&value)),
        conf: first("conf").map(|value| {
            let mut conf = control::decode_conf(&value);
            if let Some(results) = report(answers, node).and_then(|report| report.results) {
                conf.set_result_backend(&results);
            }
            conf
        }),
        active: Observed::not_asked("not asked yet"),
        reserved: Observed::not_asked("not asked yet"),
        scheduled: Observed::not_asked("not asked: every id was accounted for without it"),
    }
}

/// Notes what a worker runs and holds, and which of the ids it claims.
fn note_work(
    worker: &mut Worker,
    answers: &Replies,
    ids: Option<&BTreeSet<String>>,
    claims: &mut Claims,
) {
    let node = worker.node.clone();
    let wanted = |id: &str| ids.is_none_or(|ids| ids.contains(id));
    let list = |method: &str, decode: fn(&Value) -> Vec<Claim>| {
        said(answers, method, &node)
            .map(|given| given.into_iter().flat_map(decode).collect::<Vec<Claim>>())
    };
    let active = list("active", control::decode_active);
    let reserved = list("reserved", control::decode_reserved);
    let scheduled = list("scheduled", control::decode_scheduled);
    let queried = list("query_task", control::decode_query_task);
    // `query_task` is exact but for ETA tasks before Celery 5.7; the lists say the rest.
    for claim in queried.seen().into_iter().flatten() {
        if wanted(&claim.id) {
            hold(claims, &node, claim);
        }
    }
    // It names each id once, and the lists have each run: a task goes from the last of them to the first, and can't be
    // met twice on its way.
    let mut times: BTreeMap<&str, u64> = BTreeMap::new();
    let lists = [&active, &reserved, &scheduled];
    for claim in lists.into_iter().filter_map(Observed::seen).flatten() {
        if wanted(&claim.id) {
            let again = times.entry(&claim.id).or_default();
            let known = hold(claims, &node, claim);
            known.again = *again;
            *again += 1;
        }
    }
    for id in said(answers, "revoked", &node).seen().into_iter().flatten() {
        for id in control::decode_revoked(id)
            .into_iter()
            .filter(|id| wanted(id))
        {
            claims.revoked.entry(id).or_default().push(node.clone());
        }
    }
    worker.active = active;
    worker.reserved = reserved.map(|claims| claims.len() as u64);
    if !matches!(&scheduled, Observed::Unseen(_)) {
        worker.scheduled = scheduled.map(|claims| claims.len() as u64);
    }
}

/// Adds a claim, or makes an earlier one of the same node more exact.
fn hold<'c>(claims: &'c mut Claims, node: &str, claim: &Claim) -> &'c mut WorkerClaim {
    let held = claims.held.entry(claim.id.clone()).or_default();
    let at = held.iter().position(|known| known.node == node);
    let at = at.unwrap_or_else(|| {
        held.push(WorkerClaim {
            node: node.to_owned(),
            claim: claim.clone(),
            again: 0,
        });
        held.len() - 1
    });
    let known = &mut held[at];
    known.claim.eta = known.claim.eta.or(claim.eta);
    // What it runs counts for more than what waits beside it.
    if known.claim.state == ClaimState::Ready
        || (claim.state == ClaimState::Active && known.claim.state != ClaimState::Active)
    {
        let eta = known.claim.eta;
        known.claim = Claim {
            eta,
            ..claim.clone()
        };
    }
    known
}
