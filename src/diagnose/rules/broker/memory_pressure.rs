//! CD604: the broker runs out of memory or disk.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::rabbitmq::{Alarm, Node};
use crate::evidence::{Evidence, RabbitMq, ServerFacts, Source};

/// The rule.
pub static MEMORY_PRESSURE: Rule = Rule {
    code: "CD604",
    name: "memory-pressure",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The broker is out of memory or disk, or close to it. RabbitMQ then blocks everybody who publishes: \
                  apply_async hangs, and workers can't answer remote control, so that a healthy worker looks dead. \
                  Redis refuses writes.",
        cause: "A backlog that nobody drains, results that are never read, or too little memory for the load.",
        read: "On RabbitMQ the alarms in effect, and the memory and the disk of each node, by the management API; or \
               that the broker told this connection that it is blocked. On Redis used_memory and maxmemory in INFO, \
               and whether its last snapshot or write to the append-only file failed. Without a limit for its memory \
               nothing is said of that.",
        confirm: "Run `rabbitmq-diagnostics check_local_alarms`, and `rabbitmqctl list_connections name state`: blocked \
                  connections have published since. On Redis run `redis-cli INFO memory` and `redis-cli INFO \
                  persistence`.",
        mend: "Drain or purge what fills it, or raise vm_memory_high_watermark, maxmemory or the free disk. RabbitMQ's \
               publishers go on by themselves when the alarm ends.",
        prevent: "Watch the broker's memory. Limit backlogs, let results expire, keep ETAs in a database.",
        references: &[
            "https://www.rabbitmq.com/docs/alarms",
            "celery issues 2689, 4296, 6911",
        ],
    },
    needs: &[Source::Server],
    check: Check::Deployment(check),
};

/// Of the memory that Redis may have, so many hundredths in use are close to the limit.
const CLOSE: u64 = 90;

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        let server = evidence.broker.server.seen();
        return server.map_or_else(Vec::new, |server| {
            let memory = close_to_its_limit(evidence, server).into_iter();
            memory.chain(cannot_save(evidence, server)).collect()
        });
    };
    let alarms = rabbit.alarms.seen().into_iter().flatten();
    alarms.map(|alarm| in_effect(rabbit, alarm)).collect()
}

fn close_to_its_limit(evidence: &Evidence, server: &ServerFacts) -> Option<Finding> {
    let limit = *server.maxmemory.seen().filter(|limit| **limit > 0)?;
    let used = *server.used_memory.seen()?;
    if u128::from(used) * 100 < u128::from(limit) * u128::from(CLOSE) {
        return None;
    }
    let percent = u128::from(used) * 100 / u128::from(limit);
    let policy = server.maxmemory_policy.seen().map(String::as_str);
    let then = match policy {
        Some("noeviction") => "when it is full, it refuses whatever is sent",
        _ => "when it is full, it throws keys away",
    };
    Some(
        Finding::of(
            &MEMORY_PRESSURE,
            format!("the server uses {percent} % of the memory that it may have: {then}"),
        )
        .evidence("used_memory", used)
        .evidence("maxmemory", limit)
        .evidence("maxmemory_policy", policy)
        .confirm(evidence.redis_cli("INFO memory"))
        .remedy("drain the queues, or raise maxmemory")
        .subject("resource", "memory"),
    )
}

/// A server whose snapshots fail refuses writes (`stop-writes-on-bgsave-error`), as does one whose append-only file
/// can't be written.
fn cannot_save(evidence: &Evidence, server: &ServerFacts) -> Option<Finding> {
    let health = &server.health;
    let snapshots =
        server.rdb_saves.seen() == Some(&true) && health.last_rdb_save_ok.seen() == Some(&false);
    let file =
        server.append_only.seen() == Some(&true) && health.last_aof_write_ok.seen() == Some(&false);
    let what = match (snapshots, file) {
        (_, true) => "the server could not write its append-only file",
        (true, false) => "the server could not write its last snapshot",
        (false, false) => return None,
    };
    Some(
        Finding::of(
            &MEMORY_PRESSURE,
            format!("{what}: it refuses what is sent until it can, unless it is set to go on"),
        )
        .evidence("last_rdb_save_ok", health.last_rdb_save_ok.seen().copied())
        .evidence(
            "last_aof_write_ok",
            health.last_aof_write_ok.seen().copied(),
        )
        .confirm(evidence.redis_cli("INFO persistence"))
        .remedy("make room on the server's disk, and look at the server's log")
        .subject("resource", "disk"),
    )
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
    .confirm(rabbit.list_alarms())
    .confirm(rabbit.list_connections())
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
    use crate::evidence::Observed;

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

    fn redis(used: u64, limit: u64, saves_ok: bool) -> Lab {
        Lab::new().server(|server| {
            server.used_memory = Observed::Seen(used);
            server.maxmemory = Observed::Seen(limit);
            server.rdb_saves = Observed::Seen(true);
            server.health.last_rdb_save_ok = Observed::Seen(saves_ok);
        })
    }

    #[test]
    fn a_redis_that_is_nearly_full_or_cannot_save_is_found() {
        for lab in [
            redis(90, 100, true),
            redis(1, 0, false),
            redis(1, 100, false),
        ] {
            assert_eq!(names(&lab.check(&MEMORY_PRESSURE, "")), ["memory-pressure"]);
        }
    }

    #[test]
    fn a_redis_with_room_or_without_a_limit_is_clear() {
        for lab in [redis(89, 100, true), redis(1 << 40, 0, true)] {
            assert!(lab.check(&MEMORY_PRESSURE, "").is_empty());
        }
    }

    #[test]
    fn without_an_alarm_it_is_clear() {
        assert!(Rabbit::new().lab().check(&MEMORY_PRESSURE, "").is_empty());
        assert!(Lab::new().check(&MEMORY_PRESSURE, "").is_empty());
    }
}
