//! Methods of what is known: texts, lists, dicts, apps, tasks and signatures.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::Expr;

use super::calls::{Arguments, OF_A_CALL};
use super::expression::{as_text, is_config};
use super::project::ConfOp;
use super::value::{Dict, Kind, Place, Signature, Value};
use super::{MAX_ITEMS, MAX_TEXT, Sureness, Walk};

/// How many values are looked through before one is put into another.
const MAX_LOOKED: usize = 20_000;

impl<'a> Walk<'_, 'a> {
    /// What a method returns; none where it is no method that is known, and the attribute is to be called.
    pub(super) fn method(
        &mut self,
        owner_text: &'a Expr,
        owner: &Value,
        name: &str,
        arguments: &Arguments,
        at: Place,
    ) -> Option<Value> {
        match (&owner.kind, name) {
            (Kind::App(app), _) => return self.app_method(*app, name, arguments, at),
            (Kind::Conf(app), "update") => {
                let app = *app;
                for value in &arguments.positional {
                    self.conf(app, ConfOp::Update(value.clone()));
                }
                for (name, value) in &arguments.keywords {
                    self.conf(app, ConfOp::Set(name.clone(), value.clone()));
                }
                if let Some(gap) = &arguments.spoiled {
                    self.conf(app, ConfOp::Unknown(gap.clone()));
                }
                return Some(Value::new(Kind::None, at));
            }
            (Kind::Conf(app), "get") => {
                let name = arguments.positional.first()?.text()?.to_owned();
                return Some(self.setting(*app, &name, at));
            }
            (Kind::Conf(app), "setdefault" | "clear" | "pop" | "add_defaults") => {
                let gap = self.project.gap(
                    at,
                    "the configuration is changed in a way that is not worked out",
                );
                self.conf(*app, ConfOp::Unknown(gap));
                return Some(self.unknown(at, "it is not worked out"));
            }
            (Kind::Str(text), _) => return self.text_method(&text.clone(), name, arguments, at),
            (Kind::List(_), "append") => {
                let item = arguments.positional.first()?.clone();
                let items = self.list(Ok(vec![item]), at);
                self.extend(owner, &items, at);
                return Some(Value::new(Kind::None, at));
            }
            (Kind::List(_), "extend") => {
                let more = arguments.positional.first()?.clone();
                self.extend(owner, &more, at);
                return Some(Value::new(Kind::None, at));
            }
            (Kind::List(list), "insert" | "remove" | "pop" | "clear" | "sort" | "reverse") => {
                let gap = self
                    .project
                    .gap(at, "the list is changed in a way that is not worked out");
                list.borrow_mut().spoiled.get_or_insert(gap.clone());
                return Some(Value::new(Kind::Unknown(gap), at));
            }
            (Kind::Dict(_), _) => return self.dict_method(owner, name, arguments, at),
            (Kind::Task(number), "s" | "si" | "signature" | "subtask") => {
                return Some(self.signature_of_task(*number, arguments, at));
            }
            (Kind::Signature(_), "clone" | "s" | "si") => return Some(owner.clone()),
            (Kind::Signature(_) | Kind::Unknown(_), "set") if Self::says_where(arguments) => {
                return Some(self.set(owner, arguments, at));
            }
            (Kind::Signature(signature), "set") => {
                return Some(Value::new(Kind::Signature(signature.clone()), at));
            }
            (_, "apply_async") => {
                self.apply_async(owner, arguments, at);
                return Some(self.unknown(at, "a result is known only when it runs"));
            }
            (Kind::Unknown(_) | Kind::External(_), "send_task") => {
                self.send_task(None, arguments, at);
                return Some(self.unknown(at, "a result is known only when it runs"));
            }
            (Kind::Unknown(_) | Kind::External(_), "register_task") => {
                return Some(self.register(None, arguments, at));
            }
            _ => {}
        }
        if is_config(owner_text) && matches!(name, "from_mapping" | "update") {
            for value in &arguments.positional {
                if let Kind::Dict(dict) = &value.kind {
                    let dict = dict.borrow();
                    let held = dict
                        .entries
                        .iter()
                        .filter_map(|(key, value)| match &key.kind {
                            Kind::Str(key) => Some((key.clone(), value.clone())),
                            _ => None,
                        });
                    self.project.held.extend(held);
                }
            }
            self.project.held.extend(arguments.keywords.iter().cloned());
            return Some(Value::new(Kind::None, at));
        }
        if let (Expr::Attribute(_), "get", Some(Kind::Str(key))) = (
            owner_text,
            name,
            arguments.positional.first().map(|key| &key.kind),
        ) && is_config(owner_text)
        {
            return Some(Value::new(Kind::Held(key.clone()), at));
        }
        None
    }

    fn says_where(arguments: &Arguments) -> bool {
        OF_A_CALL
            .iter()
            .any(|name| arguments.keyword(name).is_some())
    }

    /// `.set(queue=…)`.
    fn set(&mut self, owner: &Value, arguments: &Arguments, at: Place) -> Value {
        let (task, number, mut options) = match &owner.kind {
            Kind::Signature(old) => (old.task.clone(), old.number, old.options.clone()),
            Kind::Unknown(gap) => (Err(gap.clone()), None, Vec::new()),
            _ => return owner.clone(),
        };
        for name in OF_A_CALL {
            if let Some(value) = arguments.keyword(name) {
                options.retain(|(old, _)| &**old != name);
                options.push((name.into(), value.clone()));
            }
        }
        self.sent(task.clone(), number, None, &options, at);
        let signature = Signature {
            task,
            number,
            options,
        };
        Value::new(Kind::Signature(Rc::new(signature)), at)
    }

    fn app_method(
        &mut self,
        app: usize,
        name: &str,
        arguments: &Arguments,
        at: Place,
    ) -> Option<Value> {
        match name {
            "config_from_object" => {
                let source = arguments.get(0, "obj")?.clone();
                let namespace = arguments.get(3, "namespace").cloned();
                self.conf(app, ConfOp::Source(source, namespace));
            }
            "config_from_envvar" | "config_from_cmdline" | "add_defaults" => {
                let gap = self
                    .project
                    .gap(at, format!("{name} reads what is known only when it runs"));
                self.conf(app, ConfOp::Unknown(gap));
            }
            "send_task" => self.send_task(Some(app), arguments, at),
            "register_task" => return Some(self.register(Some(app), arguments, at)),
            "signature" => return None,
            // A function that is handed over rather than decorated.
            "task" => {
                let gap = self
                    .project
                    .gap(at, "a task is made here whose name is not worked out");
                self.project.unknown_tasks.push(gap);
            }
            _ => {}
        }
        Some(self.unknown(
            at,
            "what an app's method returns is known only when it runs",
        ))
    }

    fn text_method(
        &mut self,
        text: &str,
        name: &str,
        arguments: &Arguments,
        at: Place,
    ) -> Option<Value> {
        let first = arguments.positional.first();
        let made = match name {
            "upper" => Some(text.to_uppercase()),
            "lower" => Some(text.to_lowercase()),
            "strip" if first.is_none() => Some(text.trim().to_owned()),
            "format" => format(text, arguments),
            "replace" => match arguments.positional.as_slice() {
                [from, to] => Some(text.replace(from.text()?, to.text()?)),
                _ => None,
            },
            "join" => {
                let items = first.and_then(Value::items);
                let parts: Option<Vec<String>> = items.and_then(|items| {
                    items
                        .iter()
                        .map(|item| item.text().map(str::to_owned))
                        .collect()
                });
                parts.map(|parts| parts.join(text))
            }
            "split" => {
                let separator = first.map(|first| first.text().unwrap_or_default());
                let parts: Vec<&str> = match separator {
                    None => text.split_whitespace().collect(),
                    Some("") => return Some(self.unknown(at, "it is not worked out")),
                    Some(separator) => text.split(separator).collect(),
                };
                let items = parts
                    .iter()
                    .map(|part| Value::new(Kind::Str((*part).into()), at));
                return Some(self.list(Ok(items.collect()), at));
            }
            "startswith" => {
                return Some(Value::new(Kind::Bool(text.starts_with(first?.text()?)), at));
            }
            "endswith" => return Some(Value::new(Kind::Bool(text.ends_with(first?.text()?)), at)),
            _ => None,
        };
        Some(match made.filter(|made| made.len() <= MAX_TEXT) {
            Some(made) => Value::new(Kind::Str(made.into()), at),
            None => self.unknown(at, format!("the method {name} is not worked out here")),
        })
    }

    fn dict_method(
        &mut self,
        owner: &Value,
        name: &str,
        arguments: &Arguments,
        at: Place,
    ) -> Option<Value> {
        let Kind::Dict(dict) = &owner.kind else {
            return None;
        };
        let first = arguments.positional.first();
        match name {
            "update" => {
                for more in &arguments.positional {
                    self.update(owner, more, at);
                }
                for (name, value) in &arguments.keywords {
                    let key = Value::new(Kind::Str(name.clone()), at);
                    self.put(dict, key, value.clone(), at);
                }
                if let Some(gap) = &arguments.spoiled {
                    dict.borrow_mut().spoiled.get_or_insert(gap.clone());
                }
                Some(Value::new(Kind::None, at))
            }
            "get" => {
                let key = first?.text()?;
                let dict = dict.borrow();
                Some(match (dict.get(key), &dict.spoiled) {
                    (_, Some(gap)) => Value::new(Kind::Unknown(gap.clone()), at),
                    (Some(value), None) => value.clone(),
                    (None, None) => arguments
                        .positional
                        .get(1)
                        .cloned()
                        .unwrap_or(Value::new(Kind::None, at)),
                })
            }
            "copy" => {
                let mut copy = self.new_dict();
                self.merge_into(&mut copy, owner, at);
                Some(Value::new(Kind::Dict(Rc::new(RefCell::new(copy))), at))
            }
            "keys" | "items" | "values" => {
                let dict = dict.borrow();
                if let Some(gap) = &dict.spoiled {
                    return Some(Value::new(Kind::Unknown(gap.clone()), at));
                }
                let items = dict.entries.iter().map(|(key, value)| match name {
                    "keys" => key.clone(),
                    "values" => value.clone(),
                    _ => Value::new(Kind::Tuple(Rc::new(vec![key.clone(), value.clone()])), at),
                });
                Some(Value::new(Kind::Tuple(Rc::new(items.collect())), at))
            }
            _ => {
                let gap = self
                    .project
                    .gap(at, format!("the method {name} of a dict is not worked out"));
                dict.borrow_mut().spoiled.get_or_insert(gap.clone());
                Some(Value::new(Kind::Unknown(gap), at))
            }
        }
    }

    /// Adds items to a list for all who hold it.
    pub(super) fn extend(&mut self, owner: &Value, more: &Value, at: Place) {
        let Kind::List(list) = &owner.kind else {
            return;
        };
        let sure = self.sureness(list.borrow().context) == Sureness::Sure;
        let items = more
            .items()
            .filter(|items| !items.iter().any(|item| holds(item, owner)));
        let mut list = list.borrow_mut();
        match items {
            Some(items) if sure && list.items.len() + items.len() <= MAX_ITEMS => {
                list.items.extend(items);
            }
            _ => {
                let gap = more.gap().cloned().unwrap_or_else(|| {
                    self.project.gap(
                        at,
                        "whether the list is changed here is known only when it runs",
                    )
                });
                list.spoiled.get_or_insert(gap);
            }
        }
    }

    /// Merges a mapping into a dict for all who hold it.
    pub(super) fn update(&mut self, owner: &Value, more: &Value, at: Place) {
        let Kind::Dict(dict) = &owner.kind else {
            return;
        };
        let made_in = dict.borrow().context;
        if self.sureness(made_in) == Sureness::Sure && !holds(more, owner) {
            if let Ok(mut dict) = dict.try_borrow_mut() {
                self.merge_into(&mut dict, more, at);
            }
        } else {
            let gap = self.project.gap(
                at,
                "whether the dict is changed here is known only when it runs",
            );
            dict.borrow_mut().spoiled.get_or_insert(gap);
        }
    }

    fn put(&mut self, dict: &Rc<RefCell<Dict>>, key: Value, value: Value, at: Place) {
        let made_in = dict.borrow().context;
        let owner = Value::new(Kind::Dict(dict.clone()), at);
        let sure = self.sureness(made_in) == Sureness::Sure;
        if sure
            && key.gap().is_none()
            && !holds(&value, &owner)
            && dict.borrow().entries.len() < MAX_ITEMS
        {
            dict.borrow_mut().set(key, value);
        } else {
            let gap = self.project.gap(
                at,
                "whether the dict is changed here is known only when it runs",
            );
            dict.borrow_mut().spoiled.get_or_insert(gap);
        }
    }

    pub(super) fn set_attribute(&mut self, owner: &Value, name: &str, value: Value) {
        match &owner.kind {
            Kind::Conf(app) => self.conf(*app, ConfOp::Set(name.into(), value)),
            Kind::App(app) if name == "conf" => {
                let gap = self
                    .project
                    .gap(value.at, "the configuration is replaced here");
                self.conf(*app, ConfOp::Unknown(gap));
            }
            _ => {}
        }
    }

    pub(super) fn set_item(&mut self, owner_text: &Expr, owner: &Value, key: Value, value: Value) {
        let at = key.at;
        match (&owner.kind, &key.kind) {
            (Kind::Conf(app), Kind::Str(name)) => self.conf(*app, ConfOp::Set(name.clone(), value)),
            (Kind::Conf(app), _) => {
                let gap = self
                    .project
                    .gap(at, "which setting is set is known only when it runs");
                self.conf(*app, ConfOp::Unknown(gap));
            }
            (Kind::Dict(dict), _) => self.put(dict, key, value, at),
            (Kind::List(list), _) => {
                let gap = self
                    .project
                    .gap(at, "the list is changed in a way that is not worked out");
                list.borrow_mut().spoiled.get_or_insert(gap);
            }
            (Kind::External(path), Kind::Str(name)) if &**path == "os.environ" => {
                self.project
                    .env_set
                    .insert((self.file, name.clone()), value);
            }
            (_, Kind::Str(name)) if is_config(owner_text) => {
                self.project.held.push((name.clone(), value));
            }
            _ => {}
        }
    }
}

/// Whether a value is, or holds, a list or dict.
fn holds(value: &Value, wanted: &Value) -> bool {
    let mut open = vec![value.clone()];
    let mut looked = 0;
    while let Some(value) = open.pop() {
        looked += 1;
        if looked > MAX_LOOKED {
            return true;
        }
        match (&value.kind, &wanted.kind) {
            (Kind::List(a), Kind::List(b)) if Rc::ptr_eq(a, b) => return true,
            (Kind::Dict(a), Kind::Dict(b)) if Rc::ptr_eq(a, b) => return true,
            (Kind::List(list), _) => open.extend(list.borrow().items.iter().cloned()),
            (Kind::Tuple(items) | Kind::Set(items), _) => open.extend(items.iter().cloned()),
            (Kind::Dict(dict), _) => {
                let dict = dict.borrow();
                open.extend(dict.entries.iter().map(|(_, value)| value.clone()));
            }
            _ => {}
        }
    }
    false
}

/// `'{}.{name}'.format(…)`, without anything else in the braces.
fn format(text: &str, arguments: &Arguments) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    let mut next = 0;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let sign = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(sign) {
            out.push_str(sign);
            rest = after;
            continue;
        }
        if sign == "}" {
            return None;
        }
        let (field, after) = rest.split_once('}')?;
        rest = after;
        let value = if field.is_empty() {
            next += 1;
            arguments.positional.get(next - 1)?
        } else if let Ok(number) = field.parse::<usize>() {
            arguments.positional.get(number)?
        } else {
            arguments.keyword(field)?
        };
        out.push_str(&as_text(value)?);
        if out.len() > MAX_TEXT {
            return None;
        }
    }
    out.push_str(rest);
    Some(out)
}

impl Walk<'_, '_> {
    /// `dict(…)`, `list(…)`, `str(…)` and the like.
    pub(super) fn builtin(&mut self, path: &str, arguments: &Arguments, at: Place) -> Value {
        let name = path.rsplit('.').next().unwrap_or(path);
        let first = match name {
            "cast" => arguments.positional.get(1),
            _ => arguments.positional.first(),
        };
        let kind = match (name, first) {
            ("dict" | "OrderedDict", first) => {
                let mut dict = self.new_dict();
                match first.map(|first| (first, &first.kind)) {
                    None => {}
                    Some((first, Kind::List(_) | Kind::Tuple(_))) => {
                        for pair in first.items().unwrap_or_default() {
                            match pair.items().map(<[Value; 2]>::try_from) {
                                Some(Ok([key, value])) => dict.set(key, value),
                                _ => return self.unknown(at, "this dict is not worked out"),
                            }
                        }
                    }
                    Some((first, _)) => self.merge_into(&mut dict, first, at),
                }
                for (name, value) in &arguments.keywords {
                    dict.set(Value::new(Kind::Str(name.clone()), at), value.clone());
                }
                if let Some(gap) = &arguments.spoiled {
                    dict.spoiled.get_or_insert(gap.clone());
                }
                Kind::Dict(Rc::new(RefCell::new(dict)))
            }
            ("list", None) => return self.list(Ok(Vec::new()), at),
            ("list", Some(first)) => match first.items() {
                Some(items) => return self.list(Ok(items), at),
                None => return self.because(first, at),
            },
            ("tuple" | "set" | "frozenset", None) => Kind::Tuple(Rc::new(Vec::new())),
            ("tuple" | "set" | "frozenset", Some(first)) => match first.items() {
                Some(items) => Kind::Tuple(Rc::new(items)),
                None => return self.because(first, at),
            },
            ("copy" | "deepcopy", Some(first)) if matches!(first.kind, Kind::Dict(_)) => {
                let mut copy = self.new_dict();
                self.merge_into(&mut copy, first, at);
                Kind::Dict(Rc::new(RefCell::new(copy)))
            }
            ("copy" | "deepcopy", Some(first)) if matches!(first.kind, Kind::List(_)) => {
                return match first.items() {
                    Some(items) => self.list(Ok(items), at),
                    None => self.because(first, at),
                };
            }
            ("copy" | "deepcopy" | "cast", Some(first)) => return first.clone(),
            ("str", Some(first)) => match as_text(first) {
                Some(text) => Kind::Str(text.into()),
                None => return self.because(first, at),
            },
            ("bool", Some(first)) => match first.truth() {
                Some(truth) => Kind::Bool(truth),
                None => return self.because(first, at),
            },
            ("int", Some(first)) => match &first.kind {
                Kind::Int(number) => Kind::Int(*number),
                Kind::Bool(truth) => Kind::Int(i64::from(*truth)),
                Kind::Str(text) => match text.trim().parse() {
                    Ok(number) => Kind::Int(number),
                    Err(_) => return self.unknown(at, "this is no number"),
                },
                _ => return self.because(first, at),
            },
            ("len", Some(first)) => match first.items().map(|items| i64::try_from(items.len())) {
                Some(Ok(length)) => Kind::Int(length),
                _ => return self.because(first, at),
            },
            _ => return self.unknown(at, "this is not worked out"),
        };
        Value::new(kind, at)
    }
}
