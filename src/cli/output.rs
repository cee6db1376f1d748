//! Where reports go: standard output, or files that appear whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::args::{Cli, ColorChoice};

/// Width of a report where there is no terminal to ask.
const DEFAULT_WIDTH: usize = 100;

/// The width of the terminal on standard output.
pub(super) fn width() -> usize {
    terminal_size::terminal_size().map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0).max(40))
}

/// Whether standard output takes colours.
pub(super) fn colors(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            io::stdout().is_terminal() && !refused
        }
    }
}

/// Writes to standard output.
pub(super) fn to_stdout(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)
        .and_then(|()| out.flush())
        .context("standard output can't be written")
}

/// Writes a file beside its place and moves it there, so that nobody ever reads half of it.
pub(super) fn to_file(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    // What a link leads to is replaced, not the link; a device or a pipe is written to, and never replaced.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if fs::metadata(&target).is_ok_and(|there| !there.is_file()) {
        return straight_to(file, write);
    }
    let mut name = target
        .file_name()
        .map_or_else(OsString::new, OsString::from);
    name.push(format!(".{}.part", std::process::id()));
    let part = target.with_file_name(name);
    let outcome = File::create(&part).and_then(|created| {
        let mut out = BufWriter::new(created);
        write(&mut out)?;
        out.flush()?;
        fs::rename(&part, &target)
    });
    if outcome.is_err() {
        // The error that is reported is the first one; a part that was never created can't be removed.
        let _ = fs::remove_file(&part);
    }
    outcome.with_context(|| format!("{} can't be written", file.display()))
}

/// Writes to what is no ordinary file.
fn straight_to(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let opened = File::options().write(true).open(file);
    opened
        .and_then(|opened| {
            let mut out = BufWriter::new(opened);
            write(&mut out)?;
            out.flush()
        })
        .with_context(|| format!("{} can't be written", file.display()))
}

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "celery-doctor", &mut script);
    to_stdout(|out| out.write_all(&script))?;
    Ok(0)
}

/// Prints the manual page, with a part for each command.
pub(super) fn man() -> anyhow::Result<u8> {
    let mut command = Cli::command();
    command.build();
    to_stdout(|out| {
        clap_mangen::Man::new(command.clone()).render(out)?;
        for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let page = clap_mangen::Man::new(subcommand.clone());
            writeln!(
                out,
                ".SH \"CELERY-DOCTOR {}\"",
                subcommand.get_name().to_uppercase()
            )?;
            page.render_synopsis_section(out)?;
            page.render_description_section(out)?;
            page.render_options_section(out)?;
        }
        Ok(())
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let directory = tempfile::tempdir().expect("a file");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").expect("a file");
        std::os::unix::fs::symlink(&real, &link).expect("a file");
        to_file(&link, |out| out.write_all(b"new")).expect("a file");
        assert!(fs::symlink_metadata(&link).expect("a file").is_symlink());
        assert_eq!(fs::read(&real).expect("a file"), b"new");
        assert_eq!(fs::read_dir(directory.path()).expect("a file").count(), 2);
    }
}
