//! An audit for people: what waits and who takes it, then what was found, then what was not read.

use std::collections::BTreeMap;
use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::plain::readable;
use super::summary::{Section, Summary, length};
use super::table::{Report, Style, Verbosity};
use super::text::{self, BOLD, Page};
use super::words;
use crate::diagnose::outcome::Status;
use crate::diagnose::{Severity, plain};
use crate::evidence::{Ages, Evidence};

/// Longer lists of queues are cut, unless all are asked for.
const QUEUES: usize = 12;
/// Columns of the longest bar.
const BAR: usize = 20;
/// Columns of the longest name of a queue.
const NAME: usize = 36;

/// Writes the report of an audit. Under `--quiet` there is none where nothing failed and everything could be read.
pub(crate) fn table(
    summary: &Summary<'_>,
    fail_on: Severity,
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let quiet = style.verbosity == Verbosity::Quiet;
    let verbose = matches!(style.verbosity, Verbosity::Verbose(_));
    if quiet && summary.outcome.status == Status::Fine {
        return Ok(());
    }
    let least = match (quiet, verbose) {
        (true, _) => fail_on,
        (false, true) => Severity::Info,
        (false, false) => fail_on.min(Severity::Warning),
    };
    let mut page = Page::new(style.width, style.color, out);
    for (n, section) in summary.sections.iter().enumerate() {
        if n > 0 {
            page.gap()?;
        }
        if let Some(name) = section.name {
            page.head(BOLD, &format!("{} ", readable(name)), "")?;
            page.gap()?;
        }
        let Some(evidence) = section.evidence else {
            continue;
        };
        let mut report = Report::new(page, evidence, style.verbosity);
        if !quiet {
            report.picture(verbose)?;
        }
        for finding in &section.applied.findings {
            if finding.severity >= least {
                report.finding(finding)?;
            }
        }
        report.legend()?;
        if verbose {
            report.all_reads()?;
            report.checks(section.checks)?;
        } else {
            report.not_read_whole()?;
        }
        if !quiet {
            report.hidden(section, least)?;
            report.read_at(section.checks)?;
        }
        page = report.page;
    }
    for note in summary.notes {
        page.paragraph(0, &readable(note))?;
    }
    if !quiet {
        let outcome = summary.outcome;
        let exit = format!("Exit code {}: {}.", outcome.code, outcome.reason);
        page.paragraph(0, &readable(&exit))?;
    }
    Ok(())
}

/// A queue with all its lists.
#[derive(Default)]
struct Row<'e> {
    waiting: u64,
    /// RabbitMQ does not tell how many wait.
    untold: bool,
    consumers: Option<usize>,
    /// Messages that came and went between two readings.
    before: u64,
    after: u64,
    prefix: &'e str,
}

impl Report<'_> {
    /// What waits, who takes it, and how old the reservations are.
    fn picture(&mut self, verbose: bool) -> io::Result<()> {
        let evidence = self.evidence;
        let rows = queues(evidence);
        let waiting: u64 = rows.iter().map(|(_, row)| row.waiting).sum();
        let unacked = evidence.reservations.seen().map(|all| {
            let entries = all.iter().map(|entry| entry.unacked);
            entries.fold(0, u64::saturating_add)
        });
        let workers = evidence.workers.seen();
        let mut facts = vec![format!(
            "{} in {}",
            plain::count(waiting, "message"),
            plain::count(rows.len() as u64, "queue")
        )];
        facts.extend(unacked.map(|unacked| format!("{unacked} unacknowledged")));
        facts.push(match workers {
            Some(workers) if workers.silent > 0 => {
                let unreadable = workers.answered_unreadably();
                let silent = workers.silent.saturating_sub(unreadable);
                let others = [(silent, "silent"), (unreadable, "not understood")];
                let others = others.into_iter().filter(|(number, _)| *number > 0);
                let others = others.map(|(number, how)| format!(" and {number} {how}"));
                let answered = plain::count(workers.answered.len() as u64, "worker");
                others.fold(answered, |facts, other| facts + &other)
            }
            Some(workers) => plain::count(workers.answered.len() as u64, "worker"),
            None => "workers not asked".to_owned(),
        });
        self.section(&facts.join(", "))?;
        self.depths(&rows, verbose)?;
        let ages = evidence
            .census
            .as_ref()
            .map(|census| census.ages.as_slice());
        ages.unwrap_or_default()
            .iter()
            .try_for_each(|of| self.ages(of))
    }

    fn depths(&mut self, rows: &[(String, Row<'_>)], verbose: bool) -> io::Result<()> {
        let seconds = self.evidence.census.as_ref();
        let seconds = seconds.and_then(|census| Some(census.movement.as_ref()?.seconds));
        let longest = rows.iter().map(|(_, row)| row.waiting).max().unwrap_or(0);
        let held: Vec<&(String, Row<'_>)> = rows
            .iter()
            .filter(|(_, row)| verbose || row.waiting > 0 || row.untold)
            .collect();
        let shown = if verbose { held.len() } else { QUEUES };
        let name = |name: &str| text::cut(&readable(name), NAME);
        let names = held
            .iter()
            .take(shown)
            .map(|(queue, _)| name(queue).width());
        let width = names.max().unwrap_or(0);
        for (queue, row) in held.iter().take(shown) {
            let consumers = match row.consumers {
                None => "consumers not known".to_owned(),
                Some(0) => "no consumer".to_owned(),
                Some(some) => plain::count(some as u64, "consumer"),
            };
            let under = match row.prefix {
                "" => String::new(),
                prefix => format!(", {}", plain::under(prefix)),
            };
            let moves =
                seconds.map_or(String::new(), |seconds| format!(", {}", pace(row, seconds)));
            let waiting = if row.untold {
                "?".to_owned()
            } else {
                row.waiting.to_string()
            };
            let line = format!(
                "  {}  {} {waiting:>9}  {}",
                text::pad(&name(queue), width),
                text::pad(&bar(row.waiting, longest), BAR),
                readable(&format!("{consumers}{under}{moves}"))
            );
            self.page.unwrapped(0, &line)?;
        }
        if let Some(more @ 1..) = held.len().checked_sub(shown) {
            let text = format!(
                "and {} with fewer messages; -v shows all",
                plain::count(more as u64, "queue")
            );
            self.page.paragraph(2, &text)?;
        }
        Ok(())
    }

    fn ages(&mut self, of: &Ages) -> io::Result<()> {
        // Ages by this machine's clock would be ages of nothing.
        if self.evidence.unknown_clock().is_some() {
            return Ok(());
        }
        let timeout = of.timeout_seconds;
        let under = match of.prefix.as_str() {
            _ if !of.names.are_usual() => format!(" in {}{}", of.prefix, of.names.hash),
            "" => String::new(),
            prefix => format!(" {}", plain::under(prefix)),
        };
        self.section(&format!(
            "Unacknowledged{}, by age against the visibility timeout of {}",
            readable(&under),
            plain::duration(timeout)
        ))?;
        let quarter = |n: f64| format!("up to {}", plain::duration(timeout * n / 4.0));
        let mut rows: Vec<(String, u64)> = [1.0, 2.0, 3.0, 4.0]
            .iter()
            .zip(of.quarters)
            .map(|(n, count)| (quarter(*n), count))
            .collect();
        rows.push(("older".to_owned(), of.beyond));
        if of.unindexed > 0 {
            rows.push(("not in the index".to_owned(), of.unindexed));
        }
        let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let width = rows
            .iter()
            .map(|(label, _)| label.width())
            .max()
            .unwrap_or(0);
        for (label, count) in rows {
            let line = format!(
                "  {}  {} {count:>9}",
                text::pad(&label, width),
                text::pad(&bar(count, most), BAR)
            );
            self.page.unwrapped(0, line.trim_end())?;
        }
        Ok(())
    }

    /// What was found and is not shown.
    fn hidden(&mut self, section: &Section<'_>, least: Severity) -> io::Result<()> {
        let applied = section.applied;
        let lesser = applied
            .findings
            .iter()
            .filter(|f| f.severity < least)
            .count();
        let mut facts = Vec::new();
        if lesser > 0 {
            facts.push(format!(
                "{} for information; -v shows them",
                plain::count(lesser as u64, "finding")
            ));
        }
        if !applied.suppressed.is_empty() {
            let number = applied.suppressed.len() as u64;
            facts.push(format!(
                "{} ignored or known from the baseline",
                plain::count(number, "finding")
            ));
        }
        if facts.is_empty() {
            return Ok(());
        }
        self.part()?;
        self.page
            .paragraph(0, &format!("Not shown: {}.", facts.join("; ")))
    }

    fn read_at(&mut self, checks: &[crate::diagnose::Checked]) -> io::Result<()> {
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
        self.page.paragraph(0, &readable(&read))?;
        self.page.paragraph(0, &words::rules_asked(checks))
    }
}

/// The queues that hold anything or that somebody consumes, the longest first.
fn queues(evidence: &Evidence) -> Vec<(String, Row<'_>)> {
    let known = evidence.workers.seen().is_some();
    let movement = evidence
        .census
        .as_ref()
        .and_then(|census| census.movement.as_ref());
    let mut queues: BTreeMap<(&str, &str), Row<'_>> = BTreeMap::new();
    for list in evidence.lists.seen().into_iter().flatten() {
        // RabbitMQ tells it by itself, of workers without remote control too.
        let told = evidence.consumers_told(list);
        let told = told.and_then(|consumers| usize::try_from(consumers).ok());
        let consumers = told.or_else(|| {
            (known && evidence.unheard_consumers() == 0).then(|| evidence.consumers(list).len())
        });
        // A list that only the scan found and that holds nothing of Celery's is another program's.
        let foreign = !list.named && list.malformed >= list.length;
        let untold = evidence.rabbitmq.is_some() && length(evidence, list).is_none();
        if foreign || (!untold && list.length == 0 && consumers.unwrap_or(0) == 0) {
            continue;
        }
        let row = queues.entry((&list.prefix, &list.queue)).or_default();
        row.prefix = &list.prefix;
        row.waiting = row.waiting.saturating_add(list.length);
        row.untold |= untold;
        row.consumers = consumers;
        let moved = movement.and_then(|m| m.lists.iter().find(|moved| moved.key == list.key));
        if let Some(moved) = moved {
            row.before = row.before.saturating_add(moved.before);
            row.after = row.after.saturating_add(moved.after);
        }
    }
    let mut rows: Vec<(String, Row<'_>)> = queues
        .into_iter()
        .map(|((_, queue), row)| (queue.to_owned(), row))
        .collect();
    rows.sort_by(|(a, one), (b, other)| other.waiting.cmp(&one.waiting).then_with(|| a.cmp(b)));
    rows
}

/// How fast a queue grows or drains.
fn pace(row: &Row<'_>, seconds: f64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "numbers of messages are far below 2^52"
    )]
    let (before, after) = (row.before as f64, row.after as f64);
    if before > after {
        let rate = (before - after) / seconds;
        return format!("drained in {}", plain::duration(after / rate));
    }
    if after > before {
        return format!("grows by {:.1}/s", (after - before) / seconds);
    }
    "as long as before".to_owned()
}

/// A bar for a part of the most; the least that is not nothing shows.
fn bar(count: u64, most: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if count == 0 || most == 0 {
        return String::new();
    }
    let eighths = u128::from(count) * (BAR as u128) * 8 / u128::from(most);
    let eighths = usize::try_from(eighths).unwrap_or(0).clamp(1, BAR * 8);
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests;
