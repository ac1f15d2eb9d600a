//! The native half of xmtp-history: everything that touches many bytes or any secret.
//!
//! Rooms, lowest first: [`crypto`] and [`wire`] know nothing of each other; [`archive`] is the archive format over both;
//! [`store`] is the encrypted history store and moves records between itself and archives; [`identity`] says who speaks for
//! an inbox; [`mls`] is an installation with its groups, living in a store; `ffi` is the C ABI that Python loads. A lower
//! room never imports a higher one.

#![deny(unsafe_code, missing_docs)]
// What comes from outside must not be able to panic; a test that panics has done its work.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod archive;
pub mod crypto;
pub mod identity;
pub mod mls;
pub mod store;
pub mod wire;

#[allow(unsafe_code)]
mod ffi;
