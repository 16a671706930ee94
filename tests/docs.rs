//! docs/functions.md is up to date with the code.

#[test]
fn functions_md_is_fresh() {
    let path = crate::common::root().join("docs/functions.md");
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == capfilt::functions_markdown(), "docs/functions.md is stale: run make docs");
}
