//! AMQP servers and RabbitMQ's management API, as URLs name them.
//!
//! Sources, all of kombu 5.7.0: `kombu/connection.py` (`Connection.switch`: what a further server of a `;` list takes over
//! from the first) and `kombu/transport/pyamqp.py` (`Transport.establish_connection`: the defaults).

use std::fmt;

use super::parts;
use super::server::{showable, split, tls};
use super::{Secret, Tls, UrlError, UrlOptions, masked};

/// The schemes that lead to an AMQP server. `librabbitmq` is another client of the same servers.
pub(super) const AMQP_SCHEMES: [&str; 4] = ["amqp", "amqps", "pyamqp", "librabbitmq"];
const AMQP_PORT: u16 = 5672;
const AMQPS_PORT: u16 = 5671;
/// Where RabbitMQ's management plugin listens unless it is told otherwise.
const MANAGEMENT_PORT: u16 = 15672;
const MANAGEMENT_TLS_PORT: u16 = 15671;

/// The servers of a broker's URL. A list has several; they are tried in their order, as kombu's default failover
/// strategy does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpServers {
    pub first: AmqpServer,
    pub others: Vec<AmqpServer>,
}

impl AmqpServers {
    /// All of them, in the order in which they are tried.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AmqpServer> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// One AMQP server, and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpServer {
    pub host: String,
    pub port: u16,
    /// The virtual host's name, decoded; `/` by default.
    pub vhost: String,
    pub username: String,
    pub password: Secret,
    /// `None`: a plain connection.
    pub tls: Option<Tls>,
}

/// RabbitMQ's management API, and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManagementServer {
    pub host: String,
    pub port: u16,
    /// What stands before `/api`, where a proxy or `management.path_prefix` puts something there; empty by default.
    pub path_prefix: String,
    pub username: String,
    pub password: Secret,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// The user named it, so that its absence is worth a warning; else it was guessed from the broker's host.
    pub given: bool,
}

impl ManagementServer {
    /// Where the management API of a broker usually is, for the broker's own user.
    pub(crate) fn guessed(broker: &AmqpServer) -> Self {
        Self {
            host: broker.host.clone(),
            port: if broker.tls.is_some() {
                MANAGEMENT_TLS_PORT
            } else {
                MANAGEMENT_PORT
            },
            path_prefix: String::new(),
            username: broker.username.clone(),
            password: broker.password.clone(),
            tls: broker.tls.clone(),
            given: false,
        }
    }
}

/// The URL as it may be shown: without user and password.
impl fmt::Display for ManagementServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        write!(
            f,
            "{scheme}://{open}{}{close}:{}{}",
            self.host, self.port, self.path_prefix
        )
    }
}

/// What a further server of a list takes over from those before it.
struct Before<'a> {
    first: &'a AmqpServer,
    first_url: &'a FirstUrl,
    /// The one tried last, whose port and virtual host kombu keeps where nothing else is said.
    last: &'a AmqpServer,
}

/// What the first URL says itself, which counts for hosts without a URL.
struct FirstUrl {
    scheme: String,
    port: Option<u16>,
    vhost: Option<String>,
    /// Its query asks for TLS, whatever its scheme.
    asks_tls: bool,
}

/// Reads `;` lists of AMQP URLs; the first part has one of [`AMQP_SCHEMES`].
pub(super) fn parse_servers(
    url: &str,
    options: &UrlOptions,
    shown: &str,
) -> Result<AmqpServers, UrlError> {
    let mut parts = url.split(';');
    let first_url = parts.next().unwrap_or_default();
    let first = parse_server(first_url, None, options, shown)?;
    let said = first_url_says(first_url, shown)?;
    let mut others: Vec<AmqpServer> = Vec::new();
    // kombu tries this machine for an empty part; a `;` at the end is no wish to.
    for part in parts.filter(|part| !part.trim().is_empty()) {
        let before = Before {
            first: &first,
            first_url: &said,
            last: others.last().unwrap_or(&first),
        };
        let server = if part.contains("://") {
            parse_server(part, Some(&before), options, shown)?
        } else {
            bare_host(part, &before, options, shown)?
        };
        others.push(server);
    }
    Ok(AmqpServers { first, others })
}

fn parse_server(
    url: &str,
    before: Option<&Before<'_>>,
    options: &UrlOptions,
    shown: &str,
) -> Result<AmqpServer, UrlError> {
    let (Some(scheme), Some((_, rest))) = (parts::scheme(url), url.split_once("://")) else {
        return Err(UrlError::Failover {
            url: shown.to_owned(),
        });
    };
    let scheme = scheme.to_ascii_lowercase();
    if !AMQP_SCHEMES.contains(&scheme.as_str()) {
        return Err(UrlError::Failover {
            url: shown.to_owned(),
        });
    }
    // What stands behind the host is a virtual host, or the rest of a password and the real host. Nobody can tell.
    let behind = rest.find(['/', '?', '#']).map_or("", |end| &rest[end..]);
    if behind.contains('@') {
        return Err(UrlError::AmqpAt {
            url: shown.to_owned(),
        });
    }
    let parts = split(rest, shown)?;
    if let Some(parameter) = parts.query.keys().find(|key| !is_parameter(key)) {
        return Err(UrlError::AmqpParameter {
            url: shown.to_owned(),
            parameter: showable(parameter, shown),
        });
    }
    if let Some(method) = parts.query.get("login_method") {
        // Both send user and password; nothing else can be sent here.
        if !["PLAIN", "AMQPLAIN"].contains(&method.as_str()) {
            return Err(UrlError::LoginMethod {
                url: shown.to_owned(),
                found: showable(method, shown),
            });
        }
    }
    let own_tls = scheme == "amqps" || parts.query.keys().any(|key| is_tls_parameter(key));
    let tls = match before {
        _ if own_tls => Some(tls(&parts, &["false"], options, shown)?),
        Some(before) if before.first_url.asks_tls => before.first.tls.clone(),
        _ => None,
    };
    let default_port = if tls.is_some() { AMQPS_PORT } else { AMQP_PORT };
    let port = parts
        .port
        .filter(|port| *port != 0)
        .or_else(|| before.map(|before| before.last.port))
        .unwrap_or(default_port);
    let vhost = parts
        .path
        .or_else(|| before.map(|before| before.last.vhost.clone()))
        .unwrap_or_else(|| "/".to_owned());
    Ok(AmqpServer {
        host: reached_host(parts.host, tls.as_ref()),
        port,
        vhost,
        username: parts.username.unwrap_or_else(|| "guest".to_owned()),
        password: parts.password.unwrap_or_else(|| Secret::from("guest")),
        tls,
    })
}

/// A further server that is given by its host alone: all else is the first's.
fn bare_host(
    host: &str,
    before: &Before<'_>,
    options: &UrlOptions,
    shown: &str,
) -> Result<AmqpServer, UrlError> {
    let plain = host
        .chars()
        .all(|c| c.is_alphanumeric() || "._-".contains(c));
    if !plain {
        return Err(UrlError::Failover {
            url: shown.to_owned(),
        });
    }
    let first_url = before.first_url;
    let url = format!("{}://{host}", first_url.scheme);
    let server = parse_server(&url, Some(before), options, shown)?;
    Ok(AmqpServer {
        port: first_url.port.unwrap_or(server.port),
        vhost: first_url.vhost.clone().unwrap_or(server.vhost),
        username: before.first.username.clone(),
        password: before.first.password.clone(),
        tls: before.first.tls.clone(),
        host: server.host,
    })
}

/// kombu goes to 127.0.0.1 for `localhost`, never to `::1`. Under TLS the name stays, for the certificate is for it.
fn reached_host(host: Option<String>, tls: Option<&Tls>) -> String {
    match host {
        Some(host) if host != "localhost" || tls.is_some() => host,
        None if tls.is_some() => "localhost".to_owned(),
        _ => "127.0.0.1".to_owned(),
    }
}

fn first_url_says(url: &str, shown: &str) -> Result<FirstUrl, UrlError> {
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
    let parts = split(rest, shown)?;
    Ok(FirstUrl {
        scheme: scheme.to_owned(),
        port: parts.port.filter(|port| *port != 0),
        vhost: parts.path,
        asks_tls: parts.query.keys().any(|key| is_tls_parameter(key)),
    })
}

/// kombu turns TLS on for any `ssl`, `false` among them. It hands `ssl_*` on under names that py-amqp refuses; here
/// they mean what they mean for Redis.
fn is_tls_parameter(key: &str) -> bool {
    key == "ssl" || key.starts_with("ssl_")
}

/// What `Connection._init_params` takes besides the URL's own parts.
fn is_parameter(key: &str) -> bool {
    is_tls_parameter(key)
        || matches!(
            key,
            "connect_timeout" | "heartbeat" | "insist" | "login_method" | "credential_provider"
        )
}

/// Reads the URL of a management API. User and password are the broker's where it names none.
pub(crate) fn parse_management(
    url: &str,
    broker: &AmqpServer,
    options: &UrlOptions,
) -> Result<ManagementServer, UrlError> {
    let url = parts::cleaned(url);
    let shown = masked(&url);
    let refused = || UrlError::Management { url: shown.clone() };
    let (Some(scheme), Some((_, rest))) = (parts::scheme(&url), url.split_once("://")) else {
        return Err(refused());
    };
    let secure = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return Err(refused()),
    };
    let path = rest
        .find('/')
        .and_then(|slash| rest.get(slash..))
        .map_or("", |path| path.split(['?', '#']).next().unwrap_or(path));
    let parts = split(rest, &shown)?;
    let unknown = parts
        .query
        .keys()
        .any(|key| !secure || !key.starts_with("ssl_"));
    if unknown {
        return Err(refused());
    }
    let tls = if secure {
        Some(tls(&parts, &["false"], options, &shown)?)
    } else {
        None
    };
    // The API itself is added by those who ask it.
    let prefix = path.trim_end_matches('/');
    let prefix = prefix.strip_suffix("/api").unwrap_or(prefix);
    if !prefix.bytes().all(is_path_byte) {
        return Err(refused());
    }
    let (username, password) = match (parts.username, parts.password) {
        (None, None) => (broker.username.clone(), broker.password.clone()),
        (Some(username), Some(password)) => (username, password),
        _ => return Err(UrlError::HalfLogin { url: shown }),
    };
    let default_port = if secure {
        MANAGEMENT_TLS_PORT
    } else {
        MANAGEMENT_PORT
    };
    let host = parts.host.filter(|host| is_host(host));
    Ok(ManagementServer {
        host: host.ok_or_else(refused)?,
        port: parts.port.filter(|port| *port != 0).unwrap_or(default_port),
        path_prefix: prefix.to_owned(),
        username,
        password,
        tls,
        given: true,
    })
}

/// What may stand in a path. An `@` may not: behind one the host would stand, had the password been percent-encoded.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~%+,".contains(&byte)
}

fn is_host(host: &str) -> bool {
    host.chars()
        .all(|c| c.is_alphanumeric() || "._-:%".contains(c))
}
