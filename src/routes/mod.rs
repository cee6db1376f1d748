//! Routing as a project's files tell it: settings, tasks and calls in Python, read without running it.

mod apps;
mod python;
mod read;
mod settings;
mod source;
mod tree;

pub(crate) use self::read::{Request, RoutesError, read};
