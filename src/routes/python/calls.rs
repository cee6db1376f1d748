//! Calls: of what Celery and kombu make, of the project's own functions, and those that say where a task goes.

use std::rc::Rc;

use ruff_python_ast::{self as ast, Expr};

use super::project::{AppFacts, CallFacts, ConfOp};
use super::value::{Class, Kind, Place, Signature, Value};
use super::{Sureness, Walk};
use crate::celery::routing::Gap;

/// The arguments of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Value>,
    pub keywords: Vec<(Rc<str>, Value)>,
    /// Why there may be others.
    pub spoiled: Option<Rc<Gap>>,
}

impl Arguments {
    pub(super) fn keyword(&self, name: &str) -> Option<&Value> {
        self.keywords
            .iter()
            .rfind(|(key, _)| &**key == name)
            .map(|(_, value)| value)
    }

    /// The argument of this place or name.
    pub(crate) fn get(&self, place: usize, name: &str) -> Option<&Value> {
        self.positional.get(place).or_else(|| self.keyword(name))
    }

    /// Those that say where a task goes. Where others may be given too, one that is not is unknown.
    pub(super) fn options(&self, names: &[&str], at: Place) -> Vec<(Rc<str>, Value)> {
        let mut options = Vec::new();
        for name in names {
            match (self.keyword(name), &self.spoiled) {
                (Some(value), _) => options.push(((*name).into(), value.clone())),
                (None, Some(gap)) => {
                    options.push(((*name).into(), Value::new(Kind::Unknown(gap.clone()), at)));
                }
                (None, None) => {}
            }
        }
        options
    }
}

/// What a message can be given on its way.
pub(super) const OF_A_CALL: [&str; 4] = ["queue", "exchange", "exchange_type", "routing_key"];

const APP: [&str; 3] = [
    "celery.Celery",
    "celery.app.Celery",
    "celery.app.base.Celery",
];
pub(super) const TASK: [&str; 4] = [
    "celery.Task",
    "celery.app.task.Task",
    "celery.task.Task",
    "celery.app.Task",
];
const SIGNATURE: [&str; 6] = [
    "celery.signature",
    "celery.Signature",
    "celery.subtask",
    "celery.canvas.signature",
    "celery.canvas.Signature",
    "celery.canvas.subtask",
];

impl<'a> Walk<'_, 'a> {
    pub(super) fn call(&mut self, call: &'a ast::ExprCall, at: Place) -> Value {
        let arguments = self.arguments(&call.arguments);
        if let Expr::Attribute(attribute) = &*call.func {
            let owner = self.eval(&attribute.value);
            let name = attribute.attr.as_str();
            if let Some(value) = self.method(&attribute.value, &owner, name, &arguments, at) {
                return value;
            }
            let function = self.attribute(owner, name, at);
            return self.apply(&function, &arguments, at);
        }
        let function = self.eval(&call.func);
        self.apply(&function, &arguments, at)
    }

    pub(super) fn arguments(&mut self, given: &'a ast::Arguments) -> Arguments {
        let mut arguments = Arguments::default();
        for argument in &given.args {
            let value = self.eval(argument);
            if !argument.is_starred_expr() {
                arguments.positional.push(value);
                continue;
            }
            if let Some(items) = value.items() {
                arguments.positional.extend(items);
            } else {
                let gap = self.because(&value, value.at).gap().cloned();
                arguments.spoiled = arguments.spoiled.or(gap);
            }
        }
        for keyword in &given.keywords {
            let value = self.eval(&keyword.value);
            if let Some(name) = &keyword.arg {
                arguments.keywords.push((name.as_str().into(), value));
                continue;
            }
            let mut spoiled = self.because(&value, value.at).gap().cloned();
            if let Kind::Dict(dict) = &value.kind {
                let dict = dict.borrow();
                for (key, value) in &dict.entries {
                    if let Some(name) = key.text() {
                        arguments.keywords.push((name.into(), value.clone()));
                    }
                }
                spoiled.clone_from(&dict.spoiled);
            }
            arguments.spoiled = arguments.spoiled.or(spoiled);
        }
        arguments
    }

    fn apply(&mut self, function: &Value, arguments: &Arguments, at: Place) -> Value {
        match &function.kind {
            Kind::External(path) => self.external(&path.clone(), arguments, at),
            Kind::Function(called) if called.file == self.file => {
                let result = self.run(called.number, Some(arguments));
                result.unwrap_or_else(|| self.unknown(at, "the call is too deep to be followed"))
            }
            Kind::Function(called) => {
                self.taint(arguments, at);
                let returned = called.returns.borrow().clone();
                returned.unwrap_or_else(|| {
                    self.unknown(at, "what the call returns is known only when it runs")
                })
            }
            Kind::Class(class) => self.instance(&class.clone(), arguments, at),
            // A decorator with arguments, or a task that is called as a function.
            Kind::Unknown(gap) => {
                self.taint(arguments, at);
                Value::new(Kind::Unknown(gap.clone()), at)
            }
            _ => {
                self.taint(arguments, at);
                self.unknown(at, "what the call returns is known only when it runs")
            }
        }
    }

    /// Lists and dicts that are given away may be changed there.
    fn taint(&self, arguments: &Arguments, at: Place) {
        let given = arguments.positional.iter();
        for value in given.chain(arguments.keywords.iter().map(|(_, value)| value)) {
            let gap = || {
                self.project
                    .gap(at, "it may be changed by what it is given to")
            };
            match &value.kind {
                Kind::List(list) => {
                    list.borrow_mut().spoiled.get_or_insert_with(gap);
                }
                Kind::Dict(dict) => {
                    dict.borrow_mut().spoiled.get_or_insert_with(gap);
                }
                _ => {}
            }
        }
    }

    fn external(&mut self, path: &str, arguments: &Arguments, at: Place) -> Value {
        if APP.contains(&path) {
            return self.app(arguments, at);
        }
        if SIGNATURE.contains(&path) {
            return self.signature_of(arguments, at);
        }
        match path {
            "kombu.Queue" | "kombu.entity.Queue" => self.queue(arguments, at),
            "kombu.common.Broadcast" => self.broadcast(arguments, at),
            "kombu.Exchange" | "kombu.entity.Exchange" => self.exchange(arguments, at),
            "re.compile" => match arguments.positional.first().map(|first| &first.kind) {
                Some(Kind::Str(source)) => {
                    let flags = arguments.get(1, "flags").is_some() || arguments.spoiled.is_some();
                    Value::new(Kind::Regex(source.clone(), flags), at)
                }
                Some(_) => self.because(&arguments.positional[0], at),
                None => self.unknown(at, "this regular expression is not worked out"),
            },
            "os.environ.get" | "os.getenv" => self.environment(arguments, at),
            "os.environ.setdefault" | "os.putenv" => {
                if let [name, value] = arguments.positional.as_slice()
                    && let Kind::Str(name) = &name.kind
                {
                    let key = (self.file, name.clone());
                    self.project
                        .env_set
                        .entry(key)
                        .or_insert_with(|| value.clone());
                }
                self.unknown(at, "it is the environment's")
            }
            "builtins.dict"
            | "collections.OrderedDict"
            | "builtins.list"
            | "builtins.tuple"
            | "builtins.set"
            | "builtins.frozenset"
            | "builtins.str"
            | "builtins.int"
            | "builtins.bool"
            | "builtins.len"
            | "copy.copy"
            | "copy.deepcopy"
            | "typing.cast" => self.builtin(path, arguments, at),
            "celery.current_app.send_task" | "celery.execute.send_task" => {
                self.send_task(None, arguments, at);
                self.unknown(at, "a result is known only when it runs")
            }
            _ => {
                let ours = [
                    "celery.",
                    "kombu.",
                    "builtins.",
                    "os.",
                    "logging.",
                    "datetime.",
                ];
                if !ours.iter().any(|start| path.starts_with(start)) {
                    self.taint(arguments, at);
                }
                self.unknown(
                    at,
                    format!("what {path} returns is known only when it runs"),
                )
            }
        }
    }

    fn environment(&self, arguments: &Arguments, at: Place) -> Value {
        let Some(Kind::Str(name)) = arguments.get(0, "key").map(|key| &key.kind) else {
            return self.unknown(
                at,
                "which environment variable it is is known only when it runs",
            );
        };
        if let Some(text) = self.project.env(name) {
            return Value::new(Kind::Str(text.into()), at);
        }
        match arguments.get(1, "default") {
            Some(default) => default.clone(),
            None => Value::new(Kind::None, at),
        }
    }

    fn app(&mut self, arguments: &Arguments, at: Place) -> Value {
        const NO_SETTINGS: [&str; 20] = [
            "main",
            "loader",
            "backend",
            "amqp",
            "events",
            "log",
            "control",
            "set_as_current",
            "tasks",
            "broker",
            "include",
            "changes",
            "config_source",
            "fixups",
            "task_cls",
            "autofinalize",
            "namespace",
            "strict_typing",
            "config_source_silent",
            "result_backend",
        ];
        if let Some(number) = self.project.apps.iter().position(|app| app.at == at) {
            return Value::new(Kind::App(number), at);
        }
        let mut ops = Vec::new();
        if let Some(namespace) = arguments.keyword("namespace") {
            ops.push(ConfOp::Namespace(namespace.clone()));
        }
        if let Some(source) = arguments.get(12, "config_source") {
            ops.push(ConfOp::Source(source.clone(), None));
        }
        if let Some(changes) = arguments.get(11, "changes") {
            ops.push(ConfOp::Update(changes.clone()));
        }
        for (name, value) in &arguments.keywords {
            if !NO_SETTINGS.contains(&&**name) {
                ops.push(ConfOp::Set(name.clone(), value.clone()));
            }
        }
        if let Some(gap) = &arguments.spoiled {
            ops.push(ConfOp::Unknown(gap.clone()));
        }
        self.project.apps.push(AppFacts {
            at,
            module: self.module.clone(),
            variable: None,
            context: self.context(),
            ops: ops.into_iter().map(|op| (op, Sureness::Sure)).collect(),
        });
        Value::new(Kind::App(self.project.apps.len() - 1), at)
    }

    /// Something happens to an app's configuration.
    pub(super) fn conf(&mut self, app: usize, op: ConfOp) {
        let made_in = self.project.apps.get(app).map_or(0, |app| app.context);
        let sureness = self.sureness(made_in);
        if let Some(app) = self.project.apps.get_mut(app) {
            app.ops.push((op, sureness));
        }
    }

    fn signature_of(&mut self, arguments: &Arguments, at: Place) -> Value {
        let task = match arguments
            .get(0, "task")
            .or_else(|| arguments.keyword("varies"))
        {
            Some(Value {
                kind: Kind::Str(name),
                ..
            }) => Ok(name.clone()),
            Some(Value {
                kind: Kind::Task(number),
                ..
            }) => {
                return self.signature_of_task(*number, arguments, at);
            }
            Some(value) => Err(self
                .because(value, at)
                .gap()
                .cloned()
                .unwrap_or_else(|| self.project.gap(at, "unknown"))),
            None => Err(self
                .project
                .gap(at, "which task it is is known only when it runs")),
        };
        let mut options = arguments.options(&OF_A_CALL, at);
        if let Some(Kind::Dict(given)) = arguments.get(3, "options").map(|value| &value.kind) {
            let given = given.borrow();
            for name in OF_A_CALL {
                if let Some(value) = given.get(name)
                    && arguments.keyword(name).is_none()
                {
                    options.push((name.into(), value.clone()));
                }
            }
        }
        self.sent(task.clone(), None, None, &options, at);
        let signature = Signature {
            task,
            number: None,
            options,
        };
        Value::new(Kind::Signature(Rc::new(signature)), at)
    }

    pub(super) fn signature_of_task(
        &mut self,
        number: usize,
        arguments: &Arguments,
        at: Place,
    ) -> Value {
        let name = self.project.tasks.get(number).map(|task| task.name.clone());
        let signature = Signature {
            task: name.unwrap_or_else(|| Err(self.project.gap(at, "which task it is is unknown"))),
            number: Some(number),
            options: Vec::new(),
        };
        let _ = arguments;
        Value::new(Kind::Signature(Rc::new(signature)), at)
    }

    pub(super) fn send_task(&mut self, app: Option<usize>, arguments: &Arguments, at: Place) {
        let task = match arguments.get(0, "name").map(|name| &name.kind) {
            Some(Kind::Str(name)) => Ok(name.clone()),
            Some(Kind::Unknown(gap)) => Err(gap.clone()),
            _ => Err(self
                .project
                .gap(at, "which task it is is known only when it runs")),
        };
        let options = arguments.options(&OF_A_CALL, at);
        self.sent(task, None, app, &options, at);
    }

    /// Notes a call that says where a task goes.
    pub(super) fn sent(
        &mut self,
        task: Result<Rc<str>, Rc<Gap>>,
        number: Option<usize>,
        app: Option<usize>,
        options: &[(Rc<str>, Value)],
        at: Place,
    ) {
        let literal = options.iter().any(|(_, value)| value.gap().is_none());
        if literal && self.project.call_at.insert(at) {
            self.project.calls.push(CallFacts {
                task,
                number,
                app,
                options: options.to_vec(),
                at,
            });
        }
    }

    /// What a call sends, of a task or a signature, or of something that may be one.
    pub(super) fn apply_async(&mut self, owner: &Value, arguments: &Arguments, at: Place) {
        let mut options = arguments.options(&OF_A_CALL, at);
        let (task, number) = match &owner.kind {
            Kind::Task(number) => {
                let name = self
                    .project
                    .tasks
                    .get(*number)
                    .map(|task| task.name.clone());
                (name, Some(*number))
            }
            Kind::Signature(signature) => {
                for (name, value) in &signature.options {
                    if arguments.keyword(name).is_none() {
                        options.push((name.clone(), value.clone()));
                    }
                }
                (Some(signature.task.clone()), signature.number)
            }
            Kind::Unknown(gap) => (Some(Err(gap.clone())), None),
            _ => (None, None),
        };
        let task = task.unwrap_or_else(|| {
            Err(self
                .project
                .gap(at, "which task it is is known only when it runs"))
        });
        self.sent(task, number, None, &options, at);
    }

    /// What a call of a class makes.
    fn instance(&mut self, class: &Rc<Class>, arguments: &Arguments, at: Place) -> Value {
        if Self::descends(class, &APP) {
            return self.app(arguments, at);
        }
        let plain = class.names.names.keys().all(|name| &**name != "__init__")
            && class.bases.iter().all(|base| match &base.kind {
                Kind::Class(_) => true,
                Kind::External(path) => &**path == "builtins.object" || TASK.contains(&&**path),
                _ => false,
            })
            && arguments.positional.is_empty()
            && arguments.keywords.is_empty();
        if plain {
            return Value::new(Kind::Class(class.clone()), at);
        }
        self.taint(arguments, at);
        self.unknown(
            at,
            format!(
                "what {} is made with is known only when it runs",
                class.name
            ),
        )
    }

    /// Whether a class descends from one of these of another package.
    pub(super) fn descends(class: &Rc<Class>, from: &[&str]) -> bool {
        let mut open = vec![class.clone()];
        for _ in 0..50 {
            let Some(class) = open.pop() else {
                return false;
            };
            for base in &class.bases {
                match &base.kind {
                    Kind::Class(base) => open.push(base.clone()),
                    Kind::External(path) if from.contains(&&**path) => return true,
                    _ => {}
                }
            }
        }
        false
    }
}
