//! Files that nobody would write.

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 8] = [
    Kind::Procfile,
    Kind::Compose,
    Kind::Dockerfile,
    Kind::Systemd,
    Kind::Supervisor,
    Kind::Shell,
    Kind::Celeryd,
    Kind::Kubernetes,
];

/// Pieces that files are made of, and what breaks them.
const PIECES: [&str; 64] = [
    "celery",
    "worker",
    " -A p ",
    " -Q ",
    "a,b",
    "multi start ",
    "3",
    "-Q:1-3 ",
    " ",
    "\n",
    "\\\n",
    "\\",
    "'",
    "\"",
    "`",
    "$",
    "${",
    "}",
    "$(",
    ")",
    "(",
    "$Q",
    "${Q:-",
    "Q=",
    "\nQ=$Q$Q\n",
    "<<EOF\n",
    "EOF\n",
    "#",
    ";",
    "&&",
    "|",
    "if ",
    "then ",
    "fi\n",
    "case x in ",
    "esac\n",
    ";; ",
    "{ ",
    "f() {",
    "for q in ",
    "do ",
    "done\n",
    "services:\n",
    "  worker:\n",
    "    command: ",
    "&a ",
    "*a",
    "- ",
    "[",
    "]",
    "{",
    ": ",
    "? ",
    "|\n  ",
    ">-\n  ",
    "CMD ",
    "FROM x AS ",
    "ENTRYPOINT [\"",
    "[Service]\n",
    "ExecStart=",
    "[program:x]\ncommand=",
    "%(ENV_Q)s",
    "apiVersion: v1\nkind: Pod\n",
    "é\u{301}日",
];

fn survive(text: &[u8]) {
    for kind in KINDS {
        let processes = read(kind, "file", text, &BTreeMap::new());
        for worker in &processes.workers {
            assert!(worker.location.end_column >= worker.location.column);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survive(&[b"celery worker\n", bytes.as_slice()].concat());
    }

    #[test]
    fn any_pieces_are_survived(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60)) {
        survive(format!("{}celery", pieces.concat()).as_bytes());
    }

    /// What stands in single quotes is what comes out, whatever it is.
    #[test]
    fn quotes_keep_any_text(queue in "[^',\0]{1,20}") {
        let script = format!("celery -A p worker -Q '{queue}'");
        let processes = read(Kind::Shell, "file", script.as_bytes(), &BTreeMap::new());
        prop_assert_eq!(&processes.workers[0].queues, &Told::Is(vec![queue]));
    }
}

/// Each of these would take minutes, gigabytes or the whole stack of a reader that does as it is told.
#[test]
fn bombs_do_not_go_off() {
    let many = |piece: &str| piece.repeat(50_000 / piece.len());
    let doubling = format!(
        "Q=xxxxxxxxxx\n{}celery -A p worker -Q $Q\n",
        "Q=$Q$Q\n".repeat(60)
    );
    let numbered = |count: usize, text: &dyn Fn(usize) -> String| {
        let all: Vec<String> = (1..=count).map(text).collect();
        all.concat()
    };
    let levels = numbered(60, &|n| {
        let below = n - 1;
        format!("a{n}: &a{n} [*a{below}, *a{below}, *a{below}]\n")
    });
    let aliases = format!(
        "apiVersion: v1\nkind: celery worker\na0: &a0 [x, x]\n{levels}spec: {{containers: *a60}}\n"
    );
    let texts = [
        doubling,
        aliases.clone(),
        format!("services: &s {{celery: *s}}\n{aliases}"),
        format!("celery {}", many("[")),
        format!("celery: {}", many("{a: ")),
        format!("celery {}", many("(")),
        format!("celery {}", many("{ ")),
        format!("celery {}", many("if x; then ")),
        format!("celery {}", many("$(")),
        format!("celery {}", many("${A:-")),
        format!("celery {}", many("\"$")),
        format!("celery {}", many("sh -c '")),
        format!(
            "Q={}\n{}",
            "x".repeat(2000),
            many("celery $Q $Q worker $Q\n")
        ),
        many("celery -A p worker -Q a\n"),
        many("celery -A p worker -Q a;"),
        many("celery worker A=1 "),
        many("A=1 celery worker;"),
        many("<<celery "),
        many("FROM celery AS celery\n"),
        many("command: celery worker\n"),
        many("$$worker"),
        format!("services: {{celery: {{command: \"{}\"}}}}", many("$(")),
        format!("services: {{celery: [{}]}} # é", many("é,")),
        format!("services:\n  celery: >\n{}", many("    a\n    b\n\n")),
        format!("[program:celery]\ncommand={}", many("%(")),
        format!("celery multi start 200 {}", many("-Q:1 a ")),
        many("- celery worker\n"),
        many("? celery\n"),
        format!("services:\n{}", many("  celery: {extends: celery}\n")),
        numbered(2000, &|n| format!("export celery{n}=a\nA=1 xworker\n")),
        numbered(2000, &|n| format!("celery{n}: &celery{n} a\n")),
    ];
    for text in texts {
        survive(text.as_bytes());
    }
}

#[test]
fn what_is_too_large_or_no_text_is_said() {
    let large = "celery worker\n".repeat(100_000);
    assert_eq!(
        found(Kind::Shell, &large),
        ["? 1 the file is larger than 1 MiB"]
    );
    let bytes = b"celery worker\n\xff";
    let processes = read(Kind::Shell, "file", bytes, &BTreeMap::new());
    assert_eq!(processes.unknown[0].why, "the file is not UTF-8");
    assert_eq!(processes.unknown[0].location.line, 2);
    let twice = "services:\n  celery: {command: celery worker, command: x}\n";
    assert_eq!(
        found(Kind::Compose, twice),
        ["? 2 the key command stands twice"]
    );
}
