//! A look into a queue. There is no reading without taking: messages are taken without being acknowledged, and go back
//! when the channel closes, which keeps their order where a rejection might not. What stays is the mark `redelivered`.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream as _;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::time::{Instant, sleep, timeout};

use super::amqp::{AmqpClient, Depth};
use super::frames::UNREAD;
use super::leaderless::{AT_ONCE, is_doubtful, is_led, no_word};
use super::may_peek::goes_with_its_consumer;
use super::message;
use crate::celery::message::{Envelope, Keep, Malformed, Unreadable};
use crate::collect::wanted::Wanted;
use crate::evidence::rabbitmq::{Peeked, Queue, QueueType};
use crate::evidence::{Death, Observed, Reason, Why};

pub(crate) use super::may_peek::may_peek;

/// Below every worker: a consumer with room for a message gets it before us.
const BELOW_ALL: i32 = -100;

/// What one consumer holds.
const SHARE: u16 = 10_000;

/// So long without a message, and the queue is asked whether there are more.
const QUIET: Duration = Duration::from_millis(50);

/// So long messages gather.
const GATHER: Duration = Duration::from_millis(1);

/// So often an empty queue is waited for whose messages may still be on their way.
const LATE: u32 = 6;

/// A message takes about as many microseconds on a slow machine.
const MICROSECONDS_EACH: u64 = 250;

/// How often the queue is asked whether the messages are back, and for how long.
const LOOK: Duration = Duration::from_millis(10);
const GIVE_BACK: Duration = Duration::from_secs(5);

/// What a look brought.
#[derive(Debug)]
pub(crate) struct Peek {
    /// Wanted messages, in the order of their delivery.
    pub(crate) found: Vec<Found>,
    /// What was held, and for how long.
    pub(crate) facts: Peeked,
    /// How many messages waited before.
    pub(crate) ready: u64,
    /// Who consumes the queue after it, without us.
    pub(super) consumers: u64,
}

/// A message that was wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    /// How many deliveries away it is: 1 is next.
    pub(crate) position: u64,
    /// What it says of its task.
    pub(crate) envelope: Envelope,
    /// Why it was dead-lettered, where it was.
    pub(crate) death: Option<Death>,
    /// How often a quorum queue delivered it before; none where the server does not say.
    pub(crate) deliveries: Option<u64>,
}

impl AmqpClient {
    /// Looks at the first messages of a queue, as many as [`may_peek`] allows, until `limit` or for `budget`, and longer
    /// where there are many.
    ///
    /// # Errors
    /// Where [`may_peek`] refuses, where the queue is gone or refused, and where a message in it breaks the connection. All messages are back then
    /// too: the server takes them back with the channel.
    pub(crate) async fn peek(
        &self,
        queue: &Queue,
        limit: u64,
        budget: Duration,
        wanted: &mut Wanted,
        keep: Keep,
    ) -> Result<Peek, Why> {
        let mut sieve = Sieve {
            wanted,
            keep,
            malformed: 0,
            left_out: false,
            found: Vec::new(),
        };
        let held = self
            .hold(queue, limit, budget, |delivery| sieve.at(delivery))
            .await?;
        Ok(sieve.done(&held))
    }

    /// Takes the first messages of a queue, as many as [`may_peek`] allows, until `limit` or for `budget`, and longer where
    /// there are many, shows each, and gives them back.
    ///
    /// # Errors
    /// As [`AmqpClient::peek`].
    pub(super) async fn hold(
        &self,
        queue: &Queue,
        limit: u64,
        budget: Duration,
        see: impl FnMut(&Delivery),
    ) -> Result<Held, Why> {
        let (ready, consumers) = self.surely_there(queue).await?;
        // Statistics are seconds old; how full it is matters now.
        let queue = &Queue {
            ready: Observed::Seen(ready),
            consumers: Observed::Seen(consumers),
            ..queue.clone()
        };
        let most = may_peek(queue, self.version.seen().map(String::as_str))
            .map_err(|refusal| Why::new(Reason::Unsupported, refusal))?;
        let limit = limit.min(ready).min(most);
        let mut look = Look {
            limit,
            deadline: Instant::now() + time_for(limit, budget),
            see,
            taken: 0,
            emptied: false,
            in_step: queue.kind.seen() == Some(&QueueType::Classic),
        };
        let mut held = Held {
            ready,
            messages: 0,
            emptied: false,
            time: Duration::ZERO,
            given_back: true,
            consumers,
        };
        if limit == 0 {
            return Ok(held);
        }
        let channel = self.channel().await?;
        let since = Instant::now();
        let name = ShortString::try_new(queue.name.as_str())
            .map_err(|_| Why::new(Reason::Unsupported, "its name is too long for AMQP"))?;
        self.valve().meter();
        let taken = if goes_with_its_consumer(queue) {
            self.take_one_by_one(&channel, &name, &mut look).await
        } else {
            self.take(&channel, &name, &mut look).await
        };
        self.valve().open();
        // Also after an error.
        self.leave(channel).await;
        held.time = since.elapsed();
        taken?;
        (held.messages, held.emptied) = (look.taken, look.emptied);
        (held.given_back, held.consumers) = self.wait_for(queue, ready, consumers).await?;
        Ok(held)
    }

    /// As [`AmqpClient::there`]; of a quorum queue whose leader does not answer nothing is known.
    async fn surely_there(&self, queue: &Queue) -> Result<(u64, u64), Why> {
        let mut told = self.there(&queue.name).await?;
        let is_doubted =
            |(ready, consumers)| is_doubtful(queue, &Depth::There { ready, consumers });
        if is_doubted(told) {
            let asked = Instant::now();
            told = self.there(&queue.name).await?;
            // What it held a moment ago workers may have taken. Whether its leader has gone since it was last seen is
            // looked at when the queues are counted again.
            let by_a_leader = is_led(queue) && asked.elapsed() < AT_ONCE;
            if is_doubted(told) && !by_a_leader {
                return Err(no_word(&queue.name));
            }
        }
        Ok(told)
    }

    async fn there(&self, queue: &str) -> Result<(u64, u64), Why> {
        match self.depth(queue).await? {
            Depth::There { ready, consumers } => Ok((ready, consumers)),
            Depth::Missing => Err(Why::new(
                Reason::Unreachable,
                format!("there is no queue {queue} any more"),
            )),
            Depth::Locked => Err(Why::new(
                Reason::Refused,
                format!("queue {queue} is exclusive to another connection"),
            )),
            Depth::Untold(why) => Err(why),
        }
    }

    /// By a consumer: the messages it holds go back in one step, where those that were got one by one go back one by
    /// one.
    async fn take(
        &self,
        channel: &Channel,
        queue: &ShortString,
        look: &mut Look<impl FnMut(&Delivery)>,
    ) -> Result<(), Why> {
        let what = format!("messages of queue {queue}");
        let mut consumers = Vec::new();
        let mut taken = Ok(());
        // A consumer without a limit would make the server send the whole queue. So each holds a share, and the next
        // one comes when that is in: an answer would stand behind all that is still on its way.
        while taken.is_ok() && !look.over() {
            let left = look.limit - look.taken;
            let share = u16::try_from(left).unwrap_or(u16::MAX).min(SHARE);
            let before = look.taken;
            taken = match self.consume(channel, queue, share).await {
                Ok(mut consumer) => {
                    let all = before + u64::from(share);
                    let watched = self.watch(channel, &mut consumer, all, look).await;
                    consumers.push(consumer);
                    watched
                }
                Err(why) => Err(why),
            };
            if look.taken < before + u64::from(share) {
                // No more came.
                break;
            }
        }
        for consumer in &consumers {
            let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
            // Where it fails the channel is closed in the next step all the same.
            let _ = self.reading_on(self.wait(&what, cancelled)).await;
        }
        taken
    }

    async fn consume(
        &self,
        channel: &Channel,
        queue: &ShortString,
        share: u16,
    ) -> Result<Consumer, Why> {
        let what = format!("messages of queue {queue}");
        let qos = channel.basic_qos(share, BasicQosOptions::default());
        self.reading_on(self.ask(&what, qos)).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongInt(BELOW_ALL));
        let consumed = channel.basic_consume(
            queue.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            arguments,
        );
        self.reading_on(self.ask(&what, consumed)).await
    }

    /// Looks at what comes until `all` were taken, or no more comes.
    async fn watch(
        &self,
        channel: &Channel,
        consumer: &mut Consumer,
        all: u64,
        look: &mut Look<impl FnMut(&Delivery)>,
    ) -> Result<(), Why> {
        let queue = consumer.queue();
        let mut empty = 0;
        while !look.over() && look.taken < all {
            let left = look.deadline.saturating_duration_since(Instant::now());
            match timeout(left.min(QUIET), next(consumer, self)).await {
                Ok(Some(Ok(delivery))) => look.at(&delivery),
                Ok(Some(Err(error))) => {
                    return Err(self.why(&format!("messages of queue {queue}"), &error));
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    // Workers may have taken the rest.
                    let (ready, _) = self.reading_on(self.there(queue.as_str())).await?;
                    if ready == 0 && !look.in_step {
                        empty += 1;
                        if empty == LATE {
                            return Ok(());
                        }
                    } else if ready == 0 {
                        // What was handed out before this answer stands before it.
                        let qos = channel.basic_qos(1, BasicQosOptions::default());
                        self.reading_on(self.ask("what was sent", qos)).await?;
                        while let Ok(Some(last)) =
                            timeout(Duration::ZERO, next(consumer, self)).await
                        {
                            let last = last.map_err(|error| self.why("what was sent", &error))?;
                            look.at(&last);
                        }
                        look.emptied = true;
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn take_one_by_one(
        &self,
        channel: &Channel,
        queue: &ShortString,
        look: &mut Look<impl FnMut(&Delivery)>,
    ) -> Result<(), Why> {
        let what = format!("a message of queue {queue}");
        while !look.over() {
            let got = channel.basic_get(queue.clone(), BasicGetOptions::default());
            let Some(message) = self.reading_on(self.ask(&what, got)).await? else {
                look.emptied = true;
                break;
            };
            look.at(&message.delivery);
        }
        Ok(())
    }

    /// Waits for an answer behind which messages may stand, one of them perhaps larger than what is read ahead.
    async fn reading_on<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        loop {
            match timeout(LOOK, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) => self.valve().all_seen(),
            }
        }
    }

    /// Waits until as many messages wait as before. Returns whether they do, and how many consume the queue now.
    async fn wait_for(&self, queue: &Queue, before: u64, workers: u64) -> Result<(bool, u64), Why> {
        let deadline = Instant::now() + GIVE_BACK;
        // A classic queue is rid of us once it has taken back what we held; a quorum queue counts us until then.
        let is_classic = queue.kind.seen() == Some(&QueueType::Classic);
        loop {
            let (ready, consumers) = self.there(&queue.name).await?;
            let others = if is_classic {
                consumers
            } else {
                consumers.min(workers)
            };
            if ready >= before {
                return Ok((true, others));
            }
            // After that workers may have taken some, also those that came meanwhile, and nobody can tell how many.
            let without_us = if is_classic {
                consumers > 0 || workers > 0
            } else {
                workers > 0 && consumers <= workers
            };
            if without_us || Instant::now() >= deadline {
                return Ok((false, others));
            }
            sleep(LOOK).await;
        }
    }
}

/// How long so many messages may be held: for `least`, or as long as they take to come.
fn time_for(messages: u64, least: Duration) -> Duration {
    least.max(Duration::from_micros(
        messages.saturating_mul(MICROSECONDS_EACH),
    ))
}

/// The next delivery; none when the consumer was cancelled. Where there is none yet, some gather before it looks again: to
/// be woken for each costs both cores more than to look at it.
async fn next(consumer: &mut Consumer, client: &AmqpClient) -> Option<lapin::Result<Delivery>> {
    let mut unheard = Context::from_waker(Waker::noop());
    if let Poll::Ready(next) = Pin::new(&mut *consumer).poll_next(&mut unheard) {
        return next;
    }
    client.valve().all_seen();
    sleep(GATHER).await;
    std::future::poll_fn(|cx| {
        let polled = Pin::new(&mut *consumer).poll_next(cx);
        if polled.is_pending() {
            client.valve().all_seen();
        }
        polled
    })
    .await
}

/// What was held, and given back.
#[derive(Debug)]
pub(super) struct Held {
    /// How many messages waited before.
    pub(super) ready: u64,
    /// How many were looked at.
    pub(super) messages: u64,
    /// Nothing was left in the queue while we held what we had taken.
    pub(super) emptied: bool,
    /// Who consumes the queue after it, without us.
    pub(super) consumers: u64,
    time: Duration,
    given_back: bool,
}

impl Held {
    /// Whether these were all that waited.
    pub(super) fn whole(&self) -> bool {
        self.messages >= self.ready || self.emptied
    }
}

/// A look that is under way.
struct Look<S> {
    limit: u64,
    deadline: Instant,
    see: S,
    taken: u64,
    emptied: bool,
    /// What the queue has handed out arrives before its later answers. A quorum queue's members send on their own.
    in_step: bool,
}

impl<S: FnMut(&Delivery)> Look<S> {
    fn over(&self) -> bool {
        self.taken >= self.limit || Instant::now() >= self.deadline
    }

    fn at(&mut self, delivery: &Delivery) {
        self.taken += 1;
        (self.see)(delivery);
    }
}

/// Whether a message's own properties were larger than a frame may be, so that nothing of it was handed on.
pub(super) fn is_unread(delivery: &Delivery) -> bool {
    let content_type = delivery.properties.content_type();
    content_type
        .as_ref()
        .is_some_and(|kind| kind.as_str() == UNREAD)
}

/// Finds the wanted tasks among messages.
struct Sieve<'w> {
    wanted: &'w mut Wanted,
    keep: Keep,
    malformed: u64,
    /// More were wanted than may be kept, or one could not be read.
    left_out: bool,
    found: Vec<Found>,
}

impl Sieve<'_> {
    fn at(&mut self, delivery: &Delivery) {
        if is_unread(delivery) {
            self.left_out = true;
            return;
        }
        let headers = message::headers(&delivery.properties);
        match message::envelope(delivery, &headers, self.keep) {
            Ok(mut envelope) => {
                if !self.wanted.takes(&mut envelope) {
                    // A message of which all are wanted was one too many.
                    self.left_out |= self.wanted.has(&envelope.id);
                    return;
                }
                self.found.push(Found {
                    // Tags count the deliveries on a channel.
                    position: delivery.delivery_tag,
                    envelope,
                    death: message::death(&headers),
                    deliveries: message::delivery_count(&headers),
                });
            }
            // A body that is not read may belong to a task: kombu can read YAML, and an app may have a serialiser of
            // its own, whose content type is set.
            Err(error) if error.may_be_celerys() => {}
            Err(Malformed::Body(Unreadable::ContentType))
                if delivery.properties.content_type().is_some() => {}
            Err(_) => self.malformed += 1,
        }
    }

    fn done(mut self, held: &Held) -> Peek {
        self.found.sort_by_key(|found| found.position);
        Peek {
            facts: Peeked {
                messages: held.messages,
                whole: held.whole() && !self.left_out,
                malformed: self.malformed,
                gone: if held.emptied {
                    held.ready.saturating_sub(held.messages)
                } else {
                    0
                },
                held_ms: u64::try_from(held.time.as_millis()).unwrap_or(u64::MAX),
                given_back: held.given_back,
            },
            found: self.found,
            ready: held.ready,
            consumers: held.consumers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_very_many_messages_are_held_for_longer() {
        let least = Duration::from_millis(900);
        // Whatever was asked for: this is what the queue allows.
        assert_eq!(time_for(1_000, least), least);
        assert_eq!(time_for(1_000_000, least), Duration::from_secs(250));
        assert_eq!(time_for(u64::MAX, least).as_secs(), u64::MAX / 1_000_000);
    }
}
