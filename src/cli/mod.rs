//! The command line: what it accepts, and the commands behind it.

mod args;
mod audit;
mod exit;
mod explain;
mod forms;
mod ids;
mod output;
mod progress;
mod reading;
mod routes;
mod snapshot;
mod trace;
mod workflow;

use std::ffi::OsString;
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
    let cli = match Cli::try_parse().and_then(Cli::settled) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no mistakes; where nobody reads them, nothing is lost.
            let _ = error.print();
            return if error.use_stderr() { usage() } else { 0 };
        }
    };
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(wrong) = peek_with_a_blank(&arguments) {
        return report(&anyhow::Error::msg(wrong));
    }
    match run(&cli) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// `--peek 5` reads like a number of messages, and 5 would be an id.
fn peek_with_a_blank(arguments: &[OsString]) -> Option<String> {
    let flags = arguments.split(|argument| argument == "--").next()?;
    let pair = flags.windows(2).find(|pair| pair[0] == "--peek")?;
    let number = pair[1].to_str()?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| {
        format!(
            "--peek takes its number behind an equals sign: --peek={number}; where {number} is the id of a task, write \
             --id {number}"
        )
    })
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
