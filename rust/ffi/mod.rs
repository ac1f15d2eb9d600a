//! The C ABI that Python loads, and the only `unsafe` of the crate.
//!
//! Every fallible function returns an error, null for success, and writes its results through out-pointers only then.
//! Nothing unwinds into C. Handles are opaque, guard themselves with a lock, and may be used from any thread. Bytes cross
//! in chunks and records in batches (see [`rows`]), never one by one. No Rust thread ever calls Python.

mod buffer;
mod content;
mod error;
mod installation;
mod rows;
mod store;
mod stream;

/// This interface. Its version is compiled into the library and written to the header that Python reads, so that Python can
/// tell a library that does not belong to it.
#[repr(u32)]
pub enum XhAbi {
    /// Goes up with every change of a function or of what it takes or gives.
    Version = 2,
}

/// The version of the interface in this library. Also silences Rust's own panic report, which would go to the host's
/// stderr; a panic is reported as an error instead.
#[unsafe(no_mangle)]
pub extern "C" fn xh_abi_version() -> XhAbi {
    std::panic::set_hook(Box::new(|_| {}));
    XhAbi::Version
}

/// The version of the package, zero-terminated; lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn xh_version() -> *const std::ffi::c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Whether this is a debug build, many times slower than a release.
#[unsafe(no_mangle)]
pub extern "C" fn xh_is_debug_build() -> bool {
    cfg!(debug_assertions)
}

/// The bytes at `data`.
///
/// # Safety
/// `data` points to `length` readable bytes that nobody changes while the result is used; it may be null when `length` is 0.
unsafe fn bytes<'a>(data: *const u8, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: promised by the caller; a null pointer only comes with length 0.
    unsafe { std::slice::from_raw_parts(data, length) }
}
