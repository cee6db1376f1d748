//! Reads the objects of a pickle with serde, where they stand.

use std::cell::Cell;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Index, Machine, Object, last_part};
use crate::celery::body::Unreadable;

const MAX_DEPTH: usize = 64;
/// What reading may cost for each byte of the pickle: a visit costs [`VISIT`], text its length. An object that is held
/// once takes a byte at least, one that is repeated takes two.
const COST_OF_BYTE: usize = 32;
const VISIT: usize = 16;
/// What reading a short pickle may cost besides.
const COST_OF_START: usize = 4096;

/// Reads an object of a pickle that has so many bytes.
pub(super) fn read<T: DeserializeOwned>(
    machine: &Machine<'_>,
    index: Index,
    bytes: usize,
) -> Result<T, Unreadable> {
    let budget = Budget {
        left: Cell::new(bytes.saturating_mul(COST_OF_BYTE) + COST_OF_START),
        exceeded: Cell::new(None),
    };
    let node = Node {
        machine,
        budget: &budget,
        index,
        depth: 0,
    };
    T::deserialize(node).map_err(|_| budget.exceeded.get().unwrap_or(Unreadable::Serialized))
}

/// What reading may still cost.
struct Budget {
    left: Cell<usize>,
    /// Which limit was met, where one was.
    exceeded: Cell<Option<Unreadable>>,
}

impl Budget {
    fn spend(&self, cost: usize) -> Result<(), Error> {
        match self.left.get().checked_sub(cost) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(self.exceed(Unreadable::TooLarge)),
        }
    }

    fn exceed(&self, limit: Unreadable) -> Error {
        self.exceeded.set(Some(limit));
        serde::de::Error::custom(limit)
    }
}

type Error = serde::de::value::Error;

/// One object, to be read by serde.
#[derive(Clone, Copy)]
struct Node<'m> {
    machine: &'m Machine<'m>,
    budget: &'m Budget,
    index: Index,
    depth: usize,
}

impl<'m> Node<'m> {
    fn child(self, index: Index) -> Self {
        Self {
            index,
            depth: self.depth + 1,
            ..self
        }
    }

    fn text(self) -> Option<&'m str> {
        match self.machine.object(self.index)? {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.budget.spend(VISIT)?;
        if self.depth > MAX_DEPTH {
            return Err(self.budget.exceed(Unreadable::TooDeep));
        }
        match self.machine.object(self.index) {
            Some(Object::Bool(flag)) => visitor.visit_bool(*flag),
            Some(Object::Int(number)) => visitor.visit_i64(*number),
            Some(Object::Float(number)) => visitor.visit_f64(*number),
            Some(Object::Text(text)) => {
                self.budget.spend(text.len())?;
                visitor.visit_str(text)
            }
            Some(Object::List(items)) => visitor.visit_seq(Items {
                node: self,
                rest: items.iter(),
            }),
            Some(Object::Dict(items)) => visitor.visit_map(Entries {
                node: self,
                rest: items.iter(),
                value: None,
            }),
            Some(Object::Instance(name)) => {
                let name = last_part(self.child(*name).text().unwrap_or_default());
                self.budget.spend(name.len())?;
                let entry = std::iter::once(("exc_type", name));
                visitor.visit_map(serde::de::value::MapDeserializer::new(entry))
            }
            Some(Object::None | Object::Opaque | Object::Class(_)) | None => visitor.visit_unit(),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.machine.object(self.index) {
            Some(Object::None | Object::Opaque | Object::Class(_)) | None => visitor.visit_none(),
            Some(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.budget.spend(VISIT)?;
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

struct Items<'m> {
    node: Node<'m>,
    rest: std::slice::Iter<'m, Index>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let item = self.rest.next();
        item.map(|item| seed.deserialize(self.node.child(*item)))
            .transpose()
    }
}

/// The entries whose keys are text. Celery writes no others.
struct Entries<'m> {
    node: Node<'m>,
    rest: std::slice::Iter<'m, (Index, Index)>,
    value: Option<Index>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        for (key, value) in self.rest.by_ref() {
            let key = self.node.child(*key);
            if key.text().is_some() {
                self.value = Some(*value);
                return seed.deserialize(key).map(Some);
            }
            self.node.budget.spend(VISIT)?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = self.value.take();
        let value = value.ok_or_else(|| serde::de::Error::custom("a value before its key"))?;
        seed.deserialize(self.node.child(value))
    }
}
