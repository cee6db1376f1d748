//! What the user wants to hear of: pure functions over what was found.

use jiff::civil::Date;

use super::Finding;

/// What is left of the findings of one deployment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// What is reported, in the order of reports.
    pub findings: Vec<Finding>,
    /// What is not, and why.
    pub suppressed: Vec<Suppressed>,
}

/// A finding that the user does not want to see again.
#[derive(Debug, Clone, PartialEq)]
pub struct Suppressed {
    /// The finding.
    pub finding: Finding,
    /// Why it is left out.
    pub why: Suppression,
}

/// Why a finding is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suppression {
    /// The user ignores it.
    Ignored {
        /// For this reason.
        reason: String,
        /// To the end of this day.
        until: Option<Date>,
    },
    /// It stands in the baseline: it is not new.
    Known,
}
