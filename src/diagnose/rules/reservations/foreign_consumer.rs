//! CD408: something that is no answering worker takes from a task queue.

use serde_json::{Value, json};

use crate::diagnose::view::{Strangers, connection};
use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, plain};
use crate::evidence::rabbitmq::{Connection, Consumer};
use crate::evidence::{ClientFacts, Evidence, RabbitMq, Source};

/// The rule.
pub static FOREIGN_CONSUMER: Rule = Rule {
    code: "CD408",
    name: "foreign-consumer",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "Something takes messages from a task queue and is no worker that answered. What it takes no other worker \
                  gets. If it is a worker of another app, it throws away the tasks that it does not know; if it is another \
                  program, nobody knows what it does with them.",
        cause: "A worker of an earlier deployment was forgotten on some machine; two apps or two environments share a broker \
                and a queue's name; a worker runs with worker_enable_remote_control off, and so can't be asked; a shovel, a \
                federation link or somebody's script takes messages out of the queue.",
        read: "On RabbitMQ the consumers and connections that the management API lists. A worker that answered is known by \
               its mailbox, NODE.celery.pidbox, which its connection consumes too. Without the management API only the \
               numbers of consumers and of workers can be compared. On Redis CLIENT LIST shows which connections wait in \
               BRPOP, and not for which lists; those count that come from a host where no worker listens to remote \
               control, or that are more than the workers, and that behave as kombu does. Where no worker answers at all, \
               the finding is an info: then all workers may run without remote control.",
        confirm: "On RabbitMQ compare `rabbitmqctl list_consumers queue_name channel_pid` with `celery -A APP inspect \
                  active_queues`. On the host of the connection `ss -tnp` shows which process has the port. On Redis \
                  `redis-cli CLIENT LIST` shows addresses and users.",
        mend: "Stop the process if nobody needs it, or give it a queue, a virtual host or a database of its own. If it is a \
               worker of yours, start it with remote control, so that it can be asked what it has.",
        prevent: "Give each app and each environment a virtual host or a database of its own, and a user of its own. Leave \
                  worker_enable_remote_control on.",
        references: &[
            "celery issues 3063, 3249",
            "https://docs.celeryq.dev/en/stable/userguide/configuration.html#worker-enable-remote-control",
            "https://www.rabbitmq.com/docs/consumers",
            "https://redis.io/docs/latest/commands/client-list/",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Deployment(check),
};

/// What it may be.
const WHAT: &str = "a worker with remote control off, or another program";

fn check(evidence: &Evidence) -> Vec<Finding> {
    let nobody_answers = evidence.answered().is_empty();
    let mut findings = match &evidence.rabbitmq {
        Some(rabbit) => {
            let strangers = evidence.strangers_on(rabbit).into_iter();
            strangers
                .map(|strangers| on_rabbitmq(rabbit, &strangers))
                .collect()
        }
        None => on_redis(evidence),
    };
    if nobody_answers {
        for finding in &mut findings {
            finding.severity = Severity::Info;
        }
    }
    findings
}

fn on_rabbitmq(rabbit: &RabbitMq, strangers: &Strangers<'_>) -> Finding {
    let (queue, count) = (strangers.queue, strangers.count);
    let names: Vec<String> = strangers
        .among
        .iter()
        .map(|one| called(rabbit, one))
        .collect();
    let sure = names.len() as u64 == count;
    let message = match names.as_slice() {
        [one] if sure => format!(
            "{one} takes from queue {queue} and is no worker that answered: {}",
            what(&strangers.among, rabbit)
        ),
        [] => format!(
            "queue {queue} has {} more than workers that answered: {WHAT}",
            plain::count(count, "consumer")
        ),
        all if sure => format!(
            "{} take from queue {queue} and are no workers that answered: {WHAT}",
            plain::names(all)
        ),
        all => format!(
            "{count} of {} is no worker that answered, and takes from queue {queue}: {WHAT}",
            plain::names(all)
        ),
    };
    let consumers: Vec<Value> = strangers
        .among
        .iter()
        .map(|one| facts(rabbit, one))
        .collect();
    let mut finding = Finding::of(&FOREIGN_CONSUMER, message)
        .evidence("queue", queue)
        .evidence("consumers", consumers)
        .confirm(rabbit.list_consumers())
        .confirm(rabbit.list_peers())
        .remedy(
            "find the process on the host of the connection (ss -tnp shows the port), and stop it, or give it a queue or a \
             virtual host of its own; a worker of yours answers with worker_enable_remote_control on",
        )
        .subject("queue", queue);
    finding.count = count;
    finding
}

/// What it is, where it is the broker's own; else what it may be.
fn what(among: &[&Consumer], rabbit: &RabbitMq) -> &'static str {
    let name = |consumer: &&Consumer| {
        connection(rabbit, &consumer.connection)?
            .client_name
            .as_deref()
    };
    let begins = |with: &str| {
        among
            .iter()
            .filter_map(name)
            .any(|name| name.starts_with(with))
    };
    if begins("Shovel ") {
        "it moves messages elsewhere"
    } else if begins("Federation link") {
        "it hands messages on to another broker"
    } else {
        WHAT
    }
}

/// A consumer in words: address, user, product.
fn called(rabbit: &RabbitMq, consumer: &Consumer) -> String {
    let Some(connection) = connection(rabbit, &consumer.connection) else {
        return if consumer.connection.is_empty() {
            "a connection without a name".to_owned()
        } else {
            format!("connection {}", consumer.connection)
        };
    };
    let shovels = rabbit.shovels.seen().into_iter().flatten();
    let mut shovels = shovels.filter(|shovel| shovel.queue == consumer.queue);
    let given = connection.client_name.as_deref();
    if let Some(name) = given.and_then(|name| name.strip_prefix("Shovel ")) {
        let set_up = shovels.any(|shovel| shovel.name == name);
        let how = if set_up {
            " (a parameter of this virtual host)"
        } else {
            ""
        };
        return format!("shovel {name}{how}");
    }
    let mut told: Vec<String> = given
        .map(|name| format!("called {name}"))
        .into_iter()
        .collect();
    told.extend(user(connection).map(|user| format!("user {user}")));
    told.extend(product(connection));
    let address = address(connection).unwrap_or_else(|| connection.name.clone());
    if told.is_empty() {
        format!("connection {address}")
    } else {
        format!("connection {address} ({})", told.join(", "))
    }
}

fn user(connection: &Connection) -> Option<&str> {
    // Of a connection inside the node the management API says `none`.
    connection.user.as_deref().filter(|user| *user != "none")
}

fn product(connection: &Connection) -> Option<String> {
    let product = connection.product.as_deref()?;
    let version = connection.product_version.as_deref();
    Some(version.map_or_else(
        || product.to_owned(),
        |version| format!("{product} {version}"),
    ))
}

fn address(connection: &Connection) -> Option<String> {
    let host = connection.peer_host.as_deref()?;
    Some(
        connection
            .peer_port
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
    )
}

fn facts(rabbit: &RabbitMq, consumer: &Consumer) -> Value {
    let connection = connection(rabbit, &consumer.connection);
    json!({
        "connection": consumer.connection,
        "peer": connection.and_then(address),
        "user": connection.and_then(user),
        "product": connection.and_then(product),
        "connection_name": connection.and_then(|connection| connection.client_name.as_deref()),
    })
}

fn on_redis(evidence: &Evidence) -> Vec<Finding> {
    let strangers = evidence.strangers_in_brpop();
    // Who waits for a list in which something stands would be served at once.
    let queues: Vec<&str> = (evidence.lists.seen().into_iter().flatten())
        .filter(|list| list.named && list.length == 0 && list.priority.is_none())
        .map(|list| list.queue.as_str())
        .collect();
    if strangers.is_empty() || queues.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = strangers
        .iter()
        .map(|client| client_called(client))
        .collect();
    let (verb, are) = if names.len() == 1 {
        ("waits", "is no worker")
    } else {
        ("wait", "are no workers")
    };
    let database = evidence.broker.database;
    let clients: Vec<Value> = strangers
        .iter()
        .map(|client| client_facts(client))
        .collect();
    let mut finding = Finding::of(
        &FOREIGN_CONSUMER,
        format!(
            "{} {verb} for messages in database {database} as workers do, and {are} that answered: {WHAT}; for which \
             queue is not told, {} perhaps",
            plain::names(&names),
            plain::names(&queues)
        ),
    )
    .evidence("database", database)
    .evidence("clients", clients)
    .evidence("queues", queues)
    .confirm(evidence.who_waits())
    .remedy(
        "find the process on the host of the connection (ss -tnp shows the port), and stop it, or give it a database of its \
         own; a worker of yours answers with worker_enable_remote_control on",
    )
    .subject("database", database.to_string());
    finding.count = names.len() as u64;
    vec![finding]
}

fn client_called(client: &ClientFacts) -> String {
    let who = &client.identity;
    let address = who.address.as_deref().unwrap_or(&client.host);
    let told = [
        who.user.as_ref().map(|user| format!("user {user}")),
        who.library.clone(),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() {
        format!("connection {address}")
    } else {
        format!("connection {address} ({})", told.join(", "))
    }
}

fn client_facts(client: &ClientFacts) -> Value {
    let who = &client.identity;
    json!({
        "address": who.address,
        "user": who.user,
        "library": who.library,
        "blocked": client.blocked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit};
    use crate::evidence::rabbitmq::Shovel;
    use crate::evidence::{Observed, Reason};

    /// A virtual host with the queue `celery`, on which these connections have a consumer, those with a node its mailbox
    /// too, and `apart` a mailbox and nothing else.
    fn vhost(consumers: &[(&str, Option<&str>)], apart: &[(&str, &str)]) -> RabbitMq {
        let mut lab = Rabbit::new().queue("celery", 0, 0).lab();
        let mut rabbit = lab.evidence.rabbitmq.take().expect("RabbitMQ");
        let consumer = |queue: &str, connection: &str| Consumer {
            queue: queue.to_owned(),
            connection: connection.to_owned(),
            channel: format!("{connection} (1)"),
            ack_required: true,
            active: Some(true),
            prefetch: None,
            timeout_ms: Observed::not_asked("a test"),
        };
        let mut all = Vec::new();
        for (connection, node) in consumers {
            all.push(consumer("celery", connection));
            all.extend(node.map(|node| consumer(&format!("{node}.celery.pidbox"), connection)));
        }
        for (connection, node) in apart {
            all.push(consumer(&format!("{node}.celery.pidbox"), connection));
        }
        let connections = all.iter().map(|consumer| {
            let (host, port) = consumer.connection.split_once(':').expect("host:port");
            Connection {
                name: consumer.connection.clone(),
                state: None,
                product: Some("py-amqp".to_owned()),
                product_version: Some("5.3.1".to_owned()),
                client_name: None,
                user: Some("guest".to_owned()),
                peer_host: Some(host.to_owned()),
                peer_port: port.parse().ok(),
                heartbeat_seconds: None,
            }
        });
        rabbit.connections = Observed::Seen(connections.collect());
        rabbit.queue_mut("celery").expect("declared").consumers =
            Observed::Seen(consumers.len() as u64);
        rabbit.consumers = Observed::Seen(all);
        rabbit
    }

    fn on(rabbit: RabbitMq, nodes: &[&str]) -> Lab {
        let mut lab = Rabbit::new().lab();
        for node in nodes {
            lab = lab.worker(node, &["celery"]);
        }
        lab.evidence.rabbitmq = Some(rabbit);
        lab
    }

    fn said(lab: &Lab) -> Vec<String> {
        let findings = lab.check(&FOREIGN_CONSUMER, "").into_iter();
        findings.map(|finding| finding.message).collect()
    }

    #[test]
    fn a_consumer_beside_the_workers_is_named() {
        let lab = on(
            vhost(&[("10.0.0.1:5", Some("w1")), ("10.0.0.9:7", None)], &[]),
            &["w1"],
        );
        let findings = lab.check(&FOREIGN_CONSUMER, "");
        assert_eq!(
            findings[0].message,
            "connection 10.0.0.9:7 (user guest, py-amqp 5.3.1) takes from queue celery and is no worker that answered: a \
             worker with remote control off, or another program"
        );
        assert_eq!(findings[0].severity, Severity::Warning);
        assert_eq!(findings[0].evidence["consumers"][0]["peer"], "10.0.0.9:7");
        assert_eq!(findings[0].subject["queue"], "celery");
    }

    #[test]
    fn where_no_worker_answers_all_may_have_remote_control_off() {
        let findings = on(vhost(&[("10.0.0.9:7", None)], &[]), &[]).check(&FOREIGN_CONSUMER, "");
        assert_eq!((findings.len(), findings[0].severity), (1, Severity::Info));
    }

    #[test]
    fn workers_with_their_mailbox_on_another_connection_are_none() {
        let apart = [("10.0.0.1:6", "w1")];
        let green = || vhost(&[("10.0.0.1:5", None)], &apart);
        assert_eq!(said(&on(green(), &["w1"])), Vec::<String>::new());
        // Nor is one that left meanwhile, or is silent.
        assert_eq!(said(&on(green(), &[])), Vec::<String>::new());
        let both = vhost(&[("10.0.0.1:5", None), ("10.0.0.9:7", None)], &apart);
        let found = said(&on(both, &["w1"]));
        assert!(found[0].starts_with("connection 10.0.0.9:7 "), "{found:?}");
        let behind_a_proxy = vhost(&[("10.0.0.1:5", None), ("10.0.0.1:7", None)], &apart);
        let found = said(&on(behind_a_proxy, &["w1"]));
        assert!(
            found[0].starts_with("1 of connection 10.0.0.1:5 "),
            "{found:?}"
        );
    }

    #[test]
    fn who_came_or_left_since_the_statistics_is_none() {
        // It answers, and its consumers are not told yet.
        let lab = on(
            vhost(&[("10.0.0.1:5", Some("w1")), ("10.0.0.2:7", None)], &[]),
            &["w1", "w2"],
        );
        assert!(said(&lab).is_empty());
        let mut rabbit = vhost(&[("10.0.0.1:5", Some("w1")), ("10.0.0.2:7", None)], &[]);
        rabbit.queue_mut("celery").expect("declared").consumers = Observed::Seen(1);
        assert!(said(&on(rabbit, &["w1"])).is_empty());
        let mut lab = on(vhost(&[("10.0.0.9:7", None)], &[]), &[]);
        lab.workers_mut().others_unsettled = true;
        assert!(said(&lab).is_empty());
    }

    #[test]
    fn silent_workers_and_queues_of_others_are_none() {
        let lab = on(vhost(&[("10.0.0.1:5", Some("w1"))], &[]), &[]).silent("w1");
        assert!(said(&lab).is_empty());
        let lab = Rabbit::new()
            .queue("invoices", 0, 1)
            .lab()
            .worker("w1", &["celery"]);
        assert!(said(&lab).is_empty());
    }

    #[test]
    fn without_the_management_api_the_numbers_tell() {
        let numbers = |consumers| {
            let mut rabbit = vhost(&[], &[]);
            rabbit.consumers = Observed::not_asked("a test");
            rabbit.queue_mut("celery").expect("declared").consumers = Observed::Seen(consumers);
            said(&on(rabbit, &["w1"]))
        };
        assert!(numbers(1).is_empty());
        assert!(numbers(2)[0].starts_with("queue celery has 1 consumer more than workers"));
        let unasked =
            on(vhost(&[("10.0.0.9:7", None)], &[]), &[]).unread(Source::Workers, Reason::NotAsked);
        assert!(said(&unasked).is_empty());
    }

    #[test]
    fn a_shovel_is_called_by_its_name() {
        let mut rabbit = vhost(&[("10.0.0.1:5", Some("w1")), ("10.0.0.9:7", None)], &[]);
        let connections = rabbit.connections.seen_mut().expect("seen");
        let shovel = connections.last_mut().expect("two");
        (shovel.client_name, shovel.user) =
            (Some("Shovel archive".to_owned()), Some("none".to_owned()));
        let rabbit = RabbitMq {
            shovels: Observed::Seen(vec![Shovel {
                name: "archive".to_owned(),
                queue: "celery".to_owned(),
            }]),
            ..rabbit
        };
        assert_eq!(
            said(&on(rabbit, &["w1"])),
            [
                "shovel archive (a parameter of this virtual host) takes from queue celery and is no worker that answered: it \
              moves messages elsewhere"
            ]
        );
    }

    /// A connection of CLIENT LIST.
    fn client(host: &str, command: &str) -> ClientFacts {
        ClientFacts {
            host: host.to_owned(),
            id: None,
            blocked_throughout: false,
            database: Some(0),
            command: command.to_owned(),
            blocked: command == "brpop",
            pattern_subscriptions: u64::from(command == "psubscribe"),
            age_seconds: Some(90),
            idle_seconds: Some(1),
            identity: crate::evidence::ClientIdentity::default(),
        }
    }

    fn redis(clients: Vec<ClientFacts>) -> Lab {
        let mut lab = Lab::new().worker("w1", &["celery"]);
        lab.list("celery", "celery", None);
        lab.evidence.lists.seen_mut().expect("seen")[0].length = 0;
        lab.server(|server| server.clients = Observed::Seen(clients))
    }

    fn of_worker(host: &str) -> Vec<ClientFacts> {
        ["brpop", "psubscribe", "psubscribe", "publish"]
            .map(|c| client(host, c))
            .to_vec()
    }

    #[test]
    fn who_waits_in_brpop_beside_the_workers_is_named() {
        let lab = redis([of_worker("10.0.0.1"), vec![client("10.0.0.9", "brpop")]].concat());
        assert_eq!(
            said(&lab),
            [
                "connection 10.0.0.9 waits for messages in database 0 as workers do, and is no worker that answered: a worker \
              with remote control off, or another program; for which queue is not told, celery perhaps"
            ]
        );
        let behind_a_proxy =
            redis([of_worker("10.0.0.1"), vec![client("10.0.0.1", "brpop")]].concat());
        assert!(
            said(&behind_a_proxy)[0]
                .starts_with("connection 10.0.0.1 and connection 10.0.0.1 wait")
        );
    }

    #[test]
    fn other_queues_clients_and_those_that_wait_beside_messages_are_none() {
        let beside = |change: fn(&mut ClientFacts)| {
            let mut other = client("10.0.0.9", "brpop");
            change(&mut other);
            redis([of_worker("10.0.0.1"), vec![other]].concat())
        };
        for change in [
            (|c| c.identity.name = Some("Sidekiq-server-PID-7".to_owned())) as fn(&mut ClientFacts),
            |c| c.identity.library = Some("redis-rb 5.0".to_owned()),
            |c| c.idle_seconds = Some(200),
            |c| c.age_seconds = Some(2),
            |c| c.database = Some(3),
            |c| c.blocked = false,
        ] {
            assert!(said(&beside(change)).is_empty());
        }
        let mut lab = beside(|_| ());
        assert_eq!(said(&lab).len(), 1);
        lab.evidence.lists.seen_mut().expect("seen")[0].length = 40;
        assert!(said(&lab).is_empty());
        assert!(said(&redis(of_worker("10.0.0.1"))).is_empty());
    }
}
