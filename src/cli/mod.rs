//! The command line: what it accepts, and the commands behind it.

mod args;
mod audit;
mod exit;
mod explain;
mod forms;
mod output;
mod progress;
mod reading;
mod routes;
mod snapshot;
mod trace;

use std::io::{self, Write};

use clap::Parser;

use self::args::{Cli, Command};
use self::reading::Interrupted;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The same for nagios, to which 2 would be an alarm about the tasks.
const UNKNOWN: u8 = 3;

/// Runs the command that the arguments of this process name; returns the exit code.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no mistakes; where nobody reads them, nothing is lost.
            let _ = error.print();
            return if error.use_stderr() { usage() } else { 0 };
        }
    };
    match run(&cli) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn run(cli: &Cli) -> anyhow::Result<u8> {
    match &cli.command {
        Command::Trace(args) => trace::run(args, &cli.global),
        Command::Audit(args) => audit::run(args, &cli.global),
        Command::Snapshot(args) => snapshot::run(args, &cli.global),
        Command::Routes(args) => routes::run(args, &cli.global),
        Command::Explain(args) => explain::run(args, &cli.global),
        Command::Completions(args) => output::completions(args.shell),
        Command::Man => output::man(),
    }
}

/// Prints an error and says which exit code it means.
fn report(error: &anyhow::Error) -> u8 {
    let pipe_closed = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(pipe_closed) {
        return 0;
    }
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "error: {error:#}");
    match error.downcast_ref::<Interrupted>() {
        Some(interrupted) => interrupted.exit_code(),
        None => usage(),
    }
}

/// The exit code of wrong usage, in the style that the arguments ask for, as far as they can be understood.
fn usage() -> u8 {
    let arguments: Vec<_> = std::env::args_os().collect();
    let nagios = arguments
        .windows(2)
        .any(|pair| pair == ["--exit-code-style", "nagios"])
        || arguments
            .iter()
            .any(|one| one == "--exit-code-style=nagios");
    if nagios { UNKNOWN } else { USAGE }
}
