//! `celery-doctor.toml`: the flags, as keys of the same names.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration::{parse_duration, parse_timeout};
use super::peek::parse_peek;
use super::secret::Secret;

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

/// What the file says. Paths in it are relative to the current directory, as those of flags are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
        key: &'static str,
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
    let file = std::fs::File::open(file).map_err(failed)?;
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
    for (key, value) in table.into_inner() {
        let line = position(text, key.span().start).0;
        let Some(known) = KEYS
            .into_iter()
            .find(|known| *known == key.get_ref().as_ref())
        else {
            return Err(FileError::UnknownKey {
                path: path.to_owned(),
                line,
                key: shown_key(key.get_ref()),
                hint: hint(key.get_ref()),
            });
        };
        set(&mut file, known, &value).map_err(|expected| FileError::Value {
            path: path.to_owned(),
            line,
            key: known,
            expected,
        })?;
    }
    Ok(file)
}

fn set(file: &mut File, key: &'static str, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
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

/// Line and column, both from 1, of a byte of the text.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let line = before.split(|byte| *byte == b'\n').count();
    (line, before.len() - line_start + 1)
}

/// A key as it may be shown: a URL written where a key belongs is one too.
fn shown_key(key: &str) -> String {
    let plain = key.len() <= 64
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if plain {
        key.to_owned()
    } else {
        "***".to_owned()
    }
}

fn hint(key: &str) -> String {
    let near = KEYS
        .into_iter()
        .map(|known| {
            (
                strsim::jaro_winkler(known, &key.to_ascii_lowercase().replace('_', "-")),
                known,
            )
        })
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let mut hint = String::new();
    let _ = match near {
        Some((_, known)) => write!(hint, ". Did you mean {known}?"),
        None => write!(hint, ". Known keys: {}", KEYS.join(", ")),
    };
    hint
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
