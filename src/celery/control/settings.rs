//! What a worker says about itself: its tasks, queues, statistics and settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{STARRED, text};

/// The attributes of a task that matter to its fate; `None` where the task has none, or the worker did not say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskTraits {
    /// Acknowledged after it ran.
    pub acks_late: Option<bool>,
    /// Back to the queue when its process dies.
    pub reject_on_worker_lost: Option<bool>,
    /// Its results are not stored.
    pub ignore_result: Option<bool>,
    /// Such as `10/m`.
    pub rate_limit: Option<String>,
    /// Seconds until it is killed.
    pub time_limit: Option<f64>,
    /// Seconds until it is warned.
    pub soft_time_limit: Option<f64>,
    /// How often it may be retried.
    pub max_retries: Option<i64>,
}

pub(super) const TRAITS: [&str; 7] = [
    "acks_late",
    "reject_on_worker_lost",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
    "rate_limit",
    "max_retries",
];

/// The answer to `registered` with the argument `taskinfoitems`: texts such as `lab.add [acks_late=True time_limit=3600]`.
pub fn decode_registered(answer: &Value) -> BTreeMap<String, TaskTraits> {
    answer
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(task_traits)
        .collect()
}

/// Names and values may hold spaces and brackets, so the traits begin at the first ` [` that a trait's name follows.
fn task_traits(entry: &str) -> (String, TaskTraits) {
    let mut traits = TaskTraits::default();
    let listed = entry.strip_suffix(']').and_then(|entry| {
        entry
            .match_indices(" [")
            .find(|(at, _)| starts_trait(&entry[at + 2..]))
            .map(|(at, _)| entry.split_at(at))
    });
    let Some((name, list)) = listed else {
        return (entry.to_owned(), traits);
    };
    let mut rest = &list[2..];
    while !rest.is_empty() {
        let end = rest
            .match_indices(' ')
            .find(|(at, _)| starts_trait(&rest[at + 1..]))
            .map_or(rest.len(), |(at, _)| at);
        if let Some((key, value)) = rest[..end].split_once('=') {
            set_trait(&mut traits, key, value);
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    (name.to_owned(), traits)
}

fn starts_trait(text: &str) -> bool {
    TRAITS.iter().any(|name| {
        text.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('='))
    })
}

fn set_trait(traits: &mut TaskTraits, key: &str, value: &str) {
    let flag = match value {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    match key {
        "acks_late" => traits.acks_late = flag,
        "reject_on_worker_lost" => traits.reject_on_worker_lost = flag,
        "ignore_result" => traits.ignore_result = flag,
        "rate_limit" => traits.rate_limit = Some(value.to_owned()),
        "time_limit" => traits.time_limit = value.parse().ok(),
        "soft_time_limit" => traits.soft_time_limit = value.parse().ok(),
        "max_retries" => traits.max_retries = value.parse().ok(),
        _ => {}
    }
}

/// A queue that a worker consumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveQueue {
    /// Its name.
    pub name: String,
    /// The exchange it is bound to.
    pub exchange: Option<String>,
    /// `direct`, `topic` or `fanout`.
    pub exchange_type: Option<String>,
    /// The key it is bound with.
    pub routing_key: Option<String>,
}

/// The answer to `active_queues`.
pub fn decode_active_queues(answer: &Value) -> Vec<ActiveQueue> {
    let read = |queue: &Value| {
        let exchange = queue.get("exchange").unwrap_or(&Value::Null);
        Some(ActiveQueue {
            name: text(queue, "name")?,
            exchange: text(exchange, "name"),
            exchange_type: text(exchange, "type"),
            routing_key: text(queue, "routing_key"),
        })
    };
    answer
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(read)
        .collect()
}

/// What a worker counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// How many tasks it runs at once.
    pub concurrency: Option<u64>,
    /// How many messages it takes at once; 0 for no limit.
    pub prefetch_count: Option<u64>,
    /// The class of its pool.
    pub pool: Option<String>,
    /// Seconds since it started.
    pub uptime: Option<f64>,
    /// Its main process.
    pub pid: Option<i64>,
    /// How many pool processes it has.
    pub processes: Option<u64>,
    /// Which these are; empty where it did not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub process_ids: Vec<i64>,
    /// How many of them take tasks: not those that are still starting. The prefork pool alone tells (Celery 5.7
    /// concurrency/asynpool.py, `human_write_stats`).
    pub ready_processes: Option<u64>,
    /// How it talks to the broker.
    pub transport: TransportOptions,
    /// How many of each task it has accepted.
    pub total: BTreeMap<String, u64>,
}

impl Stats {
    /// How many tasks it has accepted in all.
    pub fn begun(&self) -> u64 {
        self.total.values().copied().fold(0, u64::saturating_add)
    }
}

/// `broker_transport_options`, as far as they decide where messages are. `None` means kombu's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransportOptions {
    /// Seconds after which an unacknowledged message is restored.
    pub visibility_timeout: Option<f64>,
    /// The priorities that have a list.
    pub priority_steps: Option<Vec<i64>>,
    /// The separator in keys.
    pub sep: Option<String>,
    /// The prefix of every key.
    pub global_keyprefix: Option<String>,
    /// The name of the hash of reservations.
    pub unacked_key: Option<String>,
    /// The name of the index of reservations.
    pub unacked_index_key: Option<String>,
    /// The name of the lock of the sweep.
    pub unacked_mutex_key: Option<String>,
    /// Seconds between sweeps (kombu 5.7).
    pub unacked_restore_interval: Option<f64>,
    /// How many messages a sweep restores (kombu 5.7).
    pub unacked_restore_limit: Option<u64>,
    /// Every how many of those visits really look.
    pub unacked_restore_throttle: Option<f64>,
    /// Off: nothing is kept in `unacked`.
    pub ack_emulation: Option<bool>,
    /// Where undeliverable messages go.
    pub deadletter_queue: Option<String>,
    /// RabbitMQ: the sender waits until the server has a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_publish: Option<bool>,
}

/// The answer to `stats`.
pub fn decode_stats(answer: &Value) -> Stats {
    let pool = answer.get("pool").unwrap_or(&Value::Null);
    let options = answer
        .pointer("/broker/transport_options")
        .unwrap_or(&Value::Null);
    let number = |key: &str| options.get(key).and_then(Value::as_f64);
    let totals = answer
        .get("total")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    Stats {
        concurrency: pool.get("max-concurrency").and_then(Value::as_u64),
        prefetch_count: answer.get("prefetch_count").and_then(Value::as_u64),
        pool: text(pool, "implementation"),
        uptime: answer.get("uptime").and_then(Value::as_f64),
        pid: answer.get("pid").and_then(Value::as_i64),
        processes: pool
            .get("processes")
            .and_then(Value::as_array)
            .map(|list| list.len() as u64),
        process_ids: pool
            .get("processes")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_i64).collect())
            .unwrap_or_default(),
        ready_processes: pool
            .pointer("/writes/inqueues/total")
            .and_then(Value::as_u64),
        transport: TransportOptions {
            visibility_timeout: number("visibility_timeout"),
            priority_steps: options
                .get("priority_steps")
                .and_then(Value::as_array)
                .map(|steps| steps.iter().filter_map(Value::as_i64).collect()),
            sep: text(options, "sep"),
            global_keyprefix: text(options, "global_keyprefix"),
            unacked_key: text(options, "unacked_key"),
            unacked_index_key: text(options, "unacked_index_key"),
            unacked_mutex_key: text(options, "unacked_mutex_key"),
            unacked_restore_interval: number("unacked_restore_interval"),
            unacked_restore_limit: options.get("unacked_restore_limit").and_then(Value::as_u64),
            unacked_restore_throttle: number("unacked_restore_throttle"),
            ack_emulation: options.get("ack_emulation").and_then(Value::as_bool),
            deadletter_queue: text(options, "deadletter_queue"),
            confirm_publish: options.get("confirm_publish").and_then(Value::as_bool),
        },
        total: totals
            .filter_map(|(task, count)| Some((task.clone(), count.as_u64()?)))
            .collect(),
    }
}

/// A route of `task_routes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The task's name, or a pattern of names.
    pub pattern: String,
    /// The queue it goes to.
    pub queue: Option<String>,
    /// The exchange it goes to.
    pub exchange: Option<String>,
    /// The key it goes with.
    pub routing_key: Option<String>,
}

/// What [`Conf::result_backend`] is where results are off (Celery 5.7 app/utils.py, `bugreport`).
pub const DISABLED: &str = "disabled";

/// Settings as the app has them, Celery's defaults among them; `None` where they can't be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conf {
    /// Content types that the worker takes.
    pub accept_content: Option<Vec<String>>,
    /// No results are stored.
    pub task_ignore_result: Option<bool>,
    /// Seconds until a result goes; 0 for never.
    pub result_expires: Option<f64>,
    /// The kind of result backend: the scheme of its URL, and no more of it; [`DISABLED`] where there is none.
    pub result_backend: Option<String>,
    /// The database of a result backend on Redis, where its URL names one server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_database: Option<u32>,
    /// Tasks are acknowledged after they ran.
    pub task_acks_late: Option<bool>,
    /// Messages taken for each process.
    pub worker_prefetch_multiplier: Option<u64>,
    /// Seconds that a pool process may take to start.
    pub worker_proc_alive_timeout: Option<f64>,
    /// The routes, in their order. Routers that are functions are left out.
    pub task_routes: Option<Vec<Route>>,
    /// Whether there are routers that were left out of `task_routes`.
    #[serde(default)]
    pub has_other_routers: bool,
    /// Where tasks without a route go.
    pub task_default_queue: Option<String>,
    /// Tasks say STARTED.
    pub task_track_started: Option<bool>,
    /// Results carry name, worker and queue.
    pub result_extended: Option<bool>,
    /// `global_keyprefix` of `result_backend_transport_options`; empty where there is none, [`super::STARRED`] where there
    /// is one.
    pub result_key_prefix: Option<String>,
}

impl Conf {
    /// The settings of an app that sets none (Celery 5.7 app/defaults.py).
    pub fn defaults() -> Self {
        Self {
            accept_content: Some(vec!["json".to_owned()]),
            task_ignore_result: Some(false),
            result_expires: Some(86_400.0),
            result_backend: Some(DISABLED.to_owned()),
            result_database: None,
            task_acks_late: Some(false),
            worker_prefetch_multiplier: Some(4),
            worker_proc_alive_timeout: Some(4.0),
            task_routes: Some(Vec::new()),
            has_other_routers: false,
            task_default_queue: Some("celery".to_owned()),
            task_track_started: Some(false),
            result_extended: Some(false),
            result_key_prefix: Some(String::new()),
        }
    }

    /// Sets the result backend to what a worker uses, by its answer to `report` (see [`super::decode_report`]): there the
    /// environment variable `CELERY_RESULT_BACKEND` counts, which wins over the settings and is in no answer to `conf`
    /// (Celery 5.7 app/utils.py, `Settings.result_backend`).
    pub fn set_result_backend(&mut self, url: &str) {
        self.result_backend = scheme(url);
        self.result_database = redis_database(url);
    }
}

/// The scheme of a result backend's URL, or its alias. With `db+` and the like the first part.
fn scheme(url: &str) -> Option<String> {
    let scheme = url.split(['+', ':']).next()?;
    let plain = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    plain.then(|| scheme.to_owned())
}

/// The database that a URL of Redis names, 0 where it names none (Celery 5.7 backends/redis.py, `_params_from_url`).
fn redis_database(url: &str) -> Option<u32> {
    let (scheme, rest) = url.split_once("://")?;
    let one_server = ["redis", "rediss"].contains(&scheme) && !rest.contains([';', ',']);
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    // An address without a path may have one in its query.
    if !one_server || query.contains("virtual_host") {
        return None;
    }
    match address.rsplit_once('/') {
        None | Some((_, "")) => Some(0),
        Some((_, database)) => database.parse().ok(),
    }
}

/// The names in Celery 3 of the settings that [`decode_conf`] reads (Celery 5.7 app/defaults.py, `_TO_OLD_KEY`).
const OLD_NAMES: [(&str, &str); 12] = [
    ("accept_content", "CELERY_ACCEPT_CONTENT"),
    ("result_backend", "CELERY_RESULT_BACKEND"),
    (
        "result_backend_transport_options",
        "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",
    ),
    ("result_expires", "CELERY_TASK_RESULT_EXPIRES"),
    ("result_extended", "CELERY_RESULT_EXTENDED"),
    ("task_acks_late", "CELERY_ACKS_LATE"),
    ("task_default_queue", "CELERY_DEFAULT_QUEUE"),
    ("task_ignore_result", "CELERY_IGNORE_RESULT"),
    ("task_routes", "CELERY_ROUTES"),
    ("task_track_started", "CELERY_TRACK_STARTED"),
    ("worker_prefetch_multiplier", "CELERYD_PREFETCH_MULTIPLIER"),
    ("worker_proc_alive_timeout", "CELERYD_PROC_ALIVE_TIMEOUT"),
];

/// A setting in the answer to `conf` with the argument `with_defaults`. Every setting is there then with the value that
/// the app has, whatever name the project gave it: under its own name, or, where the settings are in old style, under
/// its old one. Names under a namespace (`CELERY_TASK_ROUTES`) stand beside these, and may be another's (Celery 5.7
/// app/utils.py, `detect_settings`, `Settings.table`; utils/collections.py, `ConfigurationView`).
fn setting<'a>(answer: &'a Value, name: &str) -> Option<&'a Value> {
    let old_name = || OLD_NAMES.iter().find(|(new, _)| *new == name);
    answer
        .get(name)
        .or_else(|| answer.get(old_name()?.1))
        .filter(|value| value.as_str() != Some(STARRED))
}

/// The answer to `conf` with the argument `with_defaults`.
pub fn decode_conf(answer: &Value) -> Conf {
    let setting = |name: &str| setting(answer, name);
    let flag = |name: &str| setting(name).and_then(truth);
    let has_other_routers = setting("task_routes").is_some_and(|routes| !is_plain(routes));
    let mut conf = Conf {
        accept_content: setting("accept_content").and_then(names),
        task_ignore_result: flag("task_ignore_result"),
        result_expires: setting("result_expires").and_then(|expires| match expires {
            Value::Null => Some(0.0),
            expires => seconds(expires),
        }),
        result_backend: None,
        result_database: None,
        task_acks_late: flag("task_acks_late"),
        worker_prefetch_multiplier: setting("worker_prefetch_multiplier").and_then(Value::as_u64),
        worker_proc_alive_timeout: setting("worker_proc_alive_timeout").and_then(seconds),
        task_routes: setting("task_routes").map(|routes| {
            let mut read = Vec::new();
            read_routes(routes, &mut read);
            read
        }),
        has_other_routers,
        task_default_queue: setting("task_default_queue")
            .and_then(Value::as_str)
            .map(str::to_owned),
        task_track_started: flag("task_track_started"),
        result_extended: flag("result_extended"),
        result_key_prefix: setting("result_backend_transport_options").and_then(|options| {
            match options.get("global_keyprefix") {
                None if options.is_null() || options.is_object() => Some(String::new()),
                None | Some(Value::Null) => None,
                Some(prefix) => prefix.as_str().map(str::to_owned),
            }
        }),
    };
    // None here may be another by the environment.
    if let Some(url) = setting("result_backend").and_then(Value::as_str) {
        conf.set_result_backend(url);
    }
    conf
}

/// Whether Python takes a value for true. Of a text it is not known whether it is one, or stands for an object.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Null => Some(false),
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => Some(number.as_f64() != Some(0.0)),
        Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A list of names. A set comes as Python's text of it (Celery 5.7 utils/serialization.py, `jsonify`).
fn names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(list) => list
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect(),
        Value::String(text) => {
            let set = text
                .strip_prefix("frozenset(")
                .and_then(|set| set.strip_suffix(')'))
                .unwrap_or(text);
            let items = set.strip_prefix('{')?.strip_suffix('}')?;
            items.split(", ").map(quoted).collect()
        }
        _ => None,
    }
}

/// What stands between Python's quotes, where no escape is in it.
fn quoted(item: &str) -> Option<String> {
    let quote = item.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = item.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inner.contains([quote, '\\'])).then(|| inner.to_owned())
}

/// A number, a text of one, or Python's text of a `timedelta`, `[D day[s], ]H:MM:SS[.ffffff]`.
fn seconds(value: &Value) -> Option<f64> {
    if let Some(number) = value.as_f64() {
        return Some(number);
    }
    let text = value.as_str()?;
    if let Ok(whole) = text.trim().parse::<u32>() {
        return Some(f64::from(whole));
    }
    let (days, time) = match text.split_once(", ") {
        Some((days, time)) => (days.split(' ').next()?.parse::<f64>().ok()?, time),
        None => (0.0, text),
    };
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some(days * 86_400.0 + hours * 3600.0 + minutes * 60.0 + seconds)
}

/// A map of routes, a list of such maps and of `[pattern, route]` pairs, or a list of lists of these (Celery 5.7, `app/routes.py`).
fn read_routes(routes: &Value, into: &mut Vec<Route>) {
    match routes {
        Value::Object(map) => {
            into.extend(map.iter().map(|(pattern, target)| route(pattern, target)));
        }
        Value::Array(list) => match list.as_slice() {
            [
                Value::String(pattern),
                target @ (Value::String(_) | Value::Object(_)),
            ] => {
                if !is_compiled(pattern) {
                    into.push(route(pattern, target));
                }
            }
            list => list.iter().for_each(|routes| read_routes(routes, into)),
        },
        _ => {}
    }
}

/// Whether a pattern is Python's text of a compiled regular expression.
fn is_compiled(pattern: &str) -> bool {
    pattern.starts_with("re.compile(")
}

/// Whether routes hold nothing but what [`read_routes`] reads: no functions, and no names of them.
fn is_plain(routes: &Value) -> bool {
    match routes {
        Value::Null => true,
        // Compiled patterns among the keys of a map are left out by the worker, so that an empty one may hold some.
        Value::Object(map) => {
            !map.is_empty()
                && map
                    .values()
                    .all(|target| target.is_string() || target.is_object())
        }
        Value::Array(list) => match list.as_slice() {
            [Value::String(pattern), Value::String(_) | Value::Object(_)] => !is_compiled(pattern),
            list => list.iter().all(is_plain),
        },
        _ => false,
    }
}

fn route(pattern: &str, target: &Value) -> Route {
    let queue = match target {
        Value::String(queue) => Some(queue.clone()),
        target => text(target, "queue"),
    };
    Route {
        pattern: pattern.to_owned(),
        queue,
        exchange: text(target, "exchange"),
        routing_key: text(target, "routing_key"),
    }
}
