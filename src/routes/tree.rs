//! Which files there are below a folder, and their bytes.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Larger files are not read.
pub(crate) const MAX_BYTES: u64 = 2 * 1024 * 1024;
/// More files than these are not listed.
const MAX_FILES: usize = 200_000;
/// Folders within folders.
const MAX_DEPTH: usize = 64;

/// Folders in which there is other people's code, or none.
const SKIPPED: [&str; 14] = [
    "node_modules",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "venv",
    "env",
    "virtualenv",
    "bower_components",
    "vendor",
    "third_party",
    "dist",
    "build",
    "htmlcov",
    "__pypackages__",
];

/// The files of a folder, each by its path relative to it, with `/` between the parts.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub root: PathBuf,
    /// Those that end in `.py`.
    pub python: Vec<String>,
    /// All others, and those in hidden folders of deployments.
    pub others: Vec<String>,
    /// What was left out, and why.
    pub skipped: Vec<(String, String)>,
}

/// Lists a folder. Links are not followed: what they lead to is in the folder too, or none of its business.
///
/// # Errors
/// Where the folder itself can't be listed.
pub(crate) fn list(root: &Path) -> std::io::Result<Tree> {
    let mut tree = Tree {
        root: root.to_owned(),
        ..Tree::default()
    };
    fs::read_dir(root)?;
    let mut open = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, name, depth)) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                tree.skipped
                    .push((name, format!("it can't be listed: {error}")));
                continue;
            }
        };
        // Another environment's packages, whatever its name.
        if depth > 0 && folder.join("pyvenv.cfg").exists() {
            continue;
        }
        for entry in entries.flatten() {
            let (Ok(kind), Ok(file)) = (entry.file_type(), entry.file_name().into_string()) else {
                continue;
            };
            let path = if name.is_empty() {
                file.clone()
            } else {
                format!("{name}/{file}")
            };
            if kind.is_dir() {
                let hidden = file.starts_with('.');
                if hidden || SKIPPED.contains(&file.as_str()) {
                    continue;
                }
                if depth < MAX_DEPTH {
                    open.push((entry.path(), path, depth + 1));
                } else {
                    tree.skipped
                        .push((path, "it is nested too deep".to_owned()));
                }
            } else if kind.is_file() {
                if tree.python.len() + tree.others.len() >= MAX_FILES {
                    tree.skipped
                        .push((path, format!("there are more than {MAX_FILES} files")));
                    break;
                }
                if Path::new(&file)
                    .extension()
                    .is_some_and(|ending| ending == "py")
                {
                    tree.python.push(path);
                } else {
                    tree.others.push(path);
                }
            }
        }
    }
    tree.python.sort();
    tree.others.sort();
    tree.skipped.sort();
    Ok(tree)
}

/// The bytes of a file.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let mut bytes = Vec::new();
        // Opening a pipe waits for its other end.
        if !fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is no ordinary file"));
        }
        fs::File::open(path)?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error: std::io::Error| format!("it can't be read: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    Ok(bytes)
}

/// Whether a Python file is for tests: its apps and calls are not those of the deployment.
pub(crate) fn is_for_tests(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    folder
        .split('/')
        .any(|part| part == "tests" || part == "test")
        || name.starts_with("test_")
        || name.ends_with("_test.py")
        || name == "conftest.py"
        || name == "tests.py"
}
