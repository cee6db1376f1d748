//! What a rule says.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Rule;
use super::command::{Command, Commands};
use crate::evidence::StoredResult;
pub use crate::evidence::routing::Location;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing, no harm by itself.
    Info,
    /// Tasks will be lost, stuck or doomed under conditions that do occur.
    Warning,
    /// Tasks are lost, stuck or doomed now.
    Error,
}

impl Severity {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Puts the app's name where a command for Celery leaves it open. Only there: in a name the same letters mean nothing.
pub(super) fn name_app(text: &mut String, app: &str) {
    const OPEN: &str = "celery -A APP ";
    let named = format!("celery -A {} ", super::plain::key(app));
    if let Some(rest) = text.strip_prefix(OPEN) {
        *text = format!("{named}{rest}");
    } else {
        // In a sentence commands stand between backticks.
        *text = text.replace(&format!("`{OPEN}"), &format!("`{named}"));
    }
}

/// One finding, with its evidence and its remedy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule's code.
    pub code: String,
    /// The rule's name.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence with the names in it; starts with a small letter or a name, and has no full stop.
    pub message: String,
    /// The facts that prove it.
    pub evidence: BTreeMap<String, Value>,
    /// Commands that show it by hand, each a line for a shell.
    pub confirm: Vec<String>,
    /// Where else to look, in words: at logs and at processes.
    #[serde(default)]
    pub look: Vec<String>,
    /// What to do, in words.
    pub remedy: String,
    /// Commands that do it, each a line for a shell.
    #[serde(default)]
    pub remedy_commands: Vec<String>,
    /// What it is about: queue, task, worker, exchange.
    pub subject: BTreeMap<String, String>,
    /// The tasks concerned, ten at most.
    pub task_ids: Vec<String>,
    /// How many times it was seen.
    pub count: u64,
    /// The text that it is about, where it is about a file.
    pub location: Option<Location>,
}

impl Finding {
    /// A finding of a rule, to be completed by the methods below.
    pub fn of(rule: &Rule, message: impl Into<String>) -> Self {
        Self {
            code: rule.code.to_owned(),
            name: rule.name.to_owned(),
            severity: rule.severity,
            message: message.into(),
            evidence: BTreeMap::new(),
            confirm: Vec::new(),
            look: Vec::new(),
            remedy: String::new(),
            remedy_commands: Vec::new(),
            subject: BTreeMap::new(),
            task_ids: Vec::new(),
            count: 1,
            location: None,
        }
    }

    /// Adds a fact that proves it.
    #[must_use]
    pub fn evidence(mut self, name: &str, fact: impl Into<Value>) -> Self {
        self.evidence.insert(name.to_owned(), fact.into());
        self
    }

    /// Adds when a task ended, where its result says so.
    #[must_use]
    pub fn date_done(self, result: &StoredResult) -> Self {
        match result.doc.date_done {
            Some(done) => self.evidence("date_done", done.to_string()),
            None => self,
        }
    }

    /// Adds commands that show it by hand.
    #[must_use]
    pub(crate) fn confirm(mut self, commands: impl Into<Commands>) -> Self {
        let commands = commands.into().into_iter().map(String::from);
        self.confirm.extend(commands);
        self
    }

    /// Says where else to look.
    #[must_use]
    pub fn look(mut self, text: impl Into<String>) -> Self {
        self.look.push(text.into());
        self
    }

    /// Adds a command that does what the remedy says.
    #[must_use]
    pub(crate) fn mend(mut self, command: impl Into<Option<Command>>) -> Self {
        let command: Option<Command> = command.into();
        self.remedy_commands.extend(command.map(String::from));
        self
    }

    /// The remedy in one text: words, and behind them each command on a line of its own.
    pub fn whole_remedy(&self) -> String {
        let words = std::iter::once(self.remedy.as_str()).filter(|words| !words.is_empty());
        let commands = self.remedy_commands.iter().map(String::as_str);
        words.chain(commands).collect::<Vec<_>>().join("\n")
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = text.into();
        self
    }

    /// Says what it is about.
    #[must_use]
    pub fn subject(mut self, kind: &str, name: impl Into<String>) -> Self {
        self.subject.insert(kind.to_owned(), name.into());
        self
    }

    /// Says which text it is about.
    #[must_use]
    pub fn location(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// Names a task concerned.
    #[must_use]
    pub fn task(mut self, id: &str) -> Self {
        self.task_ids.push(id.to_owned());
        self
    }

    /// Names the app in commands for Celery, where the user told which it is.
    pub(crate) fn name_app(&mut self, app: &str) {
        name_app(&mut self.remedy, app);
        for command in self.confirm.iter_mut().chain(&mut self.remedy_commands) {
            name_app(command, app);
        }
    }

    /// Root causes come before what follows from them: a broker that takes no writes, then that no worker is there.
    fn rank(&self) -> u8 {
        match self.name.as_str() {
            "writes-refused" => 0,
            "no-workers" => 1,
            _ => 2,
        }
    }

    /// The order in reports: the worst first, among these root causes first, then by code, then by place in a file, then
    /// by text.
    pub fn order(&self, other: &Self) -> Ordering {
        other
            .severity
            .cmp(&self.severity)
            .then_with(|| self.rank().cmp(&other.rank()))
            .then_with(|| self.code.cmp(&other.code))
            .then_with(|| self.location.cmp(&other.location))
            .then_with(|| self.message.cmp(&other.message))
    }
}
