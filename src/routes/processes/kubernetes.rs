//! Kubernetes manifests: the containers of every object, wherever in it they stand, so that Deployments, CronJobs, lists and
//! custom resources are all read alike.

use super::shell::{Field, Value, Variables};
use super::text::Text;
use super::yaml::{Id, Node, Yaml, parse};
use super::{Found, closing, command};

pub(super) fn read(found: &mut Found<'_>, outside: &Variables) {
    let yaml = match parse(found.file) {
        Ok(yaml) => yaml,
        Err(unread) => {
            // A template, or no YAML at all: it counts only where it speaks of a worker.
            let text = found.file.text;
            if text.contains("celery") && text.contains("worker") {
                found.unknown_at(unread.at, unread.at, unread.why);
            }
            return;
        }
    };
    for document in &yaml.documents {
        let manifest = ["apiVersion", "kind"].into_iter();
        if manifest
            .map(|key| yaml.get(*document, key))
            .any(|value| value.is_none())
        {
            continue;
        }
        if let Some(name) = yaml.twice() {
            let why = format!("the key {} stands twice", name.as_str());
            return found.unknown(name, why);
        }
        for container in containers(&yaml, *document) {
            read_container(&yaml, container, outside, found);
        }
    }
}

/// Every container below a node. Each node is looked at once, however often it is referred to.
fn containers(yaml: &Yaml, root: Id) -> Vec<Id> {
    let mut containers = Vec::new();
    let mut seen = vec![false; yaml.len()];
    let mut waiting = vec![root];
    while let Some(id) = waiting.pop() {
        if std::mem::replace(&mut seen[id], true) {
            continue;
        }
        match yaml.node(id) {
            Node::Scalar(..) => {}
            Node::List(items) => waiting.extend(items.iter().rev()),
            Node::Map(entries) => {
                for (name, value) in entries.iter().rev() {
                    if matches!(name.as_str(), "containers" | "initContainers") {
                        containers.extend(yaml.items(*value).iter().rev());
                    }
                    waiting.push(*value);
                }
            }
        }
    }
    containers
}

fn read_container(yaml: &Yaml, container: Id, outside: &Variables, found: &mut Found<'_>) {
    let mut environment = Variables::default();
    if yaml.get(container, "envFrom").is_some() {
        environment.and_more("envFrom may set it");
    }
    for item in yaml
        .get(container, "env")
        .map_or(&[][..], |env| yaml.items(env))
    {
        let Some(name) = yaml.text_of(*item, "name").map(Text::as_str) else {
            continue;
        };
        let value = match yaml.text_of(*item, "value") {
            Some(value) => {
                let field = filled_in(value, &environment);
                field
                    .unknown
                    .map_or(Value::Known(field.text), Value::Unknown)
            }
            None => outside.get(name).unwrap_or_else(|| {
                Value::Unknown(format!("${name} is set from outside the manifest"))
            }),
        };
        environment.export(name, value);
    }
    let parts = ["command", "args"].into_iter();
    let items = parts.filter_map(|key| yaml.get(container, key));
    let words: Vec<Field> = items
        .flat_map(|list| yaml.items(list))
        .filter_map(|item| yaml.text(*item))
        .map(|text| filled_in(text, &environment))
        .collect();
    command::run(&words, &environment, found);
}

/// Kubernetes' own `$(NAME)`; one that is not set stays as it is, and `$$` is a dollar.
fn filled_in(text: &Text, environment: &Variables) -> Field {
    let mut field = Field::default();
    let mut at = 0;
    while let Some(found) = text.as_str().get(at..).and_then(|rest| rest.find('$')) {
        let dollar = at + found;
        field.text.append(&text.slice(at, dollar));
        let rest = &text.as_str()[dollar..];
        let end = closing(rest, "$(");
        let value = end.and_then(|end| environment.get(&rest[2..end]));
        at = dollar + end.map_or(1, |end| end + 1);
        match value {
            _ if rest.starts_with("$$") => {
                field.text.append(&text.slice(dollar, dollar + 1));
                at = dollar + 2;
            }
            Some(Value::Known(value)) => field.text.append(&value),
            Some(Value::Unknown(why)) => {
                field.text.append(&text.slice(dollar, at));
                field.unknown.get_or_insert(why);
            }
            None => field.text.append(&text.slice(dollar, at)),
        }
    }
    field.text.append(&text.from(at));
    field
}
