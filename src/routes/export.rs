//! Settings without Python to read: a plain export, or the effective configuration that the project's own Python tells.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::python::{Kind, Place, Value};
use super::tree;

/// How long the project's Python may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// More than this is no configuration.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Prints the settings that decide where tasks go, and the names and options of all tasks, as JSON. What JSON does not
/// have is marked by a key of its own.
const EXPORTER: &str = include_str!("export.py");

/// Why an export could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("{}: {why}", path.display())]
    Read { path: PathBuf, why: String },
    #[error("{}: expected settings by name, as in {{\"task_routes\": {{…}}}}", .0.display())]
    NoTable(PathBuf),
    #[error(
        "{python} can't be run: {source}; --python names the one that has the project's packages"
    )]
    Start {
        python: String,
        source: std::io::Error,
    },
    #[error("{python} did not finish importing {app} within {} seconds", PATIENCE.as_secs())]
    Slow { python: String, app: String },
    #[error(
        "{app} can't be imported by {python}: {last}; `{python} -m celery -A {app} report` shows more"
    )]
    Import {
        python: String,
        app: String,
        last: String,
    },
    #[error("{python} printed no settings for {app}: {why}")]
    Output {
        python: String,
        app: String,
        why: String,
    },
}

/// Settings by name, and tasks by name with their options.
#[derive(Debug, Default)]
pub(super) struct Export {
    pub settings: BTreeMap<String, Value>,
    pub tasks: Option<BTreeMap<String, Json>>,
}

const NOWHERE: Place = Place {
    file: u32::MAX,
    start: 0,
    end: 0,
};

/// Reads `--config FILE`, JSON or TOML.
pub(super) fn file(path: &Path) -> Result<Export, ExportError> {
    let failed = |why: String| ExportError::Read {
        path: path.to_owned(),
        why,
    };
    let bytes = tree::bytes(path).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8".to_owned()))?;
    let is_toml = path.extension().is_some_and(|ending| ending == "toml");
    let json: Json = if is_toml {
        // Only the place is told: the line may hold a password.
        toml::from_str(&text).map_err(|error| {
            let line = text
                .get(..error.span().map_or(0, |span| span.start))
                .unwrap_or_default();
            failed(format!("line {} is not TOML", line.lines().count().max(1)))
        })?
    } else {
        serde_json::from_str(&text)
            .map_err(|error| failed(format!("line {} is not JSON", error.line())))?
    };
    let Json::Object(table) = json else {
        return Err(ExportError::NoTable(path.to_owned()));
    };
    Ok(Export {
        settings: table
            .iter()
            .map(|(name, value)| (name.clone(), value_of(value)))
            .collect(),
        ..Export::default()
    })
}

/// Asks the project's own Python for the configuration of an app.
pub(super) fn app(python: &str, app: &str, folder: &Path) -> Result<Export, ExportError> {
    let failed = |why: String| ExportError::Output {
        python: python.to_owned(),
        app: app.to_owned(),
        why,
    };
    let (out, err) = run(python, app, folder)?;
    let line = out
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("celery-doctor-export:"));
    let Some(line) = line else {
        let last = err
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("it ended without a word");
        return Err(ExportError::Import {
            python: python.to_owned(),
            app: app.to_owned(),
            last: exception(last).to_owned(),
        });
    };
    let json: Json = serde_json::from_str(line).map_err(|error| failed(error.to_string()))?;
    let settings = json["settings"]
        .as_object()
        .ok_or_else(|| failed("it has no settings".to_owned()))?;
    let tasks = json["tasks"].as_object();
    Ok(Export {
        settings: settings
            .iter()
            .map(|(name, value)| (name.clone(), value_of(value)))
            .collect(),
        tasks: tasks.map(|tasks| {
            tasks
                .iter()
                .map(|(name, options)| (name.clone(), options.clone()))
                .collect()
        }),
    })
}

/// The name of the exception in the last line of a traceback. What it says is not shown: it may quote a URL with its
/// password.
fn exception(line: &str) -> &str {
    let name = line.split(':').next().unwrap_or(line).trim();
    let plain = name
        .chars()
        .all(|c| c.is_alphanumeric() || "._ ".contains(c));
    if plain && name.len() < 100 {
        name
    } else {
        "it failed"
    }
}

/// Runs the exporter; what it printed on both channels.
fn run(python: &str, app: &str, folder: &Path) -> Result<(String, String), ExportError> {
    let start = |source| ExportError::Start {
        python: python.to_owned(),
        source,
    };
    let mut child = Command::new(python)
        .args(["-c", EXPORTER, app])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reader = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                // What a closed pipe keeps back is missing in the answer, which says so.
                let _ = pipe.take(MAX_BYTES).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(out.map(|pipe| Box::new(pipe) as _));
    let err = reader(err.map(|pipe| Box::new(pipe) as _));
    let begun = Instant::now();
    loop {
        match child.try_wait().map_err(start)? {
            Some(_) => break,
            None if begun.elapsed() > PATIENCE => {
                // It may be gone by now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(ExportError::Slow {
                    python: python.to_owned(),
                    app: app.to_owned(),
                });
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Ok((
        out.join().unwrap_or_default(),
        err.join().unwrap_or_default(),
    ))
}

/// A value of an export. `{"$queue": {…}}` and the like stand for what JSON does not have.
pub(super) fn value_of(json: &Json) -> Value {
    use std::cell::RefCell;

    use super::python::{Dict, List};
    use crate::celery::routing::{Exchange, Gap, Queue};

    let new = |kind| Value::new(kind, NOWHERE);
    let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    let unknown = |why: &str| {
        new(Kind::Unknown(Rc::new(Gap {
            why: why.to_owned(),
            file: "the export".to_owned(),
            line: 0,
        })))
    };
    match json {
        Json::Null => new(Kind::None),
        Json::Bool(truth) => new(Kind::Bool(*truth)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => new(Kind::Int(number)),
            (None, Some(number)) => new(Kind::Float(number)),
            (None, None) => unknown("the number is too large"),
        },
        Json::String(text) => new(Kind::Str(text.as_str().into())),
        Json::Array(items) => new(Kind::List(Rc::new(RefCell::new(List {
            items: items.iter().map(value_of).collect(),
            spoiled: None,
            context: 0,
        })))),
        Json::Object(table) => {
            let special = |name: &str| table.get(name).filter(|_| table.len() == 1);
            if let Some(source) = special("$regex") {
                return new(Kind::Regex(text(source).into(), false));
            }
            if let Some(why) = special("$unknown") {
                return unknown(&format!("{} would have to be called", text(why)));
            }
            if let Some(queue) = special("$queue") {
                let named = |name: &str| text(&queue[name]);
                let kind = Some(text(&queue["exchange_type"])).filter(|kind| !kind.is_empty());
                let arguments = queue["arguments"].as_object().into_iter().flatten();
                return new(Kind::Queue(Rc::new(Queue {
                    exchange: Exchange {
                        name: named("exchange"),
                        kind: kind.unwrap_or_else(|| "direct".to_owned()),
                    },
                    routing_key: named("routing_key"),
                    alias: queue["alias"].as_str().map(str::to_owned),
                    broadcast: queue["broadcast"] == true,
                    durable: Ok(queue["durable"] != false),
                    auto_delete: Ok(queue["auto_delete"] == true),
                    arguments: Ok(arguments
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect()),
                    ..Queue::named(&named("name"))
                })));
            }
            if let Some(pairs) = special("$pairs") {
                let pairs = pairs.as_array().into_iter().flatten();
                let entries = pairs.map(|pair| (value_of(&pair[0]), value_of(&pair[1])));
                return new(Kind::Dict(Rc::new(RefCell::new(Dict {
                    entries: entries.collect(),
                    spoiled: None,
                    context: 0,
                }))));
            }
            let entries = table
                .iter()
                .map(|(name, value)| (new(Kind::Str(name.as_str().into())), value_of(value)));
            new(Kind::Dict(Rc::new(RefCell::new(Dict {
                entries: entries.collect(),
                spoiled: None,
                context: 0,
            }))))
        }
    }
}
