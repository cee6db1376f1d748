//! What the URLs of brokers and of result backends have in common.

use std::path::PathBuf;

use super::parts::{self, Malformed, Parts};
use super::{Endpoint, RedisServer, Tls, UrlError, UrlOptions, Verify, mask};

/// Redis's port, which kombu and Celery both fall back on; Celery's backend even for sentinels.
pub(super) const REDIS_PORT: u16 = 6379;

pub(super) fn socket(parts: Parts, db: &str, url: &str) -> Result<RedisServer, UrlError> {
    let Some(path) = parts.path else {
        return Err(UrlError::NoSocketPath {
            url: url.to_owned(),
        });
    };
    Ok(RedisServer {
        endpoint: Endpoint::Socket {
            path: format!("/{path}").into(),
        },
        db: database(db, "redis+socket:///path?virtual_host=0", url)?,
        username: parts.username,
        password: parts.password,
        tls: None,
    })
}

pub(super) fn database(text: &str, example: &'static str, url: &str) -> Result<u32, UrlError> {
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
        found: showable(text, url),
        example,
    })
}

/// The sentinels of a `;` list. A part without the scheme `sentinel` is none: kombu passes over it.
pub(super) fn sentinel_nodes(
    url: &str,
    port: u16,
    host: &str,
    shown: &str,
) -> Result<Vec<(String, u16)>, UrlError> {
    let mut nodes = Vec::new();
    for part in url.split(';') {
        if !parts::scheme(part).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sentinel")) {
            continue;
        }
        let rest = part.split_once("://").map_or("", |(_, rest)| rest);
        let node = split(rest, shown)?;
        let port = node.port.filter(|port| *port != 0).unwrap_or(port);
        nodes.push((node.host.unwrap_or_else(|| host.to_owned()), port));
    }
    Ok(nodes)
}

pub(super) fn sentinel(
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

pub(super) fn tls(
    parts: &Parts,
    no_words: &[&str],
    options: &UrlOptions,
    url: &str,
) -> Result<Tls, UrlError> {
    let given = |key: &str| parts.query.get(key).map(PathBuf::from);
    let checks_host = parts
        .query
        .get("ssl_check_hostname")
        .is_none_or(|value| !no_words.iter().any(|no| value.eq_ignore_ascii_case(no)));
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
                found: showable(other, url),
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

pub(super) fn split(rest: &str, url: &str) -> Result<Parts, UrlError> {
    parts::split(rest).map_err(|malformed| match malformed {
        Malformed::Port => UrlError::Port {
            url: url.to_owned(),
        },
        Malformed::Brackets => UrlError::Brackets {
            url: url.to_owned(),
        },
    })
}

/// A piece of a URL, for an error. `***` unless the masked URL shows it too: it may be the rest of a password that was
/// not percent-encoded.
pub(super) fn showable(piece: &str, masked_url: &str) -> String {
    if mask::is_name(piece) && masked_url.contains(piece) {
        piece.to_owned()
    } else {
        "***".to_owned()
    }
}
