//! `trace`: where a task is, or how it was lost.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use anyhow::{Context, bail};

use super::args::{self, GlobalArgs, Target, TraceArgs, TraceFormat};
use super::{exit, output, reading};
use crate::collect::Question;
use crate::diagnose::{self, Diagnosis, Outcome, outcome};
use crate::evidence::{Evidence, Scope, file};
use crate::report;
use crate::report::table::{Style, Verbosity};

/// Runs the command; returns the exit code.
pub(super) fn run(args: &TraceArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    let targets = args.output.targets()?;
    let ids = args::parse_ids(&args.ids, BufReader::new(io::stdin()))?;
    let evidence = match &args.snapshot {
        Some(path) => from_snapshot(path, args, &ids)?,
        None => reading::read(
            &reading::settings(&args.connection)?,
            Question::Ids(ids.clone()),
        )?,
    };
    let diagnosis = diagnose::judge(&evidence, &ids);
    let outcome = exit::styled(
        outcome::of(&diagnosis),
        args.output.exit_code_style,
        args.output.exit_zero,
    );
    for target in &targets {
        write(target, &evidence, &diagnosis, &outcome, global)?;
    }
    Ok(outcome.code)
}

fn from_snapshot(path: &Path, args: &TraceArgs, ids: &[String]) -> anyhow::Result<Evidence> {
    let opened = File::open(path).with_context(|| format!("{} can't be opened", path.display()))?;
    let mut evidence =
        file::read(BufReader::new(opened)).with_context(|| path.display().to_string())?;
    let settings = reading::offline_settings(&args.connection)?;
    if let Some(timeout) = settings.visibility_timeout {
        evidence.visibility_timeout_given = Some(timeout.as_secs_f64());
    }
    for id in ids {
        if evidence.tasks.contains_key(id) {
            continue;
        }
        if let Scope::Ids(asked) = &evidence.scope {
            bail!(
                "{} was taken for {} other ids and says nothing about {}: take a snapshot for this id, or one \
                 without ids",
                path.display(),
                asked.len(),
                report::plain::escape(id)
            );
        }
        evidence.note_absent(id);
    }
    Ok(evidence)
}

fn write(
    target: &Target<TraceFormat>,
    evidence: &Evidence,
    diagnosis: &Diagnosis,
    outcome: &Outcome,
    global: &GlobalArgs,
) -> anyhow::Result<()> {
    let render = |color: bool, width: usize, out: &mut dyn Write| match target.format {
        TraceFormat::Json => report::json::trace(evidence, diagnosis, outcome, out),
        TraceFormat::Jsonl => report::jsonl::trace(evidence, diagnosis, outcome, out),
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
            report::table::trace(evidence, diagnosis, outcome, &style, out)
        }
    };
    match &target.file {
        None => {
            let (color, width) = (output::colors(global.color), output::width());
            output::to_stdout(|out| render(color, width, out))
        }
        Some(path) => output::to_file(path, |out| render(false, 100, out)),
    }
}
