//! Routing as a project's files tell it: settings, tasks and calls in Python, read without running it; the processes that
//! it starts; and what a broker was told to have.

mod apps;
mod broker;
mod convert;
pub mod definitions;
mod export;
mod ignores;
pub mod processes;
mod python;
mod read;
mod settings;
mod source;
mod tree;

pub(crate) use self::broker::{of_definitions, of_evidence};
pub(crate) use self::read::{Request, Settings, read};
