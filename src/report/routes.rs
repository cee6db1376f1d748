//! What `routes check`, `routes explain` and `routes graph` print.

use std::io::{self, Write};

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::graph::{Graph, NodeKind};
use super::json::{CheckV1, ExitV1, FindingV1, SCHEMA};
use super::plain::{self, escape, readable};
use super::table::{Style, Verbosity};
use super::text::{self, BOLD, DIM, Page, cut};
use super::words;
use crate::diagnose::policy::{Applied, Suppression};
use crate::diagnose::routes::Explained;
use crate::diagnose::{CheckStatus, Checked, Finding, Location, Outcome};
use crate::evidence::count;
use crate::evidence::routing::Routing;

/// What a check of routing found.
pub(crate) struct Check<'a> {
    pub routing: &'a Routing,
    pub applied: &'a Applied,
    pub checks: &'a [Checked],
    /// What could not be known.
    pub unknown: &'a [String],
    /// Entries of the settings file that are of no use any more.
    pub notes: &'a [String],
    pub outcome: &'a Outcome,
}

/// Writes the table of a check.
pub(crate) fn check_table(check: &Check<'_>, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    let mut page = Page::new(style.width, style.color, out);
    for finding in &check.applied.findings {
        draw(&mut page, finding)?;
        page.gap()?;
    }
    if style.verbosity == Verbosity::Quiet {
        return Ok(());
    }
    let routing = check.routing;
    if matches!(style.verbosity, Verbosity::Verbose(_)) {
        for suppressed in &check.applied.suppressed {
            let why = match &suppressed.why {
                Suppression::Ignored { reason, .. } => format!("ignored: {reason}"),
                Suppression::Known => "in the baseline".to_owned(),
            };
            let finding = &suppressed.finding;
            page.paragraph(
                0,
                &readable(&format!("{} {} ({why})", finding.code, finding.message)),
            )?;
        }
        for one in check
            .checks
            .iter()
            .filter(|one| one.status == CheckStatus::NotJudged)
        {
            page.paragraph(
                0,
                &readable(&format!(
                    "{} {} was not judged: {}",
                    one.code,
                    one.name,
                    one.missing.join("; ")
                )),
            )?;
        }
    }
    for why in check.unknown {
        page.paragraph(0, &readable(&format!("Not known: {why}")))?;
    }
    for gap in &routing.unread {
        page.paragraph(0, &readable(&format!("Not read: {gap}")))?;
    }
    for note in check.notes {
        page.paragraph(0, &readable(note))?;
    }
    let apps: Vec<&str> = routing.apps.iter().map(|app| app.name.as_str()).collect();
    let tasks: usize = routing.apps.iter().map(|app| app.tasks.len()).sum();
    let summary = format!(
        "{}, {} ({}), {}, {}.",
        count(routing.python_files as u64, "Python file"),
        count(apps.len() as u64, "app"),
        if apps.is_empty() {
            "no Celery(…) was found".to_owned()
        } else {
            apps.join(", ")
        },
        count(tasks as u64, "task"),
        count(routing.workers.known.len() as u64, "worker")
    );
    page.paragraph(0, &readable(&summary))?;
    if !check.applied.suppressed.is_empty() {
        page.paragraph(
            0,
            &format!("{} more were ignored.", check.applied.suppressed.len()),
        )?;
    }
    page.paragraph(0, &words::rules_asked(check.checks))?;
    page.paragraph(
        0,
        &readable(&format!(
            "Exit code {}: {}",
            check.outcome.code, check.outcome.reason
        )),
    )
}

fn draw(page: &mut Page<'_>, finding: &Finding) -> io::Result<()> {
    let title = format!(" {} {}", finding.code, finding.name);
    let style = text::of_severity(finding.severity);
    page.head(style, finding.severity.name(), &title)?;
    page.paragraph(2, &readable(&finding.message))?;
    if let Some(location) = &finding.location {
        source(page, location)?;
    }
    let rows = [vec!["remedy ".to_owned(), readable(&finding.remedy).into()]];
    page.columns(2, Some(DIM), &rows)
}

/// The line that a finding is about, with the text itself underlined.
fn source(page: &mut Page<'_>, location: &Location) -> io::Result<()> {
    let place = format!(
        "{}:{}:{}",
        escape(&location.file),
        location.line,
        location.column
    );
    page.head(DIM, "  at      ", &place)?;
    let start = usize::try_from(location.column)
        .unwrap_or(1)
        .saturating_sub(1);
    let end = usize::try_from(location.end_column)
        .unwrap_or(1)
        .saturating_sub(1);
    // A tab or another sign that moves the cursor is one blank, so that the marks stand below what they mark.
    let shown = |from: usize, to: usize| -> String {
        let part = location
            .text
            .chars()
            .skip(from)
            .take(to.saturating_sub(from));
        let part: String = part
            .map(|c| if c.is_whitespace() { ' ' } else { c })
            .collect();
        escape(&part).into_owned()
    };
    let indent = location
        .text
        .chars()
        .take_while(|c| c.is_whitespace())
        .count()
        .min(start);
    let (before, marked) = (shown(indent, start), shown(start, end));
    let after = shown(end, location.text.chars().count());
    let room = page.width().saturating_sub(10);
    let line = format!("{before}{marked}{after}");
    page.unwrapped(10, &cut(&line, room))?;
    let (gap, length) = (before.width(), marked.width().max(1));
    if gap < room {
        let marks = "^".repeat(length.min(room - gap));
        page.head(BOLD, &format!("{:width$}{marks}", "", width = gap + 10), "")?;
    }
    Ok(())
}

#[derive(Serialize)]
struct CheckReportV1<'a> {
    schema: &'static str,
    command: &'static str,
    version: &'static str,
    apps: Vec<AppV1<'a>>,
    workers: Vec<WorkerV1<'a>>,
    findings: Vec<FindingV1<'a>>,
    suppressed: Vec<SuppressedV1<'a>>,
    checks: Vec<CheckV1<'a>>,
    unknown: &'a [String],
    unread: Vec<String>,
    notes: &'a [String],
    exit: ExitV1<'a>,
}

#[derive(Serialize)]
struct AppV1<'a> {
    name: &'a str,
    tasks: usize,
    location: Option<&'a Location>,
}

#[derive(Serialize)]
struct WorkerV1<'a> {
    name: &'a str,
    app: Option<&'a str>,
    /// None where it takes those of `task_queues`, or they are unknown.
    queues: Option<&'a [String]>,
}

#[derive(Serialize)]
struct SuppressedV1<'a> {
    #[serde(flatten)]
    finding: FindingV1<'a>,
    /// None where it stands in the baseline.
    reason: Option<&'a str>,
}

/// Writes the JSON of a check.
pub(crate) fn check_json(check: &Check<'_>, out: &mut dyn Write) -> io::Result<()> {
    let suppressed = check.applied.suppressed.iter().map(|one| SuppressedV1 {
        finding: FindingV1::of(&one.finding),
        reason: match &one.why {
            Suppression::Ignored { reason, .. } => Some(reason),
            Suppression::Known => None,
        },
    });
    let report = CheckReportV1 {
        schema: SCHEMA,
        command: "routes check",
        version: env!("CARGO_PKG_VERSION"),
        apps: check
            .routing
            .apps
            .iter()
            .map(|app| AppV1 {
                name: &app.name,
                tasks: app.tasks.len(),
                location: app.location.as_ref(),
            })
            .collect(),
        workers: check
            .routing
            .workers
            .known
            .iter()
            .map(|worker| WorkerV1 {
                name: &worker.name,
                app: worker.app.as_deref(),
                queues: worker.queues.as_ref().ok().and_then(Option::as_deref),
            })
            .collect(),
        findings: check.applied.findings.iter().map(FindingV1::of).collect(),
        suppressed: suppressed.collect(),
        checks: check.checks.iter().map(CheckV1::of).collect(),
        unknown: check.unknown,
        unread: check
            .routing
            .unread
            .iter()
            .map(ToString::to_string)
            .collect(),
        notes: check.notes,
        exit: ExitV1::of(check.outcome),
    };
    write_json(&report, out)
}

fn write_json(report: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    out.write_all(plain::escape_json(&json).as_bytes())?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
struct ExplainReportV1<'a> {
    schema: &'static str,
    command: &'static str,
    routes: Vec<RouteV1<'a>>,
}

#[derive(Serialize)]
struct RouteV1<'a> {
    task: &'a str,
    app: &'a str,
    defined: bool,
    queue: Option<&'a str>,
    exchange: Option<&'a str>,
    exchange_type: Option<&'a str>,
    routing_key: Option<&'a str>,
    decided_by: &'a str,
    rule: Option<RuleV1<'a>>,
    passed: &'a [String],
    consumers: &'a [String],
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct RuleV1<'a> {
    pattern: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
}

/// Writes the JSON of explanations.
pub(crate) fn explain_json(routes: &[Explained], out: &mut dyn Write) -> io::Result<()> {
    let routes = routes.iter().map(|one| RouteV1 {
        task: &one.task,
        app: &one.app,
        defined: one.defined,
        queue: one.queue.as_deref(),
        exchange: one.exchange.as_deref(),
        exchange_type: one.exchange_type.as_deref(),
        routing_key: one.routing_key.as_deref(),
        decided_by: &one.decided_by,
        rule: one.rule.as_ref().map(|rule| RuleV1 {
            pattern: &rule.pattern,
            file: rule.location.as_ref().map(|at| at.file.as_str()),
            line: rule.location.as_ref().map(|at| at.line),
        }),
        passed: &one.passed,
        consumers: &one.consumers,
        error: one.error.as_deref(),
    });
    let report = ExplainReportV1 {
        schema: SCHEMA,
        command: "routes explain",
        routes: routes.collect(),
    };
    write_json(&report, out)
}

/// Writes the table of explanations.
pub(crate) fn explain_table(
    routing: &Routing,
    routes: &[Explained],
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut page = Page::new(style.width, style.color, out);
    for (number, one) in routes.iter().enumerate() {
        if number > 0 {
            page.gap()?;
        }
        page.head(BOLD, &escape(&one.task), &format!("  {}", escape(&one.app)))?;
        let mut rows: Vec<(&str, String)> = Vec::new();
        if !one.defined {
            rows.push(("task", "no code of the project defines it".to_owned()));
        }
        if let Some(rule) = &one.rule {
            let place = rule
                .location
                .as_ref()
                .map(|at| format!(" ({}:{})", at.file, at.line));
            rows.push((
                "route",
                format!("{}{}", rule.pattern, place.unwrap_or_default()),
            ));
        } else if !one.decided_by.is_empty() {
            rows.push(("decided by", one.decided_by.clone()));
        }
        if !one.passed.is_empty() {
            rows.push(("no match", one.passed.join(", ")));
        }
        if let Some(queue) = &one.queue {
            rows.push(("queue", queue.clone()));
        }
        if let Some(exchange) = &one.exchange {
            let kind = one.exchange_type.as_deref().unwrap_or("direct");
            let exchange = match exchange.as_str() {
                "" => "the default exchange".to_owned(),
                name => format!("{name} ({kind})"),
            };
            let key = one.routing_key.as_deref().unwrap_or("none");
            rows.push(("exchange", exchange));
            rows.push(("key", key.to_owned()));
        }
        if one.queue.is_some() || one.exchange.is_some() {
            let consumers = match (one.consumers.as_slice(), routing.workers.known.is_empty()) {
                ([], true) => {
                    "not known: no workers were found (--worker-queues gives their queues)"
                        .to_owned()
                }
                ([], false) if !routing.workers.gaps.is_empty() => {
                    format!("not known: {}", routing.workers.gaps[0])
                }
                ([], false) => "nobody".to_owned(),
                (some, _) => some.join(", "),
            };
            rows.push(("consumers", consumers));
        }
        if let Some(error) = &one.error {
            rows.push(("not known", error.clone()));
        }
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(label, text)| vec![label.to_owned(), readable(&text).into()])
            .collect();
        page.columns(2, Some(DIM), &rows)?;
    }
    Ok(())
}

/// The picture of where tasks go.
pub(crate) fn graph(routes: &[Explained]) -> Graph {
    let mut graph = Graph::default();
    for one in routes {
        let task = graph.node(NodeKind::Task, &one.task);
        let Some(exchange) = &one.exchange else {
            if let Some(queue) = &one.queue {
                let queue = graph.node(NodeKind::Queue, queue);
                graph.edge(task, queue, "");
            }
            continue;
        };
        let key = one.routing_key.as_deref().unwrap_or_default();
        let from = if exchange.is_empty() {
            task
        } else {
            let node = graph.node(NodeKind::Exchange, exchange);
            graph.detail(node, one.exchange_type.as_deref().unwrap_or_default());
            graph.edge(task, node, key);
            node
        };
        if one.reaches.is_empty() && !exchange.is_empty() {
            graph.black_hole(from);
        }
        for name in &one.reaches {
            let queue = graph.node(NodeKind::Queue, name);
            graph.edge(from, queue, "");
        }
    }
    graph
}

/// Adds who consumes which queue, and marks queues that nobody does where all the workers are known.
pub(crate) fn add_workers(graph: &mut Graph, routing: &Routing, routes: &[Explained]) {
    let mut consumed = std::collections::BTreeSet::new();
    let mut all_known = routing.workers.gaps.is_empty() && !routing.workers.known.is_empty();
    for worker in &routing.workers.known {
        let Ok(queues) = routing.consumed_by(worker) else {
            all_known = false;
            continue;
        };
        let node = graph.node(NodeKind::Worker, &worker.name);
        for name in queues {
            let queue = graph.node(NodeKind::Queue, &name);
            graph.edge(queue, node, "");
            consumed.insert(name);
        }
    }
    if let Some(live) = routing
        .broker
        .as_ref()
        .and_then(|broker| broker.consumed.as_ref())
    {
        consumed.extend(live.iter().cloned());
    }
    if all_known {
        for name in routes
            .iter()
            .flat_map(|one| &one.reaches)
            .filter(|name| !consumed.contains(*name))
        {
            let queue = graph.node(NodeKind::Queue, name);
            graph.black_hole(queue);
        }
    }
}
