//! Which keys of a database are kombu's: binding tables, and lists that are queues.

use std::collections::BTreeSet;

use redis::{Cmd, cmd};

use super::client::{Client, decode};
use crate::celery::control::{MAILBOXES, REPLY_EXCHANGE};
use crate::celery::exchange::{self, Binding, DEFAULT_SEP};
use crate::evidence::{BindingTable, List, Observed, Reason, Why};

/// What stands before the exchange in the key of a binding table (kombu 5.7 transport/redis.py, `keyprefix_queue`).
const BINDING: &str = "_kombu.binding.";

/// So many sets are asked for at once, and for so many members of each: a server answers all requests of one packet
/// before it serves anyone else. Nearly all sets have one member.
const SETS_AT_ONCE: usize = 16;
const FIRST_MEMBERS: u64 = 10;

/// Names under which queues are known, and what tells priorities from them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// Prefixes in use; the empty one is always among them.
    pub(crate) prefixes: BTreeSet<String>,
    /// Prefix and queue.
    pub(crate) queues: BTreeSet<(String, String)>,
    /// What workers put between a queue's name and a priority.
    pub(crate) seps: BTreeSet<String>,
}

impl Names {
    /// The names that binding tables give.
    pub(crate) fn of(tables: &[BindingTable], prefix: Option<&str>, queues: &[String]) -> Self {
        let mut names = Self::default();
        names.prefixes.insert(String::new());
        names.prefixes.extend(prefix.map(str::to_owned));
        names
            .prefixes
            .extend(tables.iter().map(|table| table.prefix.clone()));
        names.seps.insert(DEFAULT_SEP.to_owned());
        names
            .seps
            .extend(tables.iter().map(|table| table.sep.clone()));
        for table in tables.iter().filter(|table| !is_control(&table.exchange)) {
            for binding in &table.bindings {
                names
                    .queues
                    .insert((table.prefix.clone(), binding.queue.clone()));
            }
        }
        for queue in queues {
            names
                .queues
                .insert((prefix.unwrap_or_default().to_owned(), queue.clone()));
        }
        names
    }

    /// The nodes whose mailboxes are in the binding tables, under a prefix.
    pub(crate) fn mailboxes(tables: &[BindingTable], prefix: &str) -> Vec<String> {
        let nodes = mailbox_tables(tables, prefix).flat_map(|table| {
            let suffix = format!(".{}", table.exchange);
            let bindings = table.bindings.iter();
            bindings
                .filter_map(move |binding| Some(binding.queue.strip_suffix(&suffix)?.to_owned()))
        });
        nodes.collect()
    }

    /// The exchanges over which the workers under a prefix are reached: the usual one, and those of apps that set
    /// `control_exchange` (Celery 5.7 app/control.py, `Control`).
    pub(crate) fn control_exchanges(tables: &[BindingTable], prefix: &str) -> BTreeSet<String> {
        let own = mailbox_tables(tables, prefix).map(|table| table.exchange.clone());
        own.chain([mailbox_exchange().to_owned()]).collect()
    }

    /// The separator of the workers under a prefix, by which they read where to reply to.
    pub(crate) fn reply_separator(tables: &[BindingTable], prefix: &str) -> String {
        let table = mailbox_tables(tables, prefix).next();
        table.map_or(DEFAULT_SEP.to_owned(), |table| table.sep.clone())
    }

    /// Reads a list's key: its prefix, its queue, its priority.
    pub(crate) fn list(&self, key: &str) -> List {
        let under = |prefix: &String| Some((prefix.clone(), key.strip_prefix(prefix.as_str())?));
        // The longest prefix first, so that the empty one does not swallow the others' queues.
        let mut readings: Vec<(String, &str)> = self.prefixes.iter().filter_map(under).collect();
        readings.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        for (prefix, rest) in &readings {
            let known = |queue: &str| self.queues.contains(&(prefix.clone(), queue.to_owned()));
            if known(rest) {
                return list(key, prefix, rest, None, true);
            }
            if let Some((queue, sep, priority)) = split_priority(rest, &self.seps)
                && known(queue)
            {
                return list(key, prefix, queue, Some((sep, priority)), true);
            }
        }
        // No name fits: a queue whose bindings are gone, or another program's list.
        let (prefix, rest) = readings.pop().unwrap_or((String::new(), key));
        let by_default = BTreeSet::from([DEFAULT_SEP.to_owned()]);
        match split_priority(rest, &by_default) {
            Some((queue, sep, priority)) if sep == DEFAULT_SEP => {
                list(key, &prefix, queue, Some((sep, priority)), false)
            }
            _ => list(key, &prefix, rest, None, false),
        }
    }
}

/// The exchange that the workers' mailboxes are bound to.
fn mailbox_exchange() -> &'static str {
    MAILBOXES.strip_prefix(BINDING).unwrap_or(MAILBOXES)
}

/// The tables that mailboxes are in, the usual one first.
fn mailbox_tables<'t>(
    tables: &'t [BindingTable],
    prefix: &str,
) -> impl Iterator<Item = &'t BindingTable> {
    let mut found: Vec<&BindingTable> = tables
        .iter()
        .filter(|table| table.prefix == prefix && is_control(&table.exchange))
        .filter(|table| !table.exchange.starts_with("reply."))
        .collect();
    found.sort_by_key(|table| table.exchange != mailbox_exchange());
    found.into_iter()
}

fn list(
    key: &str,
    prefix: &str,
    queue: &str,
    priority: Option<(String, i64)>,
    named: bool,
) -> List {
    List {
        key: key.to_owned(),
        prefix: prefix.to_owned(),
        queue: queue.to_owned(),
        priority,
        named,
        length: 0,
        malformed: 0,
        read: Observed::not_asked("not read yet"),
    }
}

/// Splits a sub-list's name into queue, separator and priority. Besides the known separators any one to four
/// characters that are no letters or digits count, for a sender that uses others than the workers do.
fn split_priority<'k>(name: &'k str, seps: &BTreeSet<String>) -> Option<(&'k str, String, i64)> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (front, digits) = name.split_at(name.len() - digits);
    let priority: i64 = digits.parse().ok()?;
    let known = seps.iter().filter(|sep| !sep.is_empty());
    if let Some(sep) = known.into_iter().find(|sep| front.ends_with(sep.as_str())) {
        return Some((&front[..front.len() - sep.len()], sep.clone(), priority));
    }
    let queue = front.trim_end_matches(|c: char| !c.is_alphanumeric());
    let sep = &front[queue.len()..];
    (!queue.is_empty() && (1..=4).contains(&sep.len())).then(|| (queue, sep.to_owned(), priority))
}

/// Whether an exchange is remote control's own.
fn is_control(exchange: &str) -> bool {
    exchange.ends_with(".pidbox")
}

/// Whether a list is a reply queue of remote control: it holds no tasks.
fn is_reply_list(key: &str) -> bool {
    key.ends_with(&format!(".{REPLY_EXCHANGE}"))
}

/// The binding tables of a database, under every prefix.
pub(crate) async fn bindings(client: &Client) -> Result<Vec<BindingTable>, Why> {
    let keys = scan(client, "set", Some("*_kombu.binding.*")).await?;
    let mut sets = Vec::new();
    for (key, members) in keys.iter().zip(members(client, &keys).await?) {
        let Some(at) = key.find(BINDING) else {
            continue;
        };
        let (prefix, exchange) = (&key[..at], &key[at + BINDING.len()..]);
        sets.push((prefix.to_owned(), exchange.to_owned(), members));
    }
    Ok(tables(&sets))
}

/// The binding tables of the workers' mailboxes under these prefixes, as far as there are any.
pub(crate) async fn mailboxes(
    client: &Client,
    prefixes: &BTreeSet<String>,
) -> Result<Vec<BindingTable>, Why> {
    let mut sets = Vec::new();
    let keys: Vec<String> = prefixes.iter().map(|p| format!("{p}{MAILBOXES}")).collect();
    for (prefix, members) in prefixes.iter().zip(members(client, &keys).await?) {
        if !members.is_empty() {
            sets.push((prefix.clone(), mailbox_exchange().to_owned(), members));
        }
    }
    Ok(tables(&sets))
}

/// Reads binding sets: each with its prefix, its exchange and its members.
fn tables(sets: &[(String, String, Vec<Vec<u8>>)]) -> Vec<BindingTable> {
    let known: BTreeSet<&str> = sets
        .iter()
        .flat_map(|(_, exchange, members)| members.iter().map(move |m| (m, exchange)))
        .filter_map(|(member, exchange)| exchange::separator(member, exchange))
        .collect();
    let mut tables: Vec<BindingTable> = sets
        .iter()
        .map(|(prefix, exchange, members)| table(prefix, exchange, members, &known))
        .collect();
    tables.sort_by(|a, b| (&a.prefix, &a.exchange).cmp(&(&b.prefix, &b.exchange)));
    tables
}

/// Reads the members of a binding set: each by the separator that it was written with, as far as that can be told, else by
/// one of those that others were written with.
fn table(
    prefix: &str,
    exchange: &str,
    members: &[Vec<u8>],
    known: &BTreeSet<&str>,
) -> BindingTable {
    let own = members
        .iter()
        .find_map(|member| exchange::separator(member, exchange));
    let tried: Vec<&str> = own
        .into_iter()
        .chain([DEFAULT_SEP])
        .chain(known.iter().copied())
        .collect();
    let parse = |member: &Vec<u8>| tried.iter().find_map(|sep| Binding::parse(member, sep));
    BindingTable {
        prefix: prefix.to_owned(),
        exchange: exchange.to_owned(),
        sep: own.unwrap_or(DEFAULT_SEP).to_owned(),
        bindings: members.iter().filter_map(parse).collect(),
    }
}

/// The keys of all lists of a database that may hold task messages.
pub(crate) async fn lists(client: &Client) -> Result<Vec<String>, Why> {
    let mut keys = scan(client, "list", None).await?;
    keys.retain(|key| !is_reply_list(key));
    keys.sort();
    Ok(keys)
}

/// All keys of a type, by SCAN. A key whose name is not UTF-8 is none of kombu's.
async fn scan(client: &Client, kind: &str, pattern: Option<&str>) -> Result<Vec<String>, Why> {
    let mut found = BTreeSet::new();
    let mut cursor = 0_u64;
    loop {
        let mut command = cmd("SCAN");
        command.arg(cursor).arg("COUNT").arg(1_000);
        if let Some(pattern) = pattern {
            command.arg("MATCH").arg(pattern);
        }
        command.arg("TYPE").arg(kind);
        let (next, keys): (u64, Vec<Vec<u8>>) = client.ask(&command).await.map_err(|why| {
            // SCAN takes TYPE from Redis 6.0 on.
            let old = why.reason == Reason::Unsupported;
            if old {
                Why::new(Reason::Unsupported, "SCAN by type needs Redis 6.0 or newer")
            } else {
                why
            }
        })?;
        found.extend(
            keys.into_iter()
                .filter_map(|key| String::from_utf8(key).ok()),
        );
        if next == 0 {
            return Ok(found.into_iter().collect());
        }
        cursor = next;
    }
}

/// The members of sets: of many the first few in one go, and of the large ones the others page by page.
async fn members(client: &Client, keys: &[String]) -> Result<Vec<Vec<Vec<u8>>>, Why> {
    let page = |key: &str, cursor: u64, count: u64| {
        let mut command = cmd("SSCAN");
        command.arg(key).arg(cursor).arg("COUNT").arg(count);
        command
    };
    let mut all = Vec::new();
    for keys in keys.chunks(SETS_AT_ONCE) {
        let first: Vec<Cmd> = keys.iter().map(|k| page(k, 0, FIRST_MEMBERS)).collect();
        for (key, answer) in keys.iter().zip(client.ask_all(&first).await?) {
            let (mut next, mut found): (u64, BTreeSet<Vec<u8>>) = decode(answer?, "SSCAN")?;
            while next != 0 {
                let more: Vec<Vec<u8>>;
                (next, more) = client.ask(&page(key, next, 1_000)).await?;
                found.extend(more);
            }
            all.push(found.into_iter().collect());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let binding = |queue: &str| Binding {
            routing_key: queue.to_owned(),
            pattern: String::new(),
            queue: queue.to_owned(),
        };
        let table = |prefix: &str, queue: &str| BindingTable {
            prefix: prefix.to_owned(),
            exchange: queue.to_owned(),
            sep: DEFAULT_SEP.to_owned(),
            bindings: vec![binding(queue)],
        };
        Names::of(
            &[
                table("", "celery"),
                table("p_", "celery"),
                table("", "jobs:2"),
            ],
            None,
            &["extra".to_owned()],
        )
    }

    fn read(key: &str) -> (String, String, Option<i64>, bool) {
        let list = names().list(key);
        (
            list.prefix,
            list.queue,
            list.priority.map(|(_, p)| p),
            list.named,
        )
    }

    fn expect(
        prefix: &str,
        queue: &str,
        priority: Option<i64>,
        named: bool,
    ) -> (String, String, Option<i64>, bool) {
        (prefix.to_owned(), queue.to_owned(), priority, named)
    }

    #[test]
    fn workers_have_mailboxes_on_the_exchange_that_their_app_sets() {
        let table = |prefix: &str, exchange: &str, node: &str| BindingTable {
            prefix: prefix.to_owned(),
            exchange: exchange.to_owned(),
            sep: DEFAULT_SEP.to_owned(),
            bindings: vec![Binding {
                routing_key: String::new(),
                pattern: String::new(),
                queue: format!("{node}.{exchange}"),
            }],
        };
        let tables = [
            table("", "a.pidbox", "w1@x"),
            table("", "celery.pidbox", "w2@x"),
            table("", "reply.a.pidbox", "oid"),
            table("p_", "celery.pidbox", "w3@x"),
        ];
        assert_eq!(Names::mailboxes(&tables, ""), ["w2@x", "w1@x"]);
        let exchanges = |prefix| Vec::from_iter(Names::control_exchanges(&tables, prefix));
        assert_eq!(exchanges(""), ["a.pidbox", "celery.pidbox"]);
        assert_eq!(exchanges("p_"), ["celery.pidbox"]);
        assert_eq!(exchanges("q_"), ["celery.pidbox"]);
    }

    #[test]
    fn keys_are_read_as_prefix_queue_and_priority() {
        assert_eq!(read("celery"), expect("", "celery", None, true));
        assert_eq!(read("celery\x06\x163"), expect("", "celery", Some(3), true));
        assert_eq!(
            read("p_celery\x06\x169"),
            expect("p_", "celery", Some(9), true)
        );
        assert_eq!(read("celery:5"), expect("", "celery", Some(5), true));
        assert_eq!(read("jobs:2"), expect("", "jobs:2", None, true));
        assert_eq!(read("extra"), expect("", "extra", None, true));
        assert_eq!(read("stray"), expect("", "stray", None, false));
        assert_eq!(read("stray\x06\x163"), expect("", "stray", Some(3), false));
        assert_eq!(read("stray-7"), expect("", "stray-7", None, false));
        assert_eq!(
            read("celery99999999999999999999"),
            expect("", "celery99999999999999999999", None, false)
        );
        assert_eq!(read(""), expect("", "", None, false));
    }
}
