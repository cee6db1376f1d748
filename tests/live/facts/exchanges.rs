//! Where a message goes: kombu is asked, and must say what the tool says.

use celery_doctor::celery::exchange::{
    Binding, DEFAULT_SEP, ExchangeType, lookup, message_priority, queue_key,
};
use redis::Commands as _;
use serde::Deserialize;
use serde_json::json;

use crate::lab::Lab;

/// Random patterns and keys, the keys often made to fit. kombu takes some patterns for broken expressions: then nothing
/// is delivered at all.
const MATCHES: &str = r"
import json, random
from kombu.transport.virtual.exchange import TopicExchange
random.seed(20260131)
topic = TopicExchange(None)
words = ['*', '#', '*', '#', 'a', 'news', 'sport', 'ä', 'a-b', 'x_y', 'a+b', '', '7', '*a', 'b*', '#c', '(', ' ', '\\d', '$', '^', '日本',
         '[a]', 'a|b', '\n']
cases = []
for _ in range(500):
    chosen = random.choices(words, k=random.randint(1, 4))
    _, pattern, _ = topic.prepare_bind('q', 'e', '.'.join(chosen), {})
    for _ in range(10):
        filled = [{'*': random.choice(['a', 'news', '']), '#': random.choice(['', 'a', 'a.b', 'a.b.c'])}.get(word, word)
                  for word in chosen]
        key = '.'.join(filled if random.random() < .6 else random.choices(words, k=random.randint(0, 4)))
        try:
            matches = bool(topic._match(pattern, key))
        except Exception:
            matches = False
        cases.append((pattern, key, matches))
print(json.dumps(cases))
";

#[test]
fn topics_match_as_in_kombu() {
    let lab = Lab::new();
    let cases: Vec<(String, String, bool)> =
        serde_json::from_value(lab.python_json(&json!({}), MATCHES)).unwrap();
    let hits = cases.iter().filter(|(_, _, matches)| *matches).count();
    assert!(
        hits > 500 && cases.len() - hits > 500,
        "{hits} of {}",
        cases.len()
    );
    for (pattern, key, matches) in cases {
        let table = [Binding {
            routing_key: String::new(),
            pattern: pattern.clone(),
            queue: "q".into(),
        }];
        let ours = !lookup(ExchangeType::Topic, &table, &key).is_empty();
        assert_eq!(ours, matches, "{pattern:?} and {key:?}");
    }
}

/// Real tables in Redis, written and looked up by kombu's own channel.
const TABLES: &str = r"
import json, labapp
from kombu import Exchange, Queue
cases = []
with labapp.app.connection_for_write() as connection:
    channel = connection.default_channel
    for kind, keys in {'direct': ['order', 'order', 'refund', ''], 'topic': ['order.#', 'order.*', '#', 'refund'],
                       'fanout': ['', 'order', 'x']}.items():
        exchange = Exchange('e-' + kind, kind)
        for number, key in enumerate(keys):
            Queue(f'{kind}-{number}', exchange, routing_key=key)(channel).declare()
        for key in ['order', 'order.new', 'order.new.big', 'refund', 'nothing', '', 'x']:
            cases.append((kind, key, sorted(channel._lookup('e-' + kind, key))))
print(json.dumps(cases))
";

#[test]
fn every_type_of_exchange_is_looked_up_as_in_kombu() {
    let lab = Lab::new();
    let server = lab.redis();
    let cases = lab.python_json(&json!({"broker_url": server.db(0)}), TABLES);
    let cases: Vec<(ExchangeType, String, Vec<String>)> = serde_json::from_value(cases).unwrap();
    assert_eq!(cases.len(), 21);
    for (kind, key, queues) in cases {
        let name = format!("_kombu.binding.e-{}", format!("{kind:?}").to_lowercase());
        let members: Vec<Vec<u8>> = server.connect().smembers(name).unwrap();
        let table: Vec<Binding> = members
            .iter()
            .map(|m| Binding::parse(m, DEFAULT_SEP).unwrap())
            .collect();
        let ours: Vec<&str> = lookup(kind, &table, &key).into_iter().collect();
        assert_eq!(ours, queues, "{kind:?} {key:?}");
    }
}

#[derive(Deserialize)]
struct PriorityCase {
    steps: Vec<i64>,
    priority: Option<i64>,
    key: String,
}

const PRIORITIES: &str = r"
import json
from kombu import Connection
cases = []
for steps in ([0, 3, 6, 9], [0], [0, 5], [9, 6, 3, 0], [2, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]):
    channel = Connection('redis://127.0.0.1:1/0', transport_options={'priority_steps': steps}).transport.Channel
    class Bare(channel):
        def __init__(self): self.priority_steps = sorted(steps) if SORTED else steps
    for priority in [None, -5, -1, *range(12), 255, 300]:
        message = {'properties': {} if priority is None else {'priority': priority}}
        acted_on = Bare()._get_message_priority(message, reverse=False)
        cases.append({'steps': Bare().priority_steps, 'priority': priority, 'key': Bare()._q_for_pri('q', acted_on)})
print(json.dumps(cases))
";

#[test]
fn priorities_choose_the_list_that_kombu_chooses() {
    let lab = Lab::new();
    for sorted in ["True", "False"] {
        let cases = lab.python_json(&json!({}), &PRIORITIES.replace("SORTED", sorted));
        let cases: Vec<PriorityCase> = serde_json::from_value(cases).unwrap();
        for case in cases {
            let ours = queue_key(
                "q",
                message_priority(case.priority),
                &case.steps,
                DEFAULT_SEP,
            );
            assert_eq!(ours, case.key, "{:?} in {:?}", case.priority, case.steps);
        }
    }
}
