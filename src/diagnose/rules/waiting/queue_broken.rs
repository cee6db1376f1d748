//! CD211: a queue that can't take messages or hand them out.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::{Queue, QueueType, Role};
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static QUEUE_BROKEN: Rule = Rule {
    code: "CD211",
    name: "queue-broken",
    severity: Severity::Error,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "A queue that holds tasks, or that workers consume, is out of order: a quorum queue that lacks the \
                  majority of its members, or a queue whose node is down. Nothing can be sent to it and nothing comes \
                  out of it until its nodes are back. What it holds is not lost by that.",
        cause: "A quorum queue agrees on every step with more than half of its members. With one of two nodes down, or \
                two of three, it stands still: publishes get no confirm, deliveries stop, acknowledgements are not \
                taken. A classic queue lives on one node, and is down with it.",
        read: "The state of each queue, its members and those that are online, by the management API; the messages and \
               consumers that it told last.",
        confirm: "Run `rabbitmq-queues quorum_status --vhost VHOST QUEUE`, or `rabbitmqctl -p VHOST list_queues name \
                  state`, and `rabbitmqctl cluster_status` for the nodes.",
        mend: "Start the nodes that are down. Don't delete the queue: what it holds would be lost.",
        prevent: "Run three or five nodes, and give each quorum queue as many members (rabbitmq-queues grow): two \
                  members bear no failure at all. Take one node down at a time, and look at \
                  `rabbitmq-diagnostics check_if_node_is_quorum_critical` before.",
        references: &[
            "https://www.rabbitmq.com/docs/quorum-queues#availability",
            "https://www.rabbitmq.com/docs/classic-queues",
        ],
    },
    needs: &[Source::Management],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let roles = [Role::Tasks, Role::Delayed, Role::Waiting];
    roles
        .into_iter()
        .flat_map(|role| rabbit.queues_of(role))
        .filter(|queue| is_used(queue))
        .filter_map(|queue| Some(finding(rabbit, queue, &out_of_order(queue)?)))
        .collect()
}

/// What is wrong with a queue, in words.
fn out_of_order(queue: &Queue) -> Option<String> {
    let is_quorum = queue.kind.seen() == Some(&QueueType::Quorum);
    if let (true, Some((members, online))) = (is_quorum, &queue.members)
        && !members.is_empty()
        && online.len() * 2 <= members.len()
    {
        let there = match online.as_slice() {
            [] => "none".to_owned(),
            online => online.len().to_string(),
        };
        return Some(format!(
            "only {there} of its {} is online, which is no majority",
            plain::count(members.len() as u64, "member")
        ));
    }
    let state = queue.state.as_deref()?;
    ["down", "crashed", "minority"]
        .contains(&state)
        .then(|| format!("its state is {state}"))
}

/// Whether it holds or serves anything, as far as that is told: a queue that is down often tells nothing.
fn is_used(queue: &Queue) -> bool {
    let counts = [&queue.ready, &queue.unacknowledged, &queue.consumers];
    counts.iter().any(|count| count.seen() != Some(&0))
}

fn finding(rabbit: &RabbitMq, queue: &Queue, what: &str) -> Finding {
    let name = queue.name.as_str();
    let held = [&queue.ready, &queue.unacknowledged].map(|count| count.seen().copied());
    let holds = match held {
        [Some(ready), unacknowledged] => {
            let all = ready.saturating_add(unacknowledged.unwrap_or(0));
            format!("holds {}", plain::count(all, "message"))
        }
        [None, _] => "does not tell how many messages it holds".to_owned(),
    };
    let (members, online) = queue.members.clone().unwrap_or_default();
    let missing: Vec<String> = members
        .iter()
        .filter(|member| !online.contains(member))
        .cloned()
        .collect();
    let nodes = match missing.as_slice() {
        [] => "the node that has it".to_owned(),
        missing => plain::names(missing),
    };
    let mut finding = Finding::of(
        &QUEUE_BROKEN,
        format!(
            "queue {name} is out of order: {what}; it {holds}, takes nothing and hands nothing out"
        ),
    )
    .evidence("queue", name)
    .evidence("members", members)
    .evidence("online", online)
    .confirm(rabbit.list_queues())
    .remedy(format!(
        "start {nodes} again, and look at `rabbitmqctl cluster_status`; do not delete the queue, or what it holds is lost"
    ))
    .subject("queue", name);
    if let Some(state) = &queue.state {
        finding = finding.evidence("state", state.as_str());
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};
    use crate::evidence::Observed;

    fn of_members(all: usize, online: usize, ready: u64, consumers: u64) -> Vec<Finding> {
        let nodes: Vec<String> = (0..all).map(|n| format!("rabbit@{n}")).collect();
        let lab = Rabbit::new()
            .quorum("celery", ready, consumers)
            .with(|queue| queue.members = Some((nodes.clone(), nodes[..online].to_vec())))
            .lab();
        lab.check(&QUEUE_BROKEN, "")
    }

    #[test]
    fn a_quorum_queue_without_a_majority_is_found() {
        let found = of_members(2, 1, 4, 1);
        assert_eq!(names(&found), ["queue-broken"]);
        assert_eq!(
            found[0].message,
            "queue celery is out of order: only 1 of its 2 members is online, which is no majority; it holds 4 messages, \
             takes nothing and hands nothing out"
        );
        assert!(found[0].remedy.starts_with("start rabbit@1 again"));
        assert_eq!(of_members(3, 1, 0, 1).len(), 1);
        assert_eq!(of_members(3, 0, 4, 0).len(), 1);
    }

    #[test]
    fn a_majority_and_a_queue_that_nobody_uses_are_clear() {
        assert!(of_members(3, 2, 4, 1).is_empty());
        assert!(of_members(1, 1, 4, 1).is_empty());
        assert!(of_members(2, 1, 0, 0).is_empty());
    }

    #[test]
    fn a_queue_that_is_down_is_found_and_one_that_runs_is_clear() {
        let in_state = |state: &str| {
            let lab = Rabbit::new().queue("celery", 0, 0).with(|queue| {
                queue.state = Some(state.to_owned());
                queue.ready = Observed::not_asked("it does not tell");
            });
            lab.lab().check(&QUEUE_BROKEN, "")
        };
        assert_eq!(names(&in_state("down")), ["queue-broken"]);
        assert!(in_state("running").is_empty());
        // A queue with a limit on the rate at which it is fed says so (RabbitMQ 3.10 rabbit_amqqueue.erl).
        assert!(in_state("flow").is_empty());
    }

    #[test]
    fn queues_of_celery_s_own_are_clear() {
        let lab = Rabbit::new()
            .queue("w1@h.celery.pidbox", 1, 1)
            .with(|queue| queue.state = Some("down".to_owned()));
        assert!(lab.lab().check(&QUEUE_BROKEN, "").is_empty());
    }
}
