//! CD103: an unacknowledged message whose restore would drop it.

use crate::diagnose::command::Command;
use crate::diagnose::view::Route;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::Source;

/// The rule.
pub static RESTORE_BLACK_HOLE: Rule = Rule {
    code: "CD103",
    name: "restore-black-hole",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "A message is delivered and not acknowledged, and the exchange and routing key under which it would \
                  be put back lead to no queue. If it is restored, it is gone.",
        cause: "kombu keeps each delivered message in `unacked` with its exchange and routing key. To restore it, \
                kombu takes it out of `unacked` and pushes it to every queue that the bindings name, in one \
                transaction. If the bindings of the exchange are gone, there is no such queue, and the message is \
                removed and pushed nowhere. Messages of the default exchange are safe: there the routing key is the \
                queue.",
        read: "The exchange and routing key beside the message in `unacked`, held against kombu's binding tables, \
               with the matching of the exchange's type.",
        confirm: "Run `redis-cli SMEMBERS _kombu.binding.EXCHANGE`. No member matches the routing key.",
        mend: "Bring the binding back before the visibility timeout passes or the worker stops: start a worker that \
               consumes a queue bound to this exchange and routing key, as it declares the binding when it starts.",
        prevent: "Do not delete `_kombu.binding.*` keys, and do not let Redis evict them (maxmemory-policy \
                  noeviction). Or set the transport option deadletter_queue, so that kombu keeps what it cannot \
                  route.",
        references: &[
            "kombu 5.7 transport/redis.py, restore_by_tag and _do_restore_message",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html",
        ],
    },
    needs: &[Source::Bindings, Source::Unacked],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.held()
        .into_iter()
        .filter(|held| {
            case.evidence
                .way_back(held.prefix, held.exchange, held.routing_key)
                == Route::Nowhere
        })
        .map(|held| {
            let (exchange, key) = (held.exchange, held.routing_key);
            Finding::of(
                &RESTORE_BLACK_HOLE,
                format!(
                    "it is unacknowledged, and exchange {exchange} with routing key {key} leads to no queue: \
                     restoring it will drop it"
                ),
            )
            .evidence("exchange", exchange)
            .evidence("routing_key", key)
            .evidence("key_prefix", held.prefix)
            .evidence("delivery_tag", held.tag)
            .confirm(members(case, held.prefix, exchange))
            .remedy(format!(
                "bring the binding back before it is restored: start a worker that consumes a queue bound to \
                 exchange {} with routing key {}",
                plain::key(exchange),
                plain::key(key)
            ))
            .subject("exchange", exchange)
            .task(case.id)
        })
        .collect()
}

/// The commands that show an exchange's bindings.
pub(super) fn members(case: &Case<'_>, prefix: &str, exchange: &str) -> Vec<Command> {
    match &case.evidence.rabbitmq {
        Some(rabbit) => rabbit.list_bindings(),
        None => vec![case.evidence.binding_members(prefix, exchange)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::exchange::Binding;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::{BindingTable, Observed, Place, Reason};

    fn held_from(exchange: &str) -> Lab {
        let mut lab = Lab::new().worker("w1", &["celery"]).unacked("t1", 10.0);
        if let Place::Unacked { exchange: from, .. } = &mut lab.task("t1").copies[0].place {
            exchange.clone_into(from);
        }
        lab
    }

    #[test]
    fn a_reservation_without_a_way_back_is_found() {
        let found = held_from("orders").check(&RESTORE_BLACK_HOLE, "t1");
        assert_eq!(names(&found), ["restore-black-hole"]);
    }

    #[test]
    fn the_default_exchange_needs_no_binding() {
        assert!(held_from("").check(&RESTORE_BLACK_HOLE, "t1").is_empty());
    }

    #[test]
    fn a_dead_letter_queue_takes_what_no_binding_does() {
        let lab = held_from("orders").with_worker(|w| {
            let stats = w.stats.seen_mut().expect("seen");
            stats.transport.deadletter_queue = Some("dead".to_owned());
        });
        assert!(lab.check(&RESTORE_BLACK_HOLE, "t1").is_empty());
        // Which of the two restores it nobody knows.
        let lab = lab.worker("w2", &["celery"]);
        assert!(lab.check(&RESTORE_BLACK_HOLE, "t1").is_empty());
    }

    #[test]
    fn a_bound_exchange_is_clear() {
        let mut lab = held_from("orders");
        lab.evidence.bindings = Observed::Seen(vec![BindingTable {
            prefix: String::new(),
            exchange: "orders".to_owned(),
            sep: crate::celery::exchange::DEFAULT_SEP.to_owned(),
            bindings: vec![Binding {
                routing_key: "celery".to_owned(),
                pattern: String::new(),
                queue: "celery".to_owned(),
            }],
        }]);
        assert!(lab.check(&RESTORE_BLACK_HOLE, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_without_the_whole_bindings() {
        let lab = held_from("orders").unread(Source::Bindings, Reason::Refused);
        assert!(lab.check(&RESTORE_BLACK_HOLE, "t1").is_empty());
        let lab = held_from("orders").read_only_part(Source::Bindings, Reason::Truncated);
        assert!(lab.check(&RESTORE_BLACK_HOLE, "t1").is_empty());
    }
}
