//! CD801: the broker could not be read.

use super::broker_is_away;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, ReadStatus, Reason, Source};

/// The rule.
pub static BROKER_UNAVAILABLE: Rule = Rule {
    code: "CD801",
    name: "broker-unavailable",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The broker could not be read, so nothing can be said about queues, unacknowledged messages and \
                  workers. Workers and senders may have the same trouble.",
        cause: "The server is down, the address or the port is wrong, a firewall or a missing TLS setting is in \
                between, the password or the user is wrong, or the server is too busy to answer in time.",
        read: "The connection to the broker, and its first answers.",
        confirm: "Run `redis-cli -u URL PING` from the same machine, with the broker's URL; or on RabbitMQ's machine \
                  `rabbitmq-diagnostics check_running` and `rabbitmqctl list_permissions -p VHOST`.",
        mend: "Correct --broker, or CELERY_BROKER_URL. If the server is down, start it; if it is busy, \
               look what keeps it so (`redis-cli SLOWLOG GET`), and run it again.",
        prevent: "Watch the broker itself. Give this tool a user of its own that may read (see permission-denied, \
                  CD805).",
        references: &[
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html",
        ],
    },
    needs: &[Source::Queues, Source::Unacked],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let Some((reason, detail)) = obstacle(evidence) else {
        return Vec::new();
    };
    let url = &evidence.broker.url;
    let remedy = match reason {
        Reason::Refused => {
            "give a user and a password that the broker accepts: --broker, or CELERY_BROKER_URL"
        }
        Reason::TimedOut => "look whether the server is busy or hangs, and run it again",
        _ => {
            "look whether the server runs and whether the URL is right: --broker, or CELERY_BROKER_URL"
        }
    };
    vec![
        Finding::of(
            &BROKER_UNAVAILABLE,
            format!("the broker {url} could not be read: {detail}"),
        )
        .evidence("broker", url.as_str())
        .evidence("detail", detail)
        .look(match evidence.rabbitmq {
            None => "see whether its server answers PING from this machine",
            Some(_) => {
                "on the broker's machine, see whether `rabbitmq-diagnostics check_running` succeeds"
            }
        })
        .remedy(remedy)
        .subject("source", "broker"),
    ]
}

/// Why it could not be read from the start, or where it went away in the middle.
fn obstacle(evidence: &Evidence) -> Option<(Reason, &str)> {
    if broker_is_away(evidence) {
        let why = evidence.broker.server.unseen()?;
        return Some((why.reason, &why.detail));
    }
    let places = [
        Source::Bindings,
        Source::Queues,
        Source::Unacked,
        Source::Workers,
    ];
    // Bindings of RabbitMQ are the management API's to tell, which has a finding of its own.
    let elsewhere = |place: &Source| *place == Source::Bindings && evidence.rabbitmq.is_some();
    places
        .into_iter()
        .filter(|place| !elsewhere(place))
        .filter_map(|place| evidence.read(place))
        .filter(|read| read.status == ReadStatus::Unavailable)
        .find_map(|read| match read.reason? {
            reason @ (Reason::Unreachable | Reason::TimedOut) => {
                Some((reason, read.detail.as_str()))
            }
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::super::unsupported::UNSUPPORTED;
    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit, names};
    use crate::evidence::{Observed, Why};

    fn unseen(reason: Reason) -> Vec<Finding> {
        let mut lab = Lab::new();
        lab.evidence.broker.server = Observed::Unseen(Why::new(reason, "connection refused"));
        lab.check(&BROKER_UNAVAILABLE, "")
    }

    #[test]
    fn a_broker_that_can_not_be_read_is_found() {
        for reason in [Reason::Unreachable, Reason::TimedOut, Reason::Refused] {
            assert_eq!(names(&unseen(reason)), ["broker-unavailable"]);
        }
        assert_eq!(
            unseen(Reason::Unreachable)[0].message,
            "the broker redis://localhost:6379/0 could not be read: connection refused"
        );
    }

    #[test]
    fn a_broker_that_went_away_in_the_middle_is_found() {
        let lab = Lab::new().unread(Source::Unacked, Reason::Unreachable);
        assert_eq!(
            names(&lab.check(&BROKER_UNAVAILABLE, "")),
            ["broker-unavailable"]
        );
        let silent = Lab::new().silent("w1");
        assert!(silent.check(&BROKER_UNAVAILABLE, "").is_empty());
    }

    #[test]
    fn a_management_api_that_is_down_is_no_broker_that_is() {
        let redis = Lab::new().unread(Source::Bindings, Reason::Unreachable);
        assert_eq!(redis.check(&BROKER_UNAVAILABLE, "").len(), 1);
        let rabbit = Rabbit::new().lab();
        let lab = rabbit.unread(Source::Bindings, Reason::Unreachable);
        assert!(lab.check(&BROKER_UNAVAILABLE, "").is_empty());
    }

    #[test]
    fn a_port_where_nobody_speaks_amqp_is_said_once() {
        let mut lab = Rabbit::new().lab();
        for source in [Source::Server, Source::Queues, Source::Workers] {
            lab = lab.unread(source, Reason::Unsupported);
        }
        let why = Why::new(Reason::Unsupported, "it does not speak AMQP 0-9-1");
        lab.evidence.broker.server = Observed::Unseen(why);
        let found = lab.check(&BROKER_UNAVAILABLE, "");
        assert_eq!(names(&found), ["broker-unavailable"]);
        assert!(lab.check(&UNSUPPORTED, "").is_empty());
    }

    #[test]
    fn facts_that_were_left_out_are_clear() {
        assert!(unseen(Reason::NotAsked).is_empty());
        assert!(unseen(Reason::Unsupported).is_empty());
    }
}
