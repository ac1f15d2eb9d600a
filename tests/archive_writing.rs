//! What we write, we and any zstd reader can read, and the reference does not hang on it.

mod support;

use proptest::prelude::*;
use support::{crafted, fixtures, metadata, read, read_in_pieces, test_key, write};
use xmtp_history::archive::{ErrorKind, Limits, Rewriter, Writer};
use xmtp_history::crypto::{ArchiveKey, Cipher};
use xmtp_history::wire::{Message, encode_message};

/// A message element whose content is so long.
fn message(length: usize) -> Vec<u8> {
    let content = vec![0x61; length];
    let mut plaintext = Vec::new();
    encode_message(&Message { decrypted_message_bytes: &content, ..Message::default() }, &mut plaintext);
    plaintext
}

fn without_empty(elements: Vec<support::Kept>) -> Vec<Vec<u8>> {
    elements.into_iter().map(|kept| kept.plaintext).filter(|plaintext| !plaintext.is_empty()).collect()
}

#[test]
fn an_archive_of_ours_is_one_plain_zstd_frame() {
    let plaintexts = [metadata(), message(3), message(300_000), message(70_000)];
    let archive = write(&test_key(), [9; 12], &plaintexts);
    assert_eq!(archive[..14], [&[0, 0][..], &[9; 12]].concat());
    assert_eq!(archive[14..20], [0x28, 0xb5, 0x2f, 0xfd, 0, 0x58]);

    let mut inflated = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(&archive[14..]).unwrap().single_frame();
    std::io::Read::read_to_end(&mut decoder, &mut inflated).unwrap();
    assert!(decoder.finish().is_empty(), "nothing follows the frame");

    let cipher = Cipher::new(&test_key());
    let (mut rest, mut nonce, mut found) = (&mut inflated[..], [9; 12], Vec::new());
    while let Some((prefix, later)) = rest.split_first_chunk_mut::<4>() {
        let (sealed, later) = later.split_at_mut(u32::from_le_bytes(*prefix).try_into().unwrap());
        found.push(cipher.open(nonce, sealed).unwrap().to_vec());
        let counter = u16::from_le_bytes([nonce[0], nonce[1]]) + 1;
        nonce[..2].copy_from_slice(&counter.to_le_bytes());
        rest = later;
    }
    found.retain(|plaintext| !plaintext.is_empty());
    assert_eq!(found, plaintexts);
}

#[test]
fn the_nonce_wraps() {
    let mut nonce = [0xff; 12];
    nonce[0] = 0xfe;
    let plaintexts: Vec<_> = std::iter::once(metadata()).chain((0..5).map(message)).collect();
    let (elements, summary) = read(&test_key(), &write(&test_key(), nonce, &plaintexts));
    assert!(!summary.unwrap().legacy);
    assert_eq!(without_empty(elements), plaintexts);
}

#[test]
fn two_archives_never_share_a_nonce() {
    let nonce = || Writer::new(&test_key()).unwrap().output()[2..14].to_vec();
    assert_ne!(nonce(), nonce());
}

/// Replays spec 6.2: before each element, the read-ahead that the elements before it gained must cover it.
fn assert_filler_suffices(elements: &[support::Kept]) {
    let mut credit = 0_i64;
    for kept in elements {
        let size = i64::try_from(kept.plaintext.len()).unwrap() + 20;
        assert!(kept.index == 0 || credit + 512 >= size, "element {} of {size} bytes", kept.index);
        credit += 512 - size;
    }
}

#[test]
fn large_elements_get_exactly_the_filler_they_need() {
    for lengths in [vec![10, 10, 10], vec![1_000, 1_500, 100_000, 3, 2_000_000, 600], vec![480; 50]] {
        let plaintexts: Vec<_> = std::iter::once(metadata()).chain(lengths.into_iter().map(message)).collect();
        let (elements, summary) = read(&test_key(), &write(&test_key(), [1; 12], &plaintexts));
        assert_filler_suffices(&elements);
        // The rule of spec 6.2 as it is written there.
        let (mut credit, mut filler) = (0_i64, 0);
        for (index, plaintext) in plaintexts.iter().enumerate() {
            let size = i64::try_from(plaintext.len()).unwrap() + 20;
            while index > 0 && credit + 512 < size {
                credit += 492;
                filler += 1;
            }
            credit += 512 - size;
        }
        assert_eq!(summary.unwrap().empty_elements, filler);
        assert_eq!(without_empty(elements), plaintexts);
    }
}

#[test]
fn filler_never_comes_before_the_metadata() {
    let mut long = metadata();
    long.extend([0x0a, 0xe8, 0x07]);
    long.extend([0x30, 1].repeat(500));
    let (elements, summary) = read(&test_key(), &write(&test_key(), [1; 12], &[long.clone(), message(10)]));
    assert_eq!(elements[0].plaintext, long);
    assert_eq!(summary.unwrap().empty_elements, 1, "what the metadata took from the read-ahead is made good after it");
}

#[test]
fn rewriting_drops_filler_that_is_not_needed() {
    let plaintexts = [metadata(), Vec::new(), Vec::new(), message(10)];
    let rewritten = rewrite(&test_key(), &test_key(), &write(&test_key(), [1; 12], &plaintexts));
    assert_eq!(read(&test_key(), &rewritten).1.unwrap().empty_elements, 0);
}

#[test]
fn elements_above_the_limit_break_the_writer_for_good() {
    let limits = Limits { max_element_bytes: 1000, ..Limits::default() };
    let mut writer = Writer::with_nonce(&test_key(), [0; 12]).with_limits(limits);
    writer.write(|out| out.extend_from_slice(&metadata())).unwrap();
    writer.write(|out| out.resize(out.len() + 984, 0)).unwrap();
    let error = writer.write(|out| out.resize(out.len() + 985, 0)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ElementTooLarge { announced: 1001, limit: 1000 });
    assert_eq!(writer.write(|_| ()).unwrap_err(), error);
    assert_eq!(writer.finish().unwrap_err(), error);
    assert!(read(&test_key(), writer.output()).1.is_err(), "what a broken writer leaves is no archive");
}

#[test]
fn a_writer_finishes_once_and_not_empty() {
    let mut writer = Writer::with_nonce(&test_key(), [0; 12]);
    assert_eq!(writer.finish().unwrap_err().kind, ErrorKind::MissingMetadata);
    let mut writer = Writer::with_nonce(&test_key(), [0; 12]);
    writer.write(|out| out.extend_from_slice(&metadata())).unwrap();
    writer.finish().unwrap();
    assert_eq!(writer.finish().unwrap_err().kind, ErrorKind::AlreadyFinished);
    assert_eq!(writer.write(|_| ()).unwrap_err().kind, ErrorKind::AlreadyFinished);
}

fn rewrite(key_in: &ArchiveKey, key_out: &ArchiveKey, archive: &[u8]) -> Vec<u8> {
    let mut rewriter = Rewriter::new(key_in, key_out, Limits::default()).unwrap();
    let mut rewritten = Vec::new();
    for piece in archive.chunks(1000) {
        rewriter.push(piece, |_| {}).unwrap();
        rewritten.append(rewriter.output());
    }
    let summary = rewriter.finish().unwrap();
    assert_eq!(summary, read(key_in, archive).1.unwrap());
    rewritten.append(rewriter.output());
    rewritten
}

#[test]
fn rewriting_keeps_every_element_and_renews_the_rest() {
    let (key, cases) = crafted();
    let other = ArchiveKey::new(&[5; 32]).unwrap();
    let crafted = cases.iter().map(|case| (&key, &case.archive));
    let fixtures = fixtures();
    let fixtures = fixtures.iter().map(|fixture| (&fixture.key, &fixture.archive));
    let mut rewritten_archives = 0;
    for (key, archive) in crafted.chain(fixtures) {
        let (elements, Ok(_)) = read(key, archive) else { continue };
        let rewritten = rewrite(key, &other, archive);
        assert_ne!(rewritten[2..14], archive[2..14], "the nonce is new");
        let (found, summary) = read(&other, &rewritten);
        assert_filler_suffices(&found);
        assert_eq!(without_empty(found), without_empty(elements));
        assert!(!summary.unwrap().legacy);
        rewritten_archives += 1;
    }
    assert_eq!(rewritten_archives, 12 + 43);
}

#[test]
fn rewriting_a_cut_archive_completes_nothing() {
    let archive = write(&test_key(), [1; 12], &[metadata(), message(10)]);
    let mut rewriter = Rewriter::new(&test_key(), &test_key(), Limits::default()).unwrap();
    rewriter.push(&archive[..archive.len() - 1], |_| {}).unwrap();
    assert_eq!(rewriter.finish().unwrap_err().kind.name(), "Zstd");
    let rewritten = std::mem::take(rewriter.output());
    assert!(read(&test_key(), &rewritten).1.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(
        nonce: [u8; 12],
        lengths in prop::collection::vec(prop_oneof![0..400_usize, 0..3_000_usize, 0..300_000_usize], 0..20),
        piece in prop_oneof![1..50_usize, 1..200_000_usize],
    ) {
        let plaintexts: Vec<_> = std::iter::once(metadata()).chain(lengths.into_iter().map(message)).collect();
        let archive = write(&test_key(), nonce, &plaintexts);
        let (elements, summary) = read_in_pieces(&test_key(), &archive, piece);
        let summary = summary.unwrap();
        prop_assert_eq!(summary.archive_bytes, archive.len() as u64);
        assert_filler_suffices(&elements);
        let mut offset = 0;
        for kept in &elements {
            prop_assert_eq!(kept.offset, offset);
            offset += kept.plaintext.len() as u64 + 20;
        }
        prop_assert_eq!(summary.inflated_bytes, offset);
        prop_assert_eq!(without_empty(elements), plaintexts);
    }

    #[test]
    fn changed_archives_never_panic_and_never_depend_on_pieces(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        compress: bool,
        piece in 1..64_usize,
    ) {
        let mut archive = write(&test_key(), [3; 12], &[metadata(), message(40), message(900)]);
        if compress {
            let inflated = zstd::decode_all(&archive[14..]).unwrap();
            archive.truncate(14);
            archive.extend(zstd::encode_all(&[inflated, vec![0; 5000]].concat()[..], 9).unwrap());
        }
        for (index, value) in changes {
            let position = index.index(archive.len());
            archive[position] = value;
        }
        let whole = read(&test_key(), &archive);
        prop_assert_eq!(read_in_pieces(&test_key(), &archive, piece), whole);
    }
}
