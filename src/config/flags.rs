//! The flags that become settings.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::duration::{parse_duration, parse_timeout};
use super::peek::parse_peek;
use super::secret::Secret;

/// The heading of flags about connections.
pub(crate) const CONNECTION: &str = "Connection";
/// The heading of flags about reports.
pub(crate) const OUTPUT: &str = "Output";

/// How to reach the deployment. Each is also an environment variable, and a key in celery-doctor.toml.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = CONNECTION)]
pub(crate) struct ConnectionArgs {
    /// Broker, as Celery's `broker_url`
    #[arg(long, value_name = "URL")]
    pub broker: Option<Secret>,
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
    /// The deployment of the settings file to read, where it has several
    #[arg(long, value_name = "NAME")]
    pub deployment: Option<String>,
    /// RabbitMQ's management API [default: that of the broker's host, at port 15672, or 15671 with TLS]
    #[arg(long, value_name = "URL")]
    pub management: Option<Secret>,
    /// Look into RabbitMQ's queues, at most N messages in each [default without N: 1000]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1000", value_parser = peek)]
    pub peek: Option<u64>,
    /// Settings file, in place of celery-doctor.toml in this directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep and show the arguments and results of tasks
    #[arg(long, help_heading = OUTPUT)]
    pub show_args: bool,
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
