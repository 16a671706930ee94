//! `capfilt retry` of a shard and on a Delta table, killed at the worst points.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use serde_json::{Value, json};

use super::delta::versions;
use super::{BOOKKEEPING, Place, root, text, verb};

const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      1.0 AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";

const CAT: &str = "tests/fixtures/images/emoji_cat_face_google.png";
const FOX: &str = "tests/fixtures/images/emoji_fox_twitter.png";

/// Options for a Delta table with parts of a single unit each.
const DELTA: [&str; 4] = ["--table-format", "delta", "--target-file-size", "1kB"];
const REPORT: [&str; 4] = ["report", "pairs", "-o", "report.html"];

/// A recipe without models, and a list of 40 rows.
fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    fs::create_dir(place.path("lists")).unwrap();
    fs::copy(root(CAT), place.path("cat.png")).unwrap();
    list(&place, "a", 0);
    place
}

/// 40 rows from number `first` on; every fourth has a picture that does not exist yet.
fn list(place: &Place, name: &str, first: u32) {
    let line = |id| format!("{id},{},text {id}\n", if id % 4 == 0 { "late.png" } else { "cat.png" });
    let lines: String = (first..first + 40).map(line).collect();
    fs::write(place.path(&format!("lists/{name}.csv")), format!("id,path,text\n{lines}")).unwrap();
}

fn mend(place: &Place) {
    fs::copy(root(FOX), place.path("late.png")).unwrap();
}

/// A job over a list. Of two shards, the first has 24 rows of which 6 fail, and the second has 16 of which 4 fail.
fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let job = [
        "run",
        "lists",
        "pairs",
        "--recipe",
        "recipe.sql",
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--image-root",
        ".",
    ];
    [&job[..], &["--checkpoint-rows", "8"], more].concat()
}

#[track_caller]
fn killed(place: &Place, args: &[&str], at: &str) {
    let output = place.command(args).env("CAPFILT_KILL_AT", at).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{at}: {}", text(&output.stderr));
}

/// Number of rows, and of failed rows among them.
#[track_caller]
fn counts(place: &Place, table: &str) -> (i64, i64) {
    let wrong = "SELECT count(*) FROM t WHERE kept <> (error IS NULL) OR kept <> (image_sha256 IS NOT NULL)";
    assert_eq!(place.number(table, wrong), 0);
    (place.number(table, "SELECT count(*) FROM t"), place.number(table, "SELECT count(*) FROM t WHERE NOT kept"))
}

/// Contents of the table's files with this prefix.
fn contents(place: &Place, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let names = place.parts("pairs").into_iter().filter(|name| name.starts_with(prefix));
    names.map(|name| (name.clone(), fs::read(place.path("pairs").join(name)).unwrap())).collect()
}

#[test]
fn a_shard_is_done_again_and_others_stay() {
    let place = place();
    // Half a megabyte that is not a picture, so that the old table has more parts than the new one.
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    fs::write(
        place.path("late.png"),
        [0, 0, 0, 0].into_iter().chain((0..500_000).map(|_| noise())).collect::<Vec<_>>(),
    )
    .unwrap();
    let run = |more: &[&'static str]| run(&[&["--write-images", "all", "--target-file-size", "400kB"], more].concat());
    for shard in ["1/2", "2/2"] {
        place.ok(&run(&["--shard", shard]));
    }
    let before = contents(&place, "part-");
    let other = contents(&place, "part-2of2-");
    assert_eq!((before.len(), other.len()), (5, 2));
    let failed = |shard: &str| {
        let query = format!("SELECT count(*) FROM t WHERE error LIKE 'not an image%' AND id / 8 % 2 = {shard}");
        place.number("pairs", &query)
    };
    assert_eq!((failed("0"), failed("1")), (6, 4));
    let said = place.fails(1, &run(&["--shard", "1/2"]));
    assert!(said.contains("`capfilt retry pairs`"), "{said}");

    mend(&place);
    let again = verb("retry", &run(&["--shard", "1/2"]));
    killed(&place, &again, "pairs:1");
    place.ok(&REPORT);
    assert!(before == contents(&place, "part-"), "nothing was done");
    killed(&place, &again, "unit-done:1");
    assert!(before == contents(&place, "part-"), "the old ones until the new ones are whole");
    // With the good pictures deleted, only the old parts have them.
    fs::remove_file(place.path("cat.png")).unwrap();
    let shard = run(&["--shard", "1/2"]);
    for args in [&shard, &verb("update", &shard)] {
        let said = place.fails(1, args);
        assert!(said.contains("a retry was stopped"), "{said}");
    }
    // Half a manifest; half a part; before a part is placed; before old parts are removed; before the end is recorded.
    for (at, parts) in [("manifest:1", 5), ("part:1", 5), ("place:1", 5), ("placed:1", 5), ("manifest:2", 3)] {
        killed(&place, &again, at);
        let said = place.fails(1, &REPORT);
        assert!(said.contains("shard 1 of 2 has not ended"), "{at}: {said}");
        assert_eq!(place.parts("pairs").len(), parts, "{at}");
        assert!(other == contents(&place, "part-2of2-"), "{at}");
    }
    place.ok(&again);
    assert!(other == contents(&place, "part-2of2-"), "what another shard has is not touched");
    assert_eq!(place.parts("pairs"), ["part-1of2-00000.parquet", "part-2of2-00000.parquet", "part-2of2-00001.parquet"]);
    let ids = super::ids(&place.rows("pairs/part-1of2-00000.parquet", "SELECT id FROM t"));
    assert_eq!(ids, (0..8).chain(16..24).chain(32..40).collect::<Vec<_>>());
    assert_eq!((failed("0"), failed("1")), (0, 4));
    assert_eq!(place.names(&format!("pairs/{BOOKKEEPING}/shard-1-of-2")), ["lock", "manifest.json"]);
    place.ok(&REPORT);

    place.ok(&verb("retry", &run(&["--shard", "2/2"])));
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t WHERE kept AND error IS NULL"), 40);
    assert_eq!(place.number("pairs", "SELECT count(DISTINCT id) FROM t"), 40);
    let [cat, fox] = [CAT, FOX].map(|picture| fs::metadata(root(picture)).unwrap().len());
    let right = format!(
        "SELECT count(*) FROM t WHERE octet_length(encode(image, 'hex')) / 2 = CASE WHEN id % 4 = 0 THEN {fox} ELSE {cat} END \
         AND image_sha256 = encode(sha256(image), 'hex')"
    );
    assert_eq!(place.number("pairs", &right), 40);
}

#[test]
fn a_retry_is_refused_where_it_cannot_be() {
    let place = place();
    let said = place.fails(1, &verb("retry", &run(&[])));
    assert!(said.contains("there is no pair table"), "{said}");
    assert!(!place.path("pairs").exists());
    for format in ["webdataset", "jsonl"] {
        let run = |more| run(&["--table-format", format, more]);
        place.ok(&run("--overwrite"));
        let said = place.fails(1, &["retry", "pairs"]);
        assert!(said.contains("Parquet files, and this one has none: `capfilt run`"), "{said}");
        let said = place.fails(1, &run("--max-failed=99%"));
        assert!(said.contains("is finished") && !said.contains("capfilt retry"), "{said}");
    }
    place.ok(&run(&["--overwrite", "--write-pairs", "kept"]));
    let said = place.fails(1, &["retry", "pairs"]);
    assert!(said.contains("--write-pairs kept"), "{said}");
    fs::remove_dir_all(place.path("pairs")).unwrap();

    place.ok(&run(&["--shard", "1/2"]));
    let said = place.fails(1, &verb("retry", &run(&["--shard", "2/2"])));
    assert!(said.contains("shard 2 of 2 of its table has not begun"), "{said}");
    let said = place.fails(1, &["retry", "pairs", "--shard", "1/3"]);
    assert!(said.contains("the table pairs was begun with --shard I/2"), "{said}");
    // A finished shard need not wait for the others.
    mend(&place);
    place.ok(&verb("retry", &run(&["--shard", "1/2"])));
    let said = place.fails(1, &REPORT);
    assert!(said.contains("only 1 of its 2 shards have begun"), "{said}");
    place.ok(&run(&["--shard", "2/2"]));
    assert_eq!(counts(&place, "pairs"), (40, 0));
}

#[test]
fn what_is_new_is_left_to_an_update() {
    let place = place();
    place.ok(&run(&[]));
    mend(&place);
    let again = verb("retry", &run(&[]));
    killed(&place, &again, "unit-done:1");
    list(&place, "b", 100);
    let said = place.fails(1, &verb("update", &run(&[])));
    assert!(said.contains("a retry was stopped"), "{said}");
    let output = place.run(&again);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("b.csv came since the job began"), "{said}");
    assert_eq!(counts(&place, "pairs"), (40, 0));
    place.ok(&verb("update", &run(&[])));
    assert_eq!(counts(&place, "pairs"), (80, 0));

    fs::remove_file(place.path("pairs/part-00000.parquet")).unwrap();
    let said = place.fails(1, &again);
    assert!(said.contains("part-00000.parquet") && said.contains("lost"), "{said}");
}

/// Actions of a version in the table's log.
fn actions(place: &Place, version: usize) -> Vec<Value> {
    let log = fs::read_to_string(place.path(&format!("pairs/_delta_log/{version:020}.json"))).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Files that a version adds or removes.
fn paths(place: &Place, version: usize, action: &str) -> BTreeSet<String> {
    let all = actions(place, version);
    all.iter().filter_map(|line| line[action]["path"].as_str()).map(str::to_owned).collect()
}

/// Current files of the table.
fn files(place: &Place) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for version in 0..versions(place, "pairs") {
        let removed = paths(place, version, "remove");
        files.retain(|file| !removed.contains(file));
        files.extend(paths(place, version, "add"));
    }
    files
}

/// Commits as another program would: copies of the files `of`, which replace them if `compacts`, and add rows
/// otherwise.
fn foreign(place: &Place, of: &BTreeSet<String>, compacts: bool) {
    let (folder, version) = (place.path("pairs"), versions(place, "pairs"));
    let mut log = String::new();
    for file in of {
        let name = format!("foreign-{version}-{file}");
        let size = fs::copy(folder.join(file), folder.join(&name)).unwrap();
        let add = json!({ "path": name, "partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": !compacts });
        log += &format!("{}\n", json!({ "add": add }));
        if compacts {
            let remove = json!({ "path": file, "deletionTimestamp": 0, "dataChange": false });
            log += &format!("{}\n", json!({ "remove": remove }));
        }
    }
    fs::write(folder.join(format!("_delta_log/{version:020}.json")), log).unwrap();
}

/// Appends the rows of one file (8 rows) again.
fn append(place: &Place) {
    foreign(place, &files(place).into_iter().take(1).collect(), false);
}

fn compact(place: &Place) {
    foreign(place, &files(place), true);
}

fn delta<'a>(more: &[&'a str]) -> Vec<&'a str> {
    run(&[&DELTA[..], more].concat())
}

#[test]
fn a_retry_is_a_version_of_a_delta_table() {
    let place = place();
    for shard in ["1/2", "2/2"] {
        place.ok(&delta(&["--shard", shard]));
    }
    append(&place);
    assert_eq!(counts(&place, "pairs"), (48, 12));
    let said = place.fails(1, &delta(&["--shard", "1/2"]));
    assert!(said.contains("`capfilt retry pairs`"), "{said}");

    mend(&place);
    let again = verb("retry", &delta(&["--shard", "1/2"]));
    killed(&place, &again, "unit-done:1");
    assert_eq!((versions(&place, "pairs"), counts(&place, "pairs")), (3, (48, 12)));
    append(&place);
    place.ok(&again);
    assert_eq!(versions(&place, "pairs"), 5);
    // Exactly the files of this shard.
    assert_eq!(paths(&place, 4, "remove"), paths(&place, 0, "add"));
    assert!(paths(&place, 4, "add").is_disjoint(&paths(&place, 0, "add")));
    let made = actions(&place, 4);
    let changes: Vec<&Value> = made.iter().flat_map(|line| [&line["add"], &line["remove"]]).collect();
    assert!(changes.iter().filter(|action| action.is_object()).all(|action| action["dataChange"] == true), "{made:?}");
    let transaction = |version| {
        let all = actions(&place, version);
        let found = all.iter().find(|line| line["txn"].is_object()).unwrap();
        (found["txn"]["appId"].as_str().unwrap().to_owned(), found["txn"]["version"].as_i64().unwrap())
    };
    let (first, second) = (transaction(0), transaction(4));
    assert_eq!((&first.0, first.1 + 1), (&second.0, second.1));
    // Rows that others added are unchanged, including their 4 failed ones, and so are 4 failed rows of the other shard.
    for (table, rows) in
        [("pairs@0", (24, 6)), ("pairs@1", (40, 10)), ("pairs@3", (56, 14)), ("pairs@4", (56, 8)), ("pairs", (56, 8))]
    {
        assert_eq!(counts(&place, table), rows, "{table}");
    }
    assert_eq!(place.number("pairs", "SELECT count(DISTINCT id) FROM t"), 40);

    place.ok(&verb("retry", &delta(&["--shard", "2/2"])));
    assert_eq!(paths(&place, 5, "remove"), paths(&place, 1, "add"));
    assert_eq!(counts(&place, "pairs"), (56, 4));
    list(&place, "b", 100);
    for shard in ["1/2", "2/2"] {
        place.ok(&verb("update", &delta(&["--shard", shard])));
    }
    assert_eq!((versions(&place, "pairs"), counts(&place, "pairs")), (8, (96, 4)));
    // A table that has grown is retried as a whole.
    fs::remove_file(place.path("cat.png")).unwrap();
    place.ok(&again);
    assert_eq!(counts(&place, "pairs"), (96, 4));
    assert_eq!(place.number("pairs", "SELECT count(DISTINCT id) FROM t"), 80);
}

/// A retry is committed exactly once, regardless of other programs' commits in between.
#[test]
fn a_retry_of_a_delta_table_survives_kills() {
    let place = place();
    place.ok(&delta(&[]));
    mend(&place);
    let again = verb("retry", &delta(&[]));
    for at in ["place:1", "place:2", "placed:1", "delta:1"] {
        killed(&place, &again, at);
        assert_eq!((versions(&place, "pairs"), counts(&place, "pairs")), (1, (40, 10)), "{at}");
    }
    append(&place);
    for at in ["manifest:1", "delta:1"] {
        killed(&place, &again, at);
        assert_eq!((versions(&place, "pairs"), counts(&place, "pairs")), (2, (48, 12)), "{at}");
    }
    killed(&place, &again, "delta-done:1");
    assert_eq!((versions(&place, "pairs"), counts(&place, "pairs")), (3, (48, 2)));
    assert!(place.fails(1, &REPORT).contains("its job has not ended"));
    // If another program has already compacted the retry's own files, they do not count as missing.
    compact(&place);
    for at in ["delta-done:1", "manifest:2"] {
        killed(&place, &again, at);
    }
    place.ok(&again);
    assert_eq!((versions(&place, "pairs"), counts(&place, "pairs")), (4, (48, 2)));
    assert_eq!(counts(&place, "pairs@1"), (48, 12));
    assert_eq!(place.number("pairs", "SELECT count(DISTINCT id) FROM t"), 40);
    assert_eq!(place.names(&format!("pairs/{BOOKKEEPING}/shard-1-of-1")), ["lock", "manifest.json"]);
    place.ok(&REPORT);
}

/// Compaction before a retry, while it is stopped, or between its last row and its commit.
#[test]
fn files_that_were_compacted_are_not_replaced() {
    for at in [None, Some("unit-done:1"), Some("part-saved:5"), Some("delta:1")] {
        let place = place();
        place.ok(&delta(&[]));
        mend(&place);
        let again = verb("retry", &delta(&[]));
        if let Some(at) = at {
            killed(&place, &again, at);
        }
        compact(&place);
        let said = place.fails(1, &again);
        assert!(said.contains("no longer has the job's file delta-") && said.contains("--overwrite"), "{at:?}: {said}");
        let as_it_was = said.contains("the table that was there is as it was");
        assert_eq!(as_it_was, at == Some("delta:1"), "{said}");
        assert_eq!((versions(&place, "pairs"), counts(&place, "pairs")), (2, (40, 10)), "{at:?}");
        // The table counts as finished again.
        place.ok(&REPORT);
        let said = place.fails(1, &delta(&[]));
        assert!(said.contains("is finished"), "{at:?}: {said}");
        assert_eq!(place.names(&format!("pairs/{BOOKKEEPING}/shard-1-of-1")), ["lock", "manifest.json"], "{at:?}");
        list(&place, "b", 100);
        place.ok(&verb("update", &delta(&[])));
        assert_eq!(counts(&place, "pairs"), (80, 10));
        place.ok(&delta(&["--overwrite"]));
        assert_eq!(counts(&place, "pairs"), (80, 0));
    }
}
