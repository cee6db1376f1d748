//! Reads the plain data of a pickle and nothing else: no class is looked up and nothing is called, so a hostile pickle
//! has nothing to run. What is not plain data stands as an object with its class's name.
//!
//! Objects live in one flat list, refer to each other by index, and borrow their text from the pickle. So a deep pickle
//! can't overflow the stack, one that repeats an object through the memo can't grow beyond its own length, and nothing is
//! copied but what the type that is read asks for, within a budget that grows with the pickle's length.
//! The opcodes are those of Python's `pickletools`, protocols 0 to 5.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::body::Unreadable;

mod reader;

const MAX_OBJECTS: usize = 1 << 19;
/// Entries of the stack, of lists, of dictionaries and of the memo, together.
const MAX_ENTRIES: usize = 1 << 21;
/// The function that makes a signature of a dictionary (Celery 5.7 `canvas.py`, `Signature.__reduce__`).
const SIGNATURE: &str = "signature";

type Index = u32;

#[derive(Debug)]
enum Object<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// Bytes, big numbers and whatever else is of no use here.
    Opaque,
    List(Vec<Index>),
    Dict(Vec<(Index, Index)>),
    /// A class, by the text of its name.
    Class(Index),
    /// An instance of a class, by the text of the class's name.
    Instance(Index),
}

/// Reads the value of a pickle. An instance is `{"exc_type": CLASS}`, as Celery's JSON writes exceptions, and a signature
/// the dictionary that it is made of.
pub(super) fn read<T: DeserializeOwned>(pickle: &[u8]) -> Result<T, Unreadable> {
    let mut machine = Machine {
        input: pickle,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        entries: 0,
    };
    let top = machine.run().ok_or(if machine.is_full() {
        Unreadable::TooLarge
    } else {
        Unreadable::Serialized
    })?;
    reader::read(&machine, top, pickle.len())
}

struct Machine<'a> {
    input: &'a [u8],
    objects: Vec<Object<'a>>,
    stack: Vec<Index>,
    marks: Vec<u32>,
    /// Memo number and index, kept sorted; numbers nearly always come in order.
    memo: Vec<(usize, Index)>,
    /// How many entries were ever made, of [`MAX_ENTRIES`].
    entries: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Option<Index> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.stack.pop(),
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.mark()?,
                // POP, and BUILD: the instance below stays as it is.
                b'0' | b'b' => drop(self.stack.pop()?),
                b'1' => drop(self.since_mark()?),
                b'2' => self.put(*self.stack.last()?)?,
                b'N' => self.push(Object::None)?,
                0x88 => self.push(Object::Bool(true))?,
                0x89 => self.push(Object::Bool(false))?,
                b'I' => match self.line()? {
                    "00" => self.push(Object::Bool(false))?,
                    "01" => self.push(Object::Bool(true))?,
                    digits => self.push(digits.parse().map_or(Object::Opaque, Object::Int))?,
                },
                b'L' => {
                    let digits = self.line()?.trim_end_matches('L');
                    self.push(digits.parse().map_or(Object::Opaque, Object::Int))?;
                }
                b'J' => {
                    let number = i32::from_le_bytes(self.take(4)?.try_into().ok()?);
                    self.push(Object::Int(i64::from(number)))?;
                }
                b'K' => {
                    let number = self.number(1)?;
                    self.push(int(number))?;
                }
                b'M' => {
                    let number = self.number(2)?;
                    self.push(int(number))?;
                }
                0x8a => self.long(1)?,
                0x8b => self.long(4)?,
                b'F' => {
                    let number = self.line()?.parse().ok()?;
                    self.push(Object::Float(number))?;
                }
                b'G' => {
                    let number = f64::from_be_bytes(self.take(8)?.try_into().ok()?);
                    self.push(Object::Float(number))?;
                }
                b'S' => {
                    let quoted = self.line()?;
                    let text = quoted.get(1..quoted.len().checked_sub(1)?)?;
                    self.push(Object::Text(text.into()))?;
                }
                b'V' => {
                    let text = raw_unicode(self.raw_line()?);
                    self.push(text)?;
                }
                b'X' | b'T' => self.text(4)?,
                b'U' | 0x8c => self.text(1)?,
                0x8d => self.text(8)?,
                b'B' => self.bytes(4)?,
                b'C' => self.bytes(1)?,
                0x8e | 0x96 => self.bytes(8)?,
                b']' | b')' | 0x8f => self.push(Object::List(Vec::new()))?,
                b'}' => self.push(Object::Dict(Vec::new()))?,
                b'l' | b't' | 0x91 => {
                    let items = self.since_mark()?;
                    self.push(Object::List(items))?;
                }
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.push(Object::List(items))?;
                }
                b'd' => {
                    let pairs = pairs(&self.since_mark()?);
                    self.push(Object::Dict(pairs))?;
                }
                b'a' => {
                    let items = self.pop_many(1)?;
                    self.extend_list(&items)?;
                }
                b'e' | 0x90 => {
                    let items = self.since_mark()?;
                    self.extend_list(&items)?;
                }
                b's' => {
                    let items = self.pop_many(2)?;
                    self.extend_dict(&items)?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.extend_dict(&items)?;
                }
                b'p' | b'q' | b'r' => {
                    let number = self.memo_number(opcode)?;
                    self.memorise(number)?;
                }
                0x94 => self.memorise(self.memo.len())?,
                b'g' | b'h' | b'j' => {
                    let number = self.memo_number(opcode)?;
                    self.recall(number)?;
                }
                b'c' => {
                    self.line()?;
                    let name = self.line()?;
                    let name = self.keep(Object::Text(name.into()))?;
                    self.push(Object::Class(name))?;
                }
                0x93 => {
                    let names = self.pop_many(2)?;
                    let class = match self.object(names[1])? {
                        Object::Text(_) => Object::Class(names[1]),
                        _ => Object::Opaque,
                    };
                    self.push(class)?;
                }
                // The callable or class, and its arguments, make an instance.
                b'R' | 0x81 => {
                    let parts = self.pop_many(2)?;
                    self.instance(parts[0], Some(parts[1]))?;
                }
                0x92 => {
                    let parts = self.pop_many(3)?;
                    self.instance(parts[0], None)?;
                }
                b'o' => {
                    let parts = self.since_mark()?;
                    self.instance(*parts.first()?, None)?;
                }
                b'i' => {
                    self.line()?;
                    let name = self.line()?;
                    self.since_mark()?;
                    let name = self.keep(Object::Text(name.into()))?;
                    self.push(Object::Instance(name))?;
                }
                _ => return None,
            }
        }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.input.split_at_checked(count)?;
        self.input = rest;
        Some(taken)
    }

    fn raw_line(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.input)?;
        let line = self.take(end)?;
        self.take(1)?;
        Some(line)
    }

    fn line(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.raw_line()?).ok()
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, width: usize) -> Option<usize> {
        let number = self
            .take(width)?
            .iter()
            .rev()
            .fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).ok()
    }

    fn long(&mut self, width: usize) -> Option<()> {
        let count = self.number(width)?;
        let bytes = self.take(count)?;
        let number = match bytes {
            [] => Object::Int(0),
            [.., top] if bytes.len() <= 8 => {
                let sign = if top & 0x80 == 0 { 0 } else { -1 };
                Object::Int(
                    bytes
                        .iter()
                        .rev()
                        .fold(sign, |number, &byte| number << 8 | i64::from(byte)),
                )
            }
            _ => Object::Opaque,
        };
        self.push(number)
    }

    fn text(&mut self, width: usize) -> Option<()> {
        let count = self.number(width)?;
        let text = std::str::from_utf8(self.take(count)?)
            .map_or(Object::Opaque, |text| Object::Text(text.into()));
        self.push(text)
    }

    fn bytes(&mut self, width: usize) -> Option<()> {
        let count = self.number(width)?;
        self.take(count)?;
        self.push(Object::Opaque)
    }

    fn push(&mut self, object: Object<'a>) -> Option<()> {
        let index = self.keep(object)?;
        self.put(index)
    }

    /// Adds an object that is not on the stack.
    fn keep(&mut self, object: Object<'a>) -> Option<Index> {
        if self.objects.len() >= MAX_OBJECTS {
            return None;
        }
        let index = Index::try_from(self.objects.len()).ok()?;
        self.objects.push(object);
        Some(index)
    }

    fn put(&mut self, index: Index) -> Option<()> {
        self.spend(1)?;
        self.stack.push(index);
        Some(())
    }

    fn mark(&mut self) -> Option<()> {
        self.spend(1)?;
        self.marks.push(u32::try_from(self.stack.len()).ok()?);
        Some(())
    }

    fn spend(&mut self, entries: usize) -> Option<()> {
        self.entries += entries;
        (!self.is_full()).then_some(())
    }

    fn is_full(&self) -> bool {
        self.entries > MAX_ENTRIES || self.objects.len() >= MAX_OBJECTS
    }

    fn object(&self, index: Index) -> Option<&Object<'a>> {
        self.objects.get(index as usize)
    }

    fn top(&mut self) -> Option<&mut Object<'a>> {
        let index = *self.stack.last()?;
        self.objects.get_mut(index as usize)
    }

    fn since_mark(&mut self) -> Option<Vec<Index>> {
        let mark = self.marks.pop()? as usize;
        (mark <= self.stack.len()).then(|| self.stack.split_off(mark))
    }

    fn pop_many(&mut self, count: usize) -> Option<Vec<Index>> {
        let at = self.stack.len().checked_sub(count)?;
        Some(self.stack.split_off(at))
    }

    fn extend_list(&mut self, items: &[Index]) -> Option<()> {
        self.spend(items.len())?;
        // `append` may be a method of any object; only those of lists matter.
        if let Object::List(list) = self.top()? {
            list.extend_from_slice(items);
        }
        Some(())
    }

    fn extend_dict(&mut self, items: &[Index]) -> Option<()> {
        self.spend(items.len())?;
        if let Object::Dict(dict) = self.top()? {
            dict.extend(pairs(items));
        }
        Some(())
    }

    fn memo_number(&mut self, opcode: u8) -> Option<usize> {
        match opcode {
            b'q' | b'h' => self.number(1),
            b'r' | b'j' => self.number(4),
            _ => self.line()?.parse().ok(),
        }
    }

    fn memorise(&mut self, number: usize) -> Option<()> {
        let top = *self.stack.last()?;
        self.spend(1)?;
        match self.memo.last() {
            Some(&(last, _)) if last >= number => {
                match self.memo.binary_search_by_key(&number, |entry| entry.0) {
                    Ok(at) => self.memo[at].1 = top,
                    // A pickler counts up; numbers that come out of order would make this quadratic.
                    Err(_) => return None,
                }
            }
            _ => self.memo.push((number, top)),
        }
        Some(())
    }

    fn recall(&mut self, number: usize) -> Option<()> {
        let at = self
            .memo
            .binary_search_by_key(&number, |entry| entry.0)
            .ok()?;
        self.put(self.memo[at].1)
    }

    fn instance(&mut self, class: Index, arguments: Option<Index>) -> Option<()> {
        let &Object::Class(name) = self.object(class)? else {
            return self.push(Object::Opaque);
        };
        match arguments.and_then(|arguments| self.signature(name, arguments)) {
            Some(dict) => self.put(dict),
            None => self.push(Object::Instance(name)),
        }
    }

    /// The dictionary of which a signature is made.
    fn signature(&self, name: Index, arguments: Index) -> Option<Index> {
        let (Object::Text(name), Object::List(arguments)) =
            (self.object(name)?, self.object(arguments)?)
        else {
            return None;
        };
        let first = *arguments.first()?;
        let is_dict = matches!(self.object(first)?, Object::Dict(_));
        (is_dict && last_part(name) == SIGNATURE).then_some(first)
    }
}

/// The last part of a qualified name: Celery's JSON names an exception so.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

fn int<'a>(number: usize) -> Object<'a> {
    i64::try_from(number).map_or(Object::Opaque, Object::Int)
}

/// Python's `raw-unicode-escape`: Latin-1, with `\uXXXX` for what it lacks.
fn raw_unicode<'a>(line: &[u8]) -> Object<'a> {
    let latin: String = line.iter().map(|&byte| char::from(byte)).collect();
    let mut parts = latin.split("\\u");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escaped = part
            .get(..4)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        match (escaped, part.get(4..)) {
            (Some(character), Some(rest)) => {
                text.push(character);
                text.push_str(rest);
            }
            _ => return Object::Opaque,
        }
    }
    Object::Text(text.into())
}

fn pairs(items: &[Index]) -> Vec<(Index, Index)> {
    items
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

#[cfg(test)]
mod tests;
