//! A result backend's URL or name, as Celery reads it.

use super::parts::{self, Parts};
use super::server::{REDIS_PORT, database, sentinel, sentinel_nodes, showable, socket, split, tls};
use super::{Endpoint, RedisServer, ResultBackend, Secret, UrlError, UrlOptions, mask, masked};

/// What `redis.connection.to_bool` (redis-py) takes for no, as the result backend does; kombu takes only `false`.
const REDIS_PY_NO: [&str; 5] = ["0", "F", "FALSE", "N", "NO"];

/// The names that django-celery-results adds by its entry points.
const DJANGO: [&str; 2] = ["django-db", "django-cache"];

/// Reads a result backend, a URL or a name, as `celery.app.backends.by_url` and the Redis backend do.
pub(crate) fn parse_result_backend(
    url: &str,
    options: &UrlOptions,
) -> Result<ResultBackend, UrlError> {
    let url = parts::cleaned(url);
    let shown = masked(&url);
    let (name, inner) = match parts::scheme(&url) {
        Some(scheme) => scheme.split_once('+').unwrap_or((scheme, scheme)),
        None if url.contains("://") => ("unknown", "unknown"),
        None => (url.as_str(), "redis"),
    };
    if let Some(instead) = misspelt(name) {
        return Err(UrlError::MisspeltBackend {
            scheme: showable(name, &shown),
            url: shown,
            instead,
        });
    }
    if name == "disabled" {
        return Ok(ResultBackend::Disabled);
    }
    if name == "rpc" {
        return Ok(ResultBackend::Rpc);
    }
    if !matches!(name, "redis" | "rediss" | "sentinel") {
        return Ok(ResultBackend::Unsupported { kind: kind(&url) });
    }
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let server = match (name, inner.to_ascii_lowercase().as_str()) {
        ("sentinel", "sentinel") => backend_sentinel(&url, rest, options, &shown)?,
        ("redis" | "rediss", "socket") => {
            let parts = overridden(split(rest, &shown)?, &shown)?;
            let virtual_host = parts
                .query
                .get("virtual_host")
                .map_or("", |db| db.trim_matches('/'));
            let db = parts
                .query
                .get("db")
                .map_or(virtual_host, String::as_str)
                .to_owned();
            socket(parts, &db, &shown)?
        }
        ("redis" | "rediss", scheme @ ("redis" | "rediss")) => {
            let parts = overridden(split(rest, &shown)?, &shown)?;
            backend_tcp(parts, scheme == "rediss", options, &shown)?
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
        Some(tls(&parts, &REDIS_PY_NO, options, url)?)
    } else {
        None
    };
    let db = backend_database(&parts, url)?;
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
        db: backend_database(&first, shown)?,
        username: first.username,
        password: first.password,
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

fn backend_database(parts: &Parts, url: &str) -> Result<u32, UrlError> {
    let path = parts.path.as_deref().unwrap_or_default().trim_matches('/');
    let db = parts.query.get("db").map_or(path, String::as_str);
    database(db, "redis://host:6379/0", url)
}

/// The name of a result backend that Celery would not find, and what was probably meant.
fn misspelt(name: &str) -> Option<&'static str> {
    let word = name.split_once(':').map_or(name, |(word, _)| word);
    match word.to_ascii_lowercase().as_str() {
        "socket" | "unix" => Some("redis+socket:///path?virtual_host=0"),
        "redis" if name != "redis" => Some("redis://"),
        "rediss" if name != "rediss" => Some("rediss://"),
        "sentinel" if name != "sentinel" => Some("sentinel://"),
        _ => None,
    }
}

/// The scheme, as far as it can be shown: `db+postgresql`, `mongodb`, `django-db`. A word that is none of Celery's may be
/// a module's path, and may be a password in the wrong place.
fn kind(url: &str) -> String {
    let kind = url.split_once("://").map_or(url, |(scheme, _)| scheme);
    let (name, dialect) = kind
        .split_once('+')
        .map_or((kind, None), |(name, dialect)| (name, Some(dialect)));
    let known = super::backend_names().any(|known| known == name) || DJANGO.contains(&name);
    let is_dialect = |dialect| url.contains("://") && mask::is_name(dialect);
    if known && dialect.is_none_or(is_dialect) {
        kind.to_owned()
    } else {
        "unknown".to_owned()
    }
}
