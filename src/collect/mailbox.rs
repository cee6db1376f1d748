//! Remote control, whatever carries it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::rabbitmq::control as over_amqp;
use super::redis::control as over_redis;
use crate::celery::control::{Heard, Reply};
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
    /// The content types of the answers, by node, where they are none of kombu's.
    pub(crate) dialects: BTreeMap<String, String>,
    /// How many answers could not be read, by content type.
    pub(crate) unreadable: BTreeMap<String, u64>,
}

impl Answers {
    /// Takes a reply in.
    pub(crate) fn take(&mut self, reply: Reply) {
        if let Some(dialect) = reply.dialect {
            self.dialects.insert(reply.node.clone(), dialect);
        }
        self.by_node
            .entry(reply.node)
            .or_default()
            .push(reply.answer);
    }

    /// Takes in that an answer can't be read.
    pub(crate) fn note_unreadable(&mut self, content_type: String) {
        *self.unreadable.entry(content_type).or_default() += 1;
    }
}

/// How often each node answers: once, but where workers share its name.
pub(crate) type Voices = BTreeMap<String, u64>;

/// Who received the last question under one key prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Audience {
    /// Who answered it.
    pub(crate) voices: Voices,
    /// How many did not, and were there from the beginning or fell silent since.
    pub(crate) silent: u64,
    /// How many more did not: they came meanwhile.
    pub(crate) strangers: u64,
}

impl Audience {
    /// How many answered nothing.
    pub(crate) fn unheard(&self) -> u64 {
        self.silent.saturating_add(self.strangers)
    }
}

/// When the answers are all there.
#[derive(Clone, Copy)]
pub(crate) enum Until<'a> {
    /// When everyone who received the request has answered, as far as the broker tells.
    Everyone,
    /// When these nodes have answered, whoever else does.
    Nodes(&'a Audience),
    /// When the answers explain what was seen otherwise.
    Explained(&'a (dyn Fn(&Replies) -> bool + Sync)),
}

/// A reply queue, and how to ask.
pub(crate) enum Mailbox {
    /// By PUBLISH and a list.
    Redis(Box<over_redis::Mailbox>),
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
                let known = match until {
                    Until::Nodes(known) => Some(known),
                    Until::Everyone | Until::Explained(_) => None,
                };
                mailbox.ask(requests, patience, known).await
            }
            Self::Amqp(mailbox) => mailbox.ask(requests, patience, until).await,
        }
    }

    /// The nodes that were seen to go while an answer was waited for.
    pub(crate) fn departed(&self) -> BTreeSet<String> {
        match self {
            Self::Redis(_) => BTreeSet::new(),
            Self::Amqp(mailbox) => mailbox.departed(),
        }
    }

    /// How many received the questions, at least and at most: a worker may come or go between two of them. None where
    /// the broker does not tell.
    pub(crate) fn received(
        &self,
        receivers: impl Iterator<Item = u64> + Clone,
    ) -> Option<RangeInclusive<u64>> {
        match self {
            Self::Redis(_) => Some(receivers.clone().min()?..=receivers.max()?),
            Self::Amqp(_) => None,
        }
    }

    /// Asks until these have answered, and shows each answer as it comes where the transport allows it, so that they
    /// need not all be in memory at once. Returns how many workers received each request.
    pub(crate) async fn ask_each(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        known: &Audience,
        mut see: impl FnMut(&'static str, Heard),
    ) -> Result<BTreeMap<&'static str, u64>, Why> {
        let mailbox = match self {
            Self::Redis(mailbox) => {
                return mailbox.ask_each(requests, patience, Some(known), see).await;
            }
            Self::Amqp(mailbox) => mailbox,
        };
        let until = Until::Nodes(known);
        let replies = mailbox.ask(requests, patience, until).await?;
        let mut receivers = BTreeMap::new();
        for (method, answers) in replies {
            receivers.insert(method, answers.receivers);
            for (node, given) in answers.by_node {
                let dialect = answers.dialects.get(&node);
                for answer in given {
                    see(
                        method,
                        Heard::Reply(Reply {
                            ticket: String::new(),
                            node: node.clone(),
                            answer,
                            dialect: dialect.cloned(),
                        }),
                    );
                }
            }
        }
        Ok(receivers)
    }
}
