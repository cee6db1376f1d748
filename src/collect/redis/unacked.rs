//! `unacked`, `unacked_index` and `unacked_mutex`: what workers were given and have not acknowledged.

use std::collections::HashSet;

use redis::cmd;

use super::client::{Client, decode};
use super::list::REPLY_BYTES;
use crate::celery::message::{Envelope, Keep};
use crate::celery::unacked::{Reservation, parse_unacked};
use crate::evidence::{Copy, MutexTtl, Place, Reservations, UnackedNames, Why, Worker};

/// The three keys, with their prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    prefix: String,
    names: UnackedNames,
    unacked: String,
    index: String,
    mutex: String,
}

impl Keys {
    /// Those of these names.
    pub(crate) fn of(prefix: &str, names: UnackedNames) -> Self {
        Self {
            prefix: prefix.to_owned(),
            unacked: format!("{prefix}{}", names.hash),
            index: format!("{prefix}{}", names.index),
            mutex: format!("{prefix}{}", names.mutex),
            names,
        }
    }

    /// Those of kombu's own names.
    pub(crate) fn usual(prefix: &str) -> Self {
        Self::of(prefix, UnackedNames::default())
    }

    /// Those under a prefix that these workers use, and kombu's own: what a worker left there before it was given other
    /// names comes back by no sweep.
    pub(crate) fn under(prefix: &str, workers: &[Worker]) -> Vec<Self> {
        let told = workers
            .iter()
            .filter(|worker| worker.prefix == prefix)
            .filter_map(|worker| worker.stats.seen())
            .map(|stats| UnackedNames::of(&stats.transport));
        let mut all: Vec<UnackedNames> = Vec::new();
        for names in told.chain([UnackedNames::default()]) {
            if !all.contains(&names) {
                all.push(names);
            }
        }
        all.into_iter()
            .map(|names| Self::of(prefix, names))
            .collect()
    }

    /// Whether a worker uses them, by its own word.
    pub(crate) fn are_of(&self, worker: &Worker) -> bool {
        let stats = worker.stats.seen();
        worker.prefix == self.prefix
            && stats.is_some_and(|stats| self.names.are_of(&stats.transport))
    }

    /// The key of the hash.
    pub(crate) fn hash(&self) -> &str {
        &self.unacked
    }

    /// The prefix.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The names, without the prefix.
    pub(crate) fn names(&self) -> &UnackedNames {
        &self.names
    }
}

/// Counts the halves, and looks at the ends of the index and at the lock.
pub(crate) async fn summary(client: &Client, keys: &Keys) -> Result<Reservations, Why> {
    let unacked: u64 = client.ask(cmd("HLEN").arg(&keys.unacked)).await?;
    let indexed: u64 = client.ask(cmd("ZCARD").arg(&keys.index)).await?;
    let end = async |at: i64| -> Result<Option<f64>, Why> {
        let mut command = cmd("ZRANGE");
        command.arg(&keys.index).arg(at).arg(at).arg("WITHSCORES");
        let entries: Vec<(Vec<u8>, f64)> = client.ask(&command).await?;
        Ok(entries.first().map(|(_, score)| *score))
    };
    let (oldest, newest) = (end(0).await?, end(-1).await?);
    // -2: no such key; -1: a key without a TTL.
    let ttl: i64 = client.ask(cmd("PTTL").arg(&keys.mutex)).await?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a TTL in milliseconds is far below 2^52"
    )]
    let mutex = match ttl {
        -1 => Some(MutexTtl::Never),
        0.. => Some(MutexTtl::Seconds(ttl as f64 / 1e3)),
        _ => None,
    };
    Ok(Reservations {
        prefix: keys.prefix.clone(),
        names: keys.names.clone(),
        unacked,
        indexed,
        malformed: 0,
        oldest,
        newest,
        mutex,
    })
}

/// The first page is small, because the size of the messages is not known yet.
const FIRST_PAGE: u64 = 16;
/// No page is larger, however small the messages are.
const MOST_IN_PAGE: u64 = 1_000;

/// Fields and values of a hash.
type Page = Vec<(Vec<u8>, Vec<u8>)>;

/// What one pass over `unacked` found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The messages wanted.
    pub(crate) copies: Vec<Copy>,
    /// How many entries are not what kombu writes.
    pub(crate) malformed: u64,
    /// How many entries were read.
    pub(crate) read: u64,
}

/// Reads all of `unacked`, page by page, and keeps the messages wanted.
pub(crate) async fn search(
    client: &Client,
    keys: &Keys,
    keep: Keep,
    mut wanted: impl FnMut(&mut Envelope) -> bool,
) -> Result<Found, Why> {
    let mut found = Found::default();
    let mut kept: Vec<(Vec<u8>, Reservation)> = Vec::new();
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    each(client, keys, |tag, value| {
        found.read += 1;
        match parse_unacked(value, keep) {
            // HSCAN may show an entry twice.
            Ok(_) if seen.contains(tag) => {}
            Ok(mut reservation) => {
                if wanted(&mut reservation.envelope) {
                    seen.insert(tag.to_vec());
                    kept.push((tag.to_vec(), reservation));
                }
            }
            Err(error) if error.may_be_celerys() => {}
            Err(_) => found.malformed += 1,
        }
        true
    })
    .await?;
    for chunk in kept.chunks(500) {
        let scores: Vec<_> = chunk
            .iter()
            .map(|(tag, _)| {
                let mut command = cmd("ZSCORE");
                command.arg(&keys.index).arg(tag);
                command
            })
            .collect();
        for ((tag, reservation), score) in chunk.iter().zip(client.ask_all(&scores).await?) {
            let Reservation {
                envelope,
                exchange,
                routing_key,
            } = reservation.clone();
            let place = Place::Unacked {
                prefix: keys.prefix.clone(),
                names: keys.names.clone(),
                tag: String::from_utf8_lossy(tag).into_owned(),
                delivered_at: decode(score?, "ZSCORE")?,
                exchange,
                routing_key,
            };
            found.copies.push(Copy { place, envelope });
        }
    }
    Ok(found)
}

/// Shows every entry of `unacked`, page by page, some perhaps twice. Ends early where `see` says false. While one page is
/// looked at, the server makes the next.
pub(crate) async fn each(
    client: &Client,
    keys: &Keys,
    mut see: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), Why> {
    let ask = async |cursor: u64, count: u64| -> Result<(u64, Page), Why> {
        let mut command = cmd("HSCAN");
        command.arg(&keys.unacked).arg(cursor);
        command.arg("COUNT").arg(count);
        client.ask(&command).await
    };
    let (mut read, mut bytes) = (0, 0);
    let (mut next, mut page) = ask(0, FIRST_PAGE).await?;
    loop {
        read += page.len() as u64;
        bytes += page
            .iter()
            .map(|(_, value)| value.len() as u64)
            .sum::<u64>();
        let average = (bytes / read.max(1)).max(1);
        let count = (REPLY_BYTES / average).clamp(1, MOST_IN_PAGE);
        let mut look = || page.iter().all(|(tag, value)| see(tag, value));
        if next == 0 {
            look();
            return Ok(());
        }
        let looked = async {
            // The next question goes out first.
            tokio::task::yield_now().await;
            look()
        };
        let (asked, more) = tokio::join!(ask(next, count), looked);
        if !more {
            return Ok(());
        }
        (next, page) = asked?;
    }
}

/// The scores of entries in the index.
pub(crate) async fn scores(
    client: &Client,
    keys: &Keys,
    tags: &[String],
) -> Result<Vec<Option<f64>>, Why> {
    let commands: Vec<_> = tags.iter().map(|tag| score(keys, tag)).collect();
    let answers = client.ask_all(&commands).await?;
    answers
        .into_iter()
        .map(|answer| decode(answer?, "ZSCORE"))
        .collect()
}

/// Whether these entries of `unacked` stand there still: none where one is gone, else its score, if the index has one.
pub(crate) async fn standing(
    client: &Client,
    keys: &Keys,
    tags: &[String],
) -> Result<Vec<Option<Option<f64>>>, Why> {
    // The score first: kombu writes and removes both in one transaction, so that an entry which is there after its
    // score was not is one without a score.
    let commands: Vec<_> = tags
        .iter()
        .flat_map(|tag| {
            let mut there = cmd("HEXISTS");
            there.arg(&keys.unacked).arg(tag);
            [score(keys, tag), there]
        })
        .collect();
    let mut answers = client.ask_all(&commands).await?.into_iter();
    let mut standing = Vec::with_capacity(tags.len());
    while let (Some(score), Some(there)) = (answers.next(), answers.next()) {
        let there: bool = decode(there?, "HEXISTS")?;
        let score = decode(score?, "ZSCORE")?;
        standing.push(there.then_some(score));
    }
    Ok(standing)
}

fn score(keys: &Keys, tag: &str) -> redis::Cmd {
    let mut command = cmd("ZSCORE");
    command.arg(&keys.index).arg(tag);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Lab;

    #[test]
    fn every_set_of_names_that_a_worker_uses_is_read() {
        let mut lab = Lab::new();
        for (node, hash) in [("w1", None), ("w2", Some("shop")), ("w3", Some("shop"))] {
            lab = lab.worker(node, &["celery"]).with_worker(|worker| {
                let stats = worker.stats.seen_mut().expect("seen");
                stats.transport.unacked_key = hash.map(str::to_owned);
            });
        }
        let hashes = |prefix: &str, lab: &Lab| -> Vec<String> {
            let keys = Keys::under(prefix, lab.evidence.answered());
            keys.iter().map(|keys| keys.hash().to_owned()).collect()
        };
        assert_eq!(hashes("", &lab), ["unacked", "shop"]);
        assert_eq!(hashes("p_", &lab), ["p_unacked"]);
        lab.workers_mut().answered.remove(0);
        assert_eq!(hashes("", &lab), ["shop", "unacked"]);
    }
}
