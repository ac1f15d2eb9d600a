//! What the outside of a group message says before it is decrypted (RFC 9420, section 6).

use super::tls::Cursor;

/// The number of MLS 1.0 (RFC 9420, section 6).
const MLS10: u16 = 1;
/// The wire format of private messages, the only one that XMTP uses (RFC 9420, section 6).
const PRIVATE_MESSAGE: u16 = 2;

/// What a message holds (RFC 9420, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// An application message.
    Application,
    /// A proposal on its own.
    Proposal,
    /// A commit.
    Commit,
}

/// The unencrypted part of a private message. Nobody has vouched for it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing<'a> {
    /// The group it says it belongs to.
    pub group_id: &'a [u8],
    /// The epoch it says it was made in.
    pub epoch: u64,
    /// What it says it holds.
    pub content_type: ContentType,
}

impl<'a> Framing<'a> {
    /// Reads the front of an `MLSMessage`; none if it is no private message of MLS 1.0.
    #[must_use]
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(message);
        if cursor.u16()? != MLS10 || cursor.u16()? != PRIVATE_MESSAGE {
            return None;
        }
        let group_id = cursor.vector()?;
        let epoch = cursor.u64()?;
        let content_type = match cursor.u8()? {
            1 => ContentType::Application,
            2 => ContentType::Proposal,
            3 => ContentType::Commit,
            _ => return None,
        };
        Some(Self { group_id, epoch, content_type })
    }
}
