//! Every finding of a deployment: rules about tasks are asked of one message of each class, and what they say of several
//! classes about one thing is one finding.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::belonging::{Belonging, belonging};
use super::view::stored;
use super::{
    Case, Check, Checked, Diagnosis, Finding, Gap, Rule, Severity, Thresholds, Unjudged, gaps,
    registry, rules, timeless,
};
use crate::celery::when::When;
use crate::evidence::{
    Census, Class, Evidence, NAMED_IDS, Observed, Place, Reason, Source, StoredResult,
    TaskEvidence, Worker,
};

/// Which tasks a rule about tasks is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// One of each class.
    Classes,
    /// One of each class, and a task of which nothing is known: it looks at routes then.
    ClassesAndNone,
    /// One of each class, and the messages in other databases.
    ClassesAndElsewhere,
    /// Tasks that drew attention by their results.
    ByResult,
    /// Ids that stand more than once, and reservations of tasks that have ended.
    Twice,
    /// None: it says something about a task that was asked for, and nothing about a deployment.
    None,
}

fn asked(rule: &Rule) -> Asked {
    match rule.name {
        "unroutable" => Asked::ClassesAndNone,
        "wrong-database" => Asked::ClassesAndElsewhere,
        "duplicate-message" | "duplicate-run" => Asked::Twice,
        "vanished-while-running"
        | "retry-vanished"
        | "worker-lost"
        | "discarded-not-registered"
        | "chord-stuck"
        | "chain-broken" => Asked::ByResult,
        "result-not-stored" | "result-expires" => Asked::None,
        _ => Asked::Classes,
    }
}

/// Tasks with one fate, and the one that stands for all.
struct Group<'e> {
    case: Case<'e>,
    count: u64,
    ids: &'e [String],
}

/// Judges a deployment of which everything was read.
pub fn audit(evidence: &Evidence, thresholds: &Thresholds) -> Diagnosis {
    let nothing = nothing();
    let mut findings = Vec::new();
    let mut checks: Vec<Checked> = Vec::new();
    for rule in registry::ALL
        .iter()
        .filter(|rule| rule.brokers.has(evidence))
    {
        if timeless(rule, evidence).is_some() && asked(rule) != Asked::None {
            checks.push(Checked::of(rule, false, gaps(rule, evidence)));
            continue;
        }
        let mut found = match rule.check {
            Check::Audit(check) => check(evidence, thresholds),
            Check::Routing(_) => continue,
            _ if rule.check.of_task().is_some() && asked(rule) == Asked::None => continue,
            Check::Deployment(check) => check(evidence),
            Check::Task(_) | Check::Both(..) => Vec::new(),
        };
        if let Some(check) = rule.check.of_task() {
            let mut groups = groups(evidence, asked(rule), &nothing);
            if is_about_open_results(rule) {
                groups.retain(|group| belonging(&group.case) == Belonging::Ours);
            }
            if rule.name != "chord-stuck" {
                groups.retain(|group| !ended_before(&group.case, thresholds.since()));
            }
            let said = groups.iter().flat_map(|group| {
                let said = check(&group.case).into_iter();
                said.map(|finding| reported_until(of_group(finding, group), group, thresholds))
            });
            // What a rule says of places that were not looked into stands beside what it says of messages.
            let of_places = rule.check.of_deployment();
            let of_places = of_places.map_or_else(Vec::new, |check| check(evidence));
            found = merged(said.chain(of_places));
        }
        let mut gaps = gaps(rule, evidence);
        gaps.extend(uncounted(rule, evidence, thresholds));
        checks.push(Checked::of(rule, !found.is_empty(), gaps));
        findings.extend(found);
    }
    findings.sort_by(Finding::order);
    Diagnosis {
        traces: Vec::new(),
        findings,
        checks,
        broker_unread: rules::is_broker_away(evidence),
    }
}

/// What a rule would have needed besides places that were read; none where it had all.
fn uncounted(rule: &Rule, evidence: &Evidence, thresholds: &Thresholds) -> Option<Gap> {
    let alarms = evidence.rabbitmq.as_ref().map(|rabbit| &rabbit.alarms);
    if let ("memory-pressure", Some(Observed::Unseen(why))) = (rule.name, alarms) {
        return Some(Gap::unread(format!("alarms: {}", why.detail)));
    }
    let census = evidence.census.as_ref();
    let Some(census) = census else {
        let of_tasks = rule.check.of_task().is_some();
        return of_tasks.then(|| Gap::unread("the messages were not counted"));
    };
    match rule.name {
        "backlog" if !thresholds.max_backlog.is_set() && !thresholds.max_age.is_set() => Some(
            Gap::chosen("no limit is set: see --max-backlog and --max-age"),
        ),
        "long-running" if !thresholds.max_runtime.is_set() => {
            Some(Gap::chosen("no limit is set: see --max-runtime"))
        }
        "stalled-consumer" if census.movement.is_none() => {
            Some(Gap::chosen("there was one reading only: see --sample"))
        }
        "duplicate-run" if (evidence.answered().iter()).any(Worker::keeps_its_work_to_itself) => {
            Some(Gap::unread("a worker did not say what it runs and holds"))
        }
        "known-bad-version" if census.software.values().all(|s| s.celery.is_none()) => {
            Some(Gap::unread("no worker told its versions"))
        }
        "duplicate-message" if census.twice.not_compared > 0 => Some(Gap::unread(format!(
            "the ids of {} were compared with no others",
            super::plain::count(census.twice.not_compared, "message")
        ))),
        "orphaned-reservation" => census.classes.iter().find_map(|class| {
            let case = Case {
                evidence,
                id: &class.id,
                task: &class.task,
            };
            case.undecided().map(Gap::unread)
        }),
        _ if is_about_open_results(rule) => unplaced(evidence, census, rule.name).map(Gap::unread),
        _ if census.unclassed > 0 && rule.check.of_task().is_some() => Some(Gap::unread(format!(
            "{} stand in too many kinds to be told apart",
            super::plain::count(census.unclassed, "message")
        ))),
        _ => None,
    }
}

/// Whether a rule says something about tasks of which nothing is left but a result that has not ended.
fn is_about_open_results(rule: &Rule) -> bool {
    matches!(rule.name, "vanished-while-running" | "retry-vanished")
}

/// Unfinished results of which nothing is here, and which may be of another broker that shares the result backend.
fn unplaced(evidence: &Evidence, census: &Census, rule: &str) -> Option<String> {
    let mut unplaced = census.by_result.iter().filter(|id| {
        let case = Case::of(evidence, id);
        case.is_some_and(|case| {
            let result = case.unfinished_result().filter(|_| case.is_nowhere());
            let is_retry = |result: &StoredResult| result.doc.state == "RETRY";
            result.is_some_and(|result| is_retry(result) == (rule == "retry-vanished"))
                && belonging(&case) == Belonging::Unclear
        })
    });
    let first = unplaced.next()?;
    let more = match unplaced.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "the unfinished result of {first}{more} has no copy and no worker here, and may be of another broker that \
         shares the result backend; `celery-doctor trace {first}` looks at it alone"
    ))
}

/// When a task ended, where that is known.
fn ended_at(case: &Case<'_>) -> Option<Timestamp> {
    match case.final_result()?.doc.date_done? {
        When::At(at) => Some(at),
        When::FarFuture => None,
    }
}

/// Whether a task ended so long ago that it is reported no more.
fn ended_before(case: &Case<'_>, since: f64) -> bool {
    let done = case.final_result().and_then(|result| result.doc.date_done);
    done.is_some_and(|done| -done.seconds_until(case.evidence.taken_at) > since)
}

/// Says of a task that has ended until when it is reported.
fn reported_until(finding: Finding, group: &Group<'_>, thresholds: &Thresholds) -> Finding {
    let since = SignedDuration::try_from_secs_f64(thresholds.since()).ok();
    let until = ended_at(&group.case).zip(since);
    match until.and_then(|(at, since)| at.checked_add(since).ok()) {
        Some(until) => finding.evidence("reported_until", until.to_string()),
        None => finding,
    }
}

/// What could not be read and might have told of trouble, as sentence parts: nothing that the user left out, and nothing
/// that only confirms what other places tell.
pub fn missing(evidence: &Evidence) -> Vec<String> {
    let falls_short = evidence.reads.iter().filter(|read| {
        let matters = match read.source {
            Source::Clients | Source::OtherDatabases => false,
            // Of the server's facts each has a rule that says what it could not judge.
            Source::Server => evidence.broker.server.seen().is_none(),
            // A backend of another kind is CD807's.
            Source::Results => read.reason != Some(Reason::Unsupported),
            _ => true,
        };
        matters && read.falls_short() && read.reason != Some(Reason::NotAsked)
    });
    falls_short
        .map(|read| format!("{}: {}", read.source.name(), read.detail))
        .collect()
}

/// The rules that were not judged through no choice of the user and could have found what makes a run fail, as one
/// sentence part; none where there are none. `severity` says how bad a rule's finding would be at worst, and none of a
/// rule whose findings the user ignores.
pub fn blind(
    checks: &[Checked],
    fail_on: Severity,
    severity: impl Fn(&Rule) -> Option<Severity>,
) -> Option<String> {
    let could_fail = |check: &&Checked| {
        let rule = registry::find(&check.code);
        let worst = rule.and_then(&severity);
        check.unjudged == Some(Unjudged::Unread) && worst.is_some_and(|worst| worst >= fail_on)
    };
    let blind: Vec<&Checked> = checks.iter().filter(could_fail).collect();
    let first = blind.first()?;
    let why = first.missing.first().map_or("", String::as_str);
    Some(match blind.len() {
        1 => format!("{} {} could not be judged ({why})", first.code, first.name),
        all => format!(
            "{all} rules could not be judged, {} {} among them ({why})",
            first.code, first.name
        ),
    })
}

fn nothing() -> TaskEvidence {
    let unread = || Observed::not_asked("nobody asked for a task");
    TaskEvidence {
        copies: Vec::new(),
        claims: Vec::new(),
        revoked_by: Vec::new(),
        first_result: unread(),
        result: Observed::Seen(None),
        chord: Observed::not_asked("nobody asked for a task"),
        children: Vec::new(),
        saved_group: None,
        locks: Vec::new(),
    }
}

fn groups<'e>(evidence: &'e Evidence, asked: Asked, nothing: &'e TaskEvidence) -> Vec<Group<'e>> {
    let Some(census) = &evidence.census else {
        return Vec::new();
    };
    let one = |id: &'e String| {
        let case = Case::of(evidence, id)?;
        let ids = std::slice::from_ref(id);
        Some(Group {
            case,
            count: 1,
            ids,
        })
    };
    let of_class = |class: &'e Class| Group {
        case: Case {
            evidence,
            id: &class.id,
            task: &class.task,
        },
        count: class.count,
        ids: &class.ids,
    };
    let here = census.classes.iter().filter(|class| !is_elsewhere(class));
    match asked {
        Asked::Classes => here.map(of_class).collect(),
        Asked::ClassesAndNone => {
            let none = Group {
                case: Case {
                    evidence,
                    id: "",
                    task: nothing,
                },
                count: 1,
                ids: &[],
            };
            here.map(of_class).chain([none]).collect()
        }
        Asked::ClassesAndElsewhere => {
            let all = census.classes.iter();
            let ours = all.filter(|class| !is_elsewhere(class) || is_known_here(evidence, class));
            ours.map(of_class).collect()
        }
        Asked::ByResult => {
            let mut tasks: Vec<Group<'_>> = census.by_result.iter().filter_map(one).collect();
            // The one that ended last stands for all of its kind.
            tasks.sort_by_key(|group| std::cmp::Reverse(ended_at(&group.case)));
            tasks
        }
        Asked::Twice => {
            let ended = here.filter(|class| {
                let result = stored(&class.task.first_result);
                result.is_some_and(|result| result.doc.ready)
            });
            let twice = census.twice.ids.iter().filter_map(one);
            twice.chain(ended.map(of_class)).collect()
        }
        Asked::None => Vec::new(),
    }
}

fn is_elsewhere(class: &Class) -> bool {
    let elsewhere = |place: &Place| matches!(place, Place::OtherDatabase { .. });
    class.task.copies.iter().any(|copy| elsewhere(&copy.place))
}

/// Whether a message in another database, where no worker is, is one of this deployment: a worker here knows its task.
/// What other apps leave lying in their databases is their affair.
fn is_known_here(evidence: &Evidence, class: &Class) -> bool {
    class.task.copies.iter().any(|copy| {
        let Place::OtherDatabase { database, .. } = copy.place else {
            return false;
        };
        let task = copy.envelope.task.as_deref();
        let knows = |task: &str| {
            evidence
                .answered()
                .iter()
                .any(|w| w.knows(task) == Some(true))
        };
        evidence.workers_in(database) == Some(0) && task.is_some_and(knows)
    })
}

/// What a rule says of one task, said of all that share its fate.
fn of_group(mut finding: Finding, group: &Group<'_>) -> Finding {
    let id = group.case.id;
    finding.count = finding.count.max(group.count);
    finding.task_ids.retain(|id| !id.is_empty());
    if !finding.task_ids.is_empty() {
        finding.task_ids = group.ids.to_vec();
    }
    let about_it = ["it ", "its "];
    if !id.is_empty()
        && about_it
            .iter()
            .any(|start| finding.message.starts_with(start))
    {
        finding.message = format!("{} {id}: {}", group.case.called(), finding.message);
    }
    about_task(finding, id, group.case.name())
}

/// A finding that speaks of one message and of no place is about the message's task.
pub(super) fn about_task(finding: Finding, id: &str, task: Option<&str>) -> Finding {
    if is_about_one(&finding, id) && finding.subject.is_empty() {
        return finding.subject("task", task.unwrap_or("unknown"));
    }
    finding
}

/// Whether a finding speaks of one message, and not of the place where it stands.
fn is_about_one(finding: &Finding, id: &str) -> bool {
    !id.is_empty() && finding.message.contains(id)
}

/// One finding for each thing that findings of a rule are about: the first, with the numbers and the ids of all.
pub(super) fn merged(said: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let mut order: Vec<Finding> = Vec::new();
    let mut about: BTreeMap<BTreeMap<String, String>, usize> = BTreeMap::new();
    for finding in said {
        let Some(at) = about.get(&finding.subject) else {
            about.insert(finding.subject.clone(), order.len());
            order.push(finding);
            continue;
        };
        let first = &mut order[*at];
        // A chord is one thing, however many of its tasks tell of it.
        first.count = if first.subject.contains_key("group") {
            first.count.max(finding.count)
        } else {
            first.count.saturating_add(finding.count)
        };
        first.severity = first.severity.max(finding.severity);
        for id in finding.task_ids {
            if first.task_ids.len() < NAMED_IDS && !first.task_ids.contains(&id) {
                first.task_ids.push(id);
            }
        }
    }
    for finding in &mut order {
        let named = finding
            .task_ids
            .iter()
            .any(|id| finding.message.contains(id.as_str()));
        if let (true, Some(more @ 1..)) = (named, finding.count.checked_sub(1)) {
            finding.message = format!("{}; {more} more like it", finding.message);
        }
    }
    order
}

#[cfg(test)]
mod tests;
