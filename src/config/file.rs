//! `celery-doctor.toml`: the flags, as keys of the same names, deployments, and what the user wants to hear of.

mod deployment;
mod policy;
mod reader;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration::{parse_duration, parse_timeout};
use super::input;
use super::peek::parse_peek;
use super::secret::Secret;
use crate::diagnose::Severity;
use crate::diagnose::policy::{Ignore, Selector};
use crate::diagnose::thresholds::Thresholds;

pub(crate) use self::deployment::Deployment;
pub(super) use self::reader::shown_key;
use self::reader::{Reader, entries, position};

/// The file that is read when `--config` is not given, from the current directory.
pub(crate) const FILE_NAME: &str = "celery-doctor.toml";

/// No settings come near it; a device or a log given by mistake does.
const MAX_BYTES: u64 = 1024 * 1024;

const KEYS: [&str; 14] = [
    "broker",
    "result-backend",
    "visibility-timeout",
    "key-prefix",
    "result-key-prefix",
    "queue",
    "timeout",
    "no-workers",
    "master-name",
    "tls-ca",
    "tls-cert",
    "tls-key",
    "management",
    "peek",
];

/// Keys that are tables, or are about findings: they stand at the top alone.
const TOP_KEYS: [&str; 5] = ["fail-on", "severity", "ignore", "thresholds", "deployment"];

/// What the file says. Paths in it are relative to the current directory, as those of flags are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct File {
    pub path: PathBuf,
    pub broker: Option<Secret>,
    pub result_backend: Option<Secret>,
    pub visibility_timeout: Option<Duration>,
    pub key_prefix: Option<String>,
    pub result_key_prefix: Option<String>,
    pub queues: Option<Vec<String>>,
    pub timeout: Option<Duration>,
    pub no_workers: Option<bool>,
    pub master_name: Option<String>,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub management: Option<Secret>,
    pub peek: Option<u64>,
    /// The deployment that was chosen, which has put its own keys over those above; none for the file as a whole.
    pub chosen: Option<Deployment>,
    /// The tables `[deployment.NAME]`, by name.
    pub deployments: Vec<(Deployment, File)>,
    pub fail_on: Option<Severity>,
    /// `[severity]`, in the order of the file.
    pub severities: Vec<(Selector, Severity)>,
    /// `[[ignore]]`, in the order of the file.
    pub ignores: Vec<Ignore>,
    pub thresholds: Thresholds,
}

/// Why a settings file was not taken. Quotes no line of it: toml's own errors do, and a line may hold a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: is larger than {MAX_BYTES} bytes, which no settings file is", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: is not UTF-8 text", path.display())]
    NotText { path: PathBuf },
    #[error("{}:{line}:{column}: is not TOML. Texts stand in quotes, as in broker = \"redis://host:6379/0\"", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    #[error("{}:{line}: unknown key {key}{hint}", path.display())]
    UnknownKey {
        path: PathBuf,
        line: usize,
        key: String,
        hint: String,
    },
    #[error("{}:{line}: {key}: expected {expected}", path.display())]
    Value {
        path: PathBuf,
        line: usize,
        key: String,
        expected: String,
    },
}

/// Reads the file given, or `celery-doctor.toml` in `dir`, which need not exist.
pub(crate) fn find(given: Option<&Path>, dir: &Path) -> Result<Option<File>, FileError> {
    let path = given.map_or_else(|| PathBuf::from(FILE_NAME), Path::to_path_buf);
    match read(&dir.join(&path), &path) {
        Err(FileError::Read { source, .. })
            if given.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn read(file: &Path, shown: &Path) -> Result<File, FileError> {
    let failed = |source| FileError::Read {
        path: shown.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = input::open(file).map_err(failed)?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLarge {
            path: shown.to_owned(),
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| FileError::NotText {
        path: shown.to_owned(),
    })?;
    parse(&text, shown)
}

/// Reads the text of a settings file; `path` is for its errors.
pub(crate) fn parse(text: &str, path: &Path) -> Result<File, FileError> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        FileError::Syntax {
            path: path.to_owned(),
            line,
            column,
        }
    })?;
    let mut file = File {
        path: path.to_owned(),
        ..File::default()
    };
    let reader = Reader { text, path };
    let known: Vec<&str> = KEYS.into_iter().chain(TOP_KEYS).collect();
    let mut deployments = None;
    for (key, value) in entries(table.get_ref()) {
        let name = reader.known(key, &known)?;
        match name {
            "fail-on" => file.fail_on = Some(reader.severity(name, value)?),
            "severity" => file.severities = reader.severities(value)?,
            "ignore" => file.ignores = reader.ignores(value)?,
            "thresholds" => file.thresholds = reader.thresholds(value)?,
            "deployment" => deployments = Some(value),
            connection => set(&mut file, connection, value)
                .map_err(|expected| reader.wrong(key.span(), connection, expected))?,
        }
    }
    if let Some(value) = deployments {
        file.deployments = reader.deployments(&file, value)?;
    }
    Ok(file)
}

fn set(file: &mut File, key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
    let value = value.get_ref();
    match key {
        "broker" => file.broker = Some(Secret::from(text(value)?)),
        "result-backend" => file.result_backend = Some(Secret::from(text(value)?)),
        "visibility-timeout" => {
            file.visibility_timeout = Some(parse_duration(&text(value)?)?);
        }
        "key-prefix" => file.key_prefix = Some(text(value)?),
        "result-key-prefix" => file.result_key_prefix = Some(text(value)?),
        "queue" => file.queues = Some(texts(value)?),
        "timeout" => file.timeout = Some(parse_timeout(&text(value)?)?),
        "no-workers" => file.no_workers = Some(value.as_bool().ok_or("true or false")?),
        "master-name" => file.master_name = Some(text(value)?),
        "tls-ca" => file.tls_ca = Some(text(value)?.into()),
        "tls-cert" => file.tls_cert = Some(text(value)?.into()),
        "tls-key" => file.tls_key = Some(text(value)?.into()),
        "management" => file.management = Some(Secret::from(text(value)?)),
        "peek" => file.peek = Some(number(value)?),
        _ => return Err("a key that this version reads".to_owned()),
    }
    Ok(())
}

fn text(value: &DeValue<'_>) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| "a text in quotes".to_owned())
}

fn number(value: &DeValue<'_>) -> Result<u64, String> {
    // Digits with underscores between them, as TOML has them, and no other base.
    let digits = value
        .as_integer()
        .filter(|integer| integer.radix() == 10)
        .map(|integer| integer.as_str().replace('_', ""));
    parse_peek(digits.as_deref().unwrap_or_default())
}

fn texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let expected = || "a list of texts in quotes, as in [\"celery\", \"mail\"]".to_owned();
    let values = value.as_array().ok_or_else(expected)?;
    values
        .iter()
        .map(|value| text(value.get_ref()).map_err(|_| expected()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<File, String> {
        parse(text, Path::new(FILE_NAME)).map_err(|error| error.to_string())
    }

    fn error(text: &str) -> String {
        parsed(text).expect_err("refused")
    }

    const FULL: &str = r#"
        broker = "redis://:QZ1@h/0"
        result-backend = "redis://:QZ2@h/1"
        visibility-timeout = "1h 30m"
        key-prefix = "a:"
        result-key-prefix = "b:"
        queue = ["celery", "mail"]
        timeout = "500ms"
        no-workers = true
        master-name = "m"
        tls-ca = "ca.pem"
        tls-cert = "c.pem"
        tls-key = "k.pem"
        management = "http://u:QZ3@h:15672"
        peek = 5_000
    "#;

    #[test]
    fn every_key_is_read() {
        let expected = File {
            path: FILE_NAME.into(),
            broker: Some("redis://:QZ1@h/0".into()),
            result_backend: Some("redis://:QZ2@h/1".into()),
            visibility_timeout: Some(Duration::from_mins(90)),
            key_prefix: Some("a:".into()),
            result_key_prefix: Some("b:".into()),
            queues: Some(vec!["celery".into(), "mail".into()]),
            timeout: Some(Duration::from_millis(500)),
            no_workers: Some(true),
            master_name: Some("m".into()),
            tls_ca: Some("ca.pem".into()),
            tls_cert: Some("c.pem".into()),
            tls_key: Some("k.pem".into()),
            management: Some("http://u:QZ3@h:15672".into()),
            peek: Some(5000),
            ..File::default()
        };
        assert_eq!(parsed(FULL), Ok(expected));
        for key in KEYS {
            assert!(FULL.contains(&format!("{key} = ")), "{key} is missing here");
        }
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        let cases = [
            (
                "\nbrokr = 1",
                "celery-doctor.toml:2: unknown key brokr. Did you mean broker?",
            ),
            ("queues = []", "unknown key queues. Did you mean queue?"),
            ("result_backend = ''", "Did you mean result-backend?"),
            (
                "zzz = 1",
                "unknown key zzz. Known keys: broker, result-backend, ",
            ),
            ("peek = true", ":1: peek: expected a number of messages"),
            ("peek = 0x10", ":1: peek: expected a number of messages"),
            ("peek = -1", "from 0 (look into no queue) to 1000000"),
            ("[audit]\nx = 1", "celery-doctor.toml:1: unknown key audit"),
            ("timeout = 3", ":1: timeout: expected a text in quotes"),
            (
                "timeout = '3'",
                ":1: timeout: expected a duration with units, such as 90s",
            ),
            ("timeout = '0s'", "above zero"),
            ("timeout = '9999999y'", "at most 1h"),
            ("queue = 'celery'", ":1: queue: expected a list of texts"),
            (
                "no-workers = 'yes'",
                ":1: no-workers: expected true or false",
            ),
            (
                "a = 1\nbroker = redis://:QZ@h",
                "celery-doctor.toml:2:10: is not TOML",
            ),
            ("'redis://:QZ@h' = 1", "unknown key ***"),
        ];
        for (text, expected) in cases {
            let error = error(text);
            assert!(
                error.contains(expected) && !error.contains("QZ"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn the_file_may_be_absent_unless_it_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(find(None, dir.path()), Ok(None)));
        assert!(matches!(
            find(Some(Path::new("x.toml")), dir.path()),
            Err(FileError::Read { .. })
        ));
        std::fs::write(dir.path().join(FILE_NAME), "timeout = '1s'").expect("writable");
        let found = find(None, dir.path()).expect("readable").expect("present");
        assert_eq!(found.timeout, Some(Duration::from_secs(1)));
        std::fs::write(dir.path().join(FILE_NAME), b"\xff").expect("writable");
        assert!(matches!(
            find(None, dir.path()),
            Err(FileError::NotText { .. })
        ));
        std::fs::write(dir.path().join(FILE_NAME), vec![b' '; 2 << 20]).expect("writable");
        assert!(matches!(
            find(None, dir.path()),
            Err(FileError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn a_damaged_file_shows_no_secret(at in 0..FULL.len(), garbage in "[\\[\\]=\"'\\\\\\n#{}.,a]{1,3}", cut in any::<bool>()) {
            let tail = if cut { "" } else { &FULL[at..] };
            if let Err(error) = parse(&format!("{}{garbage}{tail}", &FULL[..at]), Path::new("f")) {
                prop_assert!(!format!("{error} {error:?}").contains("QZ"), "{error:?}");
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text, Path::new("f"));
        }
    }
}
