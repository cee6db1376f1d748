//! Statements.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::{self as ast, ExceptHandler, Expr, Stmt, StmtClassDef, StmtFunctionDef};

use super::value::{Class, Function, Kind, Scope, Value, equals};
use super::{Flow, MAX_CALLS, MAX_STEPS, Walk};

/// Rounds of a loop that are walked.
const MAX_ROUNDS: usize = 500;

impl<'a> Walk<'_, 'a> {
    pub(super) fn block(&mut self, body: &'a [Stmt]) -> Flow {
        for statement in body {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                let at = self.place(statement);
                let gap = self.project.gap(at, "there is too much to work out here");
                if let Some(scope) = self.scopes.last_mut() {
                    scope.spoiled.get_or_insert(gap);
                }
                return Flow::Out;
            }
            if self.statement(statement) == Flow::Out {
                return Flow::Out;
            }
        }
        Flow::On
    }

    fn statement(&mut self, statement: &'a Stmt) -> Flow {
        match statement {
            Stmt::FunctionDef(function) => self.function(function),
            Stmt::ClassDef(class) => self.class(class),
            Stmt::Return(back) => {
                let at = self.place(back);
                let value = match &back.value {
                    Some(value) => self.eval(value),
                    None => Value::new(Kind::None, at),
                };
                if let Some(returns) = self.returns.last_mut() {
                    returns.push(value);
                }
                return Flow::Out;
            }
            Stmt::Raise(raise) => {
                if let Some(exception) = &raise.exc {
                    self.eval(exception);
                }
                return Flow::Out;
            }
            Stmt::Break(_) | Stmt::Continue(_) => return Flow::Out,
            Stmt::Assign(assign) => {
                let value = self.eval(&assign.value);
                for target in &assign.targets {
                    self.assign(target, value.clone());
                }
            }
            Stmt::AnnAssign(assign) => {
                if let Some(value) = &assign.value {
                    let value = self.eval(value);
                    self.assign(&assign.target, value);
                }
            }
            Stmt::AugAssign(assign) => {
                let at = self.place(assign);
                let old = self.eval(&assign.target);
                let more = self.eval(&assign.value);
                // A list or a dict is changed in place, for all who hold it.
                let changed = match (&old.kind, assign.op) {
                    (Kind::List(_), ast::Operator::Add) => {
                        self.extend(&old, &more, at);
                        old
                    }
                    (Kind::Dict(_), ast::Operator::BitOr) => {
                        self.update(&old, &more, at);
                        old
                    }
                    _ => self.binary(&old, assign.op, &more, at),
                };
                self.assign(&assign.target, changed);
            }
            Stmt::Expr(expression) => {
                self.eval(&expression.value);
            }
            Stmt::If(branch) => {
                let mut arms = vec![(Some(&*branch.test), &branch.body)];
                let others = branch.elif_else_clauses.iter();
                arms.extend(others.map(|clause| (clause.test.as_ref(), &clause.body)));
                return self.branches(&arms);
            }
            Stmt::For(each) => self.each(each),
            Stmt::While(round) => {
                self.eval(&round.test);
                self.perhaps(&round.body);
                self.perhaps(&round.orelse);
            }
            Stmt::With(with) => {
                for item in &with.items {
                    let value = self.eval(&item.context_expr);
                    if let Some(target) = &item.optional_vars {
                        let at = self.place(&**target);
                        let why = "what a `with` binds is known only when it runs";
                        let _ = value;
                        let unknown = self.unknown(at, why);
                        self.assign(target, unknown);
                    }
                }
                return self.block(&with.body);
            }
            Stmt::Match(choice) => {
                self.eval(&choice.subject);
                for case in &choice.cases {
                    self.perhaps(&case.body);
                }
            }
            Stmt::Try(attempt) => {
                let flow = self.block(&attempt.body);
                for ExceptHandler::ExceptHandler(handler) in &attempt.handlers {
                    // What an import binds where it fails stands in for what is not here.
                    self.rescue(&attempt.body, &handler.body);
                }
                self.block(&attempt.orelse);
                let last = self.block(&attempt.finalbody);
                return if last == Flow::Out { last } else { flow };
            }
            Stmt::Import(import) => self.import(import),
            Stmt::ImportFrom(import) => self.import_from(import),
            Stmt::Delete(delete) => {
                for target in &delete.targets {
                    if let Expr::Name(name) = target
                        && let Some(scope) = self.scopes.last_mut()
                    {
                        scope.names.remove(name.id.as_str());
                    }
                }
            }
            Stmt::Assert(assert) => {
                self.eval(&assert.test);
            }
            Stmt::TypeAlias(_)
            | Stmt::Global(_)
            | Stmt::Nonlocal(_)
            | Stmt::Pass(_)
            | Stmt::IpyEscapeCommand(_) => {}
        }
        Flow::On
    }

    /// Binds a name in the scope that the walk is in.
    pub(super) fn bind(&mut self, name: &str, value: Value) {
        if let Kind::App(number) = value.kind
            && self.scopes.len() == 1
            && let Some(app) = self.project.apps.get_mut(number)
            && app.at.file == self.file
        {
            app.variable.get_or_insert_with(|| name.into());
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name.into(), value);
        }
    }

    pub(super) fn assign(&mut self, target: &'a Expr, value: Value) {
        match target {
            Expr::Name(name) => self.bind(name.id.as_str(), value),
            Expr::Tuple(ast::ExprTuple { elts, .. }) | Expr::List(ast::ExprList { elts, .. }) => {
                let items = value.items().filter(|items| items.len() == elts.len());
                let starred = elts.iter().any(Expr::is_starred_expr);
                for (number, target) in elts.iter().enumerate() {
                    let item = items
                        .as_ref()
                        .filter(|_| !starred)
                        .and_then(|items| items.get(number).cloned());
                    let at = self.place(target);
                    let item = item.unwrap_or_else(|| {
                        self.unknown(at, "what is unpacked here is known only when it runs")
                    });
                    self.assign(target, item);
                }
            }
            Expr::Starred(starred) => {
                let at = self.place(target);
                let unknown = self.unknown(at, "what is unpacked here is known only when it runs");
                let _ = value;
                self.assign(&starred.value, unknown);
            }
            Expr::Attribute(attribute) => {
                let owner = self.eval(&attribute.value);
                self.set_attribute(&owner, attribute.attr.as_str(), value);
            }
            Expr::Subscript(subscript) => {
                let owner = self.eval(&subscript.value);
                let key = self.eval(&subscript.slice);
                self.set_item(&subscript.value, &owner, key, value);
            }
            _ => {}
        }
    }

    /// The arms of an `if`: the first whose test is true, or each of those that may be.
    fn branches(&mut self, arms: &[(Option<&'a Expr>, &'a ast::Suite)]) -> Flow {
        for (number, (test, body)) in arms.iter().enumerate() {
            let truth = match test {
                None => Some(true),
                Some(test) if is_main(test) => Some(false),
                Some(test) => self.eval(test).truth(),
            };
            match truth {
                Some(true) => return self.block(body),
                Some(false) => {}
                None => {
                    self.either(body, arms.get(number + 1..).unwrap_or_default());
                    return Flow::On;
                }
            }
        }
        Flow::On
    }

    /// Walks a branch and what stands in its place, and keeps what both leave the same.
    fn either(&mut self, body: &'a [Stmt], rest: &[(Option<&'a Expr>, &'a ast::Suite)]) {
        let Some(before) = self.scopes.last().cloned() else {
            return;
        };
        self.enter(false);
        self.block(body);
        self.contexts.pop();
        let Some(taken) = self.scopes.last().cloned() else {
            return;
        };
        if let Some(scope) = self.scopes.last_mut() {
            *scope = before;
        }
        self.enter(false);
        self.branches(rest);
        self.contexts.pop();
        self.merge(taken);
    }

    /// Walks what may not happen.
    fn perhaps(&mut self, body: &'a [Stmt]) {
        self.either(body, &[]);
    }

    /// Joins the names of a branch with those of the scope: where they differ, the name is unknown.
    fn merge(&mut self, other: Scope) {
        let Some(mut scope) = self.scopes.pop() else {
            return;
        };
        for (name, theirs) in other.names {
            let ours = scope.names.get(&name);
            let agreed = ours.is_some_and(|ours| equals(ours, &theirs) == Some(true));
            if !agreed {
                let unknown = match theirs.gap() {
                    Some(gap) => Value::new(Kind::Unknown(gap.clone()), theirs.at),
                    None => self.unknown(
                        theirs.at,
                        format!("which {name} it is depends on a condition"),
                    ),
                };
                scope.names.insert(name, unknown);
            }
        }
        scope.spoiled = scope.spoiled.or(other.spoiled);
        self.scopes.push(scope);
    }

    /// An `except` that binds what the `try` binds by an import: the import is looked at first, and where it leads out of
    /// the project, either may hold.
    fn rescue(&mut self, attempt: &'a [Stmt], handler: &'a [Stmt]) {
        let only_imports = attempt
            .iter()
            .all(|s| matches!(s, Stmt::Import(_) | Stmt::ImportFrom(_)));
        if only_imports {
            let Some(before) = self.scopes.last().cloned() else {
                return;
            };
            self.enter(false);
            self.block(handler);
            self.contexts.pop();
            // An import that is in the project succeeds.
            if let Some(scope) = self.scopes.last_mut() {
                for (name, value) in before.names {
                    scope.names.insert(name, value);
                }
            }
        } else {
            self.perhaps(handler);
        }
    }

    fn each(&mut self, each: &'a ast::StmtFor) {
        let over = self.eval(&each.iter);
        let items = over.items().filter(|items| items.len() <= MAX_ROUNDS);
        let Some(items) = items else {
            let at = self.place(&*each.target);
            let unknown = match over.gap() {
                Some(gap) => Value::new(Kind::Unknown(gap.clone()), at),
                None => self.unknown(at, "what is looped over is known only when it runs"),
            };
            self.assign(&each.target, unknown);
            self.perhaps(&each.body);
            self.perhaps(&each.orelse);
            return;
        };
        // A round that may end early leaves the later ones in doubt.
        let doubtful = leaves(&each.body);
        for item in items {
            self.assign(&each.target, item);
            if doubtful {
                self.perhaps(&each.body);
            } else {
                self.block(&each.body);
            }
        }
        self.block(&each.orelse);
    }

    fn function(&mut self, function: &'a StmtFunctionDef) {
        let number = self.functions.len();
        let value = Function {
            file: self.file,
            number,
            returns: Rc::new(RefCell::new(None)),
        };
        for parameter in function.parameters.iter_non_variadic_params() {
            if let Some(default) = &parameter.default {
                self.eval(default);
            }
        }
        // A method sees the names of its module, not those of its class.
        let sees = self.scopes.len() - usize::from(self.in_class());
        self.functions.push((function, sees, value.clone()));
        self.walked.push(false);
        if let Some(pending) = self.pending.last_mut() {
            pending.push(number);
        }
        let at = self.place(&function.name);
        let bound = self
            .decorated(function)
            .unwrap_or_else(|| Value::new(Kind::Function(value), at));
        self.bind(function.name.as_str(), bound);
    }

    /// Whether the innermost scope is that of a class.
    fn in_class(&self) -> bool {
        self.pending.len() < self.scopes.len()
    }

    fn class(&mut self, class: &'a StmtClassDef) {
        for decorator in &class.decorator_list {
            self.eval(&decorator.expression);
        }
        let mut bases = Vec::new();
        if let Some(arguments) = &class.arguments {
            for base in &arguments.args {
                bases.push(self.eval(base));
            }
        }
        self.scopes.push(Scope::default());
        self.block(&class.body);
        let names = self.scopes.pop().unwrap_or_default();
        let at = self.place(&class.name);
        let made = Rc::new(Class {
            name: class.name.as_str().into(),
            module: self.module.clone(),
            bases,
            names,
            at,
        });
        self.maybe_task_class(&made);
        self.bind(class.name.as_str(), Value::new(Kind::Class(made), at));
    }

    /// Walks the functions of a scope that nothing has called, with arguments that nobody knows.
    pub(super) fn uncalled(&mut self) {
        let mut next = 0;
        while let Some(&number) = self.pending.last().and_then(|all| all.get(next)) {
            next += 1;
            if self.walked.get(number) == Some(&false) {
                self.enter(true);
                self.run(number, None);
                self.contexts.pop();
            }
        }
    }

    /// Walks the body of a function; what it returns.
    pub(super) fn run(
        &mut self,
        number: usize,
        arguments: Option<&super::calls::Arguments>,
    ) -> Option<Value> {
        let (function, sees, value) = self.functions.get(number)?.clone();
        if self.calls >= MAX_CALLS || sees > self.scopes.len() || self.steps > MAX_STEPS {
            return None;
        }
        if let Some(walked) = self.walked.get_mut(number) {
            *walked = true;
        }
        let hidden = self.scopes.split_off(sees);
        let hidden_pending = self.pending.split_off(sees.min(self.pending.len()));
        self.calls += 1;
        let scope = self.parameters(function, arguments);
        self.scopes.push(scope);
        self.pending.push(Vec::new());
        self.returns.push(Vec::new());
        let flow = self.block(&function.body);
        self.uncalled();
        let mut returned = self.returns.pop().unwrap_or_default();
        self.pending.pop();
        self.scopes.pop();
        self.calls -= 1;
        self.scopes.extend(hidden);
        self.pending.extend(hidden_pending);
        let at = self.place(&function.name);
        if flow == Flow::On {
            returned.push(Value::new(Kind::None, at));
        }
        let first = returned.first().cloned();
        let result = match first {
            Some(first)
                if returned
                    .iter()
                    .all(|other| equals(&first, other) == Some(true)) =>
            {
                first
            }
            Some(first) if returned.len() == 1 => first,
            _ => self.unknown(
                at,
                format!("what {} returns depends on a condition", function.name),
            ),
        };
        let result = if function.is_async || is_generator(&function.body) {
            self.unknown(
                at,
                format!("what {} yields is known only when it runs", function.name),
            )
        } else {
            result
        };
        *value.returns.borrow_mut() = Some(result.clone());
        Some(result)
    }

    fn parameters(
        &mut self,
        function: &'a StmtFunctionDef,
        arguments: Option<&super::calls::Arguments>,
    ) -> Scope {
        let mut scope = Scope::default();
        let parameters = &function.parameters;
        for (number, parameter) in parameters.iter_non_variadic_params().enumerate() {
            let name = parameter.parameter.name.as_str();
            let at = self.place(&parameter.parameter.name);
            let positional = number < parameters.posonlyargs.len() + parameters.args.len();
            let given = arguments.and_then(|arguments| {
                let by_place = arguments.positional.get(number).filter(|_| positional);
                by_place.or_else(|| arguments.keyword(name)).cloned()
            });
            let whole = arguments.is_some_and(|arguments| arguments.spoiled.is_none());
            let value = match (given, &parameter.default) {
                (Some(value), _) => value,
                (None, Some(default)) if whole => self.eval(default),
                _ => self.unknown(
                    at,
                    format!("{name} is known only when {} is called", function.name),
                ),
            };
            scope.names.insert(name.into(), value);
        }
        for parameter in parameters.vararg.iter().chain(&parameters.kwarg) {
            let at = self.place(&parameter.name);
            let name = parameter.name.as_str();
            let unknown = self.unknown(
                at,
                format!("{name} is known only when {} is called", function.name),
            );
            scope.names.insert(name.into(), unknown);
        }
        scope
    }
}

/// `__name__ == "__main__"`: not so where a worker or a web server imports the module.
fn is_main(test: &Expr) -> bool {
    let Expr::Compare(compare) = test else {
        return false;
    };
    let name = |expr: &Expr| matches!(expr, Expr::Name(name) if name.id.as_str() == "__name__");
    name(&compare.left) || compare.comparators.iter().any(name)
}

/// Whether a block may end before its end.
fn leaves(body: &[Stmt]) -> bool {
    body.iter().any(|statement| match statement {
        Stmt::Break(_) | Stmt::Continue(_) | Stmt::Return(_) => true,
        Stmt::If(branch) => {
            leaves(&branch.body) || branch.elif_else_clauses.iter().any(|c| leaves(&c.body))
        }
        Stmt::With(with) => leaves(&with.body),
        Stmt::Try(attempt) => leaves(&attempt.body) || leaves(&attempt.orelse),
        _ => false,
    })
}

/// Whether a function is a generator, as far as its own statements go.
fn is_generator(body: &[Stmt]) -> bool {
    body.iter().any(|statement| match statement {
        Stmt::Expr(expression) => {
            matches!(&*expression.value, Expr::Yield(_) | Expr::YieldFrom(_))
        }
        Stmt::Assign(assign) => matches!(&*assign.value, Expr::Yield(_) | Expr::YieldFrom(_)),
        Stmt::If(branch) => {
            is_generator(&branch.body)
                || branch
                    .elif_else_clauses
                    .iter()
                    .any(|c| is_generator(&c.body))
        }
        Stmt::For(each) => is_generator(&each.body),
        Stmt::While(round) => is_generator(&round.body),
        Stmt::With(with) => is_generator(&with.body),
        Stmt::Try(attempt) => is_generator(&attempt.body),
        _ => false,
    })
}
