//! One reading of a project.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::python::Project;
use super::{apps, tree};
use crate::celery::routing::Gap;
use crate::evidence::routing::{Routing, Worker, Workers};

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
    let mut project = Project::new(&tree, request.env.clone());
    let count = u32::try_from(project.count()).unwrap_or(u32::MAX);
    for file in 0..count {
        project.read_if_relevant(file);
    }
    let mut routing = Routing {
        apps: apps::apps(&mut project),
        python_files: project.count(),
        ..Routing::default()
    };
    routing.unread = project.unread.iter().map(|gap| (**gap).clone()).collect();
    routing
        .unread
        .extend(tree.skipped.iter().map(|(file, why)| Gap {
            why: why.clone(),
            file: file.clone(),
            line: 0,
        }));
    routing.workers = workers(request);
    Ok(routing)
}

fn workers(request: &Request) -> Workers {
    let given = request.worker_queues.iter().map(|queues| Worker {
        name: "--worker-queues".to_owned(),
        app: None,
        queues: Ok(Some(queues.clone())),
        excluded: Ok(Vec::new()),
        location: None,
    });
    Workers {
        known: given.collect(),
        gaps: Vec::new(),
    }
}
