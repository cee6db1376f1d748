//! What the real Celery and kombu wrote, for the tests: `fixtures/wire/celery-5.7.0.json`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct Samples {
    /// By protocol, serialiser and compression (`p1_json_zlib`), or by what is special (`v2_chain`).
    pub(super) messages: BTreeMap<String, String>,
    pub(super) unacked: Vec<String>,
    pub(super) binding: String,
    /// In base64.
    results: BTreeMap<String, String>,
    pub(super) topic: Topic,
    /// Steps, priority, and the key of queue `q`.
    pub(super) priorities: Vec<(Vec<i64>, i64, String)>,
    answers: BTreeMap<String, Answer>,
    pub(super) bad_request: Value,
    pub(super) request: String,
    pub(super) reply: String,
    /// 17 MiB of spaces by compression, in base64.
    pub(super) bombs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
pub(super) struct Topic {
    pub(super) keys: Vec<String>,
    /// Bound key, pattern, and which of `keys` it matches.
    pub(super) table: Vec<(String, String, Vec<String>)>,
}

#[derive(Deserialize)]
struct Answer {
    answer: Value,
}

impl Samples {
    pub(super) fn message(&self, name: &str) -> &[u8] {
        self.messages[name].as_bytes()
    }

    pub(super) fn result(&self, name: &str) -> Vec<u8> {
        STANDARD
            .decode(&self.results[name])
            .expect("base64 in the samples")
    }

    pub(super) fn result_names(&self) -> impl Iterator<Item = &String> {
        self.results.keys()
    }

    pub(super) fn answer(&self, method: &str) -> &Value {
        &self.answers[method].answer
    }
}

pub(super) static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
    let samples = include_str!("../../fixtures/wire/celery-5.7.0.json");
    serde_json::from_str(samples).expect("the samples as they were written")
});
