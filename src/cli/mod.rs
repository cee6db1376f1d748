//! The command line: what it accepts, and the commands behind it.

pub mod args;
pub mod exit;
