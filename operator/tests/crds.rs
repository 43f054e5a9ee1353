//! The CRDs in `crds/` are those of the types, and say what people need.

use std::path::PathBuf;

/// What is in `crds/` must be what the types say. `HOLDFAST_WRITE=1` writes it.
#[test]
fn the_files_are_those_of_the_types() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../crds/holdfast.dev_holdfastclusters.yaml");
    let made = holdfast_operator::api::crds();
    if std::env::var_os("HOLDFAST_WRITE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "crds/ differs from the types; run HOLDFAST_WRITE=1 cargo test -p holdfast-operator --test crds"
    );
}
