//! supervisord's configuration: the command of each program.

use super::shell::{Dialect, Field, Value, Variables, fields};
use super::text::Text;
use super::{Found, closing, command};

/// Python's forms, such as `02d`, are shorter.
const LONGEST_FORM: usize = 8;

pub(super) fn read(found: &mut Found<'_>, outside: &Variables) {
    let mut shared = Variables::default();
    let mut program: Option<Program> = None;
    for (section, name, value) in settings(found) {
        let here = program.as_ref().map(|program| program.section.as_str());
        if here != Some(section.as_str()) {
            run(program.take(), &shared, outside, found);
            program = Some(Program {
                section: section.clone(),
                command: None,
                environment: Vec::new(),
            });
        }
        let Some(program) = &mut program else {
            continue;
        };
        match name.as_str() {
            "command" if section.starts_with("program:") => program.command = Some(value),
            "environment" if section == "supervisord" => {
                for (name, value) in environment(&value, outside) {
                    shared.export(&name, value);
                }
            }
            "environment" => program.environment = environment(&value, outside),
            _ => {}
        }
    }
    run(program, &shared, outside, found);
}

struct Program {
    section: String,
    command: Option<Text>,
    environment: Vec<(String, Value)>,
}

fn run(program: Option<Program>, shared: &Variables, outside: &Variables, found: &mut Found<'_>) {
    let Some(program) = program else {
        return;
    };
    let Some(command) = program.command else {
        return;
    };
    let mut variables = shared.clone();
    for (name, value) in program.environment {
        variables.export(&name, value);
    }
    let words = fields(&command, &Variables::default(), Dialect::Words);
    let words: Vec<Field> = words
        .iter()
        .map(|word| filled_in(&word.text, outside))
        .collect();
    command::run(&words, &variables, found);
}

/// `NAME="VALUE",NAME=VALUE`
fn environment(text: &Text, outside: &Variables) -> Vec<(String, Value)> {
    let mut quote = None;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, character) in text.as_str().char_indices() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, ',' | '\n') => {
                parts.push(text.slice(start, at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.from(start));
    let pairs = parts.iter().filter_map(|part| part.split_once('='));
    pairs
        .map(|(name, value)| {
            let mut words = fields(&value, &Variables::default(), Dialect::Words);
            let value = words
                .pop()
                .map(|word| filled_in(&word.text, outside))
                .unwrap_or_default();
            let value = value
                .unknown
                .map_or(Value::Known(value.text), Value::Unknown);
            (name.trimmed().as_str().to_owned(), value)
        })
        .collect()
}

/// `%(ENV_NAME)s` is a variable of supervisord's own; of others, such as `%(process_num)d`, nobody knows here. `%%` is one.
fn filled_in(text: &Text, outside: &Variables) -> Field {
    let mut field = Field::default();
    let mut at = 0;
    while let Some(found) = text.as_str().get(at..).and_then(|rest| rest.find('%')) {
        let percent = at + found;
        field.text.append(&text.slice(at, percent));
        let rest = &text.as_str()[percent..];
        let Some(close) = closing(rest, "%(") else {
            field.text.append(&text.slice(percent, percent + 1));
            at = percent + if rest.starts_with("%%") { 2 } else { 1 };
            continue;
        };
        // The form behind it: `s`, `d`, `02d`.
        let mut form = rest[close + 1..].bytes().take(LONGEST_FORM);
        let form = form.position(|byte| byte.is_ascii_alphabetic());
        let end = percent + form.map_or(close + 1, |form| close + form + 2);
        let name = &rest[2..close];
        let known = name.strip_prefix("ENV_").and_then(|name| outside.get(name));
        match known {
            Some(Value::Known(value)) => field.text.append(&value),
            Some(Value::Unknown(_)) | None => {
                field.text.append(&text.slice(percent, end));
                let why = format!("{name} is known only to supervisord");
                field.unknown.get_or_insert(why);
            }
        }
        at = end;
    }
    field.text.append(&text.from(at));
    field
}

/// Section, name and value of every setting, with the lines that continue it.
fn settings(found: &Found<'_>) -> Vec<(String, String, Text)> {
    let mut settings: Vec<(String, String, Text)> = Vec::new();
    let mut section = String::new();
    for line in found.file.lines() {
        let text = line.as_str();
        if text.starts_with(['#', ';']) {
            continue;
        }
        let end = [" ;", "\t;"]
            .into_iter()
            .filter_map(|mark| text.find(mark))
            .min();
        let line = line.slice(0, end.unwrap_or(text.len()));
        let text = line.as_str();
        if text.trim().is_empty() {
            continue;
        }
        if text.starts_with(char::is_whitespace) {
            if let Some((_, _, value)) = settings.last_mut() {
                value.push('\n', line.offset(0));
                value.append(&line.trimmed());
            }
        } else if let Some(name) = text.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default();
            name.trim().clone_into(&mut section);
        } else if let Some((name, value)) = split(&line) {
            settings.push((section.clone(), name, value));
        }
    }
    settings
}

fn split(line: &Text) -> Option<(String, Text)> {
    let at = line.as_str().find(['=', ':'])?;
    let name = line.slice(0, at).trimmed().as_str().to_ascii_lowercase();
    Some((name, line.from(at + 1).trimmed()))
}
