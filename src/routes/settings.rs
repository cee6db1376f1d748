//! The settings of an app: what was set on it, then what its configuration source holds, then nothing.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::python::{AppFacts, ConfOp, Kind, Place, Project, Sureness, Value, same};
use crate::celery::routing::Gap;

/// The settings that are read, each with its old name (Celery 5.7 `app/defaults.py`).
const NAMES: [(&str, &str); 14] = [
    ("task_default_queue", "CELERY_DEFAULT_QUEUE"),
    ("task_default_queue_type", "CELERY_DEFAULT_QUEUE_TYPE"),
    ("task_default_exchange", "CELERY_DEFAULT_EXCHANGE"),
    ("task_default_exchange_type", "CELERY_DEFAULT_EXCHANGE_TYPE"),
    ("task_default_routing_key", "CELERY_DEFAULT_ROUTING_KEY"),
    ("task_create_missing_queues", "CELERY_CREATE_MISSING_QUEUES"),
    (
        "task_create_missing_queue_type",
        "CELERY_CREATE_MISSING_QUEUE_TYPE",
    ),
    (
        "task_create_missing_queue_exchange_type",
        "CELERY_CREATE_MISSING_QUEUE_EXCHANGE_TYPE",
    ),
    ("task_queues", "CELERY_QUEUES"),
    ("task_queue_max_priority", "CELERY_QUEUE_MAX_PRIORITY"),
    ("task_routes", "CELERY_ROUTES"),
    ("task_annotations", "CELERY_ANNOTATIONS"),
    ("beat_schedule", "CELERYBEAT_SCHEDULE"),
    ("worker_direct", "CELERY_WORKER_DIRECT"),
];

/// Something, nothing, or what keeps it from being known.
type Perhaps<T> = Result<Option<T>, Rc<Gap>>;
/// What a setting is: none where nothing sets it.
pub(super) type Found = Perhaps<Value>;

/// The settings of one app.
pub(super) struct Settings {
    found: BTreeMap<&'static str, Found>,
}

/// Names and values that an app takes its settings from.
struct Holder {
    names: BTreeMap<Rc<str>, Value>,
    spoiled: Option<Rc<Gap>>,
}

impl Settings {
    /// Works out the settings of an app.
    pub(crate) fn of(project: &mut Project, app: &AppFacts) -> Self {
        let (holder, prefix) = source(project, app);
        let mut found = BTreeMap::new();
        for (name, old) in NAMES {
            let mut keys = Vec::new();
            if let Ok(Some(prefix)) = &prefix {
                keys.push(prefixed(prefix, name));
            }
            keys.push(name.to_owned());
            keys.push(old.to_owned());
            let mut value = changed(project, app, &keys);
            if let (Ok(None), Err(gap)) = (&value, &prefix) {
                value = Err(gap.clone());
            }
            if let Ok(None) = value {
                value = match &holder {
                    Err(gap) => Err(gap.clone()),
                    Ok(None) => Ok(None),
                    Ok(Some(holder)) => held(holder, &keys),
                };
            }
            let value = match value {
                Ok(Some(value)) => match project.settle(value) {
                    Value {
                        kind: Kind::Unknown(gap),
                        ..
                    } => Err(gap),
                    value => Ok(Some(value)),
                },
                other => other,
            };
            found.insert(name, value);
        }
        Self { found }
    }

    /// The settings of an export, by their new or old names.
    pub(crate) fn of_export(settings: &BTreeMap<String, Value>) -> Self {
        let found = NAMES.iter().map(|(name, old)| {
            let value = settings.get(*name).or_else(|| settings.get(*old));
            let found = match value {
                Some(Value {
                    kind: Kind::Unknown(gap),
                    ..
                }) => Err(gap.clone()),
                value => Ok(value.cloned()),
            };
            (*name, found)
        });
        Self {
            found: found.collect(),
        }
    }

    /// A setting by its new name.
    pub(crate) fn get(&self, name: &str) -> Found {
        self.found.get(name).cloned().unwrap_or(Ok(None))
    }

    /// All that are set, with the places of their values.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&'static str, Place)> {
        self.found.iter().filter_map(|(name, found)| match found {
            Ok(Some(value)) => Some((*name, value.at)),
            _ => None,
        })
    }
}

/// The key of a setting under a namespace (Celery 5.7 `utils/collections.py`, `ConfigurationView._to_keys`).
fn prefixed(prefix: &str, name: &str) -> String {
    let key = format!("{}_{name}", prefix.trim_end_matches('_'));
    if prefix.chars().any(char::is_lowercase) {
        key
    } else {
        key.to_uppercase()
    }
}

fn held(holder: &Holder, keys: &[String]) -> Found {
    for key in keys {
        if let Some(value) = holder.names.get(key.as_str()) {
            return Ok(Some(value.clone()));
        }
    }
    match &holder.spoiled {
        Some(gap) => Err(gap.clone()),
        None => Ok(None),
    }
}

/// What the app's own changes make of a setting.
fn changed(project: &Project, app: &AppFacts, keys: &[String]) -> Found {
    let mut current: Found = Ok(None);
    for (op, sureness) in &app.ops {
        let new: Found = match op {
            ConfOp::Set(key, value) if keys.iter().any(|wanted| **wanted == **key) => {
                Ok(Some(value.clone()))
            }
            ConfOp::Update(value) => match &value.kind {
                Kind::Dict(dict) => {
                    let dict = dict.borrow();
                    match (keys.iter().find_map(|key| dict.get(key)), &dict.spoiled) {
                        (_, Some(gap)) => Err(gap.clone()),
                        (value, None) => Ok(value.cloned()),
                    }
                }
                Kind::Unknown(gap) => Err(gap.clone()),
                _ => Err(project.gap(
                    value.at,
                    "what the configuration is updated with is not worked out",
                )),
            },
            ConfOp::Unknown(gap) => Err(gap.clone()),
            ConfOp::Set(..) | ConfOp::Source(..) | ConfOp::Namespace(_) => continue,
        };
        current = match (current, new, sureness) {
            (current, Ok(None), _) => current,
            (_, Err(gap), _) | (Err(gap), Ok(Some(_)), Sureness::WhenCalled | Sureness::Maybe) => {
                Err(gap)
            }
            (_, Ok(Some(value)), Sureness::Sure)
            | (Ok(None), Ok(Some(value)), Sureness::WhenCalled) => Ok(Some(value)),
            (Ok(Some(old)), Ok(Some(value)), _) if same(&old, &value) => Ok(Some(old)),
            (_, Ok(Some(value)), _) => Err(project.gap(
                value.at,
                "whether the setting is set here is known only when it runs",
            )),
        };
    }
    current
}

/// Where an app takes its settings from, and under which namespace.
fn source(project: &mut Project, app: &AppFacts) -> (Perhaps<Holder>, Perhaps<Rc<str>>) {
    let mut namespace = Ok(None);
    let mut from = Ok(None);
    for (op, sureness) in &app.ops {
        let given = match op {
            ConfOp::Namespace(value) => Some(value),
            ConfOp::Source(value, namespace) => {
                from = match sureness {
                    Sureness::Maybe => Err(project.gap(
                        value.at,
                        "whether the settings come from here is known only when it runs",
                    )),
                    _ => Ok(Some(value.clone())),
                };
                namespace.as_ref()
            }
            _ => None,
        };
        if let Some(given) = given {
            namespace = match &given.kind {
                Kind::Str(text) => Ok(Some(text.clone())),
                Kind::None => namespace,
                Kind::Unknown(gap) => Err(gap.clone()),
                _ => Err(project.gap(given.at, "the namespace is not worked out")),
            };
        }
    }
    let holder = match from {
        Err(gap) => Err(gap),
        Ok(None) => Ok(None),
        Ok(Some(value)) => holder(project, app, &value).map(Some),
    };
    (holder, namespace)
}

fn holder(project: &mut Project, app: &AppFacts, value: &Value) -> Result<Holder, Rc<Gap>> {
    let value = project.settle(value.clone());
    match &value.kind {
        Kind::Str(text) => by_path(project, app, text, value.at),
        Kind::Module(module) => match module.file {
            Some(file) => Ok(of_file(project, file)),
            None => Err(project.gap(value.at, "this folder is no module")),
        },
        Kind::External(path) if path.starts_with("django.conf") => django(project, app, value.at),
        Kind::Class(class) => {
            let mut names = BTreeMap::new();
            let mut spoiled = None;
            let mut open = vec![class.clone()];
            for _ in 0..50 {
                let Some(class) = open.pop() else { break };
                for (name, value) in &class.names.names {
                    names.entry(name.clone()).or_insert_with(|| value.clone());
                }
                for base in class.bases.iter().rev() {
                    match &base.kind {
                        Kind::Class(base) => open.push(base.clone()),
                        Kind::External(path) if &**path == "builtins.object" => {}
                        _ => {
                            let why = "a class of another package may set anything";
                            spoiled = Some(project.gap(base.at, why));
                        }
                    }
                }
            }
            Ok(Holder { names, spoiled })
        }
        Kind::Dict(dict) => {
            let dict = dict.borrow();
            let entries = dict.entries.iter();
            let names = entries.filter_map(|(key, value)| match &key.kind {
                Kind::Str(key) => Some((key.clone(), value.clone())),
                _ => None,
            });
            Ok(Holder {
                names: names.collect(),
                spoiled: dict.spoiled.clone(),
            })
        }
        Kind::Held(key) => {
            let mut held = project
                .held
                .iter()
                .filter(|(name, _)| name == key)
                .map(|(_, value)| value);
            let first = held.next().cloned();
            let one = first.filter(|first| held.all(|other| same(first, other)));
            match one {
                Some(one) if !matches!(one.kind, Kind::Held(_)) => holder(project, app, &one),
                _ => Err(project.gap(
                    value.at,
                    format!(
                        "what the configuration holds as {key} is not told once in the project"
                    ),
                )),
            }
        }
        Kind::Unknown(gap) => Err(gap.clone()),
        _ => Err(project.gap(value.at, "where the settings come from is not worked out")),
    }
}

/// `config_from_object('proj.settings')`, and with an attribute after a colon.
fn by_path(
    project: &mut Project,
    app: &AppFacts,
    text: &str,
    at: Place,
) -> Result<Holder, Rc<Gap>> {
    if matches!(text, "django.conf:settings" | "django.conf.settings") {
        return django(project, app, at);
    }
    let from = project.path(app.at.file).to_owned();
    let (path, name) = text.split_once(':').unwrap_or((text, ""));
    let whole = project
        .find_module(&from, path)
        .and_then(|module| module.file);
    if let Some(file) = whole.filter(|_| name.is_empty()) {
        return Ok(of_file(project, file));
    }
    let (path, name) = if name.is_empty() {
        path.rsplit_once('.').unwrap_or((path, ""))
    } else {
        (path, name)
    };
    let module = project.find_module(&from, path);
    let value = module.and_then(|module| project.attribute(&module, name, at));
    match value {
        Some(value) if !matches!(value.kind, Kind::Str(_)) => holder(project, app, &value),
        _ => Err(project.gap(at, format!("{text} is not in the project"))),
    }
}

fn of_file(project: &mut Project, file: u32) -> Holder {
    let scope = project.scope(file);
    Holder {
        names: scope.names.clone(),
        spoiled: scope.spoiled.clone(),
    }
}

/// Django's settings: the module that `DJANGO_SETTINGS_MODULE` names, given by `--env`, by the app's file, or by the
/// other files of its package that agree on it.
fn django(project: &mut Project, app: &AppFacts, at: Place) -> Result<Holder, Rc<Gap>> {
    const VARIABLE: &str = "DJANGO_SETTINGS_MODULE";
    let given = project.env(VARIABLE).map(str::to_owned);
    let of_app = |project: &Project| {
        let key = (app.at.file, VARIABLE.into());
        project
            .env_set
            .get(&key)
            .and_then(|value| value.text().map(str::to_owned))
    };
    let path = given.or_else(|| of_app(project)).or_else(|| {
        let root = project.package_root(project.path(app.at.file));
        let others = project.env_set.iter().filter(|((file, name), _)| {
            &**name == VARIABLE && project.path(*file).starts_with(root.as_str())
        });
        let mut paths: Vec<&str> = others.filter_map(|(_, value)| value.text()).collect();
        paths.dedup();
        match paths.as_slice() {
            [one] => Some((*one).to_owned()),
            _ => None,
        }
    });
    let Some(path) = path else {
        return Err(project.gap(
            at,
            format!("{VARIABLE} is not told once (--env {VARIABLE}=… gives it)"),
        ));
    };
    let from = project.path(app.at.file).to_owned();
    match project
        .find_module(&from, &path)
        .and_then(|module| module.file)
    {
        Some(file) => Ok(of_file(project, file)),
        None => Err(project.gap(at, format!("the settings {path} are not in the project"))),
    }
}
