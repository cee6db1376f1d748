//! Routing as files tell it: the processes that a project starts, and what a broker was told to have.

pub mod definitions;
pub mod processes;
