use proptest::prelude::*;
use serde_json::{Value, json};

use super::amqp::AmqpServer;
use super::*;

/// The answers of kombu and Celery 5.7.0; `record.py` beside it asked them.
const TABLE: &str = include_str!("../../../fixtures/urls/kombu-5.7.0.json");

/// Where this program answers otherwise, on purpose.
const DIFFERENCES: [(&str, &str); 27] = [
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
    // Under TLS the host's name is checked here.
    ("broker", "amqps://localhost/x"),
    // Not spoken here.
    ("broker", "amqp://h?login_method=EXTERNAL"),
    // kombu takes the rest for a host's name.
    ("broker", "amqp+x://h"),
    ("broker", "amqp://u:p@a:7/x;b:9"),
    // kombu goes on to this machine.
    ("broker", "amqp://a;"),
    // Needs a client of that name there, which is not installed where kombu was asked.
    ("broker", "librabbitmq://h"),
    ("broker", "librabbitmq://u:p@h:7/x"),
];

/// Differences that hold for whole kinds of text.
fn is_known_difference(role: &str, url: &str, theirs: &Value, ours: &Value) -> bool {
    match role {
        // kombu takes a text that is no URL for an AMQP host.
        "broker" if !url.contains("://") => theirs.get("amqp").is_some() && ours == "refused",
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

fn tls_row(tls: &Tls) -> Value {
    let verify = match tls.verify {
        Verify::Full => "full",
        Verify::NoHostname => "no-hostname",
        Verify::None => "none",
    };
    json!({"verify": verify, "ca": tls.ca, "cert": tls.cert, "key": tls.key})
}

fn amqp_row(server: &AmqpServer) -> Value {
    json!({
        "host": server.host,
        "port": server.port,
        "vhost": server.vhost,
        "username": server.username,
        "password": server.password.expose(),
        "tls": server.tls.as_ref().map(tls_row),
    })
}

fn as_row(server: &RedisServer) -> Value {
    let endpoint = match &server.endpoint {
        Endpoint::Tcp { host, port } => json!({"host": host, "port": port}),
        Endpoint::Socket { path } => json!({"path": path}),
        Endpoint::Sentinel { nodes, .. } => json!({"sentinels": nodes}),
    };
    json!({
        "endpoint": endpoint,
        "db": server.db,
        "username": server.username,
        "password": server.password.as_ref().map(Secret::expose),
        "tls": server.tls.as_ref().map(tls_row),
    })
}

fn broker_row(url: &str) -> Value {
    match parse_broker(url, &options()) {
        Ok(Broker::Redis(server)) => as_row(&server),
        Ok(Broker::Amqp(servers)) => {
            json!({"amqp": servers.iter().map(amqp_row).collect::<Vec<_>>()})
        }
        Err(UrlError::NotReadYet { .. }) => json!("other"),
        Err(_) => json!("refused"),
    }
}

fn result_backend_row(url: &str) -> Value {
    match parse_result_backend(url, &options()) {
        Ok(ResultBackend::Redis(server)) => as_row(&server),
        Ok(ResultBackend::Rpc) => json!("rpc"),
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
            "kafka://guest:guest@h//",
            "kafka://guest:***@h//: Celery knows the scheme kafka, and this version does not read it yet",
        ),
        ("amqp://h?vhost=x", "no parameter vhost in a broker's URL"),
        ("amqp://h?vhost=x", "amqp://host/name"),
        (
            "amqp://h?login_method=EXTERNAL",
            "login_method=EXTERNAL is not spoken here",
        ),
        (
            "amqp://u:p;w@h/x",
            "amqp://u:***@h/x: what follows the host is not a port",
        ),
        (
            "amqp://u:pw@h;redis://b",
            "each part of a list is the URL of an AMQP server",
        ),
        ("amqp://u:pw@h;x:y", "amqp://u:***@***: each part of a list"),
        (
            "amqps://h?ssl_cert_reqs=maybe",
            "ssl_cert_reqs=maybe is unknown",
        ),
        ("sqla+mysql://u:pw@h/x", "does not read it yet"),
        (
            "http://h",
            "the scheme http is unknown. Known schemes: redis://, rediss://, redis+socket://, sentinel://, amqp://",
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
    assert_eq!(kind("mongodb://u:pw@h/"), "mongodb");
    assert_eq!(kind("db+postgresql://u:pw@h/x"), "db+postgresql");
    assert_eq!(kind("django-db"), "django-db");
    assert_eq!(kind("u:pw@h"), "unknown");
    // A word that Celery does not know may be a password.
    for word in [
        "hunter2",
        "proj.backends.Own",
        "hunter2://h",
        "db+hunter2",
        "mongodb+",
    ] {
        assert_eq!(kind(word), "unknown", "{word}");
    }
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
        parse_broker(url, &options).map(|broker| match broker {
            Broker::Redis(server) => server.tls.and_then(|tls| tls.ca),
            Broker::Amqp(servers) => servers.first.tls.and_then(|tls| tls.ca),
        })
    };
    assert_eq!(
        tls("rediss://h?ssl_ca_certs=/url.pem"),
        Ok(Some("/flag.pem".into()))
    );
    assert_eq!(tls("redis://h"), Ok(None));
    assert_eq!(tls("amqps://h"), Ok(Some("/flag.pem".into())));
    assert_eq!(tls("amqp://h"), Ok(None));
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

fn management(url: &str) -> Result<ManagementServer, String> {
    let Ok(Broker::Amqp(servers)) = parse_broker("amqp://bu:QZbp@bh", &UrlOptions::default())
    else {
        panic!("an AMQP URL")
    };
    parse_management(url, &servers.first, &UrlOptions::default()).map_err(|error| error.to_string())
}

#[test]
fn management_urls_are_read() {
    let read = |url: &str| {
        let server = management(url).expect("valid");
        let login = format!("{}:{}", server.username, server.password.expose());
        (server.to_string(), login, server.tls.is_some())
    };
    let row = |shown: &str, login: &str, tls: bool| (shown.to_owned(), login.to_owned(), tls);
    assert_eq!(read("http://h"), row("http://h:15672", "bu:QZbp", false));
    assert_eq!(read("https://h/"), row("https://h:15671", "bu:QZbp", true));
    assert_eq!(
        read("HTTPS://u:p%40@h:443/rabbit%20a/api/"),
        row("https://h:443/rabbit%20a", "u:p@", true)
    );
    assert_eq!(
        read("http://[::1]:8/x"),
        row("http://[::1]:8/x", "bu:QZbp", false)
    );
    let lax = management("https://h?ssl_cert_reqs=none").expect("valid");
    assert_eq!(lax.tls.map(|tls| tls.verify), Some(Verify::None));
}

#[test]
fn management_urls_that_cannot_be_are_refused() {
    let cases = [
        ("h:15672", "*** is not the URL of a management API"),
        (
            "amqp://u:QZ@h",
            "Expected one such as http://user:password@host:15672",
        ),
        ("http://", "is not the URL"),
        ("http://h?x=y", "is not the URL"),
        ("http://h?ssl_ca_certs=/x", "is not the URL"),
        ("http://h/a\u{e9}", "is not the URL"),
        ("http://h/x@y", "is not the URL"),
        ("http://a;b", "is not the URL"),
        ("http://u@h", "needs a password"),
        ("http://u:QZ/w@h", "is not a port"),
    ];
    for (url, expected) in cases {
        let error = management(url).expect_err(url);
        assert!(
            error.contains(expected) && !error.contains("QZ"),
            "{url}: {error}"
        );
    }
}

#[test]
fn a_management_api_is_guessed_from_the_broker() {
    let guess = |url: &str| match parse_broker(url, &UrlOptions::default()) {
        Ok(Broker::Amqp(servers)) => ManagementServer::guessed(&servers.first).to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(guess("amqp://u:pw@h:5673/x"), "http://h:15672");
    assert_eq!(guess("amqps://u:pw@h"), "https://h:15671");
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
            "redis://:", "redis://u:", "rediss://u:", "amqp://u:", "amqps://u:", "http://u:", "nope://:", "amqp://a;amqp://u:", "sentinel://a;sentinel://:",
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
        let management = match management(&url.replacen("amqp", "http", 1)) {
            Ok(_) if !encoded => String::new(),
            Ok(server) => format!("{server} {server:?}"),
            Err(error) => error,
        };
        prop_assert!(!leaks(&management), "management {management}");
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
    fn no_text_panics(url in any::<String>(), scheme in prop::sample::select(vec!["", "redis://", "rediss://", "sentinel://", "redis+socket://", "amqp://", "amqps://", "https://"])) {
        for url in [format!("{scheme}{url}"), url] {
            let _ = masked(&url);
            let _ = parse_broker(&url, &options());
            let _ = parse_result_backend(&url, &options());
            let _ = management(&url);
        }
    }

    #[test]
    fn nothing_url_like_panics(url in "(redis|rediss|sentinel|redis\\+socket|amqp|amqps|http|https)://[a-z0-9:@/?#;=&%\\[\\]éZ+._-]{0,40}") {
        let shown = masked(&url);
        prop_assert!(shown.is_ascii() || shown.contains('é') || shown.contains('É'));
        let _ = parse_broker(&url, &options());
        let _ = parse_result_backend(&url, &options());
        let _ = management(&url);
    }
}
