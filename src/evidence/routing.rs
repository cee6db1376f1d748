//! What a project's files say of routing: apps with their settings and tasks, the workers that are started, and what a
//! broker has. Plain data with places in files; what could not be known is a [`Gap`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rabbitmq::AmqpBinding;
pub use crate::celery::routing::{Config, Gap, Known, Options};

/// A piece of text in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// The file's path, relative to the folder that was checked, with `/` between its parts.
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

/// Everything that was read about routing.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// The apps of the project, each judged for itself.
    pub apps: Vec<App>,
    /// The workers that are started.
    pub workers: Workers,
    /// What the broker has, where that was given.
    pub broker: Option<BrokerFacts>,
    /// Files that could not be read.
    pub unread: Vec<Gap>,
    /// Comments that accept findings.
    pub ignores: Vec<InlineIgnore>,
    /// How many Python files there are.
    pub python_files: usize,
}

/// A comment `# celery-doctor: ignore[CODE] reason`. It holds for its line, and standing alone for the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineIgnore {
    /// The file.
    pub file: String,
    /// The line that it holds for.
    pub line: u32,
    /// Codes, names or families, as they are written.
    pub codes: Vec<String>,
    /// Why.
    pub reason: String,
}

/// One Celery app.
#[derive(Debug, Clone, Default)]
pub struct App {
    /// As `celery -A` takes it, such as `shop.celery:app`.
    pub name: String,
    /// Where it is made; none for an export of settings.
    pub location: Option<Location>,
    /// The settings that decide where tasks go.
    pub config: Config,
    /// Where each entry of `task_routes` stands, by its id.
    pub routes: Vec<RoutePlace>,
    /// Where each queue of `task_queues` stands, by its id.
    pub queues: Vec<Option<Location>>,
    /// Where settings stand, by their new names.
    pub settings: BTreeMap<String, Location>,
    /// Its tasks, and the shared ones that it takes.
    pub tasks: Vec<Task>,
    /// Calls that say where a task goes, and entries of the beat schedule.
    pub calls: Vec<Call>,
    /// Names under which the project may define tasks as well.
    pub maybe_tasks: BTreeSet<String>,
    /// Places where tasks with unknown names are made.
    pub unknown_tasks: Vec<Gap>,
    /// The first parts of the names of the project's modules.
    pub packages: BTreeSet<String>,
}

/// Where an entry of `task_routes` stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutePlace {
    /// Its pattern.
    pub pattern: Option<Location>,
    /// Its queue, or where it has none its route.
    pub target: Option<Location>,
}

/// A task that the project defines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// The names that it would have if its module were imported by another path.
    pub aliases: Vec<String>,
    /// Its options, as far as they say where it goes.
    pub options: Options,
    /// Where it is defined.
    pub location: Option<Location>,
    /// Where its queue, or its exchange, is named.
    pub target: Option<Location>,
}

/// A call that says where a task goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The task's name.
    pub task: Known<String>,
    /// The options of the call over those of the task.
    pub options: Options,
    /// Whether it is an entry of the beat schedule.
    pub beat: bool,
    /// The call, or the entry.
    pub location: Option<Location>,
    /// Where its queue, or its exchange, is named.
    pub target: Option<Location>,
}

/// The workers that a project starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workers {
    /// Those that were found.
    pub known: Vec<Worker>,
    /// What may start others.
    pub gaps: Vec<Gap>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// What it is called in reports: its place, or the flag that names it.
    pub name: String,
    /// `-A`; none where it is not told.
    pub app: Option<String>,
    /// `-Q`; none where it takes those of `task_queues`.
    pub queues: Known<Option<Vec<String>>>,
    /// `-X`.
    pub excluded: Known<Vec<String>>,
    /// Where its queues are named, or its command stands.
    pub location: Option<Location>,
}

/// What a broker has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BrokerFacts {
    /// Where that is known from.
    pub source: String,
    /// Queues by name.
    pub queues: BTreeMap<String, QueueFacts>,
    /// Exchanges by name, with their types.
    pub exchanges: BTreeMap<String, String>,
    /// Bindings, those of the default exchange left out.
    pub bindings: Vec<AmqpBinding>,
    /// Whether these are all queues, exchanges and bindings of the virtual host.
    pub whole: bool,
    /// Queues with consumers now; none where that is not known.
    pub consumed: Option<BTreeSet<String>>,
    /// Why nothing of it is known, where it could not be read.
    pub unread: Option<String>,
}

/// A queue that a broker has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueFacts {
    /// `durable`, where it is known.
    pub durable: Option<bool>,
    /// `auto_delete`, where it is known.
    pub auto_delete: Option<bool>,
    /// Its arguments, where they are known.
    pub arguments: Option<BTreeMap<String, Value>>,
    /// What policies set, keys without `x-`; none where that is not known.
    pub policy: Option<BTreeMap<String, Value>>,
}
