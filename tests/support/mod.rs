//! What several test files share: fixtures, plain zstd, and reading an archive into memory.
#![allow(dead_code, reason = "no test file uses all of it")]

pub mod oracle;

use std::path::{Path, PathBuf};

use serde_json::Value;
use xmtp_history::archive::{Error, Limits, Opened, Reader, Summary, Writer};
use xmtp_history::crypto::ArchiveKey;

pub const TEST_KEY: [u8; 32] = [0x42; 32];

pub fn test_key() -> ArchiveKey {
    ArchiveKey::new(&TEST_KEY).unwrap()
}

pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// An element that outlives the reader: its place and its plaintext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub index: u64,
    pub offset: u64,
    pub plaintext: Vec<u8>,
}

impl From<Opened<'_>> for Kept {
    fn from(opened: Opened<'_>) -> Self {
        Self { index: opened.index, offset: opened.offset, plaintext: opened.plaintext.to_vec() }
    }
}

/// Reads an archive in pieces of a size; what came out before the end or the error, and which of both.
pub fn read_in_pieces(key: &ArchiveKey, archive: &[u8], piece: usize) -> (Vec<Kept>, Result<Summary, Error>) {
    let mut reader = Reader::new(key, Limits::default());
    let mut kept = Vec::new();
    for piece in archive.chunks(piece) {
        let pushed: Result<(), Error> = reader.push(piece, |opened| {
            kept.push(opened.into());
            Ok(())
        });
        if let Err(error) = pushed {
            assert_eq!(reader.finish(), Err(error.clone()), "a failed reader stays failed");
            return (kept, Err(error));
        }
    }
    let finished = reader.finish();
    (kept, finished)
}

pub fn read(key: &ArchiveKey, archive: &[u8]) -> (Vec<Kept>, Result<Summary, Error>) {
    read_in_pieces(key, archive, archive.len().max(1))
}

/// Writes plaintexts as an archive under a fixed nonce.
pub fn write(key: &ArchiveKey, nonce: [u8; 12], plaintexts: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::with_nonce(key, nonce);
    for plaintext in plaintexts {
        writer.write(|out| out.extend_from_slice(plaintext)).unwrap();
    }
    writer.finish().unwrap();
    std::mem::take(writer.output())
}

/// A metadata element's plaintext.
pub fn metadata() -> Vec<u8> {
    let mut plaintext = Vec::new();
    let metadata =
        xmtp_history::wire::Metadata { elements: vec![1, 2], exported_at_ns: 1_700_000_000, ..Default::default() };
    xmtp_history::wire::encode_metadata(&metadata, &mut plaintext);
    plaintext
}

pub struct Fixture {
    pub name: String,
    pub key: ArchiveKey,
    pub archive: Vec<u8>,
    pub json: Value,
}

/// All fixtures of the reference (spec section 7).
pub fn fixtures() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for entry in std::fs::read_dir(data().join("fixtures")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "xmtp") {
            let json: Value =
                serde_json::from_str(&std::fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
            fixtures.push(Fixture {
                name: json["name"].as_str().unwrap().to_owned(),
                key: ArchiveKey::new(&hex::decode(json["key_hex"].as_str().unwrap()).unwrap()).unwrap(),
                archive: std::fs::read(&path).unwrap(),
                json,
            });
        }
    }
    assert_eq!(fixtures.len(), 12, "all fixtures are there");
    fixtures.sort_by(|one, other| one.name.cmp(&other.name));
    fixtures
}

pub struct Crafted {
    pub name: String,
    pub archive: Vec<u8>,
    pub required: String,
}

/// The hand-made archives and their key (spec 1.8).
pub fn crafted() -> (ArchiveKey, Vec<Crafted>) {
    let json: Value = serde_json::from_str(&std::fs::read_to_string(data().join("crafted.json")).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let key = ArchiveKey::new(&hex::decode(text(&json["key_hex"])).unwrap()).unwrap();
    let cases: Vec<_> = json["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| Crafted {
            name: text(&case["name"]),
            archive: hex::decode(text(&case["archive_hex"])).unwrap(),
            required: text(&case["required"]),
        })
        .collect();
    assert_eq!(cases.len(), 110, "all crafted cases are there");
    (key, cases)
}
