use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::routes::tree;

/// The names of a module, with others beside it, as texts: `?` for what is unknown.
///
/// It is read in a thread with a stack as large as that of the command.
fn names(files: &[(&str, &str)], env: &[(&str, &str)]) -> BTreeMap<String, String> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(1 << 28)
            .spawn_scoped(scope, || names_here(files, env))
            .expect("a thread")
            .join()
            .expect("no panic")
    })
}

fn names_here(files: &[(&str, &str)], env: &[(&str, &str)]) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    let tree = tree::list(directory.path()).expect("a folder");
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut project = Project::new(&tree, env.collect());
    let first = tree.python.iter().position(|name| name == files[0].0);
    let file = u32::try_from(first.expect("it is listed")).expect("few");
    let scope = project.scope(file);
    scope
        .names
        .iter()
        .map(|(name, value)| {
            let value = project.settle(value.clone());
            (name.to_string(), shown(&value, 5))
        })
        .collect()
}

fn shown(value: &Value, depth: usize) -> String {
    if depth == 0 {
        return "…".to_owned();
    }
    let list = |items: &[Value]| {
        let items: Vec<String> = items.iter().map(|item| shown(item, depth - 1)).collect();
        items.join(",")
    };
    match &value.kind {
        Kind::None => "None".to_owned(),
        Kind::Bool(truth) => truth.to_string(),
        Kind::Int(number) => number.to_string(),
        Kind::Float(number) => number.to_string(),
        Kind::Str(text) => text.to_string(),
        Kind::List(inner) if inner.borrow().spoiled.is_none() => {
            format!("[{}]", list(&inner.borrow().items))
        }
        Kind::Tuple(items) | Kind::Set(items) => format!("({})", list(items)),
        Kind::Dict(inner) if inner.borrow().spoiled.is_none() => {
            let inner = inner.borrow();
            let pairs = inner.entries.iter().map(|(key, value)| {
                format!("{}:{}", shown(key, depth - 1), shown(value, depth - 1))
            });
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        Kind::Queue(queue) => format!(
            "Queue({},{},{})",
            queue.name, queue.exchange.name, queue.routing_key
        ),
        Kind::App(_) => "App".to_owned(),
        Kind::Task(_) => "Task".to_owned(),
        _ => "?".to_owned(),
    }
}

/// What `x` is after these lines.
fn x(text: &str) -> String {
    names(&[("a.py", text)], &[])
        .remove("x")
        .unwrap_or_default()
}

#[test]
fn literals_and_operators() {
    for (text, value) in [
        ("x = 'a' 'b' + f'{1}c'", "ab1c"),
        ("n = 'q'\nx = [n, *['r'], 's'] + ['t']", "[q,r,s,t]"),
        ("a = {'k': 1}\nx = {**a, 'l': 2} | {'k': 3}", "{k:3,l:2}"),
        (
            "x = {'a': 1}\nx.update(b=2)\nx['c'] = 3\nx.update({'a': 4})",
            "{a:4,b:2,c:3}",
        ),
        ("x = []\ny = x\ny.append('a')\ny += ['b']", "[a,b]"),
        ("x = ['q.%s' % n for n in ('a', 'b') if n != 'b']", "[q.a]"),
        ("x = {n: n.upper() for n in 'a,b'.split(',')}", "{a:A,b:B}"),
        ("x = '{}-{k}'.format('a', k='b')", "a-b"),
        (
            "x = ('a' if 1 > 2 else 'b', not [], 'a' in ['a'])",
            "(b,true,true)",
        ),
        ("x = []\nfor n in range(3):\n    x.append(n)", "?"),
        ("x = []\nfor n in ('a', 'b'):\n    x.append(n)", "[a,b]"),
        (
            "def f(a, b='y'):\n    return a + b\nx = f('x') + f('1', b='2')",
            "xy12",
        ),
        ("class A:\n    q = 'a'\nclass B(A):\n    pass\nx = B.q", "a"),
        (
            "from enum import Enum\nclass Q(str, Enum):\n    A = 'a'\nx = Q.A.value",
            "a",
        ),
        (
            "from kombu import Queue, Exchange\nx = Queue('a', Exchange('e'), 'k')",
            "Queue(a,e,k)",
        ),
        ("x = dict(a=1, **{'b': 2})", "{a:1,b:2}"),
    ] {
        assert_eq!(x(text), value, "{text}");
    }
}

#[test]
fn what_depends_on_the_run_is_unknown() {
    for text in [
        "x = open('f').read()",
        "if unknown():\n    x = 'a'\nelse:\n    x = 'b'",
        "x = 'a'\nif unknown():\n    x = 'b'",
        "x = ['a']\nif unknown():\n    x.append('b')",
        "x = ['a']\nchange(x)",
        "x = ['a']\ndef later():\n    x.append('b')",
        "x = {'a': 1, unknown(): 2}",
        "import os\nx = os.environ['X']",
        "x = [n for n in unknown()]",
        "for x in unknown():\n    pass",
        "x = (lambda: 'a')()",
        "async def f():\n    return 'a'\nx = f()",
        "def f():\n    if unknown():\n        return 'a'\n    return 'b'\nx = f()",
        "x = 'a' * 3",
    ] {
        assert_eq!(x(text), "?", "{text}");
    }
    assert_eq!(x("x = 'a'\nif unknown():\n    x = 'a'"), "a");
}

#[test]
fn the_environment_is_its_default_or_what_is_given() {
    let text = "import os\nfrom os import getenv\nx = os.environ.get('X', 'd')\ny = getenv('Y') or 'e'\nz = os.environ['Z']\n";
    let with = |env: &[(&str, &str)]| {
        let names = names(&[("a.py", text)], env);
        format!("{} {} {}", names["x"], names["y"], names["z"])
    };
    assert_eq!(with(&[]), "d e ?");
    assert_eq!(with(&[("X", "1"), ("Y", "2"), ("Z", "3")]), "1 2 3");
}

#[test]
fn names_of_other_files() {
    let found = names(
        &[
            (
                "p/a.py",
                "from .b import *\nfrom . import b\nfrom p.sub.c import C as D\nimport p.b as other\nfrom gone import G\nx = (A, b.A, D, other.A, G)\n",
            ),
            ("p/__init__.py", ""),
            ("p/b.py", "from .a import late\nA = 'a'\n_B = 'b'\n"),
            ("p/sub/c.py", "C = 'c'\n"),
        ],
        &[],
    );
    assert_eq!(found["x"], "(a,a,c,a,?)");
    assert!(!found.contains_key("_B"));
}

#[test]
fn an_import_that_fails_leaves_what_stands_in_for_it() {
    assert_eq!(
        x("try:\n    from .local import *\nexcept ImportError:\n    x = 'a'"),
        "a"
    );
    let found = names(
        &[
            (
                "a.py",
                "try:\n    from b import x\nexcept ImportError:\n    x = 'a'\n",
            ),
            ("b.py", "x = 'b'\n"),
        ],
        &[],
    );
    assert_eq!(found["x"], "b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics(text in "[a-c=+\\[\\](){}:,.'\"\\n f*#@\\\\-]{0,120}") {
        let _ = names(&[("a.py", &text)], &[]);
    }

    #[test]
    fn no_damage_panics(at in 0_usize..700, cut in 0_usize..40, junk in "[\\[\\](){}'\":,=*\\n]{0,3}") {
        let text = include_str!("../../../fixtures/routes/plain/celeryconfig.py");
        let (at, end) = (at.min(text.len()), (at + cut).min(text.len()));
        let _ = names(&[("a.py", &format!("{}{junk}{}", &text[..at], &text[end..]))], &[]);
    }
}
