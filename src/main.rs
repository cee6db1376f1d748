//! The command line: see [`celery_doctor::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(celery_doctor::cli::main())
}
