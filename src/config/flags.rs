//! The flags that become settings.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::duration::{parse_duration, parse_timeout};
use super::peek::parse_peek;
use super::secret::Secret;

/// The heading of flags about connections.
pub(crate) const CONNECTION: &str = "Connection";
/// The heading of flags about how much is read.
const EXTENT: &str = "Extent";
/// The heading of flags about reports.
pub(crate) const OUTPUT: &str = "Output";

/// How to reach the deployment. Each is also an environment variable, and a key in celery-doctor.toml.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = CONNECTION)]
pub(crate) struct ConnectionArgs {
    /// Broker, as Celery's `broker_url`
    #[arg(short = 'b', long, value_name = "URL")]
    pub broker: Option<Secret>,
    /// File with the broker's URL, or - for standard input: other users can see the flags of a process
    #[arg(long, value_name = "FILE", conflicts_with = "broker")]
    pub broker_file: Option<PathBuf>,
    /// The app that commands in the report name, as for `celery -A`
    #[arg(short = 'A', long, value_name = "APP", help_heading = OUTPUT)]
    pub app: Option<String>,
    /// Result backend, as Celery's `result_backend`
    #[arg(long, value_name = "URL")]
    pub result_backend: Option<Secret>,
    /// Visibility timeout, such as 1h; asked of the workers when left out
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub visibility_timeout: Option<Duration>,
    /// `global_keyprefix` of the broker's transport options
    #[arg(long, value_name = "PREFIX")]
    pub key_prefix: Option<String>,
    /// `global_keyprefix` of the result backend's transport options
    #[arg(long, value_name = "PREFIX")]
    pub result_key_prefix: Option<String>,
    /// A queue to look into besides those found; may be repeated
    #[arg(long = "queue", value_name = "NAME")]
    pub queues: Vec<String>,
    /// How long a worker may stay silent [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub timeout: Option<Duration>,
    /// Ask no workers, and write nothing at all to the broker
    #[arg(long)]
    pub no_workers: bool,
    /// The master that the sentinels watch
    #[arg(long, value_name = "NAME")]
    pub master_name: Option<String>,
    /// File with the certificates to trust, in place of the system's
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// File with the client's certificate
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// File with the client's key
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// RabbitMQ's management API [default: that of the broker's host, at port 15672, or 15671 with TLS]
    #[arg(long, value_name = "URL")]
    pub management: Option<Secret>,
    /// Look into RabbitMQ's queues, at most N messages in each [default without N: 1000]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1000", value_parser = peek)]
    pub peek: Option<u64>,
    /// The deployment of the settings file to read, where it has several
    #[arg(long, value_name = "NAME")]
    pub deployment: Option<String>,
    /// Settings file, in place of celery-doctor.toml in this directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep and show the arguments and results of tasks
    #[arg(long, help_heading = OUTPUT)]
    pub show_args: bool,
}

/// How far an audit goes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = EXTENT)]
pub(crate) struct ExtentArgs {
    /// Look a second time after so long, to tell what moves
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub sample: Option<Duration>,
    /// End with what was read by then, and exit code 3 where that is not enough
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub deadline: Option<Duration>,
    /// Look through the results where their database has at most so many keys
    #[arg(long, value_name = "KEYS", default_value_t = 100_000)]
    pub result_keys: u64,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|expected| format!("expected {expected}"))
}

fn timeout(text: &str) -> Result<Duration, String> {
    parse_timeout(text).map_err(|expected| format!("expected {expected}"))
}

fn peek(text: &str) -> Result<u64, String> {
    parse_peek(text).map_err(|expected| format!("expected {expected}"))
}
