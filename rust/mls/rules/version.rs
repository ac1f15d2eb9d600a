//! Groups that ask for a newer client (identity specification, sections 4.2, 4.3 and 6).

use crate::mls::extensions::{MINIMUM_SUPPORTED_PROTOCOL_VERSION, MutableMetadata};

/// The version of the reference that we behave like.
pub const OWN_VERSION: &str = "1.10.0";

/// Three numbers and what comes after the first hyphen, up to the next.
///
/// The order is the reference's, not semver's: `1.10.0` is below `1.10.0-rc1`, and `1.10.0-rc.1` is no version.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version<'a>(u32, u32, u32, Option<&'a str>);

fn parse(text: &str) -> Option<Version<'_>> {
    let mut parts = text.split('.');
    let (major, minor, last) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let mut last = last.split('-');
    let patch = last.next()?;
    Some(Version(major.parse().ok()?, minor.parse().ok()?, patch.parse().ok()?, last.next()))
}

/// Whether a client of [`OWN_VERSION`] is too old for a group that asks for `minimum`; `None` if that is no version.
#[must_use]
pub fn is_too_old_for(minimum: &str) -> Option<bool> {
    Some(parse(minimum)? > parse(OWN_VERSION)?)
}

/// The version that a group asks for, if that is more than ours: the group is then to be paused. What is no version pauses
/// nothing here, though every commit fails by it; the reference looks at this when it joins a group of type
/// [`Group`](crate::mls::extensions::ConversationType::Group), and for the other types not before the next commit.
#[must_use]
pub fn paused_by(metadata: &MutableMetadata) -> Option<&str> {
    let minimum = metadata.attributes.get(MINIMUM_SUPPORTED_PROTOCOL_VERSION)?;
    is_too_old_for(minimum).unwrap_or(false).then_some(minimum)
}

#[cfg(test)]
mod tests {
    use super::is_too_old_for;

    #[test]
    fn versions_compare_as_the_reference_compares_them() {
        for (minimum, too_old) in [
            ("1.10.0", Some(false)),
            ("1.9.99", Some(false)),
            ("0.0.0", Some(false)),
            ("1.10.1", Some(true)),
            ("1.11.0-dev", Some(true)),
            ("2.0.0", Some(true)),
            ("1.10.0-rc1", Some(true)),
            ("1.9.0-rc1", Some(false)),
            ("1.10", None),
            ("1.11.0-dev.1", None),
            ("v1.11.0", None),
            ("", None),
            ("1.-1.0", None),
            ("1.4294967296.0", None),
            ("1.10.+1", Some(true)),
        ] {
            assert_eq!(is_too_old_for(minimum), too_old, "{minimum}");
        }
    }
}
