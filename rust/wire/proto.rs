//! The generated codec for everything that is not in an archive: what a node, groups and their messages say.
//!
//! The modules are the packages of the schemas beside this file, which document what needs it.

#![allow(missing_docs, clippy::doc_markdown, clippy::pedantic, reason = "generated")]

/// `xmtp.identity`
pub mod identity {
    include!("generated/xmtp.identity.rs");
    /// `xmtp.identity.associations`
    pub mod associations {
        include!("generated/xmtp.identity.associations.rs");
    }
    /// `xmtp.identity.api`
    pub mod api {
        /// `xmtp.identity.api.v1`
        pub mod v1 {
            include!("generated/xmtp.identity.api.v1.rs");
        }
    }
}

/// `xmtp.mls`
pub mod mls {
    /// `xmtp.mls.api`
    pub mod api {
        /// `xmtp.mls.api.v1`
        pub mod v1 {
            include!("generated/xmtp.mls.api.v1.rs");
        }
    }
    /// `xmtp.mls.message_contents`
    pub mod message_contents {
        include!("generated/xmtp.mls.message_contents.rs");
    }
}

/// `xmtp.device_sync`
pub mod device_sync {
    include!("generated/xmtp.device_sync.rs");
    /// `xmtp.device_sync.consent_backup`
    pub mod consent_backup {
        include!("generated/xmtp.device_sync.consent_backup.rs");
    }
    /// `xmtp.device_sync.content`
    pub mod content {
        include!("generated/xmtp.device_sync.content.rs");
    }
    /// `xmtp.device_sync.event_backup`
    pub mod event_backup {
        include!("generated/xmtp.device_sync.event_backup.rs");
    }
    /// `xmtp.device_sync.group_backup`
    pub mod group_backup {
        include!("generated/xmtp.device_sync.group_backup.rs");
    }
    /// `xmtp.device_sync.message_backup`
    pub mod message_backup {
        include!("generated/xmtp.device_sync.message_backup.rs");
    }
}
