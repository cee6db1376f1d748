use proptest::prelude::*;

use super::*;
use crate::celery::samples::SAMPLES;

fn bound(routing_key: &str, pattern: &str) -> [Binding; 1] {
    [Binding {
        routing_key: routing_key.to_owned(),
        pattern: pattern.to_owned(),
        queue: "q".to_owned(),
    }]
}

#[test]
fn a_member_of_a_binding_set() {
    let binding = Binding::parse(SAMPLES.binding.as_bytes(), DEFAULT_SEP).expect("a binding");
    assert_eq!(
        (
            binding.routing_key.as_str(),
            binding.pattern.as_str(),
            binding.queue.as_str()
        ),
        ("celery", "", "celery")
    );
    for member in ["", "a\x06\x16b", "a\x06\x16b\x06\x16c\x06\x16d"] {
        assert_eq!(Binding::parse(member.as_bytes(), DEFAULT_SEP), None);
    }
    assert_eq!(Binding::parse(b"\xff\x06\x16\x06\x16q", DEFAULT_SEP), None);
    assert_eq!(
        Binding::parse(b"a||q", "|").map(|binding| binding.queue),
        Some("q".to_owned())
    );
    assert_eq!(Binding::parse(b"a", ""), None);
}

#[test]
fn the_separator_of_a_member() {
    for (member, exchange, sep) in [
        ("celery\x06\x16\x06\x16celery", "celery", Some("\x06\x16")),
        ("celery::celery", "celery", Some(":")),
        ("a:b::::a:b", "a:b", Some("::")),
        ("::w1@host.celery.pidbox", "celery.pidbox", Some(":")),
        ("w1@host.celery.pidbox", "celery.pidbox", None),
        (":w1@host.celery.pidbox", "celery.pidbox", None),
        ("key::other", "celery", None),
        ("celery", "celery", None),
        ("éé::w1.celery.pidbox", "é", None),
        ("", "", None),
    ] {
        assert_eq!(separator(member.as_bytes(), exchange), sep, "{member}");
    }
    assert_eq!(separator(b"\xff::", "celery"), None);
}

#[test]
fn topics_match_as_kombu_matches_them() {
    for (routing_key, pattern, matched) in &SAMPLES.topic.table {
        let table = bound(routing_key, pattern);
        for key in &SAMPLES.topic.keys {
            let matches = !lookup(ExchangeType::Topic, &table, key).is_empty();
            assert_eq!(
                matches,
                matched.contains(key),
                "{routing_key:?} as {pattern:?} for {key:?}"
            );
        }
    }
}

#[test]
fn what_kombu_cannot_have_written_matches_nothing() {
    for pattern in [
        "a", "^a", "^(a|a)*$", "^a+$", "^\\d$", "^[a]$", "^*$", "^a**$", "^\\", "^\\$",
    ] {
        assert!(
            lookup(ExchangeType::Topic, &bound("a", pattern), "a").is_empty(),
            "{pattern}"
        );
    }
    assert_eq!(lookup(ExchangeType::Topic, &bound("a", ""), "b").len(), 1);
}

#[test]
fn direct_and_fanout() {
    let table = bound("a", "");
    assert_eq!(
        lookup(ExchangeType::Direct, &table, "a")
            .into_iter()
            .collect::<Vec<_>>(),
        ["q"]
    );
    assert!(lookup(ExchangeType::Direct, &table, "b").is_empty());
    assert_eq!(lookup(ExchangeType::Fanout, &table, "b").len(), 1);
}

#[test]
fn no_pattern_takes_exponential_time() {
    let pattern = format!("^{}b$", ".*?".repeat(2000));
    assert!(lookup(ExchangeType::Topic, &bound("", &pattern), &"a".repeat(2000)).is_empty());
}

#[test]
fn keys_of_priorities() {
    for (steps, priority, key) in &SAMPLES.priorities {
        assert_eq!(
            queue_key("q", *priority, steps, DEFAULT_SEP),
            *key,
            "{steps:?} {priority}"
        );
    }
    assert_eq!(queue_key("q", 5, &[], DEFAULT_SEP), "q");
    assert_eq!(
        [None, Some(-3), Some(4), Some(12)].map(message_priority),
        [0, 0, 4, 9]
    );
}

/// `TopicExchange.key_to_pattern` for keys of letters, dots and wildcards that stand as words.
fn key_to_pattern(routing_key: &str) -> String {
    let word = |word| match word {
        "*" => r"[^\.]+".to_owned(),
        "#" => ".*?".to_owned(),
        word => word.to_owned(),
    };
    format!(
        "^{}$",
        routing_key
            .split('.')
            .map(word)
            .collect::<Vec<_>>()
            .join(r"\.")
    )
}

proptest! {
    #[test]
    fn topics_match_as_a_regex_engine_does(routing_key in "([a-b]{0,2}|\\*|#)(\\.([a-b]{0,2}|\\*|#)){0,4}", key in "[ab.]{0,9}") {
        let pattern = key_to_pattern(&routing_key);
        let expected = regex::Regex::new(&pattern).expect("a pattern").is_match(&key);
        prop_assert_eq!(!lookup(ExchangeType::Topic, &bound(&routing_key, &pattern), &key).is_empty(), expected);
    }

    #[test]
    fn any_pattern_is_survived(pattern in "\\^?[\\PC\\\\*.\\[]*\\$?", key in "\\PC*") {
        let _ = lookup(ExchangeType::Topic, &bound("", &pattern), &key);
    }

    #[test]
    fn any_member_is_survived(member in prop::collection::vec(any::<u8>(), 0..40), sep in "\\PC{0,2}") {
        let _ = Binding::parse(&member, &sep);
    }

    #[test]
    fn any_steps_are_survived(steps in prop::collection::vec(any::<i64>(), 0..6), priority in any::<i64>()) {
        let _ = queue_key("q", priority, &steps, DEFAULT_SEP);
    }
}
