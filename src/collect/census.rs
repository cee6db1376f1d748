//! A reading of everything, for an audit or a snapshot: messages, reservations and claims in classes, and a closer look
//! at the few that nothing accounts for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

use super::Everything;
use super::broker::{KEPT, by_id};
use super::counting::{Count, Counter, Known, mark};
use super::notes::line;
use super::related;
use super::rounds::{Look, Reading};
use super::suspects::{self, MOST_SUSPECTS, Suspects};
use super::wanted::Wanted;
use crate::evidence::{Census, Copy, Observed, ReadStatus, Reason, Source, Why};

/// Of the time until the deadline this part goes to the queues; what comes after them is quick.
const FOR_QUEUES: f64 = 0.7;

impl Reading<'_> {
    /// Reads everything. What was found by the time of an error stays in the evidence.
    pub(super) async fn read_everything(&mut self, wanted: &Everything) -> Result<(), Why> {
        let limit = self.deadline.at(FOR_QUEUES);
        self.broker.stop_at(limit);
        self.census();
        let (mut suspects, looked) =
            suspects::look_through(self.evidence, self.results, wanted, limit).await;
        self.looked_through = Some(looked);
        let known = self.known().await?;
        let (count, queued) = self.count_queues(known, wanted, &mut suspects).await?;
        let holdings = self
            .count_reservations(&count.known, wanted, &mut suspects)
            .await?;
        suspects::drop_ended(&mut suspects, self.results).await;
        let mut again = holdings.several.clone();
        self.census().twice.ids.extend(holdings.several);
        for (id, result) in suspects.into_iter().take(MOST_SUSPECTS) {
            self.task(&id).first_result = Observed::Seen(result);
            self.census().by_result.insert(id.clone());
            again.insert(id);
        }
        if !again.is_empty() {
            self.look(&again, Look::Newcomers).await?;
        }
        self.look_at_repeats(count.twice).await?;
        if let Some(most) = wanted.keep {
            self.keep_single_tasks(queued, most).await?;
        }
        related::read_chords(self.evidence, self.results).await;
        self.read_idle_databases().await;
        Ok(())
    }

    /// What is counted so far.
    pub(super) fn census(&mut self) -> &mut Census {
        self.evidence.census.get_or_insert_default()
    }

    /// What tells fates apart before a message is read: who has revoked what, and the timeouts.
    async fn known(&mut self) -> Result<Known, Why> {
        let mut known = Known {
            now: self.server_now(),
            ..Known::default()
        };
        for prefix in &self.names.prefixes {
            let told = self
                .evidence
                .answered()
                .iter()
                .filter(|worker| worker.prefix == *prefix)
                .filter_map(|worker| worker.stats.seen())
                .map(|stats| stats.transport.visibility_timeout.unwrap_or(3600.0))
                .min_by(f64::total_cmp);
            let given = self.evidence.visibility_timeout_given;
            let timeout = given.or(told).unwrap_or(3600.0);
            known.timeouts.insert(prefix.clone(), timeout);
        }
        if let Some(panel) = &mut self.panel {
            panel.revoked(&mut known).await?;
            let software = panel.software.clone();
            self.census().software = software;
        }
        Ok(known)
    }

    /// Counts what waits. Returns the messages that are kept one by one as well.
    async fn count_queues(
        &mut self,
        known: Known,
        wanted: &Everything,
        suspects: &mut Suspects,
    ) -> Result<(Count, Vec<Copy>), Why> {
        let watched: HashSet<u64> = suspects.keys().map(|id| mark(id)).collect();
        let mut pass = Wanted::All {
            left: wanted.keep,
            counter: Box::new(Counter::new(known, watched)),
        };
        let mut queued = Vec::new();
        let outcome = self
            .look_into_queues(&mut pass, Look::Whole, &mut queued)
            .await;
        let Wanted::All { counter, .. } = pass else {
            return Ok((Count::default(), queued));
        };
        let lists = self.evidence.lists.seen();
        let length = |key: &str| {
            let list = lists.into_iter().flatten().find(|list| list.key == key);
            list.map_or(0, |list| list.length)
        };
        let mut count = counter.finish(length);
        let unread = lists
            .into_iter()
            .flatten()
            .filter_map(|list| list.read.unseen());
        let mut unread = unread.peekable();
        let counted_whole = unread.peek().is_some() && unread.all(|why| why.detail == KEPT);
        suspects.retain(|id, _| count.watched.contains(&mark(id)));
        let classes = std::mem::take(&mut count.classes);
        let census = self.census();
        census.classes = classes;
        census.unclassed = count.unclassed;
        census.twice.repeats = count.repeats;
        census.twice.not_compared = count.not_compared;
        census.counted_whole = counted_whole;
        outcome.map(|()| (count, queued))
    }

    /// Looks again at ids that stood more than once, in the lists where they did.
    async fn look_at_repeats(&mut self, twice: BTreeMap<String, Vec<String>>) -> Result<(), Why> {
        if twice.is_empty() {
            return Ok(());
        }
        let keys: BTreeSet<String> = twice.values().flatten().cloned().collect();
        let lists = self.evidence.lists.seen().into_iter().flatten();
        let lists = lists
            .filter(|list| keys.contains(&list.key))
            .cloned()
            .collect();
        let mut wanted = Wanted::ids(twice.into_keys());
        let pass = self.broker.search(lists, &mut wanted, self.progress).await;
        for (id, copies) in by_id(pass.copies) {
            if copies.len() > 1 {
                self.task(&id).copies = copies;
                self.census().twice.ids.insert(id);
            }
        }
        match pass.obstacle {
            Some(why) if matches!(why.reason, Reason::TimedOut | Reason::Unreachable) => Err(why),
            _ => Ok(()),
        }
    }

    /// Keeps messages one by one, for traces of a snapshot: those of queues that are given, and of those that are
    /// unacknowledged no more than `most`. A message that moved meanwhile keeps its later place.
    async fn keep_single_tasks(&mut self, queued: Vec<Copy>, most: u64) -> Result<(), Why> {
        let counted = self.evidence.complete(Source::Unacked);
        let held = self.look_into_unacked(&mut Wanted::all(most)).await?;
        let kept = self.evidence.complete(Source::Unacked);
        self.census().unacked_counted_whole = counted && !kept;
        let tags: BTreeSet<String> = held
            .iter()
            .filter_map(|c| c.envelope.delivery_tag.clone())
            .collect();
        let moved = |copy: &Copy| {
            copy.envelope
                .delivery_tag
                .as_ref()
                .is_some_and(|tag| tags.contains(tag))
        };
        let queued = queued.into_iter().filter(|copy| !moved(copy));
        let mut kept: Vec<Copy> = queued.chain(held).collect();
        related::note_canvases(self.evidence, &mut kept);
        for (id, copies) in by_id(kept) {
            self.task(&id).copies = copies;
        }
        if let Some(panel) = &mut self.panel {
            let claims = panel.claims(None, true).await?;
            self.evidence.workers = Observed::Seen(panel.workers.clone());
            for (id, held) in claims.held {
                self.task(&id).claims = held;
            }
            for (id, nodes) in claims.revoked {
                self.task(&id).revoked_by = nodes;
            }
        }
        let by_result = self.census().by_result.clone();
        let ids: Vec<String> = self
            .evidence
            .tasks
            .keys()
            .filter(|id| !by_result.contains(*id))
            .cloned()
            .collect();
        let results = self.results.read(&ids).await;
        for (id, result) in &results {
            self.task(id).first_result = result.clone();
        }
        related::note_last_results(self.evidence, results);
        self.drop_moved(&ids).await
    }

    /// Looks into the server's other databases for messages that nobody there takes.
    async fn read_idle_databases(&mut self) {
        let started = Instant::now();
        let clients = self.evidence.broker.server.seen();
        let clients = clients.and_then(|server| server.clients.seen());
        // A connection whose database can't be read may be to any of them.
        let busy: Option<BTreeSet<u32>> = clients.and_then(|clients| {
            let of_workers = clients
                .iter()
                .filter(|client| client.command == "brpop" || client.pattern_subscriptions > 0);
            of_workers.map(|client| client.database).collect()
        });
        let Some(busy) = busy else {
            let what =
                "other databases are looked into where CLIENT LIST tells that no worker is there";
            let why = Why::new(Reason::NotAsked, what);
            self.replace_read(line(Source::OtherDatabases, started, Err(&why)));
            self.evidence.other_databases = Observed::Unseen(why);
            return;
        };
        match self.broker.idle_databases(&busy).await {
            Ok(found) => {
                let detail = format!("{} of {} looked into", found.databases.len(), found.all);
                let read = line(
                    Source::OtherDatabases,
                    started,
                    Ok((ReadStatus::Complete, detail)),
                );
                self.replace_read(read);
                self.evidence.other_databases = Observed::Seen(found.databases);
                self.census().classes.extend(found.classes);
            }
            Err(why) => {
                self.replace_read(line(Source::OtherDatabases, started, Err(&why)));
                self.evidence.other_databases = Observed::Unseen(why);
            }
        }
    }
}
