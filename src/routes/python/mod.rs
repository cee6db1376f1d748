//! Python read as far as it can be without running it: literals, names, imports within the project, and the few calls
//! that Celery's configuration is made of. All else is unknown, with the place where it begins to be.

mod calls;
mod entities;
mod expression;
mod guard;
mod imports;
mod methods;
mod operators;
mod project;
mod statement;
mod tasks;
mod value;

use std::rc::Rc;

use ruff_python_ast::{Stmt, StmtFunctionDef};
use ruff_text_size::Ranged;

pub(crate) use self::project::{AppFacts, ConfOp, Project, Sureness};
use self::value::Function;
pub(crate) use self::value::{Dict, Kind, List, Place, Scope, Value, same};

/// Evaluations of one file before it is given up as too much.
const MAX_STEPS: u32 = 400_000;
/// Calls within calls.
const MAX_CALLS: usize = 8;
/// Items of one list or dict.
const MAX_ITEMS: usize = 20_000;
/// Characters of one text.
const MAX_TEXT: usize = 100_000;

/// The walk through one file.
struct Walk<'p, 'a> {
    project: &'p mut Project,
    file: u32,
    /// The dotted name of the module.
    module: Rc<str>,
    /// The names of the module, then those of the functions and classes that the walk is in.
    scopes: Vec<Scope>,
    /// The functions of the file, with how many scopes each sees.
    functions: Vec<(&'a StmtFunctionDef, usize, Function)>,
    /// Functions that were defined in each scope and not called.
    pending: Vec<Vec<usize>>,
    /// Which functions were walked.
    walked: Vec<bool>,
    /// What may not happen: each entry is a branch that may not be taken, or a function that may not be called.
    contexts: Vec<Context>,
    /// What the functions that the walk is in return.
    returns: Vec<Vec<Value>>,
    calls: usize,
    steps: u32,
}

#[derive(Clone, Copy)]
struct Context {
    id: u32,
    function: bool,
}

/// Whether the statements after one are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Out,
}

/// Walks a file; the names of its module at the end.
fn walk(project: &mut Project, file: u32, module: Rc<str>, body: &[Stmt]) -> Scope {
    let mut walk = Walk {
        project,
        file,
        module,
        scopes: vec![Scope::default()],
        functions: Vec::new(),
        pending: vec![Vec::new()],
        walked: Vec::new(),
        contexts: vec![Context {
            id: 0,
            function: false,
        }],
        returns: Vec::new(),
        calls: 0,
        steps: 0,
    };
    walk.block(body);
    walk.uncalled();
    walk.scopes.swap_remove(0)
}

impl Walk<'_, '_> {
    fn place(&self, node: &impl Ranged) -> Place {
        Place {
            file: self.file,
            start: node.range().start().to_u32(),
            end: node.range().end().to_u32(),
        }
    }

    fn unknown(&self, at: Place, why: impl Into<String>) -> Value {
        Value::new(Kind::Unknown(self.project.gap(at, why)), at)
    }

    /// The branch or function that the walk is in.
    fn context(&self) -> u32 {
        self.contexts.last().map_or(0, |context| context.id)
    }

    fn enter(&mut self, function: bool) {
        let id = self.project.context();
        self.contexts.push(Context { id, function });
    }

    /// How sure it is that what happens here happens to something made in a context.
    fn sureness(&self, made_in: u32) -> Sureness {
        let made = self
            .contexts
            .iter()
            .position(|context| context.id == made_in);
        let from = made.unwrap_or(0);
        let above = self.contexts.get(from + 1..).unwrap_or_default();
        if above.iter().any(|context| !context.function) {
            Sureness::Maybe
        } else if above.is_empty() {
            Sureness::Sure
        } else {
            Sureness::WhenCalled
        }
    }
}

#[cfg(test)]
mod tests;
