//! From AMQP's types to ours. A header may be of any type; what can't be said in JSON becomes null.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Value};

use crate::celery::message::{AmqpMessage, Envelope, Keep, Malformed, from_amqp};
use crate::evidence::Death;

/// Beyond this a value is null. Celery nests three deep.
const DEPTH: usize = 32;

/// The header table as JSON.
pub(super) fn headers(properties: &BasicProperties) -> Value {
    properties
        .headers()
        .as_ref()
        .map_or_else(|| Value::Object(Map::new()), |table| object(table, 0))
}

fn object(table: &FieldTable, depth: usize) -> Value {
    let plain = |(key, value): (&ShortString, &AMQPValue)| (key.to_string(), json(value, depth));
    Value::Object(table.into_iter().map(plain).collect())
}

fn json(value: &AMQPValue, depth: usize) -> Value {
    match value {
        AMQPValue::Boolean(flag) => Value::from(*flag),
        AMQPValue::ShortShortInt(number) => Value::from(*number),
        AMQPValue::ShortShortUInt(number) => Value::from(*number),
        AMQPValue::ShortInt(number) => Value::from(*number),
        AMQPValue::ShortUInt(number) => Value::from(*number),
        AMQPValue::LongInt(number) => Value::from(*number),
        AMQPValue::LongUInt(number) => Value::from(*number),
        AMQPValue::LongLongInt(number) => Value::from(*number),
        AMQPValue::Timestamp(seconds) => Value::from(*seconds),
        AMQPValue::Float(number) => Value::from(*number),
        AMQPValue::Double(number) => Value::from(*number),
        AMQPValue::ShortString(text) => Value::from(text.as_str()),
        AMQPValue::LongString(text) => {
            std::str::from_utf8(text.as_bytes()).map_or(Value::Null, Value::from)
        }
        AMQPValue::FieldArray(items) if depth < DEPTH => items
            .as_slice()
            .iter()
            .map(|item| json(item, depth + 1))
            .collect(),
        AMQPValue::FieldTable(table) if depth < DEPTH => object(table, depth + 1),
        AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => Value::Null,
    }
}

/// Reads a delivered message, whose header table was read before.
pub(super) fn envelope(
    delivery: &Delivery,
    headers: &Value,
    keep: Keep,
) -> Result<Envelope, Malformed> {
    let properties = &delivery.properties;
    let text = |text: &'_ Option<ShortString>| text.as_ref().map(ToString::to_string);
    let (content_type, content_encoding) = (
        text(properties.content_type()),
        text(properties.content_encoding()),
    );
    let (correlation_id, reply_to) = (
        text(properties.correlation_id()),
        text(properties.reply_to()),
    );
    let message = AmqpMessage {
        content_type: content_type.as_deref(),
        content_encoding: content_encoding.as_deref(),
        correlation_id: correlation_id.as_deref(),
        reply_to: reply_to.as_deref(),
        priority: *properties.priority(),
        exchange: delivery.exchange.as_str(),
        routing_key: delivery.routing_key.as_str(),
        redelivered: delivery.redelivered,
        headers,
        body: &delivery.data,
    };
    from_amqp(&message, keep)
}

/// The newest entry of `x-death`, which stands first.
pub(super) fn death(headers: &Value) -> Option<Death> {
    let newest = headers.get("x-death")?.get(0)?;
    Some(Death {
        reason: newest.get("reason")?.as_str()?.to_owned(),
        queue: newest.get("queue")?.as_str()?.to_owned(),
        count: newest.get("count").and_then(Value::as_u64).unwrap_or(1),
        at: newest.get("time").and_then(Value::as_i64),
    })
}

/// How often a quorum queue has delivered it before (`x-delivery-count`); none where the server does not say.
pub(super) fn delivery_count(headers: &Value) -> Option<u64> {
    headers.get("x-delivery-count")?.as_u64()
}
