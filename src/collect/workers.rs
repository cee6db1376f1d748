//! The workers' own word: who is there, what each consumes and knows, and who holds a task.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use super::Plan;
use super::cleanup::Cleanup;
use super::mailbox::{Mailbox, Replies, Until, Voices};
use super::rabbitmq::amqp::AmqpClient;
use super::rabbitmq::control::Mailbox as AmqpMailbox;
use super::redis::control::Mailbox as RedisMailbox;
use super::redis::keys::Names;
use crate::celery::control::{self, Claim, ClaimState, Stats, TASK_INFO_ITEMS};
use crate::config::url::RedisServer;
use crate::evidence::{BindingTable, Observed, Reason, Why, Worker, WorkerClaim, Workers};

/// What a worker that does not run its tasks by these says of itself does not change while we look.
const STANDING: [&str; 4] = ["active_queues", "stats", "conf", "registered"];

/// Where it is known who answers, no more than this is waited for the others.
pub(super) const GRACE: Duration = Duration::from_millis(300);

/// The open mailboxes, one for each key prefix, and what is known so far.
pub(crate) struct Panel {
    pub(super) mailboxes: Vec<(String, Mailbox)>,
    /// What the workers said.
    pub(crate) workers: Workers,
    /// Who answered the last questions, by prefix.
    pub(super) answering: HashMap<String, Voices>,
    pub(super) timeout: Duration,
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
        let voices: Voices;
        let (declared, until) = match expected {
            Expected::Nodes(nodes) => {
                voices = nodes.iter().map(|node| (node.clone(), 1)).collect();
                (nodes.iter().cloned().collect(), Until::Nodes(&voices))
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
                unanswered_names: Vec::new(),
                unsettled: Vec::new(),
                timeout_seconds: timeout.as_secs_f64(),
            },
            answering: HashMap::new(),
            timeout,
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
        self.answering.insert(prefix.to_owned(), nodes.clone());
        self.workers.silent += receivers.saturating_sub(answering);
        let silent_names = declared
            .into_iter()
            .filter(|node| !nodes.contains_key(node));
        self.workers.unanswered_names.extend(silent_names);
        for (node, voices) in nodes {
            self.workers
                .answered
                .push(worker(prefix, &node, voices > 1, &answers));
        }
        self.workers
            .answered
            .sort_by(|a, b| (&a.prefix, &a.node).cmp(&(&b.prefix, &b.node)));
        Ok(())
    }

    /// Asks the workers that are known how many tasks they have begun; who does not tell is left out.
    pub(crate) async fn begun(&self) -> Result<BTreeMap<String, Begun>, Why> {
        let mut begun = BTreeMap::new();
        for (prefix, mailbox) in &self.mailboxes {
            let Some(known) = self.answering.get(prefix).filter(|known| !known.is_empty()) else {
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
            let Some(known) = self.answering.get(prefix).filter(|known| !known.is_empty()) else {
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
            let nodes = nodes(&answers);
            let receivers = answers.values().map(|answers| answers.receivers).min();
            let unheard = unheard(mailbox, receivers, &nodes);
            drop_unheard(&mut self.workers, prefix, &nodes, unheard);
            note_departed(&mut self.workers, mailbox);
            self.answering.insert(prefix.clone(), nodes);
            for worker in self
                .workers
                .answered
                .iter_mut()
                .filter(|w| w.prefix == *prefix)
            {
                note_work(worker, &answers, ids, &mut claims);
            }
        }
        Ok(claims)
    }
}

/// How many received a question and answered nothing; none where the broker does not tell.
pub(super) fn unheard(mailbox: &Mailbox, receivers: Option<u64>, nodes: &Voices) -> Option<u64> {
    let answered: u64 = nodes.values().sum();
    match mailbox {
        Mailbox::Redis(_) => receivers.map(|receivers| receivers.saturating_sub(answered)),
        Mailbox::Amqp(_) => None,
    }
}

/// Takes out the workers that answered before and do not any more: those that received the question fell silent, the
/// others left meanwhile. Where nobody tells who received it, they count as silent until their mailboxes are looked at.
/// Notes who came meanwhile, too.
pub(super) fn drop_unheard(
    workers: &mut Workers,
    prefix: &str,
    nodes: &Voices,
    unheard: Option<u64>,
) {
    let mut gone = Vec::new();
    workers.answered.retain(|worker| {
        let here = worker.prefix != prefix || nodes.contains_key(&worker.node);
        if !here {
            gone.push(worker.node.clone());
        }
        here
    });
    let all = gone.len() as u64;
    let silent = unheard.map_or(all, |unheard| {
        unheard.saturating_sub(workers.silent).min(all)
    });
    let mut unsettled: Vec<String> = nodes
        .keys()
        .filter(|node| !is_known(workers, prefix, node))
        .cloned()
        .collect();
    if silent < all {
        unsettled.extend(gone.iter().cloned());
    }
    unsettled.retain(|node| !workers.unsettled.contains(node));
    workers.unsettled.extend(unsettled);
    if silent > 0 {
        workers.silent += silent;
        workers.unanswered_names.extend(gone);
    }
}

/// Those that were seen to go are not silent, though one of the same name may be there by now.
pub(super) fn note_departed(workers: &mut Workers, mailbox: &Mailbox) {
    let departed = mailbox.departed();
    let before = workers.unanswered_names.len();
    (workers.unanswered_names).retain(|node| !departed.contains(node));
    let gone = (before - workers.unanswered_names.len()) as u64;
    workers.silent = workers.silent.saturating_sub(gone);
    let new = departed
        .into_iter()
        .filter(|node| !workers.unsettled.contains(node));
    let new: Vec<String> = new.collect();
    workers.unsettled.extend(new);
}

/// Whether a node answered at first, or was waited for in vain.
fn is_known(workers: &Workers, prefix: &str, node: &str) -> bool {
    let mut answered = workers.answered.iter();
    answered.any(|worker| worker.prefix == prefix && worker.node == node)
        || workers.unanswered_names.iter().any(|name| name == node)
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
        queues,
        registered,
        stats: first("stats").map(|value| control::decode_stats(&value)),
        conf: first("conf").map(|value| control::decode_conf(&value)),
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
    let all = [&queried, &active, &reserved, &scheduled];
    for claim in all.into_iter().filter_map(Observed::seen).flatten() {
        if wanted(&claim.id) {
            hold(claims, &node, claim);
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
fn hold(claims: &mut Claims, node: &str, claim: &Claim) {
    let held = claims.held.entry(claim.id.clone()).or_default();
    let Some(known) = held.iter_mut().find(|known| known.node == node) else {
        held.push(WorkerClaim {
            node: node.to_owned(),
            claim: claim.clone(),
        });
        return;
    };
    known.claim.eta = known.claim.eta.or(claim.eta);
    if known.claim.state == ClaimState::Ready {
        known.claim.state = claim.state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Lab;

    /// Names that answered, that are silent and how many, and that came or left, where these two answered before.
    fn after(nodes: &[&str], unheard: Option<u64>) -> (usize, Vec<String>, u64, Vec<String>) {
        let mut lab = Lab::new()
            .worker("w1", &["celery"])
            .worker("w2", &["celery"]);
        let nodes = nodes.iter().map(|node| ((*node).to_owned(), 1)).collect();
        let workers = lab.workers_mut();
        drop_unheard(workers, "", &nodes, unheard);
        (
            workers.answered.len(),
            workers.unanswered_names.clone(),
            workers.silent,
            workers.unsettled.clone(),
        )
    }

    #[test]
    fn who_received_a_question_and_answered_nothing_is_silent() {
        let silent = (1, vec!["w2".to_owned()], 1, Vec::new());
        assert_eq!(after(&["w1"], Some(1)), silent);
        // RabbitMQ does not tell who received it: the mailboxes will.
        assert_eq!(after(&["w1"], None), silent);
        assert_eq!(
            after(&["w1", "w2"], Some(0)),
            (2, Vec::new(), 0, Vec::new())
        );
    }

    #[test]
    fn who_did_not_receive_it_has_left_and_others_have_come() {
        let left = (1, Vec::new(), 0, vec!["w2".to_owned()]);
        assert_eq!(after(&["w1"], Some(0)), left);
        let came = (2, Vec::new(), 0, vec!["w3".to_owned()]);
        assert_eq!(after(&["w1", "w2", "w3"], Some(0)), came);
    }
}
