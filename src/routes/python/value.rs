//! What an expression is worth, as far as it can be told without running the program.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::celery::routing::{Exchange, Gap, Queue};

/// A piece of a file: its number in the project, and bytes from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub file: u32,
    pub start: u32,
    pub end: u32,
}

/// A value, and the text that it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub kind: Kind,
    pub at: Place,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    List(Rc<RefCell<List>>),
    Tuple(Rc<Vec<Value>>),
    Set(Rc<Vec<Value>>),
    Dict(Rc<RefCell<Dict>>),
    Queue(Rc<Queue>),
    Exchange(Rc<Exchange>),
    /// A compiled regular expression, and whether it has flags.
    Regex(Rc<str>, bool),
    /// A Celery app of the project.
    App(usize),
    /// The `conf` of an app.
    Conf(usize),
    /// A task of the project.
    Task(usize),
    /// A signature: of a task by name, and the options that it carries.
    Signature(Rc<Signature>),
    Class(Rc<Class>),
    Function(Function),
    /// A module or package of the project.
    Module(Module),
    /// What an import names, looked at when it is needed.
    Import(Rc<Import>),
    /// Something of another package, by its dotted path.
    External(Rc<str>),
    /// What the configuration of a web framework holds under this name: `app.config["CELERY"]`.
    Held(Rc<str>),
    /// What cannot be told.
    Unknown(Rc<Gap>),
}

/// A list that can grow.
#[derive(Debug)]
pub(crate) struct List {
    pub items: Vec<Value>,
    /// Why it may hold other things.
    pub spoiled: Option<Rc<Gap>>,
    /// Where it was made: what happens elsewhere may not happen.
    pub context: u32,
}

/// A dict that can change.
#[derive(Debug)]
pub(crate) struct Dict {
    pub entries: Vec<(Value, Value)>,
    /// Why it may hold other things.
    pub spoiled: Option<Rc<Gap>>,
    /// Where it was made.
    pub context: u32,
}

impl Dict {
    /// Sets a key as Python does: one that is there keeps its place.
    pub(crate) fn set(&mut self, key: Value, value: Value) {
        match self.entries.iter_mut().find(|(old, _)| same(old, &key)) {
            Some(entry) => *entry = (key, value),
            None => self.entries.push((key, value)),
        }
    }

    /// The value of a text key.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|(name, _)| name.text() == Some(key))
            .map(|(_, value)| value)
    }
}

/// A task's signature.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    /// The task's name, or why it is unknown.
    pub task: Result<Rc<str>, Rc<Gap>>,
    /// The number of the task, where the project defines it.
    pub number: Option<usize>,
    /// Options by name.
    pub options: Vec<(Rc<str>, Value)>,
}

/// A class of the project.
#[derive(Debug)]
pub(crate) struct Class {
    pub name: Rc<str>,
    pub module: Rc<str>,
    pub bases: Vec<Value>,
    pub names: Scope,
    pub at: Place,
}

/// A function of the project.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub file: u32,
    /// Its number in its file.
    pub number: usize,
    /// What it returns whatever it is given, once its file has been read.
    pub returns: Rc<RefCell<Option<Value>>>,
}

/// A module of the project.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// Its file; none for a folder without `__init__.py`.
    pub file: Option<u32>,
    /// The folder in which its submodules are; none for a plain module.
    pub folder: Option<Rc<str>>,
}

/// A name that a module is to be asked for.
#[derive(Debug)]
pub(crate) struct Import {
    pub module: Module,
    pub name: Rc<str>,
    /// The dotted path as it is written, for the case that it is not there.
    pub path: Rc<str>,
}

/// The names of a module, a class or a function.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    pub names: BTreeMap<Rc<str>, Value>,
    /// Why there may be other names, or other values.
    pub spoiled: Option<Rc<Gap>>,
}

impl Value {
    pub(crate) fn new(kind: Kind, at: Place) -> Self {
        Self { kind, at }
    }

    /// The text, where it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Why it is unknown, where it is.
    pub(crate) fn gap(&self) -> Option<&Rc<Gap>> {
        match &self.kind {
            Kind::Unknown(gap) => Some(gap),
            _ => None,
        }
    }

    /// Python's truth of it, where it is known.
    pub(crate) fn truth(&self) -> Option<bool> {
        match &self.kind {
            Kind::None => Some(false),
            Kind::Bool(value) => Some(*value),
            Kind::Int(value) => Some(*value != 0),
            Kind::Float(value) => Some(*value != 0.0),
            Kind::Str(text) => Some(!text.is_empty()),
            Kind::Tuple(items) | Kind::Set(items) => Some(!items.is_empty()),
            Kind::List(list) => {
                let list = list.borrow();
                match (list.items.is_empty(), &list.spoiled) {
                    (false, _) => Some(true),
                    (true, None) => Some(false),
                    (true, Some(_)) => None,
                }
            }
            Kind::Dict(dict) => {
                let dict = dict.borrow();
                match (dict.entries.is_empty(), &dict.spoiled) {
                    (false, _) => Some(true),
                    (true, None) => Some(false),
                    (true, Some(_)) => None,
                }
            }
            Kind::Queue(_)
            | Kind::Exchange(_)
            | Kind::Regex(..)
            | Kind::App(_)
            | Kind::Class(_)
            | Kind::Function(_)
            | Kind::Module(_) => Some(true),
            Kind::Conf(_)
            | Kind::Task(_)
            | Kind::Signature(_)
            | Kind::Import(_)
            | Kind::Held(_)
            | Kind::External(_)
            | Kind::Unknown(_) => None,
        }
    }

    /// Its items in order, where it is a list, a tuple, a set or a dict (then its keys) of which all is known.
    pub(crate) fn items(&self) -> Option<Vec<Value>> {
        match &self.kind {
            Kind::Tuple(items) | Kind::Set(items) => Some(items.as_ref().clone()),
            Kind::List(list) => {
                let list = list.borrow();
                list.spoiled.is_none().then(|| list.items.clone())
            }
            Kind::Dict(dict) => {
                let dict = dict.borrow();
                let keys = dict.entries.iter().map(|(key, _)| key.clone());
                dict.spoiled.is_none().then(|| keys.collect())
            }
            _ => None,
        }
    }
}

/// How deep values are compared.
const DEEPEST: u32 = 12;

/// Whether two values are surely equal.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    equal(a, b, DEEPEST) == Some(true)
}

/// Whether two values are equal, where that is known.
pub(crate) fn equals(a: &Value, b: &Value) -> Option<bool> {
    equal(a, b, DEEPEST)
}

fn equal(a: &Value, b: &Value, depth: u32) -> Option<bool> {
    let depth = depth.checked_sub(1)?;
    let all = |a: &[Value], b: &[Value]| {
        if a.len() != b.len() {
            return Some(false);
        }
        let mut result = Some(true);
        for (a, b) in a.iter().zip(b) {
            match equal(a, b, depth) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => result = None,
            }
        }
        result
    };
    match (&a.kind, &b.kind) {
        (Kind::None, Kind::None) => Some(true),
        (Kind::Bool(a), Kind::Bool(b)) => Some(a == b),
        (Kind::Int(a), Kind::Int(b)) => Some(a == b),
        (Kind::Float(a), Kind::Float(b)) => Some(a.to_bits() == b.to_bits()),
        (Kind::Str(a), Kind::Str(b)) => Some(a == b),
        (Kind::Tuple(a), Kind::Tuple(b)) => all(a, b),
        (Kind::List(a), Kind::List(b)) if Rc::ptr_eq(a, b) => Some(true),
        (Kind::List(a), Kind::List(b)) => {
            let (a, b) = (a.borrow(), b.borrow());
            if a.spoiled.is_some() || b.spoiled.is_some() {
                return None;
            }
            all(&a.items, &b.items)
        }
        (Kind::Dict(a), Kind::Dict(b)) if Rc::ptr_eq(a, b) => Some(true),
        (Kind::Dict(a), Kind::Dict(b)) => {
            let (a, b) = (a.borrow(), b.borrow());
            if a.spoiled.is_some() || b.spoiled.is_some() || a.entries.len() > 200 {
                return None;
            }
            // The same keys in the same order; another order is rare, and left open.
            let keys = a.entries.iter().zip(&b.entries);
            let all_same = a.entries.len() == b.entries.len()
                && keys.into_iter().all(|((ka, va), (kb, vb))| {
                    equal(ka, kb, depth) == Some(true) && equal(va, vb, depth) == Some(true)
                });
            all_same.then_some(true)
        }
        (Kind::Queue(a), Kind::Queue(b)) => (a == b).then_some(true),
        (Kind::Exchange(a), Kind::Exchange(b)) => Some(a == b),
        (Kind::Regex(a, x), Kind::Regex(b, y)) => Some(a == b && x == y),
        (Kind::App(a), Kind::App(b))
        | (Kind::Conf(a), Kind::Conf(b))
        | (Kind::Task(a), Kind::Task(b)) => Some(a == b),
        (Kind::External(a), Kind::External(b)) => (a == b).then_some(true),
        (Kind::Import(a), Kind::Import(b)) => {
            (a.path == b.path && a.name == b.name).then_some(true)
        }
        (Kind::Class(a), Kind::Class(b)) => Rc::ptr_eq(a, b).then_some(true),
        (Kind::Function(a), Kind::Function(b)) => {
            (a.file == b.file && a.number == b.number).then_some(true)
        }
        (Kind::Module(a), Kind::Module(b)) => {
            (a.file == b.file && a.folder == b.folder).then_some(true)
        }
        _ => match (plain(a), plain(b)) {
            (true, true) => Some(false),
            _ => None,
        },
    }
}

/// Whether a value is of a plain kind, which equals no value of another plain kind. Numbers and truths do.
fn plain(value: &Value) -> bool {
    matches!(
        value.kind,
        Kind::None | Kind::Str(_) | Kind::Tuple(_) | Kind::List(_) | Kind::Dict(_)
    )
}
