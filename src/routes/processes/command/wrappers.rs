//! Programs that start the program that is named after them.

use std::borrow::Cow;

use super::base;
use crate::routes::processes::shell::{Field, Value, Variables, is_name};
use crate::routes::processes::text::Text;

/// What is left of a command.
pub(super) enum Inner<'f> {
    /// A program with its arguments.
    Program(&'f [Field]),
    /// The text of a shell's `-c`.
    Script(Text),
    /// A command in one word, which is split and not run by a shell.
    Words(Text),
}

/// A wrapper: its name, the words that must follow, options with a value, and how many words stand before the command.
struct Wrapper {
    name: &'static str,
    verbs: &'static [&'static str],
    with_value: &'static [&'static str],
    before: usize,
}

const fn wrapper(
    name: &'static str,
    verbs: &'static [&'static str],
    with_value: &'static [&'static str],
    before: usize,
) -> Wrapper {
    Wrapper {
        name,
        verbs,
        with_value,
        before,
    }
}

const WRAPPERS: &[Wrapper] = &[
    wrapper("exec", &[], &["-a"], 0),
    wrapper("command", &[], &[], 0),
    wrapper("builtin", &[], &[], 0),
    wrapper("nohup", &[], &[], 0),
    wrapper("setsid", &[], &[], 0),
    wrapper("time", &[], &["-f", "-o"], 0),
    wrapper("nice", &[], &["-n", "--adjustment"], 0),
    wrapper("ionice", &[], &["-c", "-n", "-p"], 0),
    wrapper("stdbuf", &[], &["-i", "-o", "-e"], 0),
    wrapper("chrt", &[], &[], 1),
    wrapper("timeout", &[], &["-k", "-s", "--kill-after", "--signal"], 1),
    wrapper(
        "sudo",
        &[],
        &["-u", "-g", "-h", "-p", "-C", "-D", "--user", "--group"],
        0,
    ),
    wrapper("doas", &[], &["-u", "-C"], 0),
    wrapper("gosu", &[], &[], 1),
    wrapper("su-exec", &[], &[], 1),
    wrapper("setuidgid", &[], &[], 1),
    wrapper("s6-setuidgid", &[], &[], 1),
    wrapper("with-contenv", &[], &[], 0),
    wrapper(
        "chpst",
        &[],
        &[
            "-u", "-U", "-b", "-e", "-/", "-n", "-l", "-L", "-m", "-d", "-o", "-p", "-f", "-c",
            "-r", "-t",
        ],
        0,
    ),
    wrapper("dumb-init", &[], &["-r", "--rewrite"], 0),
    wrapper("tini", &[], &["-p", "-e"], 0),
    wrapper("docker-init", &[], &["-p", "-e"], 0),
    wrapper("catatonit", &[], &[], 0),
    wrapper(
        "poetry",
        &["run"],
        &["-C", "--directory", "-P", "--project"],
        0,
    ),
    wrapper("uv", &["run"], UV, 0),
    wrapper("pipenv", &["run"], &[], 0),
    wrapper("pdm", &["run"], &["-p", "--project"], 0),
    wrapper("rye", &["run"], &[], 0),
    wrapper("hatch", &["run"], &["-e", "--env"], 0),
    wrapper("conda", &["run"], CONDA, 0),
    wrapper("mamba", &["run"], CONDA, 0),
    wrapper("micromamba", &["run"], CONDA, 0),
    wrapper("newrelic-admin", &["run-program"], &[], 0),
    wrapper("ddtrace-run", &[], &[], 0),
    wrapper("opentelemetry-instrument", &[], OTEL, 0),
    wrapper("sentry-run", &[], &[], 0),
    wrapper("dotenv", &["run"], &["-f", "--file"], 0),
    wrapper("watchmedo", &["auto-restart"], WATCHMEDO, 0),
    wrapper(
        "dockerize",
        &[],
        &[
            "-wait",
            "-timeout",
            "-template",
            "-stdout",
            "-stderr",
            "-wait-retry-interval",
        ],
        0,
    ),
];

const UV: &[&str] = &[
    "--extra",
    "--group",
    "--with",
    "--with-requirements",
    "--with-editable",
    "--env-file",
    "-p",
    "--python",
    "--package",
    "--directory",
    "--project",
    "--no-group",
    "--only-group",
];
const CONDA: &[&str] = &["-n", "--name", "-p", "--prefix", "--cwd"];
const OTEL: &[&str] = &[
    "--traces_exporter",
    "--metrics_exporter",
    "--logs_exporter",
    "--exporter_otlp_endpoint",
    "--exporter_otlp_traces_endpoint",
    "--service_name",
];
const WATCHMEDO: &[&str] = &[
    "-d",
    "--directory",
    "-p",
    "--pattern",
    "--patterns",
    "-i",
    "--ignore-pattern",
    "--ignore-patterns",
    "--interval",
    "--signal",
    "--kill-after",
    "--debounce-interval",
];
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"];

/// Takes away every wrapper. Variables that these set are noted.
pub(super) fn unwrap<'f>(fields: &'f [Field], variables: &mut Cow<'_, Variables>) -> Inner<'f> {
    let mut fields = fields;
    while let Some(first) = fields.first().filter(|first| first.unknown.is_none()) {
        let name = base(first.as_str());
        let rest = &fields[1..];
        let inner = match name {
            "env" => env(rest, variables),
            _ if SHELLS.contains(&name) => match shell(rest) {
                Some(text) => return Inner::Script(text),
                None => return Inner::Program(fields),
            },
            "su" | "runuser" => match su(rest) {
                Some(text) => return Inner::Script(text),
                None => after_dashes(rest),
            },
            "watchfiles" => match watchfiles(rest) {
                Some(text) => return Inner::Words(text),
                None => return Inner::Program(fields),
            },
            _ if is_python(name) => python(rest),
            "coverage" if is(rest.first(), "run") => python(&rest[1..]),
            "manage.py" | "django-admin" => rest
                .first()
                .filter(|word| word.as_str() == "celery")
                .map(|_| rest),
            _ => wrapped(name, rest).or_else(|| other(name, rest)),
        };
        match inner {
            Some(inner) => fields = inner,
            None => break,
        }
    }
    Inner::Program(fields)
}

fn is(field: Option<&Field>, text: &str) -> bool {
    field.is_some_and(|field| field.unknown.is_none() && field.as_str() == text)
}

fn wrapped<'f>(name: &str, rest: &'f [Field]) -> Option<&'f [Field]> {
    let known = WRAPPERS.iter().find(|wrapper| wrapper.name == name)?;
    let mut rest = rest;
    for verb in known.verbs {
        rest = skip_options(rest, known.with_value);
        if !is(rest.first(), verb) {
            return None;
        }
        rest = &rest[1..];
    }
    rest = skip_options(rest, known.with_value);
    rest = rest.get(known.before..)?;
    let rest = if is(rest.first(), "--") {
        &rest[1..]
    } else {
        rest
    };
    (!rest.is_empty()).then_some(rest)
}

/// What follows options, each of which may have its value in the next word. An unknown word ends them.
fn skip_options<'f>(fields: &'f [Field], with_value: &[&str]) -> &'f [Field] {
    let mut at = 0;
    while let Some(field) = fields.get(at) {
        let text = field.as_str();
        if text == "--" {
            return &fields[at + 1..];
        }
        if !text.starts_with(['-', '+']) || text.len() < 2 || field.loose {
            break;
        }
        at += if with_value.contains(&text) { 2 } else { 1 };
    }
    fields.get(at..).unwrap_or_default()
}

/// `env [-i] [-u NAME] [NAME=VALUE]... COMMAND`
fn env<'f>(fields: &'f [Field], variables: &mut Cow<'_, Variables>) -> Option<&'f [Field]> {
    let mut rest = skip_options(fields, &["-u", "--unset", "-C", "--chdir"]);
    while let Some(field) = rest.first() {
        let Some((name, value)) = field.text.split_once('=') else {
            break;
        };
        if !is_name(name.as_str()) {
            break;
        }
        let value = field
            .unknown
            .clone()
            .map_or(Value::Known(value), Value::Unknown);
        variables.to_mut().export(name.as_str(), value);
        rest = &rest[1..];
    }
    (!rest.is_empty()).then_some(rest)
}

/// The script of `sh -c SCRIPT`.
fn shell(fields: &[Field]) -> Option<Text> {
    let mut options = fields.iter().skip_while(|field| {
        let text = field.as_str();
        let has_c = text.ends_with('c') && !text.starts_with("--");
        text == "sh" || (text.starts_with(['-', '+']) && !has_c) || text == "pipefail"
    });
    let option = options.next()?.as_str();
    let script = options.next()?;
    let given = option.starts_with('-') && option.ends_with('c');
    (given && script.unknown.is_none()).then(|| script.text.clone())
}

/// The script of `su USER -c SCRIPT`.
fn su(fields: &[Field]) -> Option<Text> {
    let at = fields
        .iter()
        .position(|field| matches!(field.as_str(), "-c" | "--command"))?;
    let script = fields.get(at + 1)?;
    script.unknown.is_none().then(|| script.text.clone())
}

/// The command of `watchfiles 'COMMAND' [PATH]...`
fn watchfiles(fields: &[Field]) -> Option<Text> {
    let with_value = [
        "--ignore-paths",
        "--target-type",
        "--filter",
        "--args",
        "--verbosity",
        "--sigint-timeout",
        "--sigkill-timeout",
        "--grace-period",
    ];
    let command = skip_options(fields, &with_value).first()?;
    let known = command.unknown.is_none() && command.as_str().contains(char::is_whitespace);
    known.then(|| command.text.clone())
}

fn is_python(name: &str) -> bool {
    let version = name
        .strip_prefix("python")
        .or_else(|| name.strip_prefix("pypy"));
    version.is_some_and(|version| version.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// `python [OPTIONS] -m MODULE` or `python [OPTIONS] FILE`: the module or the file is the program.
fn python(fields: &[Field]) -> Option<&[Field]> {
    let mut at = 0;
    while let Some(field) = fields.get(at) {
        match field.as_str() {
            _ if field.unknown.is_some() => return None,
            "-m" => return fields.get(at + 1..).filter(|rest| !rest.is_empty()),
            "-c" => return None,
            "-W" | "-X" | "--rcfile" | "--source" => at += 2,
            option if option.starts_with('-') => at += 1,
            _ => return Some(&fields[at..]),
        }
    }
    None
}

/// Any other program: by custom what follows `--` is a command that it starts.
fn other<'f>(name: &str, fields: &'f [Field]) -> Option<&'f [Field]> {
    if matches!(name, "celery" | "celeryd") || super::HARMLESS.contains(&name) {
        return None;
    }
    after_dashes(fields)
}

fn after_dashes(fields: &[Field]) -> Option<&[Field]> {
    let at = fields.iter().position(|field| field.as_str() == "--")?;
    let rest = fields.get(at + 1..)?;
    let names = rest.iter().any(|field| base(field.as_str()) == "celery");
    names.then_some(rest)
}
