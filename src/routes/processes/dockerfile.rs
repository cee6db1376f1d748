//! Dockerfiles: what the image of each stage runs.

use std::collections::BTreeMap;

use super::shell::{Dialect, Field, Value, Variables, fields, script};
use super::text::Text;
use super::{Found, command};

/// What runs in an image.
#[derive(Clone)]
enum Runs {
    /// A list of words.
    Words(Vec<Text>),
    /// A text that a shell runs.
    Shell(Text),
}

/// One stage of a build.
#[derive(Clone, Default)]
struct Stage {
    environment: Variables,
    entrypoint: Option<Runs>,
    command: Option<Runs>,
    /// Whether the stage itself says what runs, and does not only inherit it.
    own: bool,
}

pub(super) fn read(found: &mut Found<'_>, outside: &Variables) {
    let mut stages: BTreeMap<String, Stage> = BTreeMap::new();
    let mut stage = Stage {
        environment: outside.clone(),
        ..Stage::default()
    };
    let mut name = String::new();
    for (instruction, rest) in instructions(found) {
        match instruction.as_str() {
            "FROM" => {
                run(&stage, found);
                stages.insert(std::mem::take(&mut name), stage);
                let words: Vec<&str> = rest.as_str().split_whitespace().collect();
                let image = words.iter().find(|word| !word.starts_with("--"));
                let base = image.and_then(|image| stages.get(&image.to_ascii_lowercase()));
                stage = base.cloned().unwrap_or_else(|| Stage {
                    environment: outside.clone(),
                    ..Stage::default()
                });
                stage.own = false;
                name = match words.as_slice() {
                    [.., word, name] if word.eq_ignore_ascii_case("as") => {
                        name.to_ascii_lowercase()
                    }
                    _ => String::new(),
                };
            }
            "ENV" => variables(&rest, &mut stage, true),
            "ARG" => variables(&rest, &mut stage, false),
            "ENTRYPOINT" => {
                stage.entrypoint = Some(runs(&rest));
                stage.command = stage.command.filter(|_| stage.own);
                stage.own = true;
            }
            "CMD" => {
                stage.command = Some(runs(&rest));
                stage.own = true;
            }
            _ => {}
        }
    }
    run(&stage, found);
}

fn run(stage: &Stage, found: &mut Found<'_>) {
    if !stage.own {
        return;
    }
    let words = |runs: &Option<Runs>| match runs {
        Some(Runs::Words(words)) => words.iter().cloned().map(Field::known).collect(),
        Some(Runs::Shell(_)) | None => Vec::new(),
    };
    match (&stage.entrypoint, &stage.command) {
        // A shell takes no arguments here.
        (Some(Runs::Shell(text)), _) | (None, Some(Runs::Shell(text))) => {
            script(text, &stage.environment, found);
        }
        (Some(Runs::Words(entrypoint)), Some(Runs::Shell(text))) => {
            // What an entrypoint gets is `/bin/sh -c TEXT`; by custom it runs that in the end.
            let celery = entrypoint
                .iter()
                .any(|word| command::base(word.as_str()) == "celery");
            if celery {
                found.unknown(text, "celery gets a shell's command as its arguments");
            } else {
                script(text, &stage.environment, found);
            }
        }
        (entrypoint, command) => {
            let mut all: Vec<Field> = words(entrypoint);
            let scripted = all.first().is_some_and(|first| is_script(first.as_str()));
            // By custom the script of an entrypoint runs its arguments in the end.
            if scripted && command.is_some() {
                all.clear();
            }
            all.extend(words(command));
            command::run(&all, &stage.environment, found);
        }
    }
}

fn is_script(program: &str) -> bool {
    let name = command::base(program).to_ascii_lowercase();
    let shell = name
        .rsplit_once('.')
        .is_some_and(|(_, ending)| matches!(ending, "sh" | "bash"));
    shell || name.contains("entrypoint") || name.contains("entry_point")
}

/// `NAME=VALUE...`, or `NAME VALUE`.
fn variables(rest: &Text, stage: &mut Stage, exported: bool) {
    let words = fields(rest, &stage.environment, Dialect::Systemd);
    let old_form = words
        .first()
        .is_some_and(|word| !word.as_str().contains('='));
    let mut set = |name: &str, value: Value| {
        if exported {
            stage.environment.export(name, value);
        } else if stage.environment.get(name).is_none() {
            stage.environment.set(name, value);
        }
    };
    if old_form {
        if let Some((name, value)) = rest.trimmed().split_once(' ').filter(|_| exported) {
            set(name.as_str(), Value::Known(value.trimmed()));
        }
        return;
    }
    for word in words {
        if let Some((name, value)) = word.text.split_once('=') {
            let value = word.unknown.map_or(Value::Known(value), Value::Unknown);
            set(name.as_str(), value);
        }
    }
}

/// A JSON list of words, else a shell's text.
fn runs(rest: &Text) -> Runs {
    let rest = rest.trimmed();
    let words: Option<Vec<String>> = serde_json::from_str(rest.as_str()).ok();
    let Some(words) = words else {
        return Runs::Shell(rest);
    };
    let mut at = 0;
    let place = |word: String| {
        // A word without escapes stands in the file as it is.
        let quoted = format!("\"{word}\"");
        match rest.as_str()[at..].find(&quoted) {
            Some(start) => {
                let start = at + start + 1;
                at = start + word.len();
                rest.slice(start, at)
            }
            None => Text::shown_at(&word, rest.offset(at)),
        }
    };
    Runs::Words(words.into_iter().map(place).collect())
}

/// The instructions, with the lines that continue them and without comments.
fn instructions(found: &Found<'_>) -> Vec<(String, Text)> {
    let mut all = Vec::new();
    let mut current: Option<Text> = None;
    let mut heredoc: Option<String> = None;
    for line in found.file.lines() {
        let text = line.as_str().trim();
        if let Some(end) = &heredoc {
            if text == end {
                heredoc = None;
            }
            continue;
        }
        if text.starts_with('#') || (text.is_empty() && current.is_some()) {
            continue;
        }
        let continues = text.ends_with('\\');
        let mut whole = current.take().unwrap_or_default();
        let end = line.as_str().trim_end().len() - usize::from(continues);
        whole.append(&line.slice(0, end));
        if continues {
            whole.push(' ', line.offset(end));
            current = Some(whole);
        } else {
            heredoc = heredoc_end(whole.as_str());
            all.extend(split(&whole));
        }
    }
    all.extend(current.and_then(|whole| split(&whole)));
    all
}

fn split(whole: &Text) -> Option<(String, Text)> {
    let whole = whole.trimmed();
    let end = whole.as_str().find(char::is_whitespace)?;
    let name = whole.as_str()[..end].to_ascii_uppercase();
    Some((name, whole.from(end).trimmed()))
}

/// The word that ends the document which a `RUN` or `COPY` brings along.
fn heredoc_end(line: &str) -> Option<String> {
    let start = line.trim_start().to_ascii_uppercase();
    if !start.starts_with("RUN") && !start.starts_with("COPY") && !start.starts_with("ADD") {
        return None;
    }
    let (_, after) = line.split_once("<<")?;
    let word = after
        .trim_start_matches('-')
        .trim_start_matches(['"', '\'']);
    let end: String = word
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!end.is_empty()).then_some(end)
}
