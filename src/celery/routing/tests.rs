use proptest::prelude::*;

use super::*;

fn routed(config: &Config, task: &str) -> (Option<String>, String, Option<String>) {
    let sent = config
        .route(task, &Options::default())
        .expect("it is routed");
    (
        sent.queue,
        sent.exchange.expect("known"),
        sent.routing_key.expect("known"),
    )
}

fn map(lines: &[(&str, &str)]) -> Router {
    let mut entries = Vec::new();
    for (id, (pattern, queue)) in lines.iter().enumerate() {
        insert(
            &mut entries,
            Entry {
                id,
                pattern: Pattern::of_text(pattern),
                route: Ok(Route {
                    options: Options::to_queue(queue),
                    empty: false,
                }),
            },
        );
    }
    Router::Map(entries)
}

#[test]
fn without_settings_all_goes_to_the_queue_celery() {
    let expected = (Some("celery".into()), String::new(), Some("celery".into()));
    assert_eq!(routed(&Config::default(), "a.b"), expected);
}

#[test]
fn a_name_wins_over_patterns_and_the_first_pattern_over_later_ones() {
    let config = Config {
        routers: Ok(vec![map(&[
            ("a.*", "one"),
            ("a.b*", "two"),
            ("a.bc", "three"),
        ])]),
        ..Config::default()
    };
    assert_eq!(routed(&config, "a.bc").0, Some("three".into()));
    assert_eq!(routed(&config, "a.bd").0, Some("one".into()));
    assert_eq!(routed(&config, "b").0, Some("celery".into()));
}

#[test]
fn a_queue_that_is_missing_is_not_found_where_none_are_created() {
    let config = Config {
        create_missing: Ok(false),
        routers: Ok(vec![map(&[("a", "nowhere")])]),
        ..Config::default()
    };
    assert_eq!(
        config.route("a", &Options::default()),
        Err(Fault::QueueNotFound("nowhere".into(), Some(0)))
    );
    assert_eq!(routed(&config, "b").0, Some("celery".into()));
}

#[test]
fn what_is_unknown_spoils_only_what_depends_on_it() {
    let gap = Gap {
        why: "it is read from a file".into(),
        file: "settings.py".into(),
        line: 3,
    };
    let config = Config {
        queues: Err(gap.clone()),
        routers: Ok(vec![map(&[("a", "mail")]), Router::Opaque(gap.clone())]),
        ..Config::default()
    };
    let sent = config.route("a", &Options::default()).expect("a queue");
    assert_eq!(sent.queue, Some("mail".into()));
    assert_eq!(sent.exchange, Err(gap.clone()));
    assert_eq!(
        config.route("b", &Options::default()),
        Err(Fault::Unknown(gap))
    );
}

#[test]
fn globs_are_fnmatchs() {
    for (glob, name, takes) in [
        ("a.*", "a.b", true),
        ("a.*", "a.", true),
        ("a.*", "a", false),
        ("*[!a]", "xa", false),
        ("*[!a]", "xb", true),
        ("*[z-a]", "xz", false),
        ("*[a-c]", "xb", true),
        ("*[]]", "x]", true),
        ("*[", "x[", true),
        ("*?", "", false),
        ("*\n", "a\n", true),
    ] {
        assert_eq!(Glob::new(glob).takes(name), takes, "{glob} {name}");
    }
}

#[test]
fn a_glob_covers_what_it_takes_wholly() {
    let covers = |a: &str, b: &str| Glob::new(a).covers(&Glob::new(b));
    assert!(covers("*", "a.*"));
    assert!(covers("a.*", "a.b.*"));
    assert!(covers("*.x", "a.*.x"));
    assert!(covers("a?*", "a.b*"));
    assert!(!covers("a.b.*", "a.*"));
    assert!(!covers("*.x", "a.*"));
    assert!(!covers("a?", "a*"));
    assert!(covers("a", "a[z-a]*"));
}

#[test]
fn regular_expressions_are_pythons_or_none() {
    let takes = |source: &str, name: &str| python_regex(source).map(|regex| regex.is_match(name));
    assert_eq!(
        takes(r"(video|image)\.tasks\..*", "video.tasks.x"),
        Some(true)
    );
    assert_eq!(takes("b", "ab"), Some(false));
    assert_eq!(takes("a$", "a\n"), Some(true));
    assert_eq!(takes("a|b", "bc"), Some(true));
    assert_eq!(takes("[[&&]x]", "[x]"), Some(true));
    for beyond in [
        r"(?=a)",
        r"(a)\1",
        "a++",
        "(?i)a",
        "(?<!a)b",
        r"\N{DIGIT ONE}",
        "é",
        "(",
    ] {
        assert!(python_regex(beyond).is_none(), "{beyond}");
    }
}

proptest! {
    #[test]
    fn a_covering_glob_takes_all_that_the_other_does(
        a in "[ab?*]{0,6}", b in "[ab?*]{0,6}", name in "[abc]{0,8}",
    ) {
        let (a, b) = (Glob::new(&a), Glob::new(&b));
        if a.covers(&b) && b.takes(&name) {
            prop_assert!(a.takes(&name));
        }
    }

    #[test]
    fn no_pattern_panics(text in any::<String>(), name in any::<String>()) {
        let glob = Glob::new(&text);
        let _ = (glob.takes(&name), glob.takes_nothing(), glob.covers(&Glob::new(&name)));
        let _ = python_regex(&text).map(|regex| regex.is_match(&name));
    }
}
