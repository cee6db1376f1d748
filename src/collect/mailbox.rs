//! Remote control, whatever carries it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::rabbitmq::control as over_amqp;
use super::redis::control as over_redis;
use crate::evidence::Why;

/// The answers to several requests, by method.
pub(crate) type Replies = BTreeMap<&'static str, Answers>;

/// One request, and its answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// How many workers received the request: on Redis its subscribers; on RabbitMQ those that were expected, none
    /// where nobody could tell.
    pub(crate) receivers: u64,
    /// The answers, by node; a node that answers twice has a twin.
    pub(crate) by_node: BTreeMap<String, Vec<Value>>,
}

/// When the answers are all there.
#[derive(Clone, Copy)]
pub(crate) enum Until<'a> {
    /// When everyone who received the request has answered, as far as the broker tells.
    Everyone,
    /// When so many have answered.
    Count(u64),
    /// When the answers explain what was seen otherwise.
    Explained(&'a (dyn Fn(&Replies) -> bool + Sync)),
}

/// A reply queue, and how to ask.
pub(crate) enum Mailbox {
    /// By PUBLISH and a list.
    Redis(over_redis::Mailbox),
    /// By a fanout exchange and a queue.
    Amqp(Box<over_amqp::Mailbox>),
}

impl Mailbox {
    /// Asks every worker, and waits for `patience` at most.
    pub(crate) async fn ask(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        until: Until<'_>,
    ) -> Result<Replies, Why> {
        match self {
            Self::Redis(mailbox) => {
                let enough = match until {
                    Until::Count(enough) => Some(enough),
                    Until::Everyone | Until::Explained(_) => None,
                };
                mailbox.ask(requests, patience, enough).await
            }
            Self::Amqp(mailbox) => mailbox.ask(requests, patience, until).await,
        }
    }

    /// How many workers listen now, by how many received a question; none where the transport does not tell.
    pub(crate) fn listening(&self, receivers: Option<u64>) -> Option<u64> {
        match self {
            Self::Redis(_) => receivers,
            Self::Amqp(_) => None,
        }
    }

    /// Asks until so many have answered, and shows each answer as it comes where the transport allows it, so that they
    /// need not all be in memory at once. Returns how many workers received each request.
    pub(crate) async fn ask_each(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        enough: u64,
        mut see: impl FnMut(&'static str, String, Value),
    ) -> Result<BTreeMap<&'static str, u64>, Why> {
        let mailbox = match self {
            Self::Redis(mailbox) => {
                return mailbox
                    .ask_each(requests, patience, Some(enough), see)
                    .await;
            }
            Self::Amqp(mailbox) => mailbox,
        };
        let replies = mailbox
            .ask(requests, patience, Until::Count(enough))
            .await?;
        let mut receivers = BTreeMap::new();
        for (method, answers) in replies {
            receivers.insert(method, answers.receivers);
            for (node, given) in answers.by_node {
                for answer in given {
                    see(method, node.clone(), answer);
                }
            }
        }
        Ok(receivers)
    }
}
