//! The settings of one run: flags win over the environment, and the environment over `celery-doctor.toml`.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::deployments;
use super::duration::{parse_duration, parse_timeout};
use super::file::{self, File, FileError};
use super::flags::ConnectionArgs;
use super::input;
use super::peek::parse_peek;
use super::secret::Secret;
use super::url::{self, Broker, ManagementServer, ResultBackend, UrlError, UrlOptions};

/// How long a worker may stay silent when nothing else is said.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// No URL is longer.
const MAX_URL_BYTES: u64 = 1024 * 1024;

/// Everything that is set from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `None` only from [`resolve_offline`].
    pub broker: Option<Given<Broker>>,
    /// `None`: nobody named one.
    pub result_backend: Option<Given<ResultBackend>>,
    /// `None`: nobody named one, and that of the broker's host is tried ([`ManagementServer::guessed`]).
    pub management: Option<ManagementServer>,
    /// Messages of each queue to look at; `None`: look into none.
    pub peek: Option<u64>,
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
pub(crate) struct Given<T> {
    pub value: T,
    /// The URL, fit to be shown.
    pub masked: String,
    pub origin: Origin,
}

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
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
pub(crate) enum SettingsError {
    #[error(
        "no broker given. Give one in one of these ways:\n  \
         a flag:       celery-doctor trace ID --broker redis://host:6379/0\n  \
         environment:  export CELERY_BROKER_URL=redis://host:6379/0\n  \
         {}:  broker = \"redis://host:6379/0\"",
        file::FILE_NAME
    )]
    NoBroker,
    #[error("no broker given, and there are several deployments in {}. Choose one: --deployment {names}", path.display())]
    NoDeployment { path: PathBuf, names: String },
    #[error("no deployment {wanted} in {}{hint}", path.display())]
    UnknownDeployment {
        path: PathBuf,
        wanted: String,
        hint: String,
    },
    #[error("--deployment {0}: there is no settings file. Name one with --config FILE")]
    NoFile(String),
    #[error("--broker-file {}: it can't be used", path.display())]
    BrokerFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{origin}")]
    Url { origin: Origin, source: UrlError },
    #[error("{variable}: expected {expected}")]
    Variable {
        variable: &'static str,
        expected: String,
    },
    #[error(
        "--tls-ca, --tls-cert and --tls-key are for TLS, and no URL asks for it. Write it with rediss://, amqps:// or https://"
    )]
    TlsUnused,
    #[error("a client's certificate needs its key: give both, --tls-cert and --tls-key")]
    HalfCertificate,
    #[error(transparent)]
    File(#[from] FileError),
}

/// Finds the settings file (`--config`, `CELERY_DOCTOR_CONFIG`, or `celery-doctor.toml` in `dir`), and in it the
/// deployment that was chosen (`--deployment`, `CELERY_DOCTOR_DEPLOYMENT`), if one was.
pub(crate) fn find_file(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    dir: &Path,
) -> Result<Option<File>, SettingsError> {
    let from_env = set(env, "CELERY_DOCTOR_CONFIG").map(PathBuf::from);
    let given = flags.config.clone().or(from_env);
    let file = file::find(given.as_deref(), dir)?;
    let chosen = flags.deployment.clone();
    match chosen.or_else(|| set(env, "CELERY_DOCTOR_DEPLOYMENT")) {
        None => Ok(file),
        Some(name) => deployments::chosen(file, &name).map(Some),
    }
}

/// The settings for reading a broker.
pub(crate) fn resolve(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<File>,
) -> Result<Settings, SettingsError> {
    let file = file.unwrap_or_default();
    let env = &deployments::environment(env, file.chosen.as_ref());
    let options = url_options(flags, env, &file);
    if options.tls_cert.is_some() != options.tls_key.is_some() {
        return Err(SettingsError::HalfCertificate);
    }
    let mut settings = resolve_offline(flags, env, Some(file.clone()))?;

    let from_file = flags.broker_file.as_deref().map(broker_file).transpose()?;
    let (flag, flag_name) = match &from_file {
        Some(url) => (Some(url), "--broker-file"),
        None => (flags.broker.as_ref(), "--broker"),
    };
    let (text, origin) = pick(
        flag,
        flag_name,
        env,
        "CELERY_BROKER_URL",
        file.broker.as_ref(),
        &file,
    )
    .ok_or_else(|| deployments::no_broker(&file))?;
    let broker = given(&text, origin, |text| url::parse_broker(text, &options))?;
    let mut has_tls = match &broker.value {
        Broker::Redis(server) => {
            if matches!(
                server.endpoint,
                url::Endpoint::Tcp { .. } | url::Endpoint::Socket { .. }
            ) && text.expose().contains(';')
            {
                settings.notes.push(
                    "The broker's URL lists several servers: only the first was read.".to_owned(),
                );
            }
            server.tls.is_some()
        }
        Broker::Amqp(servers) => servers.iter().any(|server| server.tls.is_some()),
    };
    settings.management = management(flags, env, &file, &broker.value, &options)?;
    has_tls |= (settings.management.as_ref()).is_some_and(|management| management.tls.is_some());
    if matches!(broker.value, Broker::Redis(_)) {
        settings.notes.extend(unused_for_redis(flags));
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

/// The URL in a file, or on standard input.
fn broker_file(path: &Path) -> Result<Secret, SettingsError> {
    let read = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let stdin = std::io::stdin().lock();
        stdin
            .take(MAX_URL_BYTES)
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    } else {
        input::bytes(path, MAX_URL_BYTES)
    };
    let failed = |source| SettingsError::BrokerFile {
        path: path.to_owned(),
        source,
    };
    let text = String::from_utf8(read.map_err(failed)?).map_err(|_| {
        let what = "it is no text";
        failed(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
    })?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    if let (Some(url), None) = (lines.next(), lines.next()) {
        return Ok(Secret::from(url));
    }
    let what = "expected one line with a URL";
    Err(failed(std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        what,
    )))
}

/// The settings for a snapshot file: those that judge, with no server in them.
pub(crate) fn resolve_offline(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<File>,
) -> Result<Settings, SettingsError> {
    let file = file.unwrap_or_default();
    let chosen = file.chosen.clone();
    let env = &deployments::environment(env, chosen.as_ref());
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
    let peek = match flags.peek {
        Some(peek) => Some(peek),
        None => parsed(env, "CELERY_DOCTOR_PEEK", parse_peek)?.or(file.peek),
    };
    Ok(Settings {
        broker: None,
        result_backend: None,
        management: None,
        peek: peek.filter(|messages| *messages > 0),
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

/// The management API that somebody named. Nothing is read of it, and no password asked for, where the broker is Redis.
fn management(
    flags: &ConnectionArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: &File,
    broker: &Broker,
    options: &UrlOptions,
) -> Result<Option<ManagementServer>, SettingsError> {
    let Broker::Amqp(servers) = broker else {
        return Ok(None);
    };
    let picked = pick(
        flags.management.as_ref(),
        "--management",
        env,
        "CELERY_DOCTOR_MANAGEMENT",
        file.management.as_ref(),
        file,
    );
    let Some((text, origin)) = picked else {
        return Ok(None);
    };
    let given = given(&text, origin, |text| {
        url::parse_management(text, &servers.first, options)
    })?;
    Ok(Some(given.value))
}

/// The environment and the file may be there for other brokers; a flag is for this one.
fn unused_for_redis(flags: &ConnectionArgs) -> Option<String> {
    let flag = match (&flags.management, flags.peek) {
        (Some(_), _) => "--management",
        (None, Some(1..)) => "--peek",
        _ => return None,
    };
    Some(format!(
        "{flag} is for RabbitMQ, and the broker is a Redis: it changed nothing."
    ))
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::url::Endpoint;

    pub(in crate::config) fn no_env(_: &str) -> Option<String> {
        None
    }

    fn toml(text: &str) -> File {
        file::parse(text, Path::new(file::FILE_NAME)).expect("valid")
    }

    pub(in crate::config) fn host(settings: &Settings) -> (String, String) {
        let given = settings.broker.as_ref().expect("resolve() finds one");
        let Broker::Redis(server) = &given.value else {
            panic!("not Redis: {given:?}")
        };
        match &server.endpoint {
            Endpoint::Tcp { host, .. } => (host.clone(), given.origin.to_string()),
            other => panic!("not TCP: {other:?}"),
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = || {
            Some(toml(
                "broker = 'redis://file'\nqueue = ['f']\ntimeout = '9s'\nkey-prefix = 'f'",
            ))
        };
        let env = |name: &str| match name {
            "CELERY_BROKER_URL" => Some("redis://env".to_owned()),
            "CELERY_DOCTOR_QUEUE" => Some("a, b,".to_owned()),
            "CELERY_DOCTOR_TIMEOUT" => Some("5s".to_owned()),
            _ => None,
        };
        let empty = |name: &str| (name == "CELERY_BROKER_URL").then(|| " ".to_owned());
        let flags = ConnectionArgs {
            broker: Some("redis://flag".into()),
            queues: vec!["q".into()],
            timeout: Some(Duration::from_secs(1)),
            ..ConnectionArgs::default()
        };

        let by_flag = resolve(&flags, &env, file()).expect("valid");
        assert_eq!(host(&by_flag), ("flag".into(), "--broker".into()));
        assert_eq!(
            (by_flag.queues, by_flag.timeout),
            (vec!["q".into()], Duration::from_secs(1))
        );

        let by_env = resolve(&ConnectionArgs::default(), &env, file()).expect("valid");
        assert_eq!(host(&by_env), ("env".into(), "CELERY_BROKER_URL".into()));
        assert_eq!(
            (by_env.queues, by_env.timeout),
            (vec!["a".into(), "b".into()], Duration::from_secs(5))
        );
        assert_eq!(by_env.key_prefix, Some("f".to_owned()));

        let by_file = resolve(&ConnectionArgs::default(), &empty, file()).expect("valid");
        assert_eq!(host(&by_file), ("file".into(), "celery-doctor.toml".into()));
        assert_eq!(
            (by_file.queues, by_file.timeout),
            (vec!["f".into()], Duration::from_secs(9))
        );
    }

    #[test]
    fn what_nobody_sets_has_a_default() {
        let file = Some(toml("broker = 'redis://h'"));
        let settings = resolve(&ConnectionArgs::default(), &no_env, file).expect("valid");
        assert_eq!(settings.timeout, DEFAULT_TIMEOUT);
        assert_eq!(settings.result_backend, None);
        assert!(!settings.no_workers && !settings.show_args && settings.notes.is_empty());
    }

    fn error(flags: &ConnectionArgs, env: &dyn Fn(&str) -> Option<String>) -> String {
        let error = resolve(flags, env, None).expect_err("refused");
        // As the command line prints it, with its causes.
        format!("{:#}", anyhow::Error::from(error))
    }

    #[test]
    fn without_a_broker_the_three_ways_are_shown() {
        let error = error(&ConnectionArgs::default(), &no_env);
        for way in [
            "--broker redis://",
            "CELERY_BROKER_URL=redis://",
            "celery-doctor.toml",
            "broker = \"redis://",
        ] {
            assert!(error.contains(way), "{error}");
        }
        assert!(resolve_offline(&ConnectionArgs::default(), &no_env, None).is_ok());
    }

    #[test]
    fn an_error_says_where_the_value_came_from_and_keeps_it_secret() {
        let env =
            |name: &str| (name == "CELERY_BROKER_URL").then(|| "redis://:hunter2@h/x".to_owned());
        let text = error(&ConnectionArgs::default(), &env);
        assert!(
            text.starts_with("CELERY_BROKER_URL: redis://:***@h/x: the database x"),
            "{text}"
        );

        let env = |name: &str| (name == "CELERY_DOCTOR_NO_WORKERS").then(|| "maybe".to_owned());
        let text = error(&ConnectionArgs::default(), &env);
        assert_eq!(text, "CELERY_DOCTOR_NO_WORKERS: expected true or false");
    }

    #[test]
    fn tls_files_that_nothing_uses_are_an_error() {
        let flags = |broker: &str, backend: Option<&str>| ConnectionArgs {
            broker: Some(broker.into()),
            result_backend: backend.map(Secret::from),
            tls_ca: Some("ca.pem".into()),
            ..ConnectionArgs::default()
        };
        assert!(error(&flags("redis://h", Some("redis://h")), &no_env).contains("rediss://"));
        assert!(resolve(&flags("rediss://h", None), &no_env, None).is_ok());
        assert!(resolve(&flags("redis://h", Some("rediss://h")), &no_env, None).is_ok());
        let half = ConnectionArgs {
            tls_cert: Some("c.pem".into()),
            ..flags("rediss://h", None)
        };
        assert!(error(&half, &no_env).contains("--tls-key"));
    }

    #[test]
    fn further_servers_of_a_list_are_noted() {
        let flags = ConnectionArgs {
            broker: Some("redis://a;redis://b".into()),
            ..ConnectionArgs::default()
        };
        let settings = resolve(&flags, &no_env, None).expect("valid");
        assert_eq!(settings.notes.len(), 1);
    }

    #[test]
    fn a_management_api_is_the_named_one_and_only_for_rabbitmq() {
        let flags = |broker: &str| ConnectionArgs {
            broker: Some(broker.into()),
            management: Some("http://m".into()),
            peek: Some(3),
            ..ConnectionArgs::default()
        };
        let rabbit = resolve(&flags("amqp://u:pw@h"), &no_env, None).expect("valid");
        let management = rabbit.management.expect("named");
        assert_eq!(
            (management.host.as_str(), management.username.as_str()),
            ("m", "u")
        );
        assert!(management.given && rabbit.notes.is_empty());
        assert_eq!(rabbit.peek, Some(3));

        let redis = resolve(&flags("redis://h"), &no_env, None).expect("valid");
        assert_eq!(redis.management, None);
        assert!(
            redis.notes.iter().any(|note| note.contains("--management")),
            "{redis:?}"
        );

        let env = |name: &str| match name {
            "CELERY_BROKER_URL" => Some("amqp://h".to_owned()),
            "CELERY_DOCTOR_MANAGEMENT" => Some("https://m/x".to_owned()),
            "CELERY_DOCTOR_PEEK" => Some("0".to_owned()),
            _ => None,
        };
        let file = toml("management = 'http://file'\npeek = 7");
        let by_env = resolve(&ConnectionArgs::default(), &env, Some(file)).expect("valid");
        assert_eq!(
            by_env.management.map(|server| server.to_string()),
            Some("https://m:15671/x".to_owned())
        );
        assert_eq!(by_env.peek, None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let flags = ConnectionArgs {
            broker: Some("redis://:hunter2@h".into()),
            result_backend: Some("redis://:hunter2@h".into()),
            ..ConnectionArgs::default()
        };
        let settings = resolve(&flags, &no_env, None).expect("valid");
        assert!(!format!("{settings:?} {flags:?}").contains("hunter2"));
    }
}
