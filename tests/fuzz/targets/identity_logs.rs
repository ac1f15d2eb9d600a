//! The logs of inboxes as a node gives them: never a panic, and nobody is believed whom the inbox does not have.
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
    static BENCH: RefCell<hostile::IdentityLogs> = RefCell::new(hostile::IdentityLogs::new());
}

fuzz_target!(|input: &[u8]| {
    BENCH.with(|bench| bench.borrow().run(input));
});
