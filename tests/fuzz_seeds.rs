//! Writes the fuzzers' seeds from the fixtures: `OVERWRITE_SEEDS=1 cargo test --test fuzz_seeds`.

mod support;

use std::path::Path;

use support::{crafted, fixtures, read};
use xmtp_history::wire::{Element, decode_element};

/// A few of each kind are enough for a fuzzer to start from.
const PER_KIND: usize = 3;

fn check_or_write(target: &str, name: &str, seed: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target).join(name);
    if std::env::var_os("OVERWRITE_SEEDS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, seed).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_default();
    assert_eq!(committed, seed, "{} is not current; run again with OVERWRITE_SEEDS=1", path.display());
}

#[test]
fn seeds_are_current() {
    let mut counts = [0; 4];
    for fixture in fixtures() {
        for kept in read(&fixture.key, &fixture.archive).0 {
            if kept.plaintext.len() > 2000 {
                continue;
            }
            let (element, _) = decode_element(&kept.plaintext).unwrap();
            let (kind, name) = match element {
                Element::Metadata(_) => (0, "metadata"),
                Element::Group(_) => (1, "group"),
                Element::Message(_) => (2, "message"),
                Element::Consent(_) => (3, "consent"),
                _ => continue,
            };
            counts[kind] += 1;
            if counts[kind] > PER_KIND {
                continue;
            }
            let name = format!("{name}-{}", counts[kind]);
            check_or_write("element_decoder", &name, &kept.plaintext);
            let length = u8::try_from(kept.plaintext.len()).unwrap_or(u8::MAX);
            check_or_write(
                "archive_reader",
                &format!("written-{name}"),
                &[&[4, 7, length], &kept.plaintext[..]].concat(),
            );
            check_or_write(
                "archive_reader",
                &format!("bent-{name}"),
                &[&[3, 9, 0, length], &kept.plaintext[..]].concat(),
            );
            if let Element::Message(message) = element {
                check_or_write("encoded_content", &name, message.decrypted_message_bytes);
            }
        }
    }
    let frames = ["ok", "checksum", "content_size", "flush_7", "two_frames_2+3", "skippable_first", "meta_only"];
    for case in crafted().1.into_iter().filter(|case| frames.contains(&case.name.as_str())) {
        check_or_write("archive_reader", &format!("raw-{}", case.name), &[&[0, 11], &case.archive[..]].concat());
    }
}
