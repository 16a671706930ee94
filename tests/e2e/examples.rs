//! The README's examples that need no network.

use std::process::Command;

use super::{Place, root, text};

/// Output of an example.
#[track_caller]
fn example(name: &str) -> String {
    let place = Place::new();
    let mut command = Command::new(root(&format!("examples/{name}/run.sh")));
    let output = command.arg(env!("CARGO_BIN_EXE_capfilt")).env("OUT", place.path("out")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Asserts that the printed table has a row that begins with these cells.
#[track_caller]
fn has_row(page: &str, cells: &[&str]) {
    let row = |line: &str| line.split('|').skip(1).map(str::trim).zip(cells).all(|(cell, wanted)| cell == *wanted);
    assert!(page.lines().any(|line| line.matches('|').count() > cells.len() && row(line)), "{cells:?}:\n{page}");
}

#[test]
fn lakehouse() {
    let page = example("lakehouse");
    for (version, pictures) in [("0", "100"), ("1", "122"), ("2", "122")] {
        has_row(&page, &[version, pictures]);
    }
    // The update left the existing rows unchanged.
    has_row(&page, &["200", "0"]);
}

#[test]
fn web() {
    let page = example("web");
    for (folder, urls, fetched) in [("well", "48", "48"), ("hiccup", "6", "6"), ("gone", "4", "0"), ("noai", "1", "0")]
    {
        has_row(&page, &[folder, urls, fetched]);
    }
}
