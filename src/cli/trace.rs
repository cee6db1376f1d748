//! `trace`: where a task is, or how it was lost.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufReader, Write};
use std::path::Path;

use anyhow::{Context, bail};

use super::args::{GlobalArgs, Target, TraceArgs, TraceFormat};
use super::ids::{Asked, Settled};
use super::output::Access;
use super::{exit, output, reading};
use crate::celery::task_id;
use crate::collect::Question;
use crate::config::input;
use crate::config::settings::Settings;
use crate::diagnose::{self, Diagnosis, Outcome, Stage, StageStatus, Trace, Verdict, outcome};
use crate::evidence::{Evidence, Scope, file};
use crate::report;
use crate::report::table::{Style, Verbosity};

/// Runs the command; returns the exit code.
pub(super) fn run(args: &TraceArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    let targets = args.output.targets()?;
    let asked = Asked::read(&args.ids, &args.exact, BufReader::new(io::stdin()))?;
    let all = asked.all();
    let settings = match &args.snapshot {
        Some(_) => None,
        None => Some(reading::settings(&args.connection)?),
    };
    let evidence = match (&args.snapshot, &settings) {
        (Some(path), _) => from_snapshot(path, args, &asked)?,
        (None, Some(settings)) => reading::read(settings, Question::Ids(all.clone()))?,
        (None, None) => bail!("no broker given"),
    };
    let Settled { ids, taken, notes } = settle(&asked, &evidence, &all);
    if !global.quiet {
        for note in notes {
            let note = report::plain::readable(&note).into_owned();
            // Where standard error is closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{note}");
        }
    }
    let mut diagnosis = diagnose::judge(&evidence, &ids);
    if let Some(app) = &args.connection.app {
        diagnosis.name_app(app);
    }
    let asked = report::Asked {
        near: near(&diagnosis, &evidence, settings.as_ref())?,
        taken,
    };
    let outcome = exit::styled(
        outcome::of(&diagnosis),
        args.output.exit_code_style,
        args.output.exit_zero,
    );
    let told = Told {
        evidence: &evidence,
        diagnosis: &diagnosis,
        asked: &asked,
        outcome: &outcome,
    };
    let access = Access::of(args.connection.show_args);
    for target in &targets {
        write(target, &told, global, access)?;
    }
    Ok(outcome.code)
}

/// What a report tells.
struct Told<'a> {
    evidence: &'a Evidence,
    diagnosis: &'a Diagnosis,
    asked: &'a report::Asked,
    outcome: &'a Outcome,
}

/// Which ids are meant, now that it is known which there are.
fn settle(asked: &Asked, evidence: &Evidence, all: &[String]) -> Settled {
    if !asked.is_open() {
        return asked.settle(&|_| false);
    }
    let judged = diagnose::judge(evidence, all);
    let known: HashSet<&str> = judged
        .traces
        .iter()
        .filter(|trace| !nothing_knows(trace))
        .map(|trace| trace.id.as_str())
        .collect();
    asked.settle(&|id| known.contains(id))
}

fn nothing_knows(trace: &Trace) -> bool {
    let seen = |stage: &Stage| stage.status == StageStatus::Seen;
    match trace.verdict {
        Verdict::Unknown => true,
        Verdict::Undetermined => !trace.stages.iter().any(seen),
        _ => false,
    }
}

/// More ids that nothing knows are no slip of the pen.
const MOST_MISTYPED: usize = 20;

/// For ids that nothing knows: those in reach that may be meant, with where they stand.
fn near(
    diagnosis: &Diagnosis,
    evidence: &Evidence,
    settings: Option<&Settings>,
) -> anyhow::Result<BTreeMap<String, Vec<(String, &'static str)>>> {
    let unknown = diagnosis.traces.iter().filter(|trace| nothing_knows(trace));
    let unknown: Vec<String> = unknown
        .filter(|trace| task_id::shape(&trace.id) != task_id::Shape::Custom)
        .map(|trace| trace.id.clone())
        .take(MOST_MISTYPED + 1)
        .collect();
    if unknown.is_empty() || unknown.len() > MOST_MISTYPED {
        return Ok(BTreeMap::new());
    }
    let is_meant = |id: &str| unknown.iter().any(|by| task_id::is_meant(by, id));
    let found = match settings {
        Some(settings) => reading::near(settings, evidence, &unknown)?,
        None => crate::collect::near::in_evidence(evidence, &is_meant),
    };
    let meant = |by: &String| {
        let near = found.iter().filter(|(id, _)| task_id::is_meant(by, id));
        let near: Vec<_> = near.map(|(id, place)| (id.clone(), *place)).collect();
        (by.clone(), near)
    };
    Ok(unknown.iter().map(meant).collect())
}

fn from_snapshot(path: &Path, args: &TraceArgs, asked: &Asked) -> anyhow::Result<Evidence> {
    let opened =
        input::open(path).with_context(|| format!("{} can't be opened", path.display()))?;
    let mut evidence =
        file::read(BufReader::new(opened)).with_context(|| path.display().to_string())?;
    let settings = reading::offline_settings(&args.connection)?;
    if let Some(timeout) = settings.visibility_timeout {
        evidence.visibility_timeout_given = Some(timeout.as_secs_f64());
    }
    let known = |id: &str| evidence.tasks.contains_key(id);
    let meant = asked.settle(&known).ids;
    for id in &meant {
        if known(id) {
            continue;
        }
        if let Scope::Ids(asked) = &evidence.scope {
            bail!(
                "{} was taken for {} and says nothing about {}: take a snapshot for this id, or one without ids",
                path.display(),
                crate::evidence::count(asked.len() as u64, "other id"),
                report::plain::escape(id)
            );
        }
    }
    for id in meant {
        evidence.note_absent(&id);
    }
    Ok(evidence)
}

fn write(
    target: &Target<TraceFormat>,
    told: &Told<'_>,
    global: &GlobalArgs,
    access: Access,
) -> anyhow::Result<()> {
    let Told {
        evidence,
        diagnosis,
        asked,
        outcome,
    } = *told;
    let render = |color: bool, width: usize, out: &mut dyn Write| match target.format {
        TraceFormat::Json => report::json::trace(evidence, diagnosis, asked, outcome, out),
        TraceFormat::Jsonl => report::jsonl::trace(evidence, diagnosis, asked, outcome, out),
        TraceFormat::Table => {
            let verbosity = match (global.quiet, global.verbose) {
                (true, _) => Verbosity::Quiet,
                (false, 0) => Verbosity::Normal,
                (false, more) => Verbosity::Verbose(more),
            };
            let style = Style {
                width,
                color,
                verbosity,
            };
            report::table::trace(evidence, diagnosis, asked, outcome, &style, out)
        }
    };
    match &target.file {
        None => {
            let (color, width) = (output::colors(global.color), output::width());
            output::to_stdout(|out| render(color, width, out))
        }
        Some(path) => output::report_to_file(path, access, |out| render(false, 100, out)),
    }
}
