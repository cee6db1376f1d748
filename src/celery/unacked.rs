//! Reservations: the values of the hash `unacked` (kombu 5.7, `transport/redis.py`, `QoS.append`).

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::loose::{Scalar, otherwise_absent};
use super::message::{Envelope, Keep, Malformed, Message, check_start, read_json};

/// A message that a worker holds and has not acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// The message.
    pub envelope: Envelope,
    /// Where restoring it will publish it; empty for the default exchange.
    pub exchange: String,
    /// The routing key of that.
    pub routing_key: String,
}

/// `[message, exchange, routing_key]`; `None` unless it has just three items.
#[derive(Default)]
struct Triple<'a>(Option<(Message<'a>, Scalar<'a>, Scalar<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Triple<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Triple<'de>;
            otherwise_absent!(str map);
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Triple<'de>, A::Error> {
                let message = seq.next_element()?;
                let exchange = seq.next_element()?;
                let routing_key = seq.next_element()?;
                let mut more = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Triple(match (message, exchange, routing_key) {
                    (Some(message), Some(exchange), Some(routing_key)) if !more => {
                        Some((message, exchange, routing_key))
                    }
                    _ => None,
                }))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Reads a value of the hash `unacked`.
pub fn parse_unacked(value: &[u8], keep: Keep) -> Result<Reservation, Malformed> {
    check_start(value, b'[', Malformed::NotAReservation)?;
    read_json(value, |json| {
        serde_json::from_slice(json).map(|Triple(triple)| {
            let (message, exchange, routing_key) = triple.ok_or(Malformed::NotAReservation)?;
            Ok(Reservation {
                envelope: message.envelope(keep)?,
                exchange: exchange.text().unwrap_or_default(),
                routing_key: routing_key.text().unwrap_or_default(),
            })
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::samples::SAMPLES;
    use proptest::prelude::*;

    #[test]
    fn what_kombu_keeps() {
        for value in &SAMPLES.unacked {
            let held = parse_unacked(value.as_bytes(), Keep::Envelope).expect("a reservation");
            assert_eq!(
                (held.exchange.as_str(), held.routing_key.as_str()),
                ("", "celery")
            );
            let message = &value[1..value
                .rfind(", \"\", \"celery\"]")
                .expect("the end of kombu's text")];
            assert_eq!(
                crate::celery::message::parse(message.as_bytes(), Keep::Envelope),
                Ok(held.envelope)
            );
        }
    }

    #[test]
    fn what_is_no_reservation() {
        for (value, wrong) in [
            ("", Malformed::Truncated),
            ("[", Malformed::Truncated),
            ("{}", Malformed::NotAReservation),
            ("[]", Malformed::NotAReservation),
            ("[{}, \"\"]", Malformed::NotAReservation),
            ("[{}, \"\", \"\", 1]", Malformed::NotAReservation),
            (
                "[{\"headers\": {\"task\": \"t\"}}, \"\", \"\"]",
                Malformed::NoTaskId,
            ),
        ] {
            assert_eq!(
                parse_unacked(value.as_bytes(), Keep::Envelope),
                Err(wrong),
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_unacked(&bytes, Keep::Args);
            let _ = parse_unacked(&[b"[", bytes.as_slice(), b"]"].concat(), Keep::Args);
        }
    }
}
