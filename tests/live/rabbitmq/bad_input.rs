//! Brokers that refuse, fail or lie, and messages of others: each is said, and the rest is diagnosed all the same.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Site, expect, expect_finding, findings};
use crate::lab::{Certificates, Lab, SOON, free_port, wait_until};

const ID: &str = "0a0a0a0a-0000-4000-8000-000000000000";

/// A publish by kombu, with what it takes only from code.
fn publish(site: &Site, call: &str) {
    let code = format!(
        "import amqp, labapp\n\
         channel = labapp.app.connection_for_write().channel()\n\
         def publish(body, **properties):\n\
         \x20   channel.basic_publish(amqp.Message(body, **properties), routing_key='celery')\n\
         {call}\n\
         channel.connection.close()"
    );
    site.lab.python(&site.config, &code);
}

/// Headers nested without end, texts that are no UTF-8, properties larger than a frame, and large bodies.
#[test]
fn messages_that_no_task_has() {
    let site = Site::new();
    site.vhost.declare("celery", &json!({"durable": true}));
    let mut nested = "1".to_owned();
    for _ in 0..4000 {
        nested = format!("[{nested}]");
    }
    let path = site.vhost.path("exchanges", "amq.default/publish");
    let large = "x".repeat(6 << 20);
    for headers in [
        format!("{{\"a\": {nested}}}"),
        format!("{{\"a\": \"{large}\"}}"),
    ] {
        let message = format!(
            "{{\"properties\": {{\"headers\": {headers}}}, \"routing_key\": \"celery\", \
             \"payload\": \"x\", \"payload_encoding\": \"string\"}}"
        );
        let (status, text) = (site.vhost.node)
            .try_api("POST", &path, Some(&message))
            .expect("the node answers");
        assert_eq!(status, 200, "{text}");
    }
    publish(
        &site,
        "publish('x', content_type=b'\\xff\\xfe', correlation_id=b'\\xc3')\n\
         publish(b'x' * (70 << 20), content_type='application/data')\n\
         publish('{}', content_type='application/json', application_headers={'id': 'one', 'task': 't'})",
    );
    let sent = site.send("labapp.add", &json!([1, 2]), &json!({}));
    site.wait_for("celery", "messages_ready", 6);
    let seen = site.trace(&sent, &["--peek"]);
    expect(&seen, "stuck", 1);
    let copy = &seen.json()["traces"][0]["copies"][0];
    assert_eq!(
        (&copy["position"], &copy["of"]),
        (&json!(6), &json!(6)),
        "{seen:#?}"
    );
    expect_finding(&seen, "malformed-message");
    // One of them could not be read whole, so that nothing is absent.
    expect(&site.trace(ID, &["--peek"]), "undetermined", 3);
    site.wait_for("celery", "messages_ready", 6);
}

/// RabbitMQ cuts a long text of its own in the middle of a letter.
#[test]
fn a_long_name_in_a_refusal() {
    let site = Site::new();
    let name = "é".repeat(120);
    let seen = site.trace(ID, &["--queue", &name]);
    assert!(
        !findings(&seen).contains(&"broker-unavailable".to_owned()),
        "{seen:#?}"
    );
}

#[test]
fn whoever_is_refused_is_told() {
    let site = Site::new();
    let node = &site.vhost.node;
    let port = node.port;
    let name = &site.vhost.name;
    let stranger = node.user("management");
    for (broker, words) in [
        (
            format!("amqp://guest:hunter2@127.0.0.1:{port}/{name}"),
            "refused the login",
        ),
        (
            format!("amqp://guest:guest@127.0.0.1:{port}/nowhere"),
            "no virtual host",
        ),
        (
            site.vhost.url_for(&stranger.name, &stranger.password),
            "access to virtual host",
        ),
        (
            format!("amqp://guest:guest@127.0.0.1:{}/", free_port()),
            "no connection",
        ),
        (
            format!("amqps://guest:guest@127.0.0.1:{port}/{name}"),
            "TLS",
        ),
    ] {
        let done = site.lab.trace(ID, &["--broker", &broker]);
        done.assert_decent(&["hunter2", "hunter2 & co"]);
        expect(&done, "undetermined", 3);
        expect_finding(&done, "broker-unavailable");
        assert!(done.stdout.contains(words), "{words}: {done:#?}");
    }
    // The next of several brokers takes over, with its own virtual host.
    site.vhost.declare("emials", &json!({"durable": true}));
    site.vhost.publish("", "emials", "hello");
    let both = format!(
        "amqp://guest:guest@127.0.0.1:{}//;{}",
        free_port(),
        site.vhost.url()
    );
    let seen = site.trace(ID, &["--broker", &both]);
    expect(&seen, "undetermined", 3);
    assert!(seen.stdout.contains("1 message in 1 queue"), "{seen:#?}");
}

/// Answers every request with the same bytes.
fn false_server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = listener.local_addr().expect("a bound socket").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        }
    });
    format!("http://guest:hunter2@127.0.0.1:{port}")
}

#[test]
fn a_management_api_that_tells_nothing_or_nonsense() {
    let site = Site::new();
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    let web_page = false_server(
        b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\n<html></html>",
    );
    let half = false_server(
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{\"tags\": ",
    );
    let no_tags = site.vhost.node.user("");
    let no_rights = site.vhost.node.user("management");
    let some = site.vhost.node.user("management");
    some.permit(&site.vhost, "", "", "");
    // Until the first statistics nobody knows how many messages are unacknowledged.
    site.wait_for("celery", "messages_unacknowledged", 1);
    for (management, words, other, code) in [
        (web_page, "web page", "undetermined", 3),
        (half, "in the middle", "undetermined", 3),
        (no_tags.management_url(), "set_user_tags", "undetermined", 3),
        (
            no_rights.management_url(),
            "set_permissions",
            "undetermined",
            3,
        ),
        // It is shown all queues, and none of the connections.
        (some.management_url(), "monitoring", "unknown", 1),
    ] {
        let seen = site.trace(&running, &["--management", &management]);
        seen.assert_decent(&["hunter2"]);
        expect(&seen, "running", 0);
        assert!(seen.stdout.contains(words), "{words}: {seen:#?}");
        let seen = site.trace(ID, &["--management", &management]);
        expect(&seen, other, code);
        for alarm in ["silent-worker", "no-workers", "no-consumer"] {
            assert!(
                !findings(&seen).contains(&alarm.to_owned()),
                "{alarm}: {seen:#?}"
            );
        }
    }
}

/// A private node: it speaks TLS, gets an alarm, and dies.
#[test]
fn tls_an_alarm_and_the_end_of_a_node() {
    let lab = Lab::new();
    let certificates = Certificates::new(&lab);
    let rabbit = lab.rabbitmq_tls(&certificates);
    let (amqps, _) = rabbit.tls_ports.expect("ports for TLS");
    let site = Site::on(rabbit.node.vhost(), &json!({}));
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    let name = &site.vhost.name;
    let secure = format!("amqps://guest:guest@localhost:{amqps}/{name}");
    let ca = certificates.ca.to_str().expect("a plain path");
    let with_ca = format!("{secure}?ssl_ca_certs={ca}");
    expect(&site.trace(&running, &["--broker", &with_ca]), "running", 0);
    let seen = site.trace(&running, &["--broker", &secure]);
    expect(&seen, "undetermined", 3);
    assert!(seen.stdout.contains("certificate"), "{seen:#?}");
    let plain = format!("amqp://guest:guest@localhost:{amqps}/{name}");
    let seen = site.trace(&running, &["--broker", &plain]);
    expect(&seen, "undetermined", 3);
    assert!(seen.stdout.contains("amqps://"), "{seen:#?}");

    rabbit.node.set_memory_alarm(true);
    let seen = site.trace(&running, &[]);
    expect_finding(&seen, "memory-pressure");
    for alarm in ["silent-worker", "no-workers", "vanished-while-running"] {
        assert!(!findings(&seen).contains(&alarm.to_owned()), "{seen:#?}");
    }
    // Without the management API it is noticed when the question is not taken.
    let seen = site.trace(
        &running,
        &["--management", "http://guest:guest@127.0.0.1:1"],
    );
    for alarm in ["silent-worker", "no-workers", "vanished-while-running"] {
        assert!(!findings(&seen).contains(&alarm.to_owned()), "{seen:#?}");
    }
    rabbit.node.set_memory_alarm(false);
    expect(&site.trace(&running, &[]), "running", 0);

    rabbit.freeze();
    let seen = site.trace(&running, &[]);
    rabbit.thaw();
    expect(&seen, "undetermined", 3);
    expect_finding(&seen, "broker-unavailable");
    rabbit.kill();
    let seen = site.trace(&running, &[]);
    expect(&seen, "undetermined", 3);
    expect_finding(&seen, "broker-unavailable");
}

/// `management_agent.disable_metrics_collector`: lists of connections and channels are empty whatever there is.
#[test]
fn statistics_that_are_switched_off() {
    let lab = Lab::new();
    let rabbit = lab.rabbitmq_node("management_agent.disable_metrics_collector = true");
    let site = Site::on(rabbit.node.vhost(), &json!({}));
    let worker = site.lab.worker("w1", &site.config, &[]);
    let running = site.send("labapp.sleep", &json!([600]), &json!({}));
    worker.wait_received(&running);
    let seen = wait_until("the running task is seen", SOON, || {
        let seen = site.trace(&running, &[]);
        (seen.code == Some(0)).then_some(seen)
    });
    expect(&seen, "running", 0);
    let waiting = site.send("labapp.add", &json!([1, 2]), &json!({}));
    let seen = site.trace(&waiting, &["--peek"]);
    for alarm in [
        "silent-worker",
        "no-workers",
        "no-consumer",
        "vanished-while-running",
    ] {
        assert!(!findings(&seen).contains(&alarm.to_owned()), "{seen:#?}");
    }
    let verdict: Value = seen.json()["traces"][0]["verdict"].clone();
    assert!(
        verdict == "queued" || verdict == "undetermined",
        "{seen:#?}"
    );
    assert!(seen.elapsed < Duration::from_secs(20));
    // What another program might hold is counted nowhere.
    let nobodys = "0a0a0a0a-0000-4000-8000-000000000000";
    expect(&site.trace(nobodys, &["--peek"]), "undetermined", 3);
}
