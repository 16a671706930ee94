//! docs/functions.md is up to date with the code.

use std::process::Command;

#[test]
fn functions_md_is_fresh() {
    let path = crate::common::root().join("docs/functions.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_capfilt")).arg("docs").output().unwrap();
    assert!(output.status.success());
    assert!(written.as_bytes() == output.stdout, "docs/functions.md is stale: run make docs");
}
