//! The body of a message: base64, compression and serialisation, undone as far as the envelope needs it.

use std::borrow::Cow;
use std::io::Read;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::DeserializeOwned;

use super::loose::read_python_json;
use super::pickle;

/// What an unpacked body may come to. Celery tasks carry references, not data; beyond this it may be a bomb.
pub const MAX_UNPACKED: usize = 16 << 20;
const MAX_DEPTH: usize = 128;
/// Room for the dictionary of xz's highest preset, 64 MiB; a header may ask for 4 GiB.
const XZ_MEMORY_KIB: u32 = 80 << 10;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// `body_encoding` says base64, and it isn't.
    #[error("its base64 is broken")]
    Base64,
    /// The compression is one that kombu does not know either.
    #[error("its compression is unknown")]
    Compression,
    /// The compressed data ends early or is damaged.
    #[error("its compressed data is broken")]
    Compressed,
    /// It unpacks to more than 16 MiB.
    #[error("it unpacks to more than 16 MiB")]
    TooLarge,
    /// It is nested deeper than anything that Celery writes.
    #[error("it is nested too deep")]
    TooDeep,
    /// The serialisation is one that this tool does not read.
    #[error("it is YAML, which is not read")]
    Yaml,
    /// The content type is none of kombu's.
    #[error("its content type is none that tasks have")]
    ContentType,
    /// The data is not what the content type says.
    #[error("it is not what its content type says")]
    Serialized,
}

pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The bytes that `body` stands for (kombu 5.7, `transport/virtual/base.py`: base64 is the only encoding).
pub(super) fn decoded<'a>(
    body: &'a str,
    encoding: Option<&str>,
) -> Result<Cow<'a, [u8]>, Unreadable> {
    if encoding == Some("base64") {
        BASE64
            .decode(body)
            .map(Cow::Owned)
            .map_err(|_| Unreadable::Base64)
    } else {
        Ok(Cow::Borrowed(body.as_bytes()))
    }
}

/// How many bytes [`decoded`] would give, without decoding.
pub(super) fn decoded_len(body: &str, encoding: Option<&str>) -> usize {
    match encoding {
        // Six bits a character, without the padding.
        Some("base64") => {
            body.trim_end_matches('=').len() / 4 * 3 + body.trim_end_matches('=').len() % 4 * 3 / 4
        }
        _ => body.len(),
    }
}

/// Undoes the compression. The names are those of kombu 5.7, `compression.py`; what it calls gzip is zlib.
pub(super) fn decompressed<'a>(
    bytes: Cow<'a, [u8]>,
    compression: Option<&str>,
) -> Result<Cow<'a, [u8]>, Unreadable> {
    let Some(name) = compression else {
        return Ok(bytes);
    };
    let unpacked = match name {
        "application/x-gzip" | "gzip" | "zlib" => drain(flate2::read::ZlibDecoder::new(&*bytes)),
        "application/x-bz2" | "bzip2" | "bzip" => drain(bzip2::read::BzDecoder::new(&*bytes)),
        "application/x-brotli" | "brotli" => {
            drain(brotli_decompressor::Decompressor::new(&*bytes, 4096))
        }
        "application/x-lzma" | "lzma" | "xz" => drain(lzma_rust2::XzReader::new_mem_limit(
            &*bytes,
            true,
            XZ_MEMORY_KIB,
        )),
        "application/zstd" | "zstd" | "zstandard" => drain(
            ruzstd::decoding::StreamingDecoder::new(&*bytes).map_err(|_| Unreadable::Compressed)?,
        ),
        _ => return Err(Unreadable::Compression),
    };
    unpacked.map(Cow::Owned)
}

fn drain(reader: impl Read) -> Result<Vec<u8>, Unreadable> {
    let mut unpacked = Vec::new();
    let limit = MAX_UNPACKED as u64 + 1;
    reader
        .take(limit)
        .read_to_end(&mut unpacked)
        .map_err(|_| Unreadable::Compressed)?;
    if unpacked.len() > MAX_UNPACKED {
        Err(Unreadable::TooLarge)
    } else {
        Ok(unpacked)
    }
}

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serializer {
    Json,
    Pickle,
    Msgpack,
    Yaml,
}

impl Serializer {
    /// From the content type of a message (kombu 5.7, `serialization.py`).
    pub(super) fn of_content_type(content_type: &str) -> Option<Serializer> {
        match content_type {
            "application/json" | "json" => Some(Serializer::Json),
            "application/x-python-serialize" | "pickle" => Some(Serializer::Pickle),
            "application/x-msgpack" | "msgpack" => Some(Serializer::Msgpack),
            "application/x-yaml" | "yaml" => Some(Serializer::Yaml),
            _ => None,
        }
    }

    /// From the first byte, for results, which name no content type.
    pub(super) fn sniffed(document: &[u8]) -> Option<Serializer> {
        match document.iter().find(|byte| !byte.is_ascii_whitespace())? {
            b'{' | b'[' => Some(Serializer::Json),
            0x80 | b'(' | b'}' | b']' => Some(Serializer::Pickle),
            0x81..=0x9f | 0xdc..=0xdf => Some(Serializer::Msgpack),
            _ => None,
        }
    }

    /// Reads a document. In a pickle nothing is called or imported: see [`pickle`].
    pub(super) fn read<T: DeserializeOwned>(self, document: &[u8]) -> Result<T, Unreadable> {
        match self {
            Serializer::Json => read_python_json(document, |json| serde_json::from_slice(json))
                .map_err(|_| Unreadable::Serialized),
            Serializer::Msgpack => {
                let mut reader = rmp_serde::Deserializer::from_read_ref(document);
                reader.set_max_depth(MAX_DEPTH);
                T::deserialize(&mut reader).map_err(|error| match error {
                    rmp_serde::decode::Error::DepthLimitExceeded => Unreadable::TooDeep,
                    _ => Unreadable::Serialized,
                })
            }
            Serializer::Pickle if document.len() > MAX_UNPACKED => Err(Unreadable::TooLarge),
            Serializer::Pickle => pickle::read(document),
            Serializer::Yaml => Err(Unreadable::Yaml),
        }
    }
}
