//! A broker's URL, as `kombu.Connection` reads it.

use super::amqp::{AMQP_SCHEMES, parse_servers};
use super::parts;
use super::server::{REDIS_PORT, database, sentinel, sentinel_nodes, showable, socket, split, tls};
use super::{
    Broker, Endpoint, OTHER_BROKERS, READ_BROKERS, RedisServer, UrlError, UrlOptions, masked,
};

/// `kombu.transport.redis.SentinelTransport.default_port`.
const SENTINEL_PORT: u16 = 26379;

/// Reads a broker's URL as `kombu.Connection` does. Of a `;` list of Redis servers the first counts, as long as it can
/// be reached; a `;` list of sentinels is one endpoint; of a `;` list of AMQP servers all are kept.
pub(crate) fn parse_broker(url: &str, options: &UrlOptions) -> Result<Broker, UrlError> {
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
        let db = parts.query.get("virtual_host").cloned().unwrap_or_default();
        return socket(parts, db.strip_prefix('/').unwrap_or(&db), &shown).map(Broker::Redis);
    }
    let outer = scheme
        .split_once('+')
        .map_or(scheme.as_str(), |(outer, _)| outer);
    if AMQP_SCHEMES.contains(&scheme.as_str()) {
        return parse_servers(&url, options, &shown).map(Broker::Amqp);
    }
    if OTHER_BROKERS.contains(&outer) {
        return Err(UrlError::NotReadYet { url: shown, scheme });
    }
    if !READ_BROKERS.contains(&scheme.as_str()) {
        return Err(UrlError::UnknownScheme { url: shown, scheme });
    }

    let parts = split(rest, &shown)?;
    if let Some(parameter) = parts.query.keys().find(|key| !is_broker_parameter(key)) {
        let parameter = showable(parameter, &shown);
        return Err(UrlError::Parameter {
            url: shown,
            parameter,
        });
    }
    let has_tls = scheme == "rediss" || parts.query.keys().any(|key| key.starts_with("ssl_"));
    let tls = if has_tls {
        Some(tls(&parts, &["false"], options, &shown)?)
    } else {
        None
    };
    let path = parts.path.as_deref().unwrap_or_default();
    let db = database(
        path.strip_prefix('/').unwrap_or(path),
        "redis://host:6379/0",
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

/// Other names reach `Connection._init_params`, which refuses those it does not know; the rest of those it knows
/// concern no look from outside.
fn is_broker_parameter(key: &str) -> bool {
    key.starts_with("ssl_")
        || matches!(
            key,
            "connect_timeout" | "heartbeat" | "insist" | "login_method" | "credential_provider"
        )
}
