//! Damaged, cut, oversized and foreign input gives the right error and never a panic.

mod support;

use support::{TEST_KEY, fixtures, metadata, read, read_in_pieces, test_key, write};
use xmtp_history::archive::{Error, ErrorKind, Limits, Reader, Writer, ZstdProblem};
use xmtp_history::crypto::{ArchiveKey, Cipher};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Some elements of different sizes, filler included.
fn small_archive() -> Vec<u8> {
    let message = [vec![0x1a, 0x90, 0x06], vec![0x1a, 0x8d, 0x06], vec![7; 0x30d]].concat();
    write(&test_key(), [3; 12], &[metadata(), vec![0x22, 2, 8, 1], message, vec![0x22, 2, 16, 2]])
}

/// A frame around any bytes, as plain zstd makes it.
fn archive_of(inflated: &[u8]) -> Vec<u8> {
    let header = [vec![0; 2], vec![3; 12]].concat();
    [header, zstd::encode_all(inflated, 1).unwrap()].concat()
}

/// A length prefix and the sealed bytes behind it, under nonce 3,3,… plus `index`.
fn sealed(index: u8, plaintext: &[u8]) -> Vec<u8> {
    let mut element = plaintext.to_vec();
    let mut nonce = [3; 12];
    nonce[0] += index;
    Cipher::new(&test_key()).seal(nonce, &mut element, 0);
    [u32::try_from(element.len()).unwrap().to_le_bytes().to_vec(), element].concat()
}

fn error_of(archive: &[u8]) -> ErrorKind {
    read(&test_key(), archive).1.unwrap_err().kind
}

#[test]
fn every_truncation_is_noticed() {
    let archive = small_archive();
    for length in 0..archive.len() {
        let expected = match length {
            0..14 => ErrorKind::HeaderTruncated,
            _ => ErrorKind::Zstd(ZstdProblem::Truncated),
        };
        assert_eq!(error_of(&archive[..length]), expected, "cut to {length} bytes");
    }
    assert!(read(&test_key(), &archive).1.is_ok());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let archive = small_archive();
    // Unused by zstd's definition, and the window's size: neither changes what the frame holds.
    let (unused_bits, window) = ((18, 0x10), 19);
    for position in 0..archive.len() {
        for bit in 0..8 {
            let mut changed = archive.clone();
            changed[position] ^= 1 << bit;
            if (position, 1 << bit) == unused_bits || position == window {
                continue;
            }
            let result = read(&test_key(), &changed).1;
            assert!(result.is_err(), "byte {position} bit {bit}");
        }
    }
}

#[test]
fn pieces_of_any_size_give_the_same() {
    for fixture in fixtures().iter().filter(|fixture| fixture.archive.len() < 200_000) {
        let whole = read(&fixture.key, &fixture.archive);
        for piece in [1, 5, 13, 14, 15, 1000, 4096] {
            assert_eq!(read_in_pieces(&fixture.key, &fixture.archive, piece), whole, "{} {piece}", fixture.name);
        }
    }
}

#[test]
fn a_damaged_end_does_not_depend_on_the_pieces() {
    let inflated = [sealed(0, &metadata()), sealed(1, &[])].concat();
    let raw_block = |last: u16| {
        let header = (u16::try_from(inflated.len()).unwrap() << 3 | last).to_le_bytes();
        [&header[..], &[0], &inflated].concat()
    };
    let frame = |descriptor: &[u8], blocks: &[u8]| [&[0; 2], &[3; 12][..], &MAGIC, descriptor, blocks].concat();
    let reserved_block = [0x07, 0, 0];
    let damaged = [
        // A block of no known kind after two good elements.
        (frame(&[0x00, 0x58], &[&raw_block(0)[..], &reserved_block].concat()), 2),
        // A checksum that does not match.
        (frame(&[0x04, 0x58], &[&raw_block(1)[..], &[0; 4]].concat()), 2),
        // A content size that is one too large: the element that ends with the frame is lost in every case.
        (frame(&[0x20, u8::try_from(inflated.len()).unwrap() + 1], &raw_block(1)), 1),
    ];
    for (archive, elements) in damaged {
        let whole = read(&test_key(), &archive);
        assert_eq!(whole.0.len(), elements);
        assert_eq!(whole.1.as_ref().unwrap_err().kind, ErrorKind::Zstd(ZstdProblem::BadFrame));
        for piece in 1..archive.len() {
            assert_eq!(read_in_pieces(&test_key(), &archive, piece), whole, "in pieces of {piece}");
        }
    }
}

#[test]
fn wrong_keys_are_called_that() {
    let other = ArchiveKey::new(&[0x43; 32]).unwrap();
    let error = read(&other, &small_archive()).1.unwrap_err();
    assert_eq!((error.kind, error.element, error.offset), (ErrorKind::WrongKeyOrCorrupt, Some(0), Some(0)));
}

#[test]
fn other_files_are_called_that() {
    assert_eq!(error_of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x04\0"), ErrorKind::NotAnArchive);
    assert_eq!(error_of(b"Dear diary, today I wrote a file format"), ErrorKind::NotAnArchive);
    assert_eq!(error_of(&[0; 40]), ErrorKind::NotAnArchive);
    assert_eq!(error_of(&[0; 16]), ErrorKind::NotAnArchive);
    assert_eq!(error_of(b"Dear diary, toda"), ErrorKind::UnsupportedVersion(u16::from_le_bytes(*b"De")));
    let later = |version: u16, rest: &[u8]| [&version.to_le_bytes()[..], &[0; 12], rest].concat();
    assert_eq!(error_of(&later(15, b"new format")), ErrorKind::UnsupportedVersion(15));
    assert_eq!(error_of(&later(16, b"new format")), ErrorKind::NotAnArchive);
    assert_eq!(error_of(&later(700, b"\x28\xb5\x2f\xfd")), ErrorKind::UnsupportedVersion(700));
    assert_eq!(error_of(&later(0, b"\x28\xb5")), ErrorKind::Zstd(ZstdProblem::Truncated));
    assert_eq!(error_of(&later(0, b"\x28\xb6")), ErrorKind::NotAnArchive);
    assert_eq!(error_of(&later(9, b"")), ErrorKind::UnsupportedVersion(9));
}

#[test]
fn lengths_are_judged_by_the_prefix_alone() {
    let with_prefix = |prefix: u32| archive_of(&[sealed(0, &metadata()), prefix.to_le_bytes().to_vec()].concat());
    let limit = Limits::default().max_element_bytes;
    for prefix in 0..16 {
        assert_eq!(error_of(&with_prefix(prefix)), ErrorKind::BadElementLength(prefix));
    }
    assert_eq!(error_of(&with_prefix(16)), ErrorKind::TruncatedElement);
    assert_eq!(error_of(&with_prefix(limit)), ErrorKind::TruncatedElement);
    let announced = u64::from(limit) + 1;
    assert_eq!(error_of(&with_prefix(limit + 1)), ErrorKind::ElementTooLarge { announced, limit });
    let error = read(&test_key(), &with_prefix(u32::MAX)).1.unwrap_err();
    assert_eq!((error.element, error.offset), (Some(1), Some(sealed(0, &metadata()).len() as u64)));
}

#[test]
fn windows_are_limited_by_what_the_frame_announces() {
    // Descriptor 0, then the window byte: exponent above 10 in the upper five bits, eighths in the lower three.
    let with_window = |byte: u8| {
        let mut archive = small_archive();
        archive[19] = byte;
        archive
    };
    assert!(read(&test_key(), &with_window((27 - 10) << 3)).1.is_ok());
    for byte in [(27 - 10) << 3 | 1, (28 - 10) << 3, (31 - 10) << 3, 0xff] {
        let archive = with_window(byte);
        assert_eq!(error_of(&archive), ErrorKind::Zstd(ZstdProblem::WindowTooLarge));
        assert_eq!(read_in_pieces(&test_key(), &archive, 1), read(&test_key(), &archive));
    }
    // One segment whose content needs a window above the limit.
    let huge = [&[0; 14][..], &[0x28, 0xb5, 0x2f, 0xfd, 0xa0], &((1_u32 << 27) + 1).to_le_bytes()].concat();
    assert_eq!(error_of(&huge), ErrorKind::Zstd(ZstdProblem::WindowTooLarge));

    let mut small = Reader::new(&test_key(), Limits { max_window_log: 20, ..Limits::default() });
    let error = small.push(&small_archive(), |_| Ok::<_, Error>(())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Zstd(ZstdProblem::WindowTooLarge));
}

#[test]
fn an_inflating_bomb_stops_at_its_first_prefix() {
    let bomb = [sealed(0, &metadata()), vec![0; 64 << 20]].concat();
    let archive = archive_of(&bomb);
    assert!(archive.len() < 20_000);
    assert_eq!(error_of(&archive), ErrorKind::BadElementLength(0));
}

#[test]
fn anything_after_the_frame_is_refused() {
    let archive = small_archive();
    for trailing in [&b"\0"[..], &archive[14..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]] {
        let error = read(&test_key(), &[&archive, trailing].concat()).1.unwrap_err();
        assert_eq!((error.kind, error.offset), (ErrorKind::TrailingData, Some(archive.len() as u64)));
    }
}

#[test]
fn undecodable_elements_carry_their_place() {
    let first = sealed(0, &metadata());
    let error = read(&test_key(), &archive_of(&[first.clone(), sealed(1, &[0x1a, 5])].concat())).1.unwrap_err();
    assert_eq!(error.kind.name(), "Decode");
    assert_eq!((error.element, error.offset), (Some(1), Some(first.len() as u64)));
}

#[test]
fn a_failing_receiver_ends_the_reading() {
    let mut reader = Reader::new(&test_key(), Limits::default());
    #[derive(Debug, PartialEq)]
    enum Failure {
        Archive(Error),
        Receiver,
    }
    impl From<Error> for Failure {
        fn from(error: Error) -> Self {
            Self::Archive(error)
        }
    }
    assert_eq!(reader.push(&small_archive(), |_| Err(Failure::Receiver)), Err(Failure::Receiver));
    match reader.push(&[], |_| Ok(())) {
        Err(Failure::Archive(error)) => assert_eq!(error.kind, ErrorKind::Aborted),
        other => panic!("{other:?}"),
    }
    assert_eq!(reader.finish().unwrap_err().kind, ErrorKind::Aborted);
}

#[test]
fn errors_say_nothing_secret() {
    let mut writer = Writer::with_nonce(&test_key(), [0; 12]);
    writer.write(|out| out.extend_from_slice(b"a secret")).unwrap();
    writer.finish().unwrap();
    let archive = std::mem::take(writer.output());
    let error = read(&test_key(), &archive).1.unwrap_err();
    let shown = format!("{error} {error:?} {writer:?} {:?}", Reader::new(&test_key(), Limits::default()));
    assert!(!shown.contains("secret") && !shown.contains(&hex::encode(TEST_KEY)) && !shown.contains("66, 66"));
}
