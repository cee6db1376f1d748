//! A URL as it may be shown.
//!
//! What is shown is chosen, not what is hidden: every piece that does not look like what belongs in its place is `***`.
//! A password that was not percent-encoded ends up in all kinds of places.

use super::parts;

const STARS: &str = "***";

/// Query parameters whose values are no secrets.
const HARMLESS: [&str; 14] = [
    "connect_timeout",
    "db",
    "health_check_interval",
    "heartbeat",
    "insist",
    "socket_connect_timeout",
    "socket_timeout",
    "ssl",
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "virtual_host",
];

/// The ways to log in that brokers know; anything else in their place may be a password.
const LOGIN_METHODS: [&str; 4] = ["AMQPLAIN", "EXTERNAL", "GSSAPI", "PLAIN"];

/// The URL with its passwords masked, such as `redis://:***@host:6379/0`. Also takes `;` lists, and text that is no URL.
pub(crate) fn masked(url: &str) -> String {
    let url = parts::cleaned(url);
    if url.is_empty() {
        return "(empty)".to_owned();
    }
    if !url.contains("://") {
        return if super::backend_names().any(|name| name == url) {
            url
        } else {
            STARS.to_owned()
        };
    }
    let mut shown: Vec<String> = Vec::new();
    let mut pending = String::new();
    for part in url.split(';') {
        // A part with no known scheme is one more host of kombu's, or the rest of a password with a `;` in it: it stays with
        // the part before, where an `@` gives it away.
        let starts_anew = parts::scheme(part).is_some_and(super::is_known_scheme);
        if starts_anew && !pending.is_empty() {
            shown.push(masked_part(&std::mem::take(&mut pending)));
        }
        if !pending.is_empty() {
            pending.push(';');
        }
        pending.push_str(part);
    }
    shown.push(masked_part(&pending));
    shown.join(";")
}

fn masked_part(part: &str) -> String {
    let (Some(scheme), Some((_, rest))) = (parts::scheme(part), part.split_once("://")) else {
        return STARS.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (netloc, rest) = rest.split_at(end);
    // An `@` behind the host: either harmless, or a password that contains one of `/?#`. Nobody can tell.
    if rest.contains('@') {
        return format!("{scheme}://{STARS}");
    }
    let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest
        .split_once('?')
        .map_or((rest, None), |(path, query)| (path, Some(query)));

    let mut text = format!("{scheme}://");
    let host = match netloc.rsplit_once('@') {
        Some((userinfo, host)) => {
            text.push_str(&masked_userinfo(userinfo));
            text.push('@');
            host
        }
        None => netloc,
    };
    text.push_str(if is_host(host) { host } else { STARS });
    text.push_str(if is_path(path) { path } else { "/***" });
    if let Some(query) = query {
        let pairs: Vec<String> = query.split('&').map(masked_pair).collect();
        text.push('?');
        text.push_str(&pairs.join("&"));
    }
    text
}

/// A user without a password is masked too: it is more often a password in the wrong place.
fn masked_userinfo(userinfo: &str) -> String {
    match userinfo.split_once(':') {
        Some((user, _)) if is_name(user) => format!("{user}:{STARS}"),
        Some(("", _)) => format!(":{STARS}"),
        _ => STARS.to_owned(),
    }
}

fn masked_pair(pair: &str) -> String {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let is_login_method = key == "login_method" && LOGIN_METHODS.contains(&value);
    if is_login_method || HARMLESS.contains(&key) && is_path(value) {
        format!("{key}={value}")
    } else if is_name(key) && pair.contains('=') {
        format!("{key}={STARS}")
    } else {
        STARS.to_owned()
    }
}

/// Whether this is a plain word, fit to be shown.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// `host`, `host:port`, `[address]:port`, and further ones behind `;`.
fn is_host(text: &str) -> bool {
    text.split(';').all(|node| {
        let (host, port) = match node.split_once(']') {
            Some((host, port)) if host.starts_with('[') => (host.get(1..).unwrap_or(""), port),
            Some(_) => return false,
            None => node
                .find(':')
                .map_or((node, ""), |colon| node.split_at(colon)),
        };
        let host_fits = host
            .chars()
            .all(|c| c.is_alphanumeric() || "._-:%".contains(c));
        let port_fits = port.is_empty()
            || port
                .strip_prefix(':')
                .is_some_and(|port| parts::parse_port(port).is_ok());
        host_fits && port_fits
    })
}

fn is_path(text: &str) -> bool {
    text.len() <= 256
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || "/_-.%~,+ ".contains(c))
}
