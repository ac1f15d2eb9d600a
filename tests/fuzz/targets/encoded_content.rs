//! Message contents: never a panic, always a type, and what was decoded survives being encoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmtp_history::wire::content::EncodedContent;

fuzz_target!(|content: &[u8]| {
    if let Ok(decoded) = EncodedContent::decode(content) {
        assert!(decoded.r#type.is_some());
        assert_eq!(EncodedContent::decode(&decoded.encode()), Ok(decoded));
    }
});
