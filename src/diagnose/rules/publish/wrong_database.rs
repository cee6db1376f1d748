//! CD106: the message is in one database and the workers are in another.

use crate::diagnose::view::Elsewhere;
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Place, Source};

/// The rule.
pub static WRONG_DATABASE: Rule = Rule {
    code: "CD106",
    name: "wrong-database",
    severity: Severity::Error,
    brokers: Brokers::Redis,
    page: Page {
        meaning: "The message stands in another database of this Redis server than the one that was looked at, or it \
                  stands here while workers are connected only to another one. Redis databases do not see each \
                  other.",
        cause: "The number at the end of a Redis URL is the database; without it, it is 0. A sender with \
                redis://host/1 and a worker with redis://host/0 use the same server and never meet. Neither gets an \
                error.",
        read: "The lists of the server's other databases, where the id was not found in the broker's own, and the \
               connections (CLIENT LIST) that wait in BRPOP or listen for remote control in each database.",
        confirm: "Run `redis-cli INFO keyspace` for the databases in use, `redis-cli -n N LLEN QUEUE` in each, and \
                  `redis-cli CLIENT LIST` for the database (`db=`) of each connection.",
        mend: "Give sender and workers the same broker URL and restart what had the wrong one. To run what waits, \
               start a worker with the other database's URL until the queue is empty.",
        prevent: "Take the broker URL of every process from one setting, and always write the database number in it.",
        references: &[
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#configuration",
        ],
    },
    needs: &[Source::Queues, Source::OtherDatabases],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = message_elsewhere(case);
    findings.extend(workers_elsewhere(case));
    if findings.is_empty() {
        findings.extend(started_elsewhere(case));
    }
    findings
}

/// It is nowhere here, and its result names a worker of another database.
fn started_elsewhere(case: &Case<'_>) -> Option<Finding> {
    if !case.task.copies.is_empty() || !case.task.claims.is_empty() {
        return None;
    }
    let Elsewhere { node, database, .. } = case.worker_elsewhere().filter(|w| w.sure)?;
    let ours = case.evidence.broker.database;
    Some(
        Finding::of(
            &WRONG_DATABASE,
            format!(
                "its result names {node}, which is a worker of database {database}, not {ours}"
            ),
        )
        .evidence("database", database)
        .evidence("expected_database", ours)
        .evidence("result_worker", node)
        .confirm((case.evidence).redis_cli_in(database, "SMEMBERS _kombu.binding.celery.pidbox"))
        .remedy(format!(
            "trace it with a broker URL that ends in /{database}"
        ))
        .subject("database", database.to_string())
        .task(case.id),
    )
}

fn message_elsewhere(case: &Case<'_>) -> Vec<Finding> {
    let ours = case.evidence.broker.database;
    case.elsewhere()
        .into_iter()
        .filter_map(|copy| match &copy.place {
            Place::OtherDatabase {
                database,
                key,
                position,
                of,
            } => Some((*database, key, *position, *of)),
            _ => None,
        })
        .map(|(database, key, position, of)| {
            let workers = match case.evidence.workers_in(database) {
                Some(0) => "no worker is connected there",
                Some(_) => "workers are connected there",
                None => "whether workers are connected there can't be told",
            };
            let shown = plain::key(key);
            let (stands, count) = match of {
                0 => (format!("it is unacknowledged, in {shown} of database {database}, not {ours}"), "HLEN"),
                _ => (
                    format!("it waits in {shown} of database {database}, not {ours}, at place {position} of {of}"),
                    "LLEN",
                ),
            };
            Finding::of(&WRONG_DATABASE, format!("{stands}; {workers}"))
            .evidence("database", database)
            .evidence("expected_database", ours)
            .evidence("list", shown.as_str())
            .evidence("messages", of)
            .evidence("worker_connections", case.evidence.workers_in(database))
            .confirm(case.evidence.redis_cli_in(database, count).name(key))
            .confirm(case.evidence.redis_cli("CLIENT LIST"))
            .remedy(format!(
                "give sender and workers the same database in their broker URL; a worker whose URL ends in \
                 /{database} and that consumes this queue runs what waits there"
            ))
            .subject("database", database.to_string())
            .task(case.id)
        })
        .collect()
}

/// Its copy is here, no worker is, and in other databases there are some.
fn workers_elsewhere(case: &Case<'_>) -> Option<Finding> {
    let evidence = case.evidence;
    let ours = evidence.broker.database;
    let queued = case.queued();
    let list = queued.first()?.list?;
    let nobody = evidence.all_workers_answered() && evidence.answered().is_empty();
    if !nobody || evidence.workers_in(ours).is_some_and(|here| here > 0) {
        return None;
    }
    let databases = databases_with_workers(case);
    if databases.is_empty() {
        return None;
    }
    let named: Vec<String> = databases
        .iter()
        .map(|db| format!("database {db}"))
        .collect();
    let queue = &list.queue;
    Some(
        Finding::of(
            &WRONG_DATABASE,
            format!(
                "queue {queue} of database {ours} holds {} and no worker is there, while workers are in {}",
                plain::count(list.length, "message"),
                plain::names(&named)
            ),
        )
        .evidence("database", ours)
        .evidence("worker_databases", databases)
        .evidence("messages", list.length)
        .confirm(case.evidence.redis_cli("CLIENT LIST"))
        .remedy(format!(
            "if they are this app's workers, give them a broker URL that ends in /{ours} and restart them; if they \
             are another app's, start this app's workers"
        ))
        .subject("queue", queue.as_str())
        .task(case.id),
    )
}

/// Other databases to which workers are connected; where CLIENT LIST was refused, those that know workers' mailboxes.
fn databases_with_workers(case: &Case<'_>) -> Vec<u32> {
    let evidence = case.evidence;
    let ours = evidence.broker.database;
    let clients = evidence
        .broker
        .server
        .seen()
        .and_then(|server| server.clients.seen());
    let mut databases: Vec<u32> = match clients {
        Some(clients) => clients
            .iter()
            .filter_map(|client| client.database)
            .filter(|db| evidence.workers_in(*db).is_some_and(|n| n > 0))
            .collect(),
        None => evidence
            .other_databases
            .seen()
            .into_iter()
            .flatten()
            .filter(|other| !other.mailboxes.is_empty())
            .map(|other| other.database)
            .collect(),
    };
    databases.retain(|db| *db != ours);
    databases.sort_unstable();
    databases.dedup();
    databases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::rules::results::vanished_while_running::VANISHED_WHILE_RUNNING;
    use crate::diagnose::testkit::{Lab, doc_of_state, envelope, names};
    use crate::diagnose::{Verdict, judge};
    use crate::evidence::{Copy, Observed, OtherDatabase, Reason};

    fn elsewhere() -> Lab {
        let mut lab = Lab::new().worker("w1", &["celery"]);
        lab.task("t1").copies.push(Copy {
            place: Place::OtherDatabase {
                database: 3,
                key: "celery".to_owned(),
                position: 1,
                of: 4,
            },
            envelope: envelope("t1"),
        });
        lab
    }

    fn mailbox_in_three(lab: &mut Lab) {
        lab.evidence.other_databases = Observed::Seen(vec![OtherDatabase {
            database: 3,
            lists: Vec::new(),
            mailboxes: vec!["celery@w9".to_owned()],
            claimed: None,
        }]);
    }

    #[test]
    fn a_message_in_another_database_is_found() {
        let found = elsewhere().check(&WRONG_DATABASE, "t1");
        assert_eq!(names(&found), ["wrong-database"]);
        assert!(found[0].message.contains("database 3, not 0"));
        assert!(found[0].message.contains("can't be told"));
    }

    #[test]
    fn workers_in_another_database_are_found() {
        let mut lab = Lab::new().queued("t1", "celery");
        mailbox_in_three(&mut lab);
        assert_eq!(names(&lab.check(&WRONG_DATABASE, "t1")), ["wrong-database"]);
    }

    #[test]
    fn a_worker_of_another_database_that_started_it_is_found() {
        let started = |node: &str| {
            let mut doc = doc_of_state("STARTED");
            doc.worker = Some(node.to_owned());
            let mut lab = Lab::new().worker("w1", &["celery"]).result_as("t1", doc);
            mailbox_in_three(&mut lab);
            lab
        };
        let lab = started("celery@w9");
        assert_eq!(names(&lab.check(&WRONG_DATABASE, "t1")), ["wrong-database"]);
        assert!(lab.check(&VANISHED_WHILE_RUNNING, "t1").is_empty());
        assert_eq!(
            judge(&lab.evidence, &["t1".to_owned()]).traces[0].verdict,
            Verdict::Undetermined
        );
        for lab in [started("w1"), started("celery@w8")] {
            assert!(lab.check(&WRONG_DATABASE, "t1").is_empty());
        }
    }

    #[test]
    fn of_two_workers_of_one_name_the_one_that_has_it_is_meant() {
        let lab = |claimed: Option<&[&str]>| {
            let mut doc = doc_of_state("STARTED");
            doc.worker = Some("celery@w9".to_owned());
            let mut lab = Lab::new()
                .worker("celery@w9", &["celery"])
                .result_as("t1", doc);
            mailbox_in_three(&mut lab);
            let others = lab.evidence.other_databases.seen_mut().expect("seen");
            others[0].claimed = claimed.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
            lab
        };
        let killed = |mut lab: Lab| {
            let workers = lab.workers_mut();
            let gone = workers.answered.remove(0);
            workers.unanswered_names.push(gone.node);
            lab
        };
        let is_lost: &[(Option<&[&str]>, bool, bool)] = &[
            (None, false, false),
            (Some(&["t1"]), true, false),
            (Some(&["t2"]), false, true),
        ];
        for (claimed, elsewhere, lost) in is_lost {
            for lab in [lab(*claimed), killed(lab(*claimed))] {
                let found = |rule| lab.check(rule, "t1").len() == 1;
                assert_eq!(found(&WRONG_DATABASE), *elsewhere, "{claimed:?}");
                assert_eq!(found(&VANISHED_WHILE_RUNNING), *lost, "{claimed:?}");
                let verdict = judge(&lab.evidence, &["t1".to_owned()]).traces[0].verdict;
                assert_eq!(verdict == Verdict::Lost, *lost, "{claimed:?}");
                assert_eq!(verdict == Verdict::Undetermined, !lost, "{claimed:?}");
            }
        }
    }

    #[test]
    fn other_workers_do_not_matter_where_a_worker_is_here() {
        let mut lab = Lab::new().worker("w1", &["celery"]).queued("t1", "celery");
        mailbox_in_three(&mut lab);
        assert!(lab.check(&WRONG_DATABASE, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent_or_unasked() {
        let mut lab = Lab::new().queued("t1", "celery").silent("w1");
        mailbox_in_three(&mut lab);
        assert!(lab.check(&WRONG_DATABASE, "t1").is_empty());
        let mut lab = Lab::new()
            .queued("t1", "celery")
            .unread(Source::Workers, Reason::NotAsked);
        mailbox_in_three(&mut lab);
        assert!(lab.check(&WRONG_DATABASE, "t1").is_empty());
    }
}
