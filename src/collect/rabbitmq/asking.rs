//! Who the workers are, and what they say of the tasks that are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::amqp::Depth;
use super::mailboxes::{explains, forget_the_dead, nodes_with_a_mailbox};
use super::rounds::{DEFAULT_QUEUE, FOR_WORKERS, Reading};
use crate::celery::control::ClaimState;
use crate::collect::cleanup::Cleanup;
use crate::collect::mailbox::Replies;
use crate::collect::workers::{Claims, Expected, Panel};
use crate::evidence::{Observed, Reason, TaskEvidence, Why, WorkerClaim};

/// So long after the first, workers are asked again for tasks that several of them have, and for so many at most.
const UNTIL_SETTLED: Duration = Duration::from_millis(200);
const MOST_SETTLED: usize = 100;

impl Reading<'_> {
    /// Asks the workers what does not change while we look. Under an alarm the broker takes no publish, and a healthy
    /// worker could not answer.
    pub(super) async fn meet_workers(&mut self, cleanup: &Cleanup) -> Result<(), Why> {
        if !self.plan.ask_workers {
            self.evidence.workers = Observed::not_asked("left out by --no-workers");
            return Ok(());
        }
        let rabbit = self.evidence.rabbitmq.as_ref();
        let alarm = rabbit.and_then(|rabbit| rabbit.alarms.seen()?.first());
        if let Some(alarm) = alarm {
            self.evidence.workers = Observed::Unseen(Why::new(
                Reason::TakesNoWrites,
                format!(
                    "the {} alarm of {} blocks publishers, and workers that answer",
                    alarm.resource, alarm.node
                ),
            ));
            return Ok(());
        }
        let nodes = rabbit.and_then(nodes_with_a_mailbox);
        let (client, timeout) = (&self.client, self.plan.timeout);
        let opening = async {
            if let Some(nodes) = &nodes {
                Panel::open_amqp(client, timeout, Expected::Nodes(nodes), cleanup).await
            } else {
                let consumers = self.consumers_of_named().await?;
                let explained = |replies: &Replies| explains(replies, &consumers);
                Panel::open_amqp(client, timeout, Expected::Unknown(&explained), cleanup).await
            }
        };
        let opened = self.deadline.within_part(FOR_WORKERS, opening).await;
        match opened.flatten() {
            Ok(mut panel) => {
                forget_the_dead(client, &mut panel.workers).await?;
                self.evidence.workers = Observed::Seen(panel.workers.clone());
                self.panel = Some(panel);
                Ok(())
            }
            Err(why) if matches!(why.reason, Reason::Unreachable | Reason::TimedOut) => Err(why),
            Err(why) => {
                self.evidence.workers = Observed::Unseen(why);
                Ok(())
            }
        }
    }

    /// How many consumers the queues have that flags name, or else Celery's default queue.
    async fn consumers_of_named(&self) -> Result<BTreeMap<String, u64>, Why> {
        let mut names = self.plan.queues.clone();
        if names.is_empty() {
            names.push(DEFAULT_QUEUE.to_owned());
        }
        let depths = self.client.depths(names).await?.into_iter();
        let told = depths.filter_map(|(name, depth)| match depth {
            Depth::There { consumers, .. } => Some((name, consumers)),
            Depth::Missing | Depth::Locked | Depth::Untold(_) => None,
        });
        Ok(told.collect())
    }

    /// Asks the workers for these ids, and notes what they say.
    pub(super) async fn ask_for(&mut self, ids: &BTreeSet<String>) -> Result<(), Why> {
        let Some(panel) = &mut self.panel else {
            return Ok(());
        };
        let mut claims = panel.claims(Some(ids), false).await?;
        forget_the_dead(&self.client, &mut panel.workers).await?;
        // ETA tasks are asked for only where an id would stay unaccounted for, or for when it is due.
        let unclear = |id: &String| {
            claims.held.get(id).is_none_or(|held| {
                let claims = held.iter().map(|holder| &holder.claim);
                claims
                    .into_iter()
                    .any(|c| c.state == ClaimState::Scheduled && c.eta.is_none())
            })
        };
        if !panel.workers.answered.is_empty() && ids.iter().any(unclear) {
            claims = panel.claims(Some(ids), true).await?;
            forget_the_dead(&self.client, &mut panel.workers).await?;
        }
        self.evidence.workers = Observed::Seen(panel.workers.clone());
        self.note_claims(ids.iter().cloned(), claims);
        Ok(())
    }

    /// Workers answer one after another, and a task that is retried may go from one to the next in between. Of several
    /// workers those have it that have it in the same way when asked again. So it is with one that has it twice.
    pub(super) async fn settle_claims(&mut self) -> Result<(), Why> {
        let several = |task: &TaskEvidence| {
            let nodes: BTreeSet<&str> = task.claims.iter().map(|c| c.node.as_str()).collect();
            nodes.len() > 1 || task.claims.iter().any(|claim| claim.again > 0)
        };
        let tasks = self.evidence.tasks.iter().filter(|(_, task)| several(task));
        let before: BTreeMap<String, Vec<WorkerClaim>> = tasks
            .take(MOST_SETTLED)
            .map(|(id, task)| (id.clone(), task.claims.clone()))
            .collect();
        if before.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(UNTIL_SETTLED).await;
        self.ask_for(&before.keys().cloned().collect()).await?;
        for (id, before) in before {
            let task = self.task(&id);
            if several(task) {
                let stays = |claim: &&WorkerClaim| before.iter().any(|b| is_same_run(b, claim));
                let staying: Vec<WorkerClaim> = task.claims.iter().filter(stays).cloned().collect();
                task.claims = if staying.is_empty() {
                    let first = task.claims.drain(..).take(1);
                    first
                        .map(|claim| WorkerClaim { again: 0, ..claim })
                        .collect()
                } else {
                    staying
                };
            }
        }
        Ok(())
    }

    pub(super) fn note_claims(&mut self, ids: impl Iterator<Item = String>, mut claims: Claims) {
        for id in ids {
            let held = claims.held.remove(&id).unwrap_or_default();
            let revoked = claims.revoked.remove(&id).unwrap_or_default();
            let task = self.task(&id);
            (task.claims, task.revoked_by) = (held, revoked);
        }
    }
}

/// Whether a worker says at two looks that it has a task, in one and the same run or wait for an ETA.
fn is_same_run(before: &WorkerClaim, now: &WorkerClaim) -> bool {
    let of = |held: &WorkerClaim| (held.claim.state, held.claim.time_start, held.claim.eta);
    before.node == now.node && of(before) == of(now)
}
