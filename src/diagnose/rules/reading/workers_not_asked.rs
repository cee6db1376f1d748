//! CD804: the workers were not asked.

use super::broker_is_away;
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity};
use crate::evidence::{Evidence, Reason, Source};

/// The rule.
pub static WORKERS_NOT_ASKED: Rule = Rule {
    code: "CD804",
    name: "workers-not-asked",
    severity: Severity::Info,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The workers were not asked. Whether a task runs, who holds it, and which queues are consumed is not \
                  known; nothing is called stuck, orphaned or lost for the want of it.",
        cause: "The flag --no-workers was given, or the broker's user may not publish the request or announce the \
                address for the replies, or the server takes no writes: it is a read-only replica, out of memory, or \
                can't save its data. Celery itself can't send anything to such a server either.",
        read: "Nothing: the question was not put.",
        confirm: "Run `celery -A APP status` with the workers' own credentials.",
        mend: "Leave --no-workers out, or give the user what Celery's remote control needs: PUBLISH on the channel \
               `/DB.celery.pidbox`; SADD and SREM on `_kombu.binding.reply.celery.pidbox`; BRPOP, RPOP and DEL on \
               `*.reply.celery.pidbox`.",
        prevent: "Give this tool a user of its own with these rights and the right to read.",
        references: &["https://docs.celeryq.dev/en/stable/userguide/workers.html#remote-control"],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

fn check(evidence: &Evidence) -> Vec<Finding> {
    let why = evidence
        .workers
        .unseen()
        .filter(|_| !broker_is_away(evidence));
    let Some(why) = why else {
        return Vec::new();
    };
    let remedy = match why.reason {
        Reason::NotAsked => "leave --no-workers out",
        Reason::Refused => {
            "let the broker's user publish to the pidbox channel; `celery-doctor explain CD804` lists what is needed"
        }
        Reason::TakesNoWrites => {
            "give the URL of a server that takes writes, or mend this one; on RabbitMQ end the alarm that blocks publishers"
        }
        _ => return Vec::new(),
    };
    vec![
        Finding::of(
            &WORKERS_NOT_ASKED,
            format!("the workers were not asked: {}", why.detail),
        )
        .evidence("detail", why.detail.as_str())
        .confirm(evidence.inspect("ping"))
        .remedy(remedy)
        .subject("source", Source::Workers.name()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, names};
    use crate::evidence::{Observed, Why};

    fn unseen(reason: Reason) -> Lab {
        Lab::new().unread(Source::Workers, reason)
    }

    #[test]
    fn workers_that_were_left_out_or_may_not_be_asked_are_found() {
        for reason in [Reason::NotAsked, Reason::Refused, Reason::TakesNoWrites] {
            let findings = unseen(reason).check(&WORKERS_NOT_ASKED, "");
            assert_eq!(names(&findings), ["workers-not-asked"]);
        }
    }

    #[test]
    fn workers_that_were_asked_are_clear() {
        assert!(
            Lab::new()
                .silent("w1")
                .check(&WORKERS_NOT_ASKED, "")
                .is_empty()
        );
        assert!(
            unseen(Reason::TimedOut)
                .check(&WORKERS_NOT_ASKED, "")
                .is_empty()
        );
    }

    #[test]
    fn a_broker_that_is_away_says_it_for_all() {
        let mut lab = unseen(Reason::Refused);
        lab.evidence.broker.server = Observed::Unseen(Why::new(Reason::Refused, "WRONGPASS"));
        assert!(lab.check(&WORKERS_NOT_ASKED, "").is_empty());
    }
}
