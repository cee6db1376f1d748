//! systemd services: the commands of `ExecStart=`, with the environment of the unit.

use super::shell::{Dialect, Field, Value, Variables, fields};
use super::text::Text;
use super::{Found, command};

pub(super) fn read(found: &mut Found<'_>, outside: &Variables) {
    let settings = settings(found);
    let mut environment = outside.clone();
    let mut commands = Vec::new();
    for (name, value) in &settings {
        match name.as_str() {
            // Both start anew where they are empty.
            "Environment" if value.is_empty() => environment = outside.clone(),
            "ExecStart" if value.is_empty() => commands.clear(),
            "Environment" => {
                for word in fields(value, &Variables::default(), Dialect::Words) {
                    if let Some((name, value)) = word.text.split_once('=') {
                        environment.export(name.as_str(), Value::Known(value));
                    }
                }
            }
            "ExecStart" => commands.push(value),
            _ => {}
        }
    }
    // The file wins over the unit.
    let mut files = settings
        .iter()
        .filter(|(name, value)| name == "EnvironmentFile" && !value.is_empty());
    if let Some((_, file)) = files.next_back() {
        environment.forget(&format!("{} may set it", file.as_str()));
    }
    for value in commands {
        let prefix = value.as_str().len()
            - value
                .as_str()
                .trim_start_matches(['@', '-', ':', '+', '!'])
                .len();
        let words = fields(&value.from(prefix), &environment, Dialect::Systemd);
        let words: Vec<Field> = words.into_iter().map(specified).collect();
        command::run(&words, &environment, found);
    }
}

/// What `%i` and the like stand for is known only where the unit runs.
fn specified(field: Field) -> Field {
    let text = field.as_str();
    let instance = ["%i", "%I", "%j", "%J"]
        .into_iter()
        .any(|name| text.contains(name));
    if instance && field.unknown.is_none() {
        let why = "the unit's instance is known only where it runs".to_owned();
        return Field {
            unknown: Some(why),
            ..field
        };
    }
    field
}

/// The settings of the section `[Service]`, with the lines that continue them.
fn settings(found: &Found<'_>) -> Vec<(String, Text)> {
    let mut settings = Vec::new();
    let mut in_service = false;
    let mut current: Option<Text> = None;
    for line in found.file.lines() {
        let text = line.as_str().trim();
        if text.starts_with(['#', ';']) {
            continue;
        }
        if current.is_none() && text.starts_with('[') {
            in_service = text == "[Service]";
            continue;
        }
        let continues = text.ends_with('\\');
        let mut whole = current.take().unwrap_or_default();
        let end = line.as_str().trim_end().len() - usize::from(continues);
        whole.append(&line.slice(0, end));
        if continues {
            whole.push(' ', line.offset(end));
            current = Some(whole);
        } else if in_service {
            settings.extend(split(&whole));
        }
    }
    settings.extend(
        current
            .filter(|_| in_service)
            .and_then(|whole| split(&whole)),
    );
    settings
}

fn split(whole: &Text) -> Option<(String, Text)> {
    let (name, value) = whole.split_once('=')?;
    Some((name.trimmed().as_str().to_owned(), value.trimmed()))
}
