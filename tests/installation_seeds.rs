//! Writes the seeds of the installation's fuzzers (`OVERWRITE_SEEDS=1 cargo test --test installation_seeds`), and runs them as the
//! fuzzers do: each gets as far as it is meant to.

#[path = "support/hostile.rs"]
mod hostile;
mod identity_support;
#[path = "support/mls.rs"]
mod mls;
#[path = "support/network.rs"]
mod network;

use std::path::Path;

use hostile::Outcome::{self, Believed, Malformed, Nothing};
use xmtp_history::mls::envelope;

/// Checks that the seeds are those of the repository, and what becomes of each.
fn check(target: &str, seeds: &[(&str, Vec<u8>, Outcome)], mut run: impl FnMut(&[u8]) -> Outcome) {
    for (name, seed, expected) in seeds {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target).join(name);
        if std::env::var_os("OVERWRITE_SEEDS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, seed).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        assert_eq!(&committed, seed, "{} is not current; run again with OVERWRITE_SEEDS=1", path.display());
        assert_eq!(run(seed), *expected, "{target}/{name}");
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), seeds.len(), "{target} has seeds of another origin");
    // A few hundred more of each, in every way, at places that a fuzzer would try.
    for mode in 0..5 {
        for place in 0..60_u8 {
            run(&[mode, 0, place.wrapping_mul(31), 1, 1, place]);
        }
    }
}

#[test]
fn identity_logs() {
    let bench = hostile::IdentityLogs::new();
    let seeds = [
        ("empty", vec![0], Nothing),
        ("no-protobuf", vec![0, 0xff], Malformed),
        ("genuine", vec![1], Believed),
        ("bent-inbox", vec![1, 0, 9, 1, 1, b'0'], Nothing),
        ("bent-signature", vec![1, 1, 0x30, 1, 1, 0], Nothing),
        ("empty-behind", vec![1, 0xff, 0xff, 0, 0], Believed),
    ];
    check("identity_logs", &seeds, |input| bench.run(input));
}

#[test]
fn welcome_answers() {
    let bench = hostile::Welcomes::new();
    let seeds = [
        ("empty", vec![0], Nothing),
        ("no-protobuf", vec![0, 0xff], Malformed),
        ("no-version", vec![0, 0x0a, 0], Malformed),
        ("genuine", vec![1], Believed),
        ("bent", vec![1, 1, 0, 1, 1, 0], Nothing),
        ("nothing-inside", vec![2], Nothing),
        ("another-message-inside", vec![2, 0, 1, 0, 2, 0], Nothing),
        ("inside-genuine", vec![3], Believed),
        ("inside-bent", vec![3, 0, 200, 1, 1, 0], Nothing),
        ("inside-longer", vec![3, 0, 0, 0, 1, 0], Nothing),
    ];
    check("welcome_answers", &seeds, |input| bench.run(input));
}

#[test]
fn group_messages() {
    let mut bench = hostile::GroupMessages::new();
    let said = envelope::encode(&network::text("from the seed"), "seed");
    let seeds = [
        ("empty", vec![0], Nothing),
        ("no-protobuf", vec![0, 0xff], Malformed),
        ("no-version", vec![0, 0x0a, 0], Malformed),
        ("genuine", vec![1], Believed),
        ("bent-answer", vec![1, 0, 0, 1, 1, 0xff], Malformed),
        ("bent-message", vec![2, 0, 60, 1, 1, 0], Nothing),
        ("future-epoch", vec![2, 0, 21, 1, 1, 0xff], Nothing),
        ("other-group", vec![2, 0, 5, 1, 1, 0], Nothing),
        ("text", [vec![3], said].concat(), Believed),
        ("no-envelope", vec![3, 0xff], Nothing),
        ("obsolete-envelope", vec![3, 0x12, 0], Nothing),
        ("no-content", vec![3, 0x0a, 0], Believed),
        ("cut-commit", vec![4], Nothing),
        ("bent-commit", vec![4, 0, 60, 1, 1, 0], Nothing),
    ];
    check("group_messages", &seeds, |input| bench.run(input));
}

#[test]
fn key_package_answers() {
    let bench = hostile::KeyPackages::new();
    let seeds = [
        ("empty", vec![0], Malformed),
        ("no-package", vec![0, 0x0a, 0], Nothing),
        ("no-protobuf", vec![0, 0xff], Malformed),
        ("genuine", vec![1], Believed),
        ("bent-answer", vec![1, 0, 0, 1, 1, 0x12], Malformed),
        ("genuine-package", vec![2], Believed),
        ("bent-package", vec![2, 0, 80, 1, 1, 0], Nothing),
        ("other-suite", vec![2, 0, 3, 1, 1, 1], Nothing),
        ("longer-package", vec![2, 0, 0, 0, 1, 0], Nothing),
    ];
    check("key_package_answers", &seeds, |input| bench.run(input));
}
