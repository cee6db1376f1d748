//! Reading of objects of which nothing is promised: a value of the wrong type counts as absent, unknown keys are
//! skipped without being built in memory. kombu checks no types, so one odd header must not hide a message.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::when::When;

/// A value of which only plain ones are kept.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Scalar<'a> {
    /// The key is not there.
    #[default]
    Absent,
    /// The key is there; its value is null, a list, an object or a number out of range.
    Other,
    Text(Cow<'a, str>),
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl Scalar<'_> {
    pub(super) fn str(&self) -> Option<&str> {
        match self {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        self.str().map(str::to_owned)
    }

    /// A text that says something: kombu and Celery write `""` for "none" (`reply_to`, for one).
    pub(super) fn filled(&self) -> Option<String> {
        self.text().filter(|text| !text.is_empty())
    }

    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Scalar::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn count(&self) -> Option<u64> {
        self.int().and_then(|number| u64::try_from(number).ok())
    }

    pub(super) fn float(&self) -> Option<f64> {
        match self {
            #[allow(
                clippy::cast_precision_loss,
                reason = "seconds; nobody waits for 2^53 of them"
            )]
            Scalar::Int(number) => Some(*number as f64),
            Scalar::Float(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn bool(&self) -> Option<bool> {
        match self {
            Scalar::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn when(&self) -> Option<When> {
        self.str().and_then(When::parse)
    }

    /// As Python's `int(value)`, which kombu applies to a priority.
    pub(super) fn python_int(&self) -> Option<i64> {
        match self {
            Scalar::Int(number) => Some(*number),
            Scalar::Bool(flag) => Some(i64::from(*flag)),
            #[allow(
                clippy::cast_possible_truncation,
                reason = "truncation is what int() does"
            )]
            Scalar::Float(number) if number.is_finite() => Some(*number as i64),
            Scalar::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn into_owned(self) -> Scalar<'static> {
        match self {
            Scalar::Absent => Scalar::Absent,
            Scalar::Other => Scalar::Other,
            Scalar::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
            Scalar::Int(number) => Scalar::Int(number),
            Scalar::Float(number) => Scalar::Float(number),
            Scalar::Bool(flag) => Scalar::Bool(flag),
        }
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Scalar::Other, Scalar::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(value))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }
    fn visit_bytes<E>(self, value: &[u8]) -> Result<Self::Value, E> {
        Ok(std::str::from_utf8(value).map_or(Scalar::Other, |text| {
            Scalar::Text(Cow::Owned(text.to_owned()))
        }))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        IgnoredAny::deserialize(d).map(|_| Scalar::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// A [`Scalar`] that borrows nothing, for documents that were unpacked on the way.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Owned(Scalar<'static>);

impl std::ops::Deref for Owned {
    type Target = Scalar<'static>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Scalar::deserialize(deserializer).map(|scalar| Owned(scalar.into_owned()))
    }
}

/// The visits of a [`Visitor`] that stand for "of the wrong type, so absent".
macro_rules! otherwise_absent {
    ($($kind:ident)*) => {
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("any value")
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
        fn visit_newtype_struct<D: serde::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            <serde::de::IgnoredAny as serde::Deserialize>::deserialize(d).map(|_| Default::default())
        }
        $($crate::celery::loose::otherwise_absent!(@ $kind);)*
    };
    (@ str) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(Default::default())
        }
    };
    (@ seq) => {
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ map) => {
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
}
pub(super) use otherwise_absent;

/// A struct read from an object. Anything that is no object gives the default. A known key that stands twice is an
/// error: Python takes the last one, other readers the first, and no Celery writes it.
macro_rules! loose_map {
    ($(#[$meta:meta])* $name:ident $(<$lt:lifetime>)? { $($field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(super) struct $name $(<$lt>)? {
            $(pub(super) $field: $type,)*
        }

        impl<'de $(: $lt, $lt)?> serde::Deserialize<'de> for $name $(<$lt>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader $(<$lt>(std::marker::PhantomData<&$lt ()>))?;

                impl<'de $(: $lt, $lt)?> serde::de::Visitor<'de> for Reader $(<$lt>)? {
                    type Value = $name $(<$lt>)?;

                    $crate::celery::loose::otherwise_absent!(str seq);

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        $(let mut $field: Option<$type> = None;)*
                        while let Some(key) = map.next_key::<$crate::celery::loose::Key<'de>>()? {
                            match &*key.0 {
                                $($key => {
                                    if $field.replace(map.next_value()?).is_some() {
                                        return Err(<A::Error as serde::de::Error>::duplicate_field($key));
                                    }
                                })*
                                _ => {
                                    map.next_value::<serde::de::IgnoredAny>()?;
                                }
                            }
                        }
                        Ok($name { $($field: $field.unwrap_or_default(),)* })
                    }
                }

                deserializer.deserialize_any($crate::celery::loose::loose_map!(@reader Reader $(, $lt)?))
            }
        }
    };
    (@reader $reader:ident, $lt:lifetime) => { $reader(std::marker::PhantomData) };
    (@reader $reader:ident) => { $reader };
}
pub(super) use loose_map;

/// Reads a type from a list, and takes everything else for absent.
macro_rules! loose_seq {
    ($name:ident, |$seq:ident| $read:block) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;
                impl<'de> serde::de::Visitor<'de> for Reader {
                    type Value = $name;
                    $crate::celery::loose::otherwise_absent!(str map);
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut $seq: A) -> Result<$name, A::Error> {
                        let value = $read;
                        while $seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                        Ok(value)
                    }
                }
                deserializer.deserialize_any(Reader)
            }
        }
    };
}
pub(super) use loose_seq;

/// The key of an object.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => Ok(Key(text)),
            // msgpack and pickle allow keys of every kind; none of those is one that Celery writes.
            _ => Ok(Key(Cow::Borrowed(""))),
        }
    }
}

/// Reads JSON as Python writes it. `serde_json` refuses `NaN`, `Infinity` and lone surrogates, all of which
/// `json.dumps` lets through, so a document that fails is tried once more with those replaced.
pub(super) fn read_python_json<T>(
    json: &[u8],
    read: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
) -> Result<T, serde_json::Error> {
    read(json).or_else(|error| {
        if error.is_syntax() {
            read(&plain_json(json))
        } else {
            Err(error)
        }
    })
}

/// `NaN` and the infinities become null, escapes of surrogates become U+FFFD (pairs too: nothing that is kept has any).
fn plain_json(json: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(json.len());
    let mut rest = json;
    let mut in_string = false;
    while let Some((&byte, tail)) = rest.split_first() {
        let (written, read): (&[u8], usize) = match byte {
            b'"' => {
                in_string = !in_string;
                (b"\"", 1)
            }
            b'\\' if in_string && is_surrogate(rest) => (b"\\ufffd", 6),
            b'\\' if in_string && !tail.is_empty() => (&rest[..2], 2),
            b'N' if !in_string && rest.starts_with(b"NaN") => (b"null", 3),
            b'I' if !in_string && rest.starts_with(b"Infinity") => (b"null", 8),
            b'-' if !in_string && rest.starts_with(b"-Infinity") => (b"null", 9),
            _ => (&rest[..1], 1),
        };
        plain.extend_from_slice(written);
        rest = &rest[read..];
    }
    plain
}

fn is_surrogate(escape: &[u8]) -> bool {
    matches!(escape, [b'\\', b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', a, b, ..]
        if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    loose_map!(Inner<'a> { name: Scalar<'a> = "name", });
    loose_map!(Outer<'a> { count: Scalar<'a> = "count", inner: Inner<'a> = "inner", });

    fn read(json: &str) -> Result<(Option<i64>, Option<String>), serde_json::Error> {
        read_python_json(json.as_bytes(), |json| {
            serde_json::from_slice::<Outer<'_>>(json)
                .map(|outer| (outer.count.int(), outer.inner.name.text()))
        })
    }

    #[test]
    fn wrong_types_are_absent() {
        for json in [
            r#"{"count": "x", "inner": [1, {"name": "y"}]}"#,
            r#"{"count": {"a": 1}, "inner": 7}"#,
            r#"{"count": null, "inner": {"name": [[]]}}"#,
            r#"{"count": 1e99, "inner": "name"}"#,
            r#"["count"]"#,
        ] {
            assert_eq!(read(json).expect(json), (None, None), "{json}");
        }
        assert_eq!(
            read(r#"{"\u0063ount": 1, "inner": {"name": "n"}, "z": [{}]}"#).expect("json"),
            (Some(1), Some("n".into()))
        );
        assert!(read(r#"{"count": 1, "count": 2}"#).is_err());
    }

    #[test]
    fn what_python_writes_and_others_refuse() {
        let json = r#"{"x": [NaN, -Infinity, Infinity, "NaN\"", "\ud83d"], "inner": {"name": "a\udc80\\b"}, "count": 2}"#;
        assert_eq!(
            read(json).expect("json"),
            (Some(2), Some("a\u{fffd}\\b".into()))
        );
        assert!(read("{\"x\": \"\\").is_err());
        assert!(read("{\"x\": \"\\ud8").is_err());
    }
}
