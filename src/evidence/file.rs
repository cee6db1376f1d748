//! Evidence in a file: gzip over two lines of JSON. The first line is the header, so that the version is known before
//! anything else is read; the second is the evidence.

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use super::{Evidence, Scope};

#[cfg(test)]
mod tests;

/// The name in the header.
const FORMAT: &str = "celery-doctor-snapshot";
/// The version that is written, and the only one that is read. It changes whenever [`Evidence`] does.
const VERSION: u64 = 1;
/// Longer headers are not ours.
const MAX_HEADER: u64 = 4096;
/// A snapshot of a million messages has less.
const MAX_UNPACKED: u64 = 1 << 30;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    format_version: u64,
    tool_version: String,
}

/// Why a snapshot can't be written or read. Never holds any of its content.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nothing in it.
    #[error(
        "the file is empty: expected a snapshot, as `celery-doctor snapshot -o FILE` writes it"
    )]
    Empty,
    /// Not compressed.
    #[error(
        "it is not compressed with gzip: expected a snapshot, as `celery-doctor snapshot -o FILE` writes it; one that \
         was unpacked by hand must be packed again with gzip"
    )]
    NotGzip,
    /// Something else in gzip.
    #[error(
        "it is not a snapshot: expected a header that names the format {FORMAT}; write one with `celery-doctor \
         snapshot -o FILE`"
    )]
    NotSnapshot,
    /// Written by a later program.
    #[error(
        "it has format version {found}, and this program reads version {VERSION}: read it with a newer celery-doctor"
    )]
    Newer {
        /// The version in the header.
        found: u64,
    },
    /// Written by an earlier program, whose format is no longer read.
    #[error(
        "it has format version {found}, and this program reads version {VERSION}: read it with the celery-doctor \
         that wrote it, or take a new one"
    )]
    Older {
        /// The version in the header.
        found: u64,
    },
    /// It ends too early.
    #[error("it is cut off: expected more after what is there; copy or take it again")]
    Truncated,
    /// The compressed data are damaged.
    #[error("its compressed data are damaged: copy or take it again")]
    Damaged,
    /// A bomb, or no snapshot of ours.
    #[error("it unpacks to more than {} MiB: expected less, even of a million messages", MAX_UNPACKED >> 20)]
    TooLarge,
    /// The header is right, and the evidence is not.
    #[error(
        "the evidence in it is not what version {VERSION} has (at character {column} of its second line): it was \
         changed by hand, or written by something else; take it again"
    )]
    Malformed {
        /// Where the reading ended.
        column: usize,
    },
    /// The file can't be read or written.
    #[error("it cannot be read or written")]
    Io(#[source] io::Error),
}

/// Writes a snapshot. Arguments of tasks are in it only with `keep_args`, whatever the evidence holds.
pub fn write(evidence: &Evidence, keep_args: bool, out: impl Write) -> Result<(), FileError> {
    if !keep_args && has_args(evidence) {
        return write_all(&without_args(evidence), out);
    }
    write_all(evidence, out)
}

fn write_all(evidence: &Evidence, out: impl Write) -> Result<(), FileError> {
    let header = Header {
        format: FORMAT.to_owned(),
        format_version: VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut gzip = GzEncoder::new(out, Compression::default());
    to_line(&header, &mut gzip)?;
    to_line(evidence, &mut gzip)?;
    let mut out = gzip.finish().map_err(FileError::Io)?;
    out.flush().map_err(FileError::Io)
}

fn to_line(value: &impl Serialize, mut out: impl Write) -> Result<(), FileError> {
    serde_json::to_writer(&mut out, value).map_err(|error| FileError::Io(error.into()))?;
    out.write_all(b"\n").map_err(FileError::Io)
}

fn has_args(evidence: &Evidence) -> bool {
    let mut copies = evidence.tasks.values().flat_map(|task| &task.copies);
    copies.any(|copy| copy.envelope.args.is_some())
}

fn without_args(evidence: &Evidence) -> Evidence {
    let mut evidence = evidence.clone();
    for task in evidence.tasks.values_mut() {
        for copy in &mut task.copies {
            copy.envelope.args = None;
        }
    }
    evidence
}

/// Reads a snapshot.
pub fn read(input: impl Read) -> Result<Evidence, FileError> {
    read_at_most(input, MAX_UNPACKED)
}

fn read_at_most(input: impl Read, limit: u64) -> Result<Evidence, FileError> {
    let mut input = BufReader::new(input);
    let start = input.fill_buf().map_err(FileError::Io)?;
    if start.is_empty() {
        return Err(FileError::Empty);
    }
    // A buffer may hold one byte of the magic number; the unpacker then complains of the second.
    if start[0] != 0x1f || start.get(1).is_some_and(|second| *second != 0x8b) {
        return Err(FileError::NotGzip);
    }
    let unpacked = Limited {
        inner: GzDecoder::new(input),
        left: limit,
    };
    let mut unpacked = BufReader::new(unpacked);
    read_header(&mut unpacked)?;
    let mut json = serde_json::Deserializer::from_reader(unpacked);
    let evidence = Evidence::deserialize(&mut json).map_err(of_json)?;
    // Reading to the end also checks the sum that gzip puts there.
    json.end().map_err(of_json)?;
    Ok(evidence)
}

fn read_header(unpacked: &mut impl BufRead) -> Result<(), FileError> {
    let mut line = Vec::new();
    unpacked
        .take(MAX_HEADER)
        .read_until(b'\n', &mut line)
        .map_err(of_io)?;
    let header: Header = serde_json::from_slice(&line).map_err(|_| FileError::NotSnapshot)?;
    match header.format_version {
        _ if header.format != FORMAT => Err(FileError::NotSnapshot),
        found if found > VERSION => Err(FileError::Newer { found }),
        found if found < VERSION => Err(FileError::Older { found }),
        _ => Ok(()),
    }
}

fn of_json(error: serde_json::Error) -> FileError {
    use serde_json::error::Category;
    match error.classify() {
        Category::Io => of_io(error.into()),
        Category::Eof => FileError::Truncated,
        // The error's own text would quote the content.
        Category::Syntax | Category::Data => FileError::Malformed {
            column: error.column(),
        },
    }
}

fn of_io(error: io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FileError::Truncated,
        io::ErrorKind::FileTooLarge => FileError::TooLarge,
        // What flate2 says of bad headers, data and sums.
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => FileError::Damaged,
        _ => FileError::Io(error),
    }
}

/// A reader that fails after so many bytes, where [`Read::take`] would look like an end.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

/// The ids that a snapshot can be asked about: those it was taken for, or all that it saw.
pub fn ids(evidence: &Evidence) -> Vec<String> {
    match &evidence.scope {
        Scope::Ids(ids) => ids.clone(),
        Scope::Everything => evidence.tasks.keys().cloned().collect(),
    }
}

/// Numbers for JSON, which has neither infinities nor NaN: what is not finite is written as the nearest finite number,
/// so that a snapshot can always be read back. Redis has scores of `inf`.
pub(super) mod finite {
    use serde::{Serialize, Serializer};

    /// Far from the limits of the type, so that reading it back cannot pass them.
    const HUGE: f64 = 1e300;

    fn finite(number: f64) -> f64 {
        if number.is_nan() {
            0.0
        } else {
            number.clamp(-HUGE, HUGE)
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(in crate::evidence) fn number<S: Serializer>(
        number: &f64,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_f64(finite(*number))
    }

    #[expect(clippy::ref_option, reason = "serde passes references")]
    pub(in crate::evidence) fn option<S: Serializer>(
        number: &Option<f64>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        number.map(finite).serialize(to)
    }
}
