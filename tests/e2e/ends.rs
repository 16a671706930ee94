//! Jobs that end prematurely.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::kills::same_table;
use super::{BOOKKEEPING, Place, text, web};

#[test]
fn a_stopped_job_finishes_its_unit_and_goes_on() {
    let place = Place::new();
    place.job_ok(&[&web(), "whole"]);
    for signal in ["INT", "TERM"] {
        let dest = format!("pairs-{signal}");
        let child = place.started(&dest);
        let busy = place.job_fails(&[&web(), &dest, "--checkpoint-rows", "64"]);
        assert!(busy.contains("another job is writing to it"), "{busy}");
        let unfinished = place.job_fails(&[&dest, "next"]);
        assert!(unfinished.contains("unfinished pair table"), "{unfinished}");
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("finishing the unit in hand") && message.contains("error: interrupted"), "{message}");
        assert!(message.contains("of 1512 rows are done: the same command goes on from there"), "{message}");
        assert_eq!(place.names(&dest), [BOOKKEEPING], "no part of the table is to be seen");
        let left = place.names(&format!("{dest}/{BOOKKEEPING}/shard-1-of-1"));
        assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
        let said = place.job_ok(&[&web(), &dest, "--checkpoint-rows", "64"]);
        assert!(said.contains("going on after") && said.contains("read       1512 rows"), "{said}");
        same_table(&place, "whole", &dest);
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let place = Place::new();
    let child = place.started("pairs");
    send("INT", &child);
    std::thread::sleep(Duration::from_millis(100));
    send("INT", &child);
    let asked = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(20), "it must not finish its work first");
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("error: interrupted"), "{message}");
    let said = place.job_ok(&[&web(), "pairs", "--checkpoint-rows", "64"]);
    assert!(said.contains("going on after"), "{said}");
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 3024);
}

pub(crate) fn send(signal: &str, child: &Child) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_full_disk_is_named_and_cleaned_up() {
    let place = Place::new();
    let slice = place.slice();
    let args = place.job(&[slice, "pairs", "--write-images", "all"]);
    // A file size limit; with its signal ignored, a write fails as on a full disk.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_capfilt")]);
    let output = command.args(&args).current_dir(place.folder.path()).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("unit-00000000-000000000000.parquet")
            && message.contains("cannot write: the file would exceed"),
        "{message}"
    );
    assert!(!place.path("pairs").exists(), "{:?}", place.names("pairs"));

    // A disk that is really full, if this user may mount one.
    let disk = place.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "capfilt-test"]).arg(&disk).output();
    if mounted.is_ok_and(|o| o.status.success()) {
        let args = place.job(&[slice, "disk/pairs", "--write-images", "all"]);
        let output = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let left = place.names("disk");
        let unmounted = Command::new("umount").arg(&disk).status().unwrap();
        let message = text(&output.stderr);
        assert!(message.contains("the disk is full"), "{message}");
        assert!(left.is_empty() && unmounted.success(), "{left:?}");
    }
}
