//! Compose files: the command of each service, with the environment that it is given.

use std::collections::BTreeMap;

use super::shell::{Dialect, Field, Value, Variables, fields, variable_at};
use super::text::Text;
use super::yaml::{Id, Yaml, parse};
use super::{Found, command};

/// Longer chains of services that extend others are not followed.
const DEEPEST: usize = 16;

pub(super) fn read(found: &mut Found<'_>, outside: &Variables) {
    let yaml = match parse(found.file) {
        Ok(yaml) => yaml,
        Err(unread) => return found.unknown_at(unread.at, unread.at, unread.why),
    };
    if let Some(name) = yaml.twice() {
        let why = format!("the key {} stands twice", name.as_str());
        return found.unknown(name, why);
    }
    for document in &yaml.documents {
        let Some(services) = yaml.get(*document, "services") else {
            continue;
        };
        let services = yaml.entries(services);
        let reader = Reader {
            yaml: &yaml,
            services: services
                .iter()
                .map(|(name, id)| (name.as_str(), *id))
                .collect(),
            outside,
        };
        for (name, service) in services {
            reader.service(name, service, found);
        }
    }
}

struct Reader<'a> {
    yaml: &'a Yaml,
    services: BTreeMap<&'a str, Id>,
    /// What compose itself fills in.
    outside: &'a Variables,
}

impl Reader<'_> {
    fn service(&self, name: &Text, service: Id, found: &mut Found<'_>) {
        // The service itself, then those that it extends.
        let mut chain = vec![service];
        let mut elsewhere = None;
        while let Some(extends) = self.yaml.get(*chain.last().unwrap_or(&service), "extends") {
            let base = self
                .yaml
                .text_of(extends, "service")
                .or_else(|| self.yaml.text(extends));
            let here = self.yaml.get(extends, "file").is_none();
            let next = base
                .filter(|_| here)
                .and_then(|base| self.services.get(base.as_str()).copied());
            match next {
                Some(next) if chain.len() < DEEPEST => chain.push(next),
                _ => {
                    elsewhere = Some(name);
                    break;
                }
            }
        }
        let first = |key: &str| {
            let mut all = chain.iter().filter_map(|id| self.yaml.get(*id, key));
            all.next()
        };
        let (entrypoint, command) = (first("entrypoint"), first("command"));
        if let (None, None, Some(name)) = (entrypoint, command, elsewhere) {
            // Only where the name gives cause: most services are databases and web servers.
            let text = name.as_str();
            if text.contains("celery") || text.contains("worker") {
                found.unknown(name, format!("service {text} extends one of another file"));
            }
            return;
        }
        let mut environment = Variables::default();
        for id in chain.iter().rev() {
            if self.yaml.get(*id, "env_file").is_some() {
                environment.and_more("an env_file may set it");
            }
            self.environment(*id, &mut environment);
        }
        let mut words = Vec::new();
        for part in [entrypoint, command].into_iter().flatten() {
            words.extend(self.words(part));
        }
        command::run(&words, &environment, found);
    }

    fn environment(&self, service: Id, environment: &mut Variables) {
        let Some(given) = self.yaml.get(service, "environment") else {
            return;
        };
        let listed = self.yaml.items(given).iter();
        for text in listed.filter_map(|item| self.yaml.text(*item)) {
            match text.split_once('=') {
                Some((name, value)) => environment.export(name.as_str(), self.value(&value)),
                None => self.pass(text, environment),
            }
        }
        for (name, value) in self.yaml.entries(given) {
            match self.yaml.text(value) {
                Some(value) => environment.export(name.as_str(), self.value(value)),
                None => self.pass(name, environment),
            }
        }
    }

    /// A variable that compose hands on from its own environment.
    fn pass(&self, name: &Text, environment: &mut Variables) {
        if let Some(value) = self.outside.get(name.as_str()) {
            environment.export(name.as_str(), value);
        }
    }

    fn value(&self, text: &Text) -> Value {
        let field = self.filled_in(text);
        match field.unknown {
            Some(why) => Value::Unknown(why),
            None => Value::Known(field.text),
        }
    }

    /// The words of a command, which is a text that compose splits, or a list.
    fn words(&self, id: Id) -> Vec<Field> {
        if let Some(text) = self.yaml.text(id) {
            let filled = self.filled_in(text);
            let Some(why) = filled.unknown else {
                return fields(&filled.text, &Variables::default(), Dialect::Words);
            };
            // Split first, so that only the words with something unknown are unknown.
            let words = fields(text, &Variables::default(), Dialect::Words);
            return words
                .iter()
                .map(|word| self.loosened(&word.text, &why))
                .collect();
        }
        let items = self.yaml.items(id).iter();
        items
            .filter_map(|item| self.yaml.text(*item))
            .map(|text| self.filled_in(text))
            .collect()
    }

    /// A word of a text into which something unknown is filled, before the text is split.
    fn loosened(&self, word: &Text, why: &str) -> Field {
        let mut field = self.filled_in(word);
        field.loose = field.unknown.is_some() && word.as_str().starts_with('$');
        if field.loose {
            field.unknown = Some(why.to_owned());
        }
        field
    }

    /// Compose's interpolation: `$X`, `${X}`, `${X:-default}`, and `$$` for a dollar.
    fn filled_in(&self, text: &Text) -> Field {
        let mut field = Field::default();
        let mut at = 0;
        while let Some(found) = text.as_str().get(at..).and_then(|rest| rest.find('$')) {
            let dollar = at + found;
            field.text.append(&text.slice(at, dollar));
            if text.as_str()[dollar..].starts_with("$$") {
                field.text.append(&text.slice(dollar, dollar + 1));
                at = dollar + 2;
                continue;
            }
            let (value, end) = variable_at(text, dollar, self.outside);
            match value {
                Ok(value) => field.text.append(&value),
                Err(why) => {
                    field.text.append(&text.slice(dollar, end));
                    field.unknown.get_or_insert(why);
                }
            }
            at = end;
        }
        field.text.append(&text.from(at));
        field
    }
}
