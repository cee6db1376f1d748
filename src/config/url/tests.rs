use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The answers of kombu and Celery 5.7.0; `record.py` beside it asked them.
const TABLE: &str = include_str!("../../../fixtures/urls/kombu-5.7.0.json");

/// Where this program answers otherwise, on purpose.
const DIFFERENCES: [(&str, &str); 20] = [
    // int() takes these.
    ("broker", "redis://h/-1"),
    ("result_backend", "redis://h/-1"),
    ("broker", "redis://h/1_0"),
    ("result_backend", "redis://h/1_0"),
    ("broker", "redis://h/２"),
    ("result_backend", "redis://h/２"),
    // More databases than a server can have.
    ("broker", "redis://h/99999999999"),
    ("result_backend", "redis://h/99999999999"),
    // TLS without ssl_cert_reqs: unchecked there, refused there (`redis_backend_use_ssl` can still supply it), checked here.
    ("broker", "rediss://h/2"),
    ("broker", "REDISS://h/2"),
    ("result_backend", "rediss://h/2"),
    ("result_backend", "rediss://h/2?ssl_check_hostname=false"),
    ("result_backend", "rediss://h/2?ssl_ca_certs=/ca.pem"),
    ("result_backend", "redis+rediss://h/2"),
    // kombu falls back on localhost without a word.
    ("broker", "redis+redis://h/2"),
    ("broker", "redis+rediss://h/2"),
    ("broker", "redis+unix:///tmp/redis.sock"),
    // Celery asks a host named 380 here.
    ("result_backend", "sentinel://a;b:26380;c"),
    // Celery takes any scheme behind `sentinel+`.
    ("result_backend", "sentinel+redis://h"),
    // Celery asks both, kombu the first.
    ("result_backend", "sentinel://a:1/1;redis://b:2/2"),
];

/// Differences that hold for whole kinds of text.
fn is_known_difference(role: &str, url: &str, theirs: &Value, ours: &Value) -> bool {
    match role {
        // kombu takes a text that is no URL for an AMQP host.
        "broker" if !url.contains("://") => theirs == "other" && ours == "refused",
        // A name that Celery cannot import here may be a backend that the deployment has.
        "result_backend" if theirs == "refused" && ours == "other" => true,
        _ => DIFFERENCES.contains(&(role, url)) && theirs != ours,
    }
}

fn options() -> UrlOptions {
    UrlOptions {
        master_name: Some("mymaster".to_owned()),
        ..UrlOptions::default()
    }
}

fn as_row(server: &RedisServer) -> Value {
    let endpoint = match &server.endpoint {
        Endpoint::Tcp { host, port } => json!({"host": host, "port": port}),
        Endpoint::Socket { path } => json!({"path": path}),
        Endpoint::Sentinel { nodes, .. } => json!({"sentinels": nodes}),
    };
    let tls = server.tls.as_ref().map(|tls| {
        let verify = match tls.verify {
            Verify::Full => "full",
            Verify::NoHostname => "no-hostname",
            Verify::None => "none",
        };
        json!({"verify": verify, "ca": tls.ca, "cert": tls.cert, "key": tls.key})
    });
    json!({
        "endpoint": endpoint,
        "db": server.db,
        "username": server.username,
        "password": server.password.as_ref().map(Secret::expose),
        "tls": tls,
    })
}

fn broker_row(url: &str) -> Value {
    match parse_broker(url, &options()) {
        Ok(Broker::Redis(server)) => as_row(&server),
        Err(UrlError::NotReadYet { .. }) => json!("other"),
        Err(_) => json!("refused"),
    }
}

fn result_backend_row(url: &str) -> Value {
    match parse_result_backend(url, &options()) {
        Ok(ResultBackend::Redis(server)) => as_row(&server),
        Ok(ResultBackend::Unsupported { .. } | ResultBackend::Disabled) => json!("other"),
        Err(_) => json!("refused"),
    }
}

#[test]
fn urls_mean_what_they_mean_to_kombu_and_celery() {
    let rows: Vec<Value> = serde_json::from_str(TABLE).expect("the table is JSON");
    let mut wrong = Vec::new();
    for row in &rows {
        let url = row["url"].as_str().expect("every row has a URL");
        for (role, ours) in [
            ("broker", broker_row(url)),
            ("result_backend", result_backend_row(url)),
        ] {
            let is_known = is_known_difference(role, url, &row[role], &ours);
            if ours != row[role] && !is_known
                || ours == row[role] && DIFFERENCES.contains(&(role, url))
            {
                wrong.push(format!(
                    "{role} {url}\n  theirs {}\n  ours   {ours}",
                    row[role]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn broker_error(url: &str) -> String {
    parse_broker(url, &UrlOptions::default())
        .expect_err("refused")
        .to_string()
}

#[test]
fn an_error_says_what_was_found_expected_and_to_do() {
    let cases = [
        (
            "redis://:pw@h/abc",
            "redis://:***@h/abc: the database abc is not a number",
        ),
        ("redis://:pw@h/abc", "Expected one such as 0"),
        (
            "amqp://guest:guest@h//",
            "amqp://guest:***@h//: Celery knows the scheme amqp, and this version does not read it yet",
        ),
        ("sqla+mysql://u:pw@h/x", "does not read it yet"),
        (
            "http://h",
            "the scheme http is unknown. Known schemes: redis://, rediss://, redis+socket://, sentinel://",
        ),
        ("h:6379", "*** is not a URL"),
        ("", "(empty) is not a URL"),
        (
            "redis://u:p/w@h/1",
            "redis://***: what follows the host is not a port",
        ),
        (
            "redis://:1234/se@h/1",
            "redis://***: the database *** is not a number",
        ),
        ("redis://h/1?db=3", "no parameter db"),
        (
            "redis://h/1?password=pw",
            "redis://h/1?password=***: kombu takes no parameter password",
        ),
        ("sentinel://h", "--master-name"),
        ("redis+unix:///x", "redis+socket:///path"),
        ("redis+socket://", "a socket needs a path"),
        (
            "rediss://h?ssl_cert_reqs=maybe",
            "ssl_cert_reqs=maybe is unknown. Expected required, optional or none",
        ),
        ("redis://u:p[w@h", "square brackets"),
    ];
    for (url, expected) in cases {
        let error = broker_error(url);
        assert!(error.contains(expected), "{url}: {error}");
    }
    let error = parse_result_backend("redis:/h/1", &options()).expect_err("one slash");
    assert!(
        error.to_string().contains("Write it as redis://"),
        "{error}"
    );
}

#[test]
fn backends_that_are_not_read_have_a_kind() {
    let kind = |url: &str| match parse_result_backend(url, &options()) {
        Ok(ResultBackend::Unsupported { kind }) => kind,
        other => format!("{other:?}"),
    };
    assert_eq!(kind("rpc://"), "rpc");
    assert_eq!(kind("rpc"), "rpc");
    assert_eq!(kind("db+postgresql://u:pw@h/x"), "db+postgresql");
    assert_eq!(kind("django-db"), "django-db");
    assert_eq!(kind("u:pw@h"), "unknown");
    assert_eq!(
        parse_result_backend("disabled://", &options()),
        Ok(ResultBackend::Disabled)
    );
}

#[test]
fn files_of_flags_win_and_do_not_turn_tls_on() {
    let options = UrlOptions {
        tls_ca: Some("/flag.pem".into()),
        ..UrlOptions::default()
    };
    let tls = |url| {
        parse_broker(url, &options).map(|Broker::Redis(server)| server.tls.and_then(|tls| tls.ca))
    };
    assert_eq!(
        tls("rediss://h?ssl_ca_certs=/url.pem"),
        Ok(Some("/flag.pem".into()))
    );
    assert_eq!(tls("redis://h"), Ok(None));
}

#[test]
fn passwords_are_masked() {
    let cases = [
        ("redis://h", "redis://h"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://:;x://pw@h/0", "redis://***"),
        (" redis://u:p@w@h/0\n", "redis://u:***@h/0"),
        ("redis://pw@h/0", "redis://***@h/0"),
        ("redis://u%40:pw@[::1]:7/0", "redis://***@[::1]:7/0"),
        ("redis://u:p/w@h/0", "redis://***"),
        ("redis://u:p?w@h/0", "redis://***"),
        ("redis://u:p#w@h/0", "redis://***"),
        ("redis://u:pw", "redis://***"),
        ("redis://u:p;w@h/0", "redis://u:***@h/0"),
        ("redis://:12;34@h/0", "redis://:***@h/0"),
        ("redis://h/0#pw", "redis://h/0"),
        (
            "redis://h/0?password=pw&db=3&pw",
            "redis://h/0?password=***&db=3&***",
        ),
        (
            "redis+socket://:pw@/run/redis.sock?virtual_host=3",
            "redis+socket://:***@/run/redis.sock?virtual_host=3",
        ),
        (
            "sentinel://:pw@a:1/3;sentinel://u:pw@b",
            "sentinel://:***@a:1/3;sentinel://u:***@b",
        ),
        ("sentinel://a;b:26380", "sentinel://a;b:26380"),
        ("u:pw@redis://h", "***"),
        ("redis:/:pw@h", "***"),
        ("rpc", "rpc"),
        ("://", "***"),
    ];
    for (url, expected) in cases {
        assert_eq!(masked(url), expected, "{url}");
    }
}

/// Passwords that no other part of these tests contains, with every character that has a meaning in a URL.
fn password() -> impl Strategy<Value = String> {
    let meaning = prop::sample::select(vec![
        "", "/", "?", "#", "@", ":", ";", "[", "]", "%", "%2F", "&", "=", "+", " ", "://", "\t",
        "é",
    ]);
    prop::collection::vec((meaning, "[QXZ0-9]{4}"), 1..5).prop_map(|pieces| {
        let pieces = pieces
            .into_iter()
            .map(|(sign, text)| sign.to_owned() + "QZ" + &text);
        pieces.collect()
    })
}

/// Whether a piece of the password is in the text. Pieces begin with `QZ`, as nothing else here does.
fn leaks(text: &str) -> bool {
    text.to_uppercase().contains("QZ")
}

proptest! {
    #[test]
    fn no_password_is_ever_shown(
        password in password(),
        encoded in any::<bool>(),
        before in prop::sample::select(vec![
            "redis://:", "redis://u:", "rediss://u:", "amqp://u:", "nope://:", "sentinel://a;sentinel://:",
            "redis+socket://:", "sentinel://:", "redis+unix://u:",
        ]),
        after in prop::sample::select(vec!["@h:6379/0", "@h", "@[::1]:x/0", "@h/abc", "@h/0?x=y", "@/run/x.sock", "@h/0;redis://b"]),
    ) {
        let password = if encoded {
            percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC).to_string()
        } else {
            password
        };
        let url = format!("{before}{password}{after}");
        prop_assert!(!leaks(&masked(&url)), "masked {}", masked(&url));
        let broker = match parse_broker(&url, &options()) {
            // An unencoded password is cut apart as kombu cuts it, and a piece of it may be taken for the host.
            Ok(_) if !encoded => String::new(),
            Ok(broker) => format!("{broker:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!leaks(&broker), "broker {broker}");
        let backend = match parse_result_backend(&url, &options()) {
            Ok(_) if !encoded => String::new(),
            Ok(backend) => format!("{backend:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!leaks(&backend), "backend {backend}");
    }

    #[test]
    fn an_encoded_password_arrives_whole(password in password(), user in "[a-z@/:%]{0,8}") {
        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let url = format!("redis://{}:{}@h/1", encode(&user), encode(&password));
        let Ok(Broker::Redis(server)) = parse_broker(&url, &options()) else {
            return Err(TestCaseError::fail(url));
        };
        prop_assert_eq!(server.password, Some(Secret::from(password)));
        prop_assert_eq!(server.username, (!user.is_empty()).then_some(user));
    }

    #[test]
    fn no_text_panics(url in any::<String>(), scheme in prop::sample::select(vec!["", "redis://", "rediss://", "sentinel://", "redis+socket://"])) {
        for url in [format!("{scheme}{url}"), url] {
            let _ = masked(&url);
            let _ = parse_broker(&url, &options());
            let _ = parse_result_backend(&url, &options());
        }
    }

    #[test]
    fn nothing_url_like_panics(url in "(redis|rediss|sentinel|redis\\+socket)://[a-z0-9:@/?#;=&%\\[\\]éZ+._-]{0,40}") {
        let shown = masked(&url);
        prop_assert!(shown.is_ascii() || shown.contains('é') || shown.contains('É'));
        let _ = parse_broker(&url, &options());
        let _ = parse_result_backend(&url, &options());
    }
}
