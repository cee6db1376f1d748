//! What the user wants to hear of: pure functions over what was found.

mod baseline;
mod selector;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use glob::Pattern;
use jiff::civil::Date;

pub use self::baseline::{Baseline, BaselineError, fingerprints, write as write_baseline};
pub use self::selector::Selector;
use super::{CheckStatus, Checked, Finding, Rule, Severity};

/// What is asked, how bad it is, and what is not to be seen again.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The rules to ask; all where there are none.
    pub select: Vec<Selector>,
    /// Rules not to ask, though they are selected.
    pub deselect: Vec<Selector>,
    /// Severities other than the rules' own. One for a rule wins over one for its family, and a later one over an
    /// earlier.
    pub severities: Vec<(Selector, Severity)>,
    /// The lowest severity that makes a run fail.
    pub fail_on: Severity,
    /// Findings that the user knows of and accepts.
    pub ignores: Vec<Ignore>,
    /// What was there on an earlier day.
    pub baseline: Option<Baseline>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            select: Vec::new(),
            deselect: Vec::new(),
            severities: Vec::new(),
            fail_on: Severity::Error,
            ignores: Vec::new(),
            baseline: None,
        }
    }
}

/// An `[[ignore]]` of the settings file.
#[derive(Debug, Clone, PartialEq)]
pub struct Ignore {
    /// The rules.
    pub rules: Selector,
    /// What the finding must be about, by kind: a queue, a task, a worker, an exchange, a file. All must match.
    pub subject: BTreeMap<String, Pattern>,
    /// Why.
    pub reason: String,
    /// The last day on which it holds; for ever where there is none.
    pub until: Option<Date>,
    /// Where it stands, as `file:line`.
    pub origin: String,
}

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

impl Policy {
    /// Whether the rule of this code is asked. One that is not has no line among the checks either.
    pub fn asks(&self, code: &str) -> bool {
        let named = |selectors: &[Selector]| selectors.iter().any(|one| one.has(code));
        (self.select.is_empty() || named(&self.select)) && !named(&self.deselect)
    }

    /// How bad the findings of a rule are at worst as the user sees them; none where the user ignores all of them.
    pub fn worst(&self, rule: &Rule, today: Date) -> Option<Severity> {
        let ignored = |ignore: &Ignore| {
            ignore.subject.is_empty() && !ignore.ran_out(today) && ignore.rules.has(rule.code)
        };
        if self.ignores.iter().any(ignored) {
            return None;
        }
        Some(self.set(rule.code).unwrap_or_else(|| rule.worst()))
    }

    fn severity(&self, finding: &Finding) -> Severity {
        self.set(&finding.code).unwrap_or(finding.severity)
    }

    /// The severity that the user gives the findings of a rule.
    fn set(&self, code: &str) -> Option<Severity> {
        let set = |family: bool| {
            let fitting = self.severities.iter().rev().filter(|(selector, _)| {
                matches!(selector, Selector::Family(_)) == family && selector.has(code)
            });
            fitting.map(|(_, severity)| *severity).next()
        };
        set(false).or_else(|| set(true))
    }
}

impl Ignore {
    fn covers(&self, finding: &Finding) -> bool {
        self.rules.has(&finding.code)
            && self.subject.iter().all(|(kind, pattern)| {
                let at = finding.location.as_ref().map(|at| at.file.as_str());
                let name = match finding.subject.get(kind) {
                    None if kind == "file" => at,
                    name => name.map(String::as_str),
                };
                name.is_some_and(|name| pattern.matches(name))
            })
    }

    fn ran_out(&self, today: Date) -> bool {
        self.until.is_some_and(|until| until < today)
    }
}

/// Applies the policy to everything that was found in one deployment. `today` is the day of the evidence, in UTC.
pub fn apply(
    policy: &Policy,
    deployment: Option<&str>,
    findings: Vec<Finding>,
    today: Date,
) -> Applied {
    let mut findings: Vec<Finding> = findings
        .into_iter()
        .filter(|finding| policy.asks(&finding.code))
        .map(|finding| Finding {
            severity: policy.severity(&finding),
            ..finding
        })
        .collect();
    findings.sort_by(Finding::order);
    let prints = fingerprints(deployment, &findings);
    let mut applied = Applied::default();
    for (finding, print) in findings.into_iter().zip(prints) {
        let holds = |ignore: &&Ignore| !ignore.ran_out(today) && ignore.covers(&finding);
        let known = |baseline: &Baseline| baseline.knows(&finding, &print);
        let why = match policy.ignores.iter().find(holds) {
            Some(ignore) => Suppression::Ignored {
                reason: ignore.reason.clone(),
                until: ignore.until,
            },
            None if policy.baseline.as_ref().is_some_and(known) => Suppression::Known,
            None => {
                applied.findings.push(finding);
                continue;
            }
        };
        applied.suppressed.push(Suppressed { finding, why });
    }
    applied
}

/// Says which ignores are of no use any more: those that have run out, and those that match nothing in any of the
/// deployments, where their rules could be judged. Each is a sentence for the report, and none changes the exit code.
///
/// An ignore whose rules were not asked (of another broker, another command, or left out by a flag) is not spoken of.
pub fn useless(policy: &Policy, sections: &[(&Applied, &[Checked])], today: Date) -> Vec<String> {
    let mut notes = Vec::new();
    for ignore in &policy.ignores {
        let asked = |checks: &[Checked]| checks.iter().any(|check| ignore.rules.has(&check.code));
        if !sections.iter().any(|(_, checks)| asked(checks)) {
            continue;
        }
        let matches = sections.iter().any(|(applied, _)| {
            let suppressed = applied.suppressed.iter().map(|one| &one.finding);
            suppressed
                .chain(&applied.findings)
                .any(|finding| ignore.covers(finding))
        });
        let judged = sections
            .iter()
            .all(|(_, checks)| could_be_judged(ignore.rules, checks));
        let what = match (ignore.until, matches) {
            (Some(until), true) if ignore.ran_out(today) => {
                format!(
                    "ran out on {until} and hides nothing any more: mend what it hid, or renew it"
                )
            }
            (Some(until), false) if ignore.ran_out(today) && judged => {
                format!("ran out on {until} and matches nothing: remove it")
            }
            (Some(until), false) if ignore.ran_out(today) => {
                format!("ran out on {until}: remove it, or renew it")
            }
            (_, false) if judged => "matches nothing: remove it".to_owned(),
            _ => continue,
        };
        notes.push(format!("{}: the ignore of {ignore} {what}", ignore.origin));
    }
    notes
}

/// Whether all that these rules look at was read. A rule that found something may have seen only a part, which shows in
/// others that could not be judged.
fn could_be_judged(rules: Selector, checks: &[Checked]) -> bool {
    let blind = checks
        .iter()
        .any(|check| check.status == CheckStatus::NotJudged);
    let mut of_rules = checks.iter().filter(|check| rules.has(&check.code));
    of_rules.all(|check| match check.status {
        CheckStatus::Clear => true,
        CheckStatus::Found => !blind,
        CheckStatus::NotJudged => false,
    })
}

impl std::fmt::Display for Ignore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut subject = String::new();
        for (kind, pattern) in &self.subject {
            let _ = write!(subject, " {kind} {}", pattern.as_str());
        }
        write!(f, "{}{subject}", self.rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::{Location, registry};

    const TODAY: Date = jiff::civil::date(2026, 11, 25);

    fn finding(name: &str, queue: &str) -> Finding {
        let rule = registry::find(name).expect(name);
        Finding::of(rule, "it is so").subject("queue", queue)
    }

    fn selector(text: &str) -> Selector {
        Selector::parse(text).expect(text)
    }

    fn ignore(rules: &str, subject: &[(&str, &str)], until: Option<Date>) -> Ignore {
        let pattern = |text: &str| Pattern::new(text).expect("a pattern");
        Ignore {
            rules: selector(rules),
            subject: subject
                .iter()
                .map(|(kind, text)| ((*kind).to_owned(), pattern(text)))
                .collect(),
            reason: "known".to_owned(),
            until,
            origin: "celery-doctor.toml:7".to_owned(),
        }
    }

    fn left(policy: &Policy, findings: &[Finding]) -> Vec<String> {
        let applied = apply(policy, None, findings.to_vec(), TODAY);
        applied.findings.into_iter().map(|one| one.code).collect()
    }

    fn checks(status: CheckStatus) -> Vec<Checked> {
        let checked = |rule: &&Rule| Checked {
            code: rule.code.to_owned(),
            name: rule.name.to_owned(),
            status,
            missing: Vec::new(),
            unjudged: None,
        };
        registry::ALL.iter().map(checked).collect()
    }

    #[test]
    fn rules_are_chosen_by_code_and_family() {
        let all = [
            finding("no-consumer", "q"),
            finding("unroutable", "q"),
            finding("redelivered", "q"),
        ];
        let chosen = |select: &[&str], deselect: &[&str]| {
            let policy = Policy {
                select: select.iter().map(|text| selector(text)).collect(),
                deselect: deselect.iter().map(|text| selector(text)).collect(),
                ..Policy::default()
            };
            left(&policy, &all)
        };
        assert_eq!(chosen(&[], &[]), ["CD101", "CD102", "CD304"]);
        assert_eq!(chosen(&["CD1"], &[]), ["CD101", "CD102"]);
        assert_eq!(
            chosen(&["CD1", "redelivered"], &["CD102"]),
            ["CD101", "CD304"]
        );
        assert_eq!(chosen(&[], &["CD1xx"]), ["CD304"]);
        assert_eq!(chosen(&["CD101"], &["CD1"]), Vec::<String>::new());
    }

    #[test]
    fn a_severity_is_set_before_the_order() {
        use Severity::{Error, Info, Warning};
        let policy = |severities: &[(&str, Severity)]| Policy {
            severities: severities
                .iter()
                .map(|(text, severity)| (selector(text), *severity))
                .collect(),
            ..Policy::default()
        };
        let all = [finding("no-consumer", "q"), finding("redelivered", "q")];
        let judged = |severities: &[(&str, Severity)]| -> Vec<(String, Severity)> {
            let applied = apply(&policy(severities), None, all.to_vec(), TODAY);
            let findings = applied.findings.into_iter();
            findings.map(|one| (one.name, one.severity)).collect()
        };
        let is = |name: &str, severity| (name.to_owned(), severity);
        assert_eq!(
            judged(&[("CD101", Info), ("CD3", Error)]),
            [is("redelivered", Error), is("no-consumer", Info)]
        );
        // A rule wins over its family, and of two the later.
        assert_eq!(
            judged(&[
                ("CD304", Warning),
                ("CD3", Error),
                ("CD101", Error),
                ("CD101", Info)
            ]),
            [is("redelivered", Warning), is("no-consumer", Info)]
        );
    }

    #[test]
    fn an_ignore_needs_every_subject_to_match() {
        let in_file = Finding {
            location: Some(Location {
                file: "proj/app/settings.py".to_owned(),
                line: 3,
                column: 1,
                end_column: 2,
                text: "x".to_owned(),
            }),
            ..finding("no-consumer", "legacy-mail")
        };
        let covers = |subject: &[(&str, &str)]| ignore("CD101", subject, None).covers(&in_file);
        assert!(covers(&[]));
        assert!(covers(&[("queue", "legacy-*")]));
        assert!(covers(&[("queue", "legacy-?ail"), ("file", "proj/*.py")]));
        assert!(!covers(&[("queue", "legacy-*"), ("file", "other/*")]));
        assert!(!covers(&[("queue", "Legacy-*")]));
        assert!(!covers(&[("task", "*")]));
        assert!(!ignore("CD102", &[], None).covers(&in_file));
    }

    #[test]
    fn an_ignore_holds_to_the_end_of_its_day() {
        let all = [finding("no-consumer", "q")];
        for (until, hidden) in [
            (None, true),
            (Some(TODAY), true),
            (TODAY.tomorrow().ok(), true),
            (TODAY.yesterday().ok(), false),
        ] {
            let policy = Policy {
                ignores: vec![ignore("CD101", &[], until)],
                ..Policy::default()
            };
            let applied = apply(&policy, None, all.to_vec(), TODAY);
            assert_eq!(applied.findings.is_empty(), hidden, "{until:?}");
            if hidden {
                let reason = "known".to_owned();
                let why = Suppression::Ignored { reason, until };
                assert_eq!(applied.suppressed[0].why, why);
            }
        }
    }

    #[test]
    fn only_what_is_new_is_left_of_a_baseline() {
        let old = [finding("no-consumer", "old")];
        let applied = apply(&Policy::default(), Some("eu"), old.to_vec(), TODAY);
        let text = write_baseline(&[(Some("eu"), &applied)]).expect("plain data");
        let policy = Policy {
            baseline: Some(Baseline::parse(&text).expect("just written")),
            ..Policy::default()
        };
        let both = vec![finding("no-consumer", "old"), finding("no-consumer", "new")];
        let left = apply(&policy, Some("eu"), both.clone(), TODAY);
        assert_eq!(left.findings, [finding("no-consumer", "new")]);
        assert_eq!(left.suppressed[0].why, Suppression::Known);
        // The same in another deployment is another finding.
        assert_eq!(apply(&policy, Some("us"), both, TODAY).findings.len(), 2);
    }

    #[test]
    fn useless_ignores_row_by_row() {
        use CheckStatus::{Clear, Found, NotJudged};
        let past = TODAY.yesterday().ok();
        let there = [finding("no-consumer", "q")];
        let hit: &[(&str, &str)] = &[("queue", "q")];
        let miss: &[(&str, &str)] = &[("queue", "other")];
        let rows = [
            // rules, subject, until, how the rules were judged, note
            ("CD101", hit, None, Found, None),
            (
                "CD101",
                miss,
                None,
                Found,
                Some("queue other matches nothing: remove it"),
            ),
            (
                "CD101",
                miss,
                None,
                Clear,
                Some("matches nothing: remove it"),
            ),
            ("CD101", miss, None, NotJudged, None),
            (
                "CD101",
                miss,
                Some(TODAY),
                Clear,
                Some("matches nothing: remove it"),
            ),
            (
                "CD101",
                hit,
                past,
                Found,
                Some("ran out on 2026-11-24 and hides nothing"),
            ),
            (
                "CD101",
                miss,
                past,
                Clear,
                Some("ran out on 2026-11-24 and matches nothing"),
            ),
            (
                "CD101",
                miss,
                past,
                NotJudged,
                Some("ran out on 2026-11-24: remove it"),
            ),
        ];
        for (rules, subject, until, status, expected) in rows {
            let policy = Policy {
                ignores: vec![ignore(rules, subject, until)],
                ..Policy::default()
            };
            let applied = apply(&policy, None, there.to_vec(), TODAY);
            let notes = useless(&policy, &[(&applied, &checks(status))], TODAY);
            match expected {
                None => assert!(notes.is_empty(), "{notes:?}"),
                Some(text) => {
                    assert_eq!(notes.len(), 1, "{text}");
                    assert!(notes[0].starts_with("celery-doctor.toml:7: the ignore of CD101"));
                    assert!(notes[0].contains(text), "{} has no {text}", notes[0]);
                }
            }
        }
    }

    #[test]
    fn an_ignore_of_use_in_one_deployment_is_of_use() {
        let policy = Policy {
            ignores: vec![ignore("CD101", &[("queue", "q")], None)],
            ..Policy::default()
        };
        let with = apply(&policy, None, vec![finding("no-consumer", "q")], TODAY);
        let without = Applied::default();
        let checks = checks(CheckStatus::Clear);
        let both: [(&Applied, &[Checked]); 2] = [(&without, &checks), (&with, &checks)];
        assert!(useless(&policy, &both, TODAY).is_empty());
        assert_eq!(useless(&policy, &both[..1], TODAY).len(), 1);
        // Nobody asked its rule.
        assert!(useless(&policy, &[(&without, &[])], TODAY).is_empty());
    }
}
