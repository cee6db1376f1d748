//! From the JSON of the management API to evidence, for RabbitMQ 3.8 to 4.x and servers that answer alike.
//!
//! Erlang's quirks: a missing value is left out, `null` or the text `undefined`; an empty object may come as `[]`; numbers
//! may be floats. What is not there is unseen, never zero; what is there in another form is malformed.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::evidence::rabbitmq::{
    Alarm, AmqpBinding, Channel, Connection, Consumer, Exchange, Node, Overview, Queue, QueueType,
    Shovel,
};
use crate::evidence::{Observed, Reason, Why};

/// What of a queue is asked for. `columns` cuts an answer to about a third.
pub(super) const QUEUE_COLUMNS: &str = "name,type,durable,auto_delete,exclusive,owner_pid_details,arguments,\
    effective_policy_definition,messages_ready,messages_unacknowledged,messages_dlx,consumers,\
    messages_persistent,message_bytes,message_stats,state,members,online,leader,idle_since";
pub(super) const EXCHANGE_COLUMNS: &str =
    "name,type,durable,auto_delete,internal,arguments,policy,message_stats";
pub(super) const BINDING_COLUMNS: &str =
    "source,destination,destination_type,routing_key,arguments";
pub(super) const CONSUMER_COLUMNS: &str =
    "queue.name,channel_details,ack_required,active,prefetch_count,consumer_timeout";
pub(super) const CHANNEL_COLUMNS: &str = "name,connection_details,messages_unacknowledged,prefetch_count,\
    global_prefetch_count,confirm,consumer_count,message_stats,idle_since";
pub(super) const CONNECTION_COLUMNS: &str =
    "name,state,user,client_properties,peer_host,peer_port,timeout";

/// An entry that is not what it should be, by what is wrong with it.
pub(super) type Decoded<T> = Result<T, Why>;

/// What the server says of itself in `GET /api/overview`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServerSays {
    pub(super) product: Observed<String>,
    pub(super) version: Observed<String>,
    pub(super) overview: Overview,
    /// `disable_stats`: nothing is counted, and some lists are empty whatever there is.
    pub(super) statistics_off: bool,
}

pub(super) fn about(value: &Value, user_tags: &[String]) -> Decoded<ServerSays> {
    let all = object(value, "the overview")?;
    let stats = message_stats(all);
    let lavinmq = text(all, "lavinmq_version");
    Ok(ServerSays {
        overview: Overview {
            drop_unroutable: stats.count("drop_unroutable"),
            return_unroutable: stats.count("return_unroutable"),
            cluster: text(all, "cluster_name"),
            user_tags: user_tags.to_vec(),
        },
        product: match (text(all, "product_name"), &lavinmq) {
            (Some(name), _) => Observed::Seen(name),
            (None, Some(_)) => Observed::Seen("LavinMQ".to_owned()),
            (None, None) => untold("product_name"),
        },
        version: text(all, "product_version")
            .or(lavinmq)
            .or_else(|| text(all, "rabbitmq_version"))
            .map_or_else(|| untold("rabbitmq_version"), Observed::Seen),
        statistics_off: all.get("disable_stats") == Some(&Value::Bool(true)),
    })
}

/// `tags` of `GET /api/whoami`: a list, or before RabbitMQ 3.9 a text with commas.
pub(super) fn tags(value: &Value) -> Decoded<Vec<String>> {
    let all = object(value, "the answer to whoami")?;
    match all.get("tags") {
        Some(Value::String(tags)) => Ok(tags
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect()),
        Some(Value::Array(tags)) => Ok(tags
            .iter()
            .filter_map(|tag| tag.as_str().map(str::to_owned))
            .collect()),
        _ => Err(malformed("the answer to whoami has no tags")),
    }
}

pub(super) fn node(value: &Value) -> Decoded<Node> {
    let all = object(value, "a node")?;
    let share = |used: &str, total: &str| {
        let used = all.count(used).seen().copied()?;
        // RabbitMQ 4 counts no sockets, and says 0 for their limit.
        let total = all
            .count(total)
            .seen()
            .copied()
            .filter(|total| *total > 0)?;
        Some((used, total))
    };
    let descriptors = [
        share("fd_used", "fd_total"),
        share("sockets_used", "sockets_total"),
    ];
    let closest = descriptors
        .into_iter()
        .flatten()
        // a/b < c/d as a*d < c*b, in numbers that hold it.
        .max_by(|(used_a, total_a), (used_b, total_b)| {
            let left = u128::from(*used_a) * u128::from(*total_b);
            left.cmp(&(u128::from(*used_b) * u128::from(*total_a)))
        });
    Ok(Node {
        name: required(all, "name", "a node")?,
        running: flag(all, "running", "a node")?,
        memory_alarm: all.truth("mem_alarm"),
        disk_alarm: all.truth("disk_free_alarm"),
        memory_used: all.count("mem_used"),
        memory_limit: all.count("mem_limit"),
        disk_free: all.count("disk_free"),
        disk_free_limit: all.count("disk_free_limit"),
        partitions: names(all, "partitions").unwrap_or_default(),
        descriptors: closest.map_or_else(|| untold("fd_used"), Observed::Seen),
        uptime_ms: all.count("uptime"),
    })
}

/// The body of `GET /api/health/checks/alarms` where there are some.
pub(super) fn alarms(value: &Value) -> Decoded<Vec<Alarm>> {
    let all = object(value, "the list of alarms")?;
    let Some(Value::Array(alarms)) = all.get("alarms") else {
        return Err(malformed("the check of alarms fails, and lists none"));
    };
    alarms
        .iter()
        .map(|alarm| {
            let alarm = object(alarm, "an alarm")?;
            let resource = required(alarm, "resource", "an alarm")?;
            Ok(Alarm {
                node: required(alarm, "node", "an alarm")?,
                resource: match resource.as_str() {
                    "disk space" | "disk" => "disk".to_owned(),
                    _ => resource,
                },
            })
        })
        .collect()
}

pub(super) fn queue(value: &Value) -> Decoded<Queue> {
    let all = object(value, "a queue")?;
    let stats = message_stats(all);
    let arguments = table(all, "arguments");
    let kind = text(all, "type").or_else(|| {
        let argument = arguments.seen()?.get("x-queue-type")?;
        argument.as_str().map(str::to_owned)
    });
    let exclusive = match all.truth("exclusive") {
        // Of exclusive queues alone, and there before RabbitMQ tells of `exclusive`.
        Observed::Unseen(_) if all.get("owner_pid_details").is_some_and(Value::is_object) => {
            Observed::Seen(true)
        }
        seen => seen,
    };
    let ready = all.count("messages_ready");
    // A queue counts its messages at once, and tells how many of them are persistent, and their bytes, every few seconds:
    // where there were no bytes then, that would say nothing of messages that came since.
    let persistent = match all.count("message_bytes") {
        Observed::Seen(0) => Observed::not_asked("no message waited when they were counted"),
        Observed::Seen(_) => all.count("messages_persistent"),
        Observed::Unseen(why) => Observed::Unseen(why),
    };
    Ok(Queue {
        name: required(all, "name", "a queue")?,
        kind: kind.map_or_else(|| untold("type"), |kind| Observed::Seen(queue_type(&kind))),
        durable: all.truth("durable"),
        auto_delete: all.truth("auto_delete"),
        exclusive,
        // `null` says nothing: RabbitMQ 3.10 has it for a quorum queue that a policy applies to.
        policy: table(all, "effective_policy_definition"),
        arguments,
        ready,
        unacknowledged: all.count("messages_unacknowledged"),
        held_dead_letters: all.count("messages_dlx"),
        consumers: all.count("consumers"),
        persistent,
        delivered: stats.count("deliver_get"),
        redelivered: stats.count("redeliver"),
        acknowledged: stats.count("ack"),
        published: stats.count("publish"),
        state: text(all, "state"),
        members: names(all, "members").zip(names(all, "online")),
        leader: text(all, "leader"),
        idle_since: text(all, "idle_since"),
        peeked: Observed::not_asked("queues are looked into only with --peek"),
    })
}

fn queue_type(name: &str) -> QueueType {
    match name {
        "classic" | "rabbit_classic_queue" => QueueType::Classic,
        "quorum" | "rabbit_quorum_queue" => QueueType::Quorum,
        "stream" | "rabbit_stream_queue" => QueueType::Stream,
        other => QueueType::Other(other.to_owned()),
    }
}

pub(super) fn exchange(value: &Value) -> Decoded<Exchange> {
    let all = object(value, "an exchange")?;
    let stats = message_stats(all);
    let alternate = match all.get("arguments") {
        Some(Value::Object(arguments)) => text(arguments, "alternate-exchange"),
        _ => None,
    };
    Ok(Exchange {
        name: required(all, "name", "an exchange")?,
        kind: required(all, "type", "an exchange")?,
        durable: flag(all, "durable", "an exchange")?,
        auto_delete: flag(all, "auto_delete", "an exchange")?,
        internal: flag(all, "internal", "an exchange")?,
        alternate,
        published_in: stats.count("publish_in"),
        published_out: stats.count("publish_out"),
        settled: false,
    })
}

/// The name of the policy that an exchange has.
pub(super) fn exchange_policy(value: &Value) -> Option<String> {
    text(value.as_object()?, "policy").filter(|name| !name.is_empty())
}

/// `alternate-exchange` by the names of the policies of a virtual host that set one.
pub(super) fn alternates(policies: &[Value]) -> BTreeMap<String, String> {
    let alternate = |policy: &Value| {
        let policy = policy.as_object()?;
        let definition = policy.get("definition")?.as_object()?;
        Some((
            text(policy, "name")?,
            text(definition, "alternate-exchange")?,
        ))
    };
    policies.iter().filter_map(alternate).collect()
}

/// One binding; none for those of the default exchange, which every queue has.
pub(super) fn binding(value: &Value) -> Decoded<Option<AmqpBinding>> {
    let all = object(value, "a binding")?;
    let source = required(all, "source", "a binding")?;
    if source.is_empty() {
        return Ok(None);
    }
    let kind = required(all, "destination_type", "a binding")?;
    let to_exchange = match kind.as_str() {
        "exchange" => true,
        "queue" => false,
        _ => {
            return Err(malformed(
                "a binding leads neither to a queue nor to an exchange",
            ));
        }
    };
    let Observed::Seen(arguments) = table(all, "arguments") else {
        return Err(malformed("a binding has no arguments"));
    };
    Ok(Some(AmqpBinding {
        source,
        destination: required(all, "destination", "a binding")?,
        to_exchange,
        routing_key: required(all, "routing_key", "a binding")?,
        arguments,
    }))
}

pub(super) fn consumer(value: &Value) -> Decoded<Consumer> {
    let all = object(value, "a consumer")?;
    let queue = all.get("queue").and_then(Value::as_object);
    let queue = queue.ok_or_else(|| malformed("a consumer has no queue"))?;
    // `[]` where the channel has just gone.
    let channel = all.get("channel_details").and_then(Value::as_object);
    let of_channel = |key| channel.and_then(|channel| text(channel, key));
    let channel_name = of_channel("name");
    Ok(Consumer {
        queue: required(queue, "name", "a consumer's queue")?,
        connection: of_channel("connection_name")
            .or_else(|| Some(connection_of(channel_name.as_ref()?)?.to_owned()))
            .unwrap_or_default(),
        channel: channel_name.unwrap_or_default(),
        ack_required: flag(all, "ack_required", "a consumer")?,
        active: all.truth("active").seen().copied(),
        prefetch: all.count("prefetch_count").seen().copied(),
        timeout_ms: match all.get("consumer_timeout") {
            Some(Value::String(off)) if off == "undefined" || off == "infinity" => {
                Observed::Seen(None)
            }
            _ => all
                .count("consumer_timeout")
                .map(|timeout| Some(timeout).filter(|timeout| *timeout > 0)),
        },
    })
}

/// The name of a channel's connection: a channel is named after it, with its number in brackets.
fn connection_of(channel: &str) -> Option<&str> {
    let (connection, number) = channel.strip_suffix(')')?.rsplit_once(" (")?;
    number
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(connection)
}

pub(super) fn channel(value: &Value) -> Decoded<Channel> {
    let all = object(value, "a channel")?;
    let stats = message_stats(all);
    let connection = all.get("connection_details").and_then(Value::as_object);
    // RabbitMQ 3 keeps what Celery asks for as the global count, and leaves the other at 0.
    let prefetch = match (
        all.count("prefetch_count"),
        all.count("global_prefetch_count"),
    ) {
        (Observed::Seen(own), Observed::Seen(global)) => Observed::Seen(own.max(global)),
        (own, Observed::Unseen(why)) if why.reason == Reason::Unsupported => own,
        (_, global) => global,
    };
    let name = required(all, "name", "a channel")?;
    Ok(Channel {
        connection: connection
            .and_then(|connection| text(connection, "name"))
            .or_else(|| connection_of(&name).map(str::to_owned))
            .unwrap_or_default(),
        name,
        unacknowledged: all.count("messages_unacknowledged"),
        prefetch,
        confirms: all.truth("confirm"),
        published: stats.count("publish"),
        drop_unroutable: stats.count("drop_unroutable"),
        acknowledged: stats.count("ack"),
        consumers: all.count("consumer_count"),
        idle_since: text(all, "idle_since"),
    })
}

pub(super) fn connection(value: &Value) -> Decoded<Connection> {
    let all = object(value, "a connection")?;
    let client = all.get("client_properties").and_then(Value::as_object);
    Ok(Connection {
        name: required(all, "name", "a connection")?,
        state: text(all, "state"),
        product: client.and_then(|client| text(client, "product")),
        // py-amqp says `product_version`, the broker's own clients and most others `version`.
        product_version: client
            .and_then(|client| text(client, "product_version").or_else(|| text(client, "version"))),
        client_name: client.and_then(|client| text(client, "connection_name")),
        user: text(all, "user"),
        peer_host: text(all, "peer_host"),
        peer_port: all.count("peer_port").seen().copied(),
        heartbeat_seconds: all.count("timeout").seen().copied(),
    })
}

/// A runtime parameter; none where it is no shovel of this virtual host that takes from a queue.
pub(super) fn shovel(value: &Value, vhost: &str) -> Decoded<Option<Shovel>> {
    let all = object(value, "a parameter")?;
    let is_one = text(all, "component").as_deref() == Some("shovel");
    if !is_one || text(all, "vhost").as_deref() != Some(vhost) {
        return Ok(None);
    }
    let definition = all.get("value").and_then(Value::as_object);
    let queue = definition.and_then(|definition| text(definition, "src-queue"));
    Ok(queue
        .zip(text(all, "name"))
        .map(|(queue, name)| Shovel { name, queue }))
}

/// Reads of one JSON object.
trait Fields {
    /// A number that counts something.
    fn count(&self, key: &str) -> Observed<u64>;
    /// True or false.
    fn truth(&self, key: &str) -> Observed<bool>;
}

impl Fields for Map<String, Value> {
    fn count(&self, key: &str) -> Observed<u64> {
        match self.get(key) {
            None => untold(key),
            Some(value) if is_undefined(value) => untold(key),
            Some(value) => whole(value).map_or_else(|| unlike(key), Observed::Seen),
        }
    }

    fn truth(&self, key: &str) -> Observed<bool> {
        match self.get(key) {
            None => untold(key),
            Some(value) if is_undefined(value) => untold(key),
            Some(Value::Bool(truth)) => Observed::Seen(*truth),
            Some(_) => unlike(key),
        }
    }
}

/// The statistics of one thing, which come seconds after it, and not at all where they are switched off.
struct Stats<'a>(Option<&'a Map<String, Value>>);

impl Stats<'_> {
    fn count(&self, key: &str) -> Observed<u64> {
        match self.0 {
            Some(stats) => stats.count(key),
            None => untold("message_stats"),
        }
    }
}

fn message_stats(all: &Map<String, Value>) -> Stats<'_> {
    Stats(all.get("message_stats").and_then(Value::as_object))
}

fn is_undefined(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("undefined")
}

/// A number without a sign or a fraction, also one that is written as a float.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        // Beyond 2^53 a float is no count any more.
        let fits = number >= 0.0 && number.fract() == 0.0 && number <= 9_007_199_254_740_992.0;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above"
        )]
        fits.then_some(number as u64)
    })
}

/// An object of arguments. An empty one may come as an empty list.
fn table(all: &Map<String, Value>, key: &str) -> Observed<BTreeMap<String, Value>> {
    match all.get(key) {
        None => untold(key),
        Some(value) if is_undefined(value) => untold(key),
        Some(Value::Object(table)) => {
            let entries = table.iter();
            Observed::Seen(entries.map(|(k, v)| (k.clone(), v.clone())).collect())
        }
        Some(Value::Array(list)) if list.is_empty() => Observed::Seen(BTreeMap::new()),
        Some(_) => unlike(key),
    }
}

fn text(all: &Map<String, Value>, key: &str) -> Option<String> {
    let text = all.get(key)?.as_str()?;
    (text != "undefined").then(|| text.to_owned())
}

/// A list of names; an empty one may come as an empty object.
fn names(all: &Map<String, Value>, key: &str) -> Option<Vec<String>> {
    match all.get(key)? {
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect(),
        Value::Object(empty) if empty.is_empty() => Some(Vec::new()),
        _ => None,
    }
}

fn object<'a>(value: &'a Value, what: &str) -> Decoded<&'a Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| malformed(format!("{what} is no object")))
}

fn required(all: &Map<String, Value>, key: &str, what: &str) -> Decoded<String> {
    // A queue may be named `undefined`.
    all.get(key)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| malformed(format!("{what} has no {key}")))
}

fn flag(all: &Map<String, Value>, key: &str, what: &str) -> Decoded<bool> {
    all.get(key)
        .and_then(Value::as_bool)
        .ok_or_else(|| malformed(format!("{what} does not say whether it is {key}")))
}

fn untold<T>(key: &str) -> Observed<T> {
    let detail = format!("the management API does not tell {key}");
    Observed::Unseen(Why::new(Reason::Unsupported, detail))
}

fn unlike<T>(key: &str) -> Observed<T> {
    Observed::Unseen(malformed(format!("{key} is not what it should be")))
}

pub(super) fn malformed(what: impl std::fmt::Display) -> Why {
    let detail = format!("an answer of the management API can't be used: {what}");
    Why::new(Reason::Malformed, detail)
}
