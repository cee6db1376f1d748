//! The list of all rules, by code. A new finding is one new file and one line here.

use super::rules::{
    broker, publish, reading, reservations, results, routing as routes, visibility, waiting,
    workers,
};
use super::{Check, Judged, Rule};
use crate::evidence::routing::Routing;

/// Every rule, in the order of the codes.
pub static ALL: &[&Rule] = &[
    &publish::no_consumer::NO_CONSUMER,
    &publish::unroutable::UNROUTABLE,
    &publish::restore_black_hole::RESTORE_BLACK_HOLE,
    &publish::priority_not_consumed::PRIORITY_NOT_CONSUMED,
    &publish::key_prefix_mismatch::KEY_PREFIX_MISMATCH,
    &publish::wrong_database::WRONG_DATABASE,
    &publish::unroutable_publishes::UNROUTABLE_PUBLISHES,
    &publish::unbound_exchange::UNBOUND_EXCHANGE,
    &routes::dead_route::DEAD_ROUTE,
    &routes::route_to_unconsumed_queue::ROUTE_TO_UNCONSUMED_QUEUE,
    &routes::undeclared_queue::UNDECLARED_QUEUE,
    &publish::default_queue_unconsumed::DEFAULT_QUEUE_UNCONSUMED,
    &routes::queue_arguments_conflict::QUEUE_ARGUMENTS_CONFLICT,
    &publish::delayed_delivery_unbound::DELAYED_DELIVERY_UNBOUND,
    &waiting::expired::EXPIRED,
    &waiting::not_registered::NOT_REGISTERED,
    &waiting::mixed_registries::MIXED_REGISTRIES,
    &waiting::content_refused::CONTENT_REFUSED,
    &waiting::revoked::REVOKED,
    &waiting::backlog::BACKLOG,
    &waiting::malformed_message::MALFORMED_MESSAGE,
    &waiting::queue_limits::QUEUE_LIMITS,
    &waiting::duplicate_message::DUPLICATE_MESSAGE,
    &waiting::stalled_consumer::STALLED_CONSUMER,
    &waiting::queue_broken::QUEUE_BROKEN,
    &visibility::visibility_expired::VISIBILITY_EXPIRED,
    &visibility::eta_beyond_visibility::ETA_BEYOND_VISIBILITY,
    &visibility::run_beyond_visibility::RUN_BEYOND_VISIBILITY,
    &visibility::redelivered::REDELIVERED,
    &visibility::unacked_without_index::UNACKED_WITHOUT_INDEX,
    &visibility::visibility_conflict::VISIBILITY_CONFLICT,
    &visibility::clock_skew::CLOCK_SKEW,
    &visibility::nobody_restores::NOBODY_RESTORES,
    &visibility::stuck_mutex::STUCK_MUTEX,
    &visibility::foreign_sweep::FOREIGN_SWEEP,
    &reservations::orphaned_reservation::ORPHANED_RESERVATION,
    &reservations::silent_worker::SILENT_WORKER,
    &reservations::prefetch_hoarding::PREFETCH_HOARDING,
    &reservations::consumer_timeout::CONSUMER_TIMEOUT,
    &reservations::delivery_limit::DELIVERY_LIMIT,
    &reservations::eta_flood::ETA_FLOOD,
    &reservations::rate_limited::RATE_LIMITED,
    &reservations::foreign_consumer::FOREIGN_CONSUMER,
    &results::vanished_while_running::VANISHED_WHILE_RUNNING,
    &results::retry_vanished::RETRY_VANISHED,
    &results::worker_lost::WORKER_LOST,
    &results::result_not_stored::RESULT_NOT_STORED,
    &results::result_expires::RESULT_EXPIRES,
    &results::discarded_not_registered::DISCARDED_NOT_REGISTERED,
    &results::chord_stuck::CHORD_STUCK,
    &results::duplicate_run::DUPLICATE_RUN,
    &results::chain_broken::CHAIN_BROKEN,
    &broker::eviction_enabled::EVICTION_ENABLED,
    &broker::evictions_happened::EVICTIONS_HAPPENED,
    &broker::no_persistence::NO_PERSISTENCE,
    &broker::memory_pressure::MEMORY_PRESSURE,
    &broker::transient_queue::TRANSIENT_QUEUE,
    &broker::failover_risk::FAILOVER_RISK,
    &broker::connections_refused::CONNECTIONS_REFUSED,
    &broker::no_publisher_confirms::NO_PUBLISHER_CONFIRMS,
    &broker::broker_restarted::BROKER_RESTARTED,
    &broker::writes_refused::WRITES_REFUSED,
    &workers::no_workers::NO_WORKERS,
    &workers::early_ack::EARLY_ACK,
    &workers::late_ack_without_reject::LATE_ACK_WITHOUT_REJECT,
    &workers::long_running::LONG_RUNNING,
    &workers::saturated::SATURATED,
    &workers::config_drift::CONFIG_DRIFT,
    &workers::known_bad_version::KNOWN_BAD_VERSION,
    &workers::duplicate_node_name::DUPLICATE_NODE_NAME,
    &reading::broker_unavailable::BROKER_UNAVAILABLE,
    &reading::result_backend_unavailable::RESULT_BACKEND_UNAVAILABLE,
    &reading::management_unavailable::MANAGEMENT_UNAVAILABLE,
    &reading::workers_not_asked::WORKERS_NOT_ASKED,
    &reading::permission_denied::PERMISSION_DENIED,
    &reading::scan_truncated::SCAN_TRUNCATED,
    &reading::unsupported::UNSUPPORTED,
];

/// The rules of the family 8xx: they tell what could not be read, and nothing about tasks.
pub static ABOUT_THE_READING: &[&Rule] = &[
    &reading::broker_unavailable::BROKER_UNAVAILABLE,
    &reading::result_backend_unavailable::RESULT_BACKEND_UNAVAILABLE,
    &reading::management_unavailable::MANAGEMENT_UNAVAILABLE,
    &reading::workers_not_asked::WORKERS_NOT_ASKED,
    &reading::permission_denied::PERMISSION_DENIED,
    &reading::scan_truncated::SCAN_TRUNCATED,
    &reading::unsupported::UNSUPPORTED,
];

/// What judges a project's routing.
pub type RoutingCheck = fn(&Routing) -> Judged;

/// Rules about a live deployment that judge a project's files besides.
static ALSO_ROUTING: &[(&Rule, RoutingCheck)] = &[
    (&publish::unroutable::UNROUTABLE, routes::unroutable::check),
    (
        &waiting::not_registered::NOT_REGISTERED,
        routes::not_registered::check,
    ),
    (
        &publish::unbound_exchange::UNBOUND_EXCHANGE,
        routes::unbound_exchange::check,
    ),
    (
        &publish::default_queue_unconsumed::DEFAULT_QUEUE_UNCONSUMED,
        routes::default_queue_unconsumed::check,
    ),
    (
        &waiting::queue_limits::QUEUE_LIMITS,
        routes::queue_limits::check,
    ),
];

/// The rules that judge a project's routing, in the order of the codes.
pub fn routing() -> impl Iterator<Item = (&'static Rule, RoutingCheck)> {
    ALL.iter().filter_map(|rule| {
        if let Check::Routing(check) = rule.check {
            return Some((*rule, check));
        }
        let also = ALSO_ROUTING
            .iter()
            .find(|(other, _)| other.code == rule.code);
        also.map(|(rule, check)| (*rule, *check))
    })
}

/// The rule with this code or name, in any case.
pub fn find(wanted: &str) -> Option<&'static Rule> {
    ALL.iter()
        .find(|rule| {
            rule.code.eq_ignore_ascii_case(wanted) || rule.name.eq_ignore_ascii_case(wanted)
        })
        .copied()
}

/// How much alike a misspelt name must be to be offered.
const ALIKE: f64 = 0.8;

/// The name of a rule that somebody may have meant.
pub fn nearest(wanted: &str) -> Option<&'static str> {
    let wanted = wanted.to_lowercase();
    ALL.iter()
        .map(|rule| (strsim::jaro_winkler(&wanted, rule.name), rule.name))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_in_order() {
        for pair in ALL.windows(2) {
            assert!(
                pair[0].code < pair[1].code,
                "{} is out of order",
                pair[1].code
            );
            assert!(ALL.iter().filter(|rule| rule.name == pair[0].name).count() == 1);
        }
    }

    #[test]
    fn every_rule_is_found_by_code_and_by_name() {
        for rule in ALL {
            assert_eq!(find(rule.code).map(|found| found.name), Some(rule.name));
            assert_eq!(find(rule.name).map(|found| found.code), Some(rule.code));
        }
        assert!(find("CD000").is_none());
    }

    #[test]
    fn the_family_8xx_is_about_the_reading() {
        let about = |rule: &&&Rule| ABOUT_THE_READING.iter().any(|one| one.code == rule.code);
        for rule in ALL {
            assert_eq!(about(&rule), rule.code.starts_with("CD8"), "{}", rule.code);
        }
    }

    #[test]
    fn every_page_is_complete() {
        for rule in ALL {
            let page = &rule.page;
            for (part, text) in [
                ("meaning", page.meaning),
                ("cause", page.cause),
                ("read", page.read),
                ("confirm", page.confirm),
                ("mend", page.mend),
                ("prevent", page.prevent),
            ] {
                assert!(text.len() > 20, "{}: the page's {part} is empty", rule.code);
                assert!(
                    text.ends_with('.'),
                    "{}: {part} ends without a full stop",
                    rule.code
                );
            }
            assert!(
                !page.references.is_empty(),
                "{} has no references",
                rule.code
            );
        }
    }
}
