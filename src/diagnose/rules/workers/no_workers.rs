//! CD701: no worker is there.

use crate::diagnose::view::Store;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, Source};

/// The rule.
pub static NO_WORKERS: Rule = Rule {
    code: "CD701",
    name: "no-workers",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "No worker is connected to this broker: nobody answered, and nobody is subscribed to remote control. \
                  What is sent waits, and what was unacknowledged is not restored.",
        cause: "The workers are stopped or crashed, or they are connected to another broker, another database of it, \
                or with another global_keyprefix. Workers with worker_enable_remote_control off are not subscribed \
                either, and can't be seen this way.",
        read: "On Redis PUBLISH on the pidbox channel returned 0 receivers; on RabbitMQ nobody answered and no queue \
               of tasks has a consumer. Nothing is said where a worker came or left in the middle. Where CLIENT \
               LIST was read, connections that wait in BRPOP on this database are counted: they may be workers \
               without remote control, and then this is no error.",
        confirm: "Run `celery -A APP status`. Run `redis-cli PUBSUB NUMPAT` and `redis-cli CLIENT LIST`, and look for \
                  connections with cmd=brpop; or `rabbitmqctl list_consumers`.",
        mend: "Start the workers: `celery -A APP worker`. If they run, compare their broker URL, as `celery -A APP \
               report` prints it, with the one traced here.",
        prevent: "Let a supervisor restart workers, and let a probe ask whether any worker answers.",
        references: &[
            "https://docs.celeryq.dev/en/stable/userguide/workers.html#starting-the-worker",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(workers) = evidence.workers.seen() else {
        return Vec::new();
    };
    // One that came or left meanwhile is there, or about to come back.
    if !workers.answered.is_empty() || workers.silent > 0 || !workers.are_settled() {
        return Vec::new();
    }
    let place = evidence.place();
    // Who waits for messages and takes no remote control is most likely a worker, unless it lets lie what one would
    // have put back.
    let mut stores = evidence.reservations.seen().into_iter().flatten();
    let strangers = stores.any(|entry| {
        evidence.only_strangers_beside(Store {
            prefix: &entry.prefix,
            names: Some(&entry.names),
        })
    });
    if evidence.unheard_consumers() > 0 && !strangers {
        return Vec::new();
    }
    let message =
        format!("no worker is connected to {place}: nobody is subscribed to remote control");
    let mut finding = Finding::of(&NO_WORKERS, message)
        .evidence("answered", 0)
        .evidence("subscribed", 0)
        .evidence("names_without_an_answer", workers.unanswered_names.len())
        .confirm(evidence.who_waits())
        .remedy("start the workers; if they run, compare their broker URL with this one");
    if let [_, ..] = workers.unanswered_names.as_slice() {
        finding = finding.evidence("last_seen", plain::names(&workers.unanswered_names));
    }
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::Reason;

    #[test]
    fn a_broker_without_workers_is_found() {
        let findings = Lab::new().check(&NO_WORKERS, "");
        assert_eq!(names(&findings), ["no-workers"]);
        assert_eq!(findings[0].severity, Severity::Error);
        let others = Lab::new().clients(&["get", "ping"]).check(&NO_WORKERS, "");
        assert_eq!(others[0].severity, Severity::Error);
    }

    #[test]
    fn what_may_be_a_worker_without_remote_control_is_clear() {
        assert!(
            Lab::new()
                .clients(&["brpop"])
                .check(&NO_WORKERS, "")
                .is_empty()
        );
    }

    #[test]
    fn a_busy_worker_without_remote_control_is_told_from_a_client_that_asked() {
        let idle = |subscriptions| {
            let mut lab = Lab::new().clients(&["brpop", "publish", "psubscribe"]);
            let facts = lab.evidence.broker.server.seen_mut().expect("seen");
            for client in facts.clients.seen_mut().expect("seen") {
                client.blocked = false;
                if client.command == "psubscribe" {
                    client.pattern_subscriptions = subscriptions;
                }
            }
            lab
        };
        assert!(idle(1).check(&NO_WORKERS, "").is_empty());
        let client = idle(0).check(&NO_WORKERS, "");
        assert_eq!(names(&client), ["no-workers"]);
    }

    #[test]
    fn a_worker_that_answers_or_is_silent_is_clear() {
        assert!(
            Lab::new()
                .worker("w1", &["celery"])
                .check(&NO_WORKERS, "")
                .is_empty()
        );
        assert!(Lab::new().silent("w1").check(&NO_WORKERS, "").is_empty());
    }

    #[test]
    fn one_that_restarts_is_as_good_as_there() {
        let mut lab = Lab::new();
        lab.workers_mut().unsettled.push("w1".to_owned());
        assert!(lab.check(&NO_WORKERS, "").is_empty());
    }

    #[test]
    fn nothing_is_said_where_nobody_was_asked() {
        assert!(
            Lab::new()
                .unread(Source::Workers, Reason::NotAsked)
                .check(&NO_WORKERS, "")
                .is_empty()
        );
    }
}
