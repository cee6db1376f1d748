//! `routes`: where tasks go, by what a project's files say.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};

use super::args::{
    Format, GlobalArgs, RoutesArgs, RoutesCheckArgs, RoutesCommand, RoutesExplainArgs,
    RoutesFormat, RoutesGraphArgs, RoutesReadArgs, Target,
};
use super::output::Access;
use super::{exit, forms, output, reading};
use crate::collect::{Everything, Question};
use crate::config::flags::ConnectionArgs;
use crate::config::input;
use crate::config::policy;
use crate::config::settings;
use crate::diagnose::policy::{self as policies, Applied, Selector, Suppressed, Suppression};
use crate::diagnose::routes::{Explained, explain};
use crate::diagnose::{self, outcome};
use crate::evidence::file;
use crate::evidence::routing::{BrokerFacts, Routing};
use crate::report;
use crate::report::graph::Language;
use crate::report::summary::{Section, Summary};
use crate::report::table::{Style, Verbosity};
use crate::routes::{self, Request, Settings, definitions};

/// An export of definitions of ten thousand queues has some megabytes.
const MOST_DEFINITIONS: u64 = 256 * 1024 * 1024;

/// Runs the command; returns the exit code.
pub(super) fn run(args: &RoutesArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    match &args.command {
        RoutesCommand::Check(args) => check(args, global),
        RoutesCommand::Explain(args) => explain_tasks(args, global),
        RoutesCommand::Graph(args) => graph(args),
    }
}

fn read(args: &RoutesReadArgs, path: &Path) -> anyhow::Result<Routing> {
    let mut env = BTreeMap::new();
    for given in &args.env {
        let Some((name, value)) = given.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            bail!(
                "--env {}: expected NAME=VALUE",
                report::plain::escape(given)
            );
        };
        env.insert(name.to_owned(), value.to_owned());
    }
    let worker_queues = args.worker_queues.iter().map(|queues| {
        let names = queues
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    });
    let request = Request {
        path: path.to_owned(),
        env,
        worker_queues: worker_queues.collect(),
        settings: match (&args.config, &args.app) {
            (Some(file), _) => Settings::File(file.clone()),
            (None, Some(app)) => Settings::App {
                app: app.clone(),
                python: args.python.clone(),
            },
            (None, None) => Settings::OfTheProject,
        },
    };
    let mut routing = routes::read(&request)?;
    routing.broker = broker(args)?;
    Ok(routing)
}

/// What the broker has, where a flag says how to know.
fn broker(args: &RoutesReadArgs) -> anyhow::Result<Option<BrokerFacts>> {
    if let Some(path) = &args.definitions {
        let bytes = input::bytes(path, MOST_DEFINITIONS)
            .with_context(|| format!("{} can't be read", path.display()))?;
        let definitions = definitions::parse(&bytes, args.vhost.as_deref())
            .with_context(|| path.display().to_string())?;
        return Ok(Some(routes::of_definitions(
            &definitions,
            &path.display().to_string(),
        )));
    }
    let (evidence, source) = if let Some(path) = &args.snapshot {
        let opened =
            input::open(path).with_context(|| format!("{} can't be opened", path.display()))?;
        let evidence =
            file::read(io::BufReader::new(opened)).with_context(|| path.display().to_string())?;
        (evidence, path.display().to_string())
    } else if args.live {
        let connection = ConnectionArgs {
            broker: args.broker.clone(),
            ..ConnectionArgs::default()
        };
        let settings = reading::settings(&connection)?;
        let question = Question::Everything(Everything {
            keep: None,
            result_keys: 0,
            sample: None,
            deadline: None,
        });
        let evidence = reading::read(&settings, question)?;
        let source = evidence.broker.url.clone();
        (evidence, source)
    } else {
        return Ok(None);
    };
    match routes::of_evidence(&evidence, &source) {
        Some(facts) => Ok(Some(facts)),
        None => Ok(Some(BrokerFacts {
            source,
            unread: Some("the broker could not be read".to_owned()),
            ..BrokerFacts::default()
        })),
    }
}

fn style(global: &GlobalArgs, color: bool, width: usize) -> Style {
    Style {
        width,
        color,
        verbosity: match (global.quiet, global.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, more) => Verbosity::Verbose(more),
        },
    }
}

fn check(args: &RoutesCheckArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    let begun = Instant::now();
    let targets = args.output.targets()?;
    let here = std::env::current_dir().context("the current directory can't be read")?;
    let settings_file = settings::find_file(&ConnectionArgs::default(), &reading::variable, &here)?;
    let policy = policy::policy(&args.policy, settings_file.as_ref())?;
    let routing = read(&args.read, &args.path)?;
    let diagnosis = diagnose::judge_routing(&routing, &|code| policy.asks(code));
    // The files are read now, and have no other clock.
    let today = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    let mut applied = policies::apply(&policy, None, diagnosis.findings, today);
    accept(&routing, &mut applied);
    if let Some(path) = &args.policy.write_baseline {
        let text = policies::write_baseline(&[(None, &applied)])?;
        output::to_file(path, Access::Usual, |out| out.write_all(text.as_bytes()))?;
    }
    let notes = policies::useless(&policy, &[(&applied, &diagnosis.checks)], today);
    let mut missing = diagnosis.unknown.clone();
    missing.extend(
        routing
            .broker
            .iter()
            .filter_map(|broker| broker.unread.clone()),
    );
    if routing.apps.is_empty() {
        missing.push(format!(
            "no Celery app was found in {}",
            args.path.display()
        ));
    }
    let outcome = exit::styled(
        outcome::of_findings(&applied.findings, policy.fail_on, &missing),
        args.output.exit_code_style,
        args.output.exit_zero,
    );
    let section = Section {
        name: None,
        applied: &applied,
        checks: &diagnosis.checks,
        evidence: None,
    };
    let summary = Summary {
        command: "routes check",
        sections: &[section],
        notes: &notes,
        fail_on: policy.fail_on,
        outcome: &outcome,
        elapsed: begun.elapsed(),
    };
    let check = report::routes::Check {
        routing: &routing,
        applied: &applied,
        checks: &diagnosis.checks,
        unknown: &missing,
        notes: &notes,
        outcome: &outcome,
    };
    for target in &targets {
        if let Some(draw) = forms::drawn_by(target.format) {
            forms::write(draw, &summary, target)?;
            continue;
        }
        write(target.file.as_deref(), global, &|style, out| {
            if target.format == Format::Json {
                report::routes::check_json(&check, out)
            } else {
                report::routes::check_table(&check, style, out)
            }
        })?;
    }
    Ok(outcome.code)
}

/// Takes out what comments in the files accept.
fn accept(routing: &Routing, applied: &mut Applied) {
    let findings = std::mem::take(&mut applied.findings);
    for finding in findings {
        let comment = finding.location.as_ref().and_then(|at| {
            routing.ignores.iter().find(|ignore| {
                let covers = |code: &String| {
                    Selector::parse(code).is_ok_and(|selector| selector.has(&finding.code))
                };
                ignore.file == at.file && ignore.line == at.line && ignore.codes.iter().any(covers)
            })
        });
        match comment {
            None => applied.findings.push(finding),
            Some(comment) => applied.suppressed.push(Suppressed {
                finding,
                why: Suppression::Ignored {
                    reason: comment.reason.clone(),
                    until: None,
                },
            }),
        }
    }
}

/// What writes a report in a style.
type Render<'a> = &'a dyn Fn(&Style, &mut dyn Write) -> io::Result<()>;

fn write(to: Option<&Path>, global: &GlobalArgs, render: Render<'_>) -> anyhow::Result<()> {
    match to {
        None => {
            let style = style(global, output::colors(global.color), output::width());
            output::to_stdout(|out| render(&style, out))
        }
        Some(path) => output::report_to_file(path, Access::Usual, |out| {
            render(&style(global, false, 100), out)
        }),
    }
}

fn explain_tasks(args: &RoutesExplainArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    let routing = read(&args.read, &args.path)?;
    if routing.apps.is_empty() {
        bail!(
            "no Celery app was found in {}: expected a folder with a Celery(…) in it, or --config",
            args.path.display()
        );
    }
    let routes: Vec<Explained> = args
        .tasks
        .iter()
        .flat_map(|task| explain(&routing, task))
        .collect();
    let targets: Vec<Target<RoutesFormat>> = args.output.targets()?;
    for target in &targets {
        write(
            target.file.as_deref(),
            global,
            &|style, out| match target.format {
                RoutesFormat::Table => report::routes::explain_table(&routing, &routes, style, out),
                RoutesFormat::Json => report::routes::explain_json(&routes, out),
            },
        )?;
    }
    let unknown = routes
        .iter()
        .any(|one| one.queue.is_none() && one.exchange.is_none());
    let code = if unknown { 3 } else { 0 };
    Ok(code)
}

fn graph(args: &RoutesGraphArgs) -> anyhow::Result<u8> {
    let routing = read(&args.read, &args.path)?;
    let mut tasks: Vec<&str> = routing
        .apps
        .iter()
        .flat_map(|app| app.tasks.iter().map(|task| task.name.as_str()))
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    let routes: Vec<Explained> = tasks
        .into_iter()
        .flat_map(|task| explain(&routing, task))
        .collect();
    let mut graph = report::routes::graph(&routes);
    report::routes::add_workers(&mut graph, &routing, &routes);
    let language = if args.dot {
        Language::Dot
    } else {
        Language::Mermaid
    };
    output::to_stdout(|out| graph.write(language, out))?;
    Ok(0)
}
