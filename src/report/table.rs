//! The report for people: the answer first, then what it rests on.

use std::io::{self, Write};

use anstyle::Style as Paint;
use unicode_width::UnicodeWidthStr as _;

use super::plain::{escape, readable};
use super::text::{self, BOLD, DIM, Page};
use super::{Asked, words};
use crate::diagnose::command::legend;
use crate::diagnose::shared::{self, Shared};
use crate::diagnose::{
    Cause, Checked, Diagnosis, Finding, Outcome, Severity, Stage, Trace, outcome,
};
use crate::evidence::{Evidence, Read, TaskEvidence};

/// How the report is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether there are colours.
    pub color: bool,
    /// How much is said.
    pub verbosity: Verbosity,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Tasks in trouble, and findings that are more than information. Nothing at all where all is well.
    Quiet,
    /// Everything about the tasks that were asked for; of many, about those not accounted for.
    Normal,
    /// Everything about every task, all that was read and every rule; so many times `-v`.
    Verbose(u8),
}

/// More ids than this begin with an overview.
const MANY: usize = 5;
/// Of more tasks of one finding than this the others are counted.
const LISTED_IDS: usize = 20;
/// Of more tasks in trouble than this the others stand in the overview alone.
const DETAILED: usize = 20;

/// Writes the report of a trace.
pub(crate) fn trace(
    evidence: &Evidence,
    diagnosis: &Diagnosis,
    asked: &Asked,
    outcome: &Outcome,
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let quiet = style.verbosity == Verbosity::Quiet;
    let verbose = matches!(style.verbosity, Verbosity::Verbose(_));
    let page = Page::new(style.width, style.color, out);
    let mut report = Report::new(page, evidence, style.verbosity);
    let many = diagnosis.traces.len() > MANY;
    let detailed: Vec<&Trace> = diagnosis
        .traces
        .iter()
        .filter(|trace| verbose || !(many || quiet) || outcome::code_of(trace) != 0)
        .collect();
    let shown = if many && !verbose {
        DETAILED
    } else {
        usize::MAX
    };
    if many {
        report.overview(&diagnosis.traces)?;
    }
    let traces: Vec<&Trace> = detailed.iter().take(shown).copied().collect();
    let common = Common {
        shared: Shared::of(&traces),
        traces,
        asked,
    };
    for trace in &common.traces {
        report.trace(trace, &common)?;
    }
    report.common(&common.shared)?;
    if let Some(left @ 1..) = detailed.len().checked_sub(shown) {
        report.section("and more")?;
        let text = format!("{left} more are not accounted for: see above, or use -v");
        report.page.paragraph(2, &text)?;
    }
    if verbose {
        report.all_reads()?;
    } else if !quiet || !detailed.is_empty() {
        report.not_read_whole()?;
    }
    report.deployment(&diagnosis.findings)?;
    report.legend()?;
    if verbose {
        report.checks(&diagnosis.checks)?;
    }
    if !quiet {
        report.footer(diagnosis, outcome)?;
    }
    Ok(())
}

/// The traces that are told, and what they have in common.
struct Common<'t> {
    traces: Vec<&'t Trace>,
    shared: Shared,
    asked: &'t Asked,
}

/// A report in the making.
pub(super) struct Report<'a> {
    pub(super) page: Page<'a>,
    pub(super) evidence: &'a Evidence,
    /// The commands that it has shown.
    shown: Vec<String>,
    quiet: bool,
    verbose: bool,
    empty: bool,
}

impl<'a> Report<'a> {
    /// An empty report on a page.
    pub(super) fn new(page: Page<'a>, evidence: &'a Evidence, verbosity: Verbosity) -> Self {
        Self {
            page,
            evidence,
            shown: Vec::new(),
            quiet: verbosity == Verbosity::Quiet,
            verbose: matches!(verbosity, Verbosity::Verbose(_)),
            empty: true,
        }
    }
}

impl Report<'_> {
    /// An empty line between two parts.
    pub(super) fn part(&mut self) -> io::Result<()> {
        if self.empty {
            self.empty = false;
            return Ok(());
        }
        self.page.gap()
    }

    pub(super) fn section(&mut self, title: &str) -> io::Result<()> {
        self.part()?;
        self.page.head(BOLD, title, "")
    }

    /// One line for each id, and how many there are of each verdict.
    fn overview(&mut self, traces: &[Trace]) -> io::Result<()> {
        let troubled = |trace: &&Trace| !self.quiet || outcome::code_of(trace) != 0;
        let listed: Vec<&Trace> = traces.iter().filter(troubled).collect();
        if listed.is_empty() {
            return Ok(());
        }
        let all: Vec<&Trace> = traces.iter().collect();
        self.part()?;
        let title = format!("{} tasks", all.len());
        let counts = vec![title, outcome::verdicts(&all)];
        self.page.columns(0, Some(BOLD), &[counts])?;
        // "undetermined", the longest verdict, has 12 columns, a UUID 36. A longer id is shown whole all the same.
        let ids = listed.iter().map(|trace| readable(&trace.id).width());
        let (word, id) = (12, ids.max().unwrap_or(0).min(36));
        let left = self.page.width().saturating_sub(2 + word + 2 + id + 2);
        for trace in listed {
            let verdict = text::pad(&words::mark(trace), word);
            let task = trace.task.as_deref().unwrap_or("-");
            let what = format!("{}: {}", readable(task), readable(&trace.summary));
            let rest = format!(
                "  {}  {}",
                text::pad(&readable(&trace.id), id),
                text::cut(&what, left)
            );
            self.page
                .head(paint(trace), &format!("  {verdict}"), &rest)?;
        }
        Ok(())
    }

    /// One task: the answer, its path, what was found, and what remains possible.
    fn trace(&mut self, trace: &Trace, common: &Common<'_>) -> io::Result<()> {
        self.part()?;
        let verdict = trace.verdict.name().to_uppercase();
        let task = trace.task.as_deref().map(readable).unwrap_or_default();
        let name = format!("{}  {task}", readable(&trace.id));
        self.page
            .columns(0, Some(paint(trace)), &[vec![verdict, name]])?;
        self.page.paragraph(2, &readable(&trace.summary))?;
        for remark in common.asked.remarks(trace) {
            self.page.paragraph(2, &readable(&remark))?;
        }
        self.path(&trace.stages)?;
        if let Some(task) = self.evidence.tasks.get(&trace.id) {
            self.copies(task)?;
            self.details(task)?;
        }
        for finding in &trace.findings {
            if common.shared.has(finding, trace) {
                let title = format!(" {} {}: see below", finding.code, finding.name);
                let style = text::of_severity(finding.severity);
                self.part()?;
                self.page.head(style, finding.severity.name(), &title)?;
            } else {
                self.finding(finding)?;
            }
        }
        match shared::first_with(&common.traces, &trace.causes) {
            Some(first) if first.id != trace.id && !trace.causes.is_empty() => {
                self.part()?;
                let text = format!("What may have happened: the same as for {}.", first.id);
                self.page.paragraph(0, &readable(&text))
            }
            _ => self.causes(&trace.causes),
        }
    }

    /// What several tasks have in common.
    fn common(&mut self, shared: &Shared) -> io::Result<()> {
        if shared.findings.is_empty() {
            return Ok(());
        }
        self.section("Several of these tasks")?;
        shared.findings.iter().try_for_each(|one| self.finding(one))
    }

    fn path(&mut self, stages: &[Stage]) -> io::Result<()> {
        if stages.is_empty() {
            return Ok(());
        }
        self.page.gap()?;
        let rows: Vec<Vec<String>> = stages.iter().map(words::path_row).collect();
        self.page.columns(2, None, &rows)
    }

    /// Every copy and every claim, where the path does not show them all. A message in `unacked` and the word of the
    /// worker that holds it are one copy.
    fn copies(&mut self, task: &TaskEvidence) -> io::Result<()> {
        let messages = task.copies.iter().map(|copy| words::place(&copy.place));
        let claims = task
            .claims
            .iter()
            .map(|claim| format!("worker {}, {}", claim.node, claim.claim.state.name()));
        if task.copies.len() < 2 && task.claims.len() < 2 {
            return Ok(());
        }
        let all: Vec<String> = messages.chain(claims).collect();
        self.page.gap()?;
        self.page.head(BOLD, "  Everywhere it was seen", "")?;
        let rows: Vec<Vec<String>> = all.iter().map(|copy| vec![readable(copy).into()]).collect();
        self.page.columns(4, None, &rows)
    }

    /// What the message says, with `-v`; its arguments, where they were asked for.
    fn details(&mut self, task: &TaskEvidence) -> io::Result<()> {
        let Some(envelope) = task.copies.first().map(|copy| &copy.envelope) else {
            return Ok(());
        };
        let mut facts = vec![("arguments", envelope.args.clone())];
        if self.verbose {
            facts.extend([
                ("eta", envelope.eta.map(|eta| eta.to_string())),
                ("expires", envelope.expires.map(|at| at.to_string())),
                ("retries", envelope.retries.map(|n| n.to_string())),
                ("priority", envelope.priority.map(|n| n.to_string())),
                ("parent", envelope.parent_id.clone()),
                ("root", envelope.root_id.clone()),
                ("group", envelope.group.clone()),
                ("content type", envelope.content_type.clone()),
            ]);
        }
        let rows: Vec<Vec<String>> = facts
            .iter()
            .filter_map(|(name, fact)| {
                Some(vec![(*name).into(), readable(fact.as_deref()?).into()])
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.page.gap()?;
        self.page.columns(2, None, &rows)
    }

    pub(super) fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.part()?;
        let title = format!(" {} {}", finding.code, finding.name);
        let style = text::of_severity(finding.severity);
        self.page.head(style, finding.severity.name(), &title)?;
        self.page.paragraph(2, &readable(&finding.message))?;
        let facts: Vec<String> = finding
            .evidence
            .iter()
            .map(|(name, value)| format!("{}: {}", name.replace('_', " "), words::fact(value)))
            .collect();
        let mut rows = Vec::new();
        for (label, text) in [
            ("seen", facts.join("; ")),
            ("also", finding.look.join("; ")),
            ("remedy", finding.remedy.clone()),
        ] {
            if !text.is_empty() {
                rows.push(vec![pad_label(label), readable(&text).into()]);
            }
        }
        self.page.columns(2, Some(DIM), &rows)?;
        self.ids(finding)?;
        self.commands("to do so", &finding.remedy_commands)?;
        self.commands("to confirm", &finding.confirm)?;
        let page = format!("celery-doctor explain {}", finding.code);
        self.commands("to read more", &[page])
    }

    /// The ids of a finding about several tasks.
    fn ids(&mut self, finding: &Finding) -> io::Result<()> {
        if finding.task_ids.len() < 2 {
            return Ok(());
        }
        let label = |n: usize| pad_label(if n == 0 { "tasks" } else { "" });
        for (n, id) in finding.task_ids.iter().take(LISTED_IDS).enumerate() {
            let line = format!("{}  {}", label(n), readable(id));
            self.page.unwrapped(2, &line)?;
        }
        let all = finding.count.max(finding.task_ids.len() as u64);
        let shown = finding.task_ids.len().min(LISTED_IDS);
        match all.saturating_sub(shown as u64) {
            0 => Ok(()),
            more => {
                let line = format!("{}  and {more} more", label(shown));
                self.page.unwrapped(2, &line)
            }
        }
    }

    /// Commands are not wrapped, and nothing else is on their lines: they are there to be copied.
    fn commands(&mut self, label: &str, commands: &[String]) -> io::Result<()> {
        if commands.is_empty() {
            return Ok(());
        }
        self.page.head(DIM, &format!("  {label}"), "")?;
        for command in commands {
            self.page.unwrapped(4, &escape(command))?;
        }
        self.shown.extend(commands.iter().cloned());
        Ok(())
    }

    /// What stands for something in the commands, once for all of them.
    pub(super) fn legend(&mut self) -> io::Result<()> {
        let shown = std::mem::take(&mut self.shown);
        let lines = legend(self.evidence, shown.iter().map(String::as_str));
        if !lines.is_empty() {
            self.part()?;
        }
        lines
            .iter()
            .try_for_each(|line| self.page.paragraph(0, line))
    }

    fn causes(&mut self, causes: &[Cause]) -> io::Result<()> {
        if causes.is_empty() {
            return Ok(());
        }
        self.section("What may have happened, the likeliest first")?;
        for (n, cause) in causes.iter().enumerate() {
            let number = format!("{}.", n + 1);
            let rows = [
                vec![number, readable(&cause.text).into()],
                vec![
                    String::new(),
                    format!("to tell: {}", readable(&cause.confirm)),
                ],
            ];
            self.page.columns(2, None, &rows)?;
        }
        Ok(())
    }

    /// What was not read, or not whole: places with the same obstacle share a line.
    pub(super) fn not_read_whole(&mut self) -> io::Result<()> {
        let mut obstacles: Vec<(String, String)> = Vec::new();
        for read in &self.evidence.reads {
            if !read.falls_short() {
                continue;
            }
            let source = read.source.name().replace('_', " ");
            let why = format!("{}: {}", read.status.name(), readable(&read.detail));
            match obstacles.iter_mut().find(|(_, same)| *same == why) {
                Some((sources, _)) => *sources = format!("{sources}, {source}"),
                None => obstacles.push((source, why)),
            }
        }
        if obstacles.is_empty() {
            return Ok(());
        }
        self.section("Not read, or not whole")?;
        for (sources, why) in obstacles {
            self.page.paragraph(2, &format!("{sources} {why}"))?;
        }
        Ok(())
    }

    pub(super) fn all_reads(&mut self) -> io::Result<()> {
        let reads = &self.evidence.reads;
        let row = |read: &Read| {
            vec![
                read.source.name().replace('_', " "),
                read.status.name().into(),
                format!("{} ms", read.elapsed_ms),
                readable(&read.detail).into(),
            ]
        };
        let rows: Vec<Vec<String>> = reads.iter().map(row).collect();
        self.section("What was read")?;
        self.page.columns(2, None, &rows)
    }

    fn deployment(&mut self, findings: &[Finding]) -> io::Result<()> {
        let least = if self.quiet {
            Severity::Warning
        } else {
            Severity::Info
        };
        let shown: Vec<&Finding> = findings.iter().filter(|f| f.severity >= least).collect();
        if shown.is_empty() {
            return Ok(());
        }
        self.section("The deployment")?;
        shown.into_iter().try_for_each(|f| self.finding(f))
    }

    pub(super) fn checks(&mut self, checks: &[Checked]) -> io::Result<()> {
        self.section("Every rule that was asked")?;
        let row = |check: &Checked| {
            vec![
                check.code.clone(),
                check.name.clone(),
                check.status.name().replace('_', " "),
                readable(&check.missing.join("; ")).into(),
            ]
        };
        let rows: Vec<Vec<String>> = checks.iter().map(row).collect();
        self.page.columns(2, None, &rows)
    }

    fn footer(&mut self, diagnosis: &Diagnosis, outcome: &Outcome) -> io::Result<()> {
        self.part()?;
        let broker = &self.evidence.broker;
        let version = broker.server.seen().and_then(|s| s.version.seen());
        let version = version.map_or(String::new(), |version| format!(" ({version})"));
        let results = self.evidence.result_backend.url.as_deref();
        let read = format!(
            "Read at {:.0} from {}{version}; results from {}.",
            self.evidence.taken_at,
            broker.url,
            results.unwrap_or("nowhere")
        );
        let asked = words::rules_asked(&diagnosis.checks);
        let exit = format!("Exit code {}: {}.", outcome.code, outcome.reason);
        for line in [read, asked, exit] {
            self.page.paragraph(0, &readable(&line))?;
        }
        Ok(())
    }
}

fn paint(trace: &Trace) -> Paint {
    match outcome::code_of(trace) {
        0 => text::GREEN,
        1 => text::RED,
        _ => text::YELLOW,
    }
}

/// Labels of a finding stand in a column as wide as the widest.
fn pad_label(label: &str) -> String {
    text::pad(label, "confirm".len())
}
