//! The flags about findings, merged with what the settings file says of them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use glob::Pattern;

use super::duration::parse_duration;
use super::file::File;
use super::input;
use crate::diagnose::Severity;
use crate::diagnose::policy::{Baseline, BaselineError, Policy, Selector};
use crate::diagnose::thresholds::Thresholds;

/// The heading of flags about findings.
const FINDINGS: &str = "Findings";

/// A baseline of a million findings is smaller.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What is asked, how bad it is, and what is new.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = FINDINGS)]
pub(crate) struct PolicyArgs {
    /// Ask only these rules: codes, names or families such as CD1; may be repeated
    #[arg(long, value_name = "RULES", value_delimiter = ',', value_parser = selector)]
    pub select: Vec<Selector>,
    /// Do not ask these rules; may be repeated
    #[arg(long, value_name = "RULES", value_delimiter = ',', value_parser = selector)]
    pub ignore: Vec<Selector>,
    /// Give findings another severity, as in CD304=warning; may be repeated
    #[arg(long, value_name = "RULES=LEVEL", value_parser = severity_of)]
    pub severity: Vec<(Selector, Severity)>,
    /// Fail on findings of this severity or above: info, warning or error [default: error]
    #[arg(long, value_name = "SEVERITY", value_parser = severity)]
    pub fail_on: Option<Severity>,
    /// Report only what is not in this file, written by --write-baseline
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Write all that was found to this file, for --baseline
    #[arg(long, value_name = "FILE")]
    pub write_baseline: Option<PathBuf>,
}

/// What is too much. The settings file has limits for single queues and tasks too.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = FINDINGS)]
pub(crate) struct ThresholdArgs {
    /// So many messages may wait in a queue
    #[arg(long, value_name = "MESSAGES")]
    pub max_backlog: Option<u64>,
    /// For so long a message may wait in a queue
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_age: Option<Duration>,
    /// For so long a task without a time limit may run
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_runtime: Option<Duration>,
    /// For so long tasks that ended badly are reported [default: 24h]
    #[arg(long, value_name = "DURATION", env = "CELERY_DOCTOR_SINCE", value_parser = duration)]
    pub since: Option<Duration>,
}

/// A baseline that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BaselineFileError {
    #[error("cannot read the baseline {}; --write-baseline writes one", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: is larger than {MAX_BYTES} bytes, which no baseline is", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}", path.display())]
    Content {
        path: PathBuf,
        source: BaselineError,
    },
}

/// The policy of a run. Flags win over the file; the file's ignores always hold.
pub(crate) fn policy(args: &PolicyArgs, file: Option<&File>) -> Result<Policy, BaselineFileError> {
    let of_file = file.map_or(&[][..], |file| file.severities.as_slice());
    let severities = of_file.iter().chain(&args.severity);
    let fail_on = args.fail_on.or(file.and_then(|file| file.fail_on));
    Ok(Policy {
        select: args.select.clone(),
        deselect: args.ignore.clone(),
        severities: severities.copied().collect(),
        fail_on: fail_on.unwrap_or(Policy::default().fail_on),
        ignores: file.map_or_else(Vec::new, |file| file.ignores.clone()),
        baseline: args.baseline.as_deref().map(baseline).transpose()?,
    })
}

/// The limits of a run. A flag is for all queues or tasks, save those for which the file has its own.
pub(crate) fn thresholds(args: &ThresholdArgs, file: Option<&File>) -> Thresholds {
    let mut limits = file.map_or_else(Thresholds::default, |file| file.thresholds.clone());
    let seconds = |duration: Option<Duration>| duration.map(|one| one.as_secs_f64());
    limits.max_backlog.general = args.max_backlog.or(limits.max_backlog.general);
    limits.max_age.general = seconds(args.max_age).or(limits.max_age.general);
    limits.max_runtime.general = seconds(args.max_runtime).or(limits.max_runtime.general);
    limits.since = seconds(args.since).or(limits.since);
    limits
}

fn baseline(path: &Path) -> Result<Baseline, BaselineFileError> {
    let mut text = String::new();
    input::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|source| BaselineFileError::Read {
            path: path.to_owned(),
            source,
        })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(BaselineFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Baseline::parse(&text).map_err(|source| BaselineFileError::Content {
        path: path.to_owned(),
        source,
    })
}

/// A severity by its name, or what was expected.
pub(super) fn parse_severity(text: &str) -> Result<Severity, String> {
    let all = [Severity::Info, Severity::Warning, Severity::Error];
    let named = |severity: &Severity| text.trim().eq_ignore_ascii_case(severity.name());
    let found = all.into_iter().find(named);
    found.ok_or_else(|| "info, warning or error".to_owned())
}

/// A pattern of names, or what was expected.
pub(super) fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| {
        format!(
            "a name, in which * stands for any text, ? for any character and [ab] for one of these ({} at character {})",
            error.msg,
            error.pos + 1
        )
    })
}

fn selector(text: &str) -> Result<Selector, String> {
    Selector::parse(text).map_err(|expected| format!("expected {expected}"))
}

fn severity(text: &str) -> Result<Severity, String> {
    parse_severity(text).map_err(|expected| format!("expected {expected}"))
}

fn severity_of(text: &str) -> Result<(Selector, Severity), String> {
    let (rules, level) = text
        .split_once('=')
        .ok_or("expected rules and a severity, as in CD304=warning")?;
    Ok((selector(rules)?, severity(level)?))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|expected| format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches as _, Parser};

    use super::*;
    use crate::config::file;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        policy: PolicyArgs,
        #[command(flatten)]
        thresholds: ThresholdArgs,
    }

    fn parsed(args: &[&str]) -> Result<Cli, String> {
        let all = ["celery-doctor"].iter().chain(args);
        let matches = <Cli as clap::CommandFactory>::command().try_get_matches_from(all);
        let matches = matches.map_err(|error| error.to_string())?;
        Cli::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    fn toml(text: &str) -> File {
        file::parse(text, Path::new("f.toml")).expect("valid")
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = toml(
            "fail-on = 'info'\n[severity]\nCD304 = 'error'\nCD101 = 'info'\n\
             [[ignore]]\ncode = 'CD5'\nreason = 'so be it'\n\
             [thresholds]\nmax-backlog = 5\nmax-age = '1m'\n[thresholds.queue.'bulk']\nmax-backlog = 9",
        );
        let none = parsed(&[]).expect("valid");
        let by_file = policy(&none.policy, Some(&file)).expect("no baseline");
        assert_eq!(by_file.fail_on, Severity::Info);
        assert_eq!(by_file.ignores.len(), 1);
        let cli = parsed(&[
            "--fail-on=warning",
            "--severity=CD304=info",
            "--select=CD1,redelivered",
            "--ignore=CD102",
            "--max-backlog=7",
        ])
        .expect("valid");
        let by_flag = policy(&cli.policy, Some(&file)).expect("no baseline");
        assert_eq!(by_flag.fail_on, Severity::Warning);
        // Of two the later counts.
        let last = by_flag.severities.last().expect("three");
        assert_eq!(
            (last.0.to_string(), last.1),
            ("CD304".into(), Severity::Info)
        );
        assert!(by_flag.asks("CD101") && by_flag.asks("CD304"));
        assert!(!by_flag.asks("CD102") && !by_flag.asks("CD401"));
        let limits = thresholds(&cli.thresholds, Some(&file));
        assert_eq!(limits.max_backlog.of("celery"), Some(7));
        assert_eq!(limits.max_backlog.of("bulk"), Some(9));
        assert_eq!(limits.max_age.of("celery"), Some(60.0));
        assert_eq!(thresholds(&none.thresholds, None), Thresholds::default());
    }

    #[test]
    fn without_a_word_errors_fail() {
        let none = parsed(&[]).expect("valid");
        assert_eq!(policy(&none.policy, None).expect("fine"), Policy::default());
    }

    #[test]
    fn a_mistake_in_a_flag_says_what_was_expected() {
        for (flag, expected) in [
            ("--select=no-consumr", "Did you mean no-consumer?"),
            ("--ignore=CD12", "a family such as CD1xx"),
            ("--severity=CD304", "as in CD304=warning"),
            ("--severity=CD304=bad", "info, warning or error"),
            ("--fail-on=never", "info, warning or error"),
            ("--max-age=3", "a duration with units"),
        ] {
            let error = parsed(&[flag]).expect_err(flag);
            assert!(error.contains(expected), "{flag}: {error}");
        }
    }

    #[test]
    fn a_baseline_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("base.json");
        let args = PolicyArgs {
            baseline: Some(path.clone()),
            ..PolicyArgs::default()
        };
        let error = |args| {
            let error = policy(args, None).expect_err("refused");
            format!("{:#}", anyhow::Error::from(error))
        };
        assert!(error(&args).contains("--write-baseline writes one"));
        std::fs::write(&path, "{}").expect("writable");
        assert!(error(&args).contains("base.json: is not what --write-baseline writes"));
        std::fs::write(&path, b"\xff").expect("writable");
        assert!(error(&args).contains("cannot read the baseline"));
    }
}
