//! What XMTP keeps in a group's context: who may do what in it, who belongs to it, and how it is called.
//!
//! Everything here arrives from other people. Reading takes exactly what a 1.10 client takes, since a group that one client can
//! read and another cannot falls apart (identity specification, sections 3.1 and 6).

use std::collections::{BTreeMap, BTreeSet};

use openmls::extensions::{Extension, ExtensionType, Extensions, RequiredCapabilitiesExtension, UnknownExtension};
use openmls::group::GroupContext;
use openmls::messages::proposals::ProposalType;
use openmls::prelude::CredentialType;
use prost::Message as _;

use super::rules::policy::Permissions;
use crate::wire::proto::mls::message_contents as proto;

/// Extension type of [`Metadata`] (section 2.1).
pub const IMMUTABLE_METADATA: u16 = 0xf000;
/// Extension type of [`MutableMetadata`] (section 2.1).
pub const MUTABLE_METADATA: u16 = 0xff00;
/// Extension type of [`Membership`] (section 2.1).
pub const GROUP_MEMBERSHIP: u16 = 0xff01;
/// Extension type of [`Permissions`] (section 2.1).
pub const GROUP_PERMISSIONS: u16 = 0xff02;
/// Extension type of a key package's welcome wrapper key (section 2.1); not found in a group.
pub const WELCOME_WRAPPER_KEY: u16 = 0xff03;
/// Extension type of a key package's list of welcome pointer ciphers (section 2.1); not found in a group.
pub const WELCOME_POINTER_CIPHERS: u16 = 0xff04;
/// Extension type of the dictionary that replaces all others in a migrated group (section 6).
pub const APP_DATA_DICTIONARY: u16 = 0x0006;
/// Proposal type by which a migrated group changes its dictionary (section 6).
pub const APP_DATA_UPDATE: u16 = 0x0008;

/// Attribute: the group's name.
pub const GROUP_NAME: &str = "group_name";
/// Attribute: the group's description.
pub const DESCRIPTION: &str = "description";
/// Attribute: where the group's picture is.
pub const GROUP_IMAGE_URL_SQUARE: &str = "group_image_url_square";
/// Attribute: what an application keeps in the group.
pub const APP_DATA: &str = "app_data";
/// Attribute: messages sent after this time disappear.
pub const MESSAGE_DISAPPEAR_FROM_NS: &str = "message_disappear_from_ns";
/// Attribute: how long a message that disappears lives.
pub const MESSAGE_DISAPPEAR_IN_NS: &str = "message_disappear_in_ns";
/// Attribute: clients of an older version stop following the group.
pub const MINIMUM_SUPPORTED_PROTOCOL_VERSION: &str = "minimum_supported_protocol_version";
/// Attribute: seed of the key that signs the group's commit log, as hex digits.
pub const COMMIT_LOG_SIGNER: &str = "_commit_log_signer";

/// Why a group's context cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An extension that every group has is absent.
    #[error("the group has no {0}")]
    Missing(&'static str),
    /// An extension is there and cannot be read.
    #[error("the group's {part} cannot be read: {reason}")]
    Malformed {
        /// Which extension.
        part: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The group is in order, but of a kind that this implementation cannot follow.
    #[error("the group cannot be followed: {0}")]
    Unsupported(Unsupported),
}

/// Why a group cannot be followed (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// No extension 0xff01.
    #[error("it keeps no list of members")]
    NoMembership,
    /// Extension 0x0006 is there.
    #[error("it keeps its settings in a dictionary")]
    Dictionary,
    /// Members must know extension 0x0006 or proposal 0x0008.
    #[error("it demands a newer client")]
    RequiredCapabilities,
}

impl Error {
    fn malformed(part: &'static str, reason: &'static str) -> Self {
        Self::Malformed { part, reason }
    }
}

const METADATA: &str = "immutable metadata";
const MUTABLE: &str = "mutable metadata";
const MEMBERSHIP: &str = "membership";
const PERMISSIONS: &str = "permissions";
const NOT_PROTOBUF: &str = "it is not a message of its type";

/// What a group is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum ConversationType {
    /// Any number of inboxes.
    Group = 1,
    /// Two inboxes.
    Dm = 2,
    /// The installations of one inbox.
    Sync = 3,
    /// A single message that travels in a welcome.
    Oneshot = 4,
}

impl ConversationType {
    fn from_wire(number: i32) -> Option<Self> {
        [Self::Group, Self::Dm, Self::Sync, Self::Oneshot].into_iter().find(|kind| *kind as i32 == number)
    }
}

/// Extension 0xf000: what stays as it was when the group was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What the group is for.
    pub conversation_type: ConversationType,
    /// Who made the group, as its maker says.
    pub creator_inbox_id: String,
    /// The two inboxes of a DM.
    pub dm_members: Option<[String; 2]>,
    /// The message of a oneshot group, as it is on the wire.
    pub oneshot_message: Option<Vec<u8>>,
}

impl Metadata {
    /// Reads the data of extension 0xf000.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(data: &[u8]) -> Result<Self, Error> {
        let inner = exact_vector(data).ok_or(Error::malformed(METADATA, "its inner length is wrong"))?;
        let message = proto::GroupMetadataV1::decode(inner).map_err(|_| Error::malformed(METADATA, NOT_PROTOBUF))?;
        let conversation_type = ConversationType::from_wire(message.conversation_type)
            .ok_or(Error::malformed(METADATA, "its conversation type is unknown"))?;
        let dm_members = match message.dm_members {
            None => None,
            Some(proto::DmMembers { dm_member_one: Some(one), dm_member_two: Some(two) }) => {
                Some([one.inbox_id, two.inbox_id])
            }
            Some(_) => return Err(Error::malformed(METADATA, "a member of the DM is missing")),
        };
        Ok(Self {
            conversation_type,
            creator_inbox_id: message.creator_inbox_id,
            dm_members,
            oneshot_message: message.oneshot_message,
        })
    }

    /// The data of extension 0xf000.
    ///
    /// # Errors
    /// [`Error::Malformed`] for more than 2^30 bytes.
    pub fn write(&self) -> Result<Vec<u8>, Error> {
        let inbox = |id: &String| Some(proto::Inbox { inbox_id: id.clone() });
        let inner = proto::GroupMetadataV1 {
            conversation_type: self.conversation_type as i32,
            creator_inbox_id: self.creator_inbox_id.clone(),
            dm_members: self
                .dm_members
                .as_ref()
                .map(|[one, two]| proto::DmMembers { dm_member_one: inbox(one), dm_member_two: inbox(two) }),
            oneshot_message: self.oneshot_message.clone(),
        }
        .encode_to_vec();
        vector(&inner).ok_or(Error::malformed(METADATA, "it is too long"))
    }
}

/// Whether `data` is one vector with nothing behind it, its length written in the shortest form.
///
/// The reference's MLS library knows extension 0xf000 as such a vector and refuses the whole message otherwise; ours does not
/// know it (section 8).
pub(crate) fn exact_vector(data: &[u8]) -> Option<&[u8]> {
    let (&first, rest) = data.split_first()?;
    let low = u64::from(first & 0x3f);
    let (length, shortest, inner) = match first >> 6 {
        0 => (low, 0, rest),
        1 => {
            let (&[b], inner) = rest.split_first_chunk::<1>()?;
            (low << 8 | u64::from(b), 0x40, inner)
        }
        2 => {
            let (&[b, c, d], inner) = rest.split_first_chunk::<3>()?;
            (low << 24 | u64::from(u32::from_be_bytes([0, b, c, d])), 0x4000, inner)
        }
        _ => return None,
    };
    (length >= shortest && u64::try_from(inner.len()) == Ok(length)).then_some(inner)
}

/// `inner` behind its length; `None` for more than 2^30 bytes.
fn vector(inner: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(inner.len()).ok()?;
    let mut data = Vec::with_capacity(inner.len().saturating_add(4));
    let bytes = length.to_be_bytes();
    let [_, _, third, fourth] = bytes;
    match length {
        0..0x40 => data.push(fourth),
        0x40..0x4000 => data.extend([third | 0x40, fourth]),
        0x4000..0x4000_0000 => data.extend((length | 0x8000_0000).to_be_bytes()),
        _ => return None,
    }
    data.extend_from_slice(inner);
    Some(data)
}

/// Extension 0xff00: what may change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MutableMetadata {
    /// Name, description and the like; a client keeps what it does not know.
    pub attributes: BTreeMap<String, String>,
    /// Inboxes of the admins.
    pub admins: Vec<String>,
    /// Inboxes of the super admins, who may also give these ranks.
    pub super_admins: Vec<String>,
}

impl MutableMetadata {
    /// Reads the data of extension 0xff00.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(data: &[u8]) -> Result<Self, Error> {
        let message =
            proto::GroupMutableMetadataV1::decode(data).map_err(|_| Error::malformed(MUTABLE, NOT_PROTOBUF))?;
        let (Some(admins), Some(super_admins)) = (message.admin_list, message.super_admin_list) else {
            return Err(Error::malformed(MUTABLE, "a list of admins is missing"));
        };
        Ok(Self { attributes: message.attributes, admins: admins.inbox_ids, super_admins: super_admins.inbox_ids })
    }

    /// The data of extension 0xff00.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        proto::GroupMutableMetadataV1 {
            attributes: self.attributes.clone(),
            admin_list: Some(proto::Inboxes { inbox_ids: self.admins.clone() }),
            super_admin_list: Some(proto::Inboxes { inbox_ids: self.super_admins.clone() }),
        }
        .encode_to_vec()
    }

    /// Whether the inbox is in the list of admins.
    #[must_use]
    pub fn is_admin(&self, inbox_id: &str) -> bool {
        self.admins.iter().any(|admin| admin == inbox_id)
    }

    /// Whether the inbox is in the list of super admins.
    #[must_use]
    pub fn is_super_admin(&self, inbox_id: &str) -> bool {
        self.super_admins.iter().any(|admin| admin == inbox_id)
    }
}

/// Extension 0xff01: the inboxes of the group, and up to which identity update their installations belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Sequence id of an identity update by inbox id; 0 is before the first.
    pub members: BTreeMap<String, u64>,
    /// Installations that belong to the group but could not be added.
    pub failed_installations: BTreeSet<Vec<u8>>,
}

impl Membership {
    /// Reads the data of extension 0xff01.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(data: &[u8]) -> Result<Self, Error> {
        let message = proto::GroupMembership::decode(data).map_err(|_| Error::malformed(MEMBERSHIP, NOT_PROTOBUF))?;
        Ok(Self { members: message.members, failed_installations: message.failed_installations.into_iter().collect() })
    }

    /// The data of extension 0xff01.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        proto::GroupMembership {
            members: self.members.clone(),
            failed_installations: self.failed_installations.iter().cloned().collect(),
        }
        .encode_to_vec()
    }

    /// The group context with this membership: the old entry goes, the new one comes last, as real clients write it
    /// (section 3.1).
    ///
    /// # Errors
    /// [`Error::Malformed`] if the MLS library refuses it, which it has no reason to.
    pub fn replace_in(&self, extensions: &Extensions<GroupContext>) -> Result<Extensions<GroupContext>, Error> {
        let mut replaced = extensions.clone();
        replaced
            .add_or_replace(unknown(GROUP_MEMBERSHIP, self.write()))
            .map_err(|_| Error::malformed(MEMBERSHIP, "the MLS library refuses it"))?;
        Ok(replaced)
    }
}

/// All that XMTP keeps in a group's context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupExtensions {
    /// Extension 0xf000.
    pub metadata: Metadata,
    /// Extension 0xff00.
    pub mutable_metadata: MutableMetadata,
    /// Extension 0xff01.
    pub membership: Membership,
    /// Extension 0xff02.
    pub permissions: Permissions,
}

impl GroupExtensions {
    /// Reads a group's context.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a migrated group, whatever else may be wrong with it; otherwise [`Error::Missing`] or
    /// [`Error::Malformed`].
    pub fn parse(extensions: &Extensions<GroupContext>) -> Result<Self, Error> {
        if let Some(reason) = unsupported(extensions) {
            return Err(Error::Unsupported(reason));
        }
        Ok(Self {
            metadata: Metadata::parse(find(extensions, IMMUTABLE_METADATA, METADATA)?)?,
            mutable_metadata: MutableMetadata::parse(find(extensions, MUTABLE_METADATA, MUTABLE)?)?,
            membership: Membership::parse(find(extensions, GROUP_MEMBERSHIP, MEMBERSHIP)?)?,
            permissions: parse_permissions(extensions)?,
        })
    }

    /// The context of a new group, in the order in which real clients write it (section 3.1).
    ///
    /// # Errors
    /// [`Error::Malformed`] for metadata of more than 2^30 bytes.
    pub fn to_extensions(&self) -> Result<Extensions<GroupContext>, Error> {
        Extensions::from_vec(vec![
            unknown(IMMUTABLE_METADATA, self.metadata.write()?),
            unknown(MUTABLE_METADATA, self.mutable_metadata.write()),
            unknown(GROUP_MEMBERSHIP, self.membership.write()),
            unknown(GROUP_PERMISSIONS, self.permissions.write()),
            Extension::RequiredCapabilities(required_capabilities()),
        ])
        .map_err(|_| Error::malformed("context", "the MLS library refuses it"))
    }

    /// A new sync group of ours, before its first commit (section 3.1).
    #[must_use]
    pub fn sync_group(own_inbox_id: &str, commit_log_signer: Option<[u8; 32]>) -> Self {
        let mut attributes: BTreeMap<String, String> =
            [GROUP_NAME, DESCRIPTION, GROUP_IMAGE_URL_SQUARE, APP_DATA].map(|name| (name.into(), String::new())).into();
        if let Some(seed) = commit_log_signer {
            attributes.insert(COMMIT_LOG_SIGNER.into(), hex::encode(seed));
        }
        Self {
            metadata: Metadata {
                conversation_type: ConversationType::Sync,
                creator_inbox_id: own_inbox_id.into(),
                dm_members: None,
                oneshot_message: None,
            },
            mutable_metadata: MutableMetadata {
                attributes,
                admins: Vec::new(),
                super_admins: vec![own_inbox_id.into()],
            },
            membership: Membership {
                members: BTreeMap::from([(own_inbox_id.into(), 0)]),
                failed_installations: BTreeSet::new(),
            },
            permissions: Permissions::all_members(),
        }
    }
}

/// What every member of an XMTP group must be able to do (section 3.1).
#[must_use]
pub fn required_capabilities() -> RequiredCapabilitiesExtension {
    RequiredCapabilitiesExtension::new(
        &[
            ExtensionType::Unknown(GROUP_MEMBERSHIP),
            ExtensionType::Unknown(MUTABLE_METADATA),
            ExtensionType::Unknown(GROUP_PERMISSIONS),
            ExtensionType::Unknown(IMMUTABLE_METADATA),
            ExtensionType::LastResort,
            ExtensionType::ApplicationId,
        ],
        &[ProposalType::GroupContextExtensions],
        &[CredentialType::Basic],
    )
}

/// Whether the context is that of a migrated group (section 6).
///
/// Types are compared by number: the MLS library knows these only with a feature that must stay off.
#[must_use]
pub fn unsupported(extensions: &Extensions<GroupContext>) -> Option<Unsupported> {
    let has = |number| extensions.iter().any(|extension| u16::from(extension.extension_type()) == number);
    if has(APP_DATA_DICTIONARY) {
        return Some(Unsupported::Dictionary);
    }
    let required = extensions.required_capabilities().is_some_and(|required| {
        required.extension_types().iter().any(|kind| u16::from(*kind) == APP_DATA_DICTIONARY)
            || required.proposal_types().iter().any(|kind| u16::from(*kind) == APP_DATA_UPDATE)
    });
    if required {
        return Some(Unsupported::RequiredCapabilities);
    }
    (!has(GROUP_MEMBERSHIP)).then_some(Unsupported::NoMembership)
}

/// The data of one of XMTP's extensions.
pub(crate) fn data(extensions: &Extensions<GroupContext>, number: u16) -> Option<&[u8]> {
    extensions.unknown(number).map(|UnknownExtension(data)| data.as_slice())
}

fn find<'a>(extensions: &'a Extensions<GroupContext>, number: u16, name: &'static str) -> Result<&'a [u8], Error> {
    data(extensions, number).ok_or(Error::Missing(name))
}

/// The membership alone: a commit's new context is read part by part, as the reference does.
pub(crate) fn parse_membership(extensions: &Extensions<GroupContext>) -> Result<Membership, Error> {
    Membership::parse(find(extensions, GROUP_MEMBERSHIP, MEMBERSHIP)?)
}

/// The mutable metadata alone.
pub(crate) fn parse_mutable_metadata(extensions: &Extensions<GroupContext>) -> Result<MutableMetadata, Error> {
    MutableMetadata::parse(find(extensions, MUTABLE_METADATA, MUTABLE)?)
}

/// The permissions alone.
pub(crate) fn parse_permissions(extensions: &Extensions<GroupContext>) -> Result<Permissions, Error> {
    Permissions::parse(find(extensions, GROUP_PERMISSIONS, PERMISSIONS)?)
        .map_err(|reason| Error::malformed(PERMISSIONS, reason))
}

fn unknown(number: u16, data: Vec<u8>) -> Extension {
    Extension::Unknown(number, UnknownExtension(data))
}
