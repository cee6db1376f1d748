//! Tasks that are not sent yet, because they are later steps of a canvas, and groups, which are no tasks.

use super::Verdict;
use super::plain;
use super::verdict::decide_itself;
use super::view::{Case, Lead};
use crate::celery::canvas::{Role, Step};

/// So many tasks are named one by one in a sentence.
const NAMED: usize = 3;

/// A task that has to succeed first, and where it is.
struct Before<'e> {
    case: Case<'e>,
    verdict: Verdict,
    sentence: String,
}

impl Before<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.case.called(), self.case.id)
    }

    fn state(&self) -> String {
        format!("{}: {}", self.verdict.name(), self.sentence)
    }
}

/// Where a task is that a message carries in its canvas; none where no message does.
pub(super) fn not_yet_sent(case: &Case<'_>) -> Option<(Verdict, String)> {
    let leads = case.leads();
    let mut before: Vec<(&Lead<'_>, Before<'_>)> = leads
        .iter()
        .filter_map(|lead| {
            let case = Case::of(case.evidence, lead.id)?;
            let (verdict, sentence) = decide_itself(&case);
            // What was met in a queue and is nowhere now has moved on meanwhile.
            let verdict = if verdict == Verdict::Unknown {
                Verdict::Undetermined
            } else {
                verdict
            };
            Some((
                lead,
                Before {
                    case,
                    verdict,
                    sentence,
                },
            ))
        })
        .collect();
    before.sort_by_key(|(_, before)| rank(before.verdict));
    let (lead, first) = before.first()?;
    if rank(first.verdict) < FINE {
        return Some((first.verdict, held_up(lead, first)));
    }
    let verdict = if case.replaced_itself(&leads) {
        first.verdict
    } else {
        Verdict::NotYetSent
    };
    let again = if verdict == Verdict::NotYetSent {
        "it will be sent"
    } else {
        "it has replaced itself, and its id goes on as that of a later step: it will be sent"
    };
    let sentence = match lead.is_header_of() {
        Some(_) => {
            let states: Vec<&Before<'_>> = before.iter().map(|(_, before)| before).collect();
            let parts = progress(&first.case);
            format!(
                "{again}, as the body of a chord, when every part of its header has succeeded{parts}; {}",
                list(&states)
            )
        }
        None => format!(
            "{again} {}, {} is {}",
            when(lead, first),
            one(lead),
            first.state()
        ),
    };
    Some((verdict, sentence))
}

/// Verdicts from here on are of tasks that are accounted for.
const FINE: u8 = 5;

/// The one that is worst decides: it keeps the later step from ever being sent.
fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Doomed => 0,
        Verdict::Lost | Verdict::Unknown => 1,
        Verdict::DeadLettered => 2,
        Verdict::Stuck => 3,
        Verdict::Undetermined => 4,
        Verdict::NotYetSent | Verdict::Queued => FINE,
        Verdict::Reserved => FINE + 1,
        Verdict::Running => FINE + 2,
        Verdict::Finished => FINE + 3,
    }
}

fn held_up(lead: &Lead<'_>, first: &Before<'_>) -> String {
    let has_to = if lead.step.role == Role::Errback {
        "is sent if"
    } else {
        "is a later step of a canvas, to be sent after"
    };
    let fails = if lead.step.role == Role::Errback {
        " fails"
    } else {
        ""
    };
    format!(
        "it {has_to} {}{fails}, which is {}",
        first.name(),
        first.state()
    )
}

/// How many parts of a chord are in.
fn progress(part: &Case<'_>) -> String {
    let chord = part.task.chord.seen().and_then(Option::as_ref);
    match chord.and_then(|chord| Some((chord.joined, chord.size?))) {
        Some((joined, size)) => format!(" ({joined} of {size} have so far)"),
        None => String::new(),
    }
}

/// After what a step is sent.
fn when(lead: &Lead<'_>, first: &Before<'_>) -> String {
    let mut names = vec![first.name()];
    names.extend(lead.between.iter().map(|step| name_of(step)));
    let what = match names.as_slice() {
        [one] => one.clone(),
        [one, two] => format!("{one} and then {two}"),
        [one, middle @ .., last] if middle.len() < NAMED => {
            format!("{one}, {} and then {last}", middle.join(", "))
        }
        [one, middle @ .., last] => format!(
            "{one}, {} and then {last}",
            plain::count(middle.len() as u64, "more task")
        ),
        [] => String::new(),
    };
    match (lead.step.role, names.len()) {
        (Role::Errback, _) => format!("if {what} fails"),
        (_, 1) => format!("when {what} has succeeded"),
        _ => format!("when {what} have succeeded"),
    }
}

fn one(lead: &Lead<'_>) -> &'static str {
    if lead.between.is_empty() {
        "which"
    } else {
        "of which the first"
    }
}

fn name_of(step: &Step) -> String {
    match (&step.task, step.role) {
        (_, Role::Group) => format!("all tasks of group {}", step.id),
        (Some(task), _) => format!("{task} {}", step.id),
        (None, _) => step.id.clone(),
    }
}

fn list(all: &[&Before<'_>]) -> String {
    let named: Vec<String> = all
        .iter()
        .take(NAMED)
        .map(|before| format!("{} is {}", before.name(), before.state()))
        .collect();
    match all.len().saturating_sub(NAMED) {
        0 => named.join("; "),
        more => format!("{}; and {more} more", named.join("; ")),
    }
}

/// What became of the tasks of a group, where the id is that of a group and some of them were met.
pub(super) fn of_group(case: &Case<'_>) -> Option<(Verdict, String)> {
    let mut parts: Vec<Before<'_>> = case
        .parts()
        .into_iter()
        .map(|case| {
            let (verdict, sentence) = decide_itself(&case);
            Before {
                case,
                verdict,
                sentence,
            }
        })
        .collect();
    parts.sort_by_key(|part| rank(part.verdict));
    let to_come = case.parts_to_come().len() as u64;
    let chord = case.task.chord.seen().and_then(Option::as_ref);
    let all_met = chord.and_then(|chord| chord.size) == Some(parts.len() as u64);
    let verdict = match parts.first()?.verdict {
        Verdict::Reserved | Verdict::Running | Verdict::Finished if to_come > 0 => {
            Verdict::NotYetSent
        }
        // Nobody told how many there are.
        Verdict::Finished if !all_met => Verdict::Undetermined,
        verdict => verdict,
    };
    let counts = Verdict::ALL.iter().filter_map(|verdict| {
        let count = parts.iter().filter(|part| part.verdict == *verdict).count();
        (count > 0).then(|| format!("{count} {}", verdict.name()))
    });
    let mut counts: Vec<String> = counts.collect();
    if to_come > 0 {
        counts.push(format!("{to_come} {}", Verdict::NotYetSent.name()));
    }
    if case.evidence.canvas_gap.leads > 0 {
        counts.push(format!("{} more", case.evidence.canvas_gap.leads));
    }
    let all: Vec<&Before<'_>> = parts.iter().collect();
    let sentence = format!(
        "it is the id of a group, whose tasks are, as far as they are known here: {}{}; {}",
        counts.join(", "),
        progress(case),
        list(&all)
    );
    Some((verdict, sentence))
}

#[cfg(test)]
mod tests;
