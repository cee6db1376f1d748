//! What moves while queues are watched. RabbitMQ shows no message that waits, so that a queue which is as deep as before
//! proves nothing: its depth is read many times, and the workers are asked what they began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::amqp::{AmqpClient, Depth};
use super::leaderless::{Leaders, believed};
use crate::collect::movement::{is_idle, nodes, seems_to_hang};
use crate::collect::workers::{Begun, Panel};
use crate::evidence::rabbitmq::{Queue, Role};
use crate::evidence::{Evidence, ListMovement, Movement, Observed, RabbitMq, Why, Worker};

/// So many queues are watched.
const MOST_QUEUES: usize = 500;
/// How often each is looked at, and how long is waited in between at least.
const LOOKS: u32 = 20;
const LEAST_WAIT: Duration = Duration::from_millis(200);

/// What the first reading and those after it found.
pub(super) struct Watch {
    begun_at: Instant,
    seconds: f64,
    queues: BTreeMap<String, Depths>,
    idle: BTreeSet<String>,
    hanging: BTreeSet<String>,
    begun: BTreeMap<String, Begun>,
}

/// How deep a queue was.
struct Depths {
    first: u64,
    last: u64,
    /// It was shorter once than the time before.
    fell: bool,
    /// What the statistics counted before.
    counted: Counted,
}

/// What the statistics count of a queue: deliveries, acknowledgements, and what is in between.
type Counted = [Option<u64>; 3];

fn counted(queue: &Queue) -> Counted {
    [&queue.delivered, &queue.acknowledged, &queue.unacknowledged]
        .map(|count| count.seen().copied())
}

impl Watch {
    /// Looks at the queues of tasks that hold anything and have consumers. None where the queues were not read.
    pub(super) async fn begin(
        client: &Arc<AmqpClient>,
        leaders: &Leaders<'_>,
        evidence: &Evidence,
        panel: &mut Option<Panel>,
    ) -> Result<Option<Self>, Why> {
        let (Some(rabbit), Some(_)) = (&evidence.rabbitmq, evidence.lists.seen()) else {
            return Ok(None);
        };
        // To ask for one that expires when it is not used would keep it alive.
        let kept = |queue: &&Queue| {
            queue.number("expires").is_none() && queue.exclusive.seen() != Some(&true)
        };
        let holds = |queue: &&Queue| queue.ready.seen().is_some_and(|ready| *ready > 0);
        let queues: BTreeMap<String, Counted> = rabbit
            .queues_of(Role::Tasks)
            .filter(|queue| kept(queue) && holds(queue))
            .map(|queue| (queue.name.clone(), counted(queue)))
            .take(MOST_QUEUES)
            .collect();
        let begun = match panel {
            Some(panel) => panel.begun().await?,
            None => BTreeMap::new(),
        };
        let begun_at = Instant::now();
        let depths = depths(client, rabbit, leaders, queues.keys().cloned()).await?;
        let queues = queues.into_iter().filter_map(|(name, counted)| {
            let first = *depths.get(&name)?;
            let depths = Depths {
                first,
                last: first,
                fell: false,
                counted,
            };
            Some((name, depths))
        });
        Ok(Some(Self {
            begun_at,
            seconds: 0.0,
            queues: queues.collect(),
            idle: nodes(evidence, rests),
            hanging: nodes(evidence, seems_to_hang),
            begun,
        }))
    }

    /// Looks again and again for so long.
    pub(super) async fn wait(
        &mut self,
        client: &Arc<AmqpClient>,
        rabbit: &RabbitMq,
        leaders: &Leaders<'_>,
        time: Duration,
    ) -> Result<(), Why> {
        let end = self.begun_at + time;
        let step = (time / LOOKS).max(LEAST_WAIT);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            tokio::time::sleep(step.min(left)).await;
            let depths = depths(client, rabbit, leaders, self.queues.keys().cloned()).await?;
            self.queues.retain(|name, known| {
                // One that went away has nothing to say.
                let Some(now) = depths.get(name) else {
                    return false;
                };
                known.fell |= *now < known.last;
                known.last = *now;
                true
            });
            self.seconds = self.begun_at.elapsed().as_secs_f64();
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Tells what moved, once the workers have been asked again.
    pub(super) async fn end(
        &self,
        evidence: &Evidence,
        panel: &mut Option<Panel>,
    ) -> Result<Movement, Why> {
        let begun = match panel {
            Some(panel) => panel.begun().await?,
            None => BTreeMap::new(),
        };
        let same = |(node, before): &(&String, &Begun)| begun.get(*node) == Some(before);
        let both = |before: &BTreeSet<String>, wanted: fn(&Worker) -> bool| {
            let after = nodes(evidence, wanted);
            before.intersection(&after).cloned().collect()
        };
        let lists = self.queues.iter().map(|(name, depths)| ListMovement {
            key: name.clone(),
            before: depths.first,
            after: depths.last,
            same_next: false,
            taken: Some(depths.fell),
        });
        Ok(Movement {
            seconds: self.seconds,
            lists: lists.collect(),
            idle_throughout: both(&self.idle, rests),
            hanging_throughout: both(&self.hanging, seems_to_hang),
            began_none: self
                .begun
                .iter()
                .filter(same)
                .map(|(node, _)| node.clone())
                .collect(),
        })
    }

    /// Whether a queue seems to stand still before workers that do nothing.
    pub(super) fn needs_statistics(movement: &Movement) -> bool {
        let stands = |list: &ListMovement| list.taken == Some(false) && list.after >= list.before;
        let doing_nothing = [&movement.idle_throughout, &movement.hanging_throughout];
        doing_nothing.iter().any(|nodes| !nodes.is_empty()) && movement.lists.iter().any(stands)
    }

    /// Notes where the statistics counted on.
    pub(super) fn note_statistics(&self, movement: &mut Movement, queues: &Observed<Vec<Queue>>) {
        for list in &mut movement.lists {
            let now = queues.seen().into_iter().flatten();
            let now = now.into_iter().find(|queue| queue.name == list.key);
            let before = self.queues.get(&list.key);
            let (Some(now), Some(before)) = (now.map(counted), before) else {
                continue;
            };
            let mut counts = before.counted.into_iter().zip(now);
            if counts.any(|counts| matches!(counts, (Some(before), Some(now)) if before != now)) {
                list.taken = Some(true);
            }
        }
    }
}

/// Idle, and nothing at work: who runs one task may hold back for it what else it could take.
fn rests(worker: &Worker) -> bool {
    is_idle(worker) && worker.active.seen().is_some_and(Vec::is_empty)
}

/// How many messages wait in these queues; those of which that can't be told are left out.
async fn depths(
    client: &Arc<AmqpClient>,
    rabbit: &RabbitMq,
    leaders: &Leaders<'_>,
    queues: impl IntoIterator<Item = String>,
) -> Result<BTreeMap<String, u64>, Why> {
    let depths = believed(client, rabbit, leaders, queues).await?.into_iter();
    let told = depths.filter_map(|(name, depth)| match depth {
        Depth::There { ready, .. } => Some((name, ready)),
        Depth::Missing | Depth::Locked | Depth::Untold(_) => None,
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::Rabbit;

    fn queue(delivered: Option<u64>) -> Queue {
        let rabbit = Rabbit::new().queue("celery", 3, 1).with(|queue| {
            let unknown = || Observed::not_asked("nobody counts");
            queue.delivered = delivered.map_or_else(unknown, Observed::Seen);
            queue.acknowledged = Observed::Seen(5);
            queue.unacknowledged = unknown();
        });
        let known = rabbit.lab().evidence.rabbitmq.expect("a RabbitMQ");
        known.queue("celery").expect("it is there").clone()
    }

    /// Whether messages were taken, where the statistics counted so many before and after.
    fn taken(before: Option<u64>, after: Option<u64>) -> Option<bool> {
        let depths = Depths {
            first: 3,
            last: 3,
            fell: false,
            counted: counted(&queue(before)),
        };
        let watch = Watch {
            begun_at: Instant::now(),
            seconds: 3.0,
            queues: BTreeMap::from([("celery".to_owned(), depths)]),
            idle: BTreeSet::new(),
            hanging: BTreeSet::new(),
            begun: BTreeMap::new(),
        };
        let mut movement = Movement {
            lists: vec![ListMovement {
                key: "celery".to_owned(),
                before: 3,
                after: 3,
                same_next: false,
                taken: Some(false),
            }],
            ..Movement::default()
        };
        watch.note_statistics(&mut movement, &Observed::Seen(vec![queue(after)]));
        movement.lists[0].taken
    }

    #[test]
    fn statistics_tell_that_something_moved_and_never_that_nothing_did() {
        assert_eq!(taken(Some(7), Some(9)), Some(true));
        assert_eq!(taken(Some(7), Some(7)), Some(false));
        assert_eq!(taken(None, Some(7)), Some(false));
        assert_eq!(taken(Some(7), None), Some(false));
    }
}
