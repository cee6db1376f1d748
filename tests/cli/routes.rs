//! `routes` over small projects: each healthy one is clean, and each seeded black hole is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// A copy of a project that a test may break.
struct Project {
    directory: TempDir,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Project {
    fn of(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/routes");
        copy(&root.join(name), directory.path());
        Self { directory }
    }

    fn empty() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    #[track_caller]
    fn change(self, file: &str, from: &str, to: &str) -> Self {
        let text = fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{from:?} in {text}");
        fs::write(self.path(file), text.replace(from, to)).unwrap();
        self
    }

    fn run(&self, args: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_celery-doctor"))
            .arg("routes")
            .args(args)
            .env_clear()
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let ran = Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }

    #[track_caller]
    fn check(&self, args: &[&str], code: i32) -> Value {
        let mut all = vec!["check", "--format", "json"];
        all.extend(args);
        let ran = self.run(&all);
        assert_eq!(ran.code, code, "{}\n{}", ran.stdout, ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// The findings, as `CODE file:line marked text`.
    #[track_caller]
    fn found(&self, args: &[&str], code: i32) -> Vec<String> {
        let report = self.check(args, code);
        let findings = report["findings"].as_array().unwrap();
        findings.iter().map(finding).collect()
    }

    #[track_caller]
    fn clean(&self) {
        assert_eq!(self.found(&[], 0), Vec::<String>::new());
    }

    #[track_caller]
    fn goes_to(&self, task: &str) -> Value {
        let ran = self.run(&["explain", task, "--format", "json"]);
        let report: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
        report["routes"][0].clone()
    }
}

fn finding(finding: &Value) -> String {
    let at = &finding["location"];
    let number = |name: &str| usize::try_from(at[name].as_u64().unwrap_or(1)).unwrap();
    let marked: String = at["text"]
        .as_str()
        .unwrap_or_default()
        .chars()
        .skip(number("column") - 1)
        .take(number("end_column") - number("column"))
        .collect();
    format!(
        "{} {}:{} {marked}",
        finding["code"].as_str().unwrap(),
        at["file"].as_str().unwrap_or_default(),
        at["line"]
    )
}

#[test]
fn healthy_projects_are_clean() {
    for name in ["django", "flask", "plain", "monorepo"] {
        let project = Project::of(name);
        let report = project.check(&["--fail-on", "info"], 0);
        assert_eq!(
            report["findings"].as_array().unwrap().len(),
            0,
            "{name} {report}"
        );
        assert_eq!(
            report["unknown"].as_array().unwrap().len(),
            0,
            "{name} {report}"
        );
        assert!(!report["apps"].as_array().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn tasks_go_where_the_settings_say() {
    let django = Project::of("django");
    let route = django.goes_to("mail.tasks.send");
    assert_eq!(route["queue"], "mail");
    assert_eq!(route["rule"]["pattern"], "mail.tasks.*");
    assert_eq!(route["rule"]["file"], "shop/shop/settings.py");
    assert_eq!(route["consumers"][0], "Procfile:2");
    assert_eq!(django.goes_to("shop.celery.debug_task")["queue"], "celery");
    let flask = Project::of("flask");
    assert_eq!(flask.goes_to("app.tasks.resize_image")["queue"], "images");
    assert_eq!(flask.goes_to("app.tasks.add")["queue"], "celery");
    let plain = Project::of("plain");
    let route = plain.goes_to("tasks.thumbnail");
    assert_eq!(
        (&route["exchange"], &route["routing_key"]),
        (&"media".into(), &"image.small".into())
    );
    let route = plain.goes_to("tasks.mail_welcome");
    assert_eq!(
        (&route["queue"], &route["rule"]["pattern"]),
        (&"mail_out".into(), &r"tasks\.mail_.*".into())
    );
    assert_eq!(route["passed"].as_array().unwrap().len(), 3);
    let monorepo = Project::of("monorepo");
    assert_eq!(monorepo.goes_to("media.audio.cut")["queue"], "audio");
    assert_eq!(
        monorepo.goes_to("billing.invoices.book")["queue"],
        "billing"
    );
}

#[test]
fn a_misspelt_queue_in_settings() {
    let django = Project::of("django").change(
        "shop/shop/settings.py",
        r#"MAIL_QUEUE = "mail""#,
        r#"MAIL_QUEUE = "mial""#,
    );
    assert_eq!(
        django.found(&[], 1),
        [r#"CD110 shop/shop/settings.py:16 "mial""#]
    );
    let report = django.check(&[], 1);
    let remedy = report["findings"][0]["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("did you mean mail?"), "{remedy}");
    let table = django.run(&["check"]).stdout;
    assert!(
        table.contains("shop/shop/settings.py:16:14") && table.contains("^^^^^^"),
        "{table}"
    );
}

#[test]
fn a_misspelt_queue_in_code() {
    let django = Project::of("django").change(
        "shop/orders/tasks.py",
        r#".set(queue="mail")"#,
        r#".set(queue="mal")"#,
    );
    assert_eq!(
        django.found(&[], 1),
        [r#"CD110 shop/orders/tasks.py:13 "mal""#]
    );
    let django = Project::of("django").change(
        "shop/orders/tasks.py",
        r#"@shared_task(queue="celery")"#,
        r#"@shared_task(queue="celry")"#,
    );
    assert_eq!(
        django.found(&[], 1),
        [r#"CD110 shop/orders/tasks.py:11 "celry""#]
    );
    let monorepo = Project::of("monorepo").change(
        "billing/billing/invoices.py",
        r#"queue="media""#,
        r#"queue="meda""#,
    );
    assert_eq!(
        monorepo.found(&[], 1),
        [r#"CD110 billing/billing/invoices.py:11 "meda""#]
    );
}

#[test]
fn a_worker_that_forgets_a_queue() {
    let django = Project::of("django").change("Procfile", "-Q reports", "-Q repotrs");
    assert_eq!(
        django.found(&[], 1),
        [
            r#"CD110 shop/shop/settings.py:19 os.environ.get("REPORT_QUEUE", "reports")"#,
            r#"CD110 shop/shop/settings.py:25 "reports""#
        ]
        .map(|line| line.replace(
            r#"os.environ.get("REPORT_QUEUE", "reports")"#,
            r#""reports""#
        ))
    );
    let django = Project::of("django").change("Procfile", "-Q celery,mail", "-Q mail");
    let found = django.found(&["--fail-on", "warning"], 1);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("CD110 shop/orders/tasks.py") && found[1].starts_with("CD112"),
        "{found:?}"
    );
}

#[test]
fn a_default_from_the_environment_and_the_flag() {
    let django = Project::of("django");
    assert_eq!(
        django.found(&["--env", "REPORT_QUEUE=elsewhere"], 1).len(),
        1
    );
    assert_eq!(django.run(&["check", "--env", "x"]).code, 2);
}

#[test]
fn an_undeclared_queue() {
    let plain = Project::of("plain").change(
        "celeryconfig.py",
        r#"{"queue": "video"}"#,
        r#"{"queue": "vidoe"}"#,
    );
    assert_eq!(plain.found(&[], 1), [r#"CD111 celeryconfig.py:21 "vidoe""#]);
    let flask = Project::of("flask").change(
        "app/__init__.py",
        r#"{"queue": "images"}"#,
        r#"{"queue": "image"}"#,
    );
    assert_eq!(flask.found(&[], 1), [r#"CD111 app/__init__.py:13 "image""#]);
}

#[test]
fn a_key_that_no_binding_takes() {
    let plain = Project::of("plain").change("celeryconfig.py", "image.small", "images.small");
    assert_eq!(
        plain.found(&[], 1),
        ["CD102 celeryconfig.py:22 MEDIA"]
            .map(|line| line.replace("celeryconfig.py:22 MEDIA", "names.py:1 \"media\""))
    );
}

#[test]
fn routes_that_take_nothing() {
    let monorepo =
        Project::of("monorepo").change("media/media/app.py", "media.video.*", "media.vidoe.*");
    assert_eq!(
        monorepo.found(&["--fail-on", "warning"], 1),
        [r#"CD109 media/media/app.py:9 "media.vidoe.*""#]
    );
    let monorepo =
        Project::of("monorepo").change("media/media/app.py", "media.audio.cut", "media.audio.ctu");
    assert_eq!(
        monorepo.found(&[], 1),
        [r#"CD202 media/media/app.py:9 "media.audio.ctu""#]
    );
    let django = Project::of("django").change(
        "shop/shop/settings.py",
        r#""task": "orders.tasks.report""#,
        r#""task": "orders.tasks.reprot""#,
    );
    assert_eq!(
        django.found(&[], 1),
        [r#"CD202 shop/shop/settings.py:23 "orders.tasks.reprot""#]
    );
}

#[test]
fn what_a_broker_has() {
    let definitions = r#"{"rabbit_version": "3.13.0", "vhosts": [{"name": "/"}],
        "exchanges": [{"name": "media", "vhost": "/", "type": "topic", "durable": true, "auto_delete": false, "internal": false, "arguments": {}}],
        "queues": [{"name": "video", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {"x-queue-type": "classic", "x-max-priority": 3}}],
        "bindings": []}"#;
    let plain = Project::of("plain").file("definitions.json", definitions);
    let found = plain.found(&["--definitions", "definitions.json"], 1);
    assert_eq!(
        found,
        [
            r#"CD113 celeryconfig.py:13 Queue("video", media, routing_key="video.#")"#,
            r#"CD108 celeryconfig.py:13 Queue("video", media, routing_key="video.#")"#
        ]
    );
}

#[test]
fn limits_without_a_dead_letter_exchange() {
    let plain = Project::of("plain").change(
        "celeryconfig.py",
        r#"routing_key="video.#")"#,
        r#"routing_key="video.#", message_ttl=60)"#,
    );
    let found = plain.found(&["--fail-on", "warning"], 1);
    assert!(
        found.len() == 1 && found[0].starts_with("CD208 celeryconfig.py:13"),
        "{found:?}"
    );
}

#[test]
fn comments_accept_findings() {
    let line = r#"    app.send_task("media.video.cut", args=[number], queue="meda")"#;
    let broken = || {
        Project::of("monorepo").change(
            "billing/billing/invoices.py",
            r#"queue="media""#,
            r#"queue="meda""#,
        )
    };
    let accepted = broken().change(
        "billing/billing/invoices.py",
        line,
        &format!("{line}  # celery-doctor: ignore[CD110] another team consumes it"),
    );
    let report = accepted.check(&[], 0);
    assert_eq!(
        report["suppressed"][0]["reason"],
        "another team consumes it"
    );
    let other = broken().change(
        "billing/billing/invoices.py",
        line,
        &format!("{line}  # celery-doctor: ignore[CD109]"),
    );
    assert_eq!(other.found(&[], 1).len(), 1);
    let above = broken().change(
        "billing/billing/invoices.py",
        line,
        &format!("    # celery-doctor: ignore[route-to-unconsumed-queue]\n{line}"),
    );
    above.clean();
}

#[test]
fn unknown_parts_are_three_only_where_they_matter() {
    let router = Project::of("plain").change(
        "celeryconfig.py",
        "task_routes = (",
        "def route(name, *args, **kwargs):\n    return None\n\n\ntask_routes = (\n    route,",
    );
    let report = router.check(&[], 3);
    assert!(
        report["unknown"][0]
            .as_str()
            .unwrap()
            .starts_with("celeryconfig.py:"),
        "{report}"
    );
    let variable = Project::of("django").change("Procfile", "-Q reports", "-Q $QUEUES");
    let report = variable.check(&[], 3);
    assert!(
        report["unknown"][0]
            .as_str()
            .unwrap()
            .starts_with("Procfile:3"),
        "{report}"
    );
    variable.check(
        &[
            "--worker-queues",
            "celery,mail",
            "--worker-queues",
            "reports",
        ],
        0,
    );
    // Nobody asks where a setting goes that has nothing to do with routing.
    let other = Project::of("django").change("shop/shop/settings.py", "30 * 60", "limit()");
    other.clean();
}

#[test]
fn a_plain_export() {
    let export =
        r#"{"task_routes": {"tasks.*": {"queue": "lots"}}, "broker_url": "redis://:hunter2@h"}"#;
    let project = Project::empty()
        .file("conf.json", export)
        .file("Procfile", "w: celery -A x worker -Q lost\n");
    let ran = project.run(&["check", "--config", "conf.json"]);
    assert!(
        ran.code == 1 && ran.stdout.contains("CD110") && !ran.stdout.contains("hunter2"),
        "{}",
        ran.stdout
    );
    let toml = "task_default_queue = 'lost'\n";
    let project = project.file("conf.toml", toml);
    assert_eq!(project.run(&["check", "--config", "conf.toml"]).code, 0);
    for (name, content) in [
        ("bad.json", "{"),
        ("bad.toml", "x = redis://:hunter2@h"),
        ("list.json", "[]"),
    ] {
        let project = Project::empty().file(name, content);
        let ran = project.run(&["check", "--config", name]);
        assert!(
            ran.code == 2 && ran.stderr.contains(name) && !ran.stderr.contains("hunter2"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_folder_without_an_app_is_told() {
    let ran = Project::empty().file("x.py", "import os\n").run(&["check"]);
    assert_eq!(ran.code, 3, "{}", ran.stdout);
    assert!(
        ran.stdout.contains("no Celery app was found"),
        "{}",
        ran.stdout
    );
    assert_eq!(Project::empty().run(&["check", "nowhere"]).code, 2);
}

#[test]
fn hostile_files_do_no_harm() {
    let deep = |piece: &str| {
        format!(
            "# celery\nx = {}1{}\n",
            piece.repeat(100_000),
            ")".repeat(100_000)
        )
    };
    let mut project = Project::of("plain")
        .file("bytes.py", b"celery \xff\xfe\x00\x80".as_slice())
        .file("latin.py", b"# coding: latin-1\n# celery \xe4\nx = '\xe4'\n".as_slice())
        .file("broken.py", "celery = (((\n")
        .file("brackets.py", deep("("))
        .file("minus.py", deep("-"))
        .file("not.py", deep("not "))
        .file("plus.py", deep("1 + "))
        .file("lambda.py", deep("lambda: "))
        .file("dots.py", format!("import celery\nx = a{}\n", ".b".repeat(100_000)))
        .file("text.py", "# celery\nx = 'a' * 5\nx = x + x\n".to_owned() + &"x = x + x\n".repeat(100))
        .file("list.py", "# celery\nx = [1]\nx.append(x)\n".to_owned() + &"x = x + [x]\n".repeat(60))
        .file("loop.py", "# celery\nx = list(range(5))\n".to_owned() + &"y = [[a, b] for a in (1,2,3,4,5,6,7,8,9) for b in (1,2,3,4,5,6,7,8,9)]\n".repeat(50))
        .file("circle.py", "# celery\nfrom circle2 import a\nb = a\n")
        .file("circle2.py", "# celery\nfrom circle import b\na = b\n")
        .file("huge.py", vec![b'#'; 3 << 20])
        .file("recursive.py", "# celery\ndef f(x):\n    return f(x) + f(x)\ny = f(1)\n")
        .file("bomb.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c] # celery worker\n");
    std::os::unix::fs::symlink(".", project.path("loop")).unwrap();
    std::os::unix::fs::symlink("nowhere.py", project.path("gone.py")).unwrap();
    project = project.change(
        "celeryconfig.py",
        r#"{"queue": "video"}"#,
        r#"{"queue": "vidoe"}"#,
    );
    let report = project.check(&[], 1);
    assert_eq!(
        finding(&report["findings"][0]),
        r#"CD111 celeryconfig.py:21 "vidoe""#
    );
    let unread = report["unread"].to_string();
    for name in [
        "bytes.py",
        "broken.py",
        "brackets.py",
        "minus.py",
        "huge.py",
    ] {
        assert!(unread.contains(name), "{name} in {unread}");
    }
}

#[test]
fn pictures_and_forms() {
    let plain = Project::of("plain");
    let mermaid = plain.run(&["graph"]).stdout;
    assert!(
        mermaid.starts_with("flowchart LR") && !mermaid.contains("BLACK HOLE"),
        "{mermaid}"
    );
    assert!(plain.run(&["graph", "--dot"]).stdout.starts_with("digraph"));
    let broken = plain.change("celeryconfig.py", "image.small", "images.small");
    assert!(broken.run(&["graph"]).stdout.contains("BLACK HOLE"));
    for (form, mark) in [
        ("sarif", "CD102"),
        ("github", "::error"),
        ("junit", "CD102"),
        ("gitlab", "CD102"),
        ("markdown", "CD102"),
    ] {
        let ran = broken.run(&["check", "--format", form]);
        assert!(
            ran.code == 1 && ran.stdout.contains(mark),
            "{form}: {}",
            ran.stdout
        );
    }
}

#[test]
fn a_snapshot_tells_who_consumes() {
    // It was taken of a Redis with one live worker, which consumes `celery` alone.
    let snapshot =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/incidents/misspelt-queue.json.gz");
    let snapshot = snapshot.to_str().unwrap();
    let project = Project::empty().file(
        "app.py",
        "from celery import Celery\napp = Celery('x', task_routes={'a.*': 'celery', 'b.*': 'emials'})\n",
    );
    assert_eq!(
        project.found(&["--snapshot", snapshot], 1),
        ["CD110 app.py:2 'emials'"]
    );
    // Without it nobody is known to consume anything, which is no fault of the project.
    assert_eq!(project.found(&[], 0), Vec::<String>::new());
    assert_eq!(project.run(&["check", "--snapshot", "app.py"]).code, 2);
}
