//! The committed code in `rust/wire/generated` is what the `.proto` files beside it generate.
//!
//! After changing a schema: `OVERWRITE_GENERATED=1 cargo test --test proto_is_current`, twice the first time, because
//! the crate itself is built before this test runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SCHEMAS: [&str; 6] =
    ["content.proto", "credential.proto", "group.proto", "identity_api.proto", "mls_api.proto", "sync_content.proto"];

fn files(directory: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

#[test]
fn generated_code_is_current() {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("rust/wire");
    let fresh = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("generated");
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir_all(&fresh).unwrap();

    let descriptors = protox::compile(SCHEMAS, [&wire]).unwrap();
    prost_build::Config::new().btree_map(["."]).out_dir(&fresh).compile_fds(descriptors).unwrap();

    let committed = wire.join("generated");
    if std::env::var_os("OVERWRITE_GENERATED").is_some() {
        for (name, text) in files(&fresh) {
            std::fs::write(committed.join(name), text).unwrap();
        }
    }
    assert_eq!(files(&fresh), files(&committed), "run again with OVERWRITE_GENERATED=1");
}
