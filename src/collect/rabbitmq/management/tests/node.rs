//! A real node, asked as users of different rights.

use std::time::Duration;

use serde_json::json;

use super::super::*;
use super::{run, server};
use crate::collect::rabbitmq::rabbit_node::{RabbitNode, RabbitUser, Vhost};
use crate::evidence::rabbitmq::QueueType;

#[test]
fn tls_to_a_plain_port_is_named() {
    let url = format!("https://127.0.0.1:{}", RabbitNode::shared().http_port);
    let why = run(ManagementReader::connect(&server(&url), None))
        .err()
        .expect("an error");
    assert!(why.detail.contains("does not speak TLS"), "{why:?}");
}
fn everything(url: &str, vhost: &str) -> RabbitMq {
    let not_asked = || Why::new(Reason::NotAsked, "");
    let mut rabbit = RabbitMq {
        vhost: vhost.to_owned(),
        product: Observed::Unseen(not_asked()),
        version: Observed::Unseen(not_asked()),
        management_url: None,
        overview: Observed::not_asked(""),
        nodes: Observed::not_asked(""),
        alarms: Observed::not_asked(""),
        queues: Observed::not_asked(""),
        exchanges: Observed::not_asked(""),
        bindings: Observed::not_asked(""),
        consumers: Observed::not_asked(""),
        channels: Observed::not_asked(""),
        connections: Observed::not_asked(""),
        shovels: Observed::not_asked(""),
    };
    run(async {
        match ManagementReader::connect(&server(url), None).await {
            Ok(reader) => reader.read_all(vhost, &mut rabbit).await,
            Err(why) => leave_unseen(&mut rabbit, &why),
        }
    });
    rabbit
}

fn vhost() -> Vhost {
    RabbitNode::shared().vhost()
}

/// Statistics come a second after what they are of.
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("never: {what}")
}

#[test]
fn a_real_virtual_host_is_read() {
    let base = vhost();
    let vhost = base.node.vhost_named(&format!("{} /é%", base.name));
    vhost.declare(
        "q/1 ?",
        &json!({"durable": true, "arguments": {"x-max-priority": 3}}),
    );
    vhost.declare(
        "qq",
        &json!({"durable": true, "arguments": {"x-queue-type": "quorum"}}),
    );
    vhost.policy("^q", &json!({"max-length": 9}));
    vhost.policy("^tasks$", &json!({"alternate-exchange": "lost"}));
    let exchange = vhost.path("exchanges", "tasks");
    vhost.node.api("PUT", &exchange, &json!({"type": "topic"}));
    let binding = vhost.path("bindings", "e/tasks/q/qq");
    vhost
        .node
        .api("POST", &binding, &json!({"routing_key": "a.#"}));
    vhost.publish("", "q/1 ?", "x");
    vhost.publish("", "q/1 ?", "x");
    let rabbit = eventually("the statistics", || {
        let rabbit = everything(&vhost.node.management_url(), &vhost.name);
        let queues = rabbit.queues.seen()?;
        let told = queues
            .iter()
            .all(|queue| queue.ready.seen().is_some() && queue.policy.seen().is_some());
        let ready = queues.iter().any(|queue| queue.ready == Observed::Seen(2));
        (told && ready).then_some(rabbit)
    });
    assert!(
        rabbit
            .version
            .seen()
            .is_some_and(|version| version.contains('.')),
        "{rabbit:?}"
    );
    let nodes = rabbit
        .nodes
        .seen()
        .expect("an administrator sees the nodes");
    assert!(
        nodes
            .iter()
            .all(|node| node.running && node.memory_alarm == Observed::Seen(false))
    );
    assert_eq!(rabbit.alarms, Observed::Seen(Vec::new()));
    let queues = rabbit.queues.seen().expect("the queues");
    assert_eq!(queues.len(), 2);
    assert_eq!(queues[0].name, "q/1 ?");
    assert_eq!(queues[1].kind, Observed::Seen(QueueType::Quorum));
    for queue in queues {
        let limit = queue
            .policy
            .seen()
            .and_then(|policy| policy.get("max-length"));
        assert_eq!(limit, Some(&json!(9)), "{queue:?}");
    }
    let exchanges = rabbit.exchanges.seen().expect("the exchanges");
    let tasks = exchanges
        .iter()
        .find(|exchange| exchange.name == "tasks")
        .expect("tasks");
    assert_eq!(tasks.alternate.as_deref(), Some("lost"));
    let bindings = rabbit.bindings.seen().expect("the bindings");
    assert_eq!(bindings.len(), 1);
    assert_eq!(
        (
            bindings[0].source.as_str(),
            bindings[0].routing_key.as_str()
        ),
        ("tasks", "a.#")
    );
    for empty in [
        rabbit.consumers.seen().map(Vec::len),
        rabbit.channels.seen().map(Vec::len),
    ] {
        assert_eq!(empty, Some(0));
    }
    assert_eq!(rabbit.connections, Observed::Seen(Vec::new()));
    assert_eq!(
        rabbit.overview.seen().expect("it").user_tags,
        ["administrator"]
    );
    assert!(!rabbit.management_url.expect("it").contains("guest"));
}

fn user_reads(user: &RabbitUser, vhost: &Vhost) -> RabbitMq {
    everything(&user.management_url(), &vhost.name)
}

#[test]
fn what_a_user_is_not_shown_is_unseen() {
    let vhost = vhost();
    vhost.declare("q", &json!({}));
    let is_refused = |why: Option<&Why>, words: &str| {
        let why = why.expect("unseen");
        assert_eq!(why.reason, Reason::Refused, "{why:?}");
        assert!(
            why.detail.contains(words) && !why.detail.contains("hunter2"),
            "{why:?}"
        );
    };
    let nobody = user_reads(&vhost.node.user(""), &vhost);
    is_refused(nobody.queues.unseen(), "set_user_tags USER monitoring");
    is_refused(nobody.overview.unseen(), "set_user_tags USER monitoring");

    let manager = vhost.node.user("management");
    is_refused(
        user_reads(&manager, &vhost).queues.unseen(),
        "set_permissions",
    );
    manager.permit(&vhost, "", "", "");
    let seen = user_reads(&manager, &vhost);
    assert_eq!(seen.queues.seen().map(Vec::len), Some(1));
    assert_eq!(seen.alarms, Observed::Seen(Vec::new()));
    for why in [
        seen.consumers.unseen(),
        seen.channels.unseen(),
        seen.connections.unseen(),
        seen.nodes.unseen(),
    ] {
        is_refused(why, "tag monitoring");
    }

    let monitor = vhost.node.user("monitoring");
    let seen = user_reads(&monitor, &vhost);
    is_refused(seen.queues.unseen(), "no permission in the virtual host");
    is_refused(seen.channels.unseen(), "no permission in the virtual host");
    assert!(seen.nodes.seen().is_some());
    monitor.permit(&vhost, "", "", "");
    let seen = user_reads(&monitor, &vhost);
    assert_eq!(seen.queues.seen().map(Vec::len), Some(1));
    assert_eq!(seen.connections, Observed::Seen(Vec::new()));
}

#[test]
fn a_wrong_password_and_a_missing_virtual_host_are_named() {
    let vhost = vhost();
    let port = vhost.node.http_port;
    let wrong = format!("http://guest:hunter2@127.0.0.1:{port}");
    let why = run(ManagementReader::connect(&server(&wrong), None))
        .err()
        .expect("refused");
    assert_eq!(why.reason, Reason::Refused);
    assert!(
        why.detail.contains("--management") && !why.detail.contains("hunter2"),
        "{why:?}"
    );

    let rabbit = everything(&vhost.node.management_url(), "no/such host");
    for why in [
        rabbit.queues.unseen(),
        rabbit.exchanges.unseen(),
        rabbit.bindings.unseen(),
        rabbit.consumers.unseen(),
        rabbit.channels.unseen(),
        rabbit.connections.unseen(),
    ] {
        let why = why.expect("unseen");
        assert!(
            why.detail.contains("no virtual host \"no/such host\""),
            "{why:?}"
        );
    }
    assert!(rabbit.nodes.seen().is_some() && rabbit.overview.seen().is_some());

    let off = format!("{}/elsewhere", vhost.node.management_url());
    let why = run(ManagementReader::connect(&server(&off), None))
        .err()
        .expect("not there");
    assert!(why.detail.contains("has no management API"), "{why:?}");
}

#[test]
fn a_thousand_queues_are_read_in_pages() {
    let vhost = vhost();
    let empty = everything(&vhost.node.management_url(), &vhost.name);
    assert_eq!(empty.queues, Observed::Seen(Vec::new()));
    for chunk in 0..4 {
        let queues: Vec<Value> = (0..300)
            .map(|n| json!({"name": format!("q{}", chunk * 300 + n), "durable": false, "auto_delete": false, "arguments": {}}))
            .collect();
        vhost.node.api(
            "POST",
            &vhost.path("definitions", ""),
            &json!({"queues": queues}),
        );
        let queues = run(async {
            let reader =
                ManagementReader::connect(&server(&vhost.node.management_url()), None).await?;
            Ok::<_, Why>(reader.queues(&vhost.name).await)
        });
        let queues = queues.expect("connected");
        let queues = queues.seen().expect("seen");
        let names: BTreeSet<_> = queues.iter().map(|queue| &queue.name).collect();
        assert_eq!(
            (names.len(), queues.len()),
            (300 * (chunk + 1), names.len())
        );
    }
}
