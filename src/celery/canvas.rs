//! The canvas that a message carries: the tasks that are sent when its own has ended.
//!
//! Celery 5.7 `app/amqp.py` (`as_task_v2`) puts `callbacks`, `errbacks`, `chain` and `chord` behind the arguments,
//! `app/trace.py` sends them, and `canvas.py` nests them in each other: in `options` as `link`, `link_error`, `chain` and
//! `chord`, in the `kwargs` of `celery.chain`, `celery.group` and `celery.chord`. Arguments of tasks are never kept.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::loose::{Owned, loose_map, loose_seq, otherwise_absent};

/// So many steps of one canvas are known, the next ones first.
pub const MOST_STEPS: usize = 10_000;

/// The task that polls for the header of a chord where the result backend can't count (Celery 5.7 `app/builtins.py`).
pub(super) const CHORD_UNLOCK: &str = "celery.chord_unlock";

/// A task, or a group of tasks, that a message carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The id that it will have, and has for whoever sent the canvas.
    pub id: String,
    /// The task's name; none for a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// What sends it.
    pub role: Role,
    /// The id of the task or the group that has to end first.
    pub after: String,
    /// The group whose part it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What a step is to the task, or the group, after which it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The next link of a chain.
    Link,
    /// The body of a chord: it is sent when every part of the header has succeeded.
    Body,
    /// A group, whose parts are sent together.
    Group,
    /// A part of a group.
    Part,
    /// A callback for success (`link`).
    Callback,
    /// A callback for failure (`link_error`).
    Errback,
}

loose_map!(
    /// The third part of the body of protocol 2; the body of protocol 1 has these keys among others.
    Embed {
        callbacks: Signatures = "callbacks",
        errbacks: Signatures = "errbacks",
        chain: Signatures = "chain",
        chord: Signatures = "chord",
    }
);

loose_map!(Wire {
    task: Owned = "task",
    options: Options = "options",
    kwargs: Kwargs = "kwargs",
});
loose_map!(Options {
    task_id: Owned = "task_id",
    group_id: Owned = "group_id",
    chord: Signatures = "chord",
    chain: Signatures = "chain",
    link: Signatures = "link",
    link_error: Signatures = "link_error",
});
loose_map!(Kwargs {
    tasks: Signatures = "tasks",
    header: Signatures = "header",
    body: Signatures = "body",
});

/// One signature or a list of them; of anything else, none.
#[derive(Debug, Default)]
pub(super) struct Signatures(Vec<Signature>);

/// What matters of a signature, kept small: a body may hold a million of them.
#[derive(Debug)]
struct Signature {
    id: Option<String>,
    task: Option<String>,
    group: Option<String>,
    more: Option<Box<More>>,
}

/// What a signature has in itself, which most have not.
#[derive(Debug)]
struct More {
    canvas: Option<Canvas>,
    chain: Signatures,
    chord: Signatures,
    callbacks: Signatures,
    errbacks: Signatures,
}

/// The signatures that are no task by themselves.
#[derive(Debug)]
enum Canvas {
    Chain(Signatures),
    Group(Signatures),
    Chord {
        header: Signatures,
        body: Signatures,
    },
}

impl<'de> Deserialize<'de> for Signatures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Signatures;
            otherwise_absent!(str);
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Signatures, A::Error> {
                let wire = Wire::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Signatures(Signature::of(wire).into_iter().collect()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Signatures, A::Error> {
                let mut all = Vec::new();
                while let Some(wire) = seq.next_element()? {
                    all.extend(Signature::of(wire));
                }
                Ok(Signatures(all))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Signature {
    fn of(wire: Wire) -> Option<Self> {
        let Wire {
            task,
            options,
            kwargs,
        } = wire;
        let task = task.filled()?;
        // Whatever other tasks have in keywords of these names are their arguments.
        let canvas = match task.as_str() {
            "celery.chain" => Some(Canvas::Chain(kwargs.tasks)),
            "celery.group" => Some(Canvas::Group(kwargs.tasks)),
            "celery.chord" => Some(Canvas::Chord {
                header: kwargs.header,
                body: kwargs.body,
            }),
            _ => None,
        };
        let more = More {
            canvas,
            chain: options.chain,
            chord: options.chord,
            callbacks: options.link,
            errbacks: options.link_error,
        };
        let lists = [&more.chain, &more.chord, &more.callbacks, &more.errbacks];
        let plain = more.canvas.is_none() && lists.iter().all(|list| list.0.is_empty());
        Some(Self {
            id: options.task_id.filled(),
            task: Some(task),
            group: options.group_id.filled(),
            more: (!plain).then(|| Box::new(more)),
        })
    }
}

/// `[args, kwargs, embed]` of `celery.chord_unlock`, whose arguments are the group's id and the body of the chord.
#[derive(Debug, Default)]
pub(super) struct Unlock(UnlockArgs);

#[derive(Debug, Default)]
struct UnlockArgs {
    group: Owned,
    body: Signatures,
}

loose_seq!(Unlock, |seq| {
    Unlock(seq.next_element()?.unwrap_or_default())
});
loose_seq!(UnlockArgs, |seq| {
    UnlockArgs {
        group: seq.next_element()?.unwrap_or_default(),
        body: seq.next_element()?.unwrap_or_default(),
    }
});

impl Embed {
    /// The id of the next link. The chain is kept in reverse (Celery 5.7 `app/trace.py`: `chain.pop()`).
    pub(super) fn next_link(&self) -> Option<String> {
        self.chain.0.last()?.id.clone()
    }

    /// The id of the body of the chord of which the message's own task is a part.
    pub(super) fn chord_body(&self) -> Option<String> {
        self.chord.0.first()?.id.clone()
    }

    /// What is sent after the message's own task, which is a part of this group.
    pub(super) fn steps(&self, id: &str, group: Option<&str>) -> Vec<Step> {
        let mut walk = Walk::default();
        walk.follow(&self.chain, &self.chord, id, group);
        walk.call_back(&self.callbacks, &self.errbacks, id);
        walk.steps
    }
}

impl Unlock {
    /// The body of the chord. The task's own end is not what it waits for.
    pub(super) fn steps(&self, id: &str) -> Vec<Step> {
        let mut walk = Walk::default();
        let group = self.0.group.filled();
        walk.place_all(&self.0.body, Role::Body, group.as_deref().unwrap_or(id));
        walk.steps
    }
}

/// Writes the steps down in the order in which they are sent.
#[derive(Default)]
struct Walk {
    steps: Vec<Step>,
}

impl Walk {
    /// What follows a task that succeeds: its chain and the chord to which it reports.
    fn follow(&mut self, chain: &Signatures, chord: &Signatures, id: &str, group: Option<&str>) {
        let mut last = id.to_owned();
        for link in chain.0.iter().rev() {
            last = self.place(link, Role::Link, &last, None);
        }
        self.place_all(chord, Role::Body, group.unwrap_or(id));
    }

    fn call_back(&mut self, callbacks: &Signatures, errbacks: &Signatures, id: &str) {
        self.place_all(callbacks, Role::Callback, id);
        self.place_all(errbacks, Role::Errback, id);
    }

    fn place_all(&mut self, all: &Signatures, role: Role, after: &str) {
        for signature in &all.0 {
            self.place(signature, role, after, None);
        }
    }

    /// Places a signature and what is in it. Returns the id after whose end the next one is sent.
    fn place(
        &mut self,
        signature: &Signature,
        role: Role,
        after: &str,
        of: Option<&str>,
    ) -> String {
        let id = signature.id.as_deref();
        let group = signature.group.as_deref().or(of);
        let more = signature.more.as_deref();
        let end = match more.and_then(|more| more.canvas.as_ref()) {
            None => {
                self.note(signature, role, after, group);
                id.unwrap_or(after).to_owned()
            }
            Some(Canvas::Chain(links)) => {
                let mut last = after.to_owned();
                for (at, link) in links.0.iter().enumerate() {
                    let role = if at == 0 { role } else { Role::Link };
                    last = self.place(link, role, &last, of);
                }
                last
            }
            Some(Canvas::Group(parts)) => self.place_group(parts, id, after),
            Some(Canvas::Chord { header, body }) => {
                let parts = match header.0.as_slice() {
                    [
                        Signature {
                            id: of_group,
                            more: Some(inner),
                            ..
                        },
                    ] => match &inner.canvas {
                        Some(Canvas::Group(parts)) => Some((parts, of_group.as_deref().or(id))),
                        _ => None,
                    },
                    _ => None,
                };
                let (parts, group) = parts.unwrap_or((header, id));
                let mut last = self.place_group(parts, group, after);
                for body in &body.0 {
                    last = self.place(body, Role::Body, &last, of);
                }
                last
            }
        };
        if let Some(more) = more {
            self.follow(&more.chain, &more.chord, &end, group);
            self.call_back(&more.callbacks, &more.errbacks, &end);
        }
        end
    }

    fn place_group(&mut self, parts: &Signatures, id: Option<&str>, after: &str) -> String {
        if let Some(id) = id {
            self.push(Step {
                id: id.to_owned(),
                task: None,
                role: Role::Group,
                after: after.to_owned(),
                group: None,
            });
        }
        for part in &parts.0 {
            self.place(part, Role::Part, after, id);
        }
        id.unwrap_or(after).to_owned()
    }

    fn note(&mut self, signature: &Signature, role: Role, after: &str, group: Option<&str>) {
        // What has no id yet gets one when it is sent, and nobody can ask for it before.
        if let Some(id) = &signature.id {
            self.push(Step {
                id: id.clone(),
                task: signature.task.clone(),
                role,
                after: after.to_owned(),
                group: group.map(str::to_owned),
            });
        }
    }

    fn push(&mut self, step: Step) {
        if self.steps.len() < MOST_STEPS {
            self.steps.push(step);
        }
    }
}

/// Leaves the steps that have one of the wanted ids or are parts of a wanted group, and those that come before them.
pub fn leave(steps: &mut Vec<Step>, wanted: impl Fn(&str) -> bool) {
    let is_wanted = |step: &Step| wanted(&step.id) || step.group.as_deref().is_some_and(&wanted);
    // A step stands behind those before it, so that one pass from the end meets them all.
    let mut before = std::collections::HashSet::new();
    let mut kept: Vec<bool> = steps
        .iter()
        .rev()
        .map(|step| {
            let keep = is_wanted(step) || before.contains(&step.id);
            if keep {
                before.insert(step.after.clone());
            }
            keep
        })
        .collect();
    kept.reverse();
    let mut kept = kept.into_iter();
    steps.retain(|_| kept.next().unwrap_or(false));
}

#[cfg(test)]
mod tests;
