//! The archive reader under hostile input: never a panic, and the same result however the input is cut.
//!
//! The first byte chooses how the rest becomes an archive: taken as it is, put into a frame as the inflated stream,
//! or cut into plaintexts that are sealed properly, so that the fuzzer reaches past the cipher.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmtp_history::archive::{Error, Limits, Reader, Rewriter, Summary, Writer};
use xmtp_history::crypto::{ArchiveKey, Cipher};

/// The key of the crafted archives, some of which are seeds.
const KEY: [u8; 32] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
];
const NONCE: [u8; 12] = [0x4e; 12];
const HEADER: [u8; 14] = [0, 0, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e, 0x4e];
/// Small, so that limits are met, and libzstd takes no more than a few megabytes.
const LIMITS: Limits = Limits { max_element_bytes: 1 << 20, max_window_log: 22 };

fuzz_target!(|input: &[u8]| {
    let [mode, piece, rest @ ..] = input else { return };
    let key = ArchiveKey::new(&KEY).unwrap();
    let archive = match mode % 5 {
        0 => rest.to_vec(),
        1 => [&HEADER, rest].concat(),
        2 => [&HEADER[..], &zstd::encode_all(rest, 1).unwrap()].concat(),
        3 => sealed_by_hand(&key, rest),
        _ => written(&key, rest),
    };
    let whole = read(&key, &archive, archive.len().max(1));
    assert_eq!(read(&key, &archive, usize::from(*piece).max(1)), whole);
    if mode % 5 == 4 {
        // Only what the plaintexts say may be wrong with an archive of our own writer.
        let refused = whole.1.as_ref().err().map(|error| error.kind.name());
        assert!(matches!(refused, None | Some("Decode" | "MissingMetadata")), "{refused:?}");
    }
    if whole.1.is_ok() {
        assert_eq!(contents(&read(&key, &rewritten(&key, &archive), 1000)), contents(&whole));
    }
});

type Outcome = (Vec<(u64, u64, Vec<u8>)>, Result<Summary, Error>);

fn read(key: &ArchiveKey, archive: &[u8], piece: usize) -> Outcome {
    let mut reader = Reader::new(key, LIMITS);
    let mut elements = Vec::new();
    for piece in archive.chunks(piece) {
        let pushed = reader.push(piece, |opened| {
            elements.push((opened.index, opened.offset, opened.plaintext.to_vec()));
            Ok::<_, Error>(())
        });
        if let Err(error) = pushed {
            assert_eq!(reader.push(&[], |_| Ok::<_, Error>(())), Err(error.clone()));
            return (elements, Err(error));
        }
    }
    (elements, reader.finish())
}

fn contents(outcome: &Outcome) -> Vec<&[u8]> {
    let plaintexts = outcome.0.iter().map(|element| element.2.as_slice());
    plaintexts.filter(|plaintext| !plaintext.is_empty()).collect()
}

fn rewritten(key: &ArchiveKey, archive: &[u8]) -> Vec<u8> {
    let mut rewriter = Rewriter::new(key, key, LIMITS).unwrap();
    rewriter.push(archive, |_| ()).unwrap();
    rewriter.finish().unwrap();
    std::mem::take(rewriter.output())
}

/// Cuts plaintexts out of the input, each behind its length in one byte; zero stands for a longer one.
fn plaintexts(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut plaintexts = Vec::new();
    while let Some((&length, rest)) = input.split_first() {
        let repeat = if length == 0 { 1000 } else { 1 };
        let (plaintext, rest) = rest.split_at(usize::from(length).min(rest.len()));
        plaintexts.push(if length == 0 { vec![0x0f; repeat] } else { plaintext.to_vec() });
        input = rest;
    }
    plaintexts
}

fn metadata() -> Vec<u8> {
    vec![0x0a, 0x04, 0x12, 0x02, 0x01, 0x02]
}

fn written(key: &ArchiveKey, input: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_nonce(key, NONCE).with_limits(LIMITS);
    writer.write(|out| out.extend_from_slice(&metadata())).unwrap();
    for plaintext in plaintexts(input) {
        writer.write(|out| out.extend_from_slice(&plaintext)).unwrap();
    }
    writer.finish().unwrap();
    std::mem::take(writer.output())
}

/// Like the writer, but a first byte bends the rules: constant nonce, a nonce step left out, a wrong length, stray bytes.
fn sealed_by_hand(key: &ArchiveKey, input: &[u8]) -> Vec<u8> {
    let Some((&bend, input)) = input.split_first() else { return Vec::new() };
    let cipher = Cipher::new(key);
    let mut inflated = Vec::new();
    let mut nonce = NONCE;
    for (index, plaintext) in std::iter::once(metadata()).chain(plaintexts(input)).enumerate() {
        let mut sealed = plaintext;
        cipher.seal(nonce, &mut sealed, 0);
        let bent = usize::from(bend >> 4) == index;
        let length = sealed.len() as u32 ^ u32::from(bent && bend & 2 != 0);
        inflated.extend_from_slice(&length.to_le_bytes());
        inflated.extend_from_slice(&sealed);
        if bend & 1 == 0 && !(bent && bend & 4 != 0) {
            let counter = u16::from_le_bytes([nonce[0], nonce[1]]).wrapping_add(1);
            nonce[..2].copy_from_slice(&counter.to_le_bytes());
        }
    }
    if bend & 8 != 0 {
        inflated.extend_from_slice(&[1, 2, 3]);
    }
    [&HEADER[..], &zstd::encode_all(&inflated[..], 3).unwrap()].concat()
}
