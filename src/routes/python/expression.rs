//! Expressions.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::{
    self as ast, Comprehension, Expr, InterpolatedStringElement, Number, UnaryOp,
};

use super::value::{Class, Dict, Kind, List, Place, Scope, Value, equals};
use super::{MAX_ITEMS, MAX_STEPS, MAX_TEXT, Sureness, Walk};

/// Rounds of one comprehension.
const MAX_ROUNDS: usize = 2000;

/// Python's own functions and types that mean something here.
const BUILTINS: [&str; 14] = [
    "dict",
    "list",
    "tuple",
    "set",
    "frozenset",
    "str",
    "int",
    "bool",
    "len",
    "sorted",
    "object",
    "getattr",
    "print",
    "float",
];

impl<'a> Walk<'_, 'a> {
    pub(super) fn eval(&mut self, expression: &'a Expr) -> Value {
        let at = self.place(expression);
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return self.unknown(at, "there is too much to work out here");
        }
        let kind = match expression {
            Expr::NoneLiteral(_) => Kind::None,
            Expr::BooleanLiteral(literal) => Kind::Bool(literal.value),
            Expr::NumberLiteral(literal) => match &literal.value {
                Number::Int(number) => match number.as_i64() {
                    Some(number) => Kind::Int(number),
                    None => return self.unknown(at, "the number is too large"),
                },
                Number::Float(number) => Kind::Float(*number),
                Number::Complex { .. } => return self.unknown(at, "a complex number"),
            },
            Expr::StringLiteral(literal) => Kind::Str(literal.value.to_str().into()),
            Expr::FString(string) => return self.f_string(string, at),
            Expr::Name(name) => return self.name(name.id.as_str(), at),
            Expr::List(list) => {
                let items = self.sequence(&list.elts);
                return self.list(items, at);
            }
            Expr::Tuple(tuple) => match self.sequence(&tuple.elts) {
                Ok(items) => Kind::Tuple(Rc::new(items)),
                Err(unknown) => return Value::new(unknown.kind, at),
            },
            Expr::Set(set) => match self.sequence(&set.elts) {
                Ok(items) => Kind::Set(Rc::new(items)),
                Err(unknown) => return Value::new(unknown.kind, at),
            },
            Expr::Dict(dict) => return self.dict(dict, at),
            Expr::BinOp(operation) => {
                let left = self.eval(&operation.left);
                let right = self.eval(&operation.right);
                return self.binary(&left, operation.op, &right, at);
            }
            Expr::BoolOp(operation) => return self.either_or(operation, at),
            Expr::UnaryOp(operation) => {
                let operand = self.eval(&operation.operand);
                match (operation.op, &operand.kind, operand.truth()) {
                    (UnaryOp::Not, _, Some(truth)) => Kind::Bool(!truth),
                    (UnaryOp::USub, Kind::Int(number), _) => Kind::Int(number.wrapping_neg()),
                    (UnaryOp::USub, Kind::Float(number), _) => Kind::Float(-number),
                    (UnaryOp::UAdd, Kind::Int(number), _) => Kind::Int(*number),
                    _ => return self.because(&operand, at),
                }
            }
            Expr::Compare(compare) => return self.compare(compare, at),
            Expr::If(choice) => {
                let test = self.eval(&choice.test);
                let body = self.eval(&choice.body);
                let other = self.eval(&choice.orelse);
                return match test.truth() {
                    Some(true) => body,
                    Some(false) => other,
                    None if equals(&body, &other) == Some(true) => body,
                    None => self.unknown(at, "which it is depends on a condition"),
                };
            }
            Expr::Attribute(attribute) => {
                let owner = self.eval(&attribute.value);
                return self.attribute(owner, attribute.attr.as_str(), at);
            }
            Expr::Subscript(subscript) => return self.subscript(subscript, at),
            Expr::Call(call) => return self.call(call, at),
            Expr::Named(named) => {
                let value = self.eval(&named.value);
                self.assign(&named.target, value.clone());
                return value;
            }
            Expr::Starred(starred) => return self.eval(&starred.value),
            Expr::Await(wait) => {
                self.eval(&wait.value);
                return self.unknown(at, "what is awaited is known only when it runs");
            }
            Expr::ListComp(made) => {
                let items = self.comprehend(&made.generators, |walk| vec![walk.eval(&made.elt)]);
                return match items {
                    Some(items) => self.list(Ok(items.into_iter().flatten().collect()), at),
                    None => self.unknown(at, "what is looped over is known only when it runs"),
                };
            }
            Expr::SetComp(ast::ExprSetComp {
                elt, generators, ..
            })
            | Expr::Generator(ast::ExprGenerator {
                elt, generators, ..
            }) => match self.comprehend(generators, |walk| vec![walk.eval(elt)]) {
                Some(items) => Kind::Tuple(Rc::new(items.into_iter().flatten().collect())),
                None => return self.unknown(at, "what is looped over is known only when it runs"),
            },
            Expr::DictComp(made) => {
                let pairs = self.comprehend(&made.generators, |walk| {
                    let key = made.key.as_ref().map(|key| walk.eval(key));
                    let value = walk.eval(&made.value);
                    key.into_iter().chain([value]).collect()
                });
                let Some(pairs) = pairs else {
                    return self.unknown(at, "what is looped over is known only when it runs");
                };
                let mut dict = self.new_dict();
                for pair in pairs {
                    match <[Value; 2]>::try_from(pair) {
                        Ok([key, value]) if key.gap().is_none() => dict.set(key, value),
                        _ => return self.unknown(at, "a key is known only when it runs"),
                    }
                }
                Kind::Dict(Rc::new(RefCell::new(dict)))
            }
            Expr::Lambda(lambda) => {
                // Calls in it are seen; what it is given is not.
                let mut scope = Scope::default();
                if let Some(parameters) = &lambda.parameters {
                    for parameter in parameters.iter_non_variadic_params() {
                        let at = self.place(&parameter.parameter.name);
                        let unknown =
                            self.unknown(at, "it is known only when the lambda is called");
                        scope
                            .names
                            .insert(parameter.parameter.name.as_str().into(), unknown);
                    }
                }
                self.scopes.push(scope);
                self.pending.push(Vec::new());
                self.enter(true);
                self.eval(&lambda.body);
                self.contexts.pop();
                self.pending.pop();
                self.scopes.pop();
                return self.unknown(at, "a lambda would have to be called");
            }
            Expr::Yield(made) => {
                if let Some(value) = &made.value {
                    self.eval(value);
                }
                return self.unknown(at, "what is sent here is known only when it runs");
            }
            Expr::YieldFrom(made) => {
                self.eval(&made.value);
                return self.unknown(at, "what is sent here is known only when it runs");
            }
            Expr::Slice(_)
            | Expr::TString(_)
            | Expr::BytesLiteral(_)
            | Expr::EllipsisLiteral(_)
            | Expr::IpyEscapeCommand(_) => {
                return self.unknown(at, "this kind of expression is not worked out");
            }
        };
        Value::new(kind, at)
    }

    /// The same unknown in another place; a new one for what is known and does not help.
    pub(super) fn because(&self, value: &Value, at: Place) -> Value {
        match &value.kind {
            Kind::Unknown(gap) => Value::new(Kind::Unknown(gap.clone()), at),
            _ => self.unknown(at, "this kind of expression is not worked out"),
        }
    }

    pub(super) fn list(&self, items: Result<Vec<Value>, Value>, at: Place) -> Value {
        match items {
            Ok(items) => {
                let list = List {
                    items,
                    spoiled: None,
                    context: self.context(),
                };
                Value::new(Kind::List(Rc::new(RefCell::new(list))), at)
            }
            Err(unknown) => Value::new(unknown.kind, at),
        }
    }

    pub(super) fn new_dict(&self) -> Dict {
        Dict {
            entries: Vec::new(),
            spoiled: None,
            context: self.context(),
        }
    }

    fn sequence(&mut self, elements: &'a [Expr]) -> Result<Vec<Value>, Value> {
        let mut items = Vec::new();
        let mut failed = None;
        for element in elements {
            let value = self.eval(element);
            if matches!(element, Expr::Starred(_)) {
                match value.items() {
                    Some(more) => items.extend(more),
                    None => failed = failed.or(Some(self.because(&value, value.at))),
                }
            } else {
                items.push(value);
            }
        }
        match failed {
            Some(unknown) => Err(unknown),
            None if items.len() > MAX_ITEMS => {
                let at = elements.first().map(|first| self.place(first));
                Err(self.unknown(
                    at.unwrap_or(Place {
                        file: self.file,
                        start: 0,
                        end: 0,
                    }),
                    "the list is too long",
                ))
            }
            None => Ok(items),
        }
    }

    fn dict(&mut self, literal: &'a ast::ExprDict, at: Place) -> Value {
        let mut dict = self.new_dict();
        for item in &literal.items {
            let value = self.eval(&item.value);
            let Some(key) = &item.key else {
                self.merge_into(&mut dict, &value, at);
                continue;
            };
            let mut key = self.eval(key);
            if let Kind::Import(_) = key.kind {
                key = self.project.settle(key);
            }
            if let Some(gap) = key.gap() {
                dict.spoiled.get_or_insert(gap.clone());
            } else if dict.entries.len() < MAX_ITEMS {
                // Keys of large tables are not compared with each other one by one.
                if dict.entries.len() < 300 {
                    dict.set(key, value);
                } else {
                    dict.entries.push((key, value));
                }
            } else {
                let gap = self.project.gap(at, "the dict is too large");
                dict.spoiled.get_or_insert(gap);
            }
        }
        Value::new(Kind::Dict(Rc::new(RefCell::new(dict))), at)
    }

    /// Merges a mapping into a dict; one that is unknown spoils it.
    pub(super) fn merge_into(&self, dict: &mut Dict, more: &Value, at: Place) {
        match &more.kind {
            Kind::Dict(other) => {
                // Where it is merged into itself, nothing changes.
                if let Ok(other) = other.try_borrow() {
                    for (key, value) in &other.entries {
                        dict.set(key.clone(), value.clone());
                    }
                    if dict.spoiled.is_none() {
                        dict.spoiled.clone_from(&other.spoiled);
                    }
                }
            }
            Kind::Unknown(gap) => {
                dict.spoiled.get_or_insert_with(|| gap.clone());
            }
            _ => {
                let gap = self
                    .project
                    .gap(at, "what is merged in here is not worked out");
                dict.spoiled.get_or_insert(gap);
            }
        }
        if dict.entries.len() > MAX_ITEMS {
            dict.entries.truncate(MAX_ITEMS);
            let gap = self.project.gap(at, "the dict is too large");
            dict.spoiled.get_or_insert(gap);
        }
    }

    fn f_string(&mut self, string: &'a ast::ExprFString, at: Place) -> Value {
        let mut text = String::new();
        let mut failed = None;
        for part in &string.value {
            let string = match part {
                ast::FStringPart::Literal(literal) => {
                    text.push_str(literal.as_str());
                    continue;
                }
                ast::FStringPart::FString(string) => string,
            };
            for element in &string.elements {
                match element {
                    InterpolatedStringElement::Literal(literal) => text.push_str(&literal.value),
                    InterpolatedStringElement::Interpolation(inserted) => {
                        let value = self.eval(&inserted.expression);
                        let plain = inserted.debug_text.is_none()
                            && inserted.conversion.is_none()
                            && inserted.format_spec.is_none();
                        match as_text(&value) {
                            Some(part) if plain => text.push_str(&part),
                            _ => failed = failed.or_else(|| Some(self.because(&value, at))),
                        }
                    }
                }
                if text.len() > MAX_TEXT {
                    return self.unknown(at, "the text is too long");
                }
            }
        }
        failed.unwrap_or_else(|| Value::new(Kind::Str(text.into()), at))
    }

    pub(super) fn name(&mut self, name: &str, at: Place) -> Value {
        for number in (0..self.scopes.len()).rev() {
            let found = self
                .scopes
                .get(number)
                .and_then(|scope| scope.names.get(name));
            if let Some(value) = found {
                let mut value = value.clone();
                if let Kind::Import(import) = &value.kind {
                    if let Some(file) = import.module.file {
                        self.announce(file);
                    }
                    value = self.project.settle(value);
                    if let Some(scope) = self.scopes.get_mut(number) {
                        scope.names.insert(name.into(), value.clone());
                    }
                }
                // Where it is used is what is shown, unless it is made of something larger.
                return Value::new(value.kind, value.at);
            }
        }
        if name == "__name__" {
            return Value::new(Kind::Str(self.module.clone()), at);
        }
        if BUILTINS.contains(&name) {
            return Value::new(Kind::External(format!("builtins.{name}").into()), at);
        }
        match self.scopes.first().and_then(|scope| scope.spoiled.clone()) {
            Some(gap) => Value::new(Kind::Unknown(gap), at),
            None => self.unknown(at, format!("{name} is not bound in this file")),
        }
    }

    pub(super) fn attribute(&mut self, owner: Value, name: &str, at: Place) -> Value {
        let kind = match &owner.kind {
            Kind::Module(module) => {
                if let Some(file) = module.file {
                    self.announce(file);
                }
                return match self.project.attribute(&module.clone(), name, at) {
                    Some(value) => value,
                    None => self.unknown(at, format!("{name} is not bound in that module")),
                };
            }
            Kind::External(path) => Kind::External(format!("{path}.{name}").into()),
            Kind::App(app) if name == "conf" => Kind::Conf(*app),
            Kind::App(_) if name == "Task" => Kind::External("celery.Task".into()),
            Kind::Conf(app) => return self.setting(*app, name, at),
            Kind::Class(class) => return self.class_attribute(class, name, at),
            Kind::Task(task) if name == "name" => {
                match self.project.tasks.get(*task).map(|task| task.name.clone()) {
                    Some(Ok(name)) => Kind::Str(name),
                    Some(Err(gap)) => Kind::Unknown(gap),
                    None => return self.unknown(at, "it is not worked out"),
                }
            }
            Kind::Queue(queue) if name == "name" => Kind::Str(queue.name.as_str().into()),
            Kind::Queue(queue) if name == "routing_key" => {
                Kind::Str(queue.routing_key.as_str().into())
            }
            Kind::Exchange(exchange) if name == "name" => Kind::Str(exchange.name.as_str().into()),
            // The value of a member of an Enum of texts.
            Kind::Str(_) if name == "value" => return owner,
            Kind::Unknown(gap) => Kind::Unknown(gap.clone()),
            _ => return self.unknown(at, format!("the attribute {name} is not worked out")),
        };
        Value::new(kind, at)
    }

    /// A setting of an app, where it was surely set before.
    pub(super) fn setting(&self, app: usize, name: &str, at: Place) -> Value {
        let set = self.project.apps.get(app).and_then(|app| {
            app.ops.iter().rev().find_map(|(op, sureness)| match op {
                super::ConfOp::Set(key, value) if &**key == name && *sureness == Sureness::Sure => {
                    Some(value.clone())
                }
                _ => None,
            })
        });
        set.unwrap_or_else(|| {
            self.unknown(at, format!("the setting {name} is known only when it runs"))
        })
    }

    pub(super) fn class_attribute(&mut self, class: &Rc<Class>, name: &str, at: Place) -> Value {
        let mut open = vec![class.clone()];
        let mut foreign = None;
        let mut seen = 0;
        while let Some(class) = open.pop() {
            seen += 1;
            if seen > 50 {
                break;
            }
            if let Some(value) = class.names.names.get(name) {
                return self.project.settle(value.clone());
            }
            for base in class.bases.iter().rev() {
                match &base.kind {
                    Kind::Class(base) => open.push(base.clone()),
                    Kind::External(path)
                        if &**path == "builtins.object" || &**path == "celery.Task" => {}
                    _ => foreign = Some(base.clone()),
                }
            }
        }
        match foreign {
            Some(base) => match &base.kind {
                Kind::Unknown(gap) => Value::new(Kind::Unknown(gap.clone()), at),
                _ => self.unknown(
                    at,
                    format!("{name} may come from a class of another package"),
                ),
            },
            None => self.unknown(at, format!("{name} is not bound in {}", class.name)),
        }
    }

    fn subscript(&mut self, subscript: &'a ast::ExprSubscript, at: Place) -> Value {
        let owner = self.eval(&subscript.value);
        let key = self.eval(&subscript.slice);
        let found = match (&owner.kind, &key.kind) {
            (Kind::Dict(dict), _) if key.gap().is_none() => {
                let dict = dict.borrow();
                let entry = dict
                    .entries
                    .iter()
                    .find(|(name, _)| super::same(name, &key));
                let spoiled = dict.spoiled.clone();
                match (entry, spoiled) {
                    (Some((_, value)), None) => Some(value.clone()),
                    (_, Some(gap)) => Some(Value::new(Kind::Unknown(gap), at)),
                    (None, None) => None,
                }
            }
            (Kind::List(_) | Kind::Tuple(_), Kind::Int(number)) => {
                owner.items().and_then(|items| {
                    let length = i64::try_from(items.len()).ok()?;
                    let at = if *number < 0 {
                        number + length
                    } else {
                        *number
                    };
                    items.into_iter().nth(usize::try_from(at).ok()?)
                })
            }
            (Kind::External(path), Kind::Str(name)) if &**path == "os.environ" => {
                return match self.project.env(name) {
                    Some(text) => Value::new(Kind::Str(text.into()), at),
                    None => self.unknown(
                        at,
                        format!(
                            "it is the environment variable {name} (--env {name}=VALUE gives it)"
                        ),
                    ),
                };
            }
            (Kind::Conf(app), Kind::Str(name)) => return self.setting(*app, name, at),
            (_, Kind::Str(name)) if is_config(&subscript.value) => {
                return Value::new(Kind::Held(name.clone()), at);
            }
            _ => None,
        };
        match found {
            Some(value) => self.project.settle(value),
            None if owner.gap().is_some() => self.because(&owner, at),
            None => self.because(&key, at),
        }
    }

    /// Walks a comprehension over what is known; none where it is not.
    fn comprehend(
        &mut self,
        generators: &'a [Comprehension],
        each: impl Fn(&mut Self) -> Vec<Value>,
    ) -> Option<Vec<Vec<Value>>> {
        self.scopes.push(Scope::default());
        self.pending.push(Vec::new());
        let mut made = Vec::new();
        let whole = self.rounds(generators, &each, &mut made);
        self.pending.pop();
        self.scopes.pop();
        whole.then_some(made)
    }

    fn rounds(
        &mut self,
        generators: &'a [Comprehension],
        each: &impl Fn(&mut Self) -> Vec<Value>,
        made: &mut Vec<Vec<Value>>,
    ) -> bool {
        let Some((generator, inner)) = generators.split_first() else {
            made.push(each(self));
            return made.len() <= MAX_ROUNDS;
        };
        let over = self.eval(&generator.iter);
        let Some(items) = over.items().filter(|_| !generator.is_async) else {
            // Its calls are seen all the same.
            let at = self.place(&generator.target);
            let unknown = self.because(&over, at);
            self.assign(&generator.target, unknown);
            for test in &generator.ifs {
                self.eval(test);
            }
            self.rounds(inner, each, &mut Vec::new());
            return false;
        };
        for item in items {
            self.assign(&generator.target, item);
            let mut taken = Some(true);
            for test in &generator.ifs {
                match self.eval(test).truth() {
                    Some(true) => {}
                    Some(false) => taken = Some(false),
                    None => taken = taken.filter(|taken| !taken),
                }
            }
            match taken {
                Some(true) => {
                    if !self.rounds(inner, each, made) {
                        return false;
                    }
                }
                Some(false) => {}
                None => return false,
            }
        }
        true
    }
}

/// Whether an expression is `something.config`, as web frameworks have it.
pub(super) fn is_config(expression: &Expr) -> bool {
    matches!(expression, Expr::Attribute(attribute) if attribute.attr.as_str() == "config")
}

/// What `str()` makes of a value.
pub(super) fn as_text(value: &Value) -> Option<String> {
    match &value.kind {
        Kind::Str(text) => Some(text.to_string()),
        Kind::Int(number) => Some(number.to_string()),
        Kind::Bool(true) => Some("True".to_owned()),
        Kind::Bool(false) => Some("False".to_owned()),
        Kind::None => Some("None".to_owned()),
        _ => None,
    }
}
