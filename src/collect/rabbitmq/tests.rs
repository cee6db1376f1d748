//! Against a real RabbitMQ, in a virtual host of each test's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};

use super::amqp::{AmqpClient, Depth};
use super::peek::Peek;
use super::rabbit_node::{RabbitNode, Vhost};
use crate::celery::message::Keep;
use crate::collect::cleanup::Cleanup;
use crate::collect::wanted::Wanted;
use crate::config::url::amqp::AmqpServer;
use crate::evidence::rabbitmq::{Queue, QueueType};
use crate::evidence::{Observed, Reason};

fn server(vhost: &Vhost) -> AmqpServer {
    AmqpServer {
        host: "127.0.0.1".to_owned(),
        port: vhost.node.port,
        vhost: vhost.name.clone(),
        username: "guest".to_owned(),
        password: "guest".into(),
        tls: None,
    }
}

async fn client(vhost: &Vhost) -> (Arc<AmqpClient>, Cleanup) {
    let cleanup = Cleanup::default();
    let client = AmqpClient::connect(&[server(vhost)], &cleanup).await;
    (Arc::new(client.expect("a connection")), cleanup)
}

struct Made {
    channel: Channel,
    queue: Queue,
}

impl Made {
    /// A queue with messages of these ids.
    async fn new(client: &AmqpClient, kind: QueueType, arguments: Value, count: u64) -> Self {
        let channel = client.channel().await.expect("a channel");
        let name = format!("made-{}", uuid::Uuid::new_v4());
        let auto_delete = arguments.get("auto").is_some();
        let mut table = FieldTable::default();
        let mut seen = BTreeMap::new();
        if kind == QueueType::Quorum {
            table.insert(
                "x-queue-type".into(),
                AMQPValue::LongString("quorum".into()),
            );
        }
        for (key, value) in arguments.as_object().expect("arguments") {
            if let Some(number) = value.as_i64().filter(|_| key.starts_with("x-")) {
                table.insert(key.as_str().into(), AMQPValue::LongLongInt(number));
                seen.insert(key.clone(), value.clone());
            }
        }
        let options = QueueDeclareOptions {
            durable: true,
            auto_delete,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(name.as_str().into(), options, table)
            .await
            .expect("a queue");
        for number in 0..count {
            let mut headers = FieldTable::default();
            for (key, value) in [("id", format!("id-{number}")), ("task", "t".to_owned())] {
                headers.insert(key.into(), AMQPValue::LongString(value.into()));
            }
            let priority = u8::try_from(number % 3).expect("small");
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_headers(headers)
                .with_priority(priority);
            let body = br#"[[], {}, {"callbacks": null}]"#;
            publish(&channel, &name, body, properties).await;
        }
        let queue = Queue {
            kind: Observed::Seen(kind),
            auto_delete: Observed::Seen(auto_delete),
            exclusive: Observed::Seen(false),
            arguments: Observed::Seen(seen),
            policy: Observed::Seen(BTreeMap::new()),
            ..Queue::named(&name)
        };
        let made = Self { channel, queue };
        made.wait_for(client, count).await;
        made
    }

    async fn wait_for(&self, client: &AmqpClient, count: u64) {
        for _ in 0..500 {
            if matches!(client.depth(&self.queue.name).await, Ok(Depth::There { ready, .. }) if ready == count)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never {count} messages in {}", self.queue.name);
    }

    /// All ids, in order, taking them out.
    async fn drain(&self) -> Vec<String> {
        let mut ids = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self
            .channel
            .basic_get(self.queue.name.as_str().into(), options)
            .await
            .expect("messages")
        {
            let headers = super::message::headers(&message.properties);
            ids.push(headers["id"].as_str().unwrap_or("?").to_owned());
        }
        ids
    }

    async fn delete(self) {
        let name = ShortString::from(self.queue.name.as_str());
        let options = QueueDeleteOptions::default();
        self.channel
            .queue_delete(name, options)
            .await
            .expect("gone");
    }
}

async fn publish(channel: &Channel, queue: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), queue.into(), options, body, properties)
        .await
        .expect("published");
}

async fn peek(client: &AmqpClient, made: &Made, limit: u64) -> Peek {
    let mut wanted = Wanted::all(u64::MAX);
    client
        .peek(
            &made.queue,
            limit,
            Duration::from_mins(1),
            &mut wanted,
            Keep::Envelope,
        )
        .await
        .expect("a look")
}

#[tokio::test]
async fn a_look_leaves_count_and_order() {
    let vhost = RabbitNode::shared().vhost();
    let (client, cleanup) = client(&vhost).await;
    assert_eq!(client.product, Observed::Seen("RabbitMQ".to_owned()));
    let kinds = [
        (QueueType::Classic, json!({})),
        (QueueType::Classic, json!({"x-max-priority": 5})),
        (QueueType::Classic, json!({"auto": true})),
        (QueueType::Quorum, json!({})),
    ];
    for (kind, arguments) in kinds {
        let made = Made::new(&client, kind, arguments.clone(), 20).await;
        let first = peek(&client, &made, 7).await;
        assert_eq!(
            (first.facts.messages, first.facts.whole),
            (7, false),
            "{arguments}"
        );
        assert!(first.facts.given_back, "{arguments}");
        let all = peek(&client, &made, 1000).await;
        assert_eq!(
            (all.facts.messages, all.facts.whole),
            (20, true),
            "{arguments}"
        );
        assert!(
            all.found[0].envelope.redelivered && all.facts.given_back,
            "{arguments}"
        );
        let seen: Vec<String> = all.found.iter().map(|f| f.envelope.id.clone()).collect();
        let positions: Vec<u64> = all.found.iter().map(|f| f.position).collect();
        assert_eq!(positions, (1..=20).collect::<Vec<_>>());
        assert!(
            first
                .found
                .iter()
                .zip(&seen)
                .all(|(f, id)| f.envelope.id == *id)
        );
        assert_eq!(made.drain().await, seen, "{arguments}");
        if arguments == json!({}) {
            let sent: Vec<String> = (0..20).map(|n| format!("id-{n}")).collect();
            assert_eq!(seen, sent);
        }
        made.delete().await;
    }
    let limited = Made::new(
        &client,
        QueueType::Quorum,
        json!({"x-delivery-limit": 2}),
        3,
    )
    .await;
    let mut wanted = Wanted::all(9);
    let refused = client.peek(
        &limited.queue,
        3,
        Duration::from_secs(1),
        &mut wanted,
        Keep::Envelope,
    );
    assert!(
        refused
            .await
            .expect_err("a refusal")
            .detail
            .contains("limit is 2")
    );
    assert_eq!(limited.drain().await.len(), 3);
    limited.delete().await;
    cleanup.run(false).await.expect("clean");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_takes_what_is_given_back_is_counted() {
    let vhost = RabbitNode::shared().vhost();
    let (client, cleanup) = client(&vhost).await;
    let made = Made::new(&client, QueueType::Classic, json!({}), 3).await;
    let (comes, others) = (Duration::from_millis(100), made.channel.clone());
    let name = ShortString::from(made.queue.name.as_str());
    let coming = tokio::spawn(async move {
        tokio::time::sleep(comes).await;
        let options = BasicConsumeOptions::default();
        let table = FieldTable::default();
        let worker = others.basic_consume(name, "worker".into(), options, table);
        worker.await.expect("a consumer")
    });
    // While we hold the messages somebody else begins to consume, and has them when we give them back.
    let held = client.hold(&made.queue, 3, Duration::from_mins(1), |delivery| {
        if delivery.delivery_tag == 1 {
            std::thread::sleep(comes * 5);
        }
    });
    let held = held.await.expect("a look");
    assert_eq!((held.messages, held.consumers), (3, 1));
    drop(coming.await.expect("it came"));
    made.delete().await;
    cleanup.run(false).await.expect("clean");
}

#[tokio::test]
async fn headers_of_every_kind_and_messages_of_others() {
    let vhost = RabbitNode::shared().vhost();
    let (client, cleanup) = client(&vhost).await;
    let made = Made::new(&client, QueueType::Classic, json!({}), 0).await;
    let mut odd = FieldTable::default();
    let mut array = FieldArray::default();
    array.push(AMQPValue::Void);
    odd.insert(
        "id".into(),
        AMQPValue::LongString(vec![0xff_u8, 0xfe].into()),
    );
    odd.insert("task".into(), AMQPValue::Void);
    odd.insert("eta".into(), AMQPValue::Timestamp(u64::MAX));
    odd.insert(
        "expires".into(),
        AMQPValue::DecimalValue(DecimalValue { scale: 3, value: 9 }),
    );
    odd.insert("x-death".into(), AMQPValue::FieldArray(array));
    odd.insert("retries".into(), AMQPValue::Double(1.5));
    publish(
        &made.channel,
        &made.queue.name,
        b"\xff\x00",
        BasicProperties::default().with_headers(odd),
    )
    .await;
    publish(
        &made.channel,
        &made.queue.name,
        b"",
        BasicProperties::default(),
    )
    .await;
    let large = vec![b'x'; 20 << 20];
    publish(
        &made.channel,
        &made.queue.name,
        &large,
        BasicProperties::default(),
    )
    .await;
    let one = BasicProperties::default().with_content_type("application/json".into());
    publish(
        &made.channel,
        &made.queue.name,
        br#"{"id": "one", "task": "t"}"#,
        one,
    )
    .await;
    made.wait_for(&client, 4).await;
    let look = peek(&client, &made, 10).await;
    assert_eq!((look.facts.messages, look.facts.malformed), (4, 2));
    assert_eq!((look.found.len(), look.found[0].position), (1, 4));
    assert_eq!(look.found[0].envelope.id, "one");
    made.delete().await;
    cleanup.run(false).await.expect("clean");
}

#[tokio::test]
async fn many_queues_at_once() {
    let vhost = RabbitNode::shared().vhost();
    let (client, cleanup) = client(&vhost).await;
    let made = Made::new(&client, QueueType::Classic, json!({}), 3).await;
    let owner = client.channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    owner
        .queue_declare("held".into(), exclusive, FieldTable::default())
        .await
        .expect("a queue");
    let other = Arc::new(client.another(&cleanup).await.expect("a connection"));
    let mut names: Vec<String> = (0..100).map(|n| format!("missing-{n}")).collect();
    names.extend([made.queue.name.clone(), "held".to_owned(), "x".repeat(300)]);
    let depths = other.depths(names).await.expect("a connection");
    assert_eq!(depths.len(), 103);
    let there = Depth::There {
        ready: 3,
        consumers: 0,
    };
    assert_eq!(depths[&made.queue.name], there);
    assert_eq!(depths["held"], Depth::Locked);
    assert_eq!(depths["missing-7"], Depth::Missing);
    assert_eq!(depths[&"x".repeat(300)], Depth::Missing);
    made.delete().await;
    cleanup.run(false).await.expect("clean");
    let lost = other.depths(["held".to_owned()]).await;
    assert_eq!(lost.expect_err("closed").reason, Reason::Unreachable);
    assert!(client.depth("held").await.is_err(), "closed");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let vhost = RabbitNode::shared().vhost();
    let refused = async |change: &dyn Fn(&mut AmqpServer)| {
        let mut server = server(&vhost);
        change(&mut server);
        let cleanup = Cleanup::default();
        let why = AmqpClient::connect(&[server], &cleanup)
            .await
            .err()
            .expect("no way in");
        assert!(!why.detail.contains("s3cret"));
        why
    };
    let why = refused(&|server| server.password = "s3cret".into()).await;
    assert_eq!(why.reason, Reason::Refused);
    assert!(why.detail.contains("refused the login of user guest"));
    let why = refused(&|server| server.vhost = "nowhere".to_owned()).await;
    assert_eq!(why.reason, Reason::Unreachable);
    assert!(why.detail.contains("no virtual host \"nowhere\""));
    let why = refused(&|server| server.port = 1).await;
    assert!(why.detail.contains("no connection to"));
    // Somebody who accepts and says nothing.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = deaf.local_addr().expect("an address").port();
    let why = refused(&|server| server.port = port).await;
    assert_eq!(why.reason, Reason::TimedOut, "{why:?}");
}
