//! `snapshot`: all the evidence in one file.

use std::io::{self, BufReader, Write};

use anyhow::Context;

use super::args::{GlobalArgs, SnapshotArgs};
use super::ids::Asked;
use super::output::Access;
use super::{output, reading};
use crate::collect::{Everything, MOST_RESULT_KEYS, Question};
use crate::evidence::{Evidence, ReadStatus, file};

/// More messages than these are counted, and not kept one by one.
const MOST_MESSAGES: u64 = 100_000;

/// Runs the command; returns the exit code: 3 where something could not be read.
pub(super) fn run(args: &SnapshotArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    let question = if args.ids.is_empty() && args.exact.is_empty() {
        Question::Everything(Everything {
            keep: Some(MOST_MESSAGES),
            result_keys: MOST_RESULT_KEYS,
            sample: None,
            deadline: None,
        })
    } else {
        let asked = Asked::read(&args.ids, &args.exact, BufReader::new(io::stdin()))?;
        // What is meant is decided by whoever traces it: the file says of each reading whether it is there.
        Question::Ids(asked.all())
    };
    let settings = reading::settings(&args.connection)?;
    let evidence = reading::read(&settings, question)?;
    let access = Access::of(settings.show_args);
    output::to_file(&args.output, access, |out| {
        file::write(&evidence, settings.show_args, out).map_err(io::Error::other)
    })?;
    if !global.quiet {
        let written = format!("{}: tasks: {}", args.output.display(), evidence.tasks.len());
        let unread = unread(&evidence);
        writeln!(io::stderr(), "{written}{unread}").context("standard error can't be written")?;
    }
    Ok(if unread(&evidence).is_empty() { 0 } else { 3 })
}

/// What of the deployment is not in the file.
fn unread(evidence: &Evidence) -> String {
    let gaps: Vec<String> = evidence
        .reads
        .iter()
        .filter(|read| matches!(read.status, ReadStatus::Partial | ReadStatus::Unavailable))
        .map(|read| format!("{} ({})", read.source.name(), read.detail))
        .collect();
    if gaps.is_empty() {
        String::new()
    } else {
        format!("; not read whole: {}", gaps.join(", "))
    }
}
