//! The URLs of brokers and result backends, understood as kombu and Celery understand them.
//!
//! Sources, all of version 5.7.0: `kombu/connection.py` (`Connection.__init__`: `;` lists and `+` schemes),
//! `kombu/utils/url.py`, `kombu/transport/redis.py` (`Channel._connparams`, `SentinelChannel`), `celery/app/backends.py`
//! (`by_url`) and `celery/backends/redis.py` (`_params_from_url`). The tests hold a table of the libraries' own answers.
//!
//! Decided otherwise on purpose:
//! - kombu turns certificate checks off for a `rediss://` broker without `ssl_cert_reqs`, and Celery refuses such a
//!   result backend. Here both are checked in full: a tool that is pointed at a server by hand must not hand a password
//!   to whoever answers. So it is with `amqps://`, where kombu checks the chain and not the host name.
//! - `int()` takes `-1`, `1_0` and `２` for a database. Here it is ASCII digits.

pub(crate) mod amqp;
mod backend;
mod broker;
mod mask;
mod parts;
mod server;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub(crate) use self::amqp::{AmqpServers, ManagementServer, parse_management};
pub(crate) use self::backend::parse_result_backend;
pub(crate) use self::broker::parse_broker;
pub(crate) use self::mask::{is_name, masked};
pub(crate) use super::secret::Secret;

/// Broker schemes that this version reads.
const READ_BROKERS: [&str; 8] = [
    "redis",
    "rediss",
    "redis+socket",
    "sentinel",
    "amqp",
    "amqps",
    "pyamqp",
    "librabbitmq",
];
/// The other names in `kombu.transport.TRANSPORT_ALIASES` (kombu 5.7), in lower case.
const OTHER_BROKERS: [&str; 18] = [
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
const READ_BACKENDS: [&str; 5] = ["redis", "rediss", "redis+socket", "sentinel", "rpc"];
/// The other names in `celery.app.backends.BACKEND_ALIASES` (Celery 5.7).
const OTHER_BACKENDS: [&str; 18] = [
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

/// Whether a broker, a result backend or a management API begins like this, in whatever case.
fn is_known_scheme(scheme: &str) -> bool {
    let scheme = scheme.to_ascii_lowercase();
    let outer = scheme
        .split_once('+')
        .map_or(scheme.as_str(), |(outer, _)| outer);
    READ_BROKERS
        .into_iter()
        .chain(OTHER_BROKERS)
        .chain(backend_names())
        .chain(["http", "https"])
        .any(|name| name == outer)
}

/// A Redis server, and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisServer {
    pub endpoint: Endpoint,
    pub db: u32,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// `None`: a plain connection.
    pub tls: Option<Tls>,
}

/// Where a Redis server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub verify: Verify,
    /// `None`: the system's roots.
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Chain and host name: `ssl_cert_reqs` `required`, and `optional`, which means the same to a client in Python.
    Full,
    /// The chain alone: `ssl_check_hostname=false`.
    NoHostname,
    /// Nothing: `ssl_cert_reqs` `none`.
    None,
}

/// A broker that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broker {
    Redis(RedisServer),
    Amqp(AmqpServers),
}

/// A result backend. One that cannot be read is no error: a trace does without it, and says so (CD807).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ResultBackend {
    Redis(RedisServer),
    /// Results are messages in a queue of the task's sender, on the broker itself.
    Rpc,
    Unsupported {
        /// The scheme, such as `mongodb` or `db+postgresql`.
        kind: String,
    },
    Disabled,
}

/// What flags add to a URL. Paths given here win over those in the URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UrlOptions {
    pub master_name: Option<String>,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// Why a URL was not taken. No text in it comes from where a password may stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
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
        "{url}: each part of a list is the URL of an AMQP server, as in amqp://user:password@a/vhost;amqp://user:password@b/vhost, or a host's name alone. In a user or password, write ; as %3B"
    )]
    Failover { url: String },
    #[error(
        "{url}: kombu takes no parameter {parameter} in a broker's URL. It takes ssl, ssl_*, heartbeat, connect_timeout, login_method and insist. The virtual host is given as amqp://host/name"
    )]
    AmqpParameter { url: String, parameter: String },
    #[error(
        "{url}: there is an @ behind the first / ? or #. In a user or password, write / ? # @ as %2F %3F %23 %40; in the name of a virtual host, write @ as %40"
    )]
    AmqpAt { url: String },
    #[error(
        "{url}: login_method={found} is not spoken here. Give a user who logs in with a password (PLAIN)"
    )]
    LoginMethod { url: String, found: String },
    #[error(
        "{url} is not the URL of a management API. Expected one such as http://user:password@host:15672 or https://host/prefix?ssl_ca_certs=/ca.pem"
    )]
    Management { url: String },
    #[error(
        "{url}: a user of the management API needs a password, as in http://user:password@host:15672. Leave both out to use those of the broker"
    )]
    HalfLogin { url: String },
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
