//! Which workers a project starts, and which queues these are told to consume, read from Procfiles, compose files, Dockerfiles,
//! systemd units, supervisor's configuration, shell scripts and Kubernetes manifests. Nothing is run. What can't be known
//! from the file alone is unknown, with its place, and never guessed.

mod celeryd;
mod command;
mod compose;
mod dockerfile;
mod kubernetes;
mod multi;
mod shell;
mod supervisor;
mod systemd;
#[cfg(test)]
mod tests;
mod text;
mod yaml;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use shell::{Value, Variables};
use text::{File, Text, line_starts};

/// Larger files are not read, in bytes.
const LARGEST: usize = 1 << 20;
/// More workers of one file, or more that may be some, are not told.
const MOST: usize = 500;

/// A piece of text in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// The file's path, as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The first character's column, from 1, in characters.
    pub column: u32,
    /// The column after the last character, in the same line.
    pub end_column: u32,
    /// The whole line, as it stands in the file; cut where it is very long.
    pub text: String,
}

/// What a command line says of one option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told<T> {
    /// This value.
    Is(T),
    /// Nothing: Celery's default, or its configuration, counts.
    Nothing,
    /// It can't be known, for this reason.
    Unknown(String),
}

impl<T> Told<T> {
    /// The value, where there is one.
    pub fn is(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Nothing | Self::Unknown(_) => None,
        }
    }
}

/// One worker that a file starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCommand {
    /// `-A`, or the variable `APP` or `CELERY_APP`.
    pub app: Told<String>,
    /// `-Q`: the queues it consumes, in place of those of `task_queues`.
    pub queues: Told<Vec<String>>,
    /// `-X`: queues that it does not consume.
    pub excluded: Told<Vec<String>>,
    /// `-I`: modules that it imports for their tasks.
    pub include: Told<Vec<String>>,
    /// `-n`, as it stands there.
    pub hostname: Told<String>,
    /// `-P`.
    pub pool: Told<String>,
    /// `-c`.
    pub concurrency: Told<String>,
    /// Where the command stands.
    pub location: Location,
    /// Where the queues are named.
    pub queues_location: Option<Location>,
}

/// Something that may start a worker and was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// Why, in a few words.
    pub why: String,
    /// Where.
    pub location: Location,
}

/// What one file starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// The workers, in the order of the file.
    pub workers: Vec<WorkerCommand>,
    /// What may be workers as well.
    pub unknown: Vec<Unknown>,
}

/// What kind of file starts processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `Procfile`.
    Procfile,
    /// Docker's or Podman's compose.
    Compose,
    /// A recipe of an image.
    Dockerfile,
    /// A systemd service.
    Systemd,
    /// supervisord's configuration.
    Supervisor,
    /// A shell script.
    Shell,
    /// Settings of Celery's own init script and unit, such as `/etc/default/celeryd`.
    Celeryd,
    /// Other YAML; only Kubernetes manifests in it are read.
    Kubernetes,
}

/// What a file is by its path, whose parts stand between `/`.
pub fn kind_of(path: &str) -> Option<Kind> {
    let path = path.to_ascii_lowercase();
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let is_or_starts = |wanted: &str| {
        let rest = name.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '_']))
    };
    let supervisor = || {
        let parts = folder.split('/').chain([stem]);
        parts.into_iter().any(|part| part.contains("supervisor"))
    };
    match ending {
        "yml" | "yaml" if is_or_starts("compose") || is_or_starts("docker-compose") => {
            Some(Kind::Compose)
        }
        "yml" | "yaml" if is_or_starts("podman-compose") => Some(Kind::Compose),
        "yml" | "yaml" => Some(Kind::Kubernetes),
        "sh" | "bash" => Some(Kind::Shell),
        "service" => Some(Kind::Systemd),
        "dockerfile" | "containerfile" => Some(Kind::Dockerfile),
        "conf" | "ini" if supervisor() => Some(Kind::Supervisor),
        "py" | "md" | "rst" | "txt" | "html" | "json" => None,
        _ if is_or_starts("procfile") => Some(Kind::Procfile),
        _ if is_or_starts("dockerfile") || is_or_starts("containerfile") => Some(Kind::Dockerfile),
        _ if matches!(name, "celeryd" | "celeryd.conf" | "celeryd.default") => Some(Kind::Celeryd),
        _ if name == "celery" && folder.ends_with("conf.d") => Some(Kind::Celeryd),
        _ if name == "celery" && folder.ends_with("default") => Some(Kind::Celeryd),
        _ => None,
    }
}

/// Reads a file of this kind. `environment` holds variables that are set from outside; any other variable takes its
/// default where the file gives it one, and is unknown where not.
pub fn read(
    kind: Kind,
    file: &str,
    bytes: &[u8],
    environment: &BTreeMap<String, String>,
) -> Processes {
    if !mentions_workers(bytes) {
        return Processes::default();
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    let whole = valid.len() == bytes.len();
    let text = if valid.len() < LARGEST { valid } else { "" };
    let starts = line_starts(text);
    let mut found = Found::new(File {
        name: file,
        text,
        starts: &starts,
    });
    if valid.len() >= LARGEST {
        found.unknown_at(0, 0, "the file is larger than 1 MiB");
        return found.processes;
    }
    if !whole {
        found.unknown_at(text.len(), text.len(), "the file is not UTF-8");
        return found.processes;
    }
    let mut variables = Variables::default();
    for (name, value) in environment {
        variables.export(name, Value::Known(Text::shown_at(value, 0)));
    }
    match kind {
        Kind::Procfile => procfile(&mut found, &variables),
        Kind::Compose => compose::read(&mut found, &variables),
        Kind::Dockerfile => dockerfile::read(&mut found, &variables),
        Kind::Systemd => systemd::read(&mut found, &variables),
        Kind::Supervisor => supervisor::read(&mut found, &variables),
        Kind::Shell => shell::script(&found.file.whole(), &variables, &mut found),
        Kind::Celeryd => celeryd::read(&mut found, &variables),
        Kind::Kubernetes => kubernetes::read(&mut found, &variables),
    }
    if found.is_full() {
        found.unknown_at(0, 0, format!("the file has more than {MOST} workers"));
    }
    found.processes
}

/// Whether the file can say anything about workers. Most files can't, and are not taken apart.
fn mentions_workers(bytes: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(bytes, word).is_some();
    has(b"celery") || has(b"worker") || has(b"CELERY")
}

/// Each line is a name and a command, which a shell runs.
fn procfile(found: &mut Found<'_>, variables: &Variables) {
    for line in found.file.lines() {
        if line.as_str().trim_start().starts_with('#') {
            continue;
        }
        if let Some((_, command)) = line.split_once(':') {
            shell::script(&command.trimmed(), variables, found);
        }
    }
}

/// Where the name of a variable ends that a text starts with, after `$(` or the like.
fn closing(text: &str, open: &str) -> Option<usize> {
    const LONGEST_NAME: usize = 256;
    let mut name = text.bytes().take(LONGEST_NAME);
    name.position(|byte| byte == b')')
        .filter(|_| text.starts_with(open))
}

/// What has been found so far, in which file.
struct Found<'a> {
    file: File<'a>,
    processes: Processes,
    /// How deep shells stand in shells.
    depth: usize,
}

impl<'a> Found<'a> {
    fn new(file: File<'a>) -> Self {
        Self {
            file,
            processes: Processes::default(),
            depth: 0,
        }
    }

    fn unknown_at(&mut self, from: usize, to: usize, why: impl Into<String>) {
        let location = self.file.location(from, to);
        self.push_unknown(location, why.into());
    }

    fn unknown(&mut self, text: &Text, why: impl Into<String>) {
        let location = self.file.location_of(text);
        self.push_unknown(location, why.into());
    }

    fn push_unknown(&mut self, location: Location, why: String) {
        let unknown = Unknown { why, location };
        if self.processes.unknown.last() != Some(&unknown) {
            self.processes.unknown.push(unknown);
        }
    }

    /// Whether there are so many already that more are not looked for, which is then said.
    fn is_full(&self) -> bool {
        self.processes.workers.len() >= MOST || self.processes.unknown.len() >= MOST
    }
}
