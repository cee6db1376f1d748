//! The command line of a worker, and the programs that are put before it.

mod wrappers;

use std::borrow::Cow;

use super::shell::{Dialect, Field, Value, Variables, fields, script};
use super::text::Text;
use super::{Found, Told, WorkerCommand, multi};

/// Options with a value of `celery` itself and of `celery worker` (Celery 5.7 `bin/celery.py`, `bin/worker.py`,
/// `bin/base.py`), and those of 4.x that are gone. All other options are flags, or unknown.
const WITH_VALUE: [&str; 49] = [
    "-A",
    "--app",
    "-b",
    "--broker",
    "--result-backend",
    "--loader",
    "--config",
    "--workdir",
    "-n",
    "--hostname",
    "-S",
    "--statedb",
    "-l",
    "--loglevel",
    "-O",
    "--optimization",
    "--prefetch-multiplier",
    "-c",
    "--concurrency",
    "-P",
    "--pool",
    "--time-limit",
    "--soft-time-limit",
    "--max-tasks-per-child",
    "--pool-start-method",
    "--max-memory-per-child",
    "-Q",
    "--queues",
    "-X",
    "--exclude-queues",
    "-I",
    "--include",
    "--heartbeat-interval",
    "--autoscale",
    "-s",
    "--schedule-filename",
    "--schedule",
    "--scheduler",
    "-f",
    "--logfile",
    "--pidfile",
    "--uid",
    "--gid",
    "--umask",
    "--executable",
    "--maxtasksperchild",
    "--max-interval",
    "--max-memory-per-children",
    "-p",
];
/// Flags of one letter, which can stand together.
const FLAGS: &str = "CqDEBh";
/// Programs that only speak of workers, or end them.
const HARMLESS: [&str; 34] = [
    "echo",
    "printf",
    "pkill",
    "pgrep",
    "killall",
    "kill",
    "ps",
    "grep",
    "egrep",
    "fgrep",
    "sed",
    "awk",
    "cat",
    "tail",
    "head",
    "less",
    "logger",
    "log",
    "systemctl",
    "service",
    "supervisorctl",
    "pip",
    "pip3",
    "apt",
    "apt-get",
    "apk",
    "yum",
    "dnf",
    "mkdir",
    "chown",
    "chmod",
    "rm",
    "touch",
    "cd",
];

/// Finds the worker that a command starts, if any.
pub(super) fn run(fields: &[Field], variables: &Variables, found: &mut Found<'_>) {
    // Most commands speak of nothing that counts here.
    let names = |field: &Field| {
        let text = field.as_str();
        text.contains("celery") || text.contains("CELERY") || text.contains("worker")
    };
    if found.is_full() || !fields.iter().any(names) {
        return;
    }
    let mut variables = Cow::Borrowed(variables);
    match wrappers::unwrap(fields, &mut variables) {
        wrappers::Inner::Program(fields) => program(fields, &variables, found),
        wrappers::Inner::Script(text) => script(&text, &variables, found),
        wrappers::Inner::Words(text) => {
            let fields = self::fields(&text, &Variables::default(), Dialect::Words);
            // It has fewer words than the command around it, so this ends.
            if fields.iter().any(|field| field.as_str() != text.as_str()) {
                run(&fields, &variables, found);
            }
        }
    }
}

fn program(fields: &[Field], variables: &Variables, found: &mut Found<'_>) {
    let Some(first) = fields.first() else {
        return;
    };
    let name = base(first.as_str());
    if first.unknown.is_some() || !matches!(name, "celery" | "celeryd" | "celeryd-multi") {
        suspect(fields, found);
        return;
    }
    match name {
        "celeryd" => worker(fields, 1, None, variables, found),
        "celeryd-multi" => multi::read(fields, &fields[..0], &fields[1..], variables, found),
        _ => celery(fields, variables, found),
    }
}

/// `celery [OPTIONS] COMMAND`
fn celery(fields: &[Field], variables: &Variables, found: &mut Found<'_>) {
    let mut at = 1;
    while let Some(field) = fields.get(at) {
        let text = field.as_str();
        if field.unknown.is_some() && !text.starts_with('-') {
            // It can be an option, an option's value, or the command.
            at += 1;
            continue;
        }
        if text.starts_with('-') && text.len() > 1 {
            at += if takes_next(text) { 2 } else { 1 };
            continue;
        }
        match text {
            "worker" => return worker(fields, at + 1, Some(&fields[1..at]), variables, found),
            "multi" => {
                let (before, after) = (&fields[1..at], &fields[at + 1..]);
                return multi::read(fields, before, after, variables, found);
            }
            // Another command starts no worker. An unknown option may have a value.
            _ if at > 1 && is_odd(fields[at - 1].as_str()) => at += 1,
            _ => return,
        }
    }
    let vague = fields[1..].iter().find_map(|field| field.unknown.clone());
    let why = vague.unwrap_or_else(|| "the command of celery is not told here".to_owned());
    found.unknown(&line(fields), why);
}

/// Whether an option is none that is known, so that what follows may be its value.
fn is_odd(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or_default();
    let known =
        WITH_VALUE.contains(&name) || matches!(name, "--no-color" | "--quiet" | "--skip-checks");
    option.starts_with("--") && !known && !option.contains('=')
}

/// Whether the next word is the value of this option.
fn takes_next(option: &str) -> bool {
    if option.starts_with("--") {
        return WITH_VALUE.contains(&option);
    }
    // Flags can stand before it: `-EQ mail`.
    let letters = option[1..].char_indices();
    for (at, letter) in letters {
        if WITH_VALUE.contains(&format!("-{letter}").as_str()) {
            return at + letter.len_utf8() == option.len() - 1;
        }
        if !FLAGS.contains(letter) {
            return false;
        }
    }
    false
}

/// What the options say, the last of several alike counting, as in Celery.
#[derive(Default)]
pub(super) struct Options {
    values: Vec<(&'static str, Result<Text, String>)>,
}

impl Options {
    /// Reads options from words, which go to `celery` or to a worker.
    pub(super) fn read(&mut self, words: &[Field]) {
        let mut at = 0;
        while let Some(field) = words.get(at) {
            at += 1;
            let text = field.as_str();
            if text == "--" && field.unknown.is_none() {
                return;
            }
            if !text.starts_with('-') {
                // Celery ignores it; but there may be options in it.
                if let Some(why) = &field.unknown {
                    self.lose(why);
                }
                continue;
            }
            let (name, attached) = Self::split(&field.text);
            let Some(name) = name else {
                continue;
            };
            let value = if let Some(text) = attached {
                Some((text, field.unknown.clone()))
            } else {
                let next = words.get(at);
                at += 1;
                next.map(|next| (next.text.clone(), next.unknown.clone()))
            };
            let Some((text, unknown)) = value else {
                continue;
            };
            self.values.push((name, unknown.map_or(Ok(text), Err)));
        }
    }

    /// The option that takes a value, and the value where it stands in the same word.
    fn split(option: &Text) -> (Option<&'static str>, Option<Text>) {
        let known = |name: &str| WITH_VALUE.into_iter().find(|known| *known == name);
        let text = option.as_str();
        if text.starts_with("--") {
            return match option.split_once('=') {
                Some((name, value)) => (known(name.as_str()), Some(value)),
                None => (known(text), None),
            };
        }
        for (at, letter) in text.char_indices().skip(1) {
            if let Some(name) = known(&format!("-{letter}")) {
                let value = option.from(at + letter.len_utf8());
                return (Some(name), Some(value).filter(|value| !value.is_empty()));
            }
            if !FLAGS.contains(letter) {
                break;
            }
        }
        (None, None)
    }

    /// Any option may have another value from here on.
    fn lose(&mut self, why: &str) {
        self.values.push(("", Err(why.to_owned())));
    }

    fn get(&self, names: &[&str], environment: &[&str], variables: &Variables) -> Told<Text> {
        let mut told = self.values.iter().rev();
        let lost = |name: &str| name.is_empty();
        let told = if names.contains(&"-A") {
            // The app belongs to `celery` itself: words among the worker's options can't change it, but may give it in 4.x.
            let given = told.clone().find(|(name, _)| names.contains(name));
            given.or_else(|| told.find(|(name, _)| lost(name)))
        } else {
            told.find(|(name, _)| lost(name) || names.contains(name))
        };
        match told {
            Some((_, Ok(text))) => Told::Is(text.clone()),
            Some((_, Err(why))) => Told::Unknown(why.clone()),
            // click reads variables, too: `CELERY_WORKER_QUEUES` and so on (Celery 5.7 bin/celery.py, auto_envvar_prefix).
            None => match environment
                .iter()
                .find_map(|name| variables.environment(name))
            {
                Some(Value::Known(text)) if !text.is_empty() => Told::Is(text.clone()),
                Some(Value::Unknown(why)) => Told::Unknown(why.clone()),
                Some(Value::Known(_)) | None => Told::Nothing,
            },
        }
    }
}

/// A worker whose options start at a word, after those of `celery` itself.
fn worker(
    fields: &[Field],
    at: usize,
    before: Option<&[Field]>,
    variables: &Variables,
    found: &mut Found<'_>,
) {
    let mut options = Options::default();
    let before = before.unwrap_or_default();
    options.read(before);
    // What is not known before the command word can be no option of the worker.
    options.values.retain(|(name, _)| !name.is_empty());
    if let Some(why) = before.iter().find_map(|field| field.unknown.clone()) {
        let app = |(name, _): &(&str, _)| matches!(*name, "-A" | "--app");
        if !options.values.iter().any(app) {
            options.values.push(("-A", Err(why)));
        }
    }
    options.read(fields.get(at..).unwrap_or_default());
    push(&options, None, &line(fields), variables, found);
}

/// Adds a worker with these options.
pub(super) fn push(
    options: &Options,
    node: Option<String>,
    line: &Text,
    variables: &Variables,
    found: &mut Found<'_>,
) {
    let get = |names: &[&str], environment: &[&str]| options.get(names, environment, variables);
    let queues = get(&["-Q", "--queues"], &["CELERY_WORKER_QUEUES"]);
    let queues_location = queues.is().map(|text| found.file.location_of(text));
    let hostname = get(&["-n", "--hostname"], &["CELERY_WORKER_HOSTNAME"]);
    let worker = WorkerCommand {
        app: one(get(&["-A", "--app"], &["APP", "CELERY_APP"])),
        queues: list(queues),
        excluded: list(get(
            &["-X", "--exclude-queues"],
            &["CELERY_WORKER_EXCLUDE_QUEUES"],
        )),
        include: list(get(&["-I", "--include"], &["CELERY_WORKER_INCLUDE"])),
        hostname: node.map_or_else(|| one(hostname), Told::Is),
        pool: one(get(&["-P", "--pool"], &["CELERY_WORKER_POOL"])),
        concurrency: one(get(
            &["-c", "--concurrency"],
            &["CELERY_WORKER_CONCURRENCY"],
        )),
        location: found.file.location_of(line),
        queues_location,
    };
    found.processes.workers.push(worker);
}

fn one(text: Told<Text>) -> Told<String> {
    match text {
        Told::Is(text) => Told::Is(text.as_str().to_owned()),
        Told::Nothing => Told::Nothing,
        Told::Unknown(why) => Told::Unknown(why),
    }
}

/// The names of a list, whose blanks count (Celery 5.7 utils/text.py, `str_to_list`).
fn list(text: Told<Text>) -> Told<Vec<String>> {
    match one(text) {
        Told::Is(text) => Told::Is(text.split(',').map(str::to_owned).collect()),
        Told::Nothing => Told::Nothing,
        Told::Unknown(why) => Told::Unknown(why),
    }
}

/// All of a command, to be shown.
pub(super) fn line(fields: &[Field]) -> Text {
    let mut line = Text::default();
    for field in fields {
        line.append(&field.text);
    }
    line
}

/// Tells of a command that is not understood and names a worker.
pub(super) fn suspect(fields: &[Field], found: &mut Found<'_>) {
    let Some(first) = fields.first() else {
        return;
    };
    let name = base(first.as_str());
    if first.unknown.is_none() && HARMLESS.contains(&name) {
        return;
    }
    let is_worker = |text: &str| matches!(text, "worker" | "multi" | "celeryd");
    let mut celery = false;
    let mut named = false;
    for field in fields {
        let text = field.as_str();
        let words = || text.split_whitespace().map(base);
        // An unknown program whose variable speaks of Celery is one as well.
        let by_name = field.unknown.is_some() && text.to_ascii_lowercase().contains("celery");
        if celery || by_name || text.contains(char::is_whitespace) {
            let inner = text.contains("celery") && words().any(is_worker);
            named |= (celery && is_worker(text)) || inner;
        }
        celery |= base(text) == "celery" || by_name;
    }
    // The arguments of an image whose own program is not told here.
    let arguments = first.unknown.is_none()
        && name == "worker"
        && fields[1..]
            .iter()
            .any(|field| field.as_str().starts_with('-'));
    if named || arguments {
        let why = match &first.unknown {
            Some(why) => why.clone(),
            None if arguments => {
                "the program that gets these arguments is not told here".to_owned()
            }
            None => format!("what {name} does is not known"),
        };
        found.unknown(&line(fields), why);
    }
}

/// The last part of a path.
pub(super) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
