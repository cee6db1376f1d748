//! CD805: the server refused a command to this user.

use super::{broker_is_away, tells};
use crate::diagnose::command::Command;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, Read, Reason, Source};

/// The rule.
pub static PERMISSION_DENIED: Rule = Rule {
    code: "CD805",
    name: "permission-denied",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The server refused a command to this user, so a part of the evidence is missing. Nothing is called \
                  absent that could not be looked at.",
        cause: "An access control list (ACL) of Redis leaves the command or the keys out, or a managed service has \
                taken away CONFIG, INFO or CLIENT. On RabbitMQ the user has no tag that opens the management API, or \
                no permission in the virtual host.",
        read: "The server's answers: NOPERM, NOAUTH, or that the command is unknown or forbidden; ACCESS_REFUSED, or \
               401 from the management API.",
        confirm: "Run `redis-cli ACL WHOAMI`, and `redis-cli ACL GETUSER NAME` as an administrator. `redis-cli ACL \
                  LOG` shows what was refused.",
        mend: "Give the user the right to read: `redis-cli ACL SETUSER doctor on '>PASSWORD' '~*' '&*' +@read +info \
               +time +ping +select '+config|get' '+client|list' +publish +sadd +srem +brpop +rpop +del`. All of these \
               only read, but for the last six, which Celery's remote control needs (rpop only makes it quicker). On \
               RabbitMQ `rabbitmqctl set_user_tags doctor monitoring` and `rabbitmqctl set_permissions doctor '' '' ''` \
               are enough to read; remote control needs to configure and write `.*\\.celery\\.pidbox`, and to write \
               and read the exchanges celery.pidbox and reply.celery.pidbox.",
        prevent: "Keep such a user for this tool, and test it while all is well.",
        references: &[
            "https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/",
        ],
    },
    needs: &[],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let away = broker_is_away(evidence);
    evidence
        .reads
        .iter()
        .filter(|read| read.reason == Some(Reason::Refused))
        // Where the broker refused the connection, CD801 says it once for all.
        .filter(|read| !away || read.source == Source::Results)
        .map(|read| finding(evidence, read))
        .collect()
}

/// Commands that show what the user may do. `ACL LOG` would tell more, and is for administrators.
fn shown_by(evidence: &Evidence, read: &Read) -> Vec<Command> {
    match &evidence.rabbitmq {
        Some(rabbit) if read.source != Source::Results => vec![
            rabbit.ctl("list_permissions"),
            Command::of("rabbitmqctl list_users"),
        ],
        _ if read.source == Source::Results => vec![evidence.results_cli("ACL WHOAMI")],
        _ => vec![evidence.redis_cli("ACL WHOAMI")],
    }
}

fn finding(evidence: &Evidence, read: &Read) -> Finding {
    let source = read.source.name();
    let told = tells(read.source);
    let message = format!(
        "reading {source} was refused ({}); it would have told {told}",
        read.detail
    );
    Finding::of(&PERMISSION_DENIED, message)
        .evidence("source", source)
        .evidence("status", read.status.name())
        .evidence("detail", read.detail.as_str())
        .confirm(shown_by(evidence, read))
        .remedy("give the user the right to read; `celery-doctor explain CD805` has the command")
        .subject("source", source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::{Observed, Why};

    #[test]
    fn each_refused_place_is_found() {
        let lab = Lab::new()
            .read_only_part(Source::Server, Reason::Refused)
            .unread(Source::Clients, Reason::Refused);
        let findings = lab.check(&PERMISSION_DENIED, "");
        assert_eq!(names(&findings), ["permission-denied", "permission-denied"]);
        assert_eq!(findings[1].subject["source"], "clients");
        assert!(
            findings[1]
                .message
                .ends_with("it would have told whether a worker really waits for messages")
        );
    }

    #[test]
    fn other_obstacles_are_clear() {
        assert!(Lab::new().check(&PERMISSION_DENIED, "").is_empty());
        let cut = Lab::new().read_only_part(Source::Queues, Reason::Truncated);
        assert!(cut.check(&PERMISSION_DENIED, "").is_empty());
        // A replica, or a server out of memory, refuses writes to everybody: no right of a user would help.
        let full = Lab::new().unread(Source::Workers, Reason::TakesNoWrites);
        assert!(full.check(&PERMISSION_DENIED, "").is_empty());
    }

    #[test]
    fn a_broker_that_refused_the_connection_says_it_for_all_but_the_results() {
        let mut lab = Lab::new()
            .unread(Source::Queues, Reason::Refused)
            .unread(Source::Results, Reason::Refused);
        lab.evidence.broker.server = Observed::Unseen(Why::new(Reason::Refused, "WRONGPASS"));
        let findings = lab.check(&PERMISSION_DENIED, "");
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].subject["source"], "results");
    }
}
