//! CD305: a message in `unacked` that `unacked_index` does not name.

use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity};
use crate::evidence::Source;

/// The rule.
pub static UNACKED_WITHOUT_INDEX: Rule = Rule {
    code: "CD305",
    name: "unacked-without-index",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The message is in `unacked` and has no entry in `unacked_index`. Nothing will ever restore it: if \
                  its worker is gone, it stays there for good.",
        cause: "kombu writes both in one transaction and looks for what to restore only in the index. Before 5.2.3 it \
                restored in several steps, and before 5.3.3 it requeued in several, so that a crash between two of \
                them left one half. A key deleted or evicted by hand or by Redis does the same.",
        read: "The message in the hash `unacked` and its delivery tag in the sorted set `unacked_index`, twice. \
               Nothing is said where either was not read whole.",
        confirm: "Run `redis-cli HEXISTS unacked TAG` (1) and `redis-cli ZSCORE unacked_index TAG` (nil).",
        mend: "If no worker runs it, give it an entry that is long past, and the next sweep of a live worker restores \
               it: `redis-cli ZADD unacked_index NX TIME TAG`, with a TIME longer ago than the visibility timeout.",
        prevent: "Use kombu 5.3.3 or newer, never delete these keys by hand, and set maxmemory-policy to noeviction.",
        references: &["kombu issue 1444", "kombu issue 1800"],
    },
    needs: &[Source::Unacked],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    if !case.evidence.complete(Source::Unacked) {
        return Vec::new();
    }
    case.held()
        .into_iter()
        .filter(|held| held.delivered_at.is_none())
        .map(|held| {
            let cli = |words: &str| case.evidence.redis_cli(words);
            Finding::of(
                &UNACKED_WITHOUT_INDEX,
                format!(
                    "it is in {} and has no entry in {}: nothing will restore it",
                    held.hash(),
                    held.index()
                ),
            )
            .evidence("delivery_tag", held.tag)
            .evidence("key_prefix", held.prefix)
            .confirm(cli("HEXISTS").name(&held.hash()).name(held.tag))
            .confirm(cli("ZSCORE").name(&held.index()).name(held.tag))
            .remedy("if no worker runs it, let the next sweep of a live worker restore it")
            .mend(cli("ZADD").name(&held.index()).words("NX 1").name(held.tag))
            .task(case.id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, NOW, envelope, names};
    use crate::evidence::Reason;

    #[test]
    fn a_half_is_found() {
        let lab = Lab::new().unacked_as(envelope("t1"), None);
        let found = lab.check(&UNACKED_WITHOUT_INDEX, "t1");
        assert_eq!(names(&found), ["unacked-without-index"]);
    }

    #[test]
    fn a_whole_is_clear() {
        let lab = Lab::new().unacked_as(envelope("t1"), Some(NOW - 9.0));
        assert!(lab.check(&UNACKED_WITHOUT_INDEX, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_where_the_index_may_not_have_been_read() {
        let lab = Lab::new()
            .unacked_as(envelope("t1"), None)
            .read_only_part(Source::Unacked, Reason::Refused);
        assert!(lab.check(&UNACKED_WITHOUT_INDEX, "t1").is_empty());
    }
}
