//! Tasks: functions with Celery's decorators, and classes that are registered.

use std::rc::Rc;

use ruff_python_ast::{Expr, StmtFunctionDef};

use super::Walk;
use super::calls::{Arguments, TASK};
use super::project::TaskFacts;
use super::value::{Class, Kind, Place, Value};

/// What of a message's way a task can carry (Celery 5.7 `app/task.py`, `extract_exec_options`).
const OF_A_TASK: [&str; 3] = ["queue", "exchange", "routing_key"];

/// Names under which Celery's `shared_task` has been imported.
const SHARED_TASK: [&str; 7] = [
    "celery.shared_task",
    "celery.app.shared_task",
    "celery.task",
    "celery.task.task",
    "celery.decorators.task",
    "celery.task.periodic_task",
    "celery.decorators.periodic_task",
];

impl<'a> Walk<'_, 'a> {
    /// A task class is a task once it is registered, under its `name` or that of its module.
    pub(super) fn maybe_task_class(&mut self, class: &Rc<Class>) {
        if Self::descends(class, &TASK) {
            let own = class
                .names
                .names
                .get("name")
                .and_then(|name| name.text().map(str::to_owned));
            let name = own.unwrap_or_else(|| format!("{}.{}", class.module, class.name));
            self.project.maybe_tasks.insert(name);
        }
    }

    /// `app.register_task(X())`.
    pub(super) fn register(
        &mut self,
        app: Option<usize>,
        arguments: &Arguments,
        at: Place,
    ) -> Value {
        let Some(Kind::Class(class)) = arguments.positional.first().map(|task| &task.kind) else {
            let gap = self.project.gap(
                at,
                "a task is registered whose name is known only when it runs",
            );
            self.project.unknown_tasks.push(gap);
            return self.unknown(at, "a task is registered here");
        };
        let class = class.clone();
        let name = match class.names.names.get("name").map(|name| &name.kind) {
            Some(Kind::Str(name)) => Ok(name.clone()),
            None => Ok(format!("{}.{}", class.module, class.name).into()),
            Some(_) => Err(self
                .project
                .gap(class.at, "the name of the task is known only when it runs")),
        };
        let mut options = Vec::new();
        for option in OF_A_TASK {
            if let Some(value) = class.names.names.get(option) {
                options.push((option.into(), value.clone()));
            }
        }
        let derived = !class.names.names.contains_key("name");
        self.task(
            TaskFacts {
                name,
                derived,
                app,
                options,
                at: class.at,
            },
            at,
        )
    }

    fn task(&mut self, task: TaskFacts, at: Place) -> Value {
        if let Some(number) = self.project.task_at.get(&task.at) {
            return Value::new(Kind::Task(*number), at);
        }
        self.project
            .task_at
            .insert(task.at, self.project.tasks.len());
        if let Err(gap) = &task.name {
            self.project.unknown_tasks.push(gap.clone());
        }
        self.project.tasks.push(task);
        Value::new(Kind::Task(self.project.tasks.len() - 1), at)
    }

    /// What the decorators of a function make of it, where that is a task.
    pub(super) fn decorated(&mut self, function: &'a StmtFunctionDef) -> Option<Value> {
        let mut made = None;
        for decorator in &function.decorator_list {
            let (target, arguments) = match &decorator.expression {
                Expr::Call(call) => (&*call.func, self.arguments(&call.arguments)),
                other => (other, Arguments::default()),
            };
            let app = match target {
                Expr::Attribute(attribute) if attribute.attr.as_str() == "task" => {
                    let owner = self.eval(&attribute.value);
                    match &owner.kind {
                        Kind::App(app) => Some(Some(*app)),
                        Kind::External(path) if path.starts_with("celery") => Some(None),
                        Kind::Unknown(_) | Kind::Held(_) if self.mentions_celery() => Some(None),
                        Kind::Module(_) => {
                            let target = self.attribute(owner.clone(), "task", owner.at);
                            self.maybe_decorator(&target, function);
                            None
                        }
                        _ => None,
                    }
                }
                _ => {
                    let target = self.eval(target);
                    match &target.kind {
                        Kind::External(path) if SHARED_TASK.contains(&&**path) => Some(None),
                        _ => {
                            self.maybe_decorator(&target, function);
                            None
                        }
                    }
                }
            };
            if let Some(app) = app {
                made = Some(self.decorated_task(function, app, &arguments));
            }
        }
        made
    }

    /// A decorator of the project's own, or one that is unknown, may make a task.
    fn maybe_decorator(&mut self, decorator: &Value, function: &StmtFunctionDef) {
        let maybe = match &decorator.kind {
            Kind::External(path) => path.contains("celery") || path.ends_with("task"),
            Kind::Function(_) | Kind::Unknown(_) | Kind::Class(_) => true,
            _ => false,
        };
        if maybe {
            let name = format!("{}.{}", self.module, function.name);
            self.project.maybe_tasks.insert(name);
        }
    }

    fn mentions_celery(&self) -> bool {
        self.project
            .text(self.file)
            .is_some_and(|text| text.contains("elery"))
    }

    fn decorated_task(
        &mut self,
        function: &StmtFunctionDef,
        app: Option<usize>,
        arguments: &Arguments,
    ) -> Value {
        let at = self.place(&function.name);
        let name = match (
            arguments.keyword("name").map(|name| &name.kind),
            &arguments.spoiled,
        ) {
            (Some(Kind::Str(name)), _) if !name.is_empty() => (Ok(name.clone()), false),
            (Some(Kind::Unknown(gap)), _) | (None, Some(gap)) => (Err(gap.clone()), false),
            (None | Some(Kind::None | Kind::Str(_)), _) => {
                let name = format!("{}.{}", self.module, function.name);
                (Ok(name.into()), true)
            }
            (Some(_), _) => {
                let gap = self
                    .project
                    .gap(at, "the name of the task is known only when it runs");
                (Err(gap), false)
            }
        };
        let mut options = arguments.options(&OF_A_TASK, at);
        if let Some(Kind::Class(base)) = arguments.keyword("base").map(|base| base.kind.clone()) {
            for option in OF_A_TASK {
                let given = options.iter().any(|(name, _)| &**name == option);
                let inherited = base.names.names.get(option);
                if let Some(value) = inherited.filter(|_| !given) {
                    options.push((option.into(), value.clone()));
                }
            }
        }
        self.task(
            TaskFacts {
                name: name.0,
                derived: name.1,
                app,
                options,
                at,
            },
            at,
        )
    }
}
