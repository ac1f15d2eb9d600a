//! The hand-written record codec against prost: both must accept the same bytes and read the same values.
#![no_main]

#[path = "../../support/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|plaintext: &[u8]| oracle::assert_agreement(plaintext));
