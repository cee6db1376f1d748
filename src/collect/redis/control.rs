//! Remote control over Redis: requests by PUBLISH, replies in a list of our own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::cmd;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::client::Client;
use crate::celery::control::{
    REPLY_BINDINGS, Reply, channel, parse_reply, reply_binding, reply_list, request,
};
use crate::collect::cleanup::Cleanup;
use crate::collect::mailbox::{Answers, Replies, Voices};
use crate::config::url::RedisServer;
use crate::evidence::{Reason, Why};

/// How long one BRPOP waits. Well below the time after which a server counts as gone.
const WAIT: Duration = Duration::from_millis(500);

/// What BRPOP answers: the key and the item, or nothing within its time.
type Popped = Option<(Vec<u8>, Vec<u8>)>;

/// A reply queue under one key prefix, and the connections to use it.
pub(crate) struct Mailbox {
    /// For the announcement, the requests, and the removal of the address: in this order.
    control: Arc<Client>,
    /// For BRPOP, which blocks its connection.
    replies: Client,
    prefix: String,
    database: u32,
    /// The exchanges that workers listen to.
    exchanges: BTreeSet<String>,
    oid: String,
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
        })
    }

    /// Asks every worker and waits until all that received the requests have answered, or for `patience`. Where it
    /// is known who does answer, no others are waited for.
    pub(crate) async fn ask(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        known: Option<&Voices>,
    ) -> Result<Replies, Why> {
        let mut given: BTreeMap<&'static str, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
        let receivers = self
            .ask_each(requests, patience, known, |method, node, answer| {
                let by_node = given.entry(method).or_default();
                by_node.entry(node).or_default().push(answer);
            })
            .await?;
        let answers = receivers.into_iter().map(|(method, receivers)| {
            let by_node = given.remove(method).unwrap_or_default();
            (method, Answers { receivers, by_node })
        });
        Ok(answers.collect())
    }

    /// As [`Mailbox::ask`], and shows each answer as it comes, so that they need not all be in memory at once. Returns how
    /// many subscribers received each request.
    pub(crate) async fn ask_each(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        known: Option<&Voices>,
        mut see: impl FnMut(&'static str, String, Value),
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
        let deadline = Instant::now() + patience;
        let mut heard: BTreeMap<&'static str, Voices> = BTreeMap::new();
        while !all_in(&receivers, &heard, known) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Some(Reply {
                ticket,
                node,
                answer,
            }) = self.next(left.min(WAIT)).await?
            else {
                continue;
            };
            // A reply to another ticket is none of ours.
            if let Some(method) = methods.get(&ticket) {
                let voices = heard.entry(method).or_default();
                *voices.entry(node.clone()).or_default() += 1;
                see(method, node, answer);
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

    async fn next(&self, wait: Duration) -> Result<Option<Reply>, Why> {
        let pop = async |seconds: f64| -> Result<Popped, Why> {
            let mut command = cmd("BRPOP");
            command
                .arg(format!("{}{}", self.prefix, reply_list(&self.oid)))
                .arg(seconds);
            self.replies.ask(&command).await
        };
        let popped = match pop(wait.as_secs_f64()).await {
            // Before Redis 6.0 it takes whole seconds only.
            Err(why) if why.reason == Reason::Unsupported => pop(1.0).await?,
            other => other?,
        };
        Ok(popped.and_then(|(_, message)| parse_reply(&message)))
    }
}

/// Whether all who received the questions have answered them, or all of whom it is known that they do.
fn all_in(
    receivers: &BTreeMap<&'static str, u64>,
    heard: &BTreeMap<&'static str, Voices>,
    known: Option<&Voices>,
) -> bool {
    let nobody = Voices::new();
    receivers.iter().all(|(method, receivers)| {
        let heard = heard.get(method).unwrap_or(&nobody);
        let spoke = |(node, voices): (&String, &u64)| heard.get(node) >= Some(voices);
        heard.values().sum::<u64>() >= *receivers
            || known.is_some_and(|known| known.iter().all(spoke))
    })
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

    #[test]
    fn a_newcomer_s_answer_is_none_of_those_that_are_waited_for() {
        let in_time = |receivers: u64, heard: &[(&str, u64)], known: Option<&Voices>| {
            let heard = BTreeMap::from([("active", voices(heard))]);
            all_in(&BTreeMap::from([("active", receivers)]), &heard, known)
        };
        let known = voices(&[("w1", 1), ("twins", 2)]);
        assert!(!in_time(
            5,
            &[("w1", 1), ("new", 1), ("twins", 1)],
            Some(&known)
        ));
        // A fifth is silent, and is not waited for.
        assert!(in_time(5, &[("w1", 1), ("twins", 2)], Some(&known)));
        // One has left: all who received it have answered.
        assert!(in_time(2, &[("twins", 2)], Some(&known)));
        assert!(!in_time(2, &[("twins", 1)], None));
    }
}
