//! CD708: two live workers bear one node name.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnose::command::inspect;
use crate::diagnose::view::{connection, node_of};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static DUPLICATE_NODE_NAME: Rule = Rule {
    code: "CD708",
    name: "duplicate-node-name",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Two live workers bear one node name. Remote control can't tell them apart: on RabbitMQ each request \
                  reaches one of them by chance, so that what the other holds is in no answer, and a revocation or a \
                  shutdown may reach the wrong one; on Redis both answer, and whoever asks takes one answer for both.",
        cause: "The name is `celery@HOSTNAME` unless `-n` sets another. Two workers on one machine without `-n`, containers \
                with a fixed hostname, and copies of one image or machine end up with one name. Under \
                control_queue_exclusive, which is on by default in Celery 5.7, RabbitMQ refuses the mailbox to the second \
                worker, which ends with `405 RESOURCE_LOCKED`.",
        read: "On RabbitMQ two connections consume one mailbox, NODE.celery.pidbox, by the management API. A worker that \
               has lost its connection and made a new one looks so too, until the server misses its heartbeats, after \
               some three minutes. On Redis two workers answered one question under one name.",
        confirm: "Ask twice and compare the pid: `celery -A APP inspect stats -d NODE`. On RabbitMQ `rabbitmqctl \
                  list_consumers` shows who consumes the mailbox.",
        mend: "Give each worker a name of its own with `-n`, such as `-n worker1@%h`, and restart it.",
        prevent: "Start workers with `-n` and something that differs: `%i` in a pool, the pod's name, the container's \
                  hostname.",
        references: &[
            "celery 5.7 worker/pidbox.py; kombu 5.7 pidbox.py, Mailbox.get_queue",
            "https://docs.celeryq.dev/en/stable/userguide/workers.html#starting-the-worker",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    if let Some(rabbit) = &evidence.rabbitmq {
        return on_rabbitmq(rabbit);
    }
    let twins = evidence.answered().iter().filter(|worker| worker.twins);
    twins
        .map(|worker| {
            finding(
                &worker.node,
                format!(
                    "more than one worker answers to the name {}: remote control can't tell them apart",
                    worker.node
                ),
            )
        })
        .collect()
}

/// The mailboxes that several connections consume.
fn on_rabbitmq(rabbit: &RabbitMq) -> Vec<Finding> {
    let mut connections: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for consumer in rabbit.consumers.seen().into_iter().flatten() {
        // Of a connection that has just gone the server does not tell the name.
        if let (Some(node), false) = (node_of(consumer), consumer.connection.is_empty()) {
            let of_node = connections.entry(node).or_default();
            of_node.insert(&consumer.connection);
        }
    }
    let several = connections.into_iter().filter(|(_, all)| all.len() > 1);
    several
        .map(|(node, all)| {
            let host = |name: &&str| connection(rabbit, name)?.peer_host.as_deref();
            let hosts: BTreeSet<&str> = all.iter().filter_map(host).collect();
            let from = match hosts.len() {
                0 => String::new(),
                _ => format!(" (from {})", plain::names(&hosts.iter().collect::<Vec<_>>())),
            };
            let message = format!(
                "{} connections{from} consume the mailbox of {node}: remote control reaches one of them by chance, and what \
                 another worker of this name holds is in no answer",
                all.len()
            );
            let connections: Vec<&str> = all.into_iter().collect();
            finding(node, message)
                .evidence("connections", connections)
                .confirm(rabbit.list_consumers())
        })
        .collect()
}

fn finding(node: &str, message: String) -> Finding {
    Finding::of(&DUPLICATE_NODE_NAME, message)
        .confirm(inspect("stats").on(node))
        .remedy("give each worker a name of its own with -n, such as -n worker1@%h, and restart it")
        .subject("worker", node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit, names};
    use crate::evidence::rabbitmq::Consumer;

    fn found(mailboxes: &[(&str, &str)]) -> Vec<Finding> {
        let mut lab = Rabbit::new()
            .queue("celery", 0, 2)
            .lab()
            .worker("w1", &["celery"]);
        let rabbit = lab.evidence.rabbitmq.as_mut().expect("RabbitMQ");
        let consumers = rabbit.consumers.seen_mut().expect("seen");
        let template = consumers[0].clone();
        consumers.extend(mailboxes.iter().map(|(queue, connection)| Consumer {
            queue: (*queue).to_owned(),
            connection: (*connection).to_owned(),
            ..template.clone()
        }));
        lab.check(&DUPLICATE_NODE_NAME, "")
    }

    #[test]
    fn two_connections_on_one_mailbox_are_two_workers() {
        let said = found(&[("w1.celery.pidbox", "a"), ("w1.celery.pidbox", "b")]);
        assert_eq!(names(&said), ["duplicate-node-name"]);
        assert_eq!(said[0].subject["worker"], "w1");
        assert!(
            said[0]
                .message
                .starts_with("2 connections consume the mailbox of w1")
        );
    }

    #[test]
    fn a_mailbox_for_each_worker_and_addresses_for_answers_are_clear() {
        let said = found(&[
            ("w1.celery.pidbox", "a"),
            ("w2.celery.pidbox", "b"),
            (
                "11111111-2222-4333-8444-555555555555.reply.celery.pidbox",
                "c",
            ),
            (
                "11111111-2222-4333-8444-555555555555.reply.celery.pidbox",
                "d",
            ),
            ("w1.celery.pidbox", ""),
        ]);
        assert!(said.is_empty());
    }

    #[test]
    fn on_redis_two_answers_under_one_name_are_two_workers() {
        let lab = Lab::new().worker("w1", &["celery"]);
        assert!(lab.check(&DUPLICATE_NODE_NAME, "").is_empty());
        let twins = lab.with_worker(|worker| worker.twins = true);
        assert_eq!(
            names(&twins.check(&DUPLICATE_NODE_NAME, "")),
            ["duplicate-node-name"]
        );
    }
}
