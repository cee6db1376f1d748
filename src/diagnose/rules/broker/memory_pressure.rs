//! CD604: the broker runs out of memory or disk.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::rabbitmq::{Alarm, Node};
use crate::evidence::{Evidence, RabbitMq, Source};

/// The rule.
pub static MEMORY_PRESSURE: Rule = Rule {
    code: "CD604",
    name: "memory-pressure",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "The broker is out of memory or disk, or close to it. RabbitMQ then blocks everybody who publishes: \
                  apply_async hangs, and workers can't answer remote control, so that a healthy worker looks dead. \
                  Redis refuses writes.",
        cause: "A backlog that nobody drains, results that are never read, or too little memory for the load.",
        read: "On RabbitMQ the alarms in effect, and the memory and the disk of each node, by the management API; or \
               that the broker told this connection that it is blocked.",
        confirm: "Run `rabbitmq-diagnostics check_local_alarms`, and `rabbitmqctl list_connections name state`: blocked \
                  connections have published since.",
        mend: "Drain or purge what fills it, or raise vm_memory_high_watermark or the free disk. Publishers go on by \
               themselves when the alarm ends.",
        prevent: "Watch the broker's memory. Limit backlogs, let results expire, keep ETAs in a database.",
        references: &[
            "https://www.rabbitmq.com/docs/alarms",
            "celery issues 2689, 4296, 6911",
        ],
    },
    needs: &[Source::Server],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let alarms = rabbit.alarms.seen().into_iter().flatten();
    alarms.map(|alarm| in_effect(rabbit, alarm)).collect()
}

fn in_effect(rabbit: &RabbitMq, alarm: &Alarm) -> Finding {
    let nodes = rabbit.nodes.seen().into_iter().flatten();
    let node = nodes.into_iter().find(|node| node.name == alarm.node);
    let finding = Finding::of(
        &MEMORY_PRESSURE,
        format!(
            "the {} alarm of node {} is in effect: whoever publishes is blocked, workers that answer too",
            alarm.resource, alarm.node
        ),
    )
    .evidence("alarm", alarm.resource.as_str())
    .evidence("node", alarm.node.as_str())
    .confirm("rabbitmq-diagnostics check_local_alarms")
    .confirm("rabbitmqctl list_connections name state")
    .remedy("free memory or disk, or raise the limit; publishers go on by themselves then")
    .subject("node", alarm.node.as_str());
    node.map_or(finding.clone(), |node| with_numbers(finding, node))
}

fn with_numbers(mut finding: Finding, node: &Node) -> Finding {
    let numbers = [
        ("memory_used", &node.memory_used),
        ("memory_limit", &node.memory_limit),
        ("disk_free", &node.disk_free),
        ("disk_free_limit", &node.disk_free_limit),
    ];
    for (name, number) in numbers {
        if let Some(number) = number.seen() {
            finding = finding.evidence(name, *number);
        }
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit, names};

    #[test]
    fn an_alarm_is_found() {
        let lab = Rabbit::new().alarm("memory").lab();
        let found = lab.check(&MEMORY_PRESSURE, "");
        assert_eq!(names(&found), ["memory-pressure"]);
        assert!(
            found[0].message.contains("memory alarm"),
            "{}",
            found[0].message
        );
    }

    #[test]
    fn without_an_alarm_it_is_clear() {
        assert!(Rabbit::new().lab().check(&MEMORY_PRESSURE, "").is_empty());
        assert!(Lab::new().check(&MEMORY_PRESSURE, "").is_empty());
    }
}
