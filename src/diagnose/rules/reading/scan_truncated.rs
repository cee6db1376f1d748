//! CD806: a limit ended a scan before its end.

use super::tells;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, Read, ReadStatus, Reason, Source};

/// The rule.
pub static SCAN_TRUNCATED: Rule = Rule {
    code: "CD806",
    name: "scan-truncated",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A part of the broker was read only up to a limit. What was not found may stand in the rest, so \
                  nothing is called absent there.",
        cause: "There was more to read than a limit of this tool allows, or the time given ran out in the middle: a \
                long queue, a large `unacked`, a database with very many keys, or a slow network.",
        read: "How far each scan got.",
        confirm: "Compare with the real size: `redis-cli LLEN QUEUE`, `redis-cli HLEN unacked`, `redis-cli DBSIZE`.",
        mend: "Run it again when the server is less busy, or from a machine nearer to it.",
        prevent: "Keep results and caches out of the broker's database, and backlogs short.",
        references: &["https://redis.io/docs/latest/commands/scan/"],
    },
    needs: &[],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    evidence
        .reads
        .iter()
        .filter(|read| is_scan(read.source) && was_cut_off(read))
        .map(|read| finding(evidence, read))
        .collect()
}

/// Workers that stay silent are CD402, and the server's facts are no scan.
fn is_scan(source: Source) -> bool {
    !matches!(source, Source::Server | Source::Workers | Source::Clients)
}

fn was_cut_off(read: &Read) -> bool {
    match read.reason {
        Some(Reason::Truncated) => true,
        Some(Reason::TimedOut) => read.status == ReadStatus::Partial,
        _ => false,
    }
}

fn finding(evidence: &Evidence, read: &Read) -> Finding {
    let source = read.source.name();
    let message = format!(
        "{source} were read only in part ({}); the rest might tell {}",
        read.detail,
        tells(read.source)
    );
    let finding = Finding::of(&SCAN_TRUNCATED, message)
        .evidence("source", source)
        .evidence("detail", read.detail.as_str())
        .remedy("run it again when the server is less busy, or from a machine nearer to it")
        .subject("source", source);
    match read.source {
        Source::Results => finding.confirm(evidence.results_cli("DBSIZE")),
        _ => finding.confirm(match &evidence.rabbitmq {
            Some(rabbit) => rabbit.list_queues(),
            None => vec![evidence.redis_cli("DBSIZE")],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};

    #[test]
    fn a_scan_that_was_cut_off_is_found() {
        for reason in [Reason::Truncated, Reason::TimedOut] {
            let lab = Lab::new().read_only_part(Source::Queues, reason);
            assert_eq!(names(&lab.check(&SCAN_TRUNCATED, "")), ["scan-truncated"]);
        }
    }

    #[test]
    fn whole_scans_and_silent_workers_are_clear() {
        assert!(Lab::new().check(&SCAN_TRUNCATED, "").is_empty());
        assert!(
            Lab::new()
                .silent("w1")
                .check(&SCAN_TRUNCATED, "")
                .is_empty()
        );
    }

    #[test]
    fn a_place_that_was_not_read_at_all_is_no_scan() {
        let lab = Lab::new().unread(Source::Queues, Reason::TimedOut);
        assert!(lab.check(&SCAN_TRUNCATED, "").is_empty());
    }
}
