//! Delta tables as a source at a version, and as a destination that survives kills.

use std::fs;

use serde_json::{Value, json};

use super::{BOOKKEEPING, Place, text};

const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      id % 100 / 100.0 AS itm_score, id % 2 = 0 AS kept, image_error(image) AS error, image FROM web";

fn place() -> Place {
    let place = Place::new();
    place.slice();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    fs::create_dir(place.path("web")).unwrap();
    fs::copy(place.path("slice.parquet"), place.path("web/a.parquet")).unwrap();
    place
}

fn add(place: &Place, name: &str, offset: u32) {
    let copy = format!("COPY (SELECT * REPLACE (id + {offset} AS id) FROM 'slice.parquet') TO 'web/{name}.parquet'");
    place.ok(&["sql", "-c", &copy]);
}

fn run<'a>(source: &'a str, dest: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", source, dest, "--recipe", "recipe.sql", "--checkpoint-rows", "16"][..], more].concat()
}

const DELTA: [&str; 2] = ["--table-format", "delta"];

pub(super) fn versions(place: &Place, table: &str) -> usize {
    place.names(&format!("{table}/_delta_log")).iter().filter(|name| name.ends_with(".json")).count()
}

/// The add actions of a version.
pub(super) fn added(place: &Place, table: &str, version: u64) -> Vec<Value> {
    let lines = fs::read_to_string(place.path(&log(table, version))).unwrap();
    let actions = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["add"].clone());
    actions.filter(|add| !add.is_null()).collect()
}

fn log(table: &str, version: u64) -> String {
    format!("{table}/_delta_log/{version:020}.json")
}

/// Commits a version after `version` that deletes rows 3, 4, 7, 11, 18 and 29 of its only file, by a deletion vector
/// from the Delta protocol's examples.
pub(super) fn delete_six_rows(place: &Place, table: &str, version: u64) {
    let [mut add] = <[Value; 1]>::try_from(added(place, table, version)).unwrap();
    add["deletionVector"] = json!({"storageType": "i", "sizeInBytes": 44, "cardinality": 6,
        "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"});
    let protocol = json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"], "writerFeatures": ["appendOnly", "deletionVectors", "invariants"]}});
    let remove = json!({"remove": {"path": add["path"], "deletionTimestamp": 0, "dataChange": true}});
    let lines = [protocol, remove, json!({ "add": add })].map(|line| format!("{line}\n"));
    fs::write(place.path(&log(table, version + 1)), lines.concat()).unwrap();
}

#[test]
#[cfg(unix)]
fn a_selection_over_deleted_rows_survives_a_kill() {
    use std::os::unix::process::ExitStatusExt as _;

    let place = place();
    place.ok(&run("web", "pairs", &DELTA));
    delete_six_rows(&place, "pairs", 0);
    let select = |dest| ["select", "pairs", dest, "--min-itm", "0.5"];
    place.ok(&select("whole"));
    assert_eq!(place.number("whole", "SELECT count(*) FROM t"), 34);
    // The interrupted unit has deleted rows, but not at its end.
    for at in ["unit-done:1", "unit-done:1", "pairs:1"] {
        let output = place.command(&select("selected")).env("CAPFILT_KILL_AT", at).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{at}: {}", text(&output.stderr));
    }
    place.ok(&select("selected"));
    super::kills::same_table(&place, "whole", "selected");
}

/// A first version after a lost log would have the new rows alone.
#[test]
fn a_table_that_lost_its_log_is_not_updated() {
    let place = place();
    place.ok(&run("web", "pairs", &DELTA));
    add(&place, "b", 10_000);
    let (first, elsewhere) = (place.path(&log("pairs", 0)), place.path("0.json"));
    fs::rename(&first, &elsewhere).unwrap();
    let lost = "pairs: its log in _delta_log lacks a commit of this job";
    let said = place.fails(1, &["update", "pairs"]);
    assert!(said.contains(lost), "{said}");
    fs::rename(&elsewhere, &first).unwrap();
    place.ok(&["update", "pairs"]);
    assert_eq!((versions(&place, "pairs"), place.number("pairs", "SELECT count(*) FROM t")), (2, 80));

    // The newest version alone is lost, and there are no new rows or some.
    fs::remove_file(place.path(&log("pairs", 1))).unwrap();
    for name in ["", "c"] {
        if !name.is_empty() {
            add(&place, name, 20_000);
        }
        let said = place.fails(1, &["update", "pairs"]);
        assert!(said.contains(lost), "{said}");
    }
    place.ok(&run("web", "pairs", &[&DELTA[..], &["--overwrite"]].concat()));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 120);
}

#[test]
fn each_run_is_a_version() {
    let place = place();
    place.ok(&run("web", "pairs", &DELTA));
    assert_eq!((versions(&place, "pairs"), place.number("pairs", "SELECT count(*) FROM t")), (1, 40));
    let said = place.fails(1, &run("web", "pairs", &DELTA));
    assert!(said.contains("finished"), "{said}");
    add(&place, "b", 10_000);
    place.ok(&["update", "pairs"]);
    assert_eq!((versions(&place, "pairs"), place.number("pairs", "SELECT count(*) FROM t")), (2, 80));
    fs::write(place.path("recipe.sql"), RECIPE.replace("id % 2 = 0", "id % 2 = 1")).unwrap();
    place.ok(&run("web", "pairs", &[&DELTA[..], &["--overwrite"]].concat()));
    assert_eq!((versions(&place, "pairs"), place.number("pairs", "SELECT count(*) FROM t")), (3, 80));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE kept = (id % 2 = 1)"), 80);

    // Old versions remain readable as a source. Selection and report use the latest version.
    for (version, rows, even) in
        [("0", 40, true), ("1", 80, true), ("2", 80, false), ("2200-01-01 00:00:00", 80, false)]
    {
        let dest = format!("of-{}", version.len());
        let again = ["--rename", "source=was", "--overwrite"];
        let names = ["image_sha256", "itm_score", "kept", "error", "provenance"];
        let renames: Vec<String> = names.iter().map(|name| format!("{name}={name}_before")).collect();
        let renames: Vec<&str> = renames.iter().flat_map(|rename| ["--rename", rename.as_str()]).collect();
        let sql = RECIPE.replace("id % 2 = 0", "kept_before");
        fs::write(place.path("recipe.sql"), sql).unwrap();
        place.ok(&run(&format!("pairs@{version}"), &dest, &[&again[..], &renames].concat()));
        let wanted = if even { "id % 2 = 0" } else { "id % 2 = 1" };
        let found = place.number(&dest, &format!("SELECT count(*) FROM t WHERE kept = ({wanted})"));
        assert_eq!(found, i64::from(rows), "{version}");
    }
    place.ok(&["select", "pairs", "some", "--min-itm", "0.5"]);
    assert_eq!(place.number("some", "SELECT count(*) FROM t"), 80);
    // A selection is a folder of Parquet files, which a Delta table's log would not name.
    let said = place.fails(1, &["select", "some", "pairs", "--min-itm", "0.5", "--overwrite"]);
    assert!(said.contains("it is a Delta table"), "{said}");
    place.ok(&["report", "pairs", "-o", "report.html"]);
    for (version, words) in
        [("9", "the latest is 2"), ("1999-01-01", "oldest"), ("soon", "neither a version nor a time")]
    {
        let said = place.fails(1, &run(&format!("pairs@{version}"), "none", &[]));
        assert!(said.contains(words), "{said}");
    }
    // Queried by name, it is the same table, rather than all files of all versions.
    for (name, rows) in [("pairs", 80), ("pairs/", 80), ("pairs@0", 40), ("pairs@1", 80)] {
        let count = place.ok(&["sql", "--format", "csv", "-c", &format!("SELECT count(*) AS n FROM '{name}'")]);
        assert_eq!(count, format!("n\n{rows}\n"), "{name}");
    }
    assert_eq!(place.number("pairs@0", "SELECT count(*) FROM t"), 40);
    assert_eq!(place.number("pairs@2200-01-01", "SELECT count(*) FROM t"), 80);
    let said = place.fails(1, &["sql", "--table", "t=pairs@7", "-c", "SELECT 1"]);
    assert!(said.contains("version") && said.contains("7"), "{said}");
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    let said = place.fails(1, &run("web@1", "none", &[]));
    assert!(said.contains("not a Delta table"), "{said}");
    let said = place.fails(1, &run("web", "pairs", &["--overwrite"]));
    assert!(said.contains("it is a Delta table: give --table-format delta"), "{said}");
}

#[test]
fn shards_commit_each_their_own() {
    let place = place();
    add(&place, "b", 10_000);
    let shard = |i: &'static str| [&DELTA[..], &["--shard", i]].concat();
    place.ok(&run("web", "pairs", &shard("1/2")));
    let said = place.fails(1, &run("pairs", "none", &[]));
    assert!(said.contains("unfinished"), "{said}");
    place.ok(&run("web", "pairs", &shard("2/2")));
    assert_eq!((versions(&place, "pairs"), place.number("pairs", "SELECT count(DISTINCT id) FROM t")), (2, 80));
}

/// A commit that is killed is neither lost nor made twice (idempotence).
#[cfg(unix)]
#[test]
fn a_commit_survives_kills() {
    use std::os::unix::process::ExitStatusExt as _;

    let place = place();
    let runs = [
        (run("web", "pairs", &DELTA), 1, 40),
        (vec!["update", "pairs"], 2, 80),
        (run("web", "pairs", &[&DELTA[..], &["--overwrite"]].concat()), 3, 80),
    ];
    for (args, version, rows) in runs {
        match version {
            2 => add(&place, "b", 10_000),
            3 => fs::write(place.path("recipe.sql"), RECIPE.replace("/ 100.0", "/ 200.0")).unwrap(),
            _ => {}
        }
        for at in ["place:1", "delta:1", "manifest:1", "delta-done:1", "delta-done:1"] {
            let output = place.command(&args).env("CAPFILT_KILL_AT", at).output().unwrap();
            // Not every run passes all points.
            let killed = output.status.signal() == Some(9);
            assert!(killed || at.starts_with("place"), "{at}: {}", super::text(&output.stderr));
        }
        place.ok(&args);
        assert_eq!(versions(&place, "pairs"), version, "{args:?}");
        assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), rows);
        assert_eq!(place.number("pairs", "SELECT count(DISTINCT id) FROM t"), rows);
    }
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE itm_score > 0.5"), 0);
    assert_eq!(place.names(&format!("pairs/{BOOKKEEPING}/shard-1-of-1")), ["lock", "manifest.json"]);
}

#[test]
fn what_delta_lacks_is_named_before_the_work() {
    let place = place();
    fs::write(place.path("recipe.sql"), RECIPE.replace("SELECT *", "SELECT arrow_cast(id, 'UInt64') AS number, *"))
        .unwrap();
    let said = place.fails(1, &run("web", "pairs", &DELTA));
    assert!(said.contains("column number is UInt64, which Delta tables do not have"), "{said}");
    assert!(!place.path("pairs").exists());
}

/// A commit that was made but not recorded in the manifest is found in the log when new rows are added.
#[cfg(unix)]
#[test]
fn rows_that_come_after_a_killed_commit_are_committed() {
    use std::os::unix::process::ExitStatusExt as _;

    for at in ["delta:1", "delta-done:1"] {
        let place = place();
        let args = run("web", "pairs", &DELTA);
        let output = place.command(&args).env("CAPFILT_KILL_AT", at).output().unwrap();
        assert_eq!(output.status.signal(), Some(9));
        add(&place, "b", 10_000);
        assert!(place.fails(1, &args).contains("capfilt update"));
        place.ok(&["update", "pairs"]);
        let counts = "SELECT count(*) * 1000 + count(DISTINCT id) FROM t";
        assert_eq!(place.number("pairs", counts), 80_080, "{at}");
    }
}

/// --overwrite replaces the existing table, regardless of who wrote it.
#[test]
fn a_table_of_others_is_replaced_not_added_to() {
    let place = place();
    place.ok(&run("web", "pairs", &DELTA));
    fs::remove_dir_all(place.path("pairs").join(BOOKKEEPING)).unwrap();
    let said = place.fails(1, &run("web", "pairs", &DELTA));
    assert!(said.contains("give --overwrite"), "{said}");
    place.ok(&run("web", "pairs", &[&DELTA[..], &["--overwrite"]].concat()));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 40);
    // Other columns are refused before any work is done.
    fs::write(place.path("recipe.sql"), RECIPE.replace("SELECT *", "SELECT id + 1 AS more, *")).unwrap();
    let said = place.fails(1, &run("web", "pairs", &[&DELTA[..], &["--overwrite", "--dry-run"]].concat()));
    assert!(said.contains("no column more"), "{said}");
}
