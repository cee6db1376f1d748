//! CD609: the server is younger than the workers, and kept nothing.

use super::no_persistence::keeps_nothing;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Source, Worker};

/// Seconds by which a worker must be older than the server: both tell whole seconds, at different moments.
const MARGIN: f64 = 5.0;

/// The rule.
pub static BROKER_RESTARTED: Rule = Rule {
    code: "CD609",
    name: "broker-restarted",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The server has restarted under its workers, and it keeps nothing on disk: what waited, what was \
                  unacknowledged and what was bound at that moment is gone.",
        cause: "The server was restarted, crashed or was moved, with neither snapshots nor an append-only file. Workers \
                reconnect and go on as if nothing had been.",
        read: "The server's uptime, that it has neither snapshots nor an append-only file, and the uptime of the live \
               workers. A worker that runs longer than its server has outlived another one.",
        confirm: "Run `redis-cli INFO server` and look at uptime_in_seconds; `celery -A APP inspect stats` shows the \
                  uptime of the workers.",
        mend: "Send again what was in flight then: a result that says STARTED or nothing at all, without a message, is \
               lost. Restart the workers when that is done.",
        prevent: "Switch on the append-only file (see no-persistence).",
        references: &[
            "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/",
            "celery issue 1789",
        ],
    },
    needs: &[Source::Server, Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let server = evidence.broker.server.seen();
    let Some(server) = server.filter(|server| keeps_nothing(server)) else {
        return Vec::new();
    };
    let Some(uptime) = server.uptime_seconds.seen().copied() else {
        return Vec::new();
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of uptime are far below 2^52"
    )]
    let uptime = uptime as f64;
    let older: Vec<(&Worker, f64)> = evidence
        .answered()
        .iter()
        .filter_map(|worker| Some((worker, worker.stats.seen()?.uptime?)))
        .filter(|(_, age)| *age > uptime + MARGIN)
        .collect();
    let Some((_, oldest)) = older.iter().max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return Vec::new();
    };
    let nodes: Vec<&str> = older
        .iter()
        .map(|(worker, _)| worker.node.as_str())
        .collect();
    let (verb, they) = if nodes.len() == 1 {
        ("has", "it")
    } else {
        ("have", "they")
    };
    vec![
        Finding::of(
            &BROKER_RESTARTED,
            format!(
                "the server started {} ago and keeps nothing on disk, while {} {verb} run for up to {}: what was in \
                 the broker when {they} lost it is gone",
                plain::duration(uptime),
                plain::names(&nodes),
                plain::duration(*oldest)
            ),
        )
        .evidence("server_uptime_seconds", uptime)
        .evidence("workers", nodes)
        .evidence("oldest_worker_seconds", *oldest)
        .confirm(evidence.redis_cli("INFO server | grep uptime_in_seconds"))
        .confirm(evidence.inspect("stats"))
        .remedy("send again what was in flight then, and switch on the append-only file"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn lab(keeps: bool, server: u64, worker: f64) -> Lab {
        Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| w.stats.seen_mut().expect("seen").uptime = Some(worker))
            .server(|facts| {
                facts.append_only = Observed::Seen(keeps);
                facts.rdb_saves = Observed::Seen(false);
                facts.uptime_seconds = Observed::Seen(server);
            })
    }

    #[test]
    fn a_worker_older_than_a_server_that_keeps_nothing_is_found() {
        let found = lab(false, 60, 3600.0).check(&BROKER_RESTARTED, "");
        assert_eq!(names(&found), ["broker-restarted"]);
    }

    #[test]
    fn a_younger_worker_and_a_server_that_keeps_its_data_are_clear() {
        for lab in [lab(false, 60, 62.0), lab(true, 60, 3600.0), Lab::new()] {
            assert!(lab.check(&BROKER_RESTARTED, "").is_empty());
        }
    }
}
