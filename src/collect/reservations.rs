//! Reservations in classes: who has each, how old it is, whether it will be restored.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use redis::cmd;

use super::Everything;
use super::counting::{Known, MOST_CLASSES, mark, seconds, unread};
use super::holdings::Holdings;
use super::movement::Watch;
use super::name::Name;
use super::notes::line;
use super::redis::client::decode;
use super::redis::unacked::{self, Keys};
use super::results::ById;
use super::rounds::{PAUSE, Reading};
use super::suspects::Suspects;
use crate::celery::control::{Claim, ClaimState};
use crate::celery::glance::Glance;
use crate::celery::message::Keep;
use crate::celery::unacked::{Reservation, parse_unacked};
use crate::celery::when::When;
use crate::evidence::{
    Ages, Class, Copy, Evidence, NAMED_IDS, Observed, Place, Read, ReadStatus, Reason,
    Reservations, Source, TaskEvidence, Why, WorkerClaim,
};

/// More reservations are not told apart; half a million take about 60 MB.
const MOST_RECORDS: usize = 500_000;
/// Of so many that nobody claims the results are read.
const MOST_RESULTS: usize = 1_000;
/// Commands in one go.
const PAGE: usize = 1_000;
/// Of the time until a deadline so much may have gone by when the second of two readings begins.
const FOR_SAMPLE: f64 = 0.8;
/// So many of a class are tried for one that still stands.
const TRIED: usize = 3;

/// One reservation.
struct Record {
    tag: Name,
    id: Name,
    /// Which of [`Reading::keys`] it stands under.
    keys: usize,
    shape: u64,
    /// What it waits for, in Unix seconds.
    eta: Option<f64>,
    /// Its score.
    at: Option<f64>,
    claimed: bool,
}

/// One class in the making.
#[derive(Default)]
struct Held {
    count: u64,
    ids: Vec<String>,
    /// Tags and scores of the first few, with where they stand.
    first: Vec<(usize, String, Option<f64>)>,
}

impl Reading<'_> {
    /// Reads the reservations, asks who has what, and looks once more at what nobody has.
    pub(super) async fn count_reservations(
        &mut self,
        known: &Known,
        wanted: &Everything,
        suspects: &mut Suspects,
    ) -> Result<Holdings, Why> {
        let (mut records, read) = self.read_reservations(known).await?;
        let mut holdings = match &mut self.panel {
            Some(panel) => panel.holdings().await?,
            None => Holdings::default(),
        };
        self.take_over_workers();
        for record in &mut records {
            record.claimed = holdings.has(&record.id);
        }
        let open = |record: &Record| !record.claimed || record.at.is_none();
        let results = self.results_of_open(&records).await;
        let watch = match wanted.sample {
            Some(_) => Some(Watch::begin(&self.broker.client, self.evidence).await?),
            None => None,
        };
        let look_again = records.iter().any(open);
        match wanted.sample {
            // A shorter time tells less, and a report that comes too late tells nothing.
            Some(sample) => {
                tokio::time::sleep(self.deadline.as_far_as(FOR_SAMPLE, sample)).await;
            }
            None if look_again => tokio::time::sleep(PAUSE).await,
            None => {}
        }
        if look_again || watch.is_some() {
            if let Some(panel) = &mut self.panel {
                holdings.add(panel.holdings().await?);
            }
            self.take_over_workers();
        }
        if let Some(watch) = watch {
            let begun = match &self.panel {
                Some(panel) => panel.begun().await?,
                None => BTreeMap::new(),
            };
            let movement = watch
                .end(&self.broker.client, self.evidence, &begun)
                .await?;
            self.census().movement = Some(movement);
        }
        for record in records.iter_mut().filter(|record| !record.claimed) {
            record.claimed = holdings.has(&record.id);
        }
        self.keep_standing(&mut records).await?;
        suspects.retain(|id, _| holdings.of(id).is_none());
        let marks: HashSet<u64> = records.iter().map(|r| r.id.mark()).collect();
        suspects.retain(|id, _| !marks.contains(&mark(id)));
        self.note_ages(known, &records);
        self.classify(known, records, &holdings, &results).await?;
        // Only now its rules have what they judge by.
        self.replace_read(read);
        self.classify_claims(&marks);
        Ok(holdings)
    }

    fn take_over_workers(&mut self) {
        if let Some(panel) = &self.panel {
            self.evidence.workers = Observed::Seen(panel.workers.clone());
        }
    }

    /// Every reservation with its score.
    async fn read_reservations(&mut self, known: &Known) -> Result<(Vec<Record>, Read), Why> {
        let started = Instant::now();
        let mut records = Vec::new();
        let mut all = Vec::new();
        let mut cut = false;
        for n in 0..self.keys.len() {
            match self.read_under(n, known, &mut records, &mut cut).await {
                Ok(summary) => all.push(summary),
                Err(why) if matches!(why.reason, Reason::Unreachable | Reason::TimedOut) => {
                    return Err(why);
                }
                Err(why) => {
                    let read = line(Source::Unacked, started, Err(&why));
                    self.evidence.reservations = Observed::Unseen(why);
                    return Ok((Vec::new(), read));
                }
            }
        }
        let entries: u64 = all.iter().map(|entry| entry.unacked).sum();
        let detail = format!("{entries} unacknowledged");
        let mut read = line(Source::Unacked, started, Ok((ReadStatus::Complete, detail)));
        if cut {
            read.status = ReadStatus::Partial;
            read.detail = format!("{}, of which {MOST_RECORDS} were looked at", read.detail);
            read.reason = Some(Reason::Truncated);
        }
        self.evidence.reservations = Observed::Seen(all);
        Ok((records, read))
    }

    async fn read_under(
        &self,
        n: usize,
        known: &Known,
        records: &mut Vec<Record>,
        cut: &mut bool,
    ) -> Result<Reservations, Why> {
        let (client, keys) = (&self.broker.client, &self.keys[n]);
        let mut summary = unacked::summary(client, keys).await?;
        let first = records.len();
        let mut seen: HashSet<u64> = HashSet::new();
        unacked::each(client, keys, |tag, value| {
            let Ok(tag) = std::str::from_utf8(tag) else {
                summary.malformed += 1;
                return true;
            };
            // HSCAN may show an entry twice.
            if !seen.insert(mark(tag)) {
                return true;
            }
            match parse_unacked(value, Keep::Envelope) {
                Ok(reservation) => records.push(record(n, tag, reservation, keys, known)),
                Err(error) => summary.malformed += u64::from(!error.may_be_celerys()),
            }
            *cut = records.len() >= MOST_RECORDS;
            !*cut
        })
        .await?;
        for page in records[first..].chunks_mut(PAGE) {
            let tags: Vec<String> = page.iter().map(|record| record.tag.text()).collect();
            let scores = unacked::scores(client, keys, &tags).await?;
            for (record, score) in page.iter_mut().zip(scores) {
                record.at = score;
            }
        }
        Ok(summary)
    }

    /// The results of the oldest that nobody claims.
    async fn results_of_open(&mut self, records: &[Record]) -> ById {
        let mut open: Vec<&Record> = records.iter().filter(|r| !r.claimed).collect();
        open.sort_by(|a, b| by_age(a.at, b.at));
        let ids: Vec<String> = open
            .into_iter()
            .take(MOST_RESULTS)
            .map(|record| record.id.text())
            .collect();
        self.results.read(&ids).await
    }

    /// Drops what was acknowledged or restored meanwhile, of what nobody claims or the index does not have.
    async fn keep_standing(&self, records: &mut Vec<Record>) -> Result<(), Why> {
        let mut gone: HashSet<usize> = HashSet::new();
        for (n, keys) in self.keys.iter().enumerate() {
            let open: Vec<usize> = (0..records.len())
                .filter(|at| records[*at].keys == n)
                .filter(|at| !records[*at].claimed || records[*at].at.is_none())
                .collect();
            for page in open.chunks(PAGE) {
                let tags: Vec<String> = page.iter().map(|at| records[*at].tag.text()).collect();
                match unacked::standing(&self.broker.client, keys, &tags).await {
                    Ok(standing) => {
                        for (at, standing) in page.iter().zip(standing) {
                            match standing {
                                Some(score) => records[*at].at = score,
                                None => _ = gone.insert(*at),
                            }
                        }
                    }
                    // Without the right to look again it counts as it was seen.
                    Err(why) if why.reason == Reason::Refused => {}
                    Err(why) => return Err(why),
                }
            }
        }
        let mut at = 0;
        records.retain(|_| {
            at += 1;
            !gone.contains(&(at - 1))
        });
        Ok(())
    }

    fn note_ages(&mut self, known: &Known, records: &[Record]) {
        let now = seconds(known.now);
        let mut ages: Vec<Ages> = self
            .keys
            .iter()
            .map(|keys| Ages {
                prefix: keys.prefix().to_owned(),
                names: keys.names().clone(),
                timeout_seconds: self.timeout(keys),
                quarters: [0; 4],
                beyond: 0,
                unindexed: 0,
            })
            .collect();
        for record in records {
            let of = &mut ages[record.keys];
            let part = record.at.map(|at| (now - at) / of.timeout_seconds * 4.0);
            match part {
                None => of.unindexed += 1,
                Some(part) if part >= 4.0 => of.beyond += 1,
                Some(part) if part >= 3.0 => of.quarters[3] += 1,
                Some(part) if part >= 2.0 => of.quarters[2] += 1,
                Some(part) if part >= 1.0 => of.quarters[1] += 1,
                Some(_) => of.quarters[0] += 1,
            }
        }
        ages.retain(|of| of.beyond + of.unindexed + of.quarters.iter().sum::<u64>() > 0);
        self.census().ages = ages;
    }

    /// Puts reservations into classes: those that nobody has first, so that they are told apart in any case.
    async fn classify(
        &mut self,
        known: &Known,
        mut records: Vec<Record>,
        holdings: &Holdings,
        results: &ById,
    ) -> Result<(), Why> {
        records.sort_by(|a, b| (a.claimed.cmp(&b.claimed)).then_with(|| by_age(a.at, b.at)));
        let room = MOST_CLASSES
            .saturating_sub(self.census().classes.len())
            .max(100);
        let sweep = |keys: &Keys| (self.timeout(keys), self.sweep_seconds(keys));
        let sweeps: Vec<(f64, f64)> = self.keys.iter().map(sweep).collect();
        let mut held: HashMap<u64, usize> = HashMap::new();
        let mut classes: Vec<Held> = Vec::new();
        let mut unclassed = 0;
        for record in &records {
            let id = record.id.text();
            let kind = Self::kind(known, sweeps[record.keys], record, &id, holdings, results);
            let class = match held.get(&kind) {
                Some(class) => *class,
                None if classes.len() >= room => {
                    unclassed += 1;
                    continue;
                }
                None => {
                    classes.push(Held::default());
                    held.insert(kind, classes.len() - 1);
                    classes.len() - 1
                }
            };
            let class = &mut classes[class];
            class.count += 1;
            if class.ids.len() < NAMED_IDS {
                class.ids.push(id);
            }
            if class.first.len() < TRIED {
                class
                    .first
                    .push((record.keys, record.tag.text(), record.at));
            }
        }
        drop(records);
        let mut found = Vec::new();
        for page in classes.chunks(PAGE) {
            found.extend(self.represent(known, page, holdings, results).await?);
        }
        let census = self.census();
        census.classes.extend(found);
        census.unclassed += unclassed;
        Ok(())
    }

    /// What tells the fate of a reservation: its message, its age, who has it, and what its result says.
    fn kind(
        known: &Known,
        (timeout, period): (f64, f64),
        record: &Record,
        id: &str,
        holdings: &Holdings,
        results: &ById,
    ) -> u64 {
        let age = record.at.map(|at| {
            let age = seconds(known.now) - at;
            [3600.0, timeout, timeout + 2.0 * period].map(|bound| age > bound)
        });
        let eta = record.eta.zip(record.at);
        let beyond = eta.map(|(eta, at)| eta - at > timeout);
        let holder = holdings.of(id).map(|(node, state, redelivered)| {
            // Of what waits for its ETA the worker does not matter, and there can be very many workers.
            let node = if state == ClaimState::Scheduled {
                ""
            } else {
                node
            };
            (node, state.name(), redelivered)
        });
        let result = results.get(id).map(|result| match result.seen() {
            Some(Some(result)) => (
                true,
                result.doc.state.as_str(),
                result.doc.worker.as_deref(),
            ),
            Some(None) => (true, "", None),
            None => (false, "", None),
        });
        let mut hasher = DefaultHasher::new();
        (record.keys, record.shape, age, beyond, holder, result).hash(&mut hasher);
        hasher.finish()
    }

    /// Seconds between two sweeps of a worker under these keys: the longest that one told, at least kombu's default.
    fn sweep_seconds(&self, keys: &Keys) -> f64 {
        let workers = self.evidence.answered().iter();
        workers
            .filter(|worker| keys.are_of(worker))
            .filter_map(|worker| worker.stats.seen())
            .filter_map(|stats| {
                let transport = &stats.transport;
                Some(transport.unacked_restore_interval? * transport.unacked_restore_throttle?)
            })
            .fold(100.0, f64::max)
    }

    /// Seconds of the visibility timeout under these keys: what the user gave, else the shortest that a worker told, else
    /// kombu's default.
    fn timeout(&self, keys: &Keys) -> f64 {
        let workers = self.evidence.answered().iter();
        let told = workers
            .filter(|worker| keys.are_of(worker))
            .filter_map(|worker| worker.stats.seen())
            .map(|stats| stats.transport.visibility_timeout.unwrap_or(3600.0))
            .min_by(f64::total_cmp);
        let given = self.evidence.visibility_timeout_given;
        given.or(told).unwrap_or(3600.0)
    }

    /// Reads for each class one message that stands for all.
    async fn represent(
        &self,
        known: &Known,
        classes: &[Held],
        holdings: &Holdings,
        results: &ById,
    ) -> Result<Vec<Class>, Why> {
        let commands: Vec<_> = classes
            .iter()
            .flat_map(|class| &class.first)
            .map(|(keys, tag, _)| {
                let mut command = cmd("HGET");
                command.arg(self.keys[*keys].hash()).arg(tag);
                command
            })
            .collect();
        let mut answers = self.broker.client.ask_all(&commands).await?.into_iter();
        let mut found = Vec::new();
        for class in classes {
            let mut oldest = None;
            for ((keys, tag, at), answer) in class.first.iter().zip(answers.by_ref()) {
                let value: Option<Vec<u8>> = decode(answer?, "HGET")?;
                let read = value.and_then(|value| parse_unacked(&value, Keep::Envelope).ok());
                if let (None, Some(reservation)) = (&oldest, read) {
                    oldest = Some((*keys, tag.clone(), *at, reservation));
                }
            }
            // All that were tried have been acknowledged since: so have the others, or will be.
            let Some((keys, tag, delivered_at, reservation)) = oldest else {
                continue;
            };
            let Reservation {
                envelope,
                exchange,
                routing_key,
            } = reservation;
            let id = envelope.id.clone();
            let claims = holdings
                .of(&id)
                .map(|(node, state, redelivered)| WorkerClaim {
                    again: 0,
                    node: node.to_owned(),
                    claim: full_claim(self.evidence, node, &id).unwrap_or_else(|| Claim {
                        id: id.clone(),
                        task: envelope.task.clone(),
                        state,
                        time_start: None,
                        eta: envelope.eta,
                        acknowledged: None,
                        redelivered,
                        exchange: Some(exchange.clone()),
                        routing_key: Some(routing_key.clone()),
                        pid: None,
                    }),
                });
            let mut task = TaskEvidence {
                claims: claims.into_iter().collect(),
                revoked_by: known.revokers_of(&id),
                ..unread()
            };
            if let Some(result) = results.get(&id) {
                task.first_result = result.clone();
                task.result = result.clone();
            }
            let place = Place::Unacked {
                prefix: self.keys[keys].prefix().to_owned(),
                names: self.keys[keys].names().clone(),
                tag,
                delivered_at,
                exchange,
                routing_key,
            };
            task.copies.push(Copy { place, envelope });
            found.push(Class {
                id,
                count: class.count,
                ids: class.ids.clone(),
                task,
            });
        }
        Ok(found)
    }

    /// Tasks that run and have no message left, which is how Celery works by default.
    fn classify_claims(&mut self, held: &HashSet<u64>) {
        let mut classes: BTreeMap<Kind, Class> = BTreeMap::new();
        for worker in self.evidence.answered() {
            for claim in worker.active.seen().into_iter().flatten() {
                if held.contains(&mark(&claim.id)) {
                    continue;
                }
                let kind = (
                    worker.node.clone(),
                    claim.task.clone(),
                    claim.exchange.clone(),
                    claim.routing_key.clone(),
                );
                let class = classes.entry(kind).or_insert_with(|| Class {
                    id: claim.id.clone(),
                    count: 0,
                    ids: Vec::new(),
                    task: TaskEvidence {
                        claims: vec![WorkerClaim {
                            again: 0,
                            node: worker.node.clone(),
                            claim: claim.clone(),
                        }],
                        ..unread()
                    },
                });
                class.count += 1;
                if class.ids.len() < NAMED_IDS {
                    class.ids.push(claim.id.clone());
                }
            }
        }
        let census = self.census();
        let room = MOST_CLASSES.saturating_sub(census.classes.len());
        census.classes.extend(classes.into_values().take(room));
    }
}

/// What tells running tasks without a message apart: worker, task, exchange, routing key.
type Kind = (String, Option<String>, Option<String>, Option<String>);

/// The whole of what a worker says about a task that it runs.
fn full_claim(evidence: &Evidence, node: &str, id: &str) -> Option<Claim> {
    let mut workers = evidence.answered().iter();
    let active = workers.find(|worker| worker.node == node)?.active.seen()?;
    active.iter().find(|claim| claim.id == id).cloned()
}

fn record(n: usize, tag: &str, held: Reservation, keys: &Keys, known: &Known) -> Record {
    let Reservation {
        mut envelope,
        exchange,
        routing_key,
    } = held;
    // Where a restore sends it is what matters now.
    envelope.exchange = Some(exchange);
    envelope.routing_key = Some(routing_key);
    let eta = envelope.eta.map(|eta| match eta {
        When::At(at) => seconds(at),
        When::FarFuture => f64::INFINITY,
    });
    let id = Name::of(&envelope.id);
    let shape = known.shape(&Glance::of(envelope), keys.prefix(), None);
    Record {
        tag: Name::of(tag),
        id,
        keys: n,
        shape,
        eta,
        at: None,
        claimed: false,
    }
}

/// The oldest first; without an entry in the index, before all.
fn by_age(a: Option<f64>, b: Option<f64>) -> Ordering {
    let of = |at: Option<f64>| at.unwrap_or(f64::NEG_INFINITY);
    of(a).total_cmp(&of(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_index_has_comes_before_the_oldest() {
        let mut all = vec![Some(2.0), None, Some(1.0)];
        all.sort_by(|a, b| by_age(*a, *b));
        assert_eq!(all, [None, Some(1.0), Some(2.0)]);
    }
}
