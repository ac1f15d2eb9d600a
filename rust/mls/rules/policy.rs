//! Who may change what in a group: the policies of extension 0xff02 (identity specification, sections 3.1 and 4.3).
//!
//! Three kinds of policies share one form on the wire but not their numbers: nobody can allow everybody to hand out ranks.

use std::collections::BTreeMap;

use prost::Message as _;

use crate::mls::extensions::{
    APP_DATA, DESCRIPTION, GROUP_IMAGE_URL_SQUARE, GROUP_NAME, MESSAGE_DISAPPEAR_FROM_NS, MESSAGE_DISAPPEAR_IN_NS,
    MINIMUM_SUPPORTED_PROTOCOL_VERSION,
};
use crate::wire::proto::mls::message_contents as proto;
use crate::wire::proto::mls::message_contents::policy::Kind;

/// A metadata field without a policy belongs to super admins if its name begins so, else to admins.
const SUPER_ADMIN_PREFIX: char = '_';

/// The ranks of whoever acts, as they were before the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rank {
    /// In the list of admins.
    pub admin: bool,
    /// In the list of super admins.
    pub super_admin: bool,
}

/// Who may do something.
pub trait Right: Copy + Sized {
    /// By its number on the wire.
    fn from_wire(number: i32) -> Option<Self>;
    /// Its number on the wire.
    fn to_wire(self) -> i32;
    /// Whether somebody of this rank may.
    fn allows(self, rank: Rank) -> bool;
}

/// Who may add or remove members, or change a metadata field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum MemberRight {
    /// Every member.
    Everybody = 1,
    /// No one.
    Nobody = 2,
    /// Admins and super admins.
    Admins = 3,
    /// Super admins.
    SuperAdmins = 4,
}

impl Right for MemberRight {
    fn from_wire(number: i32) -> Option<Self> {
        [Self::Everybody, Self::Nobody, Self::Admins, Self::SuperAdmins]
            .into_iter()
            .find(|right| right.to_wire() == number)
    }

    fn to_wire(self) -> i32 {
        self as i32
    }

    fn allows(self, rank: Rank) -> bool {
        match self {
            Self::Everybody => true,
            Self::Nobody => false,
            Self::Admins => rank.admin || rank.super_admin,
            Self::SuperAdmins => rank.super_admin,
        }
    }
}

/// Who may make or unmake admins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum RankRight {
    /// No one.
    Nobody = 1,
    /// Admins and super admins.
    Admins = 2,
    /// Super admins.
    SuperAdmins = 3,
}

impl Right for RankRight {
    fn from_wire(number: i32) -> Option<Self> {
        [Self::Nobody, Self::Admins, Self::SuperAdmins].into_iter().find(|right| right.to_wire() == number)
    }

    fn to_wire(self) -> i32 {
        self as i32
    }

    fn allows(self, rank: Rank) -> bool {
        match self {
            Self::Nobody => false,
            Self::Admins => rank.admin || rank.super_admin,
            Self::SuperAdmins => rank.super_admin,
        }
    }
}

/// A right, or a combination of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy<R> {
    /// One right.
    Base(R),
    /// All must allow it; an empty list cannot be read back.
    All(Vec<Self>),
    /// One must allow it; an empty list cannot be read back.
    Any(Vec<Self>),
}

impl<R: Right> Policy<R> {
    /// Whether somebody of this rank may.
    ///
    /// Its depth is bounded by that to which the protobuf decoder goes, 100 messages.
    #[must_use]
    pub fn allows(&self, rank: Rank) -> bool {
        match self {
            Self::Base(right) => right.allows(rank),
            Self::All(policies) => policies.iter().all(|policy| policy.allows(rank)),
            Self::Any(policies) => policies.iter().any(|policy| policy.allows(rank)),
        }
    }

    fn parse(policy: proto::Policy) -> Result<Self, &'static str> {
        match policy.kind {
            Some(Kind::Base(number)) => R::from_wire(number).map(Self::Base).ok_or("a policy has an unknown number"),
            Some(Kind::AndCondition(list)) => Self::parse_list(list).map(Self::All),
            Some(Kind::AnyCondition(list)) => Self::parse_list(list).map(Self::Any),
            None => Err("a policy is empty"),
        }
    }

    fn parse_list(list: proto::PolicyList) -> Result<Vec<Self>, &'static str> {
        if list.policies.is_empty() {
            return Err("a combined policy is empty");
        }
        list.policies.into_iter().map(Self::parse).collect()
    }

    fn write(&self) -> proto::Policy {
        let list = |policies: &Vec<Self>| proto::PolicyList { policies: policies.iter().map(Self::write).collect() };
        let kind = match self {
            Self::Base(right) => Kind::Base(right.to_wire()),
            Self::All(policies) => Kind::AndCondition(list(policies)),
            Self::Any(policies) => Kind::AnyCondition(list(policies)),
        };
        proto::Policy { kind: Some(kind) }
    }
}

/// Extension 0xff02: who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Adding an inbox.
    pub add_member: Policy<MemberRight>,
    /// Removing an inbox.
    pub remove_member: Policy<MemberRight>,
    /// Changing an attribute, by its name.
    pub update_metadata: BTreeMap<String, Policy<MemberRight>>,
    /// Making an admin.
    pub add_admin: Policy<RankRight>,
    /// Unmaking an admin.
    pub remove_admin: Policy<RankRight>,
    /// Written by every client and heeded by none: only super admins change permissions.
    pub update_permissions: Policy<RankRight>,
}

impl Permissions {
    /// Reads the data of extension 0xff02.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(data: &[u8]) -> Result<Self, &'static str> {
        let policies = proto::GroupMutablePermissionsV1::decode(data)
            .map_err(|_| "it is not a message of its type")?
            .policies
            .ok_or("it holds no policies")?;
        let absent = "a policy is missing";
        Ok(Self {
            add_member: Policy::parse(policies.add_member_policy.ok_or(absent)?)?,
            remove_member: Policy::parse(policies.remove_member_policy.ok_or(absent)?)?,
            update_metadata: policies
                .update_metadata_policy
                .into_iter()
                .map(|(name, policy)| Ok((name, Policy::parse(policy)?)))
                .collect::<Result<_, &'static str>>()?,
            add_admin: Policy::parse(policies.add_admin_policy.ok_or(absent)?)?,
            remove_admin: Policy::parse(policies.remove_admin_policy.ok_or(absent)?)?,
            update_permissions: Policy::parse(policies.update_permissions_policy.ok_or(absent)?)?,
        })
    }

    /// The data of extension 0xff02.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        proto::GroupMutablePermissionsV1 {
            policies: Some(proto::PolicySet {
                add_member_policy: Some(self.add_member.write()),
                remove_member_policy: Some(self.remove_member.write()),
                update_metadata_policy: self
                    .update_metadata
                    .iter()
                    .map(|(name, policy)| (name.clone(), policy.write()))
                    .collect(),
                add_admin_policy: Some(self.add_admin.write()),
                remove_admin_policy: Some(self.remove_admin.write()),
                update_permissions_policy: Some(self.update_permissions.write()),
            }),
        }
        .encode_to_vec()
    }

    /// What a group has unless its maker chose otherwise, and a sync group always (section 3.1).
    #[must_use]
    pub fn all_members() -> Self {
        let fields = [
            GROUP_NAME,
            DESCRIPTION,
            GROUP_IMAGE_URL_SQUARE,
            APP_DATA,
            MESSAGE_DISAPPEAR_FROM_NS,
            MESSAGE_DISAPPEAR_IN_NS,
            MINIMUM_SUPPORTED_PROTOCOL_VERSION,
        ];
        Self {
            add_member: Policy::Base(MemberRight::Everybody),
            remove_member: Policy::Base(MemberRight::Admins),
            update_metadata: fields
                .into_iter()
                .map(|name| (name.to_owned(), Policy::Base(usual_right(name))))
                .collect(),
            add_admin: Policy::Base(RankRight::SuperAdmins),
            remove_admin: Policy::Base(RankRight::SuperAdmins),
            update_permissions: Policy::Base(RankRight::SuperAdmins),
        }
    }

    /// What a DM has: its two members may change every attribute, and nobody anything else.
    #[must_use]
    pub fn dm() -> Self {
        let Self { update_metadata, .. } = Self::all_members();
        Self {
            add_member: Policy::Base(MemberRight::Nobody),
            remove_member: Policy::Base(MemberRight::Nobody),
            update_metadata: update_metadata
                .into_keys()
                .map(|name| (name, Policy::Base(MemberRight::Everybody)))
                .collect(),
            add_admin: Policy::Base(RankRight::Nobody),
            remove_admin: Policy::Base(RankRight::Nobody),
            update_permissions: Policy::Base(RankRight::Nobody),
        }
    }

    /// Whether these are the policies of [`Permissions::all_members`], be it as another version writes them: fields come and
    /// go with versions, so a missing one is no difference and an unknown one may be everybody's.
    #[must_use]
    pub fn is_all_members(&self) -> bool {
        let usual = Self::all_members();
        self.add_member == usual.add_member
            && self.remove_member == usual.remove_member
            && self.add_admin == usual.add_admin
            && self.remove_admin == usual.remove_admin
            && self.update_permissions == usual.update_permissions
            && self.update_metadata.iter().all(|(name, policy)| *policy == Policy::Base(usual_right(name)))
    }

    /// Whether somebody of this rank may change an attribute. One without a policy is for admins, or for super admins if its
    /// name begins with an underscore.
    #[must_use]
    pub fn may_update(&self, field: &str, rank: Rank) -> bool {
        match self.update_metadata.get(field) {
            Some(policy) => policy.allows(rank),
            None if field.starts_with(SUPER_ADMIN_PREFIX) => MemberRight::SuperAdmins.allows(rank),
            None => MemberRight::Admins.allows(rank),
        }
    }
}

fn usual_right(field: &str) -> MemberRight {
    match field {
        MESSAGE_DISAPPEAR_FROM_NS | MESSAGE_DISAPPEAR_IN_NS => MemberRight::Admins,
        MINIMUM_SUPPORTED_PROTOCOL_VERSION => MemberRight::SuperAdmins,
        _ => MemberRight::Everybody,
    }
}
