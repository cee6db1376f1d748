//! Where a task goes: Celery is asked, and must say what the tool says.

use celery_doctor::celery::routing::{
    self, Config, Entry, Exchange, Fault, Gap, Options, Pattern, Queue, Route, Router, Target,
    python_regex,
};
use serde_json::{Value, json};

use crate::lab::Lab;

/// Random configurations from a fixed seed, each with some tasks, their options and those of a call. What Celery hands to
/// the producer is the answer; an exception is one too.
const CONFIGURATIONS: &str = r"
import contextlib, json, random, re, warnings
from celery import Celery
from celery.exceptions import QueueNotFound
from kombu import Exchange, Queue
from kombu.common import Broadcast
warnings.simplefilter('ignore')
random.seed(20260131)
R = random

class Connection:
    @contextlib.contextmanager
    def _reraise_as_library_errors(self):
        yield

class Producer:
    connection = Connection()
    def publish(self, body, exchange=None, routing_key=None, declare=None, **kw):
        self.sent = [exchange if exchange is None or isinstance(exchange, str) else exchange.name, routing_key,
                     [[q.name, q.exchange.name, q.exchange.type, q.routing_key] for q in declare or []]]

names = ['shop.mail', 'shop.mail.send', 'shop.pay', 'video.cut', 'video.c', 'a', 'shopxmail', 'sho-p', '[x]', 'a\n']
queues = ['celery', 'mail', 'pay', 'video', 'q5', 'a b']
kinds = ['direct', 'topic', 'fanout', 'headers']
keys = ['mail', 'mail.#', '*.pay', 'video.cut', '']
globs = ['shop.*', 'shop.mail*', '*', '*.mail', 'video.?*', '*[a-c]', '*[!t]', 'sho[x-p]*', '*[]x]*', 'shop?mail*', 'sho[-a]p*',
         'v*.c', '[*', '*\n', 'sho[a-c-e]*p', '[[]x]*', '*[', 'shop**mail']
regexes = [r'shop\.(mail|pay)', r'video\..*', r'a$', r'shop', r'.*\.mail\Z', r'[a-v]+\.c', r'(?:shop|video)\.', r'\w+\.\w+$', r'^a',
           r'(?P<x>shop).mail', r's{1}h', r'a{,2}', r'(?=shop)', r'sh(o)p\.\1', r'[^s].*', r'(?i)SHOP']

def maybe(p, value):
    return value() if R.random() < p else None

def options(p=.5, objects=True):
    out = {}
    for name, values, chance in (('queue', queues + ['unknown', ''], .5), ('exchange', ['ex', 'media', ''], .25),
                                 ('routing_key', keys + ['k'], .25), ('exchange_type', kinds, .1)):
        if R.random() < p * chance * 1.6:
            out[name] = R.choice(values)
    return out

def queue():
    q = {'name': R.choice(queues)}
    if R.random() < .6:
        q['exchange'] = R.choice(['', 'ex', 'media', 'mail'])
        q['exchange_type'] = R.choice(kinds)
    if R.random() < .6:
        q['routing_key'] = R.choice(keys)
    q['broadcast'] = R.random() < .06
    return q

def build_queue(q):
    if q['broadcast']:
        return Broadcast(q['name'])
    kw = {}
    if 'exchange' in q:
        kw['exchange'] = Exchange(q['exchange'], type=q['exchange_type'])
    if 'routing_key' in q:
        kw['routing_key'] = q['routing_key']
    return Queue(q['name'], **kw)

def route():
    kind = R.random()
    if kind < .3:
        return R.choice(queues + ['unknown', ''])
    if kind < .36:
        return {}
    if kind < .42:
        return {'priority': 3}
    return options(.9)

def router():
    lines = []
    for _ in range(R.randint(0, 4)):
        key = R.choice([{'name': R.choice(names)}, {'name': R.choice(globs)}, {'name': R.choice(globs)},
                        {'regex': R.choice(regexes)}])
        lines.append([key, route()])
    return lines

def build_router(lines):
    pairs = [(re.compile(k['regex']) if 'regex' in k else k['name'], v) for k, v in lines]
    return dict(pairs) if R.random() < .5 else pairs

def run():
    pass

cases = []
for number in range(2200):
    conf = {}
    for name, value in (('task_default_queue', lambda: R.choice(['celery', 'mail', 'main'])),
                        ('task_default_exchange', lambda: R.choice(['media', 'main', ''])),
                        ('task_default_exchange_type', lambda: R.choice(kinds)),
                        ('task_default_routing_key', lambda: R.choice(keys)),
                        ('task_create_missing_queues', lambda: R.choice([True, False])),
                        ('task_create_missing_queue_type', lambda: R.choice(['classic', 'quorum'])),
                        ('task_create_missing_queue_exchange_type', lambda: R.choice(kinds))):
        if R.random() < .25:
            conf[name] = value()
    declared = maybe(.6, lambda: [queue() for _ in range(R.randint(0, 4))])
    by_dict = R.random() < .3
    routers = maybe(.9, lambda: [router() for _ in range(R.choice([1, 1, 1, 2, 3]))])
    app = Celery('x', set_as_current=False, broker='memory://')
    app.conf.update(conf)
    if declared is not None:
        if by_dict:
            declared = [q for q in declared if not q['broadcast']]
            seen = {}
            for q in declared:
                seen[q['name']] = q
            declared = list(seen.values())
            app.conf.task_queues = {q['name']: {k: v for k, v in q.items() if k not in ('name', 'broadcast')} for q in declared}
        else:
            app.conf.task_queues = [build_queue(q) for q in declared]
    if routers is not None:
        built = [build_router(lines) for lines in routers]
        # A map alone may stand without a list about it.
        app.conf.task_routes = built[0] if len(built) == 1 and isinstance(built[0], dict) and R.random() < .5 else built
    asked = []
    for name in R.sample(names, 4):
        of_task, of_call = maybe(.25, options) or {}, maybe(.4, options) or {}
        task = app.task(run, name=name, **of_task)
        producer = Producer()
        try:
            task.apply_async(producer=producer, ignore_result=True, **of_call)
            answer = {'sent': producer.sent}
        except QueueNotFound:
            answer = {'missing': True}
        except KeyError:
            answer = {'missing': True}
        asked.append({'task': name, 'of_task': of_task, 'of_call': of_call, 'answer': answer})
    cases.append({'conf': conf, 'queues': declared, 'by_dict': by_dict, 'routers': routers, 'asked': asked})
print(json.dumps(cases))
";

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn options(value: &Value) -> Options {
    Options {
        queue: Ok(text(&value["queue"]).map(Target::Name)),
        exchange: Ok(text(&value["exchange"])),
        exchange_type: Ok(text(&value["exchange_type"])),
        routing_key: Ok(text(&value["routing_key"])),
    }
}

fn queue(value: &Value, by_dict: bool) -> Queue {
    let name = value["name"].as_str().unwrap();
    let mut queue = Queue::named(name);
    if value["broadcast"] == true {
        queue.broadcast = true;
        queue.alias = Some(name.to_owned());
        queue.exchange = Exchange {
            name: name.to_owned(),
            kind: "fanout".into(),
        };
        return queue;
    }
    if let Some(exchange) = value["exchange"].as_str() {
        queue.exchange = Exchange {
            name: exchange.to_owned(),
            kind: text(&value["exchange_type"]).unwrap(),
        };
    }
    queue.routing_key = text(&value["routing_key"]).unwrap_or_default();
    // A declaration in a dict is bound by the queue's name where no key is given.
    if by_dict && value["routing_key"].is_null() {
        name.clone_into(&mut queue.routing_key);
    }
    queue
}

fn gap() -> Gap {
    Gap {
        why: "beyond Rust".into(),
        file: String::new(),
        line: 0,
    }
}

fn router(value: &Value) -> Router {
    let mut entries = Vec::new();
    for line in value.as_array().unwrap() {
        let pattern = match line[0]["regex"].as_str() {
            Some(source) => Pattern::Regex {
                source: source.to_owned(),
                regex: python_regex(source).ok_or_else(gap),
            },
            None => Pattern::of_text(line[0]["name"].as_str().unwrap()),
        };
        let route = match line[1].as_str() {
            Some("") => Route {
                options: Options::default(),
                empty: true,
            },
            Some(queue) => Route {
                options: Options::to_queue(queue),
                empty: false,
            },
            None => Route {
                options: options(&line[1]),
                empty: line[1].as_object().unwrap().is_empty(),
            },
        };
        routing::insert(
            &mut entries,
            Entry {
                id: 0,
                pattern,
                route: Ok(route),
            },
        );
    }
    Router::Map(entries)
}

fn config(case: &Value) -> Config {
    let conf = &case["conf"];
    let mut config = Config::default();
    if let Some(name) = text(&conf["task_default_queue"]) {
        config.default_queue = Ok(name);
    }
    config.default_exchange = Ok(text(&conf["task_default_exchange"]));
    if let Some(kind) = text(&conf["task_default_exchange_type"]) {
        config.default_exchange_type = Ok(kind);
    }
    config.default_routing_key = Ok(text(&conf["task_default_routing_key"]));
    if let Some(create) = conf["task_create_missing_queues"].as_bool() {
        config.create_missing = Ok(create);
    }
    config.missing_exchange_type = Ok(text(&conf["task_create_missing_queue_exchange_type"]));
    let by_dict = case["by_dict"] == true;
    let queues = case["queues"].as_array().into_iter().flatten();
    config.queues = Ok(queues.map(|value| queue(value, by_dict)).collect());
    let routers = case["routers"].as_array().into_iter().flatten();
    config.routers = Ok(routers.map(router).collect());
    config
}

#[test]
fn tasks_go_where_celery_sends_them() {
    let lab = Lab::new();
    let cases = lab.python_json(&json!({}), CONFIGURATIONS);
    let cases = cases.as_array().unwrap();
    let (mut sent, mut missing, mut unknown) = (0, 0, 0);
    for case in cases {
        let config = config(case);
        for asked in case["asked"].as_array().unwrap() {
            // A task has no exchange type: Celery does not take it over into its messages.
            let of_task = Options {
                exchange_type: Ok(None),
                ..options(&asked["of_task"])
            };
            let options = of_task.overridden_by(&options(&asked["of_call"]));
            let task = asked["task"].as_str().unwrap();
            let expected = &asked["answer"];
            match config.route(task, &options) {
                Ok(ours) => {
                    let ours_sent = json!([ours.exchange.unwrap(), ours.routing_key.unwrap()]);
                    let theirs = json!([expected["sent"][0], expected["sent"][1]]);
                    assert_eq!(ours_sent, theirs, "{task} {asked} in {case}");
                    // A Broadcast makes up its queue's name, and is not declared by who sends.
                    let declared = expected["sent"][2].as_array().unwrap();
                    match declared.first() {
                        Some(first) => {
                            assert_eq!(json!(ours.queue), first[0], "{task} {asked} in {case}");
                        }
                        None => assert!(
                            ours.queue.is_none_or(|name| is_broadcast(case, &name)),
                            "{task} {asked} in {case}"
                        ),
                    }
                    sent += 1;
                }
                Err(Fault::QueueNotFound(..)) => {
                    assert_eq!(expected["missing"], true, "{task} {asked} in {case}");
                    missing += 1;
                }
                Err(Fault::Unknown(_)) => unknown += 1,
            }
        }
    }
    assert_eq!(cases.len(), 2200);
    assert!(
        sent > 7_000 && missing > 300 && unknown < 1_000,
        "{sent} sent, {missing} missing, {unknown} unknown"
    );
}

fn is_broadcast(case: &Value, name: &str) -> bool {
    let queues = case["queues"].as_array().into_iter().flatten();
    queues
        .filter(|queue| queue["broadcast"] == true)
        .any(|queue| queue["name"] == name)
}
