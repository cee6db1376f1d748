use proptest::prelude::*;
use serde_json::json;

use super::*;

static NONE: Arguments = Arguments::new();

fn exchange<'a>(name: &'a str, kind: &'a str) -> Exchange<'a> {
    Exchange {
        name,
        kind,
        internal: false,
        alternate: None,
    }
}

fn to_queue<'a>(source: &'a str, routing_key: &'a str, queue: &'a str) -> Binding<'a> {
    Binding {
        source,
        destination: Destination::Queue(queue),
        routing_key,
        arguments: &NONE,
    }
}

fn to_exchange<'a>(source: &'a str, routing_key: &'a str, exchange: &'a str) -> Binding<'a> {
    Binding {
        source,
        destination: Destination::Exchange(exchange),
        routing_key,
        arguments: &NONE,
    }
}

fn queues<'a>(names: &[&'a str]) -> Routed<'a> {
    Routed::Queues(names.iter().copied().collect())
}

fn arguments(json: &Value) -> Arguments {
    serde_json::from_value(json.clone()).expect("an object")
}

#[test]
fn the_default_exchange_knows_queues_by_name() {
    let topology = Topology::new([], ["celery"], []);
    assert_eq!(topology.route("", "celery", None), queues(&["celery"]));
    assert_eq!(topology.route("", "emials", None), Routed::Nowhere);
    let reply = topology.route("", "amq.rabbitmq.reply-to.g1h2", None);
    assert!(matches!(reply, Routed::Unknown(_)));
}

#[test]
fn direct_and_fanout() {
    let exchanges = [exchange("tasks", "direct"), exchange("all", "fanout")];
    let bindings = [
        to_queue("tasks", "mail", "mail"),
        to_queue("tasks", "mail", "audit"),
        to_queue("tasks", "", "empty"),
        to_queue("all", "whatever", "mail"),
    ];
    let topology = Topology::new(exchanges, ["mail", "audit", "empty"], bindings);
    let route = |exchange, key| topology.route(exchange, key, None);
    assert_eq!(route("tasks", "mail"), queues(&["audit", "mail"]));
    assert_eq!(route("tasks", ""), queues(&["empty"]));
    assert_eq!(route("tasks", "Mail"), Routed::Nowhere);
    assert_eq!(route("all", "x"), queues(&["mail"]));
}

#[test]
fn what_the_server_refuses() {
    let inner = Exchange {
        internal: true,
        ..exchange("inner", "fanout")
    };
    let topology = Topology::new([inner, exchange("e", "fanout")], ["q"], []);
    let route = |exchange, headers| topology.route(exchange, "k", headers);
    assert_eq!(route("none", None), Routed::Refused(Refusal::NoExchange));
    assert_eq!(route("inner", None), Routed::Refused(Refusal::Internal));
    let headers = arguments(&json!({"CC": "q"}));
    assert_eq!(route("e", Some(&headers)), Routed::Refused(Refusal::Copies));
}

#[test]
fn copies_go_by_their_own_keys() {
    let topology = Topology::new(
        [exchange("tasks", "direct")],
        ["a", "b", "c"],
        [to_queue("tasks", "b", "b")],
    );
    let headers = arguments(&json!({"CC": ["b", 7], "BCC": ["c"]}));
    assert_eq!(
        topology.route("", "a", Some(&headers)),
        queues(&["a", "b", "c"])
    );
    assert_eq!(topology.route("tasks", "a", Some(&headers)), queues(&["b"]));
}

#[test]
fn topics_by_words() {
    for (pattern, takes, not) in [
        ("a.*", &["a.b", "a."][..], &["a", "a.b.c", ""][..]),
        ("a.#", &["a", "a.b", "a.b.c", "a."], &["", "ab", "b.a"]),
        ("#", &["", "a", "a.b", "."], &[]),
        ("*", &["a", "*", "#"], &["", "a.b", "."]),
        ("", &[""], &["a", "."]),
        (".", &["."], &["", ".."]),
        ("#.a.#", &["a", "b.a", "a.b", "b.a.b"], &["", "b", "ab.b"]),
        ("*.#", &["a", "a.b", "."], &[""]),
        ("#.#", &["", "a", "a.b"], &[]),
        ("a*", &["a*"], &["ab", "a"]),
        ("#a.b", &["#a.b"], &["a.b"]),
        (
            "celery.#.x",
            &["celery.x", "celery.a.b.x"],
            &["celery", "celery.x.a"],
        ),
    ] {
        for key in takes {
            assert!(topic_matches(pattern, key), "{pattern:?} {key:?}");
        }
        for key in not {
            assert!(!topic_matches(pattern, key), "{pattern:?} {key:?}");
        }
    }
}

#[test]
fn headers_by_what_the_binding_asks_for() {
    for (wanted, headers, matches) in [
        (json!({}), json!({}), Some(true)),
        (json!({"x-match": "any"}), json!({"a": 1}), Some(false)),
        (
            json!({"a": 1, "b": 2}),
            json!({"a": 1, "b": 2, "c": 3}),
            Some(true),
        ),
        (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(false)),
        (
            json!({"a": 1, "b": 2, "x-match": "any"}),
            json!({"a": 1}),
            Some(true),
        ),
        (json!({"a": 1}), json!({"a": "1"}), Some(false)),
        (json!({"a": null}), json!({"a": "anything"}), Some(true)),
        (json!({"a": null}), json!({}), Some(false)),
        (json!({"x-a": 1}), json!({}), Some(true)),
        (
            json!({"x-a": 1, "x-match": "all-with-x"}),
            json!({}),
            Some(false),
        ),
        (
            json!({"x-a": 1, "x-match": "any"}),
            json!({"x-a": 1}),
            Some(false),
        ),
        (
            json!({"x-a": 1, "x-match": "any-with-x"}),
            json!({"x-a": 1}),
            Some(true),
        ),
        (json!({"a": 1}), json!({"a": 1.0}), None),
        (json!({"a": 1}), json!({"a": 1.5}), Some(false)),
        (
            json!({"a": 1, "b": 2}),
            json!({"a": 1.0, "b": 3}),
            Some(false),
        ),
        (
            json!({"a": 1, "b": 2, "x-match": "any"}),
            json!({"a": 1.0, "b": 2}),
            Some(true),
        ),
        (json!({"a": [1]}), json!({"a": [1]}), None),
        (json!({"a": [1]}), json!({"a": [2]}), Some(false)),
    ] {
        let (wanted, headers) = (arguments(&wanted), arguments(&headers));
        assert_eq!(
            headers_match(&wanted, Some(&headers)),
            matches,
            "{wanted:?} {headers:?}"
        );
    }
    assert_eq!(headers_match(&NONE, None), Some(true));
    assert_eq!(headers_match(&arguments(&json!({"a": 1})), None), None);
}

#[test]
fn exchanges_that_lead_to_each_other_end() {
    let topology = Topology::new(
        [
            exchange("a", "fanout"),
            exchange("b", "topic"),
            exchange("c", "fanout"),
        ],
        ["q"],
        [
            to_exchange("a", "", "b"),
            to_exchange("b", "#", "a"),
            to_exchange("b", "x.*", "c"),
            to_exchange("c", "", "c"),
            to_queue("c", "", "q"),
        ],
    );
    assert_eq!(topology.route("a", "x.y", None), queues(&["q"]));
    assert_eq!(topology.route("a", "x", None), Routed::Nowhere);
}

#[test]
fn an_alternate_exchange_takes_only_what_matches_no_binding() {
    let with = |name, alternate| Exchange {
        alternate: Some(alternate),
        ..exchange(name, "direct")
    };
    let topology = Topology::new(
        [
            with("tasks", "rest"),
            with("rest", "tasks"),
            with("astray", "missing"),
            exchange("deaf", "direct"),
        ],
        ["q", "left"],
        [
            to_queue("tasks", "k", "q"),
            to_exchange("tasks", "deaf", "deaf"),
            to_queue("rest", "other", "left"),
        ],
    );
    let route = |exchange, key| topology.route(exchange, key, None);
    assert_eq!(route("tasks", "k"), queues(&["q"]));
    assert_eq!(route("tasks", "other"), queues(&["left"]));
    assert_eq!(route("tasks", "none"), Routed::Nowhere);
    assert_eq!(route("astray", "k"), Routed::Nowhere);
    // The binding matches; that the exchange behind it drops the message does not count.
    assert_eq!(route("tasks", "deaf"), Routed::Nowhere);
}

#[test]
fn a_doubtful_alternate_exchange_counts_only_where_nothing_matches() {
    let topology = Topology::new(
        [exchange("tasks", "direct")],
        ["q"],
        [to_queue("tasks", "k", "q")],
    )
    .doubt("tasks", "a policy may set one");
    assert_eq!(topology.route("tasks", "k", None), queues(&["q"]));
    assert_eq!(
        topology.route("tasks", "other", None),
        Routed::Unknown("a policy may set one".to_owned())
    );
}

#[test]
fn a_plugin_is_not_guessed_at() {
    let topology = Topology::new(
        [
            exchange("a", "fanout"),
            exchange("later", "x-delayed-message"),
        ],
        ["q"],
        [to_queue("a", "", "q"), to_exchange("a", "", "later")],
    );
    assert_eq!(
        topology.route("a", "", None),
        Routed::Unknown(
            "exchange later is of type x-delayed-message, whose routing is not known".to_owned()
        )
    );
}

#[test]
fn headers_that_are_not_known() {
    let asked = arguments(&json!({"task": "shop.send_mail"}));
    let binding = Binding {
        arguments: &asked,
        ..to_queue("h", "", "q")
    };
    let topology = Topology::new([exchange("h", "headers")], ["q"], [binding]);
    assert!(matches!(topology.route("h", "", None), Routed::Unknown(_)));
    assert_eq!(topology.route("h", "", Some(&asked)), queues(&["q"]));
    assert_eq!(topology.route("h", "", Some(&NONE)), Routed::Nowhere);
}

/// Celery's native delayed delivery as kombu declares it (kombu 5.7 `transport/native_delayed_delivery.py`): an exchange and
/// a queue for each bit of the delay, tied together from the highest to the lowest.
struct Delayed {
    levels: Vec<String>,
    keys: Vec<[String; 2]>,
}

impl Delayed {
    fn new() -> Self {
        let key = |level: usize, bit| format!("{}{bit}.#", "*.".repeat(27 - level));
        Self {
            levels: (0..28).map(|n| format!("celery_delayed_{n}")).collect(),
            keys: (0..28)
                .map(|level| [key(level, 0), key(level, 1)])
                .collect(),
        }
    }

    /// With queue `mail` of topic exchange `shop` bound to it.
    fn topology(&self) -> Topology<'_> {
        let levels = self.levels.iter();
        let exchanges = levels.clone().map(|name| exchange(name, "topic"));
        let ends = ["celery_delayed_delivery", "shop"].map(|name| exchange(name, "topic"));
        let mut bindings = vec![
            to_exchange("celery_delayed_delivery", "#.mail", "shop"),
            to_queue("shop", "#.mail", "mail"),
            to_queue("shop", "mail", "mail"),
        ];
        for (level, [zero, one]) in self.keys.iter().enumerate() {
            let here = self.levels[level].as_str();
            let below = level
                .checked_sub(1)
                .map(|below| self.levels[below].as_str());
            bindings.push(to_queue(here, one, here));
            bindings.push(to_exchange(
                here,
                zero,
                below.unwrap_or("celery_delayed_delivery"),
            ));
        }
        let queues = levels.map(String::as_str).chain(["mail"]);
        Topology::new(exchanges.chain(ends), queues, bindings)
    }
}

/// The routing key of a delay, as `calculate_routing_key` makes it.
fn delayed_key(seconds: u32, routing_key: &str) -> String {
    let bits = format!("{seconds:028b}");
    let bits: Vec<String> = bits.chars().map(String::from).collect();
    format!("{}.{routing_key}", bits.join("."))
}

#[test]
fn native_delayed_delivery() {
    let delayed = Delayed::new();
    let topology = delayed.topology();
    let route = |exchange: &str, key: &str| topology.route(exchange, key, None);
    for (seconds, level) in [(1, 0), (2, 1), (3, 1), (1 << 27, 27), (90, 6)] {
        let first = route("celery_delayed_27", &delayed_key(seconds, "mail"));
        assert_eq!(
            first,
            queues(&[delayed.levels[level].as_str()]),
            "{seconds}"
        );
    }
    // What has waited for its highest bit goes on to the next.
    assert_eq!(
        route("celery_delayed_5", &delayed_key(90, "mail")),
        queues(&["celery_delayed_4"])
    );
    assert_eq!(
        route("celery_delayed_delivery", &delayed_key(90, "mail")),
        queues(&["mail"])
    );
    assert_eq!(
        route("celery_delayed_delivery", &delayed_key(90, "emial")),
        Routed::Nowhere
    );
}

/// The definition of a topic match, in the plainest form.
fn reference(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], key) => key.is_empty(),
        (["#", rest @ ..], key) => (0..=key.len()).any(|taken| reference(rest, &key[taken..])),
        ([_, ..], []) => false,
        (["*", rest @ ..], [_, left @ ..]) => reference(rest, left),
        ([word, rest @ ..], [same, left @ ..]) => word == same && reference(rest, left),
    }
}

fn split(key: &str) -> Vec<&str> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    }
}

const KINDS: [&str; 6] = ["direct", "topic", "fanout", "headers", "x-random", ""];
const NAMES: [&str; 5] = ["e0", "e1", "e2", "e3", "missing"];
const PATTERNS: [&str; 6] = ["", "a", "a.*", "#", "*.b", "a.#.b"];

proptest! {
    #[test]
    fn topics_match_as_defined(pattern in "([ab]{0,2}|\\*|#)(\\.([ab]{0,2}|\\*|#)){0,5}", key in "([ab]{0,2}|\\*|#)(\\.[ab]{0,2}){0,5}") {
        prop_assert_eq!(topic_matches(&pattern, &key), reference(&split(&pattern), &split(&key)), "{:?} {:?}", pattern, key);
    }

    #[test]
    fn any_key_is_survived(pattern in "[*#.a]{0,300}", key in "\\PC{0,40}") {
        let _ = topic_matches(&pattern, &key);
    }

    /// However exchanges are tied together, routing ends, and tells no queue that there is not.
    #[test]
    fn any_topology_is_survived(
        kinds in prop::collection::vec((0..6usize, prop::option::of(0..5usize)), 4),
        bound in prop::collection::vec((0..5usize, 0..8usize, 0..6usize), 0..20),
        from in 0..5usize,
        key in 0..6usize,
    ) {
        let exchanges = kinds.iter().enumerate().map(|(at, (kind, alternate))| Exchange {
            alternate: alternate.map(|at| NAMES[at]),
            ..exchange(NAMES[at], KINDS[*kind])
        });
        let bindings = bound.iter().map(|(from, to, key)| match to {
            0..5 => to_exchange(NAMES[*from], PATTERNS[*key], NAMES[*to]),
            _ => to_queue(NAMES[*from], PATTERNS[*key], ["q0", "q1", "gone"][to - 5]),
        });
        let topology = Topology::new(exchanges, ["q0", "q1"], bindings);
        match topology.route(NAMES[from], PATTERNS[key], None) {
            Routed::Queues(names) => prop_assert!(!names.is_empty() && names.iter().all(|name| ["q0", "q1"].contains(name))),
            Routed::Refused(refusal) => prop_assert_eq!((refusal, NAMES[from]), (Refusal::NoExchange, "missing")),
            Routed::Nowhere | Routed::Unknown(_) => {}
        }
    }
}
