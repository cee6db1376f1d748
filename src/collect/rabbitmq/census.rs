//! What an audit counts on RabbitMQ: what the workers hold, and the messages that a look into queues brought, in
//! classes that share their fate.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::celery::control::ClaimState;
use crate::evidence::{Class, NAMED_IDS, Place, TaskEvidence};

/// More classes than these are not told apart.
const MOST_CLASSES: usize = 10_000;

/// What tasks have in common that share their fate.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shape<'t> {
    /// The queue in which a message stands.
    queue: Option<&'t str>,
    /// Who holds it, and how.
    held: Option<(&'t str, &'static str)>,
    task: Option<&'t str>,
    content_type: Option<&'t str>,
    route: (Option<&'t str>, Option<&'t str>),
    expired: bool,
    revoked: bool,
}

fn shape(task: &TaskEvidence, now: Timestamp) -> Shape<'_> {
    let copy = task.copies.first();
    let envelope = copy.map(|copy| &copy.envelope);
    let claim = task.claims.first();
    let queue = copy.and_then(|copy| match &copy.place {
        Place::Queue { key: queue, .. }
        | Place::DeadLetter { queue, .. }
        | Place::Delayed { queue, .. } => Some(queue.as_str()),
        Place::Unacked { .. } | Place::OtherDatabase { .. } => None,
    });
    let of_envelope = envelope.and_then(|envelope| envelope.task.as_deref());
    let expires = envelope.and_then(|envelope| envelope.expires);
    Shape {
        queue,
        held: claim.map(|holder| (holder.node.as_str(), holder.claim.state.name())),
        task: of_envelope.or_else(|| claim.and_then(|holder| holder.claim.task.as_deref())),
        content_type: envelope.and_then(|envelope| envelope.content_type.as_deref()),
        route: (
            envelope.and_then(|envelope| envelope.exchange.as_deref()),
            envelope.and_then(|envelope| envelope.routing_key.as_deref()),
        ),
        expired: expires.is_some_and(|expires| expires.seconds_until(now) < 0.0),
        revoked: !task.revoked_by.is_empty(),
    }
}

/// How pressing a task is among those of its class: the one next in turn, running longest, or due last stands for all.
fn weight(task: &TaskEvidence) -> f64 {
    if let Some(Place::Queue { position, .. } | Place::DeadLetter { position, .. }) =
        task.copies.first().map(|copy| &copy.place)
    {
        #[expect(clippy::cast_precision_loss, reason = "a position is far below 2^52")]
        return *position as f64;
    }
    let claim = task.claims.first().map(|holder| &holder.claim);
    match claim {
        Some(claim) if claim.state == ClaimState::Active => claim.time_start.unwrap_or(f64::MAX),
        Some(claim) => claim
            .eta
            .map_or(f64::MAX, |eta| -eta.seconds_until(Timestamp::UNIX_EPOCH)),
        None => f64::MAX,
    }
}

/// The classes of these tasks, and how many tasks are in none because there were too many.
pub(super) fn classes(tasks: &BTreeMap<String, TaskEvidence>, now: Timestamp) -> (Vec<Class>, u64) {
    let mut by_shape: BTreeMap<Shape<'_>, Vec<(&String, &TaskEvidence)>> = BTreeMap::new();
    let mut unclassed = 0;
    let present = tasks
        .iter()
        .filter(|(_, task)| !task.copies.is_empty() || !task.claims.is_empty());
    for (id, task) in present {
        let shape = shape(task, now);
        if by_shape.len() >= MOST_CLASSES && !by_shape.contains_key(&shape) {
            unclassed += 1;
            continue;
        }
        by_shape.entry(shape).or_default().push((id, task));
    }
    let classes = by_shape.into_values().filter_map(|mut members| {
        members.sort_by(|a, b| {
            weight(a.1)
                .total_cmp(&weight(b.1))
                .then_with(|| a.0.cmp(b.0))
        });
        let (id, task) = *members.first()?;
        Some(Class {
            id: id.clone(),
            count: members.len() as u64,
            ids: members
                .iter()
                .take(NAMED_IDS)
                .map(|(id, _)| (*id).clone())
                .collect(),
            task: task.clone(),
        })
    });
    (classes.collect(), unclassed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, NOW, Rabbit, now};

    #[test]
    fn tasks_that_share_their_fate_are_one_class() {
        let lab = Rabbit::new()
            .queue("celery", 0, 1)
            .lab()
            .worker("w1", &["celery"]);
        let mut lab: Lab = lab
            .queued("q1", "celery")
            .queued("q2", "celery")
            .claimed("a1", "w1", ClaimState::Active)
            .claimed("a2", "w1", ClaimState::Active)
            .absent("gone");
        lab.task("a2").claims[0].claim.time_start = Some(NOW - 9_000.0);
        let (classes, unclassed) = classes(&lab.evidence.tasks, now());
        let told: Vec<(&str, u64)> = classes.iter().map(|c| (c.id.as_str(), c.count)).collect();
        // The longest run stands for both.
        assert_eq!(told, [("a2", 2), ("q1", 2)]);
        assert_eq!(unclassed, 0);
    }
}
