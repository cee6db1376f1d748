//! CD607: the server turns clients away, or is about to.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Source};

/// Of the connections that a server takes, so many hundredths in use are close to the limit.
const CLOSE: u64 = 90;

/// The rule.
pub static CONNECTIONS_REFUSED: Rule = Rule {
    code: "CD607",
    name: "connections-refused",
    severity: Severity::Warning,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The server has refused connections since its start because it had as many as it may have, or nearly \
                  as many are open now. Who is refused can't send tasks; a worker that is refused stops working.",
        cause: "Each Celery process keeps several connections, and producers in web servers keep a pool for each \
                process. maxclients is 10,000 unless set, and less where the system allows fewer open files.",
        read: "rejected_connections, connected_clients and maxclients in INFO. The counter runs since the server's \
               start.",
        confirm: "Run `redis-cli INFO stats` and `redis-cli INFO clients`; `redis-cli CLIENT LIST` says who they are.",
        mend: "Raise maxclients (`redis-cli CONFIG SET maxclients N`) and the server's limit of open files, or close \
               what holds connections without need. `redis-cli CONFIG RESETSTAT` sets the counter back.",
        prevent: "Set broker_pool_limit and redis_max_connections, and watch connected_clients.",
        references: &[
            "https://redis.io/docs/latest/develop/reference/clients/",
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#broker-pool-limit",
        ],
    },
    needs: &[Source::Server],
    check: Check::Audit(check),
};

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let Some(server) = evidence.broker.server.seen() else {
        return Vec::new();
    };
    let health = &server.health;
    let rejected = health.rejected_connections.seen().copied().unwrap_or(0);
    let (open, most) = (
        health.connections.seen().copied(),
        health.max_connections.seen().copied(),
    );
    let close = open
        .zip(most)
        .filter(|(open, most)| open.saturating_mul(100) >= most.saturating_mul(CLOSE));
    let message = match (rejected, close) {
        (0, None) => return Vec::new(),
        (0, Some((open, most))) => {
            format!("{open} of the {most} connections that the server takes are in use")
        }
        (refused, _) => format!(
            "the server has refused {} since its start: it had as many as it takes",
            plain::count(refused, "connection")
        ),
    };
    vec![
        Finding::of(&CONNECTIONS_REFUSED, message)
            .evidence("rejected_connections", rejected)
            .evidence("connected_clients", open)
            .evidence("maxclients", most)
            .confirm(evidence.redis_cli("INFO stats | grep rejected_connections"))
            .confirm(evidence.redis_cli("INFO clients"))
            .remedy("raise maxclients and the server's limit of open files, or let clients keep fewer connections"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Observed;

    fn lab(rejected: u64, open: u64, most: u64) -> Lab {
        Lab::new().server(|server| {
            server.health.rejected_connections = Observed::Seen(rejected);
            server.health.connections = Observed::Seen(open);
            server.health.max_connections = Observed::Seen(most);
        })
    }

    #[test]
    fn refusals_and_a_near_limit_are_found() {
        for lab in [lab(1, 5, 10_000), lab(0, 9_000, 10_000)] {
            assert_eq!(
                names(&lab.check(&CONNECTIONS_REFUSED, "")),
                ["connections-refused"]
            );
        }
    }

    #[test]
    fn room_for_more_is_clear() {
        for lab in [lab(0, 8_999, 10_000), Lab::new()] {
            assert!(lab.check(&CONNECTIONS_REFUSED, "").is_empty());
        }
    }
}
