//! Imports: of the project's own modules, looked at when they are needed, and of other packages.

use std::rc::Rc;

use ruff_python_ast::{StmtImport, StmtImportFrom};

use super::Walk;
use super::value::{Import, Kind, Module, Value};

impl Walk<'_, '_> {
    pub(super) fn import(&mut self, import: &StmtImport) {
        for alias in &import.names {
            let path = alias.name.as_str();
            let at = self.place(alias);
            let from = self.project.path(self.file).to_owned();
            // `import a.b` binds `a`, and makes sure that there is `a.b`.
            self.project.find_module(&from, path);
            let first = path.split('.').next().unwrap_or(path);
            let (name, wanted) = match &alias.asname {
                Some(name) => (name.as_str(), path),
                None => (first, first),
            };
            let value = match self.project.find_module(&from, wanted) {
                Some(module) => Value::new(Kind::Module(module), at),
                None => Value::new(Kind::External(wanted.into()), at),
            };
            self.bind(name, value);
        }
    }

    pub(super) fn import_from(&mut self, import: &StmtImportFrom) {
        let from = self.project.path(self.file).to_owned();
        let path = import.module.as_ref().map_or("", |module| module.as_str());
        let at = self.place(import);
        let module = if import.level > 0 {
            let mut module = self.project.relative(&from, import.level);
            for part in path.split('.').filter(|part| !part.is_empty()) {
                module = module.and_then(|module| self.project.submodule(&module, part));
            }
            module
        } else {
            self.project.find_module(&from, path)
        };
        let Some(module) = module else {
            for alias in &import.names {
                let name = alias.name.as_str();
                if name == "*" {
                    self.star_of_another(import.level, path, at);
                    continue;
                }
                let bound = alias.asname.as_ref().map_or(name, |name| name.as_str());
                let at = self.place(alias);
                let value = if import.level > 0 {
                    self.unknown(at, format!("the module {path} is not in the project"))
                } else {
                    Value::new(Kind::External(format!("{path}.{name}").into()), at)
                };
                self.bind(bound, value);
            }
            return;
        };
        for alias in &import.names {
            let name = alias.name.as_str();
            if name == "*" {
                self.star(&module);
                continue;
            }
            let bound = alias.asname.as_ref().map_or(name, |name| name.as_str());
            let at = self.place(alias);
            let import = Import {
                module: module.clone(),
                name: name.into(),
                path: format!("{path}.{name}").trim_start_matches('.').into(),
            };
            self.bind(bound, Value::new(Kind::Import(Rc::new(import)), at));
        }
    }

    /// `from x import *` of a module of the project.
    fn star(&mut self, module: &Module) {
        let Some(file) = module.file else { return };
        self.announce(file);
        let scope = self.project.scope(file);
        if let Some(own) = self.scopes.last_mut() {
            for (name, value) in &scope.names {
                if !name.starts_with('_') {
                    own.names.insert(name.clone(), value.clone());
                }
            }
            if own.spoiled.is_none() {
                own.spoiled.clone_from(&scope.spoiled);
            }
        }
    }

    /// `from x import *` of a module that is not in the project. Settings of one machine, which a `try` guards, are left
    /// out as they are where they are not.
    fn star_of_another(&mut self, level: u32, path: &str, at: super::Place) {
        if level > 0 || path.starts_with("django.") || path.starts_with("celery.") {
            return;
        }
        let gap = self.project.gap(
            at,
            format!("{path} is not in the project, and may set anything"),
        );
        if let Some(scope) = self.scopes.last_mut() {
            scope.spoiled.get_or_insert(gap);
        }
    }

    /// Before another file is read: it may import this one.
    pub(super) fn announce(&mut self, file: u32) {
        if self.project.is_unread(file)
            && let Some(scope) = self.scopes.first()
        {
            self.project.publish(self.file, scope);
        }
    }
}
