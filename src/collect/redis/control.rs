//! Remote control over Redis: requests by PUBLISH, replies in a list of our own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::cmd;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::client::{Client, decode};
use crate::celery::control::{
    Heard, REPLY_BINDINGS, channel, parse_reply, reply_binding, reply_list, request,
};
use crate::collect::cleanup::Cleanup;
use crate::collect::mailbox::{Answers, Audience, Replies, Voices};
use crate::collect::workers::GRACE;
use crate::config::url::RedisServer;
use crate::evidence::{Reason, Why};

/// How long one BRPOP waits. Well below the time after which a server counts as gone.
const WAIT: Duration = Duration::from_millis(500);

/// The shortest wait: Redis before 7.0 cuts to whole milliseconds, and waits for ever for none.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// No more replies are taken at once, and no more than are about so many bytes.
const MOST_AT_ONCE: usize = 16;
const BYTES_AT_ONCE: usize = 256 * 1024;

/// What BRPOP answers: the key and the item, or nothing within its time.
type Popped = Option<(Vec<u8>, Vec<u8>)>;

/// A reply queue under one key prefix, and the connections to use it.
pub(crate) struct Mailbox {
    /// For the announcement, the requests, and the removal of the address: in this order.
    control: Arc<Client>,
    /// For BRPOP, which blocks its connection, and for RPOP.
    replies: Client,
    prefix: String,
    database: u32,
    /// The exchanges that workers listen to.
    exchanges: BTreeSet<String>,
    oid: String,
    /// How many replies to take at once: one at first, none by RPOP where this user may not run it.
    at_once: AtomicUsize,
    /// The most bytes that a reply had.
    largest: AtomicUsize,
}

impl Mailbox {
    /// Announces a reply queue. It is noted in `cleanup` before it exists.
    pub(crate) async fn open(
        server: &RedisServer,
        prefix: &str,
        sep: &str,
        exchanges: BTreeSet<String>,
        cleanup: &Cleanup,
    ) -> Result<Self, Why> {
        let control = Arc::new(Client::connect(server, server.db).await?);
        let replies = Client::connect(server, server.db).await?;
        let oid = Uuid::new_v4().to_string();
        let binding = reply_binding(&oid, sep);
        cleanup.announce(&control, server, prefix, &oid, &binding);
        let mut announce = cmd("SADD");
        announce
            .arg(format!("{prefix}{REPLY_BINDINGS}"))
            .arg(&binding);
        if let Err(why) = control.ask::<u64>(&announce).await {
            if matches!(why.reason, Reason::Refused | Reason::TakesNoWrites) {
                cleanup.withdraw(&oid);
            }
            return Err(why);
        }
        Ok(Self {
            control,
            replies,
            prefix: prefix.to_owned(),
            database: server.db,
            exchanges,
            oid,
            at_once: AtomicUsize::new(1),
            largest: AtomicUsize::new(1),
        })
    }

    /// Asks every worker and waits until all that received the requests have answered, or for `patience`. Where it
    /// is known who does answer, those that did not answer the last time are not waited for, and those that came since
    /// for [`GRACE`] at most.
    pub(crate) async fn ask(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        known: Option<&Audience>,
    ) -> Result<Replies, Why> {
        let mut replies = Replies::new();
        let receivers = self
            .ask_each(requests, patience, known, |method, heard| {
                let answers: &mut Answers = replies.entry(method).or_default();
                match heard {
                    Heard::Reply(reply) => answers.take(reply),
                    Heard::Unreadable { content_type, .. } => answers.note_unreadable(content_type),
                }
            })
            .await?;
        for (method, receivers) in receivers {
            replies.entry(method).or_default().receivers = receivers;
        }
        Ok(replies)
    }

    /// As [`Mailbox::ask`], and shows each answer as it comes, so that they need not all be in memory at once. Returns how
    /// many subscribers received each request.
    pub(crate) async fn ask_each(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        known: Option<&Audience>,
        mut see: impl FnMut(&'static str, Heard),
    ) -> Result<BTreeMap<&'static str, u64>, Why> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let expires = (now + patience).as_secs_f64();
        let mut receivers = BTreeMap::new();
        let mut methods = HashMap::new();
        for (method, arguments) in requests {
            let ticket = Uuid::new_v4().to_string();
            let message = request(method, arguments.clone(), &ticket, &self.oid, expires);
            receivers.insert(*method, self.publish(&message).await?);
            methods.insert(ticket, *method);
        }
        let asked = Instant::now();
        let mut heard: BTreeMap<&'static str, Voices> = BTreeMap::new();
        loop {
            let patience = match still_to_come(&receivers, &heard, known) {
                ToCome::Nobody => break,
                ToCome::Newcomers => patience.min(GRACE),
                ToCome::Known => patience,
            };
            let left = patience.saturating_sub(asked.elapsed());
            if left.is_zero() {
                break;
            }
            let spoken: u64 = heard.values().flat_map(BTreeMap::values).sum();
            let to_come = receivers.values().sum::<u64>().saturating_sub(spoken);
            for message in self.next(left.clamp(LEAST_WAIT, WAIT), to_come).await? {
                let Some(reply) = parse_reply(&message) else {
                    continue;
                };
                let (ticket, node) = match &reply {
                    Heard::Reply(reply) => (&reply.ticket, reply.node.as_str()),
                    // Nobody's name, and a voice all the same.
                    Heard::Unreadable { ticket, .. } => (ticket, ""),
                };
                // A reply to another ticket is none of ours.
                if let Some(method) = methods.get(ticket) {
                    let voices = heard.entry(method).or_default();
                    *voices.entry(node.to_owned()).or_default() += 1;
                    see(method, reply);
                }
            }
        }
        Ok(receivers)
    }

    /// Publishes to everyone. Whatever the exchange, workers reply to the one that the request names.
    async fn publish(&self, message: &str) -> Result<u64, Why> {
        let mut receivers = 0_u64;
        for exchange in &self.exchanges {
            receivers = receivers.saturating_add(self.publish_to(exchange, message).await?);
        }
        Ok(receivers)
    }

    /// Publishes to the channel that kombu's workers listen on. Where nobody does, to those of other options
    /// and versions: `fanout_prefix=False`, and Sentinel before kombu 5.4.0, which forgot to fill in the database.
    async fn publish_to(&self, exchange: &str, message: &str) -> Result<u64, Why> {
        let usual = channel(i64::from(self.database), exchange);
        for name in [&usual, exchange, &format!("/{{db}}.{exchange}")] {
            let mut command = cmd("PUBLISH");
            command.arg(format!("{}{name}", self.prefix)).arg(message);
            let receivers: u64 = self.control.ask(&command).await?;
            if receivers > 0 {
                return Ok(receivers);
            }
        }
        Ok(0)
    }

    /// Waits for a reply, and takes those along that are there already, in one go.
    async fn next(&self, wait: Duration, to_come: u64) -> Result<Vec<Vec<u8>>, Why> {
        let list = format!("{}{}", self.prefix, reply_list(&self.oid));
        let pop = |seconds: f64| cmd("BRPOP").arg(&list).arg(seconds).take();
        let at_once = self.at_once.load(Ordering::Relaxed);
        let to_come = usize::try_from(to_come).unwrap_or(MOST_AT_ONCE);
        let mut commands = vec![pop(wait.as_secs_f64())];
        commands.resize_with(to_come.min(at_once).max(1), || {
            cmd("RPOP").arg(&list).take()
        });
        let mut answers = self.replies.ask_all(&commands).await?.into_iter();
        let first: Popped = match answers.next().transpose() {
            // Before Redis 6.0 it takes whole seconds only.
            Err(why) if why.reason == Reason::Unsupported => self.replies.ask(&pop(1.0)).await?,
            first => match first? {
                Some(first) => decode(first, "BRPOP")?,
                None => None,
            },
        };
        let mut messages: Vec<Vec<u8>> = first.map(|(_, message)| message).into_iter().collect();
        let mut refused = at_once == 0;
        for answer in answers {
            match answer {
                Ok(more) => messages.extend(decode::<Option<Vec<u8>>>(more, "RPOP")?),
                // BRPOP alone does as well.
                Err(_) => refused = true,
            }
        }
        let largest = messages.iter().map(Vec::len).max().unwrap_or_default();
        let largest = self
            .largest
            .fetch_max(largest, Ordering::Relaxed)
            .max(largest);
        let all_used = commands.len() >= at_once;
        let next = pace(at_once, all_used, refused, largest);
        self.at_once.store(next, Ordering::Relaxed);
        Ok(messages)
    }
}

/// How many replies to take at once the next time: twice as many where all were used, and none by RPOP once it was refused.
fn pace(at_once: usize, all_used: bool, refused: bool, largest: usize) -> usize {
    if refused {
        return 0;
    }
    let wanted = if all_used { 2 * at_once } else { at_once };
    let room = (BYTES_AT_ONCE / largest.max(1)).max(1);
    wanted.min(MOST_AT_ONCE).min(room)
}

/// Who has not answered yet.
#[derive(Debug, PartialEq, Eq)]
enum ToCome {
    /// Nobody of whom an answer can be expected.
    Nobody,
    /// Workers that came since the last question; all that answered it have answered this one.
    Newcomers,
    /// Some that answered the last question; where there was none, some of those that received this one.
    Known,
}

fn still_to_come(
    receivers: &BTreeMap<&'static str, u64>,
    heard: &BTreeMap<&'static str, Voices>,
    known: Option<&Audience>,
) -> ToCome {
    let nobody = Voices::new();
    let mut to_come = ToCome::Nobody;
    for (method, receivers) in receivers {
        let heard = heard.get(method).unwrap_or(&nobody);
        let voices = heard.values().sum::<u64>();
        if voices >= *receivers {
            continue;
        }
        let spoke = |(node, voices): (&String, &u64)| heard.get(node) >= Some(voices);
        let Some(known) = known.filter(|known| known.voices.iter().all(spoke)) else {
            return ToCome::Known;
        };
        if voices.saturating_add(known.unheard()) < *receivers {
            to_come = ToCome::Newcomers;
        }
    }
    to_come
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voices(nodes: &[(&str, u64)]) -> Voices {
        nodes
            .iter()
            .map(|(node, n)| ((*node).to_owned(), *n))
            .collect()
    }

    fn to_come(receivers: u64, heard: &[(&str, u64)], known: Option<&Audience>) -> ToCome {
        let heard = BTreeMap::from([("active", voices(heard))]);
        still_to_come(&BTreeMap::from([("active", receivers)]), &heard, known)
    }

    #[test]
    fn replies_are_taken_together_while_they_are_small_and_rpop_is_not_refused() {
        assert_eq!(pace(1, true, false, 900), 2);
        assert_eq!(pace(4, false, false, 900), 4);
        assert_eq!(pace(16, true, false, 900), MOST_AT_ONCE);
        assert_eq!(pace(8, true, false, BYTES_AT_ONCE / 3), 3);
        assert_eq!(pace(8, true, false, usize::MAX), 1);
        assert_eq!(pace(2, true, true, 900), 0);
        assert_eq!(pace(0, true, true, 0), 0);
    }

    #[test]
    fn a_newcomer_s_answer_is_none_of_those_that_are_waited_for() {
        let known = Audience {
            voices: voices(&[("w1", 1), ("twins", 2)]),
            silent: 1,
            strangers: 0,
        };
        let known = Some(&known);
        let heard = [("w1", 1), ("new", 1), ("twins", 1)];
        assert_eq!(to_come(5, &heard, known), ToCome::Known);
        // The fourth was silent before, and is not waited for.
        let heard = [("w1", 1), ("twins", 2)];
        assert_eq!(to_come(4, &heard, known), ToCome::Nobody);
        // One has left: all who received it have answered.
        assert_eq!(to_come(2, &[("twins", 2)], known), ToCome::Nobody);
        assert_eq!(to_come(2, &[("twins", 1)], None), ToCome::Known);
    }

    #[test]
    fn who_came_since_the_last_question_is_waited_for() {
        let known = Audience {
            voices: voices(&[("w1", 1)]),
            silent: 1,
            strangers: 0,
        };
        let known = Some(&known);
        assert_eq!(to_come(3, &[("w1", 1)], known), ToCome::Newcomers);
        let both = [("w1", 1), ("new", 1)];
        assert_eq!(to_come(3, &both, known), ToCome::Nobody);
        // Nobody was there before.
        let nobody = Audience::default();
        assert_eq!(to_come(1, &[], Some(&nobody)), ToCome::Newcomers);
        assert_eq!(to_come(0, &[], Some(&nobody)), ToCome::Nobody);
        // It did not answer the last question either.
        let strange = Audience {
            strangers: 1,
            ..Audience::default()
        };
        assert_eq!(to_come(1, &[], Some(&strange)), ToCome::Nobody);
    }
}
