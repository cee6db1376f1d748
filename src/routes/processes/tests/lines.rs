//! Command lines.

use super::*;

/// A command line as a shell script of its own.
fn line(text: &str, expected: &str) {
    let expected: &[&str] = if expected.is_empty() {
        &[]
    } else {
        &[expected]
    };
    check(Kind::Shell, text, expected);
}

#[test]
fn options_as_celery_takes_them() {
    for (text, expected) in [
        ("celery -A proj worker", "1 proj -"),
        ("celery -A proj worker -Q mail,web", "1 proj mail,web"),
        ("celery --app=proj worker --queues=mail", "1 proj mail"),
        ("celery --app proj worker --queues mail", "1 proj mail"),
        ("celery -Aproj worker -Qmail -l info", "1 proj mail"),
        ("celery worker -A proj -Q mail", "1 proj mail"),
        ("celery -A proj worker -Q a -Q b", "1 proj b"),
        ("celery -A proj worker -EQ mail", "1 proj mail"),
        ("celery -A proj worker -EQmail -B", "1 proj mail"),
        ("celery -A proj worker -Q=mail", "1 proj =mail"),
        ("celery -A proj worker -Q 'a, b'", "1 proj a, b"),
        (
            "celery -A proj worker -X a,b -I proj.more",
            "1 proj - X=a,b I=proj.more",
        ),
        (
            "celery -A proj worker --exclude-queues=a --include=x,y",
            "1 proj - X=a I=x,y",
        ),
        (
            "celery -A proj worker -n w1@%h -P gevent -c 100",
            "1 proj - n=w1@%h P=gevent c=100",
        ),
        (
            "celery -A proj -b redis:// --workdir /app worker -Q a",
            "1 proj a",
        ),
        ("celery -C -q -A proj worker -Ofair -Q a", "1 proj a"),
        ("celery -A proj worker --loglevel -Q", "1 proj -"),
        ("celery -A proj worker -- -Q a", "1 proj -"),
        ("celery -A proj worker --own-option x -Q a", "1 proj a"),
        ("celery --own worker -A proj worker -Q a", "1 proj a"),
        ("celery worker", "1 - -"),
        ("celeryd -A proj -Q a", "1 proj a"),
        ("celery -A proj beat -l info", ""),
        ("celery -A proj flower", ""),
        ("celery -A proj inspect active", ""),
        ("celery -A proj purge -Q a", ""),
        (
            "celery --version",
            "? 1 the command of celery is not told here",
        ),
    ] {
        line(text, expected);
    }
}

#[test]
fn programs_before_it() {
    for wrapper in [
        "exec",
        "nohup",
        "python -m",
        "python3.12 -u -m",
        "/opt/venv/bin/python -W ignore -m",
        "poetry run",
        "poetry run python -m",
        "uv run",
        "uv run --no-dev --extra worker --",
        "pipenv run",
        "pdm run",
        "conda run -n env --no-capture-output",
        "newrelic-admin run-program",
        "ddtrace-run",
        "opentelemetry-instrument --service_name x",
        "dumb-init --",
        "dumb-init",
        "/usr/bin/tini --",
        "tini -g -s --",
        "gosu app",
        "su-exec app:app",
        "sudo -u app -E",
        "env A=b C=d",
        "env -i A=b",
        "A=b C='d e'",
        "nice -n 10",
        "timeout 3600",
        "stdbuf -oL",
        "time",
        "watchmedo auto-restart -d . -p '*.py' --recursive --",
        "watchmedo auto-restart --directory=./ --pattern=*.py --recursive --",
        "wait-for-it.sh db:5432 -t 30 --",
        "./wait-for-it.sh rabbit:5672 -- poetry run",
        "dockerize -wait tcp://db:5432 -timeout 30s",
        "doppler run --",
        "chamber exec app -- nohup",
        "coverage run -m",
        "python manage.py",
    ] {
        let text = format!("{wrapper} celery -A proj worker -Q mail");
        line(&text, "1 proj mail");
    }
    for text in [
        "sh -c 'celery -A proj worker -Q mail'",
        "/bin/bash -lc \"exec celery -A proj worker -Q mail\"",
        "bash -o pipefail -c 'sleep 1 && celery -A proj worker -Q mail'",
        "su - app -c 'celery -A proj worker -Q mail'",
        "su app -s /bin/sh -c \"celery -A proj worker -Q mail\"",
        "sh -c \"sh -c 'celery -A proj worker -Q mail'\"",
        "watchfiles 'celery -A proj worker -Q mail' proj",
        "watchfiles --filter python 'celery -A proj worker -Q mail' proj",
        "python /opt/venv/bin/celery -A proj worker -Q mail",
        "/opt/venv/bin/celery -A proj worker -Q mail",
    ] {
        line(text, "1 proj mail");
    }
}

#[test]
fn what_is_not_understood_is_said() {
    for (text, why) in [
        (
            "start-it celery -A proj worker",
            "what start-it does is not known",
        ),
        (
            "docker run image celery -A proj worker",
            "what docker does is not known",
        ),
        (
            "docker run image sh -c 'celery -A p worker -Q a'",
            "what docker does is not known",
        ),
        (
            "set -- celery -A proj worker; exec \"$@\"",
            "what set does is not known",
        ),
        (
            "eval \"celery -A proj worker $X\"",
            "what eval does is not known",
        ),
        (
            "$CELERY_BIN -A proj worker",
            "$CELERY_BIN is not set in this file",
        ),
        (
            "celery -A proj $COMMAND",
            "$COMMAND is not set in this file",
        ),
        (
            "celery multi start $NODES -A proj",
            "$NODES is not set in this file",
        ),
        ("celery multi $1 w1 -A proj", "$1 is not set in this file"),
        (
            "celery multi start 100000000 -A proj",
            "it starts more than 200 workers",
        ),
    ] {
        line(text, &format!("? 1 {why}"));
    }
    for text in [
        "echo celery worker",
        "echo 'starting celery worker'",
        "pkill -f 'celery worker'",
        "pip install celery",
        "systemctl restart celery-worker",
        "chown celery:celery /var/run/celery",
        "cp celery.conf worker.conf",
        "# celery -A proj worker",
        "cat <<EOF\ncelery -A proj worker\nEOF",
        "celery multi stop w1 -A proj",
    ] {
        line(text, "");
    }
}

#[test]
fn variables_that_are_known_and_not() {
    for (text, expected) in [
        (
            "celery -A $APP worker -Q mail",
            "1 ($APP is not set in this file) mail",
        ),
        (
            "celery -A p worker -Q $Q",
            "1 p ($Q is not set in this file)",
        ),
        (
            "celery -A p worker -Q \"$Q\" -c 2",
            "1 p ($Q is not set in this file) c=2",
        ),
        (
            "celery -A p worker --queues=mail-$ENV",
            "1 p ($ENV is not set in this file)",
        ),
        ("celery -A p worker -Q ${Q:-mail,web}", "1 p mail,web"),
        ("celery -A p worker -Q ${Q-mail}", "1 p mail"),
        ("celery -A p worker -Q ${Q:-${R:-mail}}", "1 p mail"),
        (
            "celery -A p worker -Q ${Q:?missing}",
            "1 p ($Q is not set in this file)",
        ),
        (
            "celery -A p worker -Q ${Q%x}",
            "1 p (${Q%x} is known only when it runs)",
        ),
        (
            "celery -A p worker -Q $(cat queues)",
            "1 p ($(cat queues) is known only when it runs)",
        ),
        (
            "celery -A p worker -Q `hostname`",
            "1 p (`hostname` is known only when it runs)",
        ),
        (
            "celery -A p worker -Q a --concurrency=${N}",
            "1 p a c=($N is not set in this file)",
        ),
        ("Q=mail\ncelery -A p worker -Q $Q", "2 p mail"),
        (
            "OPTS=\"-Q mail -c 2\"\ncelery -A p worker $OPTS",
            "2 p mail c=2",
        ),
        (
            "OPTS=\"-Q mail\"; OPTS=\"$OPTS -c 2\"\ncelery -A p worker $OPTS",
            "2 p mail c=2",
        ),
        ("export Q='mail'\ncelery -A p worker -Q${Q}", "2 p mail"),
        (
            "Q=a\nif x; then Q=b; fi\ncelery -A p worker -Q $Q",
            "3 p ($Q depends on how the script runs)",
        ),
        ("Q=a\nif x; then Q=b; celery -A p worker -Q $Q; fi", "2 p b"),
        (
            "Q=a\nif x; then Q=b; else celery -A p worker -Q $Q; fi",
            "2 p a",
        ),
        (
            "while read Q; do celery -A p worker -Q $Q; done",
            "1 p ($Q is set as the script runs)",
        ),
        (
            "for q in a b; do celery -A p worker -Q $q & done",
            "1 p ($q changes as the script runs)",
        ),
        (
            "f() { Q=b; }\nQ=a\nf\ncelery -A p worker -Q $Q",
            "4 p ($Q changes as the script runs)",
        ),
        (
            "Q=a\n. ./env\ncelery -A p worker -Q $Q",
            "3 p (./env may set it)",
        ),
        (
            "Q=a\n. venv/bin/activate\ncelery -A p worker -Q $Q",
            "3 p a",
        ),
        ("CELERY_WORKER_QUEUES=mail celery -A p worker", "1 p mail"),
        ("CELERY_WORKER_QUEUES=mail\ncelery -A p worker", "2 p -"),
        ("export CELERY_APP=p\ncelery worker -Q a", "2 p a"),
        ("APP=p celery worker -Q a", "1 p a"),
        (
            "case $1 in\n worker) exec celery -A p worker -Q a ;;\n beat) exec celery -A p beat ;;\nesac",
            "2 p a",
        ),
        ("celery -A p \\\n  worker \\\n  -Q a\\\n,b", "1 p a,b"),
        ("exec celery -A p worker -Q a > log 2>&1 &", "1 p a"),
    ] {
        line(text, expected);
    }
    let lost = "($EXTRA is not set in this file)";
    let expected = format!("1 p {lost} X={lost} I={lost} n={lost} P={lost} c={lost}");
    line("celery -A p worker -Q a $EXTRA", &expected);
    let lost = "($@ is not set in this file)";
    let expected = format!("1 p {lost} X={lost} I={lost} n={lost} P={lost} c={lost}");
    line("exec celery -A p worker \"$@\"", &expected);
    let expected = format!("1 p a X={lost} I={lost} n={lost} P={lost} c={lost}");
    line("exec celery -A p worker \"$@\" -Q a", &expected);
}

#[test]
fn variables_from_outside_win() {
    let script = "celery -A p worker -Q ${Q:-mail}";
    assert_eq!(
        found_with(Kind::Shell, script, &[("Q", "web")]),
        ["1 p web"]
    );
    assert_eq!(found_with(Kind::Shell, script, &[("Q", "")]), ["1 p mail"]);
}

#[test]
fn several_commands() {
    check(
        Kind::Shell,
        "set -e\ncelery -A p worker -Q a & celery -A p worker -Q b\ncelery -A p beat",
        &["2 p a", "2 p b"],
    );
}

#[test]
fn multi_as_celery_spreads_it() {
    for (text, expected) in [
        (
            "celery multi start w1 -A p -Q mail",
            &["1 p mail n=w1@%h"][..],
        ),
        (
            "celery -A p multi start 2 -Q mail -c3",
            &["1 p mail n=celery1@%h c=3", "1 p mail n=celery2@%h c=3"],
        ),
        (
            "celery multi start 3 -A p -Q:1-2 a,b -Q c",
            &[
                "1 p a,b n=celery1@%h",
                "1 p a,b n=celery2@%h",
                "1 p c n=celery3@%h",
            ],
        ),
        (
            "celery multi restart 3 -A p -Q d -Q:1,3 a",
            &[
                "1 p a n=celery1@%h",
                "1 p d n=celery2@%h",
                "1 p a n=celery3@%h",
            ],
        ),
        (
            "celery multi start mail web -A p -Q:mail m -Q:2 w",
            &["1 p m n=mail@%h", "1 p w n=web@%h"],
        ),
        (
            "celery multi start a b -A p --queues:a=m --range-prefix=x",
            &["1 p m n=a@%h", "1 p - n=b@%h"],
        ),
        (
            "celery multi start w@host -A p --logfile='%n.log' --pidfile=x",
            &["1 p - n=w@host"],
        ),
        (
            "celery multi start 1 -A p -Q $Q",
            &["1 p ($Q is not set in this file) n=celery1@%h"],
        ),
    ] {
        if text.ends_with("-Q $Q") {
            // Without quotes the variable may be several words, and name nodes.
            check(Kind::Shell, text, &["? 1 $Q is not set in this file"]);
            check(Kind::Shell, &text.replace("$Q", "\"$Q\""), expected);
        } else {
            check(Kind::Shell, text, expected);
        }
    }
}

#[test]
fn places_point_at_the_text() {
    let text = "# workers\nQUEUES=mail,web\nüü=1; exec celery -A p worker -Q $QUEUES -c 2\n";
    let processes = read(
        Kind::Shell,
        "bin/start.sh",
        text.as_bytes(),
        &BTreeMap::new(),
    );
    let worker = &processes.workers[0];
    assert_eq!(
        worker.location,
        Location {
            file: "bin/start.sh".into(),
            line: 3,
            column: 12,
            end_column: 46,
            text: "üü=1; exec celery -A p worker -Q $QUEUES -c 2".into(),
        }
    );
    let queues = worker.queues_location.as_ref().expect("they are named");
    assert_eq!((queues.line, queues.column, queues.end_column), (2, 8, 16));
}
