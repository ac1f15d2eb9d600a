//! Bytes that Rust owns and Python looks at.

/// Bytes owned by this library, to be given back with [`xh_buffer_free`].
#[repr(C)]
pub struct XhBuffer {
    /// The first byte.
    pub data: *mut u8,
    /// How many there are.
    pub length: usize,
    /// How many there is room for.
    pub capacity: usize,
}

impl From<Vec<u8>> for XhBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        Self { data: bytes.as_mut_ptr(), length: bytes.len(), capacity: bytes.capacity() }
    }
}

/// Frees a buffer.
///
/// # Safety
/// `buffer` came from this library, is given back once, and nobody looks at its bytes any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_buffer_free(buffer: XhBuffer) {
    // SAFETY: pointer, length and capacity are those of the vector that `From<Vec<u8>>` took apart.
    drop(unsafe { Vec::from_raw_parts(buffer.data, buffer.length, buffer.capacity) });
}
