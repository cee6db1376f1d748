//! CD707: a version that is known to lose tasks.

use std::collections::BTreeMap;

use crate::diagnose::{Brokers, Check, Finding, Page, Rule, Severity, Thresholds, plain};
use crate::evidence::{Evidence, Software, Source};

/// The rule.
pub static KNOWN_BAD_VERSION: Rule = Rule {
    code: "CD707",
    name: "known-bad-version",
    severity: Severity::Warning,
    brokers: Brokers::Any,
    page: Page {
        meaning: "A worker runs a version of Celery or kombu that is known to lose tasks, or to stop taking them, in \
                  circumstances that do occur.",
        cause: "It was mended in a later version. Each fault is named in the finding, with the version that mends it.",
        read: "The versions that each live worker tells in its answer to `report`. A worker that does not tell is not \
               judged. A fault of native delayed delivery is told where quorum queues for tasks and the queues \
               celery_delayed_N are there, and RabbitMQ is older than 4.0.1, which drops no message as a cycle.",
        confirm: "Run `celery -A APP inspect report`, which asks the workers, or `pip show celery kombu` in a worker's own \
                  environment. `celery -A APP report` tells of the machine on which it runs.",
        mend: "Upgrade to the version named, or newer.",
        prevent: "Follow the releases of Celery and kombu; upgrade both together.",
        references: &[
            "https://docs.celeryq.dev/en/stable/changelog.html",
            "https://docs.celeryq.dev/projects/kombu/en/stable/changelog.html",
        ],
    },
    needs: &[Source::Workers],
    check: Check::Audit(check),
};

/// Where a fault is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Package {
    Celery,
    Kombu,
}

/// A fault, in which versions it is, and on which broker.
struct Fault {
    package: Package,
    /// The first version that has it; none for all before `mended`.
    since: Option<[u64; 3]>,
    mended: [u64; 3],
    brokers: Brokers,
    /// What else must be in use for it to occur.
    needs: fn(&Evidence) -> bool,
    what: &'static str,
}

/// Nothing besides.
fn always(_: &Evidence) -> bool {
    true
}

/// Faults that lose tasks or leave them lying, by what mended them.
const FAULTS: [Fault; 7] = [
    Fault {
        package: Package::Kombu,
        since: None,
        mended: [5, 2, 3],
        brokers: Brokers::Redis,
        needs: always,
        what: "a restore is not atomic and leaves messages in unacked for ever (kombu issue 1444)",
    },
    Fault {
        package: Package::Kombu,
        since: Some([5, 3, 0]),
        mended: [5, 3, 3],
        brokers: Brokers::Redis,
        needs: always,
        what: "messages that are put back can vanish (kombu issue 1800)",
    },
    Fault {
        package: Package::Kombu,
        since: None,
        mended: [5, 3, 2],
        brokers: Brokers::Redis,
        needs: always,
        what: "a message that was just taken is lost when the worker stops (kombu issue 1733)",
    },
    Fault {
        package: Package::Kombu,
        since: None,
        mended: [5, 4, 0],
        brokers: Brokers::Redis,
        needs: always,
        what: "after a lost connection a worker takes nothing any more (kombu issue 2007)",
    },
    Fault {
        package: Package::Kombu,
        since: None,
        mended: [5, 7, 0],
        brokers: Brokers::Redis,
        needs: always,
        what: "a restore that fails on a lost connection drops the message (kombu 5.7 transport/redis.py, \
               _do_restore_message)",
    },
    Fault {
        package: Package::Celery,
        since: Some([5, 5, 0]),
        mended: [5, 6, 3],
        brokers: Brokers::RabbitMq,
        needs: Evidence::drops_delayed_retries,
        what: "a retry through native delayed delivery is dropped as a cycle (celery issue 9867)",
    },
    Fault {
        package: Package::Celery,
        since: Some([5, 6, 2]),
        mended: [5, 7, 0],
        brokers: Brokers::Any,
        needs: always,
        what: "revoking writes REVOKED over the result of a task that has ended or runs (celery issue 9869)",
    },
];

/// The faults of a version, and the workers that run it.
type Bearers<'e> = (Vec<&'static Fault>, Vec<&'e str>);

fn check(evidence: &Evidence, _: &Thresholds) -> Vec<Finding> {
    let Some(census) = &evidence.census else {
        return Vec::new();
    };
    let mut by_version: BTreeMap<(&str, &str), Bearers<'_>> = BTreeMap::new();
    for (node, software) in &census.software {
        for package in [Package::Celery, Package::Kombu] {
            let Some((name, version)) = version_of(package, software) else {
                continue;
            };
            let faults = faults(evidence, package, version);
            if !faults.is_empty() {
                let entry = by_version.entry((name, version));
                entry.or_insert_with(|| (faults, Vec::new())).1.push(node);
            }
        }
    }
    by_version
        .into_iter()
        .map(|((package, version), (faults, nodes))| {
            finding(evidence, package, version, &faults, nodes)
        })
        .collect()
}

fn version_of(package: Package, software: &Software) -> Option<(&'static str, &str)> {
    match package {
        Package::Celery => Some(("celery", software.celery.as_deref()?)),
        Package::Kombu => Some(("kombu", software.kombu.as_deref()?)),
    }
}

fn faults(evidence: &Evidence, package: Package, version: &str) -> Vec<&'static Fault> {
    let Some(version) = numbers(version) else {
        return Vec::new();
    };
    let has = |fault: &&Fault| {
        fault.package == package
            && fault.brokers.has(evidence)
            && (fault.needs)(evidence)
            && version < fault.mended
            && fault.since.is_none_or(|since| version >= since)
    };
    FAULTS.iter().filter(has).collect()
}

/// The first three numbers of a version. One that is no release (`5.7.0rc1`) is not judged: it may have the cure or not.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.split('.');
    let numbers = [parts.next()?, parts.next()?, parts.next().unwrap_or("0")];
    let numbers = numbers.map(|part| part.parse::<u64>().ok());
    let [Some(major), Some(minor), Some(patch)] = numbers else {
        return None;
    };
    Some([major, minor, patch])
}

fn finding(
    evidence: &Evidence,
    package: &str,
    version: &str,
    faults: &[&Fault],
    nodes: Vec<&str>,
) -> Finding {
    let newest = faults
        .iter()
        .map(|fault| fault.mended)
        .max()
        .unwrap_or_default();
    let newest = newest.map(|number| number.to_string()).join(".");
    let whats: Vec<&str> = faults.iter().map(|fault| fault.what).collect();
    let verb = if nodes.len() == 1 { "runs" } else { "run" };
    let mut finding = Finding::of(
        &KNOWN_BAD_VERSION,
        format!(
            "{} {verb} {package} {version}, in which {}; {newest} mends it",
            plain::names(&nodes),
            whats.join("; ")
        ),
    )
    .evidence("version", version)
    .evidence("faults", whats)
    .evidence("mended_in", newest.as_str())
    .confirm(evidence.inspect("report"))
    .remedy(format!("upgrade {package} to {newest} or newer"))
    .subject("package", package);
    finding.count = nodes.len() as u64;
    finding.evidence("workers", nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testkit::{Lab, Rabbit, names};
    use crate::evidence::Census;

    fn found(celery: &str, kombu: &str) -> Vec<(String, usize)> {
        found_in(Lab::new(), celery, kombu)
    }

    fn found_in(lab: Lab, celery: &str, kombu: &str) -> Vec<(String, usize)> {
        let mut lab = lab.worker("w1", &["celery"]);
        let software = Software {
            celery: Some(celery.to_owned()),
            kombu: Some(kombu.to_owned()),
        };
        lab.evidence.census = Some(Census {
            software: BTreeMap::from([("w1".to_owned(), software)]),
            ..Census::default()
        });
        let found = lab.check(&KNOWN_BAD_VERSION, "");
        assert!(
            names(&found)
                .iter()
                .all(|name| *name == "known-bad-version")
        );
        let short = |finding: &Finding| {
            let faults = finding.evidence["faults"].as_array().map_or(0, Vec::len);
            (finding.subject["package"].clone(), faults)
        };
        found.iter().map(short).collect()
    }

    #[test]
    fn versions_with_faults_are_found_with_those_faults() {
        assert_eq!(found("5.7.0", "5.6.2"), [("kombu".to_owned(), 1)]);
        assert_eq!(found("5.6.2", "5.7.0"), [("celery".to_owned(), 1)]);
        assert_eq!(found("5.7.0", "5.2.2"), [("kombu".to_owned(), 4)]);
        assert_eq!(found("5.7.0", "5.3.1"), [("kombu".to_owned(), 4)]);
    }

    #[test]
    fn a_delayed_retry_is_dropped_only_where_it_is_delayed_by_an_old_rabbitmq() {
        let delayed = || Rabbit::new().quorum("celery_delayed_9", 0, 0);
        let faults = |rabbit: Rabbit, celery| found_in(rabbit.lab(), celery, "5.7.0").len();
        let quorum = || delayed().quorum("celery", 0, 1);
        assert_eq!(faults(quorum(), "5.5.3"), 1);
        assert_eq!(faults(quorum().version("4.0.5"), "5.5.3"), 0);
        assert_eq!(faults(quorum().version("4.0.0"), "5.5.3"), 1);
        // What an upgrade left behind delays nothing.
        assert_eq!(faults(delayed().queue("celery", 0, 1), "5.5.3"), 0);
        assert_eq!(faults(Rabbit::new().queue("celery", 0, 1), "5.5.3"), 0);
    }

    #[test]
    fn mended_newer_and_unclear_versions_are_clear() {
        for (celery, kombu) in [("5.7.0", "5.7.0"), ("6.0.1", "6.1"), ("5.7.0rc1", "main")] {
            assert!(found(celery, kombu).is_empty());
        }
        assert!(Lab::new().check(&KNOWN_BAD_VERSION, "").is_empty());
    }
}
