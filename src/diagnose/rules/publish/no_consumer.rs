//! CD101: messages wait where no live worker takes them.

use crate::diagnose::command::{control, worker};
use crate::diagnose::{Brokers, Case, Check, Fate, Finding, Page, Rule, Severity, plain};
use crate::evidence::{Evidence, List, Observed, RabbitMq, Reason, Source, Worker};

/// The rule.
pub static NO_CONSUMER: Rule = Rule {
    code: "CD101",
    name: "no-consumer",
    severity: Severity::Error,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Messages wait in a queue from which no live worker takes. They stay there until one does.",
        cause: "A queue's name was misspelt when the task was sent: Celery creates the queue and fills it, because \
                task_create_missing_queues is on by default. Or no worker was started with -Q and this queue, or the \
                one that was has died.",
        read: "The queue's messages, and the word of every live worker about the queues that it consumes. Nothing is \
               said while a worker that could consume the queue stays silent, or came or left in the middle. \
               RabbitMQ itself tells how many consumers a queue has; queues that need none are left out: dead-letter \
               queues (on Redis the transport option deadletter_queue), those of native delayed delivery, replies and \
               events. On Redis a broadcast queue is a channel, and nobody takes from the list of its name. Where RabbitMQ does not tell which queues are for dead letters, nothing is said of one by its \
               number of consumers alone.",
        confirm: "Run `celery -A APP inspect active_queues` and look for the queue. Run `redis-cli LLEN QUEUE`, or \
                  `rabbitmqctl list_queues name messages_ready consumers`, twice: the number does not fall.",
        mend: "Start a worker with `-Q QUEUE` from the app that has the tasks. If the name is a mistake, let a worker \
               drain the queue this way once, and correct the route. `celery control add_consumer` is for a queue \
               whose tasks the worker knows, with `-d NODE`: without it every worker consumes the queue, one that \
               does not know a task throws it away, and on RabbitMQ one that would declare the queue otherwise \
               (priorities, quorum, a limit) loses its connection.",
        prevent: "Declare task_queues and set task_create_missing_queues to False, so that a misspelt queue is an \
                  error where the task is sent.",
        references: &[
            "celery issue 6692",
            "https://docs.celeryq.dev/en/stable/userguide/routing.html",
        ],
    },
    needs: &[Source::Queues, Source::Workers],
    check: Check::Both(check, unread_queues),
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let consumed = case.evidence.consumed_queues();
    case.queued()
        .into_iter()
        // A whole key prefix without workers is another fault with another cure: key-prefix-mismatch says it.
        .filter(|copy| {
            !copy
                .list
                .is_some_and(|list| case.evidence.is_foreign_prefix(&list.prefix))
        })
        // A message that will be dropped anyway still waits where nobody takes it: both are said.
        .filter(|copy| case.fate_of_place(copy) == Fate::NobodyReads)
        .filter_map(|copy| Some((copy, copy.list?)))
        .map(|(copy, list)| {
            let queue = &list.queue;
            let messages = plain::count(list.length, "message");
            let broadcast = broadcast(case, list);
            let message = match &broadcast {
                None => format!("queue {queue} holds {messages} and no live worker consumes it"),
                Some((nodes, _)) => format!(
                    "the list of the broadcast queue {queue} holds {messages} and nobody takes from it: {nodes} gets what \
                     is broadcast from a channel, and this came from a sender that had not declared the exchange"
                ),
            };
            let finding = Finding::of(&NO_CONSUMER, message)
            .evidence("queue", queue.as_str())
            .evidence("messages", list.length)
            .evidence("position", copy.position)
            .evidence("consumed_queues", consumed.clone())
            .confirm(case.evidence.inspect("active_queues"))
            .confirm(case.evidence.depth(list))
            .subject("queue", queue.as_str())
            .task(case.id);
            match broadcast {
                Some((_, remedy)) => finding.remedy(remedy),
                None => cure(finding, case.evidence, list, case.name()),
            }
        })
        .collect()
}

/// Of a list that belongs to a broadcast queue: which workers are subscribed to that, and what to do.
fn broadcast(case: &Case<'_>, list: &List) -> Option<(String, String)> {
    let subscribers = case.evidence.subscribers(list);
    let nodes: Vec<&str> = subscribers.iter().map(|w| w.node.as_str()).collect();
    let mut queues = subscribers.first()?.queues.seen()?.iter();
    let queue = queues.find(|queue| queue.name == list.queue)?;
    let exchange = queue.exchange.as_deref().unwrap_or(&list.queue);
    let remedy = format!(
        "send it again from a process that has declared the exchange {exchange} with the type fanout, which kombu takes for \
         direct until then; `add_consumer` does not help: each worker has a queue of its own, and what one takes the others \
         do not get"
    );
    Some((plain::names(&nodes), remedy))
}

/// Queues of RabbitMQ that were not looked into, of which the broker says that they hold messages and have no consumer.
fn unread_queues(evidence: &Evidence) -> Vec<Finding> {
    // The consumer of a worker that came or left meanwhile may have been missed, and a broker that shuts down takes leave
    // of the workers before it hangs up on us.
    let broke_off = match &evidence.workers {
        Observed::Seen(workers) => !workers.are_settled(),
        Observed::Unseen(why) => matches!(why.reason, Reason::Unreachable | Reason::TimedOut),
    };
    let rabbit = evidence.rabbitmq.as_ref();
    if broke_off || !rabbit.is_some_and(RabbitMq::dead_letters_are_known) {
        return Vec::new();
    }
    let lists = evidence.lists.seen().into_iter().flatten();
    lists
        .filter(|list| list.length > 0 && list.read.seen().is_none())
        .filter(|list| evidence.consumers_told(list) == Some(0))
        .map(|list| {
            let queue = &list.queue;
            let mut finding = Finding::of(
                &NO_CONSUMER,
                format!(
                    "queue {queue} holds {} and has no consumer",
                    plain::count(list.length, "message")
                ),
            )
            .evidence("queue", queue.as_str())
            .evidence("messages", list.length)
            .evidence("consumers", 0)
            .confirm(evidence.inspect("active_queues"))
            .confirm(evidence.depth(list))
            .subject("queue", queue.as_str());
            finding.count = list.length;
            cure(finding, evidence, list, None)
        })
        .collect()
}

/// What to do, and the command for it. A worker is told to consume the queue only where nothing can come of it but that:
/// it knows the one task that waits there, and kombu's Redis transport declares nothing that could differ. On RabbitMQ a
/// declaration that differs from the queue (priorities, quorum, limits) closes the worker's connection with 406
/// `PRECONDITION_FAILED`, and a worker throws away what it does not know.
fn cure(finding: Finding, evidence: &Evidence, list: &List, task: Option<&str>) -> Finding {
    let queue = list.queue.as_str();
    let taker = task.and_then(|task| taker(evidence, list, task));
    let correct = "if the queue's name is a mistake, correct the route as well";
    if let Some(node) = taker {
        return finding
            .remedy(format!(
                "let {node}, which knows the task, consume the queue; {correct}"
            ))
            .mend(control("add_consumer").name(queue).on(node));
    }
    let declared = evidence
        .rabbitmq
        .as_ref()
        .and_then(|rabbit| arguments(rabbit, queue))
        .map_or(String::new(), |how| {
            format!(", from an app whose task_queues declare it so: {how}")
        });
    finding
        .remedy(format!(
            "start a worker on the queue that knows the tasks in it{declared}; {correct}"
        ))
        .mend(worker(queue))
}

/// A live worker that may be told to consume the list's queue.
fn taker<'e>(evidence: &'e Evidence, list: &List, task: &str) -> Option<&'e str> {
    let alone = list.length == 1 && evidence.rabbitmq.is_none();
    let knows = |worker: &&Worker| {
        let registered = worker.registered.seen();
        worker.prefix == list.prefix && registered.is_some_and(|tasks| tasks.contains_key(task))
    };
    let mut workers = evidence.answered().iter();
    let taker = workers.find(knows).filter(|_| alone)?;
    // Commas separate nodes.
    (!taker.node.contains(',')).then_some(taker.node.as_str())
}

/// How a queue is declared that is not declared as Celery does by default.
fn arguments(rabbit: &RabbitMq, queue: &str) -> Option<String> {
    let arguments = rabbit.queue(queue)?.arguments.seen()?;
    let said: Vec<String> = arguments
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit, names};
    use crate::diagnose::{Verdict, judge};

    #[test]
    fn a_queue_that_nobody_consumes_is_found() {
        let lab = Lab::new().worker("w1", &["celery"]).queued("t1", "emials");
        assert_eq!(names(&lab.check(&NO_CONSUMER, "t1")), ["no-consumer"]);
    }

    #[test]
    fn on_redis_the_dead_letter_queue_needs_no_consumer() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .with_worker(|w| {
                let stats = w.stats.seen_mut().expect("seen");
                stats.transport.deadletter_queue = Some("dead".to_owned());
            })
            .queued("t1", "dead")
            .queued("t2", "emials");
        assert!(lab.check(&NO_CONSUMER, "t1").is_empty());
        assert_eq!(names(&lab.check(&NO_CONSUMER, "t2")), ["no-consumer"]);
        let verdict = judge(&lab.evidence, &["t1".to_owned()]).traces[0].verdict;
        assert_eq!(verdict, Verdict::DeadLettered);
    }

    #[test]
    fn a_consumed_queue_is_clear() {
        let lab = Lab::new().worker("w1", &["celery"]).queued("t1", "celery");
        assert!(lab.check(&NO_CONSUMER, "t1").is_empty());
    }

    #[test]
    fn on_rabbitmq_the_broker_s_word_is_enough() {
        let lab = Rabbit::new()
            .queue("emials", 2, 0)
            .queue("celery", 3, 1)
            .lab();
        let found = lab.check(&NO_CONSUMER, "");
        assert_eq!(names(&found), ["no-consumer"]);
        assert_eq!(
            (found[0].subject["queue"].as_str(), found[0].count),
            ("emials", 2)
        );
    }

    #[test]
    fn a_worker_that_comes_or_leaves_meanwhile_may_be_its_consumer() {
        let mut lab = Rabbit::new().queue("celery", 3, 0).lab();
        lab.workers_mut().unsettled.push("w1".to_owned());
        assert!(lab.check(&NO_CONSUMER, "").is_empty());
    }

    #[test]
    fn a_broker_that_went_away_has_told_nothing_for_sure() {
        use crate::evidence::Source::Workers;
        let after = |reason| {
            let lab = Rabbit::new().queue("emials", 3, 0).lab();
            lab.unread(Workers, reason).check(&NO_CONSUMER, "").len()
        };
        assert_eq!(after(Reason::Unreachable), 0);
        assert_eq!(after(Reason::TimedOut), 0);
        assert_eq!(after(Reason::TakesNoWrites), 1);
        assert_eq!(after(Reason::NotAsked), 1);
    }

    #[test]
    fn queues_that_need_no_consumer_are_clear() {
        let lab = Rabbit::new()
            .quorum("celery_delayed_9", 3, 0)
            .queue("dead", 3, 0)
            .queue("celery", 0, 1)
            .argument("x-dead-letter-exchange", json!(""))
            .argument("x-dead-letter-routing-key", json!("dead"))
            .lab();
        assert!(lab.check(&NO_CONSUMER, "").is_empty());
    }

    #[test]
    fn a_queue_that_may_be_for_dead_letters_is_clear() {
        let lab = Rabbit::new().queue("celery", 0, 1).queue("dead", 3, 0);
        let behind = |lab: Rabbit| {
            let lab = lab
                .queue("work", 0, 1)
                .argument("x-dead-letter-exchange", json!("dlx"));
            lab.lab()
        };
        assert_eq!(behind(lab).check(&NO_CONSUMER, "").len(), 1);
        let lab = || Rabbit::new().queue("celery", 0, 1).queue("dead", 3, 0);
        let mut unread = behind(lab());
        let rabbit = unread.evidence.rabbitmq.as_mut().expect("RabbitMQ");
        rabbit.bindings = Observed::not_asked("a test");
        assert!(unread.check(&NO_CONSUMER, "").is_empty());
        let untold = lab().with(|queue| queue.policy = Observed::not_asked("a test"));
        assert!(untold.lab().check(&NO_CONSUMER, "").is_empty());
        let through = behind(
            lab()
                .bound_exchange("dlx", "#", "all")
                .bound("all", "#", "dead"),
        );
        assert!(through.check(&NO_CONSUMER, "").is_empty());
    }

    #[test]
    fn a_broadcast_queues_list_is_read_by_nobody_and_on_rabbitmq_it_is_a_queue() {
        let with_broadcast = |lab: Lab| {
            let lab = lab.worker("w1", &["bcast.1"]).with_worker(|w| {
                for queue in w.queues.seen_mut().expect("seen") {
                    queue.exchange_type = Some("fanout".to_owned());
                }
            });
            lab.queued("t1", "bcast.1")
        };
        let redis = with_broadcast(Lab::new().worker("w2", &["celery"]));
        let findings = redis.check(&NO_CONSUMER, "t1");
        assert_eq!(names(&findings), ["no-consumer"]);
        let message = &findings[0].message;
        assert!(
            message.contains("w1 gets what is broadcast from a channel"),
            "{message}"
        );
        assert_eq!(findings[0].evidence["consumed_queues"], json!(["celery"]));
        assert!(findings[0].remedy.starts_with("send it again"));
        let judged = judge(&redis.evidence, &["t1".to_owned()]);
        assert_eq!(judged.traces[0].verdict, Verdict::Stuck);
        let summary = &judged.traces[0].summary;
        assert!(summary.contains("broadcast"), "{summary}");
        let rabbit = with_broadcast(Rabbit::new().queue("bcast.1", 1, 1).lab());
        assert!(rabbit.check(&NO_CONSUMER, "t1").is_empty());
    }

    #[test]
    fn nothing_is_said_while_a_worker_is_silent() {
        let lab = Lab::new()
            .worker("w1", &["celery"])
            .silent("w2")
            .queued("t1", "emials");
        assert!(lab.check(&NO_CONSUMER, "t1").is_empty());
    }
}
