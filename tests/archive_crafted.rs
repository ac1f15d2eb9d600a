//! The 110 hand-made archives do what the "required" column of spec 1.8 says, however they are cut.

mod support;

use support::{crafted, read, read_in_pieces};

/// Cases that spec 1.8 calls a bad zstd frame, and that are named for what they are: something else than an archive.
const NO_FRAME_AT_ALL: [&str; 4] = ["not_zstd", "gzip", "flip_zstd_magic", "skippable_first"];

/// The names of the errors a case may end with; none if it must be accepted.
fn required_errors(name: &str, required: &str) -> Vec<String> {
    if NO_FRAME_AT_ALL.contains(&name) {
        return vec!["NotAnArchive".to_owned()];
    }
    // What is wrong inside records is for the store to judge; here they only have to decode.
    let Some(errors) = required.strip_prefix("error:").filter(|_| !name.starts_with("rec_")) else {
        return Vec::new();
    };
    let errors = errors.split(" (").next().unwrap();
    errors.split(" or ").map(str::to_owned).collect()
}

#[test]
fn every_case_ends_as_required() {
    let (key, cases) = crafted();
    let mut refused = 0;
    for case in cases {
        let allowed = required_errors(&case.name, &case.required);
        match read(&key, &case.archive).1 {
            Ok(_) => assert!(allowed.is_empty(), "{} must be refused", case.name),
            Err(error) => {
                let name = error.kind.name();
                assert!(allowed.iter().any(|allowed| allowed == name), "{}: {error:?}, not {allowed:?}", case.name);
                if case.required.contains("(element 0)") {
                    assert_eq!(error.element, Some(0), "{}", case.name);
                }
                if case.required.contains("(element >= 1)") {
                    assert!(error.element >= Some(1), "{}", case.name);
                }
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 67);
}

#[test]
fn no_case_depends_on_how_it_is_cut() {
    let (key, cases) = crafted();
    for case in cases {
        let whole = read(&key, &case.archive);
        for piece in [1, 2, 3, 7, 64, 500] {
            assert_eq!(read_in_pieces(&key, &case.archive, piece), whole, "{} in pieces of {piece}", case.name);
        }
    }
}

#[test]
fn legacy_is_reported_and_nothing_else_is_legacy() {
    let (key, cases) = crafted();
    for case in cases {
        if let (elements, Ok(summary)) = read(&key, &case.archive) {
            assert_eq!(summary.legacy, case.name.starts_with("legacy"), "{}", case.name);
            assert_eq!(summary.elements, elements.len() as u64);
        }
    }
}

#[test]
fn what_is_ignored_is_counted() {
    let (key, cases) = crafted();
    let summary = |name: &str| {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        read(&key, &case.archive).1.unwrap()
    };
    assert_eq!(summary("empty_plain_elem").empty_elements, 1);
    assert_eq!(summary("event_elem").events, 1);
    assert_eq!(summary("meta_twice").extra_metadata, 1);
    assert_eq!(summary("unknown_oneof").unknown_elements, 1);
    assert_eq!(summary("unknown_field_in_elem").with_unknown_fields, 1);
    assert_eq!(summary("unknown_field_in_msg").with_unknown_fields, 1);
    assert_eq!(summary("ok").with_unknown_fields, 0);
}
