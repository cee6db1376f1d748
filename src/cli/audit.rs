//! `audit`: everything that is lost, stuck, or waiting to be.

use std::io::{self, BufReader, Write};
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use jiff::tz::TimeZone;

use super::args::{AuditArgs, Format, GlobalArgs, Target};
use super::output::Access;
use super::{exit, forms, output, reading};
use crate::collect::{Everything, Question};
use crate::config::input;
use crate::config::policy::{policy, thresholds};
use crate::diagnose::policy::{Applied, Policy, apply, useless};
use crate::diagnose::{Checked, Finding, Rule, audit, outcome};
use crate::evidence::{Evidence, file};
use crate::report;
use crate::report::summary::{Section, Summary};
use crate::report::table::{Style, Verbosity};

/// One deployment, read and judged.
struct Audited {
    name: Option<String>,
    evidence: Evidence,
    applied: Applied,
    checks: Vec<Checked>,
}

/// Runs the command; returns the exit code.
pub(super) fn run(args: &AuditArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    let started = Instant::now();
    let targets = args.output.targets()?;
    let settings_file = reading::file(&args.connection)?;
    let policy = policy(&args.policy, settings_file.as_ref())?;
    let limits = thresholds(&args.thresholds, settings_file.as_ref());
    let mut notes = Vec::new();
    let read = match &args.snapshot {
        Some(path) => vec![(None, from_snapshot(path, args)?)],
        None => read_all(args, settings_file, &mut notes)?,
    };
    let audited: Vec<Audited> = read
        .into_iter()
        .map(|(name, mut evidence)| {
            evidence.for_audit();
            let mut found = audit::audit(&evidence, &limits);
            if let Some(app) = &args.connection.app {
                found.name_app(app);
            }
            let today = evidence.taken_at.to_zoned(TimeZone::UTC).date();
            let mut checks = found.checks;
            checks.retain(|check| policy.asks(&check.code));
            let applied = apply(&policy, name.as_deref(), found.findings, today);
            Audited {
                name,
                evidence,
                applied,
                checks,
            }
        })
        .collect();
    if let Some(latest) = audited.iter().map(|one| one.evidence.taken_at).max() {
        let parts: Vec<(&Applied, &[Checked])> = audited
            .iter()
            .map(|one| (&one.applied, one.checks.as_slice()))
            .collect();
        notes.extend(useless(
            &policy,
            &parts,
            latest.to_zoned(TimeZone::UTC).date(),
        ));
    }
    let findings: Vec<&Finding> = audited
        .iter()
        .flat_map(|one| &one.applied.findings)
        .collect();
    let outcome = exit::styled(
        outcome::of_findings(findings, policy.fail_on, &missing(&audited, &policy)),
        args.output.exit_code_style,
        args.output.exit_zero,
    );
    if let Some(path) = &args.policy.write_baseline {
        let parts: Vec<(Option<&str>, &Applied)> = audited
            .iter()
            .map(|one| (one.name.as_deref(), &one.applied))
            .collect();
        forms::baseline(path, &parts)?;
    }
    let sections: Vec<Section<'_>> = audited
        .iter()
        .map(|one| Section {
            name: one.name.as_deref(),
            applied: &one.applied,
            checks: &one.checks,
            evidence: Some(&one.evidence),
        })
        .collect();
    let summary = Summary {
        command: "audit",
        sections: &sections,
        notes: &notes,
        fail_on: policy.fail_on,
        outcome: &outcome,
        elapsed: started.elapsed(),
    };
    for target in &targets {
        write(target, &summary, global)?;
    }
    Ok(outcome.code)
}

/// Reads every deployment, all at once.
fn read_all(
    args: &AuditArgs,
    settings_file: Option<crate::config::file::File>,
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<(Option<String>, Evidence)>> {
    let deployments = reading::deployments(&args.connection, settings_file)?;
    let question = Question::Everything(Everything {
        keep: None,
        result_keys: args.extent.result_keys,
        sample: args.extent.sample,
        deadline: args.extent.deadline,
    });
    for deployment in &deployments {
        notes.extend(deployment.settings.notes.iter().cloned());
    }
    thread::scope(|scope| {
        let readings: Vec<_> = deployments
            .into_iter()
            .map(|deployment| {
                let question = question.clone();
                scope.spawn(move || {
                    let evidence = reading::read(&deployment.settings, question)?;
                    anyhow::Ok((deployment.name, evidence))
                })
            })
            .collect();
        readings
            .into_iter()
            .map(|reading| {
                let read = reading.join();
                read.unwrap_or_else(|_| Err(anyhow!("a reading ended unexpectedly")))
            })
            .collect()
    })
}

fn from_snapshot(path: &Path, args: &AuditArgs) -> anyhow::Result<Evidence> {
    let opened =
        input::open(path).with_context(|| format!("{} can't be opened", path.display()))?;
    let mut evidence =
        file::read(BufReader::new(opened)).with_context(|| path.display().to_string())?;
    let settings = reading::offline_settings(&args.connection)?;
    if let Some(timeout) = settings.visibility_timeout {
        evidence.visibility_timeout_given = Some(timeout.as_secs_f64());
    }
    if evidence.is_of_ids() {
        bail!(
            "{} was taken for single tasks and says nothing about the others: take a snapshot without ids",
            path.display()
        );
    }
    Ok(evidence)
}

/// What could not be read or judged, with the deployment's name where it has one.
fn missing(audited: &[Audited], policy: &Policy) -> Vec<String> {
    let of_one = |one: &Audited| -> Vec<String> {
        let today = one.evidence.taken_at.to_zoned(TimeZone::UTC).date();
        let worst = |rule: &Rule| policy.worst(rule, today);
        let blind = audit::blind(&one.checks, policy.fail_on, worst);
        let missing = audit::missing(&one.evidence).into_iter().chain(blind);
        let named = missing.map(|what| match &one.name {
            Some(name) => format!("{name}: {what}"),
            None => what,
        });
        named.collect()
    };
    audited.iter().flat_map(of_one).collect()
}

fn write(target: &Target, summary: &Summary<'_>, global: &GlobalArgs) -> anyhow::Result<()> {
    if let Some(draw) = forms::drawn_by(target.format) {
        return forms::write(draw, summary, target);
    }
    let render = |color: bool, width: usize, out: &mut dyn Write| -> io::Result<()> {
        if target.format == Format::Json {
            return report::json::audit(summary, out);
        }
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
        report::audit::table(summary, summary.fail_on, &style, out)
    };
    match &target.file {
        None => {
            let (color, width) = (output::colors(global.color), output::width());
            output::to_stdout(|out| render(color, width, out))
        }
        Some(path) => output::report_to_file(path, Access::Usual, |out| render(false, 100, out)),
    }
}
