//! A reading of everything: what the workers have, what a look into queues brings, and the few tasks that nothing accounts
//! for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::census;
use super::leaderless::Leaders;
use super::mailboxes::forget_the_dead;
use super::management::ManagementReader;
use super::movement::Watch;
use super::rounds::{PAUSE, Reading};
use crate::collect::Everything;
use crate::collect::counting::Known;
use crate::collect::related;
use crate::collect::suspects::{self, MOST_SUSPECTS};
use crate::evidence::{Census, Observed, TaskEvidence, Why};

/// Of the time until a deadline so much may have gone by when the results have been looked through, and when the second
/// of two readings begins.
const FOR_RESULTS: f64 = 0.85;
const FOR_SAMPLE: f64 = 0.9;

/// Whether several workers have it, or one has it more than once.
fn is_held_twice(task: &TaskEvidence) -> bool {
    task.claims.len() > 1 || task.claims.iter().any(|claim| claim.again > 0)
}

impl Reading<'_> {
    /// Everything that the workers have, and with --peek what waits in queues.
    pub(super) async fn read_everything(&mut self, wanted: &Everything) -> Result<(), Why> {
        let limit = self.deadline.at(FOR_RESULTS);
        let (mut suspects, looked) =
            suspects::look_through(self.evidence, self.results, wanted, limit).await;
        self.looked_through = Some(looked);
        self.look_into_queues(&BTreeSet::new()).await?;
        if let Some(panel) = &mut self.panel {
            let claims = panel.claims(None, true).await?;
            let mut known = Known::default();
            panel.revoked(&mut known).await?;
            let software = panel.software.clone();
            forget_the_dead(&self.client, &mut panel.workers).await?;
            self.evidence.workers = Observed::Seen(panel.workers.clone());
            self.census().software = software;
            let held = claims.held.keys().chain(claims.revoked.keys());
            let ids: BTreeSet<String> = held.cloned().collect();
            self.note_claims(ids.into_iter(), claims);
            self.settle_claims().await?;
            // A result tells a retry from a second run.
            let tasks = self
                .evidence
                .tasks
                .iter()
                .filter(|(_, task)| is_held_twice(task));
            let twice: BTreeSet<String> = tasks
                .map(|(id, _)| id.clone())
                .take(MOST_SUSPECTS)
                .collect();
            self.read_results(&twice).await;
        }
        suspects.retain(|id, _| !self.evidence.tasks.contains_key(id));
        suspects::drop_ended(&mut suspects, self.results).await;
        let mut again = BTreeSet::new();
        for (id, result) in suspects.into_iter().take(MOST_SUSPECTS) {
            self.task(&id).first_result = Observed::Seen(result);
            self.census().by_result.insert(id.clone());
            again.insert(id);
        }
        if !again.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.ask_for(&again).await?;
            self.read_results(&again).await;
            self.declare_again().await?;
        }
        related::read_chords(self.evidence, self.results).await;
        self.note_queues();
        if let Some(sample) = wanted.sample {
            self.watch(self.deadline.as_far_as(FOR_SAMPLE, sample))
                .await?;
        }
        Ok(())
    }

    /// Looks how deep the queues are for so long, and notes what moved.
    async fn watch(&mut self, time: Duration) -> Result<(), Why> {
        let leaders = Leaders::of(&self.target.management, self.deadline.at(1.0));
        let begun = Watch::begin(&self.client, &leaders, self.evidence, &mut self.panel);
        let Some(mut watch) = begun.await? else {
            return Ok(());
        };
        if let Some(rabbit) = &self.evidence.rabbitmq {
            watch.wait(&self.client, rabbit, &leaders, time).await?;
        }
        if let Some(panel) = &mut self.panel {
            panel.claims(None, true).await?;
            forget_the_dead(&self.client, &mut panel.workers).await?;
            self.evidence.workers = Observed::Seen(panel.workers.clone());
        }
        let mut movement = watch.end(self.evidence, &mut self.panel).await?;
        if Watch::needs_statistics(&movement) {
            // They can tell that something moved, and never that nothing did.
            let reader = ManagementReader::connect(&self.target.management, self.deadline.at(1.0));
            if let Ok(reader) = reader.await {
                let queues = reader.queues(self.client.vhost()).await;
                watch.note_statistics(&mut movement, &queues);
            }
        }
        self.census().movement = Some(movement);
        Ok(())
    }

    /// Puts what was found into classes that share their fate, however far the reading came.
    pub(super) fn classify(&mut self) {
        let (classes, unclassed) = census::classes(&self.evidence.tasks, self.evidence.taken_at);
        let twice =
            |task: &TaskEvidence| task.copies.len() + task.claims.len() > 1 || is_held_twice(task);
        let tasks = self.evidence.tasks.iter().filter(|(_, task)| twice(task));
        let ids: BTreeSet<String> = tasks.map(|(id, _)| id.clone()).collect();
        let counted = self.census();
        (counted.classes, counted.unclassed) = (classes, unclassed);
        counted.twice.ids = ids;
    }

    fn census(&mut self) -> &mut Census {
        self.evidence.census.get_or_insert_default()
    }
}
