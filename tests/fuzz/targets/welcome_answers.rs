//! Welcomes as a node gives them, whole and behind both layers of encryption: never a panic, and the genuine group is joined.
#![no_main]

#[path = "../../support/hostile.rs"]
mod hostile;
#[path = "../../identity_support/mod.rs"]
mod identity_support;
#[path = "../../support/mls.rs"]
mod mls;
#[path = "../../support/network.rs"]
mod network;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

thread_local! {
    static BENCH: RefCell<hostile::Welcomes> = RefCell::new(hostile::Welcomes::new());
}

fuzz_target!(|input: &[u8]| {
    BENCH.with(|bench| bench.borrow().run(input));
});
