//! What came into an exchange and what went out of it is counted by different processes of the server, each once in an
//! interval (`collect_statistics_interval`, five seconds by default). Where nothing went out yet, it is looked at again
//! until something did, or would have.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::{ManagementReader, whole};
use crate::collect::rabbitmq::decode;
use crate::collect::rabbitmq::http::segment;
use crate::evidence::RabbitMq;
use crate::evidence::rabbitmq::Exchange;

/// How long it is looked at again, a little longer than an interval, and how often.
const PATIENCE: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(500);

/// More exchanges are not looked at again.
const MOST: usize = 8;

/// History in steps of an interval.
const HISTORY: &str = "msg_rates_age=30&msg_rates_incr=5";

impl ManagementReader {
    /// Looks again at exchanges that took messages and handed none on, though something is bound to them.
    pub(super) async fn settle(&self, vhost: &str, rabbit: &mut RabbitMq) {
        let Some(bindings) = rabbit.bindings.seen() else {
            return;
        };
        let bound = |exchange: &Exchange| bindings.iter().any(|b| b.source == exchange.name);
        let exchanges = rabbit.exchanges.seen_mut().into_iter().flatten();
        let mut open: Vec<&mut Exchange> = exchanges
            .filter(|exchange| handed_none_on(exchange) && bound(exchange))
            .take(MOST)
            .collect();
        let end = Instant::now() + PATIENCE;
        loop {
            let mut still_open = Vec::new();
            for exchange in open {
                let path = format!(
                    "/api/exchanges/{}/{}?{HISTORY}",
                    segment(vhost),
                    segment(&exchange.name)
                );
                let Ok(answer) = self.http.get(&path).await else {
                    // It stays unsettled, and nothing is concluded from it.
                    continue;
                };
                let told = whole(&self.http, &answer, Some(vhost))
                    .and_then(|told| Ok((decode::exchange(&told)?, told)));
                let Ok((now, told)) = told else { continue };
                exchange.published_in = now.published_in;
                exchange.published_out = now.published_out;
                exchange.settled = was_there_before(&told);
                if handed_none_on(exchange) && !exchange.settled {
                    still_open.push(exchange);
                }
            }
            open = still_open;
            if open.is_empty() || Instant::now() >= end {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether messages came in and none went out that should have, by the numbers there are.
fn handed_none_on(exchange: &Exchange) -> bool {
    let some = |count: Option<&u64>| count.is_some_and(|count| *count > 0);
    exchange.should_hand_on()
        && some(exchange.published_in.seen())
        && !some(exchange.published_out.seen())
}

/// Whether something had come in an interval ago.
fn was_there_before(told: &Value) -> bool {
    let samples = &told["message_stats"]["publish_in_details"]["samples"];
    let before = samples.get(1).and_then(|one| one["sample"].as_f64());
    before.is_some_and(|count| count > 0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_came_in_just_now_was_not_there_before() {
        let told = |samples: Value| json!({"message_stats": {"publish_in": 1, "publish_in_details": {"samples": samples}}});
        let sample = |count: u64, at: u64| json!({"sample": count, "timestamp": at});
        let just_now = json!([sample(1, 885_000), sample(0, 880_000)]);
        assert!(!was_there_before(&told(just_now)));
        let before = json!([sample(1, 890_000), sample(1, 885_000), sample(0, 880_000)]);
        assert!(was_there_before(&told(before)));
        for nothing in [json!([]), json!(null), json!([sample(1, 890_000)])] {
            assert!(!was_there_before(&told(nothing)));
        }
        assert!(!was_there_before(&json!({})));
    }
}
