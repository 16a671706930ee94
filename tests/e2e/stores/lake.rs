//! Delta tables in a store.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::*;

const DELTA: [&str; 2] = ["--table-format", "delta"];
/// Columns of the source, itself a pair table, that clash with those of the new one.
const RENAMES: [&str; 6] = ["source", "image_sha256", "itm_score", "kept", "error", "provenance"];
const SQL: &str = "SELECT id, text, itm_score, kept, encode(sha256(image), 'hex') AS image FROM t ORDER BY id, text";

/// Files of a local table that are already in the bucket.
#[derive(Default)]
struct Copied(HashSet<String>);

impl Copied {
    /// Uploads the files that are not in the bucket yet.
    fn put(&mut self, place: &Place, stores: &mut Stores, folder: &str) {
        for name in place.names(folder) {
            let name = format!("{folder}/{name}");
            if place.path(&name).is_dir() {
                self.put(place, stores, &name);
            } else if self.0.insert(name.clone()) {
                stores.put(place, &name, &name);
            }
        }
    }
}

/// The first version: 40 rows.
fn first(place: &Place) {
    fs::create_dir(place.path("web")).unwrap();
    fs::copy(place.path("slice.parquet"), place.path("web/a.parquet")).unwrap();
    ok(job(place, "", &[&["web", "lake"][..], &DELTA].concat()));
}

/// The second: 80 rows.
fn second(place: &Place) {
    let copy = "COPY (SELECT * REPLACE (id + 10000 AS id) FROM 'slice.parquet') TO 'web/b.parquet'";
    place.ok(&["sql", "-c", copy]);
    ok(command(place, "", &["update", "lake"]));
}

/// A job over the table.
fn of(place: &Place, endpoint: &str, source: &str, dest: &str, more: &[&str]) -> Command {
    let renames: Vec<String> = RENAMES.iter().map(|name| format!("{name}={name}_before")).collect();
    let renames: Vec<&str> = renames.iter().flat_map(|rename| ["--rename", rename.as_str()]).collect();
    job(place, endpoint, &[&[source, dest][..], more, &renames].concat())
}

fn sql(place: &Place, endpoint: &str, table: &str, query: &str) -> Command {
    let table = format!("t={table}");
    let order = "datafusion.execution.target_partitions=1";
    command(place, endpoint, &["sql", "--table", &table, "--set", order, "--format", "json", "-c", query])
}

#[track_caller]
fn rows(mut command: Command) -> Vec<Value> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}:\n{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_delta_table_in_a_store_is_as_one_on_a_disk() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    let mut copied = Copied::default();
    first(&place);
    copied.put(&place, &mut stores, "lake");
    // The store's times have a resolution of one second.
    sleep(Duration::from_millis(1200));
    let now = rows(sql(&place, "", "slice.parquet", "SELECT CAST(now() AS VARCHAR) AS now FROM t LIMIT 1"));
    let now = now[0]["now"].as_str().unwrap().to_owned();
    sleep(Duration::from_millis(1200));
    second(&place);
    fs::write(place.path("recipe.sql"), RECIPE.replace("1.0 AS itm_score", "0.5 AS itm_score")).unwrap();
    ok(job(&place, "", &[&["web", "lake", "--overwrite"][..], &DELTA].concat()));
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    // The fourth version: six rows of the third's file are deleted.
    super::super::delta::delete_six_rows(&place, "lake", 2);
    copied.put(&place, &mut stores, "lake");

    for (version, count) in [("0", 40), ("1", 80), ("2", 80), ("3", 74)] {
        let [disk, store] = ["disk", "store"].map(|folder| format!("{folder}-{version}"));
        ok(of(&place, "", &format!("lake@{version}"), &disk, &[]));
        let url = if version == "1" { "s3://data/lake/" } else { "s3://data/lake" };
        let said = ok(of(&place, &stores.flaky, &format!("{url}@{version}"), &store, &[]));
        assert!(said.contains(&format!("read       {count} rows")), "{said}");
        assert!(place.rows(&store, ROWS) == place.rows(&disk, ROWS), "{version}");
        let found = rows(sql(&place, &stores.flaky, &format!("s3://data/lake@{version}"), SQL));
        assert_eq!(found.len(), count, "{version}");
        assert!(found == place.rows(&format!("lake@{version}"), SQL), "{version}");
    }
    stores.were_flaky();
    // The default is the latest version; a time selects an earlier one.
    ok(of(&place, &stores.well, "s3://data/lake", "latest", &[]));
    assert!(place.rows("latest", ROWS) == place.rows("disk-3", ROWS));
    ok(of(&place, &stores.well, &format!("s3://data/lake@{now}"), "then", &[]));
    assert!(place.rows("then", ROWS) == place.rows("disk-0", ROWS));
    let count = |table: &str| rows(sql(&place, &stores.well, table, "SELECT count(*) AS n FROM t"))[0]["n"].clone();
    assert_eq!((count("s3://data/lake"), count(&format!("s3://data/lake@{now}"))), (json!(74), json!(40)));

    for (version, words) in
        [("9", "the latest is 3"), ("1999-01-01", "oldest"), ("soon", "neither a version nor a time")]
    {
        if version != "soon" {
            let said = fails(of(&place, &stores.well, &format!("s3://data/lake@{version}"), "none", &[]));
            assert!(said.contains(words) && said.contains("s3://data/lake"), "{said}");
        }
        let said = fails(sql(&place, &stores.well, &format!("s3://data/lake@{version}"), "SELECT 1"));
        assert!(said.contains(words) && said.contains("s3://data/lake"), "{said}");
    }
    stores.put(&place, "slice.parquet", "plain/a.parquet");
    let said = fails(job(&place, &stores.well, &["s3://data/plain@1", "none"]));
    assert!(said.contains("it is not a Delta table"), "{said}");
    let plain = rows(sql(&place, &stores.well, "s3://data/plain/a.parquet", "SELECT count(*) AS n FROM t"));
    assert_eq!(plain[0]["n"], json!(40));
    for table in ["s3://data/plain@1", "s3://data/nothing"] {
        let said = fails(sql(&place, &stores.well, table, "SELECT 1"));
        assert!(said.contains(&format!("{table}: there is no such object")), "{said}");
    }
    let said = fails(sql(&place, &stores.well, "s3://nobody/lake@1", "SELECT 1"));
    assert!(said.contains("there is no such bucket"), "{said}");
    let said = fails(job(&place, &stores.well, &[&["web", "s3://data/lake"][..], &DELTA].concat()));
    assert!(said.contains("a table is written to a disk"), "{said}");

    // Delete a file of the first version, as a VACUUM would.
    let old = super::super::delta::added(&place, "lake", 0)[0]["path"].as_str().unwrap().to_owned();
    stores.ask(&["delete", "data", &format!("lake/{old}")]);
    let said = fails(of(&place, &stores.well, "s3://data/lake@0", "none", &[]));
    assert!(said.contains(&format!("version 0 has the file {old}, which is gone")), "{said}");
    ok(of(&place, &stores.well, "s3://data/lake@2", "still", &[]));
    assert!(!place.path("none").exists(), "a job that wrote nothing leaves nothing");
}

#[test]
fn a_killed_job_keeps_to_its_version_in_a_store() {
    let Some(mut stores) = Stores::start() else { return };
    let place = place();
    let mut copied = Copied::default();
    first(&place);
    copied.put(&place, &mut stores, "lake");
    let units = ["--checkpoint-rows", "4"];
    for kill in ["unit:3", "unit-done:2"] {
        let mut killed = of(&place, &stores.flaky, "s3://data/lake", "pairs", &units);
        let output = killed.env("CAPFILT_KILL_AT", kill).output().unwrap();
        assert!(!output.status.success(), "{kill}: {}", text(&output.stderr));
    }
    second(&place);
    copied.put(&place, &mut stores, "lake");
    let said = ok(of(&place, &stores.flaky, "s3://data/lake", "pairs", &units));
    assert!(said.contains("going on after"), "{said}");
    let version = || {
        let manifest = place.path("pairs").join(BOOKKEEPING).join("shard-1-of-1/manifest.json");
        let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
        assert_eq!(manifest["source"], json!("s3://data/lake"));
        manifest["source_version"].clone()
    };
    assert_eq!((version(), place.number("pairs", "SELECT count(*) FROM t")), (json!(0), 40));
    ok(of(&place, "", "lake@0", "disk", &["--checkpoint-rows", "4"]));
    assert!(place.rows("pairs", ROWS) == place.rows("disk", ROWS));

    // An update adds the new rows.
    ok(command(&place, &stores.flaky, &["update", "pairs"]));
    assert_eq!((version(), place.number("pairs", "SELECT count(*) FROM t")), (json!(1), 80));
    ok(command(&place, "", &["update", "disk"]));
    assert!(place.rows("pairs", ROWS) == place.rows("disk", ROWS));
}
