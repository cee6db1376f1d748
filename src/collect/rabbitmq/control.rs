//! Remote control over AMQP: requests to a fanout exchange, replies in a queue of our own that goes with its connection
//! (kombu 5.7 `pidbox.py`).

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_core::Stream as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer, ExchangeKind};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::amqp::{AmqpClient, Depth, is_missing};
use super::mailboxes::MAILBOX;
use super::message;
use crate::celery::control::{Heard, REPLY_EXCHANGE, Reply, read_reply, reply_list, request_body};
use crate::collect::cleanup::Cleanup;
use crate::collect::mailbox::{Answers, Replies, Until};
use crate::evidence::{Reason, Why};

/// The exchange that every worker's mailbox is bound to.
const REQUEST_EXCHANGE: &str = "celery.pidbox";

/// What kombu gives a reply queue (`control_queue_expires`, `control_queue_ttl`), in milliseconds.
const REPLY_QUEUE_EXPIRES: i32 = 10_000;
const REPLY_QUEUE_TTL: i32 = 300_000;

/// How often is looked whether the server blocks us: it says so on the side.
const LOOK: Duration = Duration::from_millis(20);

/// When the mailboxes of those that have not answered are looked at, and how often from then on: a worker that restarts
/// takes longer to come back.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const NEXT_LOOK: Duration = Duration::from_millis(300);

/// A reply queue, on a connection of its own: under an alarm the server stops listening to whoever publishes.
pub(crate) struct Mailbox {
    client: Arc<AmqpClient>,
    channel: Channel,
    /// Workers answer through this exchange; the default one where nobody has declared kombu's yet.
    reply_exchange: &'static str,
    reply_key: String,
    replies: Mutex<Consumer>,
    /// Nodes whose mailboxes were gone while an answer was waited for.
    departed: SyncMutex<BTreeSet<String>>,
}

impl Mailbox {
    /// Opens a reply queue; nothing where no worker with remote control was there since the broker's start.
    pub(crate) async fn open(client: &AmqpClient, cleanup: &Cleanup) -> Result<Option<Self>, Why> {
        let client = Arc::new(client.another(cleanup).await?);
        if !exchange_exists(&client, REQUEST_EXCHANGE).await? {
            return Ok(None);
        }
        let has_reply_exchange = exchange_exists(&client, REPLY_EXCHANGE).await?;
        let oid = Uuid::new_v4().to_string();
        let queue = reply_list(&oid);
        let channel = client.channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongInt(REPLY_QUEUE_EXPIRES));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(REPLY_QUEUE_TTL));
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(short(&queue)?, options, arguments);
        client.ask("a reply queue", declared).await?;
        // Declaring the exchange would leave it behind; through the default one replies need no exchange.
        let (reply_exchange, reply_key) = if has_reply_exchange {
            let bound = channel.queue_bind(
                short(&queue)?,
                REPLY_EXCHANGE.into(),
                short(&oid)?,
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            client.ask("a binding of the reply queue", bound).await?;
            (REPLY_EXCHANGE, oid)
        } else {
            ("", queue.clone())
        };
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumed = channel.basic_consume(
            short(&queue)?,
            ShortString::default(),
            options,
            FieldTable::default(),
        );
        let replies = client.ask("replies", consumed).await?;
        Ok(Some(Self {
            client,
            channel,
            reply_exchange,
            reply_key,
            replies: Mutex::new(replies),
            departed: SyncMutex::default(),
        }))
    }

    /// Asks every worker, and waits until `until` or for `patience`.
    ///
    /// # Errors
    /// Also where an alarm keeps the broker from taking the requests.
    pub(crate) async fn ask(
        &self,
        requests: &[(&'static str, Value)],
        patience: Duration,
        until: Until<'_>,
    ) -> Result<Replies, Why> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let expires = (now + patience).as_secs_f64();
        let mut replies = Replies::new();
        let mut methods = HashMap::new();
        let receivers = match until {
            Until::Nodes(known) => known.voices.len() as u64,
            Until::Everyone | Until::Explained(_) => 0,
        };
        for (method, arguments) in requests {
            let ticket = Uuid::new_v4().to_string();
            let body = request_body(
                method,
                arguments.clone(),
                &ticket,
                self.reply_exchange,
                &self.reply_key,
            );
            self.publish(&body, expires).await?;
            methods.insert(ticket, *method);
            let answers = Answers {
                receivers,
                ..Answers::default()
            };
            replies.insert(*method, answers);
        }
        let deadline = Instant::now() + patience;
        let mut incoming = self.replies.lock().await;
        let mut look = Instant::now() + FIRST_LOOK;
        while !all_there(&replies, until, &self.departed()) {
            self.unblocked()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Until::Nodes(known) = until
                && look <= Instant::now()
            {
                let missing = known
                    .voices
                    .keys()
                    .filter(|node| !answers_all(&replies, node));
                self.note_departed(missing).await?;
                look = Instant::now() + NEXT_LOOK;
                continue;
            }
            let Ok(next) = timeout(left.min(LOOK), next(&mut incoming)).await else {
                continue;
            };
            let delivery = match next {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return Err(self.client.why("replies", &error)),
                None => {
                    return Err(Why::new(
                        Reason::Unreachable,
                        format!("{} ended the reply queue", self.client.address()),
                    ));
                }
            };
            let Some(heard) = reply(&delivery) else {
                continue;
            };
            let (Heard::Reply(Reply { ticket, .. }) | Heard::Unreadable { ticket, .. }) = &heard;
            // A reply to another ticket is none of ours.
            let method = methods.get(ticket);
            if let Some(answers) = method.and_then(|method| replies.get_mut(method)) {
                match heard {
                    Heard::Reply(reply) => answers.take(reply),
                    Heard::Unreadable { content_type, .. } => answers.note_unreadable(content_type),
                }
            }
        }
        Ok(replies)
    }

    /// The nodes whose mailboxes were gone while an answer was waited for. One of the same name may be there again by
    /// now; it never got the question.
    pub(crate) fn departed(&self) -> BTreeSet<String> {
        let departed = self.departed.lock();
        departed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks which of these have no mailbox any more: it goes with its worker.
    async fn note_departed(&self, nodes: impl Iterator<Item = &String>) -> Result<(), Why> {
        let mailboxes = nodes.map(|node| format!("{node}{MAILBOX}"));
        for (mailbox, depth) in self.client.depths(mailboxes).await? {
            if depth == Depth::Missing
                && let Some(node) = mailbox.strip_suffix(MAILBOX)
            {
                let departed = self.departed.lock();
                let mut departed = departed.unwrap_or_else(PoisonError::into_inner);
                departed.insert(node.to_owned());
            }
        }
        Ok(())
    }

    async fn publish(&self, body: &str, expires: f64) -> Result<(), Why> {
        let mut headers = FieldTable::default();
        headers.insert("clock".into(), AMQPValue::LongInt(1));
        headers.insert("expires".into(), AMQPValue::Double(expires));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(0);
        let published = self.channel.basic_publish(
            REQUEST_EXCHANGE.into(),
            ShortString::default(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            properties,
        );
        let blocked = async {
            while !self.client.blocked() {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            published = self.client.ask("remote control", published) => published.map(drop),
            () = blocked => self.unblocked(),
        }
    }

    fn unblocked(&self) -> Result<(), Why> {
        if !self.client.blocked() {
            return Ok(());
        }
        // It would be sent when the alarm is over, to workers that nobody waits for any more.
        self.client.valve().cut();
        Err(Why::new(
            Reason::TakesNoWrites,
            format!(
                "{} blocks publishers, as it does under a memory or disk alarm: the workers can't be asked",
                self.client.address()
            ),
        ))
    }
}

fn answers_all(replies: &Replies, node: &str) -> bool {
    replies
        .values()
        .all(|answers| answers.by_node.contains_key(node))
}

fn all_there(replies: &Replies, until: Until<'_>, departed: &BTreeSet<String>) -> bool {
    let voices = |answers: &Answers| answers.by_node.len() as u64;
    match until {
        Until::Everyone => false,
        Until::Nodes(known) => known
            .voices
            .keys()
            .all(|node| departed.contains(node) || answers_all(replies, node)),
        Until::Explained(explained) => {
            // Who answered one question is about to answer the others.
            let most = replies.values().map(voices).max().unwrap_or_default();
            replies.values().all(|answers| voices(answers) == most) && explained(replies)
        }
    }
}

async fn exchange_exists(client: &AmqpClient, exchange: &str) -> Result<bool, Why> {
    let channel = client.channel().await?;
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let what = format!("exchange {exchange}");
    // A passive declaration does not look at the kind.
    let declared = channel.exchange_declare(
        short(exchange)?,
        ExchangeKind::Direct,
        options,
        FieldTable::default(),
    );
    match client.wait(&what, declared).await? {
        Ok(()) => {
            client.leave(channel).await;
            Ok(true)
        }
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(client.why(&what, &error)),
    }
}

fn short(name: &str) -> Result<ShortString, Why> {
    ShortString::try_new(name).map_err(|_| {
        Why::new(
            Reason::Unsupported,
            "AMQP has no names of more than 255 bytes",
        )
    })
}

/// The next delivery; none when the consumer was cancelled.
async fn next(consumer: &mut Consumer) -> Option<lapin::Result<Delivery>> {
    std::future::poll_fn(|cx| Pin::new(&mut *consumer).poll_next(cx)).await
}

fn reply(delivery: &Delivery) -> Option<Heard> {
    let headers = message::headers(&delivery.properties);
    let header = |key: &str| headers.get(key).and_then(Value::as_str);
    let content_type = delivery.properties.content_type().as_ref();
    Some(read_reply(
        header("ticket")?.to_owned(),
        content_type.map(ShortString::as_str),
        header("compression"),
        &delivery.data,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::collect::mailbox::Audience;

    #[test]
    fn nobody_else_s_answer_counts_and_who_is_gone_is_not_waited_for() {
        let known = Audience {
            voices: ["w1", "w2"].map(|node| (node.to_owned(), 1)).into(),
            ..Audience::default()
        };
        let replies = |nodes: &[&str]| {
            let by_node = nodes
                .iter()
                .map(|node| ((*node).to_owned(), vec![json!(1)]));
            let answers = Answers {
                receivers: 2,
                by_node: by_node.collect(),
                ..Answers::default()
            };
            Replies::from([("active", answers)])
        };
        let until = Until::Nodes(&known);
        let nobody = BTreeSet::new();
        assert!(all_there(&replies(&["w1", "w2"]), until, &nobody));
        assert!(!all_there(&replies(&["w1", "new"]), until, &nobody));
        let gone = BTreeSet::from(["w2".to_owned()]);
        assert!(all_there(&replies(&["w1"]), until, &gone));
    }
}
