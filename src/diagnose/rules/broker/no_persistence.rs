//! CD603: a restart of the server loses every task.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds};
use crate::evidence::{Evidence, ServerFacts, Source};

/// The rule.
pub static NO_PERSISTENCE: Rule = Rule {
    code: "CD603",
    name: "no-persistence",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The server writes nothing to disk: neither snapshots nor an append-only file. When it restarts, every \
                  queue, every reservation and every result is gone.",
        cause: "`save \"\"` and `appendonly no` in the server's configuration, or a container started that way. Redis's \
                own defaults keep snapshots.",
        read: "aof_enabled in INFO and CONFIG GET save. Where CONFIG is refused, as with many hosted servers, nothing is \
               said.",
        confirm: "Run `redis-cli CONFIG GET save` and `redis-cli CONFIG GET appendonly`.",
        mend: "Run `redis-cli CONFIG SET appendonly yes`, and write it to the server's configuration.",
        prevent: "Keep an append-only file for brokers (appendfsync everysec loses a second at most), on a disk that \
                  outlives the container.",
        references: &[
            "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/",
            "celery issue 1789",
        ],
    },
    needs: &[Source::Server],
    check: Check::Audit(check),
};

/// Whether a server surely keeps nothing over a restart.
pub(super) fn keeps_nothing(server: &ServerFacts) -> bool {
    server.append_only.seen() == Some(&false) && server.rdb_saves.seen() == Some(&false)
}

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let server = evidence.broker.server.seen();
    let Some(server) = server.filter(|server| keeps_nothing(server)) else {
        return Vec::new();
    };
    let replicas = server.connected_replicas.seen().copied();
    vec![
        Finding::of(
            &NO_PERSISTENCE,
            "the server keeps neither snapshots nor an append-only file: a restart loses every task",
        )
        .evidence("append_only", false)
        .evidence("rdb_saves", false)
        .evidence("replicas", replicas)
        .confirm(evidence.redis_cli("CONFIG GET save"))
        .confirm(evidence.redis_cli("CONFIG GET appendonly"))
        .remedy("switch on the append-only file, and write it to the server's configuration")
        .mend(evidence.redis_cli("CONFIG SET appendonly yes")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::{Observed, Reason, Why};

    fn lab(append_only: bool, rdb_saves: Observed<bool>) -> Lab {
        Lab::new().server(|server| {
            server.append_only = Observed::Seen(append_only);
            server.rdb_saves = rdb_saves;
        })
    }

    #[test]
    fn a_server_that_writes_nothing_is_found() {
        let found = lab(false, Observed::Seen(false)).check(&NO_PERSISTENCE, "");
        assert_eq!(names(&found), ["no-persistence"]);
    }

    #[test]
    fn snapshots_or_a_file_are_enough_and_a_refusal_proves_nothing() {
        let refused = Observed::Unseen(Why::new(Reason::Refused, "a test"));
        for lab in [
            lab(false, Observed::Seen(true)),
            lab(true, Observed::Seen(false)),
            lab(false, refused),
            Lab::new(),
        ] {
            assert!(lab.check(&NO_PERSISTENCE, "").is_empty());
        }
    }
}
