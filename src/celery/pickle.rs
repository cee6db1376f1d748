//! Reads the plain data of a pickle and nothing else: no class is looked up and nothing is called, so a hostile pickle
//! has nothing to run. What is not plain data stands as an object with its class's name.
//!
//! Objects live in one flat list and refer to each other by index. So a deep pickle can't overflow the stack, and one
//! that repeats an object through the memo can't grow beyond its own length; the copy to JSON is bounded in depth and size.
//! The opcodes are those of Python's `pickletools`, protocols 0 to 5.

use serde_json::{Map, Value};

use super::body::Unreadable;

const MAX_OBJECTS: usize = 1 << 20;
const MAX_DEPTH: usize = 32;
const MAX_COPIED: usize = 4 << 20;
/// Keys and places of private data, which are not even copied.
const PRIVATE: [&str; 3] = ["args", "kwargs", "traceback"];
/// The largest `result` that may be the meta data of a state (`{"pid": …, "hostname": …}`).
const MAX_META: usize = 8;

type Index = usize;

#[derive(Clone, Debug)]
enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Bytes, big numbers and whatever else is of no use here.
    Opaque,
    List(Vec<Index>),
    Dict(Vec<(Index, Index)>),
    /// A class, by its last name.
    Class(String),
    /// An instance of a class.
    Instance(String),
}

/// The value of a pickle as JSON, without private data: `args` and `kwargs` are null, and a large `result` too.
/// An instance is `{"exc_type": CLASS}`, as Celery's JSON writes exceptions.
pub(super) fn read(pickle: &[u8]) -> Result<Value, Unreadable> {
    let mut machine = Machine {
        input: pickle,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    let top = machine.run().ok_or(Unreadable::Serialized)?;
    let mut room = MAX_COPIED;
    Ok(machine.copy(top, 0, &mut room))
}

struct Machine<'a> {
    input: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Index>,
    marks: Vec<usize>,
    /// Memo number and index, kept sorted; numbers nearly always come in order.
    memo: Vec<(usize, Index)>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Option<Index> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.stack.pop(),
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                // POP, and BUILD: the instance below stays as it is.
                b'0' | b'b' => drop(self.stack.pop()?),
                b'1' => drop(self.since_mark()?),
                b'2' => self.stack.push(*self.stack.last()?),
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
                    let text = quoted.get(1..quoted.len().checked_sub(1)?)?.to_owned();
                    self.push(Object::Text(text))?;
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
                    self.push(class(name))?;
                }
                0x93 => {
                    let names = self.pop_many(2)?;
                    let class = match self.objects.get(names[1])? {
                        Object::Text(name) => class(name),
                        _ => Object::Opaque,
                    };
                    self.push(class)?;
                }
                // The callable or class, and its arguments, make an instance.
                b'R' | 0x81 => {
                    let parts = self.pop_many(2)?;
                    match self.signature(parts[0], parts[1]) {
                        Some(signature) => self.stack.push(signature),
                        None => self.instance(parts[0])?,
                    }
                }
                0x92 => {
                    let parts = self.pop_many(3)?;
                    self.instance(parts[0])?;
                }
                b'o' => {
                    let parts = self.since_mark()?;
                    self.instance(*parts.first()?)?;
                }
                b'i' => {
                    self.line()?;
                    let name = self.line()?.to_owned();
                    self.since_mark()?;
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
            .map_or(Object::Opaque, |text| Object::Text(text.to_owned()));
        self.push(text)
    }

    fn bytes(&mut self, width: usize) -> Option<()> {
        let count = self.number(width)?;
        self.take(count)?;
        self.push(Object::Opaque)
    }

    fn push(&mut self, object: Object) -> Option<()> {
        if self.objects.len() >= MAX_OBJECTS {
            return None;
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Some(())
    }

    fn since_mark(&mut self) -> Option<Vec<Index>> {
        let mark = self.marks.pop()?;
        (mark <= self.stack.len()).then(|| self.stack.split_off(mark))
    }

    fn pop_many(&mut self, count: usize) -> Option<Vec<Index>> {
        let at = self.stack.len().checked_sub(count)?;
        Some(self.stack.split_off(at))
    }

    fn extend_list(&mut self, items: &[Index]) -> Option<()> {
        // `append` may be a method of any object; only those of lists matter.
        if let Object::List(list) = self.objects.get_mut(*self.stack.last()?)? {
            list.extend_from_slice(items);
        }
        Some(())
    }

    fn extend_dict(&mut self, items: &[Index]) -> Option<()> {
        if let Object::Dict(dict) = self.objects.get_mut(*self.stack.last()?)? {
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
        self.stack.push(self.memo[at].1);
        Some(())
    }

    fn instance(&mut self, class: Index) -> Option<()> {
        let instance = match self.objects.get(class)? {
            Object::Class(name) => Object::Instance(name.clone()),
            _ => Object::Opaque,
        };
        self.push(instance)
    }

    /// The dictionary that a signature is made of (Celery 5.7 `canvas.py`, `Signature.__reduce__`).
    fn signature(&self, callable: Index, arguments: Index) -> Option<Index> {
        let (Object::Class(name), Object::List(arguments)) =
            (self.objects.get(callable)?, self.objects.get(arguments)?)
        else {
            return None;
        };
        let [only] = arguments.as_slice() else {
            return None;
        };
        let is_dict = matches!(self.objects.get(*only)?, Object::Dict(_));
        (name == "signature" && is_dict).then_some(*only)
    }

    /// Whether a dictionary is a signature whose keywords are other signatures, and no task's arguments.
    fn is_canvas(&self, items: &[(Index, Index)]) -> bool {
        items.iter().any(|(key, value)| {
            let (Some(Object::Text(key)), Some(Object::Text(value))) =
                (self.objects.get(*key), self.objects.get(*value))
            else {
                return false;
            };
            key == "task"
                && ["celery.chain", "celery.group", "celery.chord"].contains(&value.as_str())
        })
    }

    fn copy(&self, index: Index, depth: usize, room: &mut usize) -> Value {
        // Every visit costs room, or objects that contain each other a million times would take for ever.
        *room = room.saturating_sub(16);
        if depth > MAX_DEPTH || *room == 0 {
            return Value::Null;
        }
        match self.objects.get(index) {
            Some(Object::Bool(flag)) => Value::Bool(*flag),
            Some(Object::Int(number)) => Value::from(*number),
            Some(Object::Float(number)) => Value::from(*number),
            Some(Object::Text(text)) => {
                if text.len() > *room {
                    return Value::Null;
                }
                *room -= text.len();
                Value::String(text.clone())
            }
            Some(Object::List(items)) => {
                // The body of protocol 2 is a list whose first two items are args and kwargs.
                let private = if depth == 0 && items.len() == 3 { 2 } else { 0 };
                let kept = items.iter().skip(private);
                let mut list = vec![Value::Null; private];
                for item in kept {
                    if *room == 0 {
                        break;
                    }
                    list.push(self.copy(*item, depth + 1, room));
                }
                Value::Array(list)
            }
            Some(Object::Dict(items)) => {
                let mut map = Map::new();
                let is_canvas = self.is_canvas(items);
                for (key, value) in items {
                    *room = room.saturating_sub(1);
                    let Some(Object::Text(key)) = self.objects.get(*key) else {
                        if *room == 0 {
                            break;
                        }
                        continue;
                    };
                    if *room <= key.len() {
                        break;
                    }
                    *room -= key.len();
                    if !self.is_private(key, *value) || is_canvas && key == "kwargs" {
                        map.insert(key.clone(), self.copy(*value, depth + 1, room));
                    }
                }
                Value::Object(map)
            }
            Some(Object::Instance(name)) => {
                *room = room.saturating_sub(name.len());
                Value::Object(Map::from_iter([(
                    "exc_type".to_owned(),
                    Value::from(name.as_str()),
                )]))
            }
            Some(Object::None | Object::Opaque | Object::Class(_)) | None => Value::Null,
        }
    }

    fn is_private(&self, key: &str, value: Index) -> bool {
        let is_data = match self.objects.get(value) {
            Some(Object::Dict(items)) => items.len() > MAX_META,
            Some(Object::Instance(_)) => false,
            _ => true,
        };
        PRIVATE.contains(&key) || key == "result" && is_data
    }
}

fn int(number: usize) -> Object {
    i64::try_from(number).map_or(Object::Opaque, Object::Int)
}

/// A class by the last part of its qualified name. Functions that rebuild an exception are no exceptions.
fn class(name: &str) -> Object {
    Object::Class(name.rsplit('.').next().unwrap_or_default().to_owned())
}

/// Python's `raw-unicode-escape`: Latin-1, with `\uXXXX` for what it lacks.
fn raw_unicode(line: &[u8]) -> Object {
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
    Object::Text(text)
}

fn pairs(items: &[Index]) -> Vec<(Index, Index)> {
    items
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

#[cfg(test)]
mod tests;
