use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::celery::message::{IdFinder, Keep, Match, parse};

fn signature(id: &str, options: &Value) -> Value {
    let mut options = options.clone();
    options["task_id"] = id.into();
    json!({"task": "shop.t", "args": [], "kwargs": {}, "options": options, "subtask_type": null, "immutable": true})
}

fn plain(id: &str) -> Value {
    signature(id, &json!({}))
}

fn canvas(kind: &str, id: &str, kwargs: &Value) -> Value {
    json!({"task": format!("celery.{kind}"), "args": [], "kwargs": kwargs, "options": {"task_id": id},
        "subtask_type": kind, "immutable": false})
}

fn group(id: &str, parts: &[Value]) -> Value {
    canvas("group", id, &json!({"tasks": parts}))
}

fn message_with(args: &Value, embed: &Value) -> Vec<u8> {
    // Python's spaces behind commas and colons, of which no string here has any.
    let spaced = |value: &Value| value.to_string().replace(':', ": ").replace(',', ", ");
    let body = spaced(&json!([args, {}, embed]));
    let body = STANDARD.encode(body);
    format!(
        r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "shop.first", "id": "a", "eta": null, "group": "g0"}}, "properties": {{"body_encoding": "base64", "delivery_info": {{}}}}}}"#
    )
    .into_bytes()
}

fn message(embed: &Value) -> Vec<u8> {
    message_with(&json!([]), embed)
}

fn steps(embed: &Value) -> Vec<(String, Role, String)> {
    let read = parse(&message(embed), Keep::Envelope).expect("a message");
    let steps = read.canvas.into_iter();
    steps.map(|step| (step.id, step.role, step.after)).collect()
}

fn is(id: &str, role: Role, after: &str) -> (String, Role, String) {
    (id.to_owned(), role, after.to_owned())
}

#[test]
fn the_links_of_a_chain_follow_each_other() {
    let embed = json!({"callbacks": null, "errbacks": null, "chain": [plain("d"), plain("c"), plain("b")], "chord": null});
    assert_eq!(
        steps(&embed),
        [
            is("b", Role::Link, "a"),
            is("c", Role::Link, "b"),
            is("d", Role::Link, "c")
        ]
    );
}

#[test]
fn a_body_follows_the_group_of_its_header() {
    assert_eq!(
        steps(&json!({"chord": plain("body")})),
        [is("body", Role::Body, "g0")]
    );
    let inner = signature("b1", &json!({"group_id": "g1", "chord": plain("b2")}));
    assert_eq!(
        steps(&json!({"chord": inner})),
        [is("b1", Role::Body, "g0"), is("b2", Role::Body, "g1")]
    );
}

#[test]
fn canvases_within_canvases_are_read() {
    let chord = canvas(
        "chord",
        "g1",
        &json!({
            "header": group("g1", &[plain("h1"), plain("h2")]),
            "body": canvas("chain", "b2", &json!({"tasks": [plain("b1"), plain("b2")]}))
        }),
    );
    assert_eq!(
        steps(&json!({"chain": [chord]})),
        [
            is("g1", Role::Group, "a"),
            is("h1", Role::Part, "a"),
            is("h2", Role::Part, "a"),
            is("b1", Role::Body, "g1"),
            is("b2", Role::Link, "b1")
        ]
    );
    assert_eq!(
        steps(&json!({"chain": [group("g1", &[plain("h1")])]})),
        [is("g1", Role::Group, "a"), is("h1", Role::Part, "a")]
    );
}

#[test]
fn callbacks_are_told_apart_and_nested() {
    let callback = signature(
        "b",
        &json!({"link": [plain("c")], "link_error": plain("e")}),
    );
    assert_eq!(
        steps(&json!({"callbacks": [callback], "errbacks": [plain("x")]})),
        [
            is("b", Role::Callback, "a"),
            is("c", Role::Callback, "b"),
            is("e", Role::Errback, "b"),
            is("x", Role::Errback, "a")
        ]
    );
}

#[test]
fn what_looks_like_a_canvas_in_arguments_is_none() {
    let mut own = plain("b");
    own["kwargs"] = json!({"tasks": [plain("c")], "body": plain("d")});
    assert_eq!(steps(&json!({"chain": [own]})), [is("b", Role::Link, "a")]);
    assert_eq!(steps(&json!([plain("b")])), []);
    assert_eq!(steps(&json!({"chain": {"a": [1, "x"]}, "chord": 7})), []);
}

#[test]
fn what_leads_to_a_step_is_left() {
    let embed = json!({"chain": [plain("d"), plain("c"), plain("b")], "callbacks": [plain("x")]});
    let mut left = parse(&message(&embed), Keep::Envelope)
        .expect("a message")
        .canvas;
    leave(&mut left, |id| id == "c");
    let ids: Vec<&str> = left.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, ["b", "c"]);
    leave(&mut left, |id| id == "z");
    assert!(left.is_empty());
}

#[test]
fn a_long_chain_has_an_end() {
    let links: Vec<Value> = (0..MOST_STEPS + 5)
        .map(|at| plain(&format!("l{at}")))
        .collect();
    let read = steps(&json!({"chain": links}));
    assert_eq!(read.len(), MOST_STEPS);
    assert_eq!(read[0].0, format!("l{}", MOST_STEPS + 4));
}

#[test]
fn the_polling_task_of_a_chord_names_its_body() {
    let text = String::from_utf8(message_with(&json!(["g1", plain("body")]), &json!({})));
    let text = text.expect("text").replace("shop.first", CHORD_UNLOCK);
    let read = parse(text.as_bytes(), Keep::Envelope).expect("a message");
    assert_eq!(read.canvas.len(), 1);
    assert_eq!(
        (read.canvas[0].id.as_str(), read.canvas[0].after.as_str()),
        ("body", "g1")
    );
    let mut finder = IdFinder::new(["body".to_owned()]);
    assert_eq!(finder.matches(text.as_bytes()), Match::Candidate);
}

/// A canvas of ids `i0` to `i9`, nested at will.
fn embeds() -> impl Strategy<Value = Value> {
    let id = || (0..10_u8).prop_map(|n| format!("i{n}"));
    let leaf = (id(), id()).prop_map(|(id, of)| signature(&id, &json!({"group_id": of})));
    let tree = leaf.prop_recursive(4, 24, 3, move |inner| {
        let some = prop::collection::vec(inner, 1..3);
        (some, id(), 0..6_u8).prop_map(|(some, id, kind)| match kind {
            0 => canvas("chain", &id, &json!({"tasks": some})),
            1 => group(&id, &some),
            2 => canvas("chord", &id, &json!({"header": some, "body": some[0]})),
            3 => signature(&id, &json!({"link": some})),
            4 => signature(&id, &json!({"chord": some[0]})),
            _ => signature(&id, &json!({"link_error": some, "chain": [some[0]]})),
        })
    });
    let list = || prop::option::of(prop::collection::vec(tree.clone(), 0..3));
    (list(), list(), list(), prop::option::of(tree.clone())).prop_map(
        |(callbacks, errbacks, chain, chord)| {
            json!({"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": chord})
        },
    )
}

proptest! {
    #[test]
    fn the_quick_way_finds_what_the_whole_reading_finds(
        embed in embeds(),
        args in "[a-z_]{0,5}",
        wanted in (0..10_u8).prop_map(|n| format!("i{n}")),
    ) {
        let message = message_with(&json!([args]), &embed);
        let read = parse(&message, Keep::Envelope).expect("a message");
        let named = |id: &str| id == wanted;
        let carried = read.canvas.iter().any(|step| named(&step.id) || step.group.as_deref().is_some_and(named));
        let found = IdFinder::new([wanted.clone()]).matches(&message);
        // The quick way may take an id for a candidate that stands elsewhere; it misses none.
        prop_assert!(!carried || found == Match::Candidate);
        let mentioned = embed.to_string().contains(&format!("\"{wanted}\""));
        prop_assert_eq!(found == Match::Candidate, mentioned);
    }

    #[test]
    fn any_canvas_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8(message(&json!({}))).expect("text");
        let (start, rest) = text.split_at(r#"{"body": ""#.len());
        let (_, end) = rest.split_once('"').expect("the end of the body");
        let message = format!("{start}{}\"{end}", STANDARD.encode(&bytes));
        prop_assert_ne!(IdFinder::new(["a".to_owned()]).matches(message.as_bytes()), Match::Malformed);
        let _ = parse(message.as_bytes(), Keep::Args);
    }
}
