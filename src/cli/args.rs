//! What the command line accepts. Values are only parsed here; `config` merges them with environment and file.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::flags::{CONNECTION, ConnectionArgs, ExtentArgs, OUTPUT};
use crate::config::policy::{PolicyArgs, ThresholdArgs};
use crate::config::secret::Secret;
use crate::diagnose::registry;

/// Says where a lost Celery task is, or how it was lost
#[derive(Debug, Parser)]
#[command(
    name = "celery-doctor",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = MORE
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Broker, before the command as celery has it
    #[arg(short = 'b', long, value_name = "URL", hide = true)]
    pub broker: Option<Secret>,
    /// App, before the command as celery has it
    #[arg(short = 'A', long, value_name = "APP", hide = true)]
    pub app: Option<String>,
    #[command(flatten)]
    pub global: GlobalArgs,
}

impl Cli {
    /// Moves what stands before the command to where it belongs; what stands behind the command wins.
    pub(super) fn settled(mut self) -> Result<Self, clap::Error> {
        let (broker, app) = (self.broker.take(), self.app.take());
        let connection = match &mut self.command {
            Command::Trace(args) => &mut args.connection,
            Command::Audit(args) => &mut args.connection,
            Command::Snapshot(args) => &mut args.connection,
            _ if broker.is_none() && app.is_none() => return Ok(self),
            _ => {
                return Err(Self::command().error(
                    ErrorKind::ArgumentConflict,
                    "-b and -A before the command are for trace, audit and snapshot",
                ));
            }
        };
        if connection.broker_file.is_none() {
            connection.broker = connection.broker.take().or(broker);
        }
        connection.app = connection.app.take().or(app);
        Ok(self)
    }
}

/// Examples, exit codes and the environment.
const MORE: &str = "\
Examples:
  celery-doctor trace 6f1c0e5a-0001-4000-8000-6b696c6c6564 -b redis://localhost:6379/0
  grep shop.add worker.log | celery-doctor trace -
  celery-doctor audit -q --deadline 50s --max-backlog 10000
  celery-doctor routes check
  celery-doctor explain CD101

Exit codes:
  0  the tasks are accounted for; nothing was found at or above --fail-on
  1  a task is not accounted for; something was found at or above --fail-on
  2  wrong usage or settings
  3  something could not be read that could have told of trouble

Environment:
  CELERY_BROKER_URL, CELERY_RESULT_BACKEND  the broker and the result backend
  CELERY_DOCTOR_...   any other flag of a connection, such as CELERY_DOCTOR_KEY_PREFIX
  NO_COLOR            no colours";

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, for as long as the process runs"
)]
pub(super) enum Command {
    /// Follow tasks through publish, queue, unacked, worker and result
    Trace(TraceArgs),
    /// Look at everything, and report all that is lost, stuck, or waiting to be
    Audit(AuditArgs),
    /// Write all the evidence to a file, to be judged later or elsewhere
    Snapshot(SnapshotArgs),
    /// Check and explain where tasks go, by a project's files
    Routes(RoutesArgs),
    /// Say what a finding means, why it happens, how to confirm and mend it
    Explain(ExplainArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE_SETTINGS_COME_FROM)]
pub(super) struct TraceArgs {
    /// Ids of the tasks, as they are pasted; - takes them out of standard input, a log for example
    #[arg(value_name = "ID", required_unless_present = "exact")]
    pub ids: Vec<String>,
    /// An id, to be taken exactly as it stands; may be repeated
    #[arg(long = "id", value_name = "ID")]
    pub exact: Vec<String>,
    /// Read this file, written by the snapshot command, in place of a broker
    #[arg(long, value_name = "FILE", help_heading = CONNECTION)]
    pub snapshot: Option<PathBuf>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub output: OutputArgs<TraceFormat>,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE_SETTINGS_COME_FROM)]
pub(super) struct AuditArgs {
    /// Read this file, written by the snapshot command without ids, in place of a broker
    #[arg(long, value_name = "FILE", help_heading = CONNECTION)]
    pub snapshot: Option<PathBuf>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub extent: ExtentArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub thresholds: ThresholdArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE_SETTINGS_COME_FROM)]
pub(super) struct SnapshotArgs {
    /// Ids of tasks to follow, as they are pasted; - takes them out of standard input
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// An id, to be taken exactly as it stands; may be repeated
    #[arg(long = "id", value_name = "ID")]
    pub exact: Vec<String>,
    /// Where to write the evidence
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Debug, Args)]
pub(super) struct RoutesArgs {
    #[command(subcommand)]
    pub command: RoutesCommand,
}

/// The commands about routing.
#[derive(Debug, Subcommand)]
pub(super) enum RoutesCommand {
    /// Find routing black holes before they are deployed
    Check(RoutesCheckArgs),
    /// Say where a task goes, by which rule, and who would consume it
    Explain(RoutesExplainArgs),
    /// Draw where tasks go, as Mermaid or DOT
    Graph(RoutesGraphArgs),
}

#[derive(Debug, Args)]
pub(super) struct RoutesCheckArgs {
    /// The project's folder
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    #[command(flatten)]
    pub read: RoutesReadArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct RoutesExplainArgs {
    /// Names of tasks
    #[arg(value_name = "TASK", required = true)]
    pub tasks: Vec<String>,
    /// The project's folder
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    #[command(flatten)]
    pub read: RoutesReadArgs,
    #[command(flatten)]
    pub output: OutputArgs<RoutesFormat>,
}

#[derive(Debug, Args)]
pub(super) struct RoutesGraphArgs {
    /// The project's folder
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Graphviz's DOT in place of Mermaid
    #[arg(long)]
    pub dot: bool,
    #[command(flatten)]
    pub read: RoutesReadArgs,
}

/// What is read besides the project's files, and in their place.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What is read")]
pub(super) struct RoutesReadArgs {
    /// Settings as plain JSON or TOML, in place of those in the project's Python
    #[arg(long, value_name = "FILE", conflicts_with = "app")]
    pub config: Option<PathBuf>,
    /// Run the project's Python and ask this app, named as for celery -A, for its settings
    #[arg(short = 'A', long, value_name = "APP")]
    pub app: Option<String>,
    /// The Python that has the project's packages, for --app
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    pub python: String,
    /// An environment variable, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The queues of a worker, as for celery worker -Q, in place of those in files; may be repeated
    #[arg(long, value_name = "QUEUES")]
    pub worker_queues: Vec<String>,
    /// An export of `RabbitMQ`'s definitions, which tells what the broker has
    #[arg(long, value_name = "FILE", conflicts_with_all = ["snapshot", "live"])]
    pub definitions: Option<PathBuf>,
    /// The virtual host of --definitions that counts, where there are several
    #[arg(long, value_name = "NAME", requires = "definitions")]
    pub vhost: Option<String>,
    /// A file written by the snapshot command, which tells what the broker has
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    pub snapshot: Option<PathBuf>,
    /// Ask the broker what it has
    #[arg(long)]
    pub live: bool,
    /// The broker for --live [default: `CELERY_BROKER_URL`, or that of celery-doctor.toml]
    #[arg(short = 'b', long, value_name = "URL", requires = "live")]
    pub broker: Option<Secret>,
}

/// A form of the report of `routes explain`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum RoutesFormat {
    #[default]
    Table,
    Json,
}

impl Form for RoutesFormat {
    fn is_nagios(self) -> bool {
        false
    }
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The code of a finding, such as CD101, or its name, such as no-consumer
    #[arg(
        value_name = "CODE|NAME",
        required_unless_present = "list",
        conflicts_with = "list",
        value_parser = NamesOfFindings,
        hide_possible_values = true
    )]
    pub finding: Option<String>,
    /// List all findings
    #[arg(long)]
    pub list: bool,
}

/// Any text, for which shells offer the codes and names of findings. What is none gets a better hint than clap's.
#[derive(Debug, Clone, Copy)]
struct NamesOfFindings;

impl TypedValueParser for NamesOfFindings {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let rules = registry::ALL.iter();
        let names = rules.flat_map(|rule| [rule.code, rule.name]);
        Some(Box::new(names.map(PossibleValue::new)))
    }
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    pub shell: Shell,
}

const WHERE_SETTINGS_COME_FROM: &str = "\
Settings come from flags, then from the environment (CELERY_BROKER_URL, CELERY_RESULT_BACKEND, and for the others \
CELERY_DOCTOR_ with the flag's name, such as CELERY_DOCTOR_KEY_PREFIX), then from celery-doctor.toml (keys named as \
the flags). Broker URLs: redis://, rediss://, redis+socket:///path?virtual_host=0, sentinel://a;sentinel://b with \
--master-name, amqp://, amqps://, pyamqp:// and lists of them as in amqp://a/vhost;amqp://b/vhost.
A URL given by a flag can be seen by other users of this machine in the list of processes: one with a password belongs into \
the environment, into a file (--broker-file FILE, or the settings file) or onto standard input (--broker-file -).";

/// Where reports go, and what the exit code says. `F` are the forms that the command has.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = OUTPUT)]
pub(super) struct OutputArgs<F: Form = Format> {
    /// Form of the report; may be repeated [default: table]
    #[arg(long = "format", value_enum, value_name = "FORMAT")]
    pub formats: Vec<F>,
    /// File for the report, or - for standard output; the first belongs to the first --format, and so on
    #[arg(long = "output", value_name = "FILE")]
    pub outputs: Vec<PathBuf>,
    /// Exit with 0 where it would be 1
    #[arg(long)]
    pub exit_zero: bool,
    /// Exit code as documented, or as monitoring plugins have it
    #[arg(long, value_enum, value_name = "STYLE", default_value_t)]
    pub exit_code_style: ExitCodeStyle,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = OUTPUT)]
pub(super) struct GlobalArgs {
    /// When to use colours
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub color: ColorChoice,
    /// Show findings and problems only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show more; may be repeated
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The forms of a command's report; the default is that without a flag.
pub(super) trait Form: ValueEnum + Copy + Default + Send + Sync + 'static {
    /// Whether a monitoring program reads the exit code together with it.
    fn is_nagios(self) -> bool;
}

/// A form of the report of a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum TraceFormat {
    #[default]
    Table,
    Json,
    Jsonl,
}

/// A form of the report of findings. Not told on the variants, where it would make the help of all flags three lines long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    #[default]
    Table,
    Json,
    Jsonl,
    Sarif,
    Junit,
    Prometheus,
    Github,
    Gitlab,
    Markdown,
    Nagios,
}

impl Form for TraceFormat {
    fn is_nagios(self) -> bool {
        false
    }
}

impl Form for Format {
    fn is_nagios(self) -> bool {
        self == Self::Nagios
    }
}

/// When colours are used. `auto`: on a terminal, unless `NO_COLOR` is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

/// The meaning of the exit code. `plain`: 0 fine, 1 found, 2 wrong usage, 3 incomplete; `nagios`: 0 OK, 1 WARNING,
/// 2 CRITICAL, 3 UNKNOWN. Not on the variants, where it would make the help of all flags three lines long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ExitCodeStyle {
    #[default]
    Plain,
    Nagios,
}

/// One report to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target<F = Format> {
    pub format: F,
    /// `None`: standard output.
    pub file: Option<PathBuf>,
}

/// Arguments that clap takes and that make no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgsError {
    #[error(
        "there are more --output than --format: give each --output its --format, in the same order"
    )]
    OutputWithoutFormat,
    #[error(
        "only one report can go to standard output: give the others an --output FILE, in the order of the --format"
    )]
    TwoOnStdout,
    #[error("two reports would be written to {}: give each its own --output FILE", .0.display())]
    SameFile(PathBuf),
    #[error(
        "--format nagios on standard output needs --exit-code-style nagios: a monitoring program believes the exit code, \
         by which 1 is WARNING and 2 CRITICAL"
    )]
    NagiosWithoutItsCodes,
}

impl<F: Form> OutputArgs<F> {
    /// The reports to write: the n-th `--output` belongs to the n-th `--format`. A format without an output goes to
    /// standard output, as does one whose output is `-`; at most one may. Without any `--format` there is one table.
    pub(super) fn targets(&self) -> Result<Vec<Target<F>>, ArgsError> {
        let default = [F::default()];
        let formats: &[F] = if self.formats.is_empty() {
            &default
        } else {
            &self.formats
        };
        if self.outputs.len() > formats.len() {
            return Err(ArgsError::OutputWithoutFormat);
        }
        let mut targets: Vec<Target<F>> = Vec::new();
        for (n, format) in formats.iter().enumerate() {
            let file = self
                .outputs
                .get(n)
                .filter(|file| file.as_os_str() != "-")
                .cloned();
            if targets.iter().any(|target| target.file == file) {
                return Err(file.map_or(ArgsError::TwoOnStdout, ArgsError::SameFile));
            }
            if file.is_none() && format.is_nagios() && self.exit_code_style == ExitCodeStyle::Plain
            {
                return Err(ArgsError::NagiosWithoutItsCodes);
            }
            targets.push(Target {
                format: *format,
                file,
            });
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests;
