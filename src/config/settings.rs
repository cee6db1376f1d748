//! The settings of one run: flags win over the environment, and the environment over `celery-doctor.toml`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, File, FileError};
use super::secret::Secret;
use super::url::{self, Broker, ResultBackend, UrlError, UrlOptions};
use crate::cli::args::ConnectionArgs;

/// How long a worker may stay silent when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer ones are mistakes, and would overflow a clock.
const MAX_TIMEOUT: Duration = Duration::from_hours(1);
const MAX_DURATION: Duration = Duration::from_hours(10 * 365 * 24);

/// Everything that is set from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `None` only from [`resolve_offline`].
    pub broker: Option<Given<Broker>>,
    /// `None`: nobody named one.
    pub result_backend: Option<Given<ResultBackend>>,
    /// `None`: ask the workers.
    pub visibility_timeout: Option<Duration>,
    /// `None`: none is known; an empty one says that there is none.
    pub key_prefix: Option<String>,
    pub result_key_prefix: Option<String>,
    pub queues: Vec<String>,
    pub timeout: Duration,
    pub no_workers: bool,
    pub show_args: bool,
    /// What was set and does not count, as sentences for the report.
    pub notes: Vec<String>,
}

/// A value read from a URL, with what may be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<T> {
    pub value: T,
    /// The URL, fit to be shown.
    pub masked: String,
    pub origin: Origin,
}

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    Environment(&'static str),
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "no broker given. Give one in one of these ways:\n  \
         a flag:       celery-doctor trace ID --broker redis://host:6379/0\n  \
         environment:  export CELERY_BROKER_URL=redis://host:6379/0\n  \
         {}:  broker = \"redis://host:6379/0\"",
        file::FILE_NAME
    )]
    NoBroker,
    #[error("{origin}")]
    Url { origin: Origin, source: UrlError },
    #[error("{variable}: expected {expected}")]
    Variable {
        variable: &'static str,
        expected: String,
    },
    #[error(
        "--tls-ca, --tls-cert and --tls-key are for TLS, and no URL asks for it. Write it with rediss://"
    )]
    TlsUnused,
    #[error("a client's certificate needs its key: give both, --tls-cert and --tls-key")]
    HalfCertificate,
    #[error(transparent)]
    File(#[from] FileError),
}

/// Finds the settings file (`--config`, `CELERY_DOCTOR_CONFIG`, or `celery-doctor.toml` in `dir`).
pub fn find_file(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    dir: &Path,
) -> Result<Option<File>, SettingsError> {
    let from_env = set(env, "CELERY_DOCTOR_CONFIG").map(PathBuf::from);
    let given = flags.config.clone().or(from_env);
    Ok(file::find(given.as_deref(), dir)?)
}

/// The settings for reading a broker.
pub fn resolve(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<File>,
) -> Result<Settings, SettingsError> {
    let file = file.unwrap_or_default();
    let options = url_options(flags, env, &file);
    if options.tls_cert.is_some() != options.tls_key.is_some() {
        return Err(SettingsError::HalfCertificate);
    }
    let mut settings = resolve_offline(flags, env, Some(file.clone()))?;

    let (text, origin) = pick(
        flags.broker.as_ref(),
        "--broker",
        env,
        "CELERY_BROKER_URL",
        file.broker.as_ref(),
        &file,
    )
    .ok_or(SettingsError::NoBroker)?;
    let broker = given(&text, origin, |text| url::parse_broker(text, &options))?;
    let Broker::Redis(server) = &broker.value;
    let mut has_tls = server.tls.is_some();
    if matches!(
        server.endpoint,
        url::Endpoint::Tcp { .. } | url::Endpoint::Socket { .. }
    ) && text.expose().contains(';')
    {
        settings
            .notes
            .push("The broker's URL lists several servers: only the first was read.".to_owned());
    }
    settings.broker = Some(broker);

    if let Some((text, origin)) = pick(
        flags.result_backend.as_ref(),
        "--result-backend",
        env,
        "CELERY_RESULT_BACKEND",
        file.result_backend.as_ref(),
        &file,
    ) {
        let backend = given(&text, origin, |text| {
            url::parse_result_backend(text, &options)
        })?;
        has_tls |= matches!(&backend.value, ResultBackend::Redis(server) if server.tls.is_some());
        settings.result_backend = Some(backend);
    }
    let has_tls_files = options.tls_ca.is_some() || options.tls_cert.is_some();
    if has_tls_files && !has_tls {
        return Err(SettingsError::TlsUnused);
    }
    Ok(settings)
}

/// The settings for a snapshot file: those that judge, with no server in them.
pub fn resolve_offline(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<File>,
) -> Result<Settings, SettingsError> {
    let file = file.unwrap_or_default();
    let queues = if !flags.queues.is_empty() {
        flags.queues.clone()
    } else if let Some(names) = set(env, "CELERY_DOCTOR_QUEUE") {
        names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    } else {
        file.queues.unwrap_or_default()
    };
    let visibility_timeout = match flags.visibility_timeout {
        Some(timeout) => Some(timeout),
        None => parsed(env, "CELERY_DOCTOR_VISIBILITY_TIMEOUT", parse_duration)?
            .or(file.visibility_timeout),
    };
    let timeout = match flags.timeout {
        Some(timeout) => Some(timeout),
        None => parsed(env, "CELERY_DOCTOR_TIMEOUT", parse_timeout)?.or(file.timeout),
    };
    let no_workers = flags.no_workers
        || parsed(env, "CELERY_DOCTOR_NO_WORKERS", parse_switch)?
            .or(file.no_workers)
            .unwrap_or(false);
    Ok(Settings {
        broker: None,
        result_backend: None,
        visibility_timeout,
        key_prefix: flags
            .key_prefix
            .clone()
            .or_else(|| set(env, "CELERY_DOCTOR_KEY_PREFIX"))
            .or(file.key_prefix),
        result_key_prefix: flags
            .result_key_prefix
            .clone()
            .or_else(|| set(env, "CELERY_DOCTOR_RESULT_KEY_PREFIX"))
            .or(file.result_key_prefix),
        queues,
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        no_workers,
        show_args: flags.show_args,
        notes: Vec::new(),
    })
}

/// A duration with units, above zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    bounded(text, MAX_DURATION)
}

/// A duration that somebody waits for.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    bounded(text, MAX_TIMEOUT)
}

fn bounded(text: &str, max: Duration) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if !duration.is_zero() && duration <= max => Ok(duration),
        _ => Err(format!(
            "a duration with units, such as 90s or 1h 30m, above zero and at most {}",
            humantime::format_duration(max)
        )),
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// A variable; an empty one counts as not set.
fn set(env: &dyn Fn(&str) -> Option<String>, variable: &str) -> Option<String> {
    env(variable).filter(|value| !value.trim().is_empty())
}

fn parsed<T>(
    env: &dyn Fn(&str) -> Option<String>,
    variable: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, SettingsError> {
    set(env, variable)
        .map(|value| parse(&value))
        .transpose()
        .map_err(|expected| SettingsError::Variable { variable, expected })
}

fn url_options(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: &File,
) -> UrlOptions {
    let path = |flag: &Option<PathBuf>, variable: &str, in_file: &Option<PathBuf>| {
        flag.clone()
            .or_else(|| set(env, variable).map(PathBuf::from))
            .or_else(|| in_file.clone())
    };
    UrlOptions {
        master_name: flags
            .master_name
            .clone()
            .or_else(|| set(env, "CELERY_DOCTOR_MASTER_NAME"))
            .or_else(|| file.master_name.clone()),
        tls_ca: path(&flags.tls_ca, "CELERY_DOCTOR_TLS_CA", &file.tls_ca),
        tls_cert: path(&flags.tls_cert, "CELERY_DOCTOR_TLS_CERT", &file.tls_cert),
        tls_key: path(&flags.tls_key, "CELERY_DOCTOR_TLS_KEY", &file.tls_key),
    }
}

fn pick(
    flag: Option<&Secret>,
    flag_name: &'static str,
    env: &dyn Fn(&str) -> Option<String>,
    variable: &'static str,
    in_file: Option<&Secret>,
    file: &File,
) -> Option<(Secret, Origin)> {
    let flag = flag.map(|url| (url.clone(), Origin::Flag(flag_name)));
    flag.or_else(|| {
        set(env, variable).map(|url| (Secret::from(url), Origin::Environment(variable)))
    })
    .or_else(|| in_file.map(|url| (url.clone(), Origin::File(file.path.clone()))))
}

fn given<T>(
    text: &Secret,
    origin: Origin,
    parse: impl Fn(&str) -> Result<T, UrlError>,
) -> Result<Given<T>, SettingsError> {
    match parse(text.expose()) {
        Ok(value) => Ok(Given {
            value,
            masked: url::masked(text.expose()),
            origin,
        }),
        Err(source) => Err(SettingsError::Url { origin, source }),
    }
}
