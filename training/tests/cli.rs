//! The command, as a user runs it.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_capfilt-train")).args(args).output().unwrap()
}

#[test]
fn config_tells_every_setting() {
    let output = run(&["config", "--preset", "tiny", "--set", "train.steps=7"]);
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in ["steps = 7", "hard_negatives = true", "[data]"] {
        assert!(page.contains(line), "{line}:\n{page}");
    }
}

#[test]
fn what_is_no_setting_is_named() {
    let output = run(&["config", "--set", "train.stepps=7"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("stepps"), "{said}");
}
