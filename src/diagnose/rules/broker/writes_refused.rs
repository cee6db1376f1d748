//! CD610: Redis takes no writes.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, Reason, ServerFacts, Source};

/// The rule.
pub static WRITES_REFUSED: Rule = Rule {
    code: "CD610",
    name: "writes-refused",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "Redis refuses every command that writes. Nothing can be sent, no result is stored, and a worker that \
                  acknowledges a task dies of it or loses its connection, so that the task runs again later.",
        cause: "The memory that Redis may have (maxmemory) is used up and its policy is noeviction: it answers OOM. Or \
                it could not save its data, most often because the disk is full, and stop-writes-on-bgsave-error is on, \
                as it is by default: it answers MISCONF. Or a master became read-only, as during a failover.",
        read: "INFO memory: used_memory without what replicas and the append-only file are owed, against maxmemory and \
               its policy. INFO persistence: how the last snapshot and the last write of the append-only file ended, \
               and CONFIG GET stop-writes-on-bgsave-error. The refusal that this tool met itself where it announced \
               the address for the workers' replies. Nothing was written to find out. Of a replica that is read on \
               purpose nothing is said.",
        confirm: "Run `redis-cli INFO memory` and compare used_memory with maxmemory; run `redis-cli INFO persistence` \
                  and look at rdb_last_bgsave_status and aof_last_write_status.",
        mend: "Make room without a write that Redis refuses: raise maxmemory with CONFIG SET, or delete keys that are \
               no tasks (DEL and UNLINK are taken when memory is full; `celery purge` is not sure to be). Where the \
               disk is full, make room on it and let Redis save: `redis-cli BGSAVE`. Then restart the workers that \
               ended.",
        prevent: "Keep caches and results out of the broker's server. Watch used_memory and the disk. Let a supervisor \
                  restart workers. Give results an expiry (result_expires).",
        references: &[
            "https://redis.io/docs/latest/develop/reference/eviction/",
            "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/",
        ],
    },
    needs: &[Source::Server],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let server = evidence.broker.server.seen();
    let Some(server) = server.filter(|_| evidence.rabbitmq.is_none()) else {
        return Vec::new();
    };
    let refused = out_of_memory(evidence, server)
        .or_else(|| can_not_save(evidence, server))
        .or_else(|| met(evidence, server));
    refused.into_iter().collect()
}

fn out_of_memory(evidence: &Evidence, server: &ServerFacts) -> Option<Finding> {
    let limit = *server.maxmemory.seen().filter(|limit| **limit > 0)?;
    let policy = server.maxmemory_policy.seen()?;
    // Redis leaves out of its count what it owes to replicas and to the append-only file (INFO
    // mem_not_counted_for_evict, since 4.0).
    let owed = server.health.not_counted.seen().copied().unwrap_or(0);
    let used = server.used_memory.seen()?.saturating_sub(owed);
    if policy != "noeviction" || used <= limit {
        return None;
    }
    let message = format!(
        "Redis refuses what is written: {used} bytes are in use of the {limit} that it may have, and its policy is \
         noeviction; nothing can be sent, and workers die when they acknowledge a task"
    );
    Some(
        Finding::of(&WRITES_REFUSED, message)
            .evidence("used_memory", used)
            .evidence("maxmemory", limit)
            .evidence("maxmemory_policy", policy.as_str())
            .confirm(evidence.redis_cli("INFO memory"))
            .remedy(
                "raise maxmemory with CONFIG SET, or delete keys that are no tasks; then restart the workers that ended",
            )
            .subject("resource", "memory"),
    )
}

fn can_not_save(evidence: &Evidence, server: &ServerFacts) -> Option<Finding> {
    let health = &server.health;
    let snapshots = server.rdb_saves.seen() == Some(&true)
        && health.last_rdb_save_ok.seen() == Some(&false)
        && health.stops_writes.seen() == Some(&true);
    let file =
        server.append_only.seen() == Some(&true) && health.last_aof_write_ok.seen() == Some(&false);
    let what = match (snapshots, file) {
        (_, true) => "it could not write its append-only file",
        (true, false) => {
            "it could not write its last snapshot, and stop-writes-on-bgsave-error is on"
        }
        (false, false) => return None,
    };
    let message = format!(
        "Redis refuses what is written: {what}; nothing can be sent, and workers die when they acknowledge a task"
    );
    Some(
        Finding::of(&WRITES_REFUSED, message)
            .evidence("last_rdb_save_ok", health.last_rdb_save_ok.seen().copied())
            .evidence("last_aof_write_ok", health.last_aof_write_ok.seen().copied())
            .confirm(evidence.redis_cli("INFO persistence"))
            .remedy(
                "make room on the server's disk, then let it save; then restart the workers that ended",
            )
            .mend(evidence.redis_cli("BGSAVE"))
            .subject("resource", "disk"),
    )
}

/// The refusal that the reading met where it announced where workers are to answer. A replica refuses by its nature.
fn met(evidence: &Evidence, server: &ServerFacts) -> Option<Finding> {
    let why = evidence.workers.unseen()?;
    let by_nature = server.role.seen().is_none_or(|role| role != "master");
    if why.reason != Reason::TakesNoWrites || by_nature {
        return None;
    }
    let message = format!("Redis refuses what is written: {}", why.detail);
    Some(
        Finding::of(&WRITES_REFUSED, message)
            .evidence("detail", why.detail.as_str())
            .confirm(evidence.redis_cli("INFO memory"))
            .confirm(evidence.redis_cli("INFO persistence"))
            .remedy(
                "make room in the server's memory and on its disk, and look at the server's log",
            )
            .subject("resource", "writes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn full(policy: &str, used: u64, owed: u64) -> Lab {
        Lab::new().server(|server| {
            server.role = Observed::Seen("master".to_owned());
            server.maxmemory = Observed::Seen(1_000);
            server.used_memory = Observed::Seen(used);
            server.maxmemory_policy = Observed::Seen(policy.to_owned());
            server.health.not_counted = Observed::Seen(owed);
        })
    }

    #[test]
    fn memory_that_is_used_up_without_eviction_is_found() {
        let found = full("noeviction", 1_500, 100).check(&WRITES_REFUSED, "");
        assert_eq!(names(&found), ["writes-refused"]);
        assert_eq!(found[0].severity, Severity::Error);
    }

    #[test]
    fn memory_that_redis_does_not_count_or_frees_is_no_refusal() {
        for lab in [
            full("noeviction", 1_000, 0),
            full("noeviction", 1_050, 100),
            full("allkeys-lru", 1_500, 0),
        ] {
            assert!(lab.check(&WRITES_REFUSED, "").is_empty());
        }
    }

    fn unsaved(stops_writes: Observed<bool>) -> Lab {
        Lab::new().server(|server| {
            server.rdb_saves = Observed::Seen(true);
            server.health.last_rdb_save_ok = Observed::Seen(false);
            server.health.stops_writes = stops_writes;
        })
    }

    #[test]
    fn a_snapshot_that_failed_is_found_where_it_stops_writes() {
        let found = unsaved(Observed::Seen(true)).check(&WRITES_REFUSED, "");
        assert_eq!(names(&found), ["writes-refused"]);
        for other in [Observed::Seen(false), Observed::not_asked("a test")] {
            assert!(unsaved(other).check(&WRITES_REFUSED, "").is_empty());
        }
    }

    #[test]
    fn a_refusal_that_was_met_counts_on_a_master_only() {
        let met = |role: &str| {
            let lab = Lab::new().unread(Source::Workers, Reason::TakesNoWrites);
            let lab = lab.server(|server| server.role = Observed::Seen(role.to_owned()));
            lab.check(&WRITES_REFUSED, "").len()
        };
        assert_eq!(met("master"), 1);
        assert_eq!(met("slave"), 0);
    }
}
