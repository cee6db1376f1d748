//! The Python files of a project, their modules, and what was met in them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;

use super::guard;
use super::value::{Import, Kind, Module, Place, Scope, Value};
use crate::celery::routing::Gap;
use crate::evidence::routing::Location;
use crate::routes::source::{Source, decode};
use crate::routes::tree::{self, Tree};

/// How many imports lead from one name to its value.
const MAX_IMPORTS: u32 = 16;
/// How many files are being read at once, one importing the other.
const MAX_NESTED: usize = 24;

/// A Celery app as it was met.
#[derive(Debug)]
pub(crate) struct AppFacts {
    pub at: Place,
    /// The module that makes it.
    pub module: Rc<str>,
    /// The name that it is bound to.
    pub variable: Option<Rc<str>>,
    /// The context that it was made in, where it was made in this file.
    pub context: u32,
    /// What happens to its configuration, in order.
    pub ops: Vec<(ConfOp, Sureness)>,
}

/// Something that happens to an app's configuration.
#[derive(Debug, Clone)]
pub(crate) enum ConfOp {
    /// A setting is set.
    Set(Rc<str>, Value),
    /// A dict of settings is merged in.
    Update(Value),
    /// `config_from_object`, with its namespace.
    Source(Value, Option<Value>),
    /// `namespace=` of the app.
    Namespace(Value),
    /// It is changed, and how cannot be told.
    Unknown(Rc<Gap>),
}

/// How sure it is that something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sureness {
    /// When the module is imported.
    Sure,
    /// When a function is called that nothing in its file calls.
    WhenCalled,
    /// Under a condition that is unknown.
    Maybe,
}

/// A task as it was met.
#[derive(Debug)]
pub(crate) struct TaskFacts {
    pub name: Result<Rc<str>, Rc<Gap>>,
    /// Whether the name was derived from the module's.
    pub derived: bool,
    /// Its app, where its decorator is that of one; else it is shared.
    pub app: Option<usize>,
    /// `queue`, `exchange` and so on.
    pub options: Vec<(Rc<str>, Value)>,
    pub at: Place,
}

/// A call that says where a task goes.
#[derive(Debug)]
pub(crate) struct CallFacts {
    pub task: Result<Rc<str>, Rc<Gap>>,
    /// The task, where the project defines it.
    pub number: Option<usize>,
    pub app: Option<usize>,
    pub options: Vec<(Rc<str>, Value)>,
    pub at: Place,
}

/// One Python file.
struct File {
    path: String,
    source: Option<Rc<Source>>,
    state: State,
}

enum State {
    Unread,
    /// It is being read: what is bound so far.
    Busy(Rc<Scope>),
    Read(Rc<Scope>),
}

/// The Python files of a folder.
pub(crate) struct Project {
    root: PathBuf,
    files: Vec<File>,
    numbers: HashMap<String, u32>,
    folders: HashSet<String>,
    nested: usize,
    /// `--env`.
    env: BTreeMap<String, String>,
    pub apps: Vec<AppFacts>,
    pub tasks: Vec<TaskFacts>,
    pub calls: Vec<CallFacts>,
    /// The numbers of tasks and calls by their places, each of which is met again whenever its function is walked.
    pub task_at: HashMap<Place, usize>,
    pub call_at: HashSet<Place>,
    /// Functions and classes that may be tasks, by the names that they would have.
    pub maybe_tasks: BTreeSet<String>,
    /// Places where tasks may be registered under unknown names.
    pub unknown_tasks: Vec<Rc<Gap>>,
    /// What is put into the configuration of a web framework, by key.
    pub held: Vec<(Rc<str>, Value)>,
    /// Modules that are imported by these dotted paths.
    pub imported: BTreeMap<String, BTreeSet<u32>>,
    /// What files put into the environment, by file and name.
    pub env_set: BTreeMap<(u32, Rc<str>), Value>,
    next_context: u32,
    /// Files that could not be read.
    pub unread: Vec<Rc<Gap>>,
}

impl Project {
    pub(crate) fn new(tree: &Tree, env: BTreeMap<String, String>) -> Self {
        let mut folders = HashSet::from([String::new()]);
        let mut numbers = HashMap::new();
        let mut files = Vec::new();
        for path in &tree.python {
            numbers.insert(path.clone(), u32::try_from(files.len()).unwrap_or(u32::MAX));
            let mut folder = path.as_str();
            while let Some((above, _)) = folder.rsplit_once('/') {
                if !folders.insert(above.to_owned()) {
                    break;
                }
                folder = above;
            }
            files.push(File {
                path: path.clone(),
                source: None,
                state: State::Unread,
            });
        }
        Self {
            root: tree.root.clone(),
            files,
            numbers,
            folders,
            nested: 0,
            env,
            apps: Vec::new(),
            tasks: Vec::new(),
            calls: Vec::new(),
            task_at: HashMap::new(),
            call_at: HashSet::new(),
            maybe_tasks: BTreeSet::new(),
            unknown_tasks: Vec::new(),
            held: Vec::new(),
            imported: BTreeMap::new(),
            env_set: BTreeMap::new(),
            next_context: 1,
            unread: Vec::new(),
        }
    }

    /// How many files there are.
    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn path(&self, file: u32) -> &str {
        self.files
            .get(file as usize)
            .map_or("", |file| file.path.as_str())
    }

    /// The value of an environment variable that `--env` gives.
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }

    /// A number for a branch or a function, that no other has.
    pub(super) fn context(&mut self) -> u32 {
        self.next_context += 1;
        self.next_context
    }

    pub(crate) fn gap(&self, at: Place, why: impl Into<String>) -> Rc<Gap> {
        let source = self
            .files
            .get(at.file as usize)
            .and_then(|f| f.source.as_ref());
        Rc::new(Gap {
            why: why.into(),
            file: self.path(at.file).to_owned(),
            line: source.map_or(0, |source| source.line(at.start as usize)),
        })
    }

    pub(crate) fn location(&self, at: Place) -> Option<Location> {
        let source = self.files.get(at.file as usize)?.source.as_ref()?;
        Some(source.location(at.start as usize, at.end as usize))
    }

    /// The lines of a file that was read, for the comments in them.
    pub(crate) fn text(&self, file: u32) -> Option<&str> {
        let source = self.files.get(file as usize)?.source.as_ref()?;
        Some(&source.text)
    }

    /// Reads a file whose text mentions what Celery's users write.
    pub(crate) fn read_if_relevant(&mut self, file: u32) {
        let Some(entry) = self.files.get(file as usize) else {
            return;
        };
        if tree::is_for_tests(&entry.path) {
            return;
        }
        let Some(source) = self.source(file) else {
            return;
        };
        if is_relevant(source.text.as_bytes()) {
            self.scope(file);
        } else if let Some(entry) = self.files.get_mut(file as usize)
            && matches!(entry.state, State::Unread)
        {
            entry.source = None;
        }
    }

    fn source(&mut self, file: u32) -> Option<Rc<Source>> {
        let entry = self.files.get(file as usize)?;
        if let Some(source) = &entry.source {
            return Some(source.clone());
        }
        let path = entry.path.clone();
        let read = tree::bytes(&self.root.join(&path)).and_then(decode);
        let text = match read {
            Ok(text) => text,
            Err(why) => {
                if !self.unread.iter().any(|gap| gap.file == path) {
                    self.unread.push(Rc::new(Gap {
                        why,
                        file: path,
                        line: 0,
                    }));
                }
                return None;
            }
        };
        let source = Rc::new(Source { path, text });
        self.files.get_mut(file as usize)?.source = Some(source.clone());
        Some(source)
    }

    /// The names of a module, which is read where it was not yet. Of one that is being read those bound so far.
    pub(crate) fn scope(&mut self, file: u32) -> Rc<Scope> {
        match self.files.get(file as usize).map(|entry| &entry.state) {
            Some(State::Busy(scope) | State::Read(scope)) => return scope.clone(),
            Some(State::Unread) => {}
            None => return Rc::default(),
        }
        let unread = |why: &str, path: &str| {
            let gap = Gap {
                why: why.to_owned(),
                file: path.to_owned(),
                line: 0,
            };
            Rc::new(Scope {
                spoiled: Some(Rc::new(gap)),
                ..Scope::default()
            })
        };
        let path = self.path(file).to_owned();
        if self.nested >= MAX_NESTED {
            return unread("too many files import each other in a row", &path);
        }
        let Some(source) = self.source(file) else {
            let scope = unread("this file can't be read", &path);
            self.set_state(file, State::Read(scope.clone()));
            return scope;
        };
        if !guard::is_shallow(&source.text) {
            let scope = unread("this file is nested too deep to be read", &path);
            self.unread.extend(scope.spoiled.clone());
            self.set_state(file, State::Read(scope.clone()));
            return scope;
        }
        self.set_state(file, State::Busy(Rc::default()));
        let parsed = ruff_python_parser::parse_module(&source.text);
        let scope = match parsed {
            Ok(parsed) => {
                self.nested += 1;
                let module: Rc<str> = self.module_name(&path).into();
                let scope = super::walk(self, file, module, parsed.suite());
                self.nested -= 1;
                Rc::new(scope)
            }
            Err(error) => {
                let gap = Rc::new(Gap {
                    why: "this is no Python that can be read".to_owned(),
                    file: path,
                    line: source.line(error.location.start().to_usize()),
                });
                self.unread.push(gap.clone());
                Rc::new(Scope {
                    spoiled: Some(gap),
                    ..Scope::default()
                })
            }
        };
        self.set_state(file, State::Read(scope.clone()));
        scope
    }

    /// Says what a file that is being read has bound so far.
    pub(super) fn publish(&mut self, file: u32, scope: &Scope) {
        self.set_state(file, State::Busy(Rc::new(scope.clone())));
    }

    fn set_state(&mut self, file: u32, state: State) {
        if let Some(entry) = self.files.get_mut(file as usize) {
            entry.state = state;
        }
    }

    /// Whether a file still has to be read.
    pub(super) fn is_unread(&self, file: u32) -> bool {
        let entry = self.files.get(file as usize);
        entry.is_some_and(|entry| matches!(entry.state, State::Unread))
    }

    /// The dotted name of a file as Python sees it from the folder above its topmost package.
    pub(crate) fn module_name(&self, path: &str) -> String {
        let root = self.package_root(path);
        dotted(path.strip_prefix(root.as_str()).unwrap_or(path))
    }

    /// The folder above the topmost package of a file, with a `/` at its end unless it is the project's own.
    pub(crate) fn package_root(&self, path: &str) -> String {
        let mut folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        while self.numbers.contains_key(&join(folder, "__init__.py")) && !folder.is_empty() {
            folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
        }
        if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        }
    }

    /// The other names that a file may be imported by, from the folders above that are no packages.
    pub(crate) fn other_names(&self, path: &str) -> Vec<String> {
        let own = self.package_root(path);
        let mut names = Vec::new();
        let mut above = own.trim_end_matches('/');
        while !above.is_empty() {
            above = above.rsplit_once('/').map_or("", |(above, _)| above);
            let start = if above.is_empty() { 0 } else { above.len() + 1 };
            names.push(dotted(&path[start..]));
        }
        names
    }

    /// The module that `name` means in a folder.
    fn module_in(&self, folder: &str, name: &str) -> Option<Module> {
        let package = join(folder, name);
        if let Some(file) = self.numbers.get(&join(&package, "__init__.py")) {
            return Some(Module {
                file: Some(*file),
                folder: Some(package.into()),
            });
        }
        if let Some(file) = self.numbers.get(&format!("{package}.py")) {
            return Some(Module {
                file: Some(*file),
                folder: None,
            });
        }
        self.folders.contains(&package).then(|| Module {
            file: None,
            folder: Some(package.into()),
        })
    }

    /// The submodule of a package.
    pub(crate) fn submodule(&self, module: &Module, name: &str) -> Option<Module> {
        self.module_in(module.folder.as_deref()?, name)
    }

    /// The module that a dotted path means in a file: seen from the folder above its package, then from those above that.
    pub(crate) fn find_module(&mut self, from: &str, path: &str) -> Option<Module> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let root = self.package_root(from);
        let mut folder = root.trim_end_matches('/').to_owned();
        loop {
            for place in [folder.clone(), join(&folder, "src")] {
                let mut module = self.module_in(&place, first);
                // A script beside this file is not shadowed by a folder of the same name elsewhere.
                for part in rest.split('.').filter(|part| !part.is_empty()) {
                    module = module.and_then(|module| self.submodule(&module, part));
                }
                if let Some(module) = module {
                    if let Some(file) = module.file {
                        self.imported
                            .entry(path.to_owned())
                            .or_default()
                            .insert(file);
                    }
                    return Some(module);
                }
            }
            if folder.is_empty() {
                return None;
            }
            folder = folder
                .rsplit_once('/')
                .map_or(String::new(), |(above, _)| above.to_owned());
        }
    }

    /// The package that so many dots mean in a file.
    pub(crate) fn relative(&self, from: &str, level: u32) -> Option<Module> {
        let mut folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
        for _ in 1..level {
            if folder.is_empty() {
                return None;
            }
            folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
        }
        Some(Module {
            file: self.numbers.get(&join(folder, "__init__.py")).copied(),
            folder: Some(folder.into()),
        })
    }

    /// The value of a name of a module.
    pub(crate) fn attribute(&mut self, module: &Module, name: &str, at: Place) -> Option<Value> {
        let value = self.bound(module, name, at)?;
        Some(self.settle(value))
    }

    /// What a module binds to a name, which may be an import in turn.
    fn bound(&mut self, module: &Module, name: &str, at: Place) -> Option<Value> {
        if let Some(file) = module.file {
            let scope = self.scope(file);
            if let Some(value) = scope.names.get(name) {
                return Some(value.clone());
            }
            if let Some(submodule) = self.submodule(module, name) {
                return Some(Value::new(Kind::Module(submodule), at));
            }
            if let Some(gap) = &scope.spoiled {
                return Some(Value::new(Kind::Unknown(gap.clone()), at));
            }
            return None;
        }
        let submodule = self.submodule(module, name)?;
        Some(Value::new(Kind::Module(submodule), at))
    }

    /// The value itself, where an import stands for it.
    pub(crate) fn settle(&mut self, mut value: Value) -> Value {
        for _ in 0..MAX_IMPORTS {
            let Kind::Import(import) = &value.kind else {
                return value;
            };
            let Import { module, name, path } = import.as_ref();
            let why = format!("{path} is not bound where it is imported from");
            let Some(found) = self.bound(&module.clone(), &name.clone(), value.at) else {
                return Value::new(Kind::Unknown(self.gap(value.at, why)), value.at);
            };
            value = found;
        }
        let why = "imports lead in a circle";
        Value::new(Kind::Unknown(self.gap(value.at, why)), value.at)
    }
}

/// Words of which one stands in each file that has to do with Celery.
fn is_relevant(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 10] = [
        b"elery",
        b"ELERY",
        b"kombu",
        b"apply_async",
        b"send_task",
        b"shared_task",
        b".task",
        b"signature(",
        b"queue=",
        b"routing_key",
    ];
    WORDS
        .iter()
        .any(|word| memchr::memmem::find(text, word).is_some())
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// `shop/tasks/__init__.py` as `shop.tasks`.
fn dotted(path: &str) -> String {
    let path = path.strip_suffix(".py").unwrap_or(path);
    let path = path.strip_suffix("/__init__").unwrap_or(path);
    path.replace('/', ".")
}
