//! From what was met in the files to the apps of the evidence.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::convert::{options, queues, routers, target, text_of, why};
use super::export::Export;
use super::python::{Kind, Project, Value};
use super::settings::Settings;
use crate::celery::routing::{Config, Gap, Known, Options, Target};
use crate::evidence::routing::{App, Call, Task};

/// The apps of a project.
pub(super) fn apps(project: &mut Project) -> Vec<App> {
    let facts = std::mem::take(&mut project.apps);
    let roots: Vec<String> = facts
        .iter()
        .map(|app| project.package_root(project.path(app.at.file)))
        .collect();
    let mut apps = Vec::new();
    for (number, app) in facts.iter().enumerate() {
        let settings = Settings::of(project, app);
        let mut made = App {
            name: format!(
                "{}:{}",
                app.module,
                app.variable.as_deref().unwrap_or("app")
            ),
            location: project.location(app.at),
            ..App::default()
        };
        configure(project, &mut made, &settings);
        for (name, at) in settings.places() {
            if let Some(location) = project.location(at) {
                made.settings.insert(name.to_owned(), location);
            }
        }
        let scope = Scope {
            number,
            roots: &roots,
        };
        let silenced = match settings.get("task_annotations") {
            Ok(None) => None,
            Ok(Some(value)) => annotations(project, &value),
            Err(gap) => Some((*gap).clone()),
        };
        tasks(project, &mut made, &scope, silenced.as_ref());
        calls(project, &mut made, &scope);
        beat(project, &mut made, settings.get("beat_schedule"));
        apps.push(made);
    }
    project.apps = facts;
    apps
}

/// The one app whose settings were exported: all tasks and calls of the project are its own.
pub(super) fn of_export(project: &mut Project, name: &str, export: &Export) -> App {
    let settings = Settings::of_export(&export.settings);
    let mut made = App {
        name: name.to_owned(),
        ..App::default()
    };
    configure(project, &mut made, &settings);
    let everything = Scope {
        number: 0,
        roots: &[String::new()],
    };
    tasks(project, &mut made, &everything, None);
    calls(project, &mut made, &everything);
    beat(project, &mut made, settings.get("beat_schedule"));
    if let Some(told) = &export.tasks {
        // These are all, with the options that they have in truth.
        let read = std::mem::take(&mut made.tasks);
        made.unknown_tasks.clear();
        for (name, given) in told {
            let found = read
                .iter()
                .find(|task| task.name == *name || task.aliases.contains(name));
            let text = |key: &str| given[key].as_str().map(str::to_owned);
            made.tasks.push(Task {
                name: name.clone(),
                aliases: Vec::new(),
                options: Options {
                    queue: Ok(text("queue").map(Target::Name)),
                    exchange: Ok(text("exchange")),
                    routing_key: Ok(text("routing_key")),
                    ..Options::default()
                },
                location: found.and_then(|task| task.location.clone()),
                target: found.and_then(|task| task.target.clone()),
            });
        }
    }
    made
}

/// Which files belong to an app.
struct Scope<'r> {
    number: usize,
    roots: &'r [String],
}

impl Scope<'_> {
    fn is_everything(&self) -> bool {
        matches!(self.roots, [one] if one.is_empty())
    }

    /// Whether what stands in a file is this app's: the deepest folder of an app above it decides.
    fn has(&self, project: &Project, file: u32, app: Option<usize>) -> bool {
        if let Some(app) = app.filter(|_| !self.is_everything()) {
            return app == self.number;
        }
        let path = project.path(file);
        let above = self
            .roots
            .iter()
            .filter(|root| path.starts_with(root.as_str()));
        match above.max_by_key(|root| root.len()) {
            Some(deepest) => self.roots.get(self.number) == Some(deepest),
            None => true,
        }
    }
}

fn known<T>(found: Result<T, Rc<Gap>>) -> Known<T> {
    found.map_err(|gap| (*gap).clone())
}

fn configure(project: &mut Project, app: &mut App, settings: &Settings) {
    let text = |project: &Project, name: &str| -> Known<Option<String>> {
        match known(settings.get(name))?.map(|value| (text_of(&value), value.at)) {
            None => Ok(None),
            Some((Some(text), _)) => Ok(text),
            Some((None, at)) => Err((*project.gap(at, format!("{name} is not a text"))).clone()),
        }
    };
    let or = |value: Known<Option<String>>, default: &str| {
        value.map(|value| value.unwrap_or_else(|| default.to_owned()))
    };
    let mut config = Config {
        default_queue: or(text(project, "task_default_queue"), "celery"),
        default_exchange: text(project, "task_default_exchange"),
        default_exchange_type: or(text(project, "task_default_exchange_type"), "direct"),
        default_routing_key: text(project, "task_default_routing_key"),
        missing_exchange_type: text(project, "task_create_missing_queue_exchange_type"),
        default_queue_type: or(text(project, "task_default_queue_type"), "classic"),
        missing_queue_type: or(text(project, "task_create_missing_queue_type"), "classic"),
        ..Config::default()
    };
    config.create_missing = match known(settings.get("task_create_missing_queues")) {
        Ok(None) => Ok(true),
        Ok(Some(value)) => value.truth().ok_or_else(|| {
            (*project.gap(value.at, "whether it is true is not worked out")).clone()
        }),
        Err(gap) => Err(gap),
    };
    config.max_priority = match known(settings.get("task_queue_max_priority")) {
        Ok(None) => Ok(None),
        Ok(Some(value)) => match value.kind {
            Kind::Int(number) => Ok(Some(number)),
            Kind::None => Ok(None),
            _ => Err((*project.gap(value.at, "it is not a number")).clone()),
        },
        Err(gap) => Err(gap),
    };
    config.queues = known(settings.get("task_queues")).and_then(|value| match value {
        None => Ok(Vec::new()),
        Some(value) => queues(project, app, &value),
    });
    config.routers = known(settings.get("task_routes")).map(|value| match value {
        None => Vec::new(),
        Some(value) => routers(project, app, &value),
    });
    app.config = config;
}

/// Annotations can set a task's queue; where they may, what the tasks say of theirs is not relied on.
fn annotations(project: &Project, value: &Value) -> Option<Gap> {
    let gap = |value: &Value| {
        Some((*project.gap(value.at, "task_annotations may say where tasks go")).clone())
    };
    let silent = |value: &Value| match &value.kind {
        Kind::Dict(dict) => {
            let dict = dict.borrow();
            let names = ["queue", "exchange", "routing_key"];
            dict.spoiled.is_none() && names.iter().all(|name| dict.get(name).is_none())
        }
        _ => false,
    };
    let dicts = match &value.kind {
        Kind::None => return None,
        Kind::Dict(_) => vec![value.clone()],
        _ => match value.items() {
            Some(items) => items,
            None => return gap(value),
        },
    };
    for dict in dicts {
        let Kind::Dict(inner) = &dict.kind else {
            return gap(&dict);
        };
        let inner = inner.borrow();
        if inner.spoiled.is_some() || !inner.entries.iter().all(|(_, value)| silent(value)) {
            return gap(&dict);
        }
    }
    None
}

fn tasks(project: &mut Project, app: &mut App, scope: &Scope<'_>, silenced: Option<&Gap>) {
    for number in 0..project.tasks.len() {
        let Some(task) = project.tasks.get(number) else {
            break;
        };
        if !scope.has(project, task.at.file, task.app) {
            continue;
        }
        let Ok(name) = task.name.clone() else {
            continue;
        };
        let (derived, at, given) = (task.derived, task.at, task.options.clone());
        let mut name = name.to_string();
        let mut aliases = Vec::new();
        if derived {
            let path = project.path(at.file).to_owned();
            let function = name.rsplit('.').next().unwrap_or_default().to_owned();
            aliases = project
                .other_names(&path)
                .into_iter()
                .map(|module| format!("{module}.{function}"))
                .collect();
            // A folder without `__init__.py` is a part of the name where the module is imported so.
            let imported = |name: &String| {
                let module = name.rsplit_once('.').map_or("", |(module, _)| module);
                project
                    .imported
                    .get(module)
                    .is_some_and(|files| files.contains(&at.file))
            };
            if !imported(&name)
                && let Some(position) = aliases.iter().position(imported)
            {
                std::mem::swap(&mut name, &mut aliases[position]);
            }
        }
        let mut options = options(project, &given);
        if let Some(gap) = silenced {
            options.queue = Err(gap.clone());
        }
        app.tasks.push(Task {
            name,
            aliases,
            options,
            location: project.location(at),
            target: target(&given).and_then(|at| project.location(at)),
        });
    }
    app.tasks.sort_by(|a, b| a.name.cmp(&b.name));
    app.maybe_tasks.clone_from(&project.maybe_tasks);
    app.unknown_tasks = project
        .unknown_tasks
        .iter()
        .map(|gap| (**gap).clone())
        .collect();
    app.packages = packages(project);
}

/// The first parts of the names of all modules.
fn packages(project: &Project) -> BTreeSet<String> {
    let count = u32::try_from(project.count()).unwrap_or(u32::MAX);
    let mut all = BTreeSet::new();
    for file in 0..count {
        let path = project.path(file);
        let own = project.module_name(path);
        let names = std::iter::once(own).chain(project.other_names(path));
        all.extend(names.filter_map(|name| name.split('.').next().map(str::to_owned)));
    }
    all
}

fn calls(project: &mut Project, app: &mut App, scope: &Scope<'_>) {
    for number in 0..project.calls.len() {
        let Some(call) = project.calls.get(number) else {
            break;
        };
        let of = call
            .number
            .and_then(|number| project.tasks.get(number))
            .and_then(|task| task.app);
        if !scope.has(project, call.at.file, call.app.or(of)) {
            continue;
        }
        let (task, number, at, given) = (
            call.task.clone(),
            call.number,
            call.at,
            call.options.clone(),
        );
        let mut made = options(project, &given);
        if let Some(task) = number
            .and_then(|number| project.tasks.get(number))
            .map(|task| task.options.clone())
        {
            made = options(project, &task).overridden_by(&made);
        }
        app.calls.push(Call {
            task: task
                .map(|name| name.to_string())
                .map_err(|gap| (*gap).clone()),
            options: made,
            beat: false,
            location: project.location(at),
            target: target(&given).and_then(|at| project.location(at)),
        });
    }
}

/// The entries of the beat schedule.
fn beat(project: &mut Project, app: &mut App, schedule: super::settings::Found) {
    let Ok(Some(schedule)) = schedule else { return };
    let Kind::Dict(dict) = &schedule.kind else {
        return;
    };
    let entries: Vec<Value> = dict
        .borrow()
        .entries
        .iter()
        .map(|(_, value)| value.clone())
        .collect();
    for entry in entries {
        let entry = project.settle(entry);
        let Kind::Dict(entry_dict) = &entry.kind else {
            continue;
        };
        let (task, given) = {
            let entry = entry_dict.borrow();
            (entry.get("task").cloned(), entry.get("options").cloned())
        };
        let Some(task) = task.map(|task| project.settle(task)) else {
            continue;
        };
        let mut named = Vec::new();
        if let Some(Kind::Dict(given)) = given.map(|given| given.kind) {
            for (key, value) in &given.borrow().entries {
                if let Kind::Str(key) = &key.kind {
                    named.push((key.clone(), value.clone()));
                }
            }
        }
        let made = options(project, &named);
        app.calls.push(Call {
            task: match &task.kind {
                Kind::Str(name) => Ok(name.to_string()),
                _ => Err(why(project, &task, "which task it is is not worked out")),
            },
            options: made,
            beat: true,
            location: project.location(task.at),
            target: target(&named).and_then(|at| project.location(at)),
        });
    }
}
