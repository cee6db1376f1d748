//! A look into the other databases of a server, for what was lost in this one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::broker::{BrokerReader, by_id};
use super::cleanup::Cleanup;
use super::notes::line;
use super::redis::keys::{self, Names};
use super::redis::server;
use super::redis::unacked::Keys;
use super::related;
use super::rounds::Reading;
use super::wanted::Wanted;
use super::workers::Panel;
use crate::evidence::{
    Observed, OtherDatabase, Read, ReadStatus, Reason, Source, TaskEvidence, Why,
};

/// Of the time until a deadline so much may have gone by when the workers of other databases have answered.
const FOR_NAMESAKES: f64 = 0.9;

impl Reading<'_> {
    /// Looks into the server's other databases, where an id was found nowhere, or waits where nobody answers.
    pub(super) async fn read_other_databases(&mut self) {
        let nobody = self.evidence.answered().is_empty() && self.panel.is_some();
        let lost = |task: &TaskEvidence| {
            task.copies.is_empty()
                && task.claims.is_empty()
                && !task
                    .result
                    .seen()
                    .is_some_and(|result| result.as_ref().is_some_and(|r| r.doc.ready))
        };
        let ids: BTreeSet<String> = self
            .evidence
            .tasks
            .iter()
            .filter(|(_, task)| lost(task))
            .map(|(id, _)| id.clone())
            .collect();
        if ids.is_empty() && !nobody {
            // No obstacle, hence no reason.
            self.replace_read(Read {
                source: Source::OtherDatabases,
                status: ReadStatus::Skipped,
                detail: "not needed: every id was found without them".to_owned(),
                elapsed_ms: 0,
                reason: None,
            });
            return;
        }
        let started = Instant::now();
        let mut wanted = Wanted::ids(ids);
        match self
            .broker
            .other_databases(&mut wanted, self.progress)
            .await
        {
            Ok((databases, mut copies)) => {
                related::note_canvases(self.evidence, &mut copies);
                let detail = format!("{} other databases", databases.len());
                self.replace_read(line(
                    Source::OtherDatabases,
                    started,
                    Ok((ReadStatus::Complete, detail)),
                ));
                self.evidence.other_databases = Observed::Seen(databases);
                for (id, copies) in by_id(copies) {
                    self.task(&id).copies.extend(copies);
                }
            }
            Err(why) => {
                self.replace_read(line(Source::OtherDatabases, started, Err(&why)));
                self.evidence.other_databases = Observed::Unseen(why);
            }
        }
    }

    /// Asks the workers of other databases for the tasks that nothing accounts for and whose results name a worker that
    /// is known here, where a worker there has that name too: apps with one result backend and Celery's default node
    /// names. The result alone does not tell which of the two began the task.
    pub(super) async fn ask_namesakes(&mut self, cleanup: &Cleanup) -> Result<(), Why> {
        let in_doubt = self.in_doubt();
        let gone = |why: &Why| matches!(why.reason, Reason::TimedOut | Reason::Unreachable);
        let went_away = self.evidence.other_databases.unseen().is_some_and(gone);
        if in_doubt.is_empty() || self.panel.is_none() || went_away {
            return Ok(());
        }
        let mut asked = Vec::new();
        let outcome = self.ask_elsewhere(&in_doubt, cleanup, &mut asked);
        let outcome = self.deadline.within_part(FOR_NAMESAKES, outcome).await;
        match outcome.flatten() {
            Ok(()) if asked.is_empty() => return Ok(()),
            Ok(()) => self.note_namesakes(asked),
            // Whether there is a namesake is not known, and nothing can be said of what is in doubt.
            Err(why) if asked.is_empty() && (gone(&why) || why.reason == Reason::Truncated) => {
                return Err(why);
            }
            Err(why) => {
                self.note_namesakes(asked);
                self.note_gap(Source::OtherDatabases, Some(&why));
                return Ok(());
            }
        }
        // A task that ended meanwhile is with no worker any more, and has its result.
        let ids: Vec<String> = in_doubt.into_keys().collect();
        let results = self.results.read(&ids).await;
        related::note_last_results(self.evidence, results);
        Ok(())
    }

    /// Tasks that were found nowhere, by ids, with the nodes that their unfinished results name, where such a node is
    /// known here.
    fn in_doubt(&self) -> BTreeMap<String, String> {
        let Some(workers) = self.evidence.workers.seen() else {
            return BTreeMap::new();
        };
        let answered = workers.answered.iter().map(|worker| &worker.node);
        let here: BTreeSet<&String> = answered.chain(&workers.unanswered_names).collect();
        let node = |task: &TaskEvidence| {
            let result = task.result.seen()?.as_ref()?;
            let nowhere = task.copies.is_empty() && task.claims.is_empty();
            let node = result.doc.worker.clone()?;
            (nowhere && !result.doc.ready && here.contains(&node)).then_some(node)
        };
        let tasks = self.evidence.tasks.iter();
        tasks
            .filter_map(|(id, task)| Some((id.clone(), node(task)?)))
            .collect()
    }

    /// Asks in every other database that has a mailbox of one of these nodes, and notes it before it asks.
    async fn ask_elsewhere(
        &self,
        in_doubt: &BTreeMap<String, String>,
        cleanup: &Cleanup,
        asked: &mut Vec<OtherDatabase>,
    ) -> Result<(), Why> {
        let ids: BTreeSet<String> = in_doubt.keys().cloned().collect();
        let nodes: BTreeSet<&String> = in_doubt.values().collect();
        for database in server::databases(&self.broker.client).await? {
            if database == self.server.db {
                continue;
            }
            let mut server = self.server.clone();
            server.db = database;
            let there = BrokerReader::connect(self.plan, &server).await?;
            let tables = keys::mailboxes(&there.client, &self.names.prefixes).await?;
            let prefixes = tables.iter().map(|table| table.prefix.as_str());
            let mailboxes: Vec<String> = prefixes
                .flat_map(|prefix| Names::mailboxes(&tables, prefix))
                .collect();
            if !mailboxes.iter().any(|node| nodes.contains(node)) {
                continue;
            }
            asked.push(OtherDatabase {
                database,
                lists: Vec::new(),
                mailboxes,
                claimed: None,
            });
            let names = Names::of(&tables, None, &[]);
            let keys: Vec<Keys> = names.prefixes.iter().map(|p| Keys::usual(p)).collect();
            // In the direction in which messages move.
            let (_, held) = there
                .reservations(&keys, &mut Wanted::ids(ids.iter().cloned()))
                .await?;
            let mut panel = Panel::open(self.plan, &server, &tables, &names, cleanup).await?;
            let claims = panel.claims(Some(&ids), true).await?;
            let held = held.into_iter().map(|copy| copy.envelope.id);
            let whole = panel.workers.silent == 0 && panel.workers.are_settled();
            if let Some(other) = asked.last_mut().filter(|_| whole) {
                other.claimed = Some(claims.held.into_keys().chain(held).collect());
            }
        }
        Ok(())
    }

    /// Adds what was asked to what is known of the databases.
    fn note_namesakes(&mut self, asked: Vec<OtherDatabase>) {
        let mut known = match &mut self.evidence.other_databases {
            Observed::Seen(known) => std::mem::take(known),
            Observed::Unseen(_) => Vec::new(),
        };
        for other in asked {
            match known.iter_mut().find(|k| k.database == other.database) {
                Some(known) => known.claimed = other.claimed,
                None => known.push(other),
            }
        }
        self.evidence.other_databases = Observed::Seen(known);
    }
}
