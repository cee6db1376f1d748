use std::collections::BTreeSet;

use super::*;
use crate::celery::control::{ClaimState, TaskTraits};
use crate::celery::message::Envelope;
use crate::celery::result::ResultDoc;
use crate::celery::when::When;
use crate::diagnose::testkit::{Lab, NOW, Rabbit, TASK, doc_of_state, envelope};
use crate::diagnose::{CheckStatus, Severity};
use crate::evidence::{Census, ChordParts, Copy, Software, Twice, UnackedNames};

fn audited(lab: &Lab) -> Diagnosis {
    audit(&lab.evidence, &Thresholds::default())
}

/// The findings that are a warning or worse, by name.
fn alarms(lab: &Lab) -> Vec<String> {
    let loud = audited(lab).findings;
    let loud = loud
        .into_iter()
        .filter(|finding| finding.severity > Severity::Info);
    loud.map(|finding| finding.name).collect()
}

fn census(lab: &mut Lab) -> &mut Census {
    lab.evidence.census.get_or_insert_default()
}

/// Puts a class of so many messages into a queue.
fn class(mut lab: Lab, queue: &str, count: u64, message: Envelope) -> Lab {
    for _ in 0..count {
        lab.list(queue, queue, None);
    }
    let place = Place::Queue {
        key: queue.to_owned(),
        position: 1,
        of: count,
    };
    let class = Class {
        id: message.id.clone(),
        count,
        ids: vec![message.id.clone(), format!("{}-next", message.id)],
        task: TaskEvidence {
            copies: vec![Copy {
                place,
                envelope: message,
            }],
            ..nothing()
        },
    };
    census(&mut lab).classes.push(class);
    lab
}

fn expired(id: &str) -> Envelope {
    Envelope {
        expires: When::from_epoch(NOW - 60.0),
        ..envelope(id)
    }
}

#[test]
fn what_is_said_of_one_message_is_said_of_its_class() {
    let lab = Lab::new().worker("w1", &["celery"]);
    let found = audited(&class(lab, "celery", 12, expired("t1"))).findings;
    let [finding] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((finding.name.as_str(), finding.count), ("expired", 12));
    assert_eq!(finding.task_ids, ["t1", "t1-next"]);
    assert_eq!(
        finding.message,
        "shop.send_mail t1: it waits in queue celery, and its expires passed 1m ago: a worker will drop it instead of \
         running it; 11 more like it"
    );
}

#[test]
fn classes_about_one_thing_are_one_finding_and_others_are_not() {
    let lab = Lab::new().worker("w1", &["celery"]);
    let lab = class(lab, "emials", 3, envelope("t1"));
    let lab = class(lab, "emials", 4, expired("t2"));
    let lab = class(lab, "tpyo", 1, envelope("t3"));
    let found = audited(&lab).findings;
    let unread: Vec<(&str, u64, usize)> = found
        .iter()
        .filter(|finding| finding.name == "no-consumer")
        .map(|finding| {
            let queue = finding.subject["queue"].as_str();
            (queue, finding.count, finding.task_ids.len())
        })
        .collect();
    assert_eq!(unread, [("emials", 7, 4), ("tpyo", 1, 2)]);
    // A statement about the queue needs no "more like it".
    assert!(
        found
            .iter()
            .all(|f| f.name != "no-consumer" || !f.message.contains("more like"))
    );
}

#[test]
fn orphans_are_one_finding_for_each_task() {
    let lab = Lab::new()
        .worker("w1", &["celery"])
        .unacked("t1", 600.0)
        .unacked("t2", 60.0)
        .counted();
    let found = audited(&lab).findings;
    let orphans: Vec<&Finding> = found
        .iter()
        .filter(|f| f.name == "orphaned-reservation")
        .collect();
    let [orphan] = orphans.as_slice() else {
        panic!("{orphans:?}")
    };
    assert_eq!((orphan.count, orphan.subject["task"].as_str()), (2, TASK));
    assert_eq!(orphan.task_ids, ["t1", "t2"]);
}

#[test]
fn a_message_in_another_database_counts_only_where_a_worker_here_knows_its_task() {
    let elsewhere = |task: &str, commands: &[&str]| {
        let mut lab = Lab::new().worker("w1", &["celery"]).clients(commands);
        let place = Place::OtherDatabase {
            database: 3,
            key: "celery".to_owned(),
            position: 1,
            of: 5,
        };
        let envelope = Envelope {
            task: Some(task.to_owned()),
            ..envelope("t1")
        };
        let copies = vec![Copy { place, envelope }];
        census(&mut lab).classes.push(Class {
            id: "t1".to_owned(),
            count: 5,
            ids: vec!["t1".to_owned()],
            task: TaskEvidence {
                copies,
                ..nothing()
            },
        });
        lab
    };
    assert_eq!(alarms(&elsewhere(TASK, &["brpop"])), ["wrong-database"]);
    assert!(alarms(&elsewhere("other.task", &["brpop"])).is_empty());
    // Without CLIENT LIST nobody can tell whether a worker is there.
    let mut blind = elsewhere(TASK, &["brpop"]);
    blind.evidence.broker.server = Observed::not_asked("a test");
    assert!(alarms(&blind).is_empty());
}

#[test]
fn routes_that_lead_nowhere_are_found_without_any_message() {
    let mut lab = Lab::new().worker("w1", &["celery"]).with_worker(|worker| {
        let conf = worker.conf.seen_mut().expect("seen");
        conf.task_routes = Some(vec![crate::celery::control::Route {
            pattern: "shop.*".to_owned(),
            queue: None,
            exchange: Some("shop".to_owned()),
            routing_key: Some("mail".to_owned()),
        }]);
    });
    census(&mut lab);
    let found = audited(&lab).findings;
    let names: Vec<&str> = found.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["unroutable"]);
    assert!(found[0].task_ids.is_empty());
}

#[test]
fn tasks_that_drew_attention_are_asked_about_their_results_alone() {
    let mut doc = doc_of_state("STARTED");
    doc.worker = Some("w9".to_owned());
    let mut lab = Lab::new().worker("w1", &["celery"]).result_as("t1", doc);
    census(&mut lab).by_result = BTreeSet::from(["t1".to_owned()]);
    lab.workers_mut().unanswered_names.push("w9".to_owned());
    assert_eq!(alarms(&lab), ["vanished-while-running"]);
    census(&mut lab).by_result.clear();
    assert!(alarms(&lab).is_empty());
}

#[test]
fn an_unfinished_result_that_may_be_of_another_broker_is_not_judged() {
    let mut doc = doc_of_state("STARTED");
    doc.worker = Some("w9".to_owned());
    let mut lab = Lab::new().worker("w1", &["celery"]).result_as("t1", doc);
    census(&mut lab).by_result = BTreeSet::from(["t1".to_owned()]);
    let status = |lab: &Lab, name: &str| {
        let checks = audited(lab).checks.into_iter();
        let mut of_rule = checks.filter(|check| check.name == name);
        of_rule.next().expect("asked").status
    };
    assert!(alarms(&lab).is_empty());
    assert_eq!(
        status(&lab, "vanished-while-running"),
        CheckStatus::NotJudged
    );
    assert_eq!(status(&lab, "retry-vanished"), CheckStatus::Clear);
    // A task that no worker here knows is another app's.
    let result = lab.task("t1").result.seen_mut().expect("seen");
    result.as_mut().expect("stored").doc.name = Some("other.task".to_owned());
    assert_eq!(status(&lab, "vanished-while-running"), CheckStatus::Clear);
}

#[test]
fn a_task_that_ended_badly_is_reported_for_a_day() {
    let reported = |ago: f64, since: Option<f64>| {
        let doc = ResultDoc {
            exc_type: Some("NotRegistered".to_owned()),
            name: Some("shop.ad".to_owned()),
            date_done: When::from_epoch(NOW - ago),
            ..doc_of_state("FAILURE")
        };
        let mut lab = Lab::new().worker("w1", &["celery"]).result_as("t1", doc);
        census(&mut lab).by_result = BTreeSet::from(["t1".to_owned()]);
        let limits = Thresholds {
            since,
            ..Thresholds::default()
        };
        let mut found = audit(&lab.evidence, &limits).findings.into_iter();
        found.find(|finding| finding.name == "discarded-not-registered")
    };
    let found = reported(60.0, None).expect("reported");
    assert_eq!(found.subject["task"], "shop.ad");
    assert!(found.evidence.contains_key("reported_until"));
    assert!(reported(90_000.0, None).is_none());
    assert!(reported(90_000.0, Some(100_000.0)).is_some());
    assert!(reported(60.0, Some(30.0)).is_none());
}

#[test]
fn beside_a_worker_that_is_not_heard_rules_that_ask_workers_are_not_judged() {
    let status = |clients: &[&str]| {
        let mut lab = Lab::new().worker("w1", &["celery"]).clients(clients);
        census(&mut lab);
        let checks = audited(&lab).checks.into_iter();
        let mut of_rule = checks.filter(|check| check.name == "no-consumer");
        of_rule.next().expect("asked").status
    };
    assert_eq!(status(&["brpop"]), CheckStatus::Clear);
    assert_eq!(status(&["brpop", "brpop"]), CheckStatus::NotJudged);
}

#[test]
fn a_parent_whose_child_nothing_knows_is_worth_a_look() {
    let doc = ResultDoc {
        date_done: When::from_epoch(NOW - 60.0),
        ..doc_of_state("SUCCESS")
    };
    let mut lab = Lab::new()
        .worker("w1", &["celery"])
        .result_as("t1", doc)
        .absent("t2");
    lab.task("t1").children.push("t2".to_owned());
    census(&mut lab).by_result = BTreeSet::from(["t1".to_owned(), "t2".to_owned()]);
    let told = |lab: &Lab| -> Vec<(String, Severity)> {
        let found = audited(lab).findings.into_iter();
        let found = found.filter(|found| found.name == "chain-broken");
        found.map(|found| (found.message, found.severity)).collect()
    };
    let found = told(&lab);
    assert_eq!((found.len(), found[0].1), (1, Severity::Info));
    assert!(found[0].0.contains("t1 succeeded and sent t2"), "{found:?}");
    assert!(told(&lab.result("t2", "SUCCESS")).is_empty());
}

#[test]
fn what_is_said_of_a_task_names_it() {
    let mut revoked = class(
        Lab::new().worker("w1", &["celery"]),
        "celery",
        1,
        envelope("t1"),
    );
    census(&mut revoked).classes[0].task.revoked_by = vec!["w1".to_owned()];
    let mut held = class(
        Lab::new().worker("w1", &["celery"]),
        "celery",
        1,
        expired("t1"),
    );
    let class = &mut census(&mut held).classes[0];
    class.task.copies[0].place = Place::Unacked {
        prefix: String::new(),
        names: UnackedNames::default(),
        tag: "d1".to_owned(),
        delivered_at: Some(NOW - 60.0),
        exchange: String::new(),
        routing_key: "celery".to_owned(),
    };
    class.task.claims = Lab::new()
        .claimed("t1", "w1", ClaimState::Scheduled)
        .task("t1")
        .claims
        .clone();
    for (lab, name) in [(revoked, "revoked"), (held, "expired")] {
        let found = audited(&lab).findings;
        let found = found.iter().find(|found| found.name == name);
        let message = &found.expect(name).message;
        assert!(message.starts_with("shop.send_mail t1: it "), "{message}");
    }
}

#[test]
fn a_chord_is_one_thing_however_many_of_its_tasks_tell_of_it() {
    let mut lab = Lab::new()
        .worker("w1", &["celery"])
        .result("t1", "STARTED")
        .result("t2", "STARTED");
    for id in ["t1", "t2"] {
        lab.task(id).chord = Observed::Seen(Some(ChordParts {
            group_id: "g1".to_owned(),
            size: Some(3),
            joined: 1,
            members: vec![("t0".to_owned(), "SUCCESS".to_owned())],
        }));
    }
    census(&mut lab).by_result = BTreeSet::from(["t1".to_owned(), "t2".to_owned()]);
    let found = audited(&lab).findings;
    let chord = found.iter().find(|found| found.name == "chord-stuck");
    let chord = chord.expect("a chord");
    assert_eq!(chord.count, 1);
    assert_eq!(chord.task_ids, ["t1", "t2"]);
    assert!(
        chord.message.ends_with("1 of 3 parts are in"),
        "{}",
        chord.message
    );
}

#[test]
fn an_id_that_stands_twice_is_found() {
    let second = Envelope {
        delivery_tag: Some("another".to_owned()),
        ..envelope("t1")
    };
    let mut lab = Lab::new()
        .worker("w1", &["celery"])
        .queued("t1", "celery")
        .queued_as("celery", second);
    census(&mut lab).twice = Twice {
        ids: BTreeSet::from(["t1".to_owned()]),
        repeats: 1,
        not_compared: 0,
    };
    assert_eq!(alarms(&lab), ["duplicate-message"]);
}

#[test]
fn what_was_not_counted_or_limited_is_not_judged() {
    let status = |lab: &Lab, name: &str| {
        let checks = audited(lab).checks;
        checks
            .into_iter()
            .find(|c| c.name == name)
            .map(|c| c.status)
    };
    let mut lab = Lab::new().worker("w1", &["celery"]);
    assert_eq!(status(&lab, "expired"), Some(CheckStatus::NotJudged));
    census(&mut lab);
    assert_eq!(status(&lab, "expired"), Some(CheckStatus::Clear));
    assert_eq!(status(&lab, "backlog"), Some(CheckStatus::NotJudged));
    assert_eq!(
        status(&lab, "stalled-consumer"),
        Some(CheckStatus::NotJudged)
    );
    assert_eq!(status(&lab, "result-expires"), None);
    census(&mut lab).unclassed = 3;
    assert_eq!(status(&lab, "expired"), Some(CheckStatus::NotJudged));
    census(&mut lab).twice.not_compared = 1;
    assert_eq!(
        status(&lab, "duplicate-message"),
        Some(CheckStatus::NotJudged)
    );
}

#[test]
fn only_what_matters_makes_a_reading_incomplete() {
    let missing_of = |source, reason| {
        let lab = Lab::new().read_only_part(source, reason);
        missing(&lab.evidence).len()
    };
    for source in [
        Source::Queues,
        Source::Unacked,
        Source::Workers,
        Source::Results,
    ] {
        assert_eq!(missing_of(source, Reason::Refused), 1, "{source:?}");
        assert_eq!(missing_of(source, Reason::NotAsked), 0, "{source:?}");
    }
    assert_eq!(missing_of(Source::Clients, Reason::Refused), 0);
    assert_eq!(missing_of(Source::OtherDatabases, Reason::Refused), 0);
    assert_eq!(missing_of(Source::Results, Reason::Unsupported), 0);
}

// Deployments in which nothing is wrong.

/// A worker on Celery's defaults, beside a Redis on its own.
fn healthy() -> Lab {
    let mut lab = Lab::new()
        .worker("w1", &["celery"])
        .with_worker(|worker| {
            let stats = worker.stats.seen_mut().expect("seen");
            stats.pool = Some("celery.concurrency.prefork:TaskPool".to_owned());
            stats.uptime = Some(86_400.0);
            let traits = TaskTraits {
                acks_late: Some(false),
                reject_on_worker_lost: None,
                ..TaskTraits::default()
            };
            worker
                .registered
                .seen_mut()
                .expect("seen")
                .insert(TASK.to_owned(), traits);
        })
        .clients(&["brpop", "get", "psubscribe"])
        .server(|server| {
            server.version = Observed::Seen("7.0.15".to_owned());
            server.uptime_seconds = Observed::Seen(3600);
            server.role = Observed::Seen("master".to_owned());
            server.connected_replicas = Observed::Seen(0);
            server.append_only = Observed::Seen(false);
            server.rdb_saves = Observed::Seen(true);
            server.maxmemory = Observed::Seen(0);
            server.maxmemory_policy = Observed::Seen("noeviction".to_owned());
            server.used_memory = Observed::Seen(1_000_000);
            server.evicted_keys = Observed::Seen(0);
            server.health.connections = Observed::Seen(12);
            server.health.max_connections = Observed::Seen(10_000);
            server.health.rejected_connections = Observed::Seen(0);
            server.health.last_rdb_save_ok = Observed::Seen(true);
            server.health.last_aof_write_ok = Observed::Seen(true);
            server.health.replicas = Observed::Seen(Vec::new());
        });
    let software = Software {
        celery: Some("5.7.0".to_owned()),
        kombu: Some("5.7.0".to_owned()),
    };
    census(&mut lab).software.insert("w1".to_owned(), software);
    lab
}

fn calm(lab: &Lab) {
    assert_eq!(alarms(lab), Vec::<String>::new());
}

#[test]
fn defaults_at_rest_and_at_work() {
    calm(&healthy());
    calm(&class(healthy(), "celery", 10_000, envelope("t1")));
    let busy = healthy().claimed("t1", "w1", ClaimState::Active);
    calm(&class(busy, "celery", 10, envelope("t2")));
}

#[test]
fn reservations_that_workers_hold() {
    for state in [
        ClaimState::Active,
        ClaimState::Reserved,
        ClaimState::Scheduled,
    ] {
        let lab = healthy().unacked("t1", 900.0).claimed("t1", "w1", state);
        let software = lab.evidence.census.clone().unwrap_or_default().software;
        let mut lab = lab.counted();
        census(&mut lab).software = software;
        calm(&lab);
    }
}

#[test]
fn a_server_whose_facts_are_refused() {
    let mut lab = healthy();
    lab.evidence.broker.server = Observed::not_asked("a hosted server tells nothing");
    calm(&class(lab, "celery", 3, envelope("t1")));
}

#[test]
fn another_programs_lists_and_databases() {
    let mut lab = healthy();
    lab.list("sidekiq:queue", "sidekiq:queue", None);
    let lists = lab.evidence.lists.seen_mut().expect("seen");
    lists[0].named = false;
    lists[0].malformed = 1;
    calm(&lab);
}

#[test]
fn two_looks_at_a_queue_that_drains() {
    let mut lab = class(healthy(), "celery", 5, envelope("t1"));
    let moved = crate::evidence::ListMovement {
        key: "celery".to_owned(),
        before: 50,
        after: 5,
        same_next: false,
        taken: None,
    };
    census(&mut lab).movement = Some(crate::evidence::Movement {
        seconds: 5.0,
        lists: vec![moved],
        idle_throughout: BTreeSet::from(["w1".to_owned()]),
        ..crate::evidence::Movement::default()
    });
    calm(&lab);
}

#[test]
fn what_was_not_told_at_all_is_not_judged() {
    let status = |lab: &Lab, name: &str| {
        let checks = audited(lab).checks;
        checks
            .into_iter()
            .find(|c| c.name == name)
            .map(|c| c.status)
    };
    let not_judged = Some(CheckStatus::NotJudged);
    let lab = || {
        let mut lab = Rabbit::new()
            .queue("celery", 0, 1)
            .lab()
            .worker("w1", &["celery"]);
        census(&mut lab).software = [(
            "w1".to_owned(),
            Software {
                celery: Some("5.7.0".to_owned()),
                kombu: None,
            },
        )]
        .into();
        lab
    };
    for name in ["memory-pressure", "known-bad-version"] {
        assert_eq!(status(&lab(), name), Some(CheckStatus::Clear), "{name}");
    }
    let mut blind = lab();
    let rabbit = blind.evidence.rabbitmq.as_mut().expect("a RabbitMQ");
    rabbit.alarms = Observed::not_asked("a test");
    census(&mut blind).software.clear();
    for name in ["memory-pressure", "known-bad-version"] {
        assert_eq!(status(&blind, name), not_judged, "{name}");
    }
    let mut redis = Lab::new().worker("w1", &["celery"]);
    census(&mut redis);
    assert_eq!(status(&redis, "duplicate-run"), Some(CheckStatus::Clear));
    redis.workers_mut().answered[0].active = Observed::not_asked("a test");
    assert_eq!(status(&redis, "duplicate-run"), not_judged);
}

#[test]
fn rules_that_could_have_failed_and_were_not_judged_make_a_run_blind() {
    let error = |rule: &Rule| Some(rule.worst());
    let blind_of = |lab: &Lab, fail_on| blind(&audited(lab).checks, fail_on, error);
    let lab = healthy();
    assert_eq!(blind_of(&lab, Severity::Error), None);
    // What the user left out is no blindness.
    let chosen = healthy().unread(Source::Workers, Reason::NotAsked);
    assert_eq!(blind_of(&chosen, Severity::Error), None);
    let refused = healthy().unread(Source::Workers, Reason::Refused);
    let why = blind_of(&refused, Severity::Error).expect("blind");
    assert!(why.contains("could not be judged, CD"), "{why}");
    let ignored = blind(&audited(&refused).checks, Severity::Error, |_| None);
    assert_eq!(ignored, None);
}

#[test]
fn a_managed_server_that_refuses_config_blinds_no_rule_that_could_fail() {
    let refused = || Observed::Unseen(crate::evidence::Why::new(Reason::Refused, "CONFIG refused"));
    let lab = healthy().server(|server| {
        server.rdb_saves = refused();
        server.health.stops_writes = refused();
    });
    let checks = audited(&lab).checks;
    assert_eq!(
        blind(&checks, Severity::Error, |rule| Some(rule.worst())),
        None
    );
    assert!(blind(&checks, Severity::Warning, |rule| Some(rule.worst())).is_some());
}

#[test]
fn without_the_servers_clock_nothing_is_held_against_this_machines() {
    let lab = class(healthy(), "celery", 3, expired("t1"));
    assert_eq!(alarms(&lab), ["expired"]);
    let lab = lab.server(|server| {
        let why = crate::evidence::Why::new(Reason::Refused, "TIME was refused");
        server.clock_ahead_seconds = Observed::Unseen(why);
    });
    assert!(alarms(&lab).is_empty());
    let checks = audited(&lab).checks;
    assert!(blind(&checks, Severity::Error, |rule| Some(rule.worst())).is_some());
}
