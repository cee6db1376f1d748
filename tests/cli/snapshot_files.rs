//! Files that are no snapshots: each ends with code 2, a text that says why, and no report.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use crate::evidence::snapshot;
use crate::run::Test;

fn complains(content: &[u8], text: &str) {
    for format in ["table", "json"] {
        Test::new()
            .file("s.gz", content)
            .args(["trace", "stuck", "--snapshot", "s.gz", "--format", format])
            .code(2)
            .complains(text)
            .complains("s.gz");
    }
}

fn packed(text: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

fn version(number: u64) -> Vec<u8> {
    packed(&format!(
        "{{\"format\":\"celery-doctor-snapshot\",\"format_version\":{number},\"tool_version\":\"9\"}}\n{{}}\n"
    ))
}

#[test]
fn files_that_are_no_snapshots() {
    complains(b"", "the file is empty");
    complains(b"hello", "not compressed with gzip");
    complains(&packed("hello"), "is not a snapshot");
    complains(&version(99), "with a newer celery-doctor");
    complains(&version(0), "with the celery-doctor that wrote it");
    complains(&version(1), "not what version 1 has");
}

#[test]
fn a_file_that_is_cut_off() {
    let whole = snapshot();
    complains(&whole[..whole.len() / 2], "cut off");
    complains(&whole[..whole.len() - 1], "cut off");
}

#[test]
fn a_file_that_is_not_there() {
    Test::new()
        .args(["trace", "t1", "--snapshot", "absent.gz"])
        .code(2)
        .complains("absent.gz");
    let test = Test::new();
    std::fs::create_dir(test.path("folder")).unwrap();
    test.args(["trace", "t1", "--snapshot", "folder"])
        .code(2)
        .complains("folder");
}
