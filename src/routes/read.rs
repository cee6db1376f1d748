//! One reading of a project.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::apps;
use super::export::{self, ExportError};
use super::ignores::ignores;
use super::processes::{self, Told, WorkerCommand};
use super::python::Project;
use super::tree::{self, Tree};
use crate::celery::routing::Gap;
use crate::evidence::routing::{Location, Routing, Worker};

/// The stack of the thread that reads: the parser, the tree and the walk are recursive, and the guard before them counts
/// on so much. Only what is used of it is ever taken.
const STACK_BYTES: usize = 1 << 30;

/// What is to be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// The folder.
    pub path: PathBuf,
    /// `--env`.
    pub env: BTreeMap<String, String>,
    /// `--worker-queues`: the queues of each worker that is started, in place of those that files name.
    pub worker_queues: Vec<Vec<String>>,
    /// Where the settings come from.
    pub settings: Settings,
}

/// Where the settings come from.
#[derive(Debug, Clone, Default)]
pub(crate) enum Settings {
    /// The project's Python, which is read and not run.
    #[default]
    OfTheProject,
    /// `--config`: an export.
    File(PathBuf),
    /// `--app`: the project's Python is run.
    App {
        /// As `celery -A` takes it.
        app: String,
        /// `--python`.
        python: String,
    },
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoutesError {
    /// The folder.
    #[error("{} can't be listed: expected a folder with a project in it", path.display())]
    Folder {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The thread.
    #[error("no thread can be started to read the project")]
    Thread(#[source] std::io::Error),
    /// A defect of this program, which is told rather than passed over.
    #[error("the project could not be read: the reader failed")]
    Failed,
}

/// Reads a project: its apps, and the workers that it starts.
///
/// # Errors
/// Where there is no such folder.
pub(crate) fn read(request: &Request) -> Result<Routing, RoutesError> {
    let request = request.clone();
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || read_here(&request))
        .map_err(RoutesError::Thread)?
        .join()
        .map_err(|_| RoutesError::Failed)?
}

fn read_here(request: &Request) -> Result<Routing, RoutesError> {
    let tree = tree::list(&request.path).map_err(|source| RoutesError::Folder {
        path: request.path.clone(),
        source,
    })?;
    let export = match &request.settings {
        Settings::OfTheProject => None,
        Settings::File(path) => Some((path.display().to_string(), export::file(path)?)),
        Settings::App { app, python } => {
            Some((app.clone(), export::app(python, app, &request.path)?))
        }
    };
    let mut project = Project::new(&tree, request.env.clone());
    let count = u32::try_from(project.count()).unwrap_or(u32::MAX);
    for file in 0..count {
        project.read_if_relevant(file);
    }
    let apps = match &export {
        None => apps::apps(&mut project),
        Some((name, export)) => vec![apps::of_export(&mut project, name, export)],
    };
    let mut routing = Routing {
        apps,
        python_files: project.count(),
        ..Routing::default()
    };
    for file in 0..count {
        if let Some(text) = project.text(file) {
            routing.ignores.extend(ignores(project.path(file), text));
        }
    }
    routing.unread = project.unread.iter().map(|gap| (**gap).clone()).collect();
    routing
        .unread
        .extend(tree.skipped.iter().map(|(file, why)| Gap {
            why: why.clone(),
            file: file.clone(),
            line: 0,
        }));
    workers(request, &tree, &mut routing);
    Ok(routing)
}

fn workers(request: &Request, tree: &Tree, routing: &mut Routing) {
    if !request.worker_queues.is_empty() {
        let given = request.worker_queues.iter().map(|queues| Worker {
            name: "--worker-queues".to_owned(),
            app: None,
            queues: Ok(Some(queues.clone())),
            excluded: Ok(Vec::new()),
            location: None,
        });
        routing.workers.known.extend(given);
        return;
    }
    for path in &tree.others {
        let Some(kind) = processes::kind_of(path) else {
            continue;
        };
        let bytes = match tree::bytes(&tree.root.join(path)) {
            Ok(bytes) => bytes,
            Err(why) => {
                routing.unread.push(Gap {
                    why,
                    file: path.clone(),
                    line: 0,
                });
                continue;
            }
        };
        let found = processes::read(kind, path, &bytes, &request.env);
        routing
            .ignores
            .extend(ignores(path, &String::from_utf8_lossy(&bytes)));
        routing
            .workers
            .known
            .extend(found.workers.iter().map(worker));
        routing
            .workers
            .gaps
            .extend(found.unknown.iter().map(|unknown| Gap {
                why: unknown.why.clone(),
                file: unknown.location.file.clone(),
                line: unknown.location.line,
            }));
    }
}

fn worker(command: &WorkerCommand) -> Worker {
    let at = &command.location;
    let gap = |why: &String| Gap {
        why: why.clone(),
        file: at.file.clone(),
        line: at.line,
    };
    let place = command.queues_location.as_ref().unwrap_or(at);
    Worker {
        name: format!("{}:{}", at.file, at.line),
        app: command.app.is().cloned(),
        queues: match &command.queues {
            Told::Is(queues) => Ok(Some(queues.clone())),
            Told::Nothing => Ok(None),
            Told::Unknown(why) => Err(gap(why)),
        },
        excluded: match &command.excluded {
            Told::Is(queues) => Ok(queues.clone()),
            Told::Nothing => Ok(Vec::new()),
            Told::Unknown(why) => Err(gap(why)),
        },
        location: Some(Location {
            file: place.file.clone(),
            line: place.line,
            column: place.column,
            end_column: place.end_column,
            text: place.text.clone(),
        }),
    }
}
