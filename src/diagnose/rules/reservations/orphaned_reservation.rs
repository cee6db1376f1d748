//! CD401: a message is unacknowledged, and no live worker has it.

use crate::diagnose::command::Command;
use crate::diagnose::view::{Held, Holder, Overfull, Store};
use crate::diagnose::{Brokers, Case, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::{MutexTtl, Source};

/// The rule.
pub static ORPHANED_RESERVATION: Rule = Rule {
    code: "CD401",
    name: "orphaned-reservation",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "The message was delivered to a worker that is gone, and it is still unacknowledged. It stands in \
                  the hash `unacked`, where no worker takes from. It comes back to its queue only when a live worker \
                  restores it, after the visibility timeout: one hour by default.",
        cause: "On Redis a worker moves each message that it takes into `unacked`, with the time of delivery in \
                `unacked_index`, and removes it when it acknowledges. A worker that is killed (SIGKILL, the kernel's \
                OOM killer, a container's end, a cold shutdown) leaves its messages there: those that it had \
                prefetched, those that waited for their ETA, and with acks_late those that it ran. Live workers look \
                about every 100 seconds for entries older than their own visibility_timeout, and put them back.",
        read: "The hash `unacked`, its index, and the word of every live worker about this id. Nothing is said while \
               a worker stays silent, or while the task is rate limited on a live worker, where it can wait in a \
               bucket that no reply shows, unless more is unacknowledged than all live workers can hold by their \
               prefetch counts. A worker that shuts down warmly no \
               longer answers while it finishes its last tasks; CLIENT LIST still shows the connection with which it \
               took them. Where there is one beside those of the workers that answered, or CLIENT LIST is refused, \
               nothing is said, unless the task's result names a worker that was killed: it left its mailbox.",
        confirm: "Run `celery -A APP inspect --timeout 3 query_task ID`: no worker knows it. Run `redis-cli ZSCORE \
                  unacked_index TAG`: the score is the time of delivery. Run `redis-cli CLIENT LIST`: of the connections \
                  with `cmd=brpop` and the broker's `db` there are no more than workers that answer. One more, whose \
                  `idle` is no longer ago than the delivery and whose `age` is, would be of a worker that finishes its \
                  tasks in a warm shutdown.",
        mend: "Keep a worker running: it restores the message once the visibility timeout has passed. If that is too \
               late, and CLIENT LIST shows no process that may have it, make it due, so that a live worker restores it at \
               its next look: `redis-cli ZADD unacked_index XX CH TIME TAG`, with a TIME that is longer ago \
               than the visibility timeout. It says 0 where the task was acknowledged \
               meanwhile.",
        prevent: "Give workers time to end: stop them with SIGTERM, let the supervisor wait for longer than the \
                  longest task, and set worker_soft_shutdown_timeout (Celery 5.5 and later), which returns \
                  unacknowledged messages to the queue. Keep visibility_timeout as short as the longest task and ETA \
                  allow. Set worker_prefetch_multiplier to 1 where tasks are long.",
        references: &[
            "celery issues 3501, 4354, 4984, 7924",
            "kombu issues 1444, 1805",
            "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout",
        ],
    },
    needs: &[Source::Unacked, Source::Workers],
    check: Check::Task(check),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    // After a final result the question is whether it runs a second time: CD508.
    if case.final_result().is_some() {
        return Vec::new();
    }
    case.held()
        .iter()
        .filter_map(|held| match case.holder(held) {
            Holder::Nobody => Some(finding(case, held)),
            Holder::RateLimitedOrNobody(_, overfull) => Some(one_of_several(case, held, overfull)),
            _ => None,
        })
        .collect()
}

/// Some of those that a live worker may have are nobody's, and which can't be told.
fn one_of_several(case: &Case<'_>, held: &Held<'_>, overfull: Overfull) -> Finding {
    let workers = case.evidence.workers.seen();
    let left = workers.map_or(&[][..], |workers| workers.unanswered_names.as_slice());
    let whose = match left {
        [] => String::new(),
        [node] => format!("; {node} left its mailbox, as a killed worker does"),
        nodes => format!(
            "; {} left their mailboxes, as killed workers do",
            plain::names(nodes)
        ),
    };
    let visibility = case.evidence.visibility(held.store()).seconds;
    Finding::of(
        &ORPHANED_RESERVATION,
        format!("{}{whose}; {} may be one of them", overfull.told(), case.id),
    )
    .evidence("unacked", overfull.unacked)
    .evidence("prefetch", overfull.room)
    .evidence("orphans_at_least", overfull.unacked - overfull.room)
    .evidence("left_mailboxes", left.to_vec())
    .confirm(case.evidence.redis_cli("HLEN").name(&held.hash()))
    .confirm(case.evidence.inspect("stats"))
    .remedy(format!(
        "wait, with a worker running: what no worker has is restored {} after its delivery, or up to a few minutes later",
        plain::duration(visibility)
    ))
    .subject("store", held.hash())
    .task(case.id)
}

fn finding(case: &Case<'_>, held: &Held<'_>) -> Finding {
    let visibility = case.evidence.visibility(held.store());
    let (prospect, remedy, command) = prospect(case, held);
    let result = case.result().filter(|result| !result.doc.ready);
    let by = result.and_then(|result| result.doc.worker.as_deref());
    let whose = by.map_or(String::new(), |node| {
        format!(
            " (its result names {node}, {})",
            case.evidence.whereabouts(node)
        )
    });
    let mut finding = Finding::of(
        &ORPHANED_RESERVATION,
        format!(
            "{} {} is unacknowledged and no live worker has it{whose}; {prospect}",
            case.called(),
            case.id
        ),
    )
    .evidence("delivery_tag", held.tag)
    .evidence("visibility_timeout", visibility.seconds)
    .evidence("visibility_timeout_source", visibility.source)
    .evidence("live_workers", case.evidence.answered().len())
    .confirm(case.evidence.query_task(case.id))
    .confirm(
        (case.evidence)
            .redis_cli("ZSCORE")
            .name(&held.index())
            .name(held.tag),
    )
    .confirm(case.evidence.who_waits())
    .remedy(remedy)
    .mend(command)
    .task(case.id);
    if let Some(at) = held.delivered_at {
        finding = finding.evidence("delivered_seconds_ago", case.now() - at);
    }
    if let Some(node) = by {
        finding = finding
            .evidence("result_worker", node)
            .subject("worker", node);
    }
    finding
}

/// What becomes of it, and what to do.
fn prospect(case: &Case<'_>, held: &Held<'_>) -> (String, String, Option<Command>) {
    // A time from which on the visibility timeout has passed, and one that is a time still for whoever looks next.
    let overdue = case.now() - case.evidence.visibility(held.store()).seconds - 1.0;
    let overdue = format!("{:.0}", overdue.max(0.0));
    let restore = (case.evidence)
        .redis_cli("ZADD")
        .name(&held.index())
        .words("XX CH")
        .name(&overdue)
        .name(held.tag);
    let sooner = "once you know that no process has it any more (CLIENT LIST shows one connection for each worker that \
                  answers, and no other), let a live worker restore it at its next look";
    let Some(delivered_at) = held.delivered_at else {
        let restore = (case.evidence)
            .redis_cli("ZADD")
            .name(&held.index())
            .words("NX")
            .name(&overdue)
            .name(held.tag);
        return (
            format!(
                "nobody will restore it: {} has no entry for it",
                held.index()
            ),
            sooner.to_owned(),
            Some(restore),
        );
    };
    let Some(period) = case.evidence.sweep_period(held.store()) else {
        let anywhere = Store {
            prefix: held.prefix,
            names: None,
        };
        if case.evidence.sweep_period(anywhere).is_some() {
            return (
                format!(
                    "nobody will restore it: no live worker uses {}",
                    held.hash()
                ),
                "start a worker whose transport options name that key".to_owned(),
                None,
            );
        }
        if !case.evidence.answered().is_empty() {
            let whose = plain::under(held.prefix);
            return (
                format!("nobody will restore it: no live worker works {whose}"),
                format!(
                    "start a worker {whose} (global_keyprefix): it restores the message after the visibility timeout"
                ),
                None,
            );
        }
        return (
            "nobody will restore it while no worker runs".to_owned(),
            "start a worker, which restores it after the visibility timeout".to_owned(),
            None,
        );
    };
    let mutex = case
        .evidence
        .reservations_of(held.store())
        .and_then(|r| r.mutex);
    if mutex == Some(MutexTtl::Never) {
        let key = held.mutex();
        return (
            format!("nobody will restore it: {key} never expires and keeps every worker from it"),
            "delete that lock".to_owned(),
            Some(case.evidence.redis_cli("DEL").name(&key)),
        );
    }
    let due = delivered_at + case.evidence.visibility(held.store()).seconds - case.now();
    let delay = case.evidence.restore_delay(held.store()).unwrap_or(period);
    if due > 0.0 {
        (
            format!(
                "live workers will restore it in about {}",
                plain::duration(due + period)
            ),
            format!("wait, with a worker running; or {sooner}"),
            Some(restore),
        )
    } else if -due <= delay {
        (
            format!(
                "live workers will restore it within {}",
                plain::duration(delay)
            ),
            "wait, with a worker running".to_owned(),
            None,
        )
    } else {
        (
            format!(
                "the visibility timeout passed {} ago, and live workers have not restored it",
                plain::duration(due)
            ),
            "restart the workers".to_owned(),
            None,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::control::{ClaimState, TaskTraits};
    use crate::diagnose::audit::audit;
    use crate::diagnose::testkit::{Lab, TASK, doc_of_state, envelope, names};
    use crate::diagnose::{Thresholds, Verdict, judge};
    use crate::evidence::{Observed, Place, Reason, UnackedNames, Why};

    fn found(lab: &Lab) -> Vec<String> {
        let findings = lab.check(&ORPHANED_RESERVATION, "t1");
        findings
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_message_that_no_live_worker_has_is_found() {
        let lab = Lab::new().worker("w1", &["celery"]).unacked("t1", 600.0);
        let findings = lab.check(&ORPHANED_RESERVATION, "t1");
        assert_eq!(names(&findings), ["orphaned-reservation"]);
        assert!(
            findings[0]
                .message
                .ends_with("live workers will restore it in about 51m 40s")
        );
    }

    #[test]
    fn without_workers_nobody_restores_it() {
        let lab = Lab::new().unacked("t1", 600.0);
        assert!(found(&lab)[0].ends_with("nobody will restore it while no worker runs"));
    }

    #[test]
    fn without_an_index_entry_nobody_restores_it() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .unacked_as(envelope("t1"), None);
        assert!(found(&lab)[0].contains("unacked_index has no entry"));
    }

    #[test]
    fn keys_with_other_names_are_named_and_only_their_workers_count() {
        let lab = |own: bool| {
            let mut lab = Lab::new().worker("w1", &["celery"]).unacked("t1", 600.0);
            lab = lab.worker("w2", &["celery"]).with_worker(|w| {
                let stats = w.stats.seen_mut().expect("seen");
                stats.transport.unacked_key = Some("shop".to_owned());
                stats.transport.unacked_index_key = Some("shop_index".to_owned());
                stats.transport.visibility_timeout = Some(60.0);
            });
            let shop = UnackedNames {
                hash: "shop".to_owned(),
                index: "shop_index".to_owned(),
                ..UnackedNames::default()
            };
            if let (true, Place::Unacked { names, .. }) = (own, &mut lab.task("t1").copies[0].place)
            {
                *names = shop;
            }
            lab
        };
        assert!(found(&lab(false))[0].ends_with("restore it in about 51m 40s"));
        let shop = lab(true);
        let findings = shop.check(&ORPHANED_RESERVATION, "t1");
        assert!(findings[0].message.ends_with("have not restored it"));
        assert_eq!(
            findings[0].confirm[1],
            "redis-cli -h localhost -p 6379 -n 0 ZSCORE shop_index tag-t1"
        );
        let mut left = shop;
        left.workers_mut().answered.remove(1);
        assert!(found(&left)[0].ends_with("no live worker uses shop"));
    }

    #[test]
    fn the_worker_of_a_started_result_is_named() {
        let mut doc = doc_of_state("STARTED");
        doc.worker = Some("celery@gone".to_owned());
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .unacked("t1", 9_000.0)
            .result_as("t1", doc);
        let message = &found(&lab)[0];
        assert!(
            message.contains(
                "celery@gone, which is not among the live workers, and may be finishing it"
            ),
            "{message}"
        );
        assert!(message.ends_with("have not restored it"), "{message}");
    }

    #[test]
    fn a_message_that_a_worker_claims_is_clear() {
        for state in [
            ClaimState::Active,
            ClaimState::Reserved,
            ClaimState::Scheduled,
        ] {
            let lab = Lab::new()
                .worker("w1", &["celery"])
                .unacked("t1", 9.0)
                .claimed("t1", "w1", state);
            assert!(found(&lab).is_empty());
        }
    }

    #[test]
    fn a_rate_limited_task_is_no_orphan() {
        let limited = TaskTraits {
            rate_limit: Some("1/m".to_owned()),
            ..TaskTraits::default()
        };
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .unacked("t1", 9.0)
            .with_worker(|worker| {
                let tasks = worker.registered.seen_mut().expect("seen");
                tasks.insert(TASK.to_owned(), limited);
            });
        assert!(found(&lab).is_empty());
    }

    /// A worker that takes four at once, of a task that is rate limited, and so many messages unacknowledged.
    fn crowded(messages: usize) -> Lab {
        let limited = TaskTraits {
            rate_limit: Some("1/h".to_owned()),
            ..TaskTraits::default()
        };
        let mut lab = Lab::new().worker("w1", &["celery"]).with_worker(|worker| {
            let tasks = worker.registered.seen_mut().expect("seen");
            tasks.insert(TASK.to_owned(), limited);
            worker.stats.seen_mut().expect("seen").prefetch_count = Some(4);
        });
        for message in 1..=messages {
            lab = lab.unacked(&format!("t{message}"), 9.0);
        }
        lab.workers_mut().unanswered_names.push("w0".to_owned());
        lab
    }

    #[test]
    fn more_than_the_live_workers_can_hold_is_not_all_theirs() {
        let lab = crowded(6);
        let findings = lab.check(&ORPHANED_RESERVATION, "t1");
        assert_eq!(
            findings[0].message,
            "6 messages are unacknowledged, and the live workers hold 4 at most, by their prefetch counts: at least 2 are \
             nobody's, and which can't be told; w0 left its mailbox, as a killed worker does; t1 may be one of them"
        );
        let judged = judge(&lab.evidence, &["t1".to_owned()]);
        assert_eq!(judged.traces[0].verdict, Verdict::Undetermined);
        let audited = audit(&lab.counted().evidence, &Thresholds::default());
        let orphans = audited
            .findings
            .iter()
            .filter(|f| f.name == "orphaned-reservation");
        assert_eq!(orphans.count(), 1);
    }

    #[test]
    fn what_the_live_workers_can_hold_may_be_theirs() {
        let room = crowded(4);
        let eta = crowded(6).with_worker(|worker| worker.scheduled = Observed::Seen(2));
        let unlimited = crowded(6).with_worker(|worker| {
            worker.stats.seen_mut().expect("seen").prefetch_count = Some(0);
        });
        let unheard = crowded(6).clients(&["brpop", "brpop"]);
        for lab in [room, eta, unlimited, unheard] {
            assert!(found(&lab).is_empty());
        }
    }

    #[test]
    fn a_finished_task_is_left_to_another_rule() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .unacked("t1", 9.0)
            .result("t1", "SUCCESS");
        assert!(found(&lab).is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent_or_unasked() {
        let silent = Lab::new()
            .worker("w1", &["celery"])
            .silent("w2")
            .unacked("t1", 600.0);
        assert!(found(&silent).is_empty());
        let unasked = Lab::new()
            .unacked("t1", 600.0)
            .unread(Source::Workers, Reason::NotAsked);
        assert!(found(&unasked).is_empty());
    }

    #[test]
    fn where_nothing_would_show_a_worker_in_warm_shutdown_nothing_is_said() {
        let lab = || Lab::new().worker("w1", &["celery"]).unacked("t1", 600.0);
        let refuse = |lab: Lab| {
            lab.server(|server| {
                server.clients = Observed::Unseen(Why::new(Reason::Refused, "a test"));
            })
        };
        let twins = lab()
            .with_worker(|worker| worker.twins = true)
            .clients(&["brpop"]);
        for (lab, why) in [
            (refuse(lab()), "CLIENT LIST was not read"),
            (twins, "one name"),
        ] {
            assert!(found(&lab).is_empty());
            let judged = judge(&lab.evidence, &["t1".to_owned()]);
            let (verdict, summary) = (judged.traces[0].verdict, &judged.traces[0].summary);
            assert_eq!(verdict, Verdict::Undetermined);
            assert!(
                summary.contains("warm shutdown") && summary.contains(why),
                "{summary}"
            );
        }
        // Its worker left its mailbox, as none does that ends in order.
        let mut doc = doc_of_state("STARTED");
        doc.worker = Some("w0".to_owned());
        let mut killed = refuse(lab()).result_as("t1", doc);
        killed.workers_mut().unanswered_names.push("w0".to_owned());
        assert_eq!(found(&killed).len(), 1);
    }

    #[test]
    fn nothing_is_said_while_its_taker_may_be_connected() {
        // A sister that answers, with heartbeats; and one that has none, and shuts down with a task in hand.
        let lab = |idle: u64| {
            let mut lab = Lab::new()
                .worker("w1", &["celery"])
                .unacked("t1", 60.0)
                .clients(&["brpop", "publish", "brpop"]);
            let facts = lab.evidence.broker.server.seen_mut().expect("seen");
            let clients = facts.clients.seen_mut().expect("seen");
            for client in clients.iter_mut() {
                client.blocked = false;
            }
            clients[0].blocked = true;
            clients[0].idle_seconds = Some(0);
            clients[1].idle_seconds = Some(1);
            clients[2].idle_seconds = Some(idle);
            lab
        };
        assert!(found(&lab(60)).is_empty());
        let judged = judge(&lab(60).evidence, &["t1".to_owned()]);
        assert_eq!(judged.traces[0].verdict, Verdict::Undetermined);
        // It has waited since before that.
        assert_eq!(found(&lab(80)).len(), 1);
    }

    #[test]
    fn nothing_is_said_while_workers_come_and_go() {
        let lab = |change: fn(&mut crate::evidence::Workers)| {
            let mut lab = Lab::new().worker("w1", &["celery"]).unacked("t1", 600.0);
            change(lab.workers_mut());
            lab
        };
        // Who left may be finishing it, and who came was not asked everything.
        let named = lab(|workers| workers.unsettled.push("w2".to_owned()));
        let unnamed = lab(|workers| workers.others_unsettled = true);
        for lab in [named, unnamed] {
            assert!(found(&lab).is_empty());
            let judged = judge(&lab.evidence, &["t1".to_owned()]);
            assert_eq!(judged.traces[0].verdict, Verdict::Undetermined);
        }
    }

    #[test]
    fn an_eta_needs_the_word_on_what_is_scheduled() {
        let mut late = envelope("t1");
        late.eta = crate::celery::when::When::from_epoch(crate::diagnose::testkit::NOW + 60.0);
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|worker| worker.scheduled = Observed::not_asked("a test"))
            .unacked_as(late, Some(crate::diagnose::testkit::NOW - 5.0));
        assert!(found(&lab).is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_that_is_not_heard_may_have_it() {
        let lab = |clients: &[&str]| {
            Lab::new()
                .worker("w1", &["celery"])
                .unacked("t1", 35.0)
                .clients(clients)
        };
        assert_eq!(
            lab(&["brpop", "get"])
                .check(&ORPHANED_RESERVATION, "t1")
                .len(),
            1
        );
        assert!(
            lab(&["brpop", "brpop"])
                .check(&ORPHANED_RESERVATION, "t1")
                .is_empty()
        );
        let verdict =
            |clients: &[&str]| judge(&lab(clients).evidence, &["t1".to_owned()]).traces[0].verdict;
        assert_eq!(verdict(&["brpop", "get"]), Verdict::Stuck);
        assert_eq!(verdict(&["brpop", "brpop"]), Verdict::Undetermined);
    }
}
