//! CD602: the server has thrown keys away for want of memory.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Source};

/// The rule.
pub static EVICTIONS_HAPPENED: Rule = Rule {
    code: "CD602",
    name: "evictions-happened",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The server has evicted keys since its start, because its memory was full. Queues, reservations, \
                  bindings or results may be among them; nothing tells which.",
        cause: "maxmemory was reached under a policy that evicts. An allkeys policy takes any key. A volatile policy \
                takes only keys that expire: results do, queues and `unacked` don't.",
        read: "evicted_keys and maxmemory_policy in INFO. Under a volatile policy it is a warning: the policy in force \
               takes results and leaves queues alone.",
        confirm: "Run `redis-cli INFO stats` and look at evicted_keys.",
        mend: "Run `redis-cli CONFIG SET maxmemory-policy noeviction`, make room, and send again what was lost: a trace \
               of an id says whether its message is left. The counter goes back to 0 with `redis-cli CONFIG RESETSTAT`.",
        prevent: "Give the broker a server of its own with noeviction and an alert on its memory.",
        references: &[
            "https://redis.io/docs/latest/develop/reference/eviction/",
            "celery issue 6719",
        ],
    },
    needs: &[Source::Server],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(server) = evidence.broker.server.seen() else {
        return Vec::new();
    };
    let evicted = server.evicted_keys.seen().copied().unwrap_or(0);
    if evicted == 0 {
        return Vec::new();
    }
    let policy = server.maxmemory_policy.seen().map(String::as_str);
    let spares_queues = policy.is_some_and(|policy| policy.starts_with("volatile-"));
    let keys = plain::count(evicted, "key");
    let message = if spares_queues {
        format!(
            "the server has evicted {keys} since its start; under {} these are keys that expire, such as results",
            policy.unwrap_or_default()
        )
    } else {
        format!(
            "the server has evicted {keys} since its start: queues, reservations or results may be among them"
        )
    };
    let mut finding = Finding::of(&EVICTIONS_HAPPENED, message)
        .evidence("evicted_keys", evicted)
        .evidence("maxmemory_policy", policy)
        .evidence("maxmemory", server.maxmemory.seen().copied())
        .confirm(evidence.redis_cli("INFO stats | grep evicted_keys"))
        .remedy("set maxmemory-policy to noeviction, make room, and send again what was lost");
    if spares_queues {
        finding.severity = Severity::Warning;
    }
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn severities(evicted: u64, policy: &str) -> Vec<Severity> {
        let lab = Lab::new().server(|server| {
            server.evicted_keys = Observed::Seen(evicted);
            server.maxmemory_policy = Observed::Seen(policy.to_owned());
        });
        let found = lab.check(&EVICTIONS_HAPPENED, "");
        assert!(
            names(&found)
                .iter()
                .all(|name| *name == "evictions-happened")
        );
        found.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn evictions_are_found_and_those_of_expiring_keys_are_less_bad() {
        assert_eq!(severities(3, "allkeys-lru"), [Severity::Error]);
        assert_eq!(severities(3, "noeviction"), [Severity::Error]);
        assert_eq!(severities(3, "volatile-ttl"), [Severity::Warning]);
    }

    #[test]
    fn none_is_clear_and_so_is_what_was_not_read() {
        assert!(severities(0, "allkeys-lru").is_empty());
        assert!(Lab::new().check(&EVICTIONS_HAPPENED, "").is_empty());
    }
}
