//! The result backend: states, chords.

mod leads;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::{Cmd, Value, cmd};

use super::redis::client::{Client, decode};
use crate::celery::result::{key_for_group, key_for_task, parse_chord_part, parse_result};
use crate::config::url::ResultBackend;
use crate::evidence::{ChordParts, Observed, Reason, StoredResult, Why};

/// How many results are asked for in one go.
const PAGE: usize = 100;
/// How many parts of a chord are looked at.
const PARTS: i64 = 1_000;
/// How many pages of keys are looked at for a prefix, and how many prefixes are tried.
const SCANS: u32 = 1_000;
const PREFIXES: usize = 20;

/// A way to the results, or why there is none.
pub(crate) struct Results {
    client: Result<Client, Why>,
    prefix: String,
    /// Why a result that is not under the prefix may be under another.
    unsure: Option<Why>,
    /// Results that stand elsewhere, in queues.
    replies: BTreeMap<String, StoredResult>,
}

/// Results by id.
pub(crate) type ById = BTreeMap<String, Observed<Option<StoredResult>>>;

impl Results {
    /// Connects to the result backend, which may take no longer than `patience` for any answer.
    pub(crate) async fn connect(backend: Option<&ResultBackend>, patience: Duration) -> Self {
        let client = match backend {
            Some(ResultBackend::Redis(server)) => {
                Client::connect_within(server, server.db, patience).await
            }
            Some(ResultBackend::Rpc) => Err(Why::new(
                Reason::Unsupported,
                "results of rpc:// are messages to their senders",
            )),
            Some(ResultBackend::Unsupported { kind }) => Err(Why::new(
                Reason::Unsupported,
                format!("results in {kind} are not read by this version"),
            )),
            Some(ResultBackend::Disabled) => Err(Why::new(
                Reason::NotAsked,
                "the result backend is switched off",
            )),
            None => Err(Why::new(
                Reason::NotAsked,
                "no result backend was given; give it with --result-backend",
            )),
        };
        Self {
            client,
            prefix: String::new(),
            unsure: None,
            replies: BTreeMap::new(),
        }
    }

    /// Asks nothing more, for this reason.
    pub(crate) fn give_up(&mut self, why: &Why) {
        if self.client.is_ok() {
            self.client = Err(why.clone());
        }
    }

    /// Takes over results that stand in queues, and why there are no others.
    pub(crate) fn take_replies(&mut self, replies: BTreeMap<String, StoredResult>, otherwise: Why) {
        self.replies = replies;
        self.client = Err(otherwise);
    }

    /// Whether the end of each of these tasks is among the results that stand in queues.
    pub(crate) fn stand_in_queues<'a>(&self, ids: impl IntoIterator<Item = &'a String>) -> bool {
        let ended = |id: &String| self.replies.get(id).is_some_and(|reply| reply.doc.ready);
        !self.replies.is_empty() && ids.into_iter().all(ended)
    }

    /// What is not there may be elsewhere, for this reason.
    pub(crate) fn doubt(&mut self, why: Why) {
        self.unsure = Some(why);
    }

    /// Sets the `global_keyprefix` of the result keys.
    pub(crate) fn set_prefix(&mut self, prefix: &str) {
        prefix.clone_into(&mut self.prefix);
    }

    /// What stands before the keys of results.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Looks what stands before the keys of results, where nobody tells it: the prefix under which one of these ids has
    /// a result, else any that results have.
    pub(crate) async fn find_prefix(&mut self, ids: &[String]) {
        let Ok(client) = &self.client else {
            return;
        };
        match find_prefix(client, ids).await {
            Ok((prefix, unsure)) => (self.prefix, self.unsure) = (prefix, unsure),
            // Without SCAN the prefix stays empty, as it is by default, and what is not there may be under another.
            Err(why) if why.reason == Reason::Refused => self.unsure = Some(why),
            Err(why) => self.client = Err(why),
        }
    }

    /// Why it answers nothing any more, where it fell silent.
    pub(crate) fn silent(&self) -> Option<&Why> {
        let why = self.client.as_ref().err()?;
        (why.reason == Reason::TimedOut).then_some(why)
    }

    /// Whether it can be read.
    pub(crate) fn readable(&self) -> Observed<()> {
        match &self.client {
            Ok(_) => Observed::Seen(()),
            Err(why) => Observed::Unseen(why.clone()),
        }
    }

    /// Reads the results of these ids.
    pub(crate) async fn read(&mut self, ids: &[String]) -> ById {
        let mut found = ById::new();
        for page in ids.chunks(PAGE) {
            let outcome = match &self.client {
                Ok(client) => read_page(client, &self.prefix, page).await,
                Err(why) => Err(why.clone()),
            };
            match outcome {
                Ok(results) => {
                    // One that asks for a password, or still loads its data, says so only when asked.
                    let refused = results.iter().find_map(|result| {
                        let turned_away = [Reason::Refused, Reason::Unreachable];
                        let why = result.unseen()?;
                        turned_away.contains(&why.reason).then(|| why.clone())
                    });
                    let results = results
                        .into_iter()
                        .map(|result| match (&self.unsure, result) {
                            (Some(why), Observed::Seen(None)) => Observed::Unseen(why.clone()),
                            (_, result) => result,
                        });
                    found.extend(page.iter().cloned().zip(results));
                    if let Some(why) = refused {
                        self.client = Err(why);
                    }
                }
                Err(why) => {
                    let unseen = |id: &String| (id.clone(), Observed::Unseen(why.clone()));
                    found.extend(page.iter().map(unseen));
                    // A connection that is lost stays lost; a further try would only wait again.
                    self.client = Err(why);
                }
            }
        }
        for id in ids {
            if let Some(result) = self.replies.get(id) {
                found.insert(id.clone(), Observed::Seen(Some(result.clone())));
            }
        }
        found
    }

    /// Reads the counters of a chord; none where the group is no chord or is over.
    pub(crate) async fn chord(&mut self, group: &str) -> Observed<Option<ChordParts>> {
        let outcome = match &self.client {
            Ok(client) => read_chord(client, &self.prefix, group).await,
            Err(why) => Err(why.clone()),
        };
        if let Err(why) = &outcome
            && matches!(why.reason, Reason::TimedOut | Reason::Unreachable)
        {
            self.give_up(why);
        }
        outcome.map_or_else(Observed::Unseen, Observed::Seen)
    }
}

/// The prefix, and why it is not sure that there is no other, where it is not.
async fn find_prefix(client: &Client, ids: &[String]) -> Result<(String, Option<Why>), Why> {
    let name = key_for_task("", "");
    let mut prefixes: BTreeSet<String> = BTreeSet::new();
    let mut cursor = 0_u64;
    for _ in 0..SCANS {
        let mut command = cmd("SCAN");
        command.arg(cursor).arg("COUNT").arg(1_000);
        command.arg("MATCH").arg(format!("*{name}*"));
        let (next, keys): (u64, Vec<Vec<u8>>) = client.ask(&command).await?;
        for key in keys {
            let key = String::from_utf8_lossy(&key);
            prefixes.extend(key.split_once(&name).map(|(prefix, _)| prefix.to_owned()));
        }
        cursor = next;
        if cursor == 0 || prefixes.len() > PREFIXES {
            break;
        }
    }
    let mut unsure = (cursor != 0).then(|| {
        let what =
            "there are too many keys to find their prefix among; give it with --result-key-prefix";
        Why::new(Reason::Truncated, what)
    });
    let mut best = (0, prefixes.first().cloned().unwrap_or_default());
    for prefix in &prefixes {
        let mut there = 0;
        for page in ids.chunks(PAGE) {
            let mut command = cmd("EXISTS");
            for id in page {
                command.arg(format!("{prefix}{name}{id}"));
            }
            there += client.ask::<u64>(&command).await?;
        }
        if there > 0 && best.0 > 0 {
            unsure = Some(Why::new(
                Reason::Truncated,
                "these ids have results under several key prefixes; give one with --result-key-prefix",
            ));
        }
        if there > best.0 {
            best = (there, prefix.clone());
        }
    }
    Ok((best.1, unsure))
}

async fn read_page(
    client: &Client,
    prefix: &str,
    ids: &[String],
) -> Result<Vec<Observed<Option<StoredResult>>>, Why> {
    let command = |name: &str, id: &String| -> Cmd {
        let mut command = cmd(name);
        command.arg(key_for_task(prefix, id));
        command
    };
    let commands: Vec<Cmd> = ids
        .iter()
        .flat_map(|id| [command("GET", id), command("PTTL", id)])
        .collect();
    let mut answers = client.ask_all(&commands).await?.into_iter();
    let mut results = Vec::with_capacity(ids.len());
    while let (Some(document), Some(ttl)) = (answers.next(), answers.next()) {
        results.push(match stored(document, ttl) {
            Ok(result) => Observed::Seen(result),
            Err(why) => Observed::Unseen(why),
        });
    }
    Ok(results)
}

fn stored(
    document: Result<Value, Why>,
    ttl: Result<Value, Why>,
) -> Result<Option<StoredResult>, Why> {
    let Some(document) = decode::<Option<Vec<u8>>>(document?, "GET")? else {
        return Ok(None);
    };
    let doc =
        parse_result(&document).map_err(|error| Why::new(Reason::Malformed, error.to_string()))?;
    let ttl: i64 = decode(ttl?, "PTTL")?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a TTL in milliseconds is far below 2^52"
    )]
    let ttl_seconds = (ttl >= 0).then_some(ttl as f64 / 1e3);
    Ok(Some(StoredResult { doc, ttl_seconds }))
}

async fn read_chord(client: &Client, prefix: &str, group: &str) -> Result<Option<ChordParts>, Why> {
    let key = key_for_group(prefix, group);
    let Some(parts) = read_counters(client, &key, group).await? else {
        return Ok(None);
    };
    // One that ended meanwhile lost its counters while we read them one by one.
    let mut exists = cmd("EXISTS");
    exists.arg(format!("{key}.s"));
    let over = parts.size.is_some() && !client.ask::<bool>(&exists).await?;
    Ok((!over).then_some(parts))
}

async fn read_counters(client: &Client, key: &str, group: &str) -> Result<Option<ChordParts>, Why> {
    let size: Option<String> = client.ask(cmd("GET").arg(format!("{key}.s"))).await?;
    // Parts that were replaced while they ran change the total (Celery 5.7 backends/redis.py, `add_to_chord`).
    let change: Option<String> = client.ask(cmd("GET").arg(format!("{key}.t"))).await?;
    let change: i64 = change
        .and_then(|change| change.parse().ok())
        .unwrap_or_default();
    let size = size
        .and_then(|size| size.parse::<u64>().ok())
        .map(|size| size.saturating_add_signed(change));
    let joined_key = format!("{key}.j");
    let kind: String = client.ask(cmd("TYPE").arg(&joined_key)).await?;
    // A sorted set, or a list under `result_chord_ordered=False` (Celery 5.7 backends/redis.py).
    let (count, range) = match kind.as_str() {
        "zset" => ("ZCARD", "ZRANGE"),
        "list" => ("LLEN", "LRANGE"),
        _ if size.is_none() => return Ok(None),
        _ => {
            return Ok(Some(ChordParts {
                group_id: group.to_owned(),
                size,
                joined: 0,
                members: Vec::new(),
            }));
        }
    };
    let joined: u64 = client.ask(cmd(count).arg(&joined_key)).await?;
    let parts: Vec<Vec<u8>> = client
        .ask(cmd(range).arg(&joined_key).arg(0).arg(PARTS - 1))
        .await?;
    Ok(Some(ChordParts {
        group_id: group.to_owned(),
        size,
        joined,
        members: parts
            .iter()
            .filter_map(|part| parse_chord_part(part))
            .collect(),
    }))
}
