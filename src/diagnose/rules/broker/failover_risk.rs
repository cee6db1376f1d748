//! CD606: a failover now would lose writes that were acknowledged.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Replica, ServerFacts, Source};

/// Seconds after which a replica that said nothing is behind: replicas report every second.
const BEHIND: u64 = 10;

/// The rule.
pub static FAILOVER_RISK: Rule = Rule {
    code: "CD606",
    name: "failover-risk",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The server is replicated, and its replication is in a state in which a failover loses tasks that the \
                  sender was told are safe; or it is itself a replica, which takes no tasks.",
        cause: "Redis replicates after it has answered. A replica that is not online, or that is far behind, becomes \
                master without the newest messages. Workers that are connected to a replica fail with ReadOnlyError.",
        read: "The role, the replicas' state and lag, and the link to the master in INFO. Replicas that are online and \
               at most 10 seconds behind are as well as replicas can be, and nothing is said of them.",
        confirm: "Run `redis-cli INFO replication`.",
        mend: "Bring the replicas back: look at their logs, the network between them, and the master's \
               client-output-buffer-limit. Where the URL names a replica, name the master, or use sentinel:// with \
               --master-name.",
        prevent: "Set min-replicas-to-write and min-replicas-max-lag, so that the master refuses what it can't \
                  replicate, and watch the lag.",
        references: &[
            "https://redis.io/docs/latest/operate/oss_and_stack/management/replication/",
            "celery issues 6348, 7946",
        ],
    },
    needs: &[Source::Server],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let Some(server) = evidence.broker.server.seen() else {
        return Vec::new();
    };
    let message = match server.role.seen().map(String::as_str) {
        Some("slave") => Some(of_replica(server)),
        Some("master") => of_master(server),
        _ => None,
    };
    let finding = message.map(|message| {
        Finding::of(&FAILOVER_RISK, message)
            .evidence("role", server.role.seen().cloned())
            .evidence("replicas", server.connected_replicas.seen().copied())
            .evidence(
                "master_link_up",
                server.health.master_link_up.seen().copied(),
            )
            .confirm(evidence.redis_cli("INFO replication"))
            .remedy("bring the replication back before anything fails over")
    });
    finding.into_iter().collect()
}

fn of_replica(server: &ServerFacts) -> String {
    if server.health.master_link_up.seen() == Some(&false) {
        "the server is a replica that has lost its master: what it shows is old, and it takes no tasks"
    } else {
        "the broker's URL names a replica: it takes no tasks from workers and senders"
    }
    .to_owned()
}

fn of_master(server: &ServerFacts) -> Option<String> {
    let replicas = server.health.replicas.seen()?;
    let is_well =
        |replica: &Replica| replica.online && replica.lag_seconds.is_none_or(|lag| lag <= BEHIND);
    let bad = replicas.iter().filter(|replica| !is_well(replica)).count();
    if replicas.is_empty() || bad < replicas.len() {
        return None;
    }
    Some(format!(
        "none of the server's {} is online and up to date: a failover now loses tasks",
        plain::count(replicas.len() as u64, "replica")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn master(replicas: &[(bool, Option<u64>)]) -> Lab {
        let replicas = replicas.iter().map(|(online, lag)| Replica {
            online: *online,
            lag_seconds: *lag,
        });
        Lab::new().server(|server| {
            server.role = Observed::Seen("master".to_owned());
            server.health.replicas = Observed::Seen(replicas.collect());
        })
    }

    #[test]
    fn replicas_of_which_none_is_well_are_found() {
        for lab in [
            master(&[(false, Some(0))]),
            master(&[(true, Some(60)), (false, None)]),
            Lab::new().server(|server| server.role = Observed::Seen("slave".to_owned())),
        ] {
            assert_eq!(names(&lab.check(&FAILOVER_RISK, "")), ["failover-risk"]);
        }
    }

    #[test]
    fn one_replica_that_is_well_is_enough_and_none_is_no_promise() {
        for lab in [
            master(&[(true, Some(1)), (false, None)]),
            master(&[(true, None)]),
            master(&[]),
            Lab::new(),
        ] {
            assert!(lab.check(&FAILOVER_RISK, "").is_empty());
        }
    }
}
