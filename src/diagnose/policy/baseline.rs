//! What was known on an earlier day. A finding is recognised by what it is about, and not by numbers that move.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Applied, Suppression};
use crate::diagnose::Finding;
use crate::diagnose::outcome::is_about_the_reading;

/// The name of the schema of the file.
const SCHEMA: &str = "celery-doctor-baseline/1";

/// The fingerprints of findings that are not new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baseline(BTreeSet<String>);

/// The file. Only the fingerprints are read; the rest tells a reviewer what they stand for.
#[derive(Serialize, Deserialize)]
struct Document {
    schema: String,
    findings: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deployment: Option<String>,
    code: String,
    name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    subject: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// Why a text is no baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// Not the JSON that is written.
    #[error("is not what --write-baseline writes")]
    Json(#[from] serde_json::Error),
    /// JSON of another kind, or of a later version.
    #[error(
        "has the schema {0:?}: expected {SCHEMA}, as --write-baseline of this version writes it"
    )]
    Schema(String),
}

impl Baseline {
    /// Reads what [`write()`] wrote.
    pub fn parse(text: &str) -> Result<Self, BaselineError> {
        let document: Document = serde_json::from_str(text)?;
        if document.schema != SCHEMA {
            return Err(BaselineError::Schema(document.schema));
        }
        let prints = document.findings.into_iter().map(|entry| entry.fingerprint);
        Ok(Self(prints.collect()))
    }

    /// Whether a finding is known. What could not be read is never an old story.
    pub(super) fn knows(&self, finding: &Finding, fingerprint: &str) -> bool {
        !is_about_the_reading(finding) && self.0.contains(fingerprint)
    }
}

/// The text of a baseline of everything that was found in these deployments, new or not, save what is ignored.
pub fn write(sections: &[(Option<&str>, &Applied)]) -> serde_json::Result<String> {
    let mut findings = Vec::new();
    for (deployment, applied) in sections {
        let suppressed = applied.suppressed.iter();
        let mut all: Vec<(&Finding, bool)> = suppressed
            .map(|one| (&one.finding, one.why == Suppression::Known))
            .chain(applied.findings.iter().map(|finding| (finding, true)))
            .collect();
        all.sort_by(|(one, _), (other, _)| one.order(other));
        // The ignored ones are counted, so that the others get the fingerprints that they had when they were judged.
        let prints = fingerprints(*deployment, all.iter().map(|(finding, _)| *finding));
        for ((finding, kept), fingerprint) in all.into_iter().zip(prints) {
            if kept && !is_about_the_reading(finding) {
                findings.push(Entry {
                    fingerprint,
                    deployment: deployment.map(str::to_owned),
                    code: finding.code.clone(),
                    name: finding.name.clone(),
                    subject: finding.subject.clone(),
                    file: finding.location.as_ref().map(|at| at.file.clone()),
                });
            }
        }
    }
    let schema = SCHEMA.to_owned();
    let mut text = serde_json::to_string_pretty(&Document { schema, findings })?;
    text.push('\n');
    Ok(text)
}

/// The fingerprint of each finding, the same from run to run: made of the code, the subject, the file and the text in
/// it, and the deployment's name. Counts, times, task ids and line numbers are left out. Of several alike each next one
/// has its own, so that one more is new.
pub fn fingerprints<'f>(
    deployment: Option<&str>,
    findings: impl IntoIterator<Item = &'f Finding>,
) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut prints = Vec::new();
    for finding in findings {
        let first = fingerprint(deployment, finding, 0);
        let nth = seen.entry(first.clone()).or_default();
        prints.push(match *nth {
            0 => first,
            nth => fingerprint(deployment, finding, nth),
        });
        *nth += 1;
    }
    prints
}

fn fingerprint(deployment: Option<&str>, finding: &Finding, nth: usize) -> String {
    let location = finding.location.as_ref();
    // As JSON, so that no two different findings run into the same text. Lines are moved to other depths by reformatting.
    let text = serde_json::json!([
        deployment,
        finding.code,
        finding.subject,
        location.map(|at| at.file.as_str()),
        location.map(|at| at.text.trim()),
        nth,
    ]);
    let digest = Sha256::digest(text.to_string());
    // Half of it is more than enough to tell a few thousand findings apart.
    let mut print = String::new();
    for byte in digest.iter().take(16) {
        // Writing to a String cannot fail.
        let _ = write!(print, "{byte:02x}");
    }
    print
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Suppressed;
    use super::*;
    use crate::diagnose::{Location, registry};

    fn about(queue: &str) -> Finding {
        Finding::of(registry::ALL[0], "it is so").subject("queue", queue)
    }

    fn at(line: u32, text: &str) -> Finding {
        about("q").location(Location {
            file: "app/settings.py".to_owned(),
            line,
            column: 1,
            end_column: 2,
            text: text.to_owned(),
        })
    }

    fn print(finding: &Finding) -> String {
        fingerprints(None, [finding]).remove(0)
    }

    #[test]
    fn numbers_do_not_make_a_finding_new() {
        let mut later = about("q").task("t2").evidence("messages", 7);
        "other words".clone_into(&mut later.message);
        later.count = 9;
        assert_eq!(print(&about("q")), print(&later));
        assert_eq!(print(&at(3, "  x = 1")), print(&at(40, "x = 1")));
        // Written into files that outlive this version.
        assert_eq!(print(&about("q")), "83d3d09020a553a428708c4e5db927ca");
    }

    #[test]
    fn what_it_is_about_does() {
        let mut other_code = about("q");
        "CD102".clone_into(&mut other_code.code);
        let all = [
            print(&about("q")),
            print(&about("r")),
            print(&other_code),
            print(&at(1, "x = 1")),
            print(&at(1, "x = 2")),
            fingerprints(Some("eu"), [&about("q")]).remove(0),
        ];
        let different: BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn one_more_of_the_same_is_new() {
        let (one, two) = (at(1, "x"), at(9, "x"));
        let two = fingerprints(None, [&one, &two]);
        assert_eq!(two[0], print(&one));
        assert_ne!(two[0], two[1]);
    }

    #[test]
    fn what_is_written_is_known_when_it_is_read() {
        let ignored = Suppressed {
            finding: about("ignored"),
            why: Suppression::Ignored {
                reason: "so be it".to_owned(),
                until: None,
            },
        };
        let known = Suppressed {
            finding: about("known"),
            why: Suppression::Known,
        };
        let mut unread = about("q");
        "CD801".clone_into(&mut unread.code);
        let applied = Applied {
            findings: vec![about("q"), unread.clone()],
            suppressed: vec![ignored, known],
        };
        let text = write(&[(Some("eu"), &applied)]).expect("plain data");
        let baseline = Baseline::parse(&text).expect("just written");
        let recognises = |finding: &Finding| {
            let print = fingerprints(Some("eu"), [finding]).remove(0);
            baseline.knows(finding, &print)
        };
        assert!(recognises(&about("q")) && recognises(&about("known")));
        assert!(!recognises(&about("ignored")) && !recognises(&unread));
    }

    #[test]
    fn what_is_no_baseline_is_refused() {
        for text in ["", "[]", "{}", "{\"schema\": \"celery-doctor-baseline/1\"}"] {
            let error = Baseline::parse(text).expect_err(text);
            assert!(error.to_string().contains("--write-baseline"), "{error}");
        }
        let other = "{\"schema\": \"celery-doctor/1\", \"findings\": []}";
        let error = Baseline::parse(other).expect_err("another schema");
        assert!(error.to_string().contains("celery-doctor/1"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Baseline::parse(&text);
        }
    }
}
