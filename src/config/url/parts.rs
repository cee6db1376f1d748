//! The split of a URL into its parts, as Python's `urlparse` and `kombu.utils.url.url_to_parts` (kombu 5.7) do it.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use crate::config::secret::Secret;

/// The parts of one URL, percent-decoded. No `Debug`: a query can hold a password.
pub(super) struct Parts {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    /// Without the first `/`.
    pub(super) path: Option<String>,
    pub(super) query: BTreeMap<String, String>,
}

/// Why a URL has no parts. Holds no text of it, for what stands where a port should be is often half a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    Port,
    Brackets,
}

/// What stands before the first `://`, in the letters given.
pub(super) fn scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    valid.then_some(scheme)
}

/// Leaves out what `urlparse` leaves out: line ends and tabs anywhere, and white space around (which kombu forgives
/// only at the end).
pub(super) fn cleaned(url: &str) -> String {
    url.trim()
        .chars()
        .filter(|c| !matches!(c, '\t' | '\r' | '\n'))
        .collect()
}

/// Splits what follows `://`, with the rules of an HTTP URL.
pub(super) fn split(after_scheme: &str) -> Result<Parts, Malformed> {
    let end = after_scheme
        .find(['/', '?', '#'])
        .unwrap_or(after_scheme.len());
    let (netloc, rest) = after_scheme.split_at(end);
    let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));

    let (userinfo, hostinfo) = netloc.rsplit_once('@').unwrap_or(("", netloc));
    let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    if userinfo.contains(['[', ']']) {
        return Err(Malformed::Brackets);
    }
    let (host, port) = split_host(hostinfo)?;
    let path = without_params(path);
    Ok(Parts {
        host: decoded(&lower_case(host)),
        port: parse_port(port)?,
        username: decoded(username),
        password: decoded(password).map(Secret::from),
        path: decoded(path.strip_prefix('/').unwrap_or(path)),
        query: parse_query(query),
    })
}

fn split_host(hostinfo: &str) -> Result<(&str, &str), Malformed> {
    let Some(bracketed) = hostinfo.strip_prefix('[') else {
        if hostinfo.contains(['[', ']']) {
            return Err(Malformed::Brackets);
        }
        return Ok(hostinfo.split_once(':').unwrap_or((hostinfo, "")));
    };
    let (host, after) = bracketed.split_once(']').ok_or(Malformed::Brackets)?;
    let address = host
        .split_once('%')
        .map_or(host, |(address, _zone)| address);
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(Malformed::Brackets);
    }
    match after.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if after.is_empty() => Ok((host, "")),
        None => Err(Malformed::Brackets),
    }
}

pub(super) fn parse_port(port: &str) -> Result<Option<u16>, Malformed> {
    if port.is_empty() {
        return Ok(None);
    }
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Malformed::Port);
    }
    port.parse().map(Some).map_err(|_| Malformed::Port)
}

/// Python's `SplitResult.hostname`: lower case, but for the zone of an IPv6 address.
fn lower_case(host: &str) -> String {
    match host.split_once('%') {
        Some((address, zone)) => format!("{}%{zone}", address.to_lowercase()),
        None => host.to_lowercase(),
    }
}

/// `urlparse` cuts `;params` off the last segment of an HTTP path, and kombu throws them away.
fn without_params(path: &str) -> &str {
    let last_segment = path
        .rfind('/')
        .map_or(path, |slash| path.get(slash..).unwrap_or(""));
    if last_segment.contains(';') {
        path.split_once(';').map_or(path, |(before, _)| before)
    } else {
        path
    }
}

/// Python's `parse_qsl`: blank values are left out, `+` is a space, the last of two wins.
fn parse_query(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (form_decoded(key), form_decoded(value)))
        .collect()
}

fn form_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

fn decoded(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| percent_decode_str(text).decode_utf8_lossy().into_owned())
}
