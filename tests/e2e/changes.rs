//! Sources that change while they are read, contain symlink cycles, or take long to scan.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::ends::send;
use super::{Place, root, text};

/// A recipe without models.
const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      1.0 AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";

const CAT: &str = "tests/fixtures/images/emoji_cat_face_google.png";
const FOX: &str = "tests/fixtures/images/emoji_fox_twitter.png";

fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    place
}

fn spawned(place: &Place, args: &[&str]) -> Child {
    place.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn said(child: Child, code: i32) -> String {
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn a_source_that_is_rewritten_stops_its_job() {
    let place = place();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    let lines = |text: &str| -> String {
        (0..6000).map(|n| format!("{{\"path\":\"cat.png\",\"text\":\"{text} {n}\"}}\n")).collect()
    };
    fs::write(place.path("a.jsonl"), lines("old")).unwrap();
    let options = [
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--recipe",
        "recipe.sql",
        "--checkpoint-rows",
        "64",
        "--write-images",
        "none",
    ];
    let job = [&["run", "a.jsonl", "out"][..], &options].concat();
    let mut child = spawned(&place, &job);
    let third = place.path("out/_capfilt/shard-1-of-1/unit-00000000-000000000128.parquet");
    let patience = Instant::now();
    while !third.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the job ended before its source was changed");
        assert!(patience.elapsed() < Duration::from_secs(120), "the job wrote nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
    // Overwritten in place, as by a shell's >: same length and inode.
    fs::write(place.path("a.jsonl"), lines("new")).unwrap();
    let message = said(child, 1);
    assert!(message.contains("a.jsonl: it changed while it was read"), "{message}");
    let message = place.fails(1, &job);
    assert!(message.contains("it has changed since the job began"), "{message}");
    // With the old contents it is the same source again; no row of the changed contents was used.
    fs::write(place.path("a.jsonl"), lines("old")).unwrap();
    place.ok(&job);
    assert_eq!(place.number("out", "SELECT count(*) FROM t WHERE text LIKE 'old %'"), 6000);
    assert_eq!(place.number("out", "SELECT count(*) FROM t"), 6000);
}

#[test]
fn a_link_back_is_not_followed() {
    let place = place();
    for folder in ["one", "two/a", "tables/day=1"] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    fs::copy(root(CAT), place.path("one/cat.png")).unwrap();
    fs::copy(root(FOX), place.path("two/fox.png")).unwrap();
    place.slice();
    fs::copy(place.path("slice.parquet"), place.path("tables/day=1/a.parquet")).unwrap();
    let links =
        [(".", "one/self"), ("..", "two/a/x"), ("..", "two/a/y"), ("../..", "two/a/z"), ("..", "tables/day=1/up")];
    for (target, link) in links {
        symlink(target, place.path(link)).unwrap();
    }
    for (source, rows, link) in [("one", 1, "one/self"), ("two", 1, "two/a/x and 2 more links"), ("tables", 40, "up")] {
        let output = place.run(&["run", source, &format!("{source}-pairs"), "--recipe", "recipe.sql"]);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(&format!("{link}: not followed")), "{said}");
        assert_eq!(place.number(&format!("{source}-pairs"), "SELECT count(*) FROM t"), rows, "{source}");
    }
    // SQL lists the folder itself, and reports why it cannot.
    let said = place.fails(1, &["sql", "-c", "SELECT count(*) FROM 'tables'"]);
    assert!(said.contains("tables/day=1/up"), "{said}");
}

/// Waits until the process has installed a handler for the signal.
fn caught(child: &Child, signal: &str) {
    let bit = if signal == "INT" { 1 } else { 14 };
    let catches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        Some(u64::from_str_radix(mask.trim(), 16).ok()? >> bit & 1 == 1)
    };
    let patience = Instant::now();
    // Without /proc, wait two seconds.
    while !catches().unwrap_or(patience.elapsed() > Duration::from_secs(2)) {
        assert!(patience.elapsed() < Duration::from_secs(60), "the job does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn a_signal_ends_a_job_that_looks_at_its_source() {
    let place = place();
    // Counting its rows takes some seconds; a debug build counts about 10 MB/s.
    let line = format!("{{\"path\":\"c.png\",\"text\":\"{}\"}}\n", "word ".repeat(40));
    fs::write(place.path("large.jsonl"), line.repeat(500_000)).unwrap();
    // Opening a FIFO without a writer blocks.
    let made = std::process::Command::new("mkfifo").arg(place.path("endless.jsonl")).status().unwrap();
    assert!(made.success());
    fs::create_dir(place.path("folder")).unwrap();
    symlink("../endless.jsonl", place.path("folder/a.jsonl")).unwrap();
    let job = ["--image-column", "path", "--image-is", "path", "--recipe", "recipe.sql"];
    for (source, signal, more) in [
        ("large.jsonl", "INT", &[][..]),
        ("endless.jsonl", "TERM", &[]),
        ("folder", "INT", &[]),
        ("endless.jsonl", "INT", &["--dry-run"]),
        ("large.jsonl", "TERM", &["--dry-run"]),
    ] {
        let child = spawned(&place, &[&["run", source, "pairs"][..], &job, more].concat());
        caught(&child, signal);
        let asked = Instant::now();
        send(signal, &child);
        let message = said(child, 1);
        assert!(asked.elapsed() < Duration::from_secs(8), "{source}: {:?}", asked.elapsed());
        let words = if more.is_empty() {
            "interrupted while its source was looked at; nothing was written"
        } else {
            "interrupted"
        };
        assert!(message.contains(&format!("error: {words}")), "{source}: {message}");
        assert!(!place.path("pairs").exists());
    }
}

/// The scan result of a text file is reused when the job resumes, unless the file was written to.
#[test]
fn a_job_that_goes_on_reads_its_text_once() {
    let place = place();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    let lines: String = (0..40).map(|n| format!("{n},cat.png,text {n}\n")).collect();
    fs::write(place.path("web.csv"), format!("id,path,text\n{lines}")).unwrap();
    let earlier = std::time::SystemTime::now() - Duration::from_secs(60);
    let file = fs::File::options().write(true).open(place.path("web.csv")).unwrap();
    file.set_modified(earlier).unwrap();
    let job = [
        "run",
        "web.csv",
        "pairs",
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--recipe",
        "recipe.sql",
        "--checkpoint-rows",
        "8",
    ];
    let killed = place.command(&job).env("CAPFILT_KILL_AT", "unit-done:2").output().unwrap();
    assert!(killed.status.code().is_none(), "{}", text(&killed.stderr));
    let manifest = fs::read_to_string(place.path("pairs/_capfilt/shard-1-of-1/manifest.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(json["memos"]["web.csv"]["columns"][0], serde_json::json!(["id", "Int64"]));
    place.ok(&job);
    assert_eq!(place.number("pairs", "SELECT count(DISTINCT id) FROM t"), 40);
    fs::write(place.path("web.csv"), format!("id,path,text\n{lines}")).unwrap();
    file.set_modified(earlier + Duration::from_secs(1)).unwrap();
    place.ok(&["update", "pairs"]);
    fs::write(place.path("web.csv"), format!("id,path,text\n{}", lines.replace("text 7", "text x"))).unwrap();
    let said = place.fails(1, &["update", "pairs"]);
    assert!(said.contains("has changed since the job began"), "{said}");
}
