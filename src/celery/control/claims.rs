//! Tasks that a worker says it has.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::text;
use crate::celery::when::When;

/// Where in the worker a task is (Celery 5.7, `worker/control.py`, `_state_of_task`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimState {
    /// It runs.
    Active,
    /// It waits for a free process.
    Reserved,
    /// It waits for its ETA.
    Scheduled,
    /// The worker knows it and it is in none of these: over, or about to be.
    Ready,
}

impl ClaimState {
    /// The word that the worker uses.
    pub fn name(self) -> &'static str {
        match self {
            ClaimState::Active => "active",
            ClaimState::Reserved => "reserved",
            ClaimState::Scheduled => "scheduled",
            ClaimState::Ready => "ready",
        }
    }
}

/// A task that a worker says it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The task's id.
    pub id: String,
    /// The task's name.
    pub task: Option<String>,
    /// Where it is.
    pub state: ClaimState,
    /// When it began to run, Unix time by the worker's clock.
    pub time_start: Option<f64>,
    /// What it waits for.
    pub eta: Option<When>,
    /// Its message has been acknowledged.
    pub acknowledged: Option<bool>,
    /// Its message had been delivered before.
    pub redelivered: bool,
    /// The exchange that its message came by.
    pub exchange: Option<String>,
    /// The routing key that its message came with.
    pub routing_key: Option<String>,
    /// The process that runs it.
    pub pid: Option<i64>,
}

/// Reads what `Request.info` gives (Celery 5.7, `worker/request.py`).
fn claim(info: &Value, state: ClaimState) -> Option<Claim> {
    let route = info.get("delivery_info").unwrap_or(&Value::Null);
    Some(Claim {
        id: text(info, "id")?,
        task: text(info, "name"),
        state,
        time_start: info.get("time_start").and_then(Value::as_f64),
        eta: None,
        acknowledged: info.get("acknowledged").and_then(Value::as_bool),
        redelivered: route.get("redelivered").and_then(Value::as_bool) == Some(true),
        exchange: text(route, "exchange"),
        routing_key: text(route, "routing_key"),
        pid: info.get("worker_pid").and_then(Value::as_i64),
    })
}

fn items(answer: &Value) -> impl Iterator<Item = &Value> {
    answer.as_array().into_iter().flatten()
}

/// The answer to `query_task`: `{id: [state, info]}`. Before Celery 5.7 `scheduled` is not among the states.
pub fn decode_query_task(answer: &Value) -> Vec<Claim> {
    let read = |entry: &Value| {
        let state = match entry.get(0)?.as_str()? {
            "active" => ClaimState::Active,
            "reserved" => ClaimState::Reserved,
            "scheduled" => ClaimState::Scheduled,
            "ready" => ClaimState::Ready,
            _ => return None,
        };
        claim(entry.get(1)?, state)
    };
    answer
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, entry)| read(entry))
        .collect()
}

/// The answer to `active`.
pub fn decode_active(answer: &Value) -> Vec<Claim> {
    items(answer)
        .filter_map(|info| claim(info, ClaimState::Active))
        .collect()
}

/// The answer to `reserved`.
pub fn decode_reserved(answer: &Value) -> Vec<Claim> {
    items(answer)
        .filter_map(|info| claim(info, ClaimState::Reserved))
        .collect()
}

/// The answer to `scheduled`: `[{eta, priority, request}]`.
pub fn decode_scheduled(answer: &Value) -> Vec<Claim> {
    let read = |entry: &Value| {
        let eta = entry
            .get("eta")
            .and_then(Value::as_str)
            .and_then(When::parse);
        Some(Claim {
            eta,
            ..claim(entry.get("request")?, ClaimState::Scheduled)?
        })
    };
    items(answer).filter_map(read).collect()
}

/// The answer to `revoked`: ids.
pub fn decode_revoked(answer: &Value) -> Vec<String> {
    items(answer)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
