//! `explain`: what a finding means.

use anyhow::bail;

use super::args::{ExplainArgs, GlobalArgs};
use super::output;
use crate::diagnose::registry;
use crate::report;

/// Runs the command; returns the exit code.
pub(super) fn run(args: &ExplainArgs, global: &GlobalArgs) -> anyhow::Result<u8> {
    let (width, color) = (output::width(), output::colors(global.color));
    let Some(wanted) = &args.finding else {
        output::to_stdout(|out| report::explain::list(width, color, out))?;
        return Ok(0);
    };
    let Some(rule) = registry::find(wanted) else {
        let near = registry::nearest(wanted);
        let hint = near.map_or(String::new(), |name| format!(" Did you mean {name}?"));
        bail!(
            "no finding is called {}: expected a code such as CD101 or a name such as no-consumer.{hint} \
             `celery-doctor explain --list` lists them all",
            report::plain::escape(wanted)
        );
    };
    output::to_stdout(|out| report::explain::page(rule, width, color, out))?;
    Ok(0)
}
