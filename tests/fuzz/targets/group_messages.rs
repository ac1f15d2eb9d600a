//! Messages of a group as a node gives them, before and behind the encryption: never a panic, and what is genuine is read.
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
    static BENCH: RefCell<hostile::GroupMessages> = RefCell::new(hostile::GroupMessages::new());
}

fuzz_target!(|input: &[u8]| {
    BENCH.with(|bench| bench.borrow_mut().run(input));
});
