//! The URLs of brokers and result backends, understood as kombu and Celery understand them.
//!
//! Sources, all of version 5.7.0: `kombu/connection.py` (`Connection.__init__`: `;` lists and `+` schemes),
//! `kombu/utils/url.py`, `kombu/transport/redis.py` (`Channel._connparams`, `SentinelChannel`), `celery/app/backends.py`
//! (`by_url`) and `celery/backends/redis.py` (`_params_from_url`). The tests hold a table of the libraries' own answers.
//!
//! Decided otherwise on purpose:
//! - kombu turns certificate checks off for a `rediss://` broker without `ssl_cert_reqs`, and Celery refuses such a
//!   result backend. Here both are checked in full: a tool that is pointed at a server by hand must not hand a password
//!   to whoever answers.
//! - `int()` takes `-1`, `1_0` and `２` for a database. Here it is ASCII digits.

mod mask;
mod parts;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

use self::parts::{Malformed, Parts};
pub use super::secret::Secret;
pub use mask::masked;

/// Redis's port, which kombu and Celery both fall back on.
const REDIS_PORT: u16 = 6379;
/// `kombu.transport.redis.SentinelTransport.default_port`. Celery's sentinel backend falls back on 6379 all the same.
const SENTINEL_PORT: u16 = 26379;

/// Broker schemes that this version reads.
const READ_BROKERS: [&str; 4] = ["redis", "rediss", "redis+socket", "sentinel"];
/// The other names in `kombu.transport.TRANSPORT_ALIASES` (kombu 5.7), in lower case.
const OTHER_BROKERS: [&str; 22] = [
    "amqp",
    "amqps",
    "pyamqp",
    "librabbitmq",
    "confluentkafka",
    "kafka",
    "memory",
    "sqs",
    "mongodb",
    "zookeeper",
    "sqlalchemy",
    "sqla",
    "slmq",
    "filesystem",
    "qpid",
    "consul",
    "etcd",
    "azurestoragequeues",
    "azureservicebus",
    "pyro",
    "gcpubsub",
    "pgmq",
];
/// Result backends that this version reads.
const READ_BACKENDS: [&str; 4] = ["redis", "rediss", "redis+socket", "sentinel"];
/// The other names in `celery.app.backends.BACKEND_ALIASES` (Celery 5.7).
const OTHER_BACKENDS: [&str; 19] = [
    "rpc",
    "cache",
    "mongodb",
    "db",
    "database",
    "elasticsearch",
    "cassandra",
    "couchbase",
    "couchdb",
    "cosmosdbsql",
    "riak",
    "file",
    "disabled",
    "consul",
    "dynamodb",
    "azureblockblob",
    "arangodb",
    "s3",
    "gs",
];

fn backend_names() -> impl Iterator<Item = &'static str> {
    READ_BACKENDS.into_iter().chain(OTHER_BACKENDS)
}

/// A Redis server, and how to log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RedisServer {
    pub endpoint: Endpoint,
    pub db: u32,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// `None`: a plain connection.
    pub tls: Option<Tls>,
}

/// Where a Redis server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Endpoint {
    Tcp {
        host: String,
        port: u16,
    },
    Socket {
        path: PathBuf,
    },
    /// The sentinels know the server. They are asked without TLS, user or password: those of the URL are the server's,
    /// and kombu takes the sentinels' own only from its transport option `sentinel_kwargs`.
    Sentinel {
        nodes: Vec<(String, u16)>,
        master: String,
    },
}

/// How a TLS connection is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tls {
    pub verify: Verify,
    /// `None`: the system's roots.
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verify {
    /// Chain and host name: `ssl_cert_reqs` `required`, and `optional`, which means the same to a client in Python.
    Full,
    /// The chain alone: `ssl_check_hostname=false`.
    NoHostname,
    /// Nothing: `ssl_cert_reqs` `none`.
    None,
}

/// A broker that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Broker {
    Redis(RedisServer),
}

/// A result backend. One that cannot be read is no error: a trace does without it, and says so (CD807).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ResultBackend {
    Redis(RedisServer),
    Unsupported {
        /// The scheme, such as `rpc` or `db+postgresql`.
        kind: String,
    },
    Disabled,
}

/// What flags add to a URL. Paths given here win over those in the URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlOptions {
    pub master_name: Option<String>,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// Why a URL was not taken. No text in it comes from where a password may stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error(
        "{url} is not a URL. Expected one such as redis://:password@host:6379/0 ({})",
        known_brokers()
    )]
    NotAUrl { url: String },
    #[error("{url}: the scheme {scheme} is unknown. {}", known_brokers())]
    UnknownScheme { url: String, scheme: String },
    #[error(
        "{url}: Celery knows the scheme {scheme}, and this version does not read it yet. {}",
        known_brokers()
    )]
    NotReadYet { url: String, scheme: String },
    #[error("{url}: Celery has no result backend {scheme}. Write it as {instead}")]
    MisspeltBackend {
        url: String,
        scheme: String,
        instead: &'static str,
    },
    #[error(
        "{url}: {scheme} is not followed by something that kombu reads. For a socket write redis+socket:///path?virtual_host=0"
    )]
    UnknownInnerScheme { url: String, scheme: String },
    #[error(
        "{url}: what follows the host is not a port (0 to 65535). In a user or password, write / ? # @ : ; as %2F %3F %23 %40 %3A %3B"
    )]
    Port { url: String },
    #[error(
        "{url}: square brackets belong around an IPv6 address only. In a user or password, write them as %5B and %5D"
    )]
    Brackets { url: String },
    #[error(
        "{url}: the database {found} is not a number. Expected one such as 0, at the end of the URL ({example}). In a password, write / as %2F"
    )]
    Database {
        url: String,
        found: String,
        example: &'static str,
    },
    #[error("{url}: a socket needs a path, as in redis+socket:///run/redis.sock?virtual_host=0")]
    NoSocketPath { url: String },
    #[error("{url}: sentinels need the name of the master they watch. Give it with --master-name")]
    NoMasterName { url: String },
    #[error(
        "{url}: kombu takes no parameter {parameter} in a broker's URL (it takes ssl_* there). The database is given as redis://host:6379/0"
    )]
    Parameter { url: String, parameter: String },
    #[error("{url}: ssl_cert_reqs={found} is unknown. Expected required, optional or none")]
    CertReqs { url: String, found: String },
    #[error(
        "{url}: has TLS parameters, and its scheme is redis://. Celery takes them only with rediss://"
    )]
    TlsWithoutScheme { url: String },
}

fn known_brokers() -> String {
    format!(
        "Known schemes: {}",
        READ_BROKERS.map(|scheme| format!("{scheme}://")).join(", ")
    )
}

/// Reads a broker's URL as `kombu.Connection` does. Of a `;` list of Redis servers the first counts, as long as it can
/// be reached; a `;` list of sentinels is one endpoint.
pub fn parse_broker(url: &str, options: &UrlOptions) -> Result<Broker, UrlError> {
    let url = parts::cleaned(url);
    let shown = masked(&url);
    let first = url.split(';').next().unwrap_or_default();
    let (Some(scheme), Some((_, rest))) = (parts::scheme(first), first.split_once("://")) else {
        return Err(UrlError::NotAUrl { url: shown });
    };
    let scheme = scheme.to_ascii_lowercase();
    if let Some(("redis" | "rediss", inner)) = scheme.split_once('+') {
        if inner != "socket" {
            return Err(UrlError::UnknownInnerScheme { url: shown, scheme });
        }
        let parts = split(rest, &shown)?;
        let db = parts.query.get("virtual_host").cloned();
        return socket(parts, db.as_deref(), &shown).map(Broker::Redis);
    }
    let outer = scheme
        .split_once('+')
        .map_or(scheme.as_str(), |(outer, _)| outer);
    if OTHER_BROKERS.contains(&outer) {
        return Err(UrlError::NotReadYet { url: shown, scheme });
    }
    if !READ_BROKERS.contains(&scheme.as_str()) {
        return Err(UrlError::UnknownScheme { url: shown, scheme });
    }

    let parts = split(rest, &shown)?;
    if let Some(parameter) = parts.query.keys().find(|key| !is_broker_parameter(key)) {
        let parameter = showable(parameter, rest);
        return Err(UrlError::Parameter {
            url: shown,
            parameter,
        });
    }
    let has_tls = scheme == "rediss" || parts.query.keys().any(|key| key.starts_with("ssl_"));
    let tls = if has_tls {
        Some(tls(&parts, options, &shown)?)
    } else {
        None
    };
    let path = parts.path.as_deref().unwrap_or_default();
    let db = database(
        path.strip_prefix('/').unwrap_or(path),
        "redis://host:6379/0",
        rest,
        &shown,
    )?;
    let endpoint = if scheme == "sentinel" {
        sentinel(
            sentinel_nodes(&url, SENTINEL_PORT, "127.0.0.1", &shown)?,
            options,
            &shown,
        )?
    } else {
        Endpoint::Tcp {
            host: parts.host.unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: parts.port.filter(|port| *port != 0).unwrap_or(REDIS_PORT),
        }
    };
    Ok(Broker::Redis(RedisServer {
        endpoint,
        db,
        username: parts.username,
        password: parts.password,
        tls,
    }))
}

/// Reads a result backend, a URL or a name, as `celery.app.backends.by_url` and the Redis backend do.
pub fn parse_result_backend(url: &str, options: &UrlOptions) -> Result<ResultBackend, UrlError> {
    let url = parts::cleaned(url);
    let shown = masked(&url);
    let (name, inner) = match parts::scheme(&url) {
        Some(scheme) => scheme.split_once('+').unwrap_or((scheme, scheme)),
        None if url.contains("://") => ("unknown", "unknown"),
        None => (url.as_str(), "redis"),
    };
    if let Some(instead) = misspelt(name) {
        return Err(UrlError::MisspeltBackend {
            url: shown,
            scheme: name.to_owned(),
            instead,
        });
    }
    if name == "disabled" {
        return Ok(ResultBackend::Disabled);
    }
    if !matches!(name, "redis" | "rediss" | "sentinel") {
        return Ok(ResultBackend::Unsupported { kind: kind(&url) });
    }
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let server = match (name, inner.to_ascii_lowercase().as_str()) {
        ("sentinel", "sentinel" | "redis") => backend_sentinel(&url, rest, options, &shown)?,
        ("redis" | "rediss", "socket") => {
            let parts = overridden(split(rest, &shown)?, &shown)?;
            let db = parts
                .query
                .get("db")
                .or_else(|| parts.query.get("virtual_host"))
                .cloned();
            socket(parts, db.as_deref(), &shown)?
        }
        ("redis" | "rediss", scheme @ ("redis" | "rediss")) => {
            let parts = overridden(split(rest, &shown)?, &shown)?;
            backend_tcp(parts, scheme == "rediss", rest, options, &shown)?
        }
        (_, scheme) => {
            return Err(UrlError::UnknownInnerScheme {
                url: shown,
                scheme: scheme.to_owned(),
            });
        }
    };
    Ok(ResultBackend::Redis(server))
}

fn backend_tcp(
    parts: Parts,
    secure: bool,
    rest: &str,
    options: &UrlOptions,
    url: &str,
) -> Result<RedisServer, UrlError> {
    const TLS: [&str; 4] = [
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_cert_reqs",
    ];
    if !secure && TLS.iter().any(|key| parts.query.contains_key(*key)) {
        return Err(UrlError::TlsWithoutScheme {
            url: url.to_owned(),
        });
    }
    let tls = if secure {
        Some(tls(&parts, options, url)?)
    } else {
        None
    };
    let db = backend_database(&parts, rest, url)?;
    Ok(RedisServer {
        endpoint: Endpoint::Tcp {
            host: parts.host.unwrap_or_else(|| "localhost".to_owned()),
            port: parts.port.unwrap_or(REDIS_PORT),
        },
        db,
        username: parts.username,
        password: parts.password,
        tls,
    })
}

/// Database, user and password are those of the first part. Celery takes no TLS parameters from a sentinel URL.
fn backend_sentinel(
    url: &str,
    rest: &str,
    options: &UrlOptions,
    shown: &str,
) -> Result<RedisServer, UrlError> {
    let first = overridden(
        split(rest.split(';').next().unwrap_or_default(), shown)?,
        shown,
    )?;
    let nodes = sentinel_nodes(url, REDIS_PORT, "localhost", shown)?;
    Ok(RedisServer {
        endpoint: sentinel(nodes, options, shown)?,
        db: backend_database(&first, rest, shown)?,
        username: first.username,
        password: first.password,
        tls: None,
    })
}

fn socket(parts: Parts, db: Option<&str>, url: &str) -> Result<RedisServer, UrlError> {
    let Some(path) = parts.path else {
        return Err(UrlError::NoSocketPath {
            url: url.to_owned(),
        });
    };
    Ok(RedisServer {
        endpoint: Endpoint::Socket {
            path: format!("/{path}").into(),
        },
        db: database(
            db.unwrap_or_default().trim_matches('/'),
            "redis+socket:///path?virtual_host=0",
            "",
            url,
        )?,
        username: parts.username,
        password: parts.password,
        tls: None,
    })
}

/// The Redis backend lets query parameters win over the rest of the URL, the broker does not.
fn overridden(mut parts: Parts, url: &str) -> Result<Parts, UrlError> {
    if let Some(host) = parts.query.remove("host") {
        parts.host = Some(host);
    }
    if let Some(port) = parts.query.remove("port") {
        parts.port = parts::parse_port(&port).map_err(|_| UrlError::Port {
            url: url.to_owned(),
        })?;
    }
    if let Some(username) = parts.query.remove("username") {
        parts.username = Some(username);
    }
    if let Some(password) = parts.query.remove("password") {
        parts.password = Some(Secret::from(password));
    }
    Ok(parts)
}

fn backend_database(parts: &Parts, rest: &str, url: &str) -> Result<u32, UrlError> {
    let db = parts
        .query
        .get("db")
        .or(parts.path.as_ref())
        .map_or("", String::as_str);
    database(db.trim_matches('/'), "redis://host:6379/0", rest, url)
}

fn database(text: &str, example: &'static str, rest: &str, url: &str) -> Result<u32, UrlError> {
    let digits = text.trim();
    if digits.is_empty() {
        return Ok(0);
    }
    let number = if digits.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    };
    number.ok_or_else(|| UrlError::Database {
        url: url.to_owned(),
        found: showable(text, rest),
        example,
    })
}

/// The sentinels of a `;` list. A part without a scheme is none: kombu passes over it.
fn sentinel_nodes(
    url: &str,
    port: u16,
    host: &str,
    shown: &str,
) -> Result<Vec<(String, u16)>, UrlError> {
    let mut nodes = Vec::new();
    for part in url.split(';') {
        let Some((_, rest)) = parts::scheme(part)
            .zip(part.split_once("://"))
            .map(|(_, split)| split)
        else {
            continue;
        };
        let node = split(rest, shown)?;
        let port = node.port.filter(|port| *port != 0).unwrap_or(port);
        nodes.push((node.host.unwrap_or_else(|| host.to_owned()), port));
    }
    Ok(nodes)
}

fn sentinel(
    nodes: Vec<(String, u16)>,
    options: &UrlOptions,
    url: &str,
) -> Result<Endpoint, UrlError> {
    if nodes.is_empty() {
        return Err(UrlError::NotAUrl {
            url: url.to_owned(),
        });
    }
    let master = options
        .master_name
        .clone()
        .ok_or_else(|| UrlError::NoMasterName {
            url: url.to_owned(),
        })?;
    Ok(Endpoint::Sentinel { nodes, master })
}

fn tls(parts: &Parts, options: &UrlOptions, url: &str) -> Result<Tls, UrlError> {
    let given = |key: &str| parts.query.get(key).map(PathBuf::from);
    let checks_host = parts
        .query
        .get("ssl_check_hostname")
        .is_none_or(|value| !value.eq_ignore_ascii_case("false"));
    let verify = match parts.query.get("ssl_cert_reqs").map(String::as_str) {
        Some("none" | "CERT_NONE") => Verify::None,
        None | Some("required" | "CERT_REQUIRED" | "optional" | "CERT_OPTIONAL") if checks_host => {
            Verify::Full
        }
        None | Some("required" | "CERT_REQUIRED" | "optional" | "CERT_OPTIONAL") => {
            Verify::NoHostname
        }
        Some(other) => {
            return Err(UrlError::CertReqs {
                url: url.to_owned(),
                found: showable(other, ""),
            });
        }
    };
    Ok(Tls {
        verify,
        ca: options.tls_ca.clone().or_else(|| given("ssl_ca_certs")),
        cert: options.tls_cert.clone().or_else(|| given("ssl_certfile")),
        key: options.tls_key.clone().or_else(|| given("ssl_keyfile")),
    })
}

fn split(rest: &str, url: &str) -> Result<Parts, UrlError> {
    parts::split(rest).map_err(|malformed| match malformed {
        Malformed::Port => UrlError::Port {
            url: url.to_owned(),
        },
        Malformed::Brackets => UrlError::Brackets {
            url: url.to_owned(),
        },
    })
}

/// Other names reach `Connection._init_params`, which refuses those it does not know; the rest of those it knows
/// concern no look from outside.
fn is_broker_parameter(key: &str) -> bool {
    key.starts_with("ssl_")
        || matches!(
            key,
            "connect_timeout" | "heartbeat" | "insist" | "login_method" | "credential_provider"
        )
}

/// A piece of a URL, for an error; `***` where it may be the rest of a password that was not percent-encoded.
fn showable(piece: &str, rest: &str) -> String {
    let netloc_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let behind_host = rest.get(netloc_end..).unwrap_or_default();
    if !behind_host.contains('@') && mask::is_name(piece) {
        piece.to_owned()
    } else {
        "***".to_owned()
    }
}

/// The name of a result backend that Celery would not find, and what was probably meant.
fn misspelt(name: &str) -> Option<&'static str> {
    match name.to_ascii_lowercase().as_str() {
        "socket" | "unix" => Some("redis+socket:///path?virtual_host=0"),
        "redis" if name != "redis" => Some("redis://"),
        "rediss" if name != "rediss" => Some("rediss://"),
        "sentinel" if name != "sentinel" => Some("sentinel://"),
        _ => None,
    }
}

/// The scheme, as far as it can be shown: `db+postgresql`, `rpc`, a module's path.
fn kind(url: &str) -> String {
    let kind = url.split_once("://").map_or(url, |(scheme, _)| scheme);
    let shown = !kind.is_empty() && kind.len() <= 64 && kind.split('+').all(mask::is_name);
    if shown {
        kind.to_owned()
    } else {
        "unknown".to_owned()
    }
}
