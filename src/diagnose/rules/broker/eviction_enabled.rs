//! CD601: a Redis that may throw queues away when its memory is full.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, Source};

/// The rule.
pub static EVICTION_ENABLED: Rule = Rule {
    code: "CD601",
    name: "eviction-enabled",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The server has a memory limit and a policy that evicts any key when it is reached. A queue is a key, \
                  and so is `unacked`: the server then throws away whole queues, reservations and bindings, without a \
                  word.",
        cause: "maxmemory-policy is one of the allkeys policies. They are made for caches. Celery's documentation names \
                allkeys-lru as a choice for Redis; for a broker it is none.",
        read: "maxmemory and maxmemory_policy in INFO. Without a memory limit nothing is evicted, and nothing is said.",
        confirm: "Run `redis-cli CONFIG GET maxmemory-policy` and `redis-cli CONFIG GET maxmemory`.",
        mend: "Run `redis-cli CONFIG SET maxmemory-policy noeviction`, and write it to the server's configuration. The \
               server then refuses writes when it is full, which senders see as an error.",
        prevent: "Give the broker a server of its own with noeviction, and watch used_memory. Keep caches and large \
                  results elsewhere.",
        references: &[
            "https://redis.io/docs/latest/develop/reference/eviction/",
            "celery issue 6719",
            "kombu issue 236",
        ],
    },
    needs: &[Source::Server],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(server) = evidence.broker.server.seen() else {
        return Vec::new();
    };
    let limit = server.maxmemory.seen().copied().unwrap_or(0);
    let Some(policy) = server.maxmemory_policy.seen() else {
        return Vec::new();
    };
    if limit == 0 || !policy.starts_with("allkeys-") {
        return Vec::new();
    }
    vec![
        Finding::of(
            &EVICTION_ENABLED,
            format!(
                "the server's memory is limited and its policy is {policy}: when it is full, it throws queues away"
            ),
        )
        .evidence("maxmemory", limit)
        .evidence("maxmemory_policy", policy.as_str())
        .evidence("used_memory", server.used_memory.seen().copied())
        .confirm(evidence.redis_cli("CONFIG GET maxmemory-policy"))
        .remedy("set the policy to noeviction, and write it to the server's configuration")
        .mend(evidence.redis_cli("CONFIG SET maxmemory-policy noeviction")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn lab(limit: u64, policy: &str) -> Lab {
        Lab::new().server(|server| {
            server.maxmemory = Observed::Seen(limit);
            server.maxmemory_policy = Observed::Seen(policy.to_owned());
        })
    }

    #[test]
    fn a_limit_with_a_policy_for_caches_is_found() {
        let found = lab(1 << 20, "allkeys-lru").check(&EVICTION_ENABLED, "");
        assert_eq!(names(&found), ["eviction-enabled"]);
    }

    #[test]
    fn no_limit_and_other_policies_are_clear() {
        for lab in [
            lab(0, "allkeys-lru"),
            lab(1 << 20, "noeviction"),
            lab(1 << 20, "volatile-lru"),
            Lab::new(),
        ] {
            assert!(lab.check(&EVICTION_ENABLED, "").is_empty());
        }
    }
}
