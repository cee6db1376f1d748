//! CD608: tasks are published without confirms.

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::Channel;
use crate::evidence::{Evidence, Source};

/// The rule.
pub static NO_PUBLISHER_CONFIRMS: Rule = Rule {
    code: "CD608",
    name: "no-publisher-confirms",
    severity: Severity::Info,
    brokers: Brokers::RabbitMq,
    page: Page {
        meaning: "Clients publish without confirms. apply_async returns before RabbitMQ has the task, and says nothing \
                  when it never gets it: while an alarm blocks publishers, or when the connection breaks.",
        cause: "kombu's transport option confirm_publish is off by default.",
        read: "The channels of the management API that have published and are not in confirm mode. Those of events and \
               remote control are among them; a channel that consumes is left out.",
        confirm: "Run `rabbitmqctl list_channels connection confirm messages_unconfirmed`.",
        mend: "Set broker_transport_options = {'confirm_publish': True} where tasks are sent.",
        prevent: "Keep it in the settings that senders and workers share. Set a confirm_timeout too, so that a sender \
                  does not wait for ever while an alarm is in effect.",
        references: &[
            "celery issues 5410, 9149, 9259",
            "https://www.rabbitmq.com/docs/confirms#publisher-confirms",
        ],
    },
    needs: &[Source::Management],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some(rabbit) = &evidence.rabbitmq else {
        return Vec::new();
    };
    let workers = evidence.worker_connections(rabbit);
    let silent = |channel: &&Channel| {
        let published = channel.published.seen().is_some_and(|count| *count > 0);
        published
            && channel.confirms.seen() == Some(&false)
            && channel.consumers.seen() == Some(&0)
            && !workers.contains(channel.connection.as_str())
    };
    let channels: Vec<&Channel> = rabbit
        .channels
        .seen()
        .into_iter()
        .flatten()
        .filter(silent)
        .collect();
    if channels.is_empty() {
        return Vec::new();
    }
    let number = channels.len() as u64;
    let mut finding = Finding::of(
        &NO_PUBLISHER_CONFIRMS,
        format!(
            "{} published without confirms: a task that the broker never got is not noticed",
            plain::count(number, "channel")
        ),
    )
    .evidence("channels", number)
    .confirm(rabbit.list_channels())
    .remedy("set broker_transport_options = {'confirm_publish': True} where tasks are sent")
    .subject("vhost", rabbit.vhost.as_str());
    finding.count = number;
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Rabbit, names};

    #[test]
    fn a_channel_that_published_without_confirms_is_found() {
        let lab = Rabbit::new().channel("c1", 5, false).lab();
        assert_eq!(
            names(&lab.check(&NO_PUBLISHER_CONFIRMS, "")),
            ["no-publisher-confirms"]
        );
    }

    #[test]
    fn confirms_and_channels_that_publish_nothing_are_clear() {
        let lab = Rabbit::new()
            .channel("c1", 5, true)
            .channel("c2", 0, false)
            .lab();
        assert!(lab.check(&NO_PUBLISHER_CONFIRMS, "").is_empty());
    }
}
