//! Which policy a queue has, where the server does not say: RabbitMQ 3.10 tells a quorum queue's as `null`.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::decode::{Decoded, malformed};
use crate::evidence::Observed;
use crate::evidence::rabbitmq::{Queue, QueueType};

/// A pattern may take so many bytes in memory.
const LARGEST_PATTERN: usize = 1 << 20;

/// One policy, of users or of operators.
#[derive(Debug)]
pub(super) struct Policy {
    /// None where only Erlang understands it, or where it would grow too large.
    pattern: Option<Regex>,
    apply_to: String,
    priority: i64,
    definition: BTreeMap<String, Value>,
}

/// An entry of `GET /api/policies/VHOST` and of `GET /api/operator-policies/VHOST`.
pub(super) fn policy(value: &Value) -> Decoded<Policy> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let lacks = || malformed("a policy lacks its pattern, or what it applies to");
    // RabbitMQ writes an empty object as an empty list.
    let definition = match value.get("definition") {
        Some(Value::Object(all)) => all.clone().into_iter().collect(),
        Some(Value::Array(none)) if none.is_empty() => BTreeMap::new(),
        _ => return Err(malformed("a policy has no definition")),
    };
    let pattern = text("pattern").ok_or_else(lacks)?;
    Ok(Policy {
        // Once for all queues: each takes some time, and there may be many of both.
        pattern: RegexBuilder::new(&pattern)
            .size_limit(LARGEST_PATTERN)
            .build()
            .ok(),
        apply_to: text("apply-to").ok_or_else(lacks)?,
        priority: value.get("priority").and_then(Value::as_i64).unwrap_or(0),
        definition,
    })
}

/// Notes the policies of queues of which the server told none, where they are certain: a queue has the one of its
/// policies that has the highest priority (RabbitMQ 3.10 `rabbit_policy.erl`, `match/2`). How one of an operator limits
/// another is left open.
pub(super) fn complete(queues: &mut [Queue], users: &[Policy], operators: &[Policy]) {
    for queue in queues
        .iter_mut()
        .filter(|queue| queue.policy.seen().is_none())
    {
        let (Some(mut of_users), Some(of_operators)) =
            (matching(queue, users), matching(queue, operators))
        else {
            continue;
        };
        if !of_operators.is_empty() {
            continue;
        }
        of_users.sort_by_key(|policy| -policy.priority);
        let effective = match of_users.as_slice() {
            [] => BTreeMap::new(),
            [first, second, ..] if first.priority == second.priority => continue,
            [first, ..] => first.definition.clone(),
        };
        queue.policy = Observed::Seen(effective);
    }
}

/// The policies that apply to a queue; none where that can't be told.
fn matching<'p>(queue: &Queue, policies: &'p [Policy]) -> Option<Vec<&'p Policy>> {
    let mut found = Vec::new();
    for policy in policies {
        let applies = match policy.apply_to.as_str() {
            "exchanges" => Some(false),
            "all" | "queues" => Some(true),
            kinds => queue.kind.seen().and_then(|kind| match kinds {
                "classic_queues" => Some(*kind == QueueType::Classic),
                "quorum_queues" => Some(*kind == QueueType::Quorum),
                "streams" => Some(*kind == QueueType::Stream),
                _ => None,
            }),
        };
        // What both kinds of expressions can say, they say alike.
        if applies? && policy.pattern.as_ref()?.is_match(&queue.name) {
            found.push(policy);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn effective(users: &Value, operators: &Value) -> Option<BTreeMap<String, Value>> {
        let all = |list: &Value| -> Vec<Policy> {
            let list = list.as_array().expect("a list").iter();
            list.map(|entry| policy(entry).expect("a policy")).collect()
        };
        let mut queue = Queue::named("orders");
        queue.kind = Observed::Seen(QueueType::Quorum);
        let mut queues = [queue];
        complete(&mut queues, &all(users), &all(operators));
        let [queue] = queues;
        queue.policy.seen().cloned()
    }

    fn entry(pattern: &str, apply_to: &str, priority: i64) -> Value {
        json!({"name": "p", "pattern": pattern, "apply-to": apply_to, "priority": priority,
               "definition": {"delivery-limit": priority}})
    }

    #[test]
    fn the_policy_is_known_where_it_is_certain() {
        let none = || Some(BTreeMap::new());
        let limit = |limit: i64| Some([("delivery-limit".to_owned(), json!(limit))].into());
        let nothing = json!([]);
        assert_eq!(effective(&nothing, &nothing), none());
        let others = json!([
            entry("^mail", "all", 1),
            entry("orders", "exchanges", 2),
            entry("orders", "streams", 3),
        ]);
        assert_eq!(effective(&others, &others), none());
        let two = json!([
            entry("^ord", "queues", 4),
            entry("ers$", "quorum_queues", 7)
        ]);
        assert_eq!(effective(&two, &nothing), limit(7));
        assert_eq!(effective(&two, &json!([entry("", "all", 0)])), None);
        let same = json!([entry("^ord", "queues", 4), entry("", "all", 4)]);
        assert_eq!(effective(&same, &nothing), None);
        // Looking ahead is for Erlang's expressions alone, and of what comes later nothing is known.
        let large = r"(\w{100}){100}";
        for unclear in [
            entry("(?!x)", "all", 0),
            entry(large, "all", 0),
            entry("x", "new_queues", 0),
        ] {
            assert_eq!(effective(&json!([unclear]), &nothing), None, "{unclear}");
        }
        // What does not apply need not be understood.
        let elsewhere = json!([entry("(?!x)", "exchanges", 0)]);
        assert_eq!(effective(&elsewhere, &nothing), none());
    }
}
