//! One broker under examination: its connections, and the steps of a reading.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::iter;
use std::time::Instant;

use redis::cmd;

use super::counting::unread;
use super::redis::client::{Client, decode};
use super::redis::keys::{self, Names};
use super::redis::list::{Ends, ListReader};
use super::redis::server;
use super::redis::unacked::{self, Keys};
use super::wanted::{Look, Wanted};
use super::{Plan, Progress};
use crate::celery::message::{self, Keep};
use crate::config::url::RedisServer;
use crate::evidence::{
    BindingTable, Class, Copy, List, Observed, OtherDatabase, Place, Reason, Reservations,
    TaskEvidence, Why,
};

/// Why a list counts as not read whole where its messages were counted and not all kept.
pub(crate) const KEPT: &str = "more messages than are kept in one snapshot";

/// Commands in one go.
const PAGE: usize = 1_000;

/// More keys in another database are no deployment's: a result backend, or another program.
const MOST_KEYS: u64 = 100_000;

/// What the passes over the lists brought.
#[derive(Default)]
pub(crate) struct QueuePass {
    /// The lists, each with how far it was read.
    pub(crate) lists: Vec<List>,
    /// The messages wanted.
    pub(crate) copies: Vec<Copy>,
    /// The ends of each list, for a second look.
    pub(crate) ends: HashMap<String, Ends>,
    /// How many messages were seen.
    pub(crate) messages: u64,
    /// The first thing that kept a list from being read whole.
    pub(crate) obstacle: Option<Why>,
}

/// What stands in databases without workers.
#[derive(Default)]
pub(crate) struct Idle {
    /// How many databases there are besides the broker's own.
    pub(crate) all: usize,
    /// Those that were looked into.
    pub(crate) databases: Vec<OtherDatabase>,
    /// The messages in them, a class for each list.
    pub(crate) classes: Vec<Class>,
}

/// A broker that could be reached.
pub(crate) struct BrokerReader<'p> {
    plan: &'p Plan,
    server: RedisServer,
    /// For ordinary commands.
    pub(crate) client: Client,
    /// For lists; connected when first needed, and again where it broke.
    lists: Option<ListReader>,
    /// When no more lists are read.
    stop: Option<Instant>,
}

impl<'p> BrokerReader<'p> {
    /// Connects.
    pub(crate) async fn connect(plan: &'p Plan, server: &RedisServer) -> Result<Self, Why> {
        let client = Client::connect(server, server.db).await?;
        Ok(Self {
            plan,
            server: server.clone(),
            client,
            lists: None,
            stop: None,
        })
    }

    /// Reads lists no longer than until then.
    pub(crate) fn stop_at(&mut self, stop: Option<Instant>) {
        self.stop = stop;
    }

    /// The lists that may hold task messages, with their lengths. Names come from the scan, and from bindings,
    /// workers and flags; a list that only a name tells of is there too, empty, so that the report can say so.
    pub(crate) async fn lists(&self, names: &Names) -> Result<(Vec<List>, Option<Why>), Why> {
        let (mut found, obstacle) = match keys::lists(&self.client).await {
            Ok(found) => (found, None),
            Err(why) if matches!(why.reason, Reason::Refused | Reason::Unsupported) => {
                (Vec::new(), Some(why))
            }
            Err(why) => return Err(why),
        };
        let scanned: BTreeSet<String> = found.iter().cloned().collect();
        for (prefix, queue) in &names.queues {
            let mut wanted = vec![format!("{prefix}{queue}")];
            if obstacle.is_some() {
                // What a scan would have found must be guessed from the usual steps.
                wanted.extend([3, 6, 9].map(|p| format!("{prefix}{queue}\x06\x16{p}")));
            }
            found.extend(wanted.into_iter().filter(|key| !scanned.contains(key)));
        }
        let lengths: Vec<_> = found
            .iter()
            .map(|key| {
                let mut command = cmd("LLEN");
                command.arg(key);
                command
            })
            .collect();
        let mut lists = Vec::new();
        for (keys, commands) in found.chunks(1_000).zip(lengths.chunks(1_000)) {
            for (key, answer) in keys.iter().zip(self.client.ask_all(commands).await?) {
                let mut list = names.list(key);
                match answer.and_then(|length| decode(length, "LLEN")) {
                    Ok(length) => list.length = length,
                    Err(why) => list.read = Observed::Unseen(why),
                }
                lists.push(list);
            }
        }
        Ok((lists, obstacle))
    }

    /// Reads every list from its head.
    pub(crate) async fn search(
        &mut self,
        lists: Vec<List>,
        wanted: &mut Wanted,
        progress: Progress<'_>,
    ) -> QueuePass {
        let total: u64 = lists.iter().map(|list| list.length).sum();
        if let Wanted::All { counter, .. } = wanted {
            counter.expect(total);
        }
        let mut pass = QueuePass::default();
        // Once the server fell silent, each further list would wait as long again.
        let mut silent: Option<Why> = None;
        let mut lists = VecDeque::from(lists);
        while let Some(mut list) = lists.pop_front() {
            if let Some(why) = &silent {
                list.read = Observed::Unseen(why.clone());
            } else if list.length > 0 {
                list.read = match self
                    .search_one(&mut list, &lists, wanted, &mut pass, progress, total)
                    .await
                {
                    Ok(()) => Observed::Seen(()),
                    Err(why) => Observed::Unseen(why),
                };
            } else if !matches!(&list.read, Observed::Unseen(why) if why.reason != Reason::NotAsked)
            {
                list.read = Observed::Seen(());
            }
            if let Observed::Unseen(why) = &list.read {
                if why.reason == Reason::TimedOut {
                    silent = Some(why.clone());
                }
                pass.obstacle.get_or_insert_with(|| why.clone());
            }
            pass.lists.push(list);
        }
        pass
    }

    async fn search_one(
        &mut self,
        list: &mut List,
        next: &VecDeque<List>,
        wanted: &mut Wanted,
        pass: &mut QueuePass,
        progress: Progress<'_>,
        total: u64,
    ) -> Result<(), Why> {
        let (plan, key, length) = (self.plan, list.key.clone(), list.length);
        let mut found = Vec::new();
        let (mut malformed, mut too_many, mut unreadable) = (0, false, false);
        let (before, stop) = (pass.messages, self.stop);
        wanted.enter(list);
        let reader = self.reader(list, next).await?;
        let outcome = reader
            .each(&key, length, stop, |index, message| {
                if index % 10_000 == 0 {
                    progress("messages in queues", before + index, total);
                }
                match wanted.look(index, message, plan.keep) {
                    Look::Wanted(envelope) => found.push((index, *envelope)),
                    Look::Other => {}
                    Look::Malformed => malformed += 1,
                    Look::TooMany => too_many = true,
                    Look::Unreadable => unreadable = true,
                }
            })
            .await;
        list.malformed = malformed;
        let read = match outcome {
            Ok(done) => done,
            Err(why) => {
                // What comes next on a broken connection belongs to this list.
                self.lists = None;
                return Err(why);
            }
        };
        pass.messages += read.read;
        let mut seen = BTreeSet::new();
        for (index, envelope) in found {
            // A list that grew while it was read shows messages twice.
            let tag = envelope.delivery_tag.clone();
            if read.read > length && tag.is_some() && !seen.insert((tag, envelope.id.clone())) {
                continue;
            }
            let place = Place::Queue {
                key: key.clone(),
                position: read.read.saturating_sub(index),
                of: read.read,
            };
            pass.copies.push(Copy { place, envelope });
        }
        list.length = read.read.min(length.max(1));
        pass.ends.insert(key, read.ends);
        if unreadable {
            let what = "a message that bears the id has a body that can't be read";
            return Err(Why::new(Reason::Unsupported, what));
        }
        if too_many {
            return Err(Why::new(Reason::Truncated, KEPT));
        }
        Ok(())
    }

    /// Looks again at lists that were read, only at what came in since. Lists that have changed too much, and lists
    /// that were not there before, are read whole.
    pub(crate) async fn search_again(
        &mut self,
        earlier: &QueuePass,
        names: &Names,
        wanted: &mut Wanted,
        progress: Progress<'_>,
    ) -> Result<QueuePass, Why> {
        let (lists, obstacle) = self.lists(names).await?;
        let mut again = Vec::new();
        let mut copies = Vec::new();
        let mut lists = VecDeque::from(lists);
        while let Some(list) = lists.pop_front() {
            if list.length == 0 {
                continue;
            }
            let Some(ends) = earlier.ends.get(&list.key) else {
                again.push(list);
                continue;
            };
            let keep = self.plan.keep;
            let mut found = Vec::new();
            let reader = self.reader(&list, &lists).await?;
            let enough = reader
                .newcomers(&list.key, ends, list.length, |index, message| {
                    if let Look::Wanted(envelope) = wanted.look(index, message, keep) {
                        // What is near both ends is shown twice.
                        let known = |(_, seen): &(u64, message::Envelope)| {
                            (&seen.delivery_tag, &seen.id) == (&envelope.delivery_tag, &envelope.id)
                        };
                        if envelope.delivery_tag.is_none() || !found.iter().any(known) {
                            found.push((index, *envelope));
                        }
                    }
                })
                .await;
            match enough {
                Ok(true) => copies.extend(found.into_iter().map(|(index, envelope)| {
                    let position = list.length.saturating_sub(index).max(1);
                    let place = Place::Queue {
                        key: list.key.clone(),
                        position,
                        of: list.length,
                    };
                    Copy { place, envelope }
                })),
                Ok(false) => again.push(list),
                Err(why) => {
                    self.lists = None;
                    return Err(why);
                }
            }
        }
        let mut pass = self.search(again, wanted, progress).await;
        pass.obstacle = obstacle.or(pass.obstacle);
        pass.copies.extend(copies);
        Ok(pass)
    }

    /// A connection for this list, on which it and those that come next are asked for already where they are short.
    async fn reader(&mut self, list: &List, next: &VecDeque<List>) -> Result<&mut ListReader, Why> {
        let mut reader = match self.lists.take() {
            Some(reader) => reader,
            None => ListReader::connect(&self.server, self.server.db).await?,
        };
        let next = next.iter().filter(|list| list.length > 0);
        let lists = iter::once(list).chain(next);
        reader
            .ask_ahead(lists.map(|list| (list.key.as_str(), list.length)))
            .await?;
        Ok(self.lists.insert(reader))
    }

    /// Reads the reservations under each set of names.
    pub(crate) async fn reservations(
        &self,
        keys: &[Keys],
        wanted: &mut Wanted,
    ) -> Result<(Vec<Reservations>, Vec<Copy>), Why> {
        let mut all = Vec::new();
        let mut copies = Vec::new();
        for keys in keys {
            let mut summary = unacked::summary(&self.client, keys).await?;
            let keep = |envelope: &mut message::Envelope| wanted.takes(envelope);
            let found = unacked::search(&self.client, keys, self.plan.keep, keep).await?;
            summary.malformed = found.malformed;
            copies.extend(found.copies);
            all.push(summary);
        }
        Ok((all, copies))
    }

    /// Looks into the server's other databases: lists of Celery messages, and mailboxes of workers.
    pub(crate) async fn other_databases(
        &self,
        wanted: &mut Wanted,
        progress: Progress<'_>,
    ) -> Result<(Vec<OtherDatabase>, Vec<Copy>), Why> {
        let mut all = Vec::new();
        let mut copies = Vec::new();
        for database in server::databases(&self.client).await? {
            if database == self.server.db {
                continue;
            }
            let mut server = self.server.clone();
            server.db = database;
            let mut there = BrokerReader::connect(self.plan, &server).await?;
            let tables = keys::bindings(&there.client).await?;
            let names = Names::of(&tables, None, &[]);
            let (lists, obstacle) = there.lists(&names).await?;
            if let Some(why) = obstacle {
                return Err(why);
            }
            let mut celery = Vec::new();
            for list in lists.into_iter().filter(|list| list.length > 0) {
                if list.named || there.is_celery(&list.key).await? {
                    celery.push(list);
                }
            }
            let pass = there.search(celery, wanted, progress).await;
            if let Some(why) = pass.obstacle {
                return Err(why);
            }
            let keys: Vec<Keys> = names.prefixes.iter().map(|p| Keys::usual(p)).collect();
            let (_, held) = there.reservations(&keys, wanted).await?;
            let found = pass.copies.into_iter().chain(held);
            copies.extend(found.map(|copy| elsewhere(copy, database)));
            let prefixes: BTreeSet<&String> = tables.iter().map(|table| &table.prefix).collect();
            let mailboxes = prefixes
                .iter()
                .flat_map(|prefix| Names::mailboxes(&tables, prefix));
            all.push(OtherDatabase {
                database,
                lists: pass.lists,
                mailboxes: mailboxes.collect(),
                claimed: None,
            });
        }
        Ok((all, copies))
    }

    /// Looks into the databases in which no worker works, for queues with messages. One message of each list stands for
    /// all in it.
    pub(crate) async fn idle_databases(&self, busy: &BTreeSet<u32>) -> Result<Idle, Why> {
        let mut idle = Idle::default();
        for (database, size) in server::databases_with_keys(&self.client).await? {
            if database == self.server.db {
                continue;
            }
            idle.all += 1;
            if busy.contains(&database) || size > MOST_KEYS {
                continue;
            }
            let mut server = self.server.clone();
            server.db = database;
            let there = BrokerReader::connect(self.plan, &server).await?;
            let tables = keys::bindings(&there.client).await?;
            let names = Names::of(&tables, None, &[]);
            let (lists, _) = there.lists(&names).await?;
            let mut celery = Vec::new();
            for list in lists.into_iter().filter(|list| list.length > 0) {
                let Some(envelope) = there.next_in(&list.key).await? else {
                    continue;
                };
                let place = Place::OtherDatabase {
                    database,
                    key: list.key.clone(),
                    position: 1,
                    of: list.length,
                };
                idle.classes.push(Class {
                    id: envelope.id.clone(),
                    count: list.length,
                    ids: vec![envelope.id.clone()],
                    task: TaskEvidence {
                        copies: vec![Copy { place, envelope }],
                        ..unread()
                    },
                });
                celery.push(list);
            }
            let prefixes: BTreeSet<&String> = tables.iter().map(|table| &table.prefix).collect();
            let mailboxes = prefixes
                .iter()
                .flat_map(|prefix| Names::mailboxes(&tables, prefix));
            idle.databases.push(OtherDatabase {
                database,
                lists: celery,
                mailboxes: mailboxes.collect(),
                claimed: None,
            });
        }
        Ok(idle)
    }

    /// A list's next message, where it is Celery's.
    async fn next_in(&self, key: &str) -> Result<Option<message::Envelope>, Why> {
        let next: Option<Vec<u8>> = self.client.ask(cmd("LINDEX").arg(key).arg(-1)).await?;
        Ok(next.and_then(|next| message::parse(&next, Keep::Envelope).ok()))
    }

    /// Whether a list's next message is Celery's. Other programs' lists in other databases are none of ours.
    async fn is_celery(&self, key: &str) -> Result<bool, Why> {
        Ok(self.next_in(key).await?.is_some())
    }

    /// Drops the copies that are not in `unacked` any more, and brings the index entries of the others up to date.
    pub(crate) async fn still_reserved(
        &self,
        copies: &mut Vec<Copy>,
        keys: &[Keys],
    ) -> Result<(), Why> {
        let mut gone: HashSet<usize> = HashSet::new();
        for keys in keys {
            let reserved: Vec<(usize, String)> = copies
                .iter()
                .enumerate()
                .filter_map(|(at, copy)| Some((at, tag_under(copy, keys)?.to_owned())))
                .collect();
            for page in reserved.chunks(PAGE) {
                let tags: Vec<String> = page.iter().map(|(_, tag)| tag.clone()).collect();
                let standing = match unacked::standing(&self.client, keys, &tags).await {
                    // Without the right to look again it counts as it was seen.
                    Err(why) if why.reason == Reason::Refused => continue,
                    standing => standing?,
                };
                for ((at, _), standing) in page.iter().zip(standing) {
                    match (standing, &mut copies[*at].place) {
                        (Some(score), Place::Unacked { delivered_at, .. }) => *delivered_at = score,
                        _ => _ = gone.insert(*at),
                    }
                }
            }
        }
        let mut at = 0..;
        copies.retain(|_| at.next().is_none_or(|at| !gone.contains(&at)));
        Ok(())
    }

    /// The binding tables.
    pub(crate) async fn bindings(&self) -> Result<Vec<BindingTable>, Why> {
        keys::bindings(&self.client).await
    }
}

/// The delivery tag of a copy that stands under these keys.
fn tag_under<'c>(copy: &'c Copy, keys: &Keys) -> Option<&'c str> {
    match &copy.place {
        Place::Unacked {
            prefix, names, tag, ..
        } if keys.prefix() == prefix && keys.names() == names => Some(tag),
        _ => None,
    }
}

fn elsewhere(copy: Copy, database: u32) -> Copy {
    let place = match copy.place {
        Place::Queue { key, position, of } => Place::OtherDatabase {
            database,
            key,
            position,
            of,
        },
        Place::Unacked { prefix, names, .. } => Place::OtherDatabase {
            database,
            key: format!("{prefix}{}", names.hash),
            position: 0,
            of: 0,
        },
        // Redis has no others.
        other
        @ (Place::OtherDatabase { .. } | Place::DeadLetter { .. } | Place::Delayed { .. }) => other,
    };
    Copy {
        place,
        envelope: copy.envelope,
    }
}

/// Copies by their ids.
pub(crate) fn by_id(copies: Vec<Copy>) -> BTreeMap<String, Vec<Copy>> {
    let mut map: BTreeMap<String, Vec<Copy>> = BTreeMap::new();
    for copy in copies {
        map.entry(copy.envelope.id.clone()).or_default().push(copy);
    }
    map
}
