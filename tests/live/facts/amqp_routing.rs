//! Where RabbitMQ sends a message: a real one is asked, and must do what the tool says.

use std::collections::BTreeMap;

use celery_doctor::celery::amqp_routing::{
    Arguments, Binding, Destination, Exchange, Routed, Topology,
};
use celery_doctor::routes::definitions;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::lab::Lab;

/// Random exchanges, queues and bindings, messages that are often made to fit, and the queues these were found in.
const TOPOLOGIES: &str = r"
import json, labapp, random
random.seed(20260131)
words = ['*', '#', '*', '#', 'a', 'b', 'ab', '', 'a*', '#b', 'ä']
# No number stands here as an integer and as a float: 1 is 1.0 to RabbitMQ before 3.13 only.
values = [1, 2, 2.5, 'a', '1', '', True, False, None]
names = ['a', 'b', 'c', 'x-a', 'x-b']
def key():
    return '.'.join(random.choices(words, k=random.randint(0, 4)))
def table(most):
    return {name: random.choice(values) for name in random.sample(names, random.randint(0, most))}
def fitting(bindings):
    'A key and headers, often made to fit a binding.'
    routing_key, headers = key(), table(4)
    if bindings and random.random() < .7:
        _, _, _, pattern, arguments = random.choice(bindings)
        fill = lambda word: {'*': random.choice(['a', 'b', '']), '#': random.choice(['', 'a', 'a.b'])}.get(word, word)
        routing_key = '.'.join(map(fill, pattern.split('.')))
        if random.random() < .6:
            routing_key = routing_key.replace('..', '.').strip('.')
        wanted = {k: random.choice(values) if v is None else v for k, v in arguments.items() if k != 'x-match'}
        headers = {k: v for k, v in {**headers, **wanted}.items() if random.random() < .9}
    if random.random() < .1:
        headers[random.choice(['CC', 'BCC'])] = [key() for _ in range(random.randint(0, 2))]
    return routing_key, headers
cases = []
with labapp.app.connection_for_write() as connection:
    channel = connection.channel()
    for n in range(200):
        exchanges = {f'e{n}-{i}': [random.choice(['direct', 'topic', 'fanout', 'headers']), None] for i in range(random.randint(1, 4))}
        targets = [*exchanges, f'missing{n}', '']
        for name, exchange in exchanges.items():
            arguments = {}
            if random.random() < .3:
                exchange[1] = random.choice(targets)
                arguments['alternate-exchange'] = exchange[1]
            channel.exchange_declare(name, exchange[0], durable=False, auto_delete=False, nowait=True, arguments=arguments)
        queues = [f'q{n}-{i}' for i in range(random.randint(1, 3))]
        for queue in queues:
            channel.queue_declare(queue, durable=False, auto_delete=False, nowait=True)
        bindings = []
        for _ in range(random.randint(0, 7)):
            source, pattern, arguments = random.choice(list(exchanges)), key(), table(3)
            if random.random() < .7:
                arguments['x-match'] = random.choice(['all', 'any', 'all-with-x', 'any-with-x'])
            if random.random() < .3:
                to, is_exchange = random.choice(list(exchanges)), True
                channel.exchange_bind(to, source, pattern, nowait=True, arguments=arguments)
            else:
                to, is_exchange = random.choice(queues), False
                channel.queue_bind(to, source, pattern, nowait=True, arguments=arguments)
            bindings.append((source, to, is_exchange, pattern, arguments))
        sent = []
        for number in range(8):
            exchange = random.choice([*exchanges, *exchanges, ''])
            routing_key, headers = fitting(bindings)
            if random.random() < .1:
                routing_key = random.choice(queues)
            channel.basic_publish(channel.prepare_message(str(number), content_encoding='utf-8', headers=headers), exchange, routing_key)
            sent.append([exchange, routing_key, headers, []])
        for queue in queues:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                sent[int(message.body)][3].append(queue)
            channel.queue_delete(queue, nowait=True)
        for name in exchanges:
            channel.exchange_delete(name, nowait=True)
        cases.append({'exchanges': exchanges, 'queues': queues, 'bindings': bindings, 'sent': sent})
print(json.dumps(cases))
";

#[derive(Deserialize)]
struct Case {
    exchanges: BTreeMap<String, (String, Option<String>)>,
    queues: Vec<String>,
    /// Source, destination, whether that is an exchange, routing key, arguments.
    bindings: Vec<(String, String, bool, String, Arguments)>,
    /// Exchange, routing key, headers, and the queues that the message was found in.
    sent: Vec<(String, String, Arguments, Vec<String>)>,
}

impl Case {
    fn topology(&self) -> Topology<'_> {
        let exchanges = self.exchanges.iter();
        let bindings = self.bindings.iter();
        Topology::new(
            exchanges.map(|(name, (kind, alternate))| Exchange {
                name,
                kind,
                internal: false,
                alternate: alternate.as_deref(),
            }),
            self.queues.iter().map(String::as_str),
            bindings.map(
                |(source, to, is_exchange, routing_key, arguments)| Binding {
                    source,
                    destination: if *is_exchange {
                        Destination::Exchange(to)
                    } else {
                        Destination::Queue(to)
                    },
                    routing_key,
                    arguments,
                },
            ),
        )
    }
}

#[test]
fn messages_go_where_the_broker_sends_them() {
    let lab = Lab::new();
    let vhost = lab.rabbitmq();
    let cases = lab.python_json(&json!({"broker_url": vhost.url()}), TOPOLOGIES);
    let cases: Vec<Case> = serde_json::from_value(cases).unwrap();
    let (mut some, mut several, mut none) = (0, 0, 0);
    for case in &cases {
        let topology = case.topology();
        for (exchange, routing_key, headers, queues) in &case.sent {
            let expected = match queues.len() {
                0 => Routed::Nowhere,
                _ => Routed::Queues(queues.iter().map(String::as_str).collect()),
            };
            let ours = topology.route(exchange, routing_key, Some(headers));
            assert_eq!(
                ours, expected,
                "exchange {exchange:?}, key {routing_key:?}, headers {headers:?} in {topology:#?}"
            );
            match queues.len() {
                0 => none += 1,
                1 => some += 1,
                _ => several += 1,
            }
        }
    }
    assert!(
        some > 250 && several > 50 && none > 250,
        "{some} to one queue, {several} to several, {none} to none"
    );
}

/// Native delayed delivery as kombu declares it, a queue bound to it as a worker does, messages published into it, and the
/// queues these were found in.
const DELAYED: &str = r"
import json, labapp
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange, calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues)
found = []
with labapp.app.connection_for_write() as connection:
    declare_native_delayed_delivery_exchanges_and_queues(connection, 'classic')
    channel = connection.channel()
    mail = Queue('mail', Exchange('shop', 'topic'), routing_key='mail')(channel)
    mail.declare()
    bind_queue_to_native_delayed_delivery_exchange(connection, mail)
    for exchange, key in [*(('celery_delayed_27', calculate_routing_key(n, 'mail')) for n in (60, 90, 5000, 2 ** 27, 2 ** 28 - 1)),
                          *(('celery_delayed_5', calculate_routing_key(n, 'mail')) for n in (90, 2 ** 20)),
                          *(('celery_delayed_delivery', calculate_routing_key(n, 'mail')) for n in (1, 90)),
                          ('celery_delayed_delivery', calculate_routing_key(90, 'emial')), ('shop', 'mail'), ('shop', 'a.mail'),
                          ('shop', 'mail.a'), ('celery_delayed_27', 'mail')]:
        channel.basic_publish(channel.prepare_message('x', content_encoding='utf-8'), exchange, key)
        queues = ['mail', *(f'celery_delayed_{n}' for n in range(28))]
        found.append((exchange, key, [q for q in queues if channel.basic_get(q, no_ack=True) is not None]))
print(json.dumps(found))
";

#[test]
fn native_delayed_delivery_is_routed_as_the_broker_routes_it() {
    let lab = Lab::new();
    let vhost = lab.rabbitmq();
    let found = lab.python_json(&json!({"broker_url": vhost.url()}), DELAYED);
    let found: Vec<(String, String, Vec<String>)> = serde_json::from_value(found).unwrap();
    let export = vhost
        .node
        .api("GET", &vhost.path("definitions", ""), &Value::Null);
    let definitions = definitions::parse(export.to_string().as_bytes(), None).unwrap();
    let alternates = definitions.alternates();
    let topology = definitions.topology(&alternates);
    assert_eq!(found.len(), 14);
    for (exchange, key, queues) in &found {
        let expected = match queues.len() {
            0 => Routed::Nowhere,
            _ => Routed::Queues(queues.iter().map(String::as_str).collect()),
        };
        assert_eq!(
            topology.route(exchange, key, None),
            expected,
            "{exchange} {key}"
        );
    }
    let reached: usize = found.iter().map(|(_, _, queues)| queues.len()).sum();
    assert_eq!(reached, 11, "{found:?}");
}
