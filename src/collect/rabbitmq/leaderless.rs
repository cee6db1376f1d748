//! Quorum queues without a leader. Asked how deep they are, the server says that they are empty and have no consumer, and so
//! it does where the leader takes more than 250 ms to answer (RabbitMQ 3.10 `rabbit_quorum_queue.erl`, `stat/2`, and 4.x
//! alike). That a queue held something seconds ago proves nothing against such an answer: messages come and go. So the server
//! is asked who leads the queue, which it looks up then and there (`format/1`), and how deep it is once more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::amqp::{AmqpClient, Depth};
use super::management::ManagementReader;
use crate::config::url::ManagementServer;
use crate::evidence::rabbitmq::{Queue, QueueType};
use crate::evidence::{RabbitMq, Reason, Why};

/// An answer that came sooner did not wait for a leader in vain.
pub(super) const AT_ONCE: Duration = Duration::from_millis(200);

/// How often a queue is asked for that takes longer.
const TRIES: usize = 3;

/// Of more queues nobody is asked who leads them.
const MOST_ASKED: usize = 100;

/// Who tells which member of a queue leads it now.
pub(super) struct Leaders<'s> {
    server: &'s ManagementServer,
    end: Option<Instant>,
    reader: OnceCell<Option<ManagementReader>>,
}

impl<'s> Leaders<'s> {
    /// To be asked of this server, until `end`.
    pub(super) fn of(server: &'s ManagementServer, end: Option<Instant>) -> Self {
        Self {
            server,
            end,
            reader: OnceCell::new(),
        }
    }

    /// Whether a queue has a leader now; no where nobody tells.
    async fn lead(&self, vhost: &str, queue: &str) -> bool {
        let connect = async || ManagementReader::connect(self.server, self.end).await.ok();
        let Some(reader) = self.reader.get_or_init(connect).await else {
            return false;
        };
        let queue = reader.queue(vhost, queue).await;
        queue.is_ok_and(|queue| is_led(&queue))
    }
}

/// Whether a quorum queue has a leader, by what the server said of it last.
pub(super) fn is_led(queue: &Queue) -> bool {
    let runs = queue.state.as_ref().is_none_or(|state| state == "running");
    let Some((members, online)) = &queue.members else {
        return false;
    };
    let leader = queue.leader.as_ref();
    runs && online.len() * 2 > members.len() && leader.is_some_and(|leader| online.contains(leader))
}

/// How deep these queues are, as far as the answers can be believed: those that can't are asked for once more, and then
/// are none.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn believed(
    client: &Arc<AmqpClient>,
    rabbit: &RabbitMq,
    leaders: &Leaders<'_>,
    names: impl IntoIterator<Item = String>,
) -> Result<BTreeMap<String, Depth>, Why> {
    let mut depths = client.depths(names).await?;
    let is_doubted = |name: &str, depth: &Depth| {
        rabbit
            .queue(name)
            .is_some_and(|queue| is_doubtful(queue, depth))
    };
    let doubted: Vec<String> = depths
        .iter()
        .filter(|(name, depth)| is_doubted(name, depth))
        .map(|(name, _)| name.clone())
        .collect();
    if doubted.is_empty() {
        return Ok(depths);
    }
    let again = client.depths(doubted).await?;
    for (asked, (name, mut depth)) in again.into_iter().enumerate() {
        if is_doubted(&name, &depth) {
            depth = if asked < MOST_ASKED && leaders.lead(client.vhost(), &name).await {
                answered_at_once(client, &name).await?
            } else {
                Depth::Untold(no_word(&name))
            };
        }
        depths.insert(name, depth);
    }
    Ok(depths)
}

/// How deep a queue is that has a leader: an answer of nothing may be for want of one in time.
async fn answered_at_once(client: &AmqpClient, queue: &str) -> Result<Depth, Why> {
    for _ in 0..TRIES {
        let asked = Instant::now();
        let depth = client.depth(queue).await?;
        if !matches!(
            depth,
            Depth::There {
                ready: 0,
                consumers: 0
            }
        ) || asked.elapsed() < AT_ONCE
        {
            return Ok(depth);
        }
    }
    Ok(Depth::Untold(no_word(queue)))
}

/// Whether it may be that nobody answered for a queue of which this is known.
pub(super) fn is_doubtful(queue: &Queue, depth: &Depth) -> bool {
    let nothing = Depth::There {
        ready: 0,
        consumers: 0,
    };
    if *depth != nothing || queue.kind.seen() != Some(&QueueType::Quorum) {
        return false;
    }
    let some = |number: Option<&u64>| number.is_some_and(|number| *number > 0);
    let had_some = some(queue.ready.seen()) || some(queue.consumers.seen());
    let runs = queue.state.as_ref().is_none_or(|state| state == "running");
    let (members, online) = match &queue.members {
        Some((members, online)) => (members.len(), online.len()),
        // Where statistics are not told either, nothing speaks for the answer.
        None => return had_some || !runs || queue.ready.seen().is_none(),
    };
    had_some || !runs || online * 2 <= members
}

/// Why it is not known how deep a quorum queue is.
pub(super) fn no_word(queue: &str) -> Why {
    Why::new(
        Reason::Unreachable,
        format!(
            "{queue} is said to be empty and without consumers, as a quorum queue is whose leader does not answer"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Rabbit;
    use crate::evidence::Observed;

    const NOTHING: Depth = Depth::There {
        ready: 0,
        consumers: 0,
    };

    fn doubtful(ready: u64, consumers: u64, change: impl FnOnce(&mut Queue)) -> bool {
        let rabbit = Rabbit::new().quorum("q", ready, consumers).with(|queue| {
            let nodes = ["a", "b", "c"].map(str::to_owned).to_vec();
            queue.members = Some((nodes.clone(), nodes));
            change(queue);
        });
        let rabbit = rabbit.lab().evidence.rabbitmq.expect("a RabbitMQ");
        is_doubtful(rabbit.queue("q").expect("it is there"), &NOTHING)
    }

    fn online(count: usize) -> impl FnOnce(&mut Queue) {
        move |queue| {
            let (_, online) = queue.members.as_mut().expect("members");
            online.truncate(count);
        }
    }

    #[test]
    fn an_empty_quorum_queue_is_believed_where_nothing_speaks_against_it() {
        assert!(!doubtful(0, 0, |_| {}));
        assert!(!doubtful(0, 0, online(2)));
        // So it is while the statistics of a new one are on their way.
        assert!(!doubtful(0, 0, |queue| queue.ready = Observed::not_asked("new")));
    }

    #[test]
    fn one_that_was_not_empty_or_lacks_members_is_not_believed() {
        assert!(doubtful(5, 0, |_| {}));
        assert!(doubtful(0, 1, |_| {}));
        assert!(doubtful(0, 0, online(1)));
        for state in ["down", "minority", "recovering"] {
            assert!(doubtful(0, 0, |queue| queue.state = Some(state.to_owned())));
        }
        assert!(doubtful(0, 0, |queue| {
            queue.members = None;
            queue.ready = Observed::not_asked("nobody counts");
        }));
    }

    #[test]
    fn a_leader_is_one_that_is_online_with_a_majority() {
        let led = |change: fn(&mut Queue)| {
            let rabbit = Rabbit::new().quorum("q", 5, 0).with(|queue| {
                let nodes = ["a", "b", "c"].map(str::to_owned).to_vec();
                queue.members = Some((nodes.clone(), nodes));
                queue.leader = Some("a".to_owned());
                change(queue);
            });
            let rabbit = rabbit.lab().evidence.rabbitmq.expect("a RabbitMQ");
            is_led(rabbit.queue("q").expect("it is there"))
        };
        assert!(led(|_| {}));
        assert!(led(|queue| online(2)(queue)));
        assert!(!led(|queue| online(1)(queue)));
        assert!(!led(|queue| queue.state = Some("down".to_owned())));
        for nobody in [None, Some(String::new()), Some("d".to_owned())] {
            let rabbit = Rabbit::new().quorum("q", 5, 0).with(|queue| {
                let nodes = ["a", "b", "c"].map(str::to_owned).to_vec();
                queue.members = Some((nodes.clone(), nodes));
                queue.leader = nobody;
            });
            let rabbit = rabbit.lab().evidence.rabbitmq.expect("a RabbitMQ");
            assert!(!is_led(rabbit.queue("q").expect("it is there")));
        }
        assert!(!led(|queue| queue.members = None));
    }

    #[test]
    fn only_quorum_queues_and_answers_of_nothing_are_doubted() {
        let rabbit = Rabbit::new().queue("classic", 5, 1).quorum("quorum", 5, 1);
        let rabbit = rabbit.lab().evidence.rabbitmq.expect("a RabbitMQ");
        let queue = |name: &str| rabbit.queue(name).expect("it is there");
        assert!(!is_doubtful(queue("classic"), &NOTHING));
        assert!(is_doubtful(queue("quorum"), &NOTHING));
        for (ready, consumers) in [(0, 1), (4, 0)] {
            let depth = Depth::There { ready, consumers };
            assert!(!is_doubtful(queue("quorum"), &depth));
        }
        assert!(!is_doubtful(queue("quorum"), &Depth::Missing));
    }
}
