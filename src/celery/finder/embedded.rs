//! Whether the body of a message may name one of many ids in the canvas that it carries.

use std::collections::HashSet;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem::Finder;

use crate::celery::body::BASE64;

/// What a task carries to which nothing was chained: most tasks (Celery 5.7 `app/amqp.py`, `as_task_v2`).
const NOTHING: &str = r#"{"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

/// How a body ends in base64 that carries nothing: it depends on how many bytes stand before it.
static ENDS: LazyLock<[String; 3]> = LazyLock::new(|| {
    [0, 1, 2].map(|before| {
        let encoded = STANDARD.encode("x".repeat(before) + NOTHING);
        // The first characters stand for bits of what comes before too.
        let mixed = [0, 2, 3][before];
        encoded[mixed..].to_owned()
    })
});

/// So many compressed bodies are unpacked, which takes longer than anything else.
const MOST_UNPACKED: u64 = 10_000;

/// Looks into bodies.
#[derive(Clone, Debug)]
pub(super) struct Embedded {
    /// The end of the keys `task_id` and `group_id`.
    key: Finder<'static>,
    /// The key that every signature with an id has, in whatever serialisation.
    task_id: Finder<'static>,
    decoded: Vec<u8>,
    packed: u64,
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            key: Finder::new(b"_id\""),
            task_id: Finder::new(b"task_id"),
            decoded: Vec::new(),
            packed: 0,
        }
    }
}

impl Embedded {
    /// How many compressed bodies were not unpacked.
    pub(super) fn left_packed(&self) -> u64 {
        self.packed.saturating_sub(MOST_UNPACKED)
    }

    /// Whether a body has to be read whole, because one of the ids may be in its canvas. It never misses one in plain JSON,
    /// msgpack and pickle; of compressed bodies a limited number is read.
    pub(super) fn may_name(&mut self, body: &[u8], ids: &HashSet<String>) -> bool {
        if ENDS.iter().any(|end| body.ends_with(end.as_bytes())) {
            return false;
        }
        self.decoded.clear();
        if BASE64.decode_vec(body, &mut self.decoded).is_err() {
            // Nothing is read of such a body, nor of one without quotes in no encoding.
            return false;
        }
        let document = self.decoded.trim_ascii();
        match (document.first(), document.last()) {
            // YAML, of which nothing is read.
            (None | Some(b'-'), _) => false,
            (Some(b'['), Some(b']')) => self.in_json(document, ids),
            // Pickle and msgpack.
            (Some(0x80 | 0x93), _) => self.task_id.find(document).is_some(),
            _ => {
                self.packed += 1;
                self.packed <= MOST_UNPACKED
            }
        }
    }

    fn in_json(&self, document: &[u8], ids: &HashSet<String>) -> bool {
        self.key.find_iter(document).any(|at| {
            let value = document[at + b"_id\"".len()..].trim_ascii_start();
            let Some(value) = value.strip_prefix(b":") else {
                return false;
            };
            let Some(text) = value.trim_ascii_start().strip_prefix(b"\"") else {
                return false;
            };
            match memchr::memchr2(b'"', b'\\', text) {
                // An escape is for the whole reading to undo.
                Some(end) if text[end] == b'\\' => true,
                Some(end) => std::str::from_utf8(&text[..end]).is_ok_and(|id| ids.contains(id)),
                None => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_carries_nothing_is_known_by_its_end() {
        for args in ["", "1", "12", "123", "1234"] {
            let body = STANDARD.encode(format!("[[{args}], {{}}, {NOTHING}"));
            assert!(
                ENDS.iter().any(|end| body.ends_with(end.as_str())),
                "{args}"
            );
            let body = STANDARD.encode(format!("[[{args}], {{}}, {NOTHING} "));
            assert!(
                !ENDS.iter().any(|end| body.ends_with(end.as_str())),
                "{args}"
            );
        }
    }

    #[test]
    fn the_number_of_bodies_to_be_unpacked_has_an_end() {
        let ids = HashSet::from(["a".to_owned()]);
        let mut embedded = Embedded::default();
        let packed = STANDARD.encode(b"x\x9cabc");
        for _ in 0..MOST_UNPACKED {
            assert!(embedded.may_name(packed.as_bytes(), &ids));
        }
        assert_eq!(embedded.left_packed(), 0);
        assert!(!embedded.may_name(packed.as_bytes(), &ids));
        assert_eq!(embedded.left_packed(), 1);
    }
}
