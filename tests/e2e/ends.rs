//! Jobs that end before they are done.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Place, text, web};

#[test]
fn a_killed_job_leaves_nothing_that_looks_whole() {
    let place = Place::new();
    let mut child = place.started("pairs");
    child.kill().unwrap();
    child.wait().unwrap();
    // No part was begun under its own name.
    assert!(place.names("pairs").iter().all(|name| name.starts_with('.')), "{:?}", place.names("pairs"));
    // What is left stops no one, and goes.
    let slice = place.slice();
    place.job_ok(&[slice, "pairs"]);
    assert_eq!(place.names("pairs"), ["part-00000.parquet"]);
}

#[test]
fn an_interrupted_job_cleans_up() {
    for signal in ["INT", "TERM"] {
        let place = Place::new();
        let child = place.started("pairs");
        let busy = place.job_fails(&[&web(), "pairs"]);
        assert!(busy.contains("another job is writing to it"), "{busy}");
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status().unwrap();
        assert!(sent.success());
        let asked = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(20), "it must not finish its work first");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("error: interrupted"), "{message}");
        assert!(place.names("pairs").is_empty(), "{:?}", place.names("pairs"));
    }
}

#[test]
fn a_full_disk_is_named_and_cleaned_up() {
    let place = Place::new();
    let slice = place.slice();
    let args = place.job(&[slice, "pairs", "--image", "all"]);
    // A limit on the size of a file, whose signal is ignored so that the write fails as on a full disk.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_capfilt")]);
    let output = command.args(&args).current_dir(place.folder.path()).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("part-00000.parquet") && message.contains("cannot write: the file would exceed"),
        "{message}"
    );
    assert!(!place.path("pairs").exists(), "{:?}", place.names("pairs"));

    // A disk that is full indeed, where this user may mount one.
    let disk = place.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "capfilt-test"]).arg(&disk).output();
    if mounted.is_ok_and(|o| o.status.success()) {
        let args = place.job(&[slice, "disk/pairs", "--image", "all"]);
        let output = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let left = place.names("disk");
        let unmounted = Command::new("umount").arg(&disk).status().unwrap();
        let message = text(&output.stderr);
        assert!(message.contains("the disk is full"), "{message}");
        assert!(left.is_empty() && unmounted.success(), "{left:?}");
    }
}
