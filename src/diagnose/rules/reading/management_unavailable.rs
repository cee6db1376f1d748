//! CD803: RabbitMQ's management API could not be read.

use super::broker_is_away;
use crate::diagnose::command::Command;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, ReadStatus, Reason, Source};

/// The rule.
pub static MANAGEMENT_UNAVAILABLE: Rule = Rule {
    code: "CD803",
    name: "management-unavailable",
    severity: Severity::Warning,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "RabbitMQ's HTTP API could not be read. What AMQP itself tells was read all the same: the workers' \
                  word, and how many messages and consumers the queues have that somebody names. Unnamed queues, \
                  bindings, arguments, alarms and dropped publishes stay unseen.",
        cause: "The plugin rabbitmq_management is not enabled, it listens on another port or host than the one \
                guessed from the broker's URL, or a user without the tag `monitoring` asked.",
        read: "Requests to the address given with --management, or to port 15672 of the broker's host (15671 with TLS).",
        confirm: "Run `rabbitmq-plugins list rabbitmq_management`, and `curl -u USER http://HOST:15672/api/whoami`.",
        mend: "Give its address with --management. Enable it: `rabbitmq-plugins enable rabbitmq_management`. Let the \
               user read: `rabbitmqctl set_user_tags USER monitoring`.",
        prevent: "Give this tool a user of its own with the tag `monitoring` and, for the virtual host, permissions \
                  that may all be empty.",
        references: &["https://www.rabbitmq.com/docs/management"],
    },
    needs: &[Source::Management],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(read) = evidence.read(Source::Management) else {
        return Vec::new();
    };
    // A refusal of single answers is CD805, and a broker that is away CD801.
    let missing = read.status == ReadStatus::Unavailable && read.reason != Some(Reason::NotAsked);
    if !missing || broker_is_away(evidence) {
        return Vec::new();
    }
    let url = evidence
        .rabbitmq
        .as_ref()
        .and_then(|rabbit| rabbit.management_url.as_deref());
    let url = url.unwrap_or("the management API");
    vec![
        Finding::of(
            &MANAGEMENT_UNAVAILABLE,
            format!("{url} could not be read: {}", read.detail),
        )
        .evidence("management", url)
        .evidence("detail", read.detail.as_str())
        .confirm(Command::of("rabbitmq-plugins list rabbitmq_management"))
        .remedy("give its address with --management, or enable it on the node")
        .mend(Command::of("rabbitmq-plugins enable rabbitmq_management"))
        .subject("source", Source::Management.name()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};

    #[test]
    fn an_api_that_can_not_be_read_is_found() {
        for reason in [
            Reason::Unreachable,
            Reason::TimedOut,
            Reason::Refused,
            Reason::Malformed,
        ] {
            let lab = Rabbit::new().lab().unread(Source::Management, reason);
            assert_eq!(
                names(&lab.check(&MANAGEMENT_UNAVAILABLE, "")),
                ["management-unavailable"]
            );
        }
    }

    #[test]
    fn an_api_that_was_read_is_clear() {
        assert!(
            Rabbit::new()
                .lab()
                .check(&MANAGEMENT_UNAVAILABLE, "")
                .is_empty()
        );
    }
}
