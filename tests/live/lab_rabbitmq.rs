//! The lab's RabbitMQ keeps its promises.

use std::net::TcpStream;

use serde_json::json;

use crate::lab::{Certificates, Lab, SOON, wait_until};

#[test]
fn celery_runs_in_a_virtual_host_of_its_own() {
    let lab = Lab::new();
    let vhost = lab.rabbitmq();
    let config = json!({"broker_url": vhost.url()});
    let worker = lab.worker("w1", &config, &[]);
    let id = lab.send(&config, "labapp.add", &json!([1, 2]), &json!({}));
    worker.wait_for_log(&format!("labapp.add[{id}] succeeded"), SOON);
    let queues = vhost
        .node
        .api("GET", &vhost.path("queues", ""), &json!(null));
    let names: Vec<_> = queues
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| queue["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"w1@lab.celery.pidbox"), "{names:?}");
    assert!(names.contains(&"celery"), "{names:?}");
}

#[test]
fn virtual_hosts_users_and_policies_come_and_go() {
    let lab = Lab::new();
    let vhost = lab.rabbitmq();
    let other = vhost.node.vhost_named(&format!("{} / é", vhost.name));
    vhost.declare("q", &json!({"durable": true}));
    vhost.policy("^q$", &json!({"max-length": 3}));
    vhost.publish("", "q", "one");
    let user = vhost.node.user("management");
    user.permit(&vhost, "", "", "");
    user.permit(&other, "", "", "");
    let path = vhost.path("queues", "q");
    wait_until("the policy is in effect", SOON, || {
        let queue = vhost.node.api("GET", &path, &json!(null));
        (queue["effective_policy_definition"]["max-length"] == 3 && queue["messages_ready"] == 1)
            .then_some(())
    });
    let (node, name, user_name) = (vhost.node.clone(), vhost.name.clone(), user.name.clone());
    drop((vhost, other, user));
    let gone = |path: String| {
        node.try_api("GET", &path, None)
            .is_some_and(|(status, _)| status == 404)
    };
    assert!(gone(format!("/api/vhosts/{name}")));
    assert!(gone(format!("/api/users/{user_name}")));
}

#[test]
fn a_private_node_has_tls_and_alarms_and_ends_with_its_lab() {
    let lab = Lab::new();
    let rabbit = lab.rabbitmq_tls(&Certificates::new(&lab));
    let (amqps, https) = rabbit.tls_ports.unwrap();
    for port in [amqps, https] {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
    rabbit.node.set_memory_alarm(true);
    rabbit.node.set_memory_alarm(false);
    rabbit.freeze();
    rabbit.thaw();
    let (port, epmd) = (rabbit.node.port, rabbit.node.epmd_port());
    drop(lab);
    for port in [port, epmd] {
        wait_until("the node is gone", SOON, || {
            TcpStream::connect(("127.0.0.1", port))
                .is_err()
                .then_some(())
        });
    }
}
