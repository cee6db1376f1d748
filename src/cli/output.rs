//! Where reports go: standard output, or files that appear whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use uuid::Uuid;

use super::args::{Cli, ColorChoice};
use super::workflow::without_commands;
use crate::diagnose::registry;

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

/// Writes text to standard output. No line of it is a command of a workflow.
pub(super) fn to_stdout(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    commands_to_stdout(|out| without_commands(out, write))
}

/// Writes to standard output what may be commands of a workflow.
pub(super) fn commands_to_stdout(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    unless_closed(write(&mut out).and_then(|()| out.flush()))
        .context("standard output can't be written")
}

/// A reader who has seen enough closes the pipe: that is no error, and changes no exit code.
fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a report to a file. No line of it is a command of a workflow.
pub(super) fn report_to_file(
    file: &Path,
    access: Access,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    to_file(file, access, |out| without_commands(out, write))
}

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever could read what it replaces, else as the user has it for new files.
    Usual,
    /// Its owner alone: it holds arguments of tasks.
    Owner,
}

impl Access {
    /// That of a file with or without the arguments of tasks.
    pub(super) fn of(shows_args: bool) -> Self {
        if shows_args { Self::Owner } else { Self::Usual }
    }
}

/// Writes a file beside its place and moves it there, so that nobody ever reads half of it.
pub(super) fn to_file(
    file: &Path,
    access: Access,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    // What a link leads to is replaced, not the link; a device or a pipe is written to, and never replaced.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let there = fs::metadata(&target).ok();
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        return straight_to(file, write);
    }
    let mut name = target
        .file_name()
        .map_or_else(OsString::new, OsString::from);
    // Whoever can write to this folder must not know the name, and wait there with a link to somewhere else.
    name.push(format!(".{}.part", Uuid::new_v4().simple()));
    let part = target.with_file_name(name);
    let outcome = created(&part, access, there.as_ref()).and_then(|created| {
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

/// Creates a file that was not there, and that nobody can read who could not read the one that it will replace.
fn created(part: &Path, access: Access, replaces: Option<&fs::Metadata>) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if access == Access::Owner || replaces.is_some() {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let file = options.open(part)?;
    if access == Access::Usual
        && let Some(replaces) = replaces
    {
        file.set_permissions(replaces.permissions())?;
    }
    Ok(file)
}

/// Writes to what is no ordinary file.
fn straight_to(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let opened = File::options().write(true).open(file);
    let written = opened.and_then(|opened| {
        let mut out = BufWriter::new(opened);
        write(&mut out)?;
        out.flush()
    });
    unless_closed(written).with_context(|| format!("{} can't be written", file.display()))
}

/// Prints a completion script.
pub(super) fn completions(shell: Shell) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "celery-doctor", &mut script);
    let script = String::from_utf8(script).context("the script is no text")?;
    // For a program with a hyphen in its name clap_complete 4.6 writes one name where it chooses a part of the script for
    // bash and another where the part stands, so that no subcommand was ever completed.
    let script = script.replace("celery__subcmd__doctor", "celery__doctor");
    to_stdout(|out| {
        out.write_all(script.as_bytes())?;
        // It offers no values of arguments without a flag to fish.
        if shell == Shell::Fish {
            let names = registry::ALL.iter().flat_map(|rule| [rule.code, rule.name]);
            let names: Vec<&str> = names.collect();
            let condition = "__fish_celery_doctor_using_subcommand explain";
            let names = names.join(" ");
            writeln!(
                out,
                "complete -c celery-doctor -n \"{condition}\" -f -a \"{names}\""
            )?;
        }
        Ok(())
    })?;
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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let directory = tempfile::tempdir().expect("a file");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").expect("a file");
        std::os::unix::fs::symlink(&real, &link).expect("a file");
        to_file(&link, Access::Usual, |out| out.write_all(b"new")).expect("a file");
        assert!(fs::symlink_metadata(&link).expect("a file").is_symlink());
        assert_eq!(fs::read(&real).expect("a file"), b"new");
        assert_eq!(fs::read_dir(directory.path()).expect("a file").count(), 2);
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_permissions() {
        let directory = tempfile::tempdir().expect("a file");
        let file = directory.path().join("report");
        for kept in [0o600, 0o640, 0o664] {
            fs::write(&file, "old").expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(kept)).expect("a file");
            let mut while_written = 0;
            to_file(&file, Access::Usual, |out| {
                let parts = fs::read_dir(directory.path())?.flatten();
                let part = parts.map(|entry| entry.path()).find(|path| *path != file);
                while_written = mode(&part.expect("the part"));
                out.write_all(b"new")
            })
            .expect("a file");
            assert_eq!((mode(&file), while_written), (kept, kept));
            assert_eq!(fs::read(&file).expect("a file"), b"new");
        }
    }

    #[test]
    fn what_holds_arguments_is_for_its_owner() {
        let directory = tempfile::tempdir().expect("a file");
        let file = directory.path().join("snapshot");
        to_file(&file, Access::Owner, |out| out.write_all(b"a")).expect("a file");
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a file");
        to_file(&file, Access::Owner, |out| out.write_all(b"b")).expect("a file");
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn a_part_takes_no_place_that_is_taken() {
        let directory = tempfile::tempdir().expect("a file");
        let (part, elsewhere) = (directory.path().join("p"), directory.path().join("x"));
        std::os::unix::fs::symlink(&elsewhere, &part).expect("a link");
        assert!(created(&part, Access::Usual, None).is_err());
        assert!(!elsewhere.exists());
    }
}
