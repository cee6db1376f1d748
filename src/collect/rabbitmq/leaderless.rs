//! Quorum queues without a leader. Asked how deep they are, the server says that they are empty and have no consumer, and so
//! it does where the leader takes more than 250 ms to answer (RabbitMQ 3.10 `rabbit_quorum_queue.erl`, `stat/2`, and 4.x
//! alike).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::amqp::{AmqpClient, Depth};
use crate::evidence::rabbitmq::{Queue, QueueType};
use crate::evidence::{RabbitMq, Reason, Why};

/// How deep these queues are, as far as the answers can be believed: those that can't are asked for once more, and then
/// are none.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn believed(
    client: &Arc<AmqpClient>,
    rabbit: &RabbitMq,
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
    for (name, mut depth) in client.depths(doubted).await? {
        if is_doubted(&name, &depth) {
            depth = Depth::Untold(no_word(&name));
        }
        depths.insert(name, depth);
    }
    Ok(depths)
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
