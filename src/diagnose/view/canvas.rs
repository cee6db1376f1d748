//! What messages say of tasks that are sent later: the steps of a canvas.

use super::case::Case;
use crate::celery::canvas::{Role, Step};
use crate::evidence::Copy;

/// So many messages that lead to a task are looked at.
const MOST_LEADS: usize = 20;

/// A message that carries a task in its canvas: it, or the end of its own task, sends that task in the end.
#[derive(Debug, Clone)]
pub(in crate::diagnose) struct Lead<'e> {
    /// The id of the message's task.
    pub(in crate::diagnose) id: &'e str,
    /// The step that the task is.
    pub(in crate::diagnose) step: &'e Step,
    /// What comes between, in the order in which it runs.
    pub(in crate::diagnose) between: Vec<&'e Step>,
}

impl<'e> Case<'e> {
    /// The messages that carry the task in their canvas, and whose own task has not ended.
    pub(in crate::diagnose) fn leads(&self) -> Vec<Lead<'e>> {
        let leads = self.evidence.canvases.iter().filter_map(|(id, steps)| {
            let step = steps.iter().find(|step| step.id == self.id)?;
            // A chord's polling task ends and is sent again until the header has ended.
            let alive = Case::of(self.evidence, id).is_none_or(|case| !case.has_ended());
            (alive && id != self.id).then(|| Lead {
                id,
                step,
                between: between(steps, step, id),
            })
        });
        leads.take(MOST_LEADS).collect()
    }

    /// Whether a message carries the task in its canvas.
    pub(in crate::diagnose) fn is_carried(&self) -> bool {
        !self.leads().is_empty()
    }

    /// Whether it ran to its end and nobody has it any more.
    fn has_ended(&self) -> bool {
        self.final_result().is_some() && self.task.copies.is_empty() && self.task.claims.is_empty()
    }

    /// Whether it has replaced itself by what leads to it now (Celery 5.7 `app/task.py`, `Task.replace`): what a task sends
    /// names it as its parent, and only one that ran has sent anything.
    pub(in crate::diagnose) fn replaced_itself(&self, leads: &[Lead<'e>]) -> bool {
        let began = self.result().is_some_and(|result| !result.doc.ready);
        let names_it = |copy: &Copy| {
            let parents = [&copy.envelope.parent_id, &copy.envelope.root_id];
            parents
                .into_iter()
                .any(|parent| parent.as_deref() == Some(self.id))
        };
        let mut cases = leads
            .iter()
            .filter_map(|lead| Case::of(self.evidence, lead.id));
        began || cases.any(|case| case.task.copies.iter().any(names_it))
    }

    /// The tasks of the group of this id that are sent later, when others have ended. The body of a chord bears the id of
    /// its own header's group, and is none of them.
    pub(in crate::diagnose) fn parts_to_come(&self) -> Vec<&'e Step> {
        let alive = |id: &str| Case::of(self.evidence, id).is_none_or(|case| !case.has_ended());
        let canvases = self.evidence.canvases.iter().filter(|(id, _)| alive(id));
        let mut steps: Vec<&Step> = canvases
            .flat_map(|(_, steps)| steps)
            .filter(|step| step.group.as_deref() == Some(self.id) && step.after != self.id)
            .collect();
        // Each part of an inner header carries the same body.
        steps.sort_by_key(|step| &step.id);
        steps.dedup_by_key(|step| &step.id);
        steps
    }

    /// The tasks of the group of this id, as far as they were met: with messages or results that name it.
    pub(in crate::diagnose) fn parts(&self) -> Vec<Case<'e>> {
        let of_group = |case: &Case<'e>| {
            let mut groups = case.task.copies.iter().map(|copy| &copy.envelope.group);
            let of_result = case
                .result()
                .and_then(|result| result.doc.group_id.as_deref());
            of_result == Some(self.id) || groups.any(|group| group.as_deref() == Some(self.id))
        };
        let tasks = self.evidence.tasks.iter();
        let cases = tasks.map(|(id, task)| Case {
            evidence: self.evidence,
            id,
            task,
        });
        cases
            .filter(|case| of_group(case) && case.id != self.id)
            .collect()
    }
}

/// The steps between a message's own task and one of its steps.
fn between<'e>(steps: &'e [Step], last: &'e Step, id: &str) -> Vec<&'e Step> {
    let mut between = Vec::new();
    let mut after = last.after.as_str();
    while after != id && between.len() < steps.len() {
        let Some(step) = steps.iter().find(|step| step.id == after) else {
            break;
        };
        between.push(step);
        after = &step.after;
    }
    between.reverse();
    between
}

impl Lead<'_> {
    /// The group all of whose parts have to succeed first, where the task is the body of a chord of which the message's
    /// task is a part.
    pub(in crate::diagnose) fn is_header_of(&self) -> Option<&str> {
        let body = self.step.role == Role::Body && self.between.is_empty();
        body.then_some(self.step.after.as_str())
    }
}
