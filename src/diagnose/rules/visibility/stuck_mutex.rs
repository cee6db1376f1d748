//! CD309: the lock of the sweep never goes away.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, MutexTtl, Source};

/// The rule.
pub static STUCK_MUTEX: Rule = Rule {
    code: "CD309",
    name: "stuck-mutex",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "`unacked_mutex` exists and has no time to live. While it does, no worker restores anything: every \
                  message whose worker dies stays in `unacked` for good.",
        cause: "A worker that sweeps `unacked` takes this lock, and others leave the sweep to it. kombu gives the \
                lock five minutes. Before 4.6.9 it set the lock first and its TTL after that; a worker killed between \
                the two left a lock for ever. A key restored or copied by hand without its TTL does the same.",
        read: "The key `unacked_mutex` of every key prefix, and its TTL.",
        confirm: "Run `redis-cli TTL unacked_mutex`: -1 means that it never goes away.",
        mend: "Delete it: `redis-cli DEL unacked_mutex`. The next sweep of a live worker restores what is due.",
        prevent: "Use kombu 4.6.9 or newer in every process of the database.",
        references: &["kombu issue 1190", "kombu commit 7fefb6fe (4.6.9)"],
    },
    needs: &[Source::Unacked],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    evidence
        .reservations
        .seen()
        .into_iter()
        .flatten()
        .filter(|entry| entry.mutex == Some(MutexTtl::Never))
        .map(|entry| {
            let key = format!("{}{}", entry.prefix, entry.names.mutex);
            Finding::of(
                &STUCK_MUTEX,
                format!(
                    "{key} has no time to live: no worker restores any of the {} in {}{}",
                    plain::count(entry.unacked, "message"),
                    entry.prefix,
                    entry.names.hash
                ),
            )
            .evidence("key", key.as_str())
            .evidence("unacked", entry.unacked)
            .confirm(evidence.redis_cli("TTL").name(&key))
            .remedy("delete the lock: no sweep that is under way has one without a time to live")
            .mend(evidence.redis_cli("DEL").name(&key))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    fn locked(mutex: Option<MutexTtl>) -> Lab {
        let mut lab = Lab::new();
        lab.evidence.reservations.seen_mut().expect("seen")[0].mutex = mutex;
        lab
    }

    #[test]
    fn a_lock_for_ever_is_found() {
        let found = locked(Some(MutexTtl::Never)).check(&STUCK_MUTEX, "");
        assert_eq!(names(&found), ["stuck-mutex"]);
        assert_eq!(
            found[0].remedy_commands,
            ["redis-cli -h localhost -p 6379 -n 0 DEL unacked_mutex"]
        );
    }

    #[test]
    fn a_lock_that_goes_away_and_none_are_clear() {
        for mutex in [Some(MutexTtl::Seconds(250.0)), None] {
            assert!(locked(mutex).check(&STUCK_MUTEX, "").is_empty());
        }
    }

    #[test]
    fn nothing_is_said_where_it_was_not_read() {
        let lab = Lab::new().unread(Source::Unacked, Reason::Refused);
        assert!(lab.check(&STUCK_MUTEX, "").is_empty());
    }
}
