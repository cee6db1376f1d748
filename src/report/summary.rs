//! What `audit` and `routes check` found, as the forms for other programs take it: plain and borrowed, judged already.

use std::time::Duration;

use crate::diagnose::policy::Applied;
use crate::diagnose::{Checked, Finding, Outcome};
use crate::evidence::Evidence;

/// One run of a command.
pub(crate) struct Summary<'a> {
    /// The command, as it is typed: `audit`, `routes check`.
    pub command: &'static str,
    /// One for each deployment; one alone where they have no names.
    pub sections: &'a [Section<'a>],
    /// Entries of the settings file that are of no use any more, as sentences.
    pub notes: &'a [String],
    /// The exit code, and why.
    pub outcome: &'a Outcome,
    /// How long it took, by this machine's clock.
    pub elapsed: Duration,
}

/// What was found in one deployment, or in one folder.
pub(crate) struct Section<'a> {
    /// The deployment's name in the settings file; none where there is but one and it has none.
    pub name: Option<&'a str>,
    /// What was found, in the order of reports, and what the user does not want to see again.
    pub applied: &'a Applied,
    /// Every rule that was asked.
    pub checks: &'a [Checked],
    /// What it rests on; none where no broker was read.
    pub evidence: Option<&'a Evidence>,
}

impl Summary<'_> {
    /// All findings, with the name of their deployment.
    pub(super) fn findings(&self) -> impl Iterator<Item = (Option<&str>, &Finding)> {
        self.sections.iter().flat_map(|section| {
            let findings = section.applied.findings.iter();
            findings.map(move |finding| (section.name, finding))
        })
    }
}
