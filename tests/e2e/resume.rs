//! Jobs that resume: after a stop, with additions to the source, in shards.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{BOOKKEEPING, Place, root, text};

const UNITS: [&str; 2] = ["--checkpoint-rows", "7"];

/// A source of two files, `web/a.parquet` and `web/c.parquet`.
fn source(place: &Place) {
    place.slice();
    let copies = "COPY (SELECT * FROM 'slice.parquet' WHERE id % 3 = 0) TO 'web/a.parquet'; \
                  COPY (SELECT * FROM 'slice.parquet' WHERE id % 3 = 1) TO 'web/c.parquet'; \
                  COPY (SELECT * FROM 'slice.parquet' WHERE id % 3 = 2) TO 'later/b.parquet'";
    place.ok(&["sql", "-c", copies]);
}

#[test]
fn another_job_is_refused_with_the_difference() {
    let place = Place::new();
    source(&place);
    place.job_ok(&["web", "pairs"]);
    let finished = place.job_fails(&["web", "pairs"]);
    assert!(finished.contains("finished: `capfilt update pairs`"), "{finished}");
    for (args, difference) in [
        (&["--min-itm", "0.7"][..], "$min_itm was 0.5 and is 0.7"),
        (&["--candidates", "2"][..], "the recipe's line 1 was "),
        (&["--set", "capfilt.seed=7"], "capfilt.seed was 0 and is 7"),
        (&["--set", "capfilt.precision=int8"], "capfilt.precision was fp32 and is int8"),
        (&["--write-images", "none"], "--write-images was kept and is none"),
        (&["--checkpoint-rows", "3"], "--checkpoint-rows was 2048 and is 3"),
        (&["--shard", "1/2"], "the number of shards was 1 and is 2"),
        (&["--round", "2"], "round was 1 and is 2"),
    ] {
        let message = place.job_fails(&[&["web", "pairs"], args].concat());
        assert!(message.contains(difference), "{args:?}: {message}");
    }
    // Settings that only affect speed are not a difference.
    let said = place.run(&["update", "pairs", "--set", "capfilt.threads=1", "--device", "cpu"]);
    assert!(said.status.success());
    let said = text(&said.stderr);
    assert!(said.contains("going on after"), "{said}");
    let [captioner, filter] = ["examples/models/captioner", "tests/fixtures/models/matcher"].map(super::root);
    let message = place.fails(1, &["update", "pairs", "--filter", &filter, "--captioner", &captioner]);
    assert!(message.contains("captioner was ") && message.contains(" and is "), "{message}");
}

#[test]
fn what_is_new_in_the_source_is_added() {
    let place = Place::new();
    source(&place);
    place.job_ok(&[&["web", "pairs"][..], &UNITS].concat());
    let before = fs::read(place.path("pairs/part-00000.parquet")).unwrap();
    let rows = place.number("pairs", "SELECT count(*) FROM t");

    let same = text(&place.run(&["update", "pairs"]).stderr);
    assert!(same.contains("no new rows"), "{same}");

    fs::copy(place.path("later/b.parquet"), place.path("web/b.parquet")).unwrap();
    place.ok(&["update", "pairs"]);
    assert!(before == fs::read(place.path("pairs/part-00000.parquet")).unwrap(), "what was there is not touched");
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 80);
    assert_eq!(
        place.number("pairs", "SELECT count(DISTINCT id) FROM t"),
        place.number("slice.parquet", "SELECT count(DISTINCT id) FROM t")
    );
    assert!(rows < 80);
    assert_eq!(place.parts("pairs").len(), 2);

    // A source whose earlier part has changed is another source.
    fs::copy(place.path("slice.parquet"), place.path("web/a.parquet")).unwrap();
    let message = place.fails(1, &["update", "pairs"]);
    assert!(message.contains("a.parquet") && message.contains("it has changed"), "{message}");
    fs::remove_file(place.path("web/a.parquet")).unwrap();
    let message = place.fails(1, &["update", "pairs"]);
    assert!(message.contains("a.parquet") && message.contains("is gone"), "{message}");
}

#[test]
fn shards_share_a_table() {
    let place = Place::new();
    source(&place);
    place.job_ok(&["web", "whole"]);
    for shard in ["2/3", "3/3"] {
        place.job_ok(&[&["web", "pairs", "--shard", shard][..], &UNITS].concat());
    }
    let message = place.job_fails(&["pairs", "next"]);
    assert!(message.contains("only 2 of its 3 shards have begun"), "{message}");
    let message = place.job_fails(&[&["web", "pairs", "--shard", "1/3", "--min-itm", "0.9"][..], &UNITS].concat());
    assert!(message.contains("$min_itm was 0.5 and is 0.9"), "{message}");
    place.job_ok(&[&["web", "pairs", "--shard", "1/3"][..], &UNITS].concat());
    assert_eq!(place.parts("pairs"), ["part-1of3-00000.parquet", "part-2of3-00000.parquet", "part-3of3-00000.parquet"]);
    let query = "SELECT id, source, text, kept, round(itm_score, 4) AS score FROM t ORDER BY id, provenance['file'], provenance['row'], source";
    assert_eq!(place.rows("pairs", query), place.rows("whole", query));
    let wrong = place.fails(2, &["run", "web", "pairs", "--shard", "4/3"]);
    assert!(wrong.contains("expected I/N"), "{wrong}");
}

#[test]
fn shards_of_two_sources_are_no_table() {
    let place = Place::new();
    source(&place);
    place.job_ok(&[&["web", "pairs", "--shard", "1/2"][..], &UNITS].concat());
    fs::copy(place.path("later/b.parquet"), place.path("web/b.parquet")).unwrap();
    place.job_ok(&[&["web", "pairs", "--shard", "2/2"][..], &UNITS].concat());
    let message = place.job_fails(&["pairs", "next"]);
    assert!(message.contains("two sources") && message.contains("was updated or retried"), "{message}");
    place.ok(&["update", "pairs", "--shard", "1/2"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 80);
    assert_eq!(
        place.number("pairs", "SELECT count(DISTINCT concat(provenance['file'], ' ', provenance['row'])) FROM t"),
        40
    );
    place.ok(&["report", "pairs", "-o", "report.html"]);

    // A single-process job replaces all shards.
    place.job_ok(&["web", "pairs", "--overwrite"]);
    assert_eq!(place.parts("pairs"), ["part-00000.parquet"]);
    place.ok(&["report", "pairs", "-o", "report.html"]);
}

/// A new file that sorts first, and that came after one shard was updated, does not renumber files in other shards.
#[test]
fn files_have_one_number_in_all_shards() {
    let place = Place::new();
    source(&place);
    let shard = |args: &[&str]| place.job_ok(&[&["web", "pairs"][..], args, &UNITS].concat());
    shard(&["--shard", "1/2"]);
    shard(&["--shard", "2/2"]);
    fs::copy(place.path("later/b.parquet"), place.path("web/z.parquet")).unwrap();
    place.ok(&["update", "pairs", "--shard", "1/2"]);
    place.ok(&["sql", "-c", "COPY (SELECT * FROM 'later/b.parquet' ORDER BY id DESC) TO 'web/d.parquet'"]);
    place.ok(&["update", "pairs", "--shard", "2/2"]);
    assert!(place.job_fails(&["pairs", "next"]).contains("two sources"), "the first does not know of d");
    place.ok(&["update", "pairs", "--shard", "1/2"]);
    let rows: i64 = ["a", "c", "d", "z"]
        .iter()
        .map(|name| place.number(&format!("web/{name}.parquet"), "SELECT count(*) FROM t"))
        .sum();
    let distinct =
        "SELECT count(DISTINCT concat(provenance['file'], ' ', provenance['row'])) FROM t WHERE source = 'web'";
    assert_eq!(place.number("pairs", distinct), rows, "nothing is lost");
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 2 * rows, "nothing is doubled");
}

/// An unreadable file stops the job, which resumes once the file is repaired.
#[test]
fn a_file_that_stopped_a_job_can_be_mended() {
    let place = Place::new();
    source(&place);
    let good = fs::read(place.path("web/c.parquet")).unwrap();
    let damaged = |name: &str| {
        let mut bytes = good.clone();
        bytes[4..400].fill(0xff);
        fs::write(place.path(name), bytes).unwrap();
    };
    damaged("web/c.parquet");
    damaged("web/d.parquet");
    let job = [&["web", "pairs"][..], &UNITS].concat();
    let within = |most| [&job[..], &["--max-failed", most]].concat();
    // Of the good files four rows in seven fail at most, of a damaged one all.
    let said = place.job_fails(&within("5"));
    assert!(said.contains("c.parquet: damaged from row 0 on") && said.contains("the same command goes on"), "{said}");
    place.ok(&["sql", "-c", "COPY (SELECT * FROM 'later/b.parquet' ORDER BY id DESC) TO 'web/c.parquet'"]);
    let said = place.job_fails(&within("12"));
    assert!(said.contains("c.parquet: it has changed, and is read as it is now"), "{said}");
    assert!(said.contains("d.parquet"), "{said}");
    // A missing file may be a mistake.
    fs::remove_file(place.path("web/d.parquet")).unwrap();
    assert!(place.job_fails(&job).contains("is gone: put it back"));
    place.ok(&["sql", "-c", "COPY (SELECT * FROM 'later/b.parquet' LIMIT 1) TO 'web/d.parquet'"]);
    place.job_ok(&job);
    let rows = |file: &str| place.number(file, "SELECT count(*) FROM t");
    assert_eq!(rows("pairs"), 2 * (rows("web/a.parquet") + rows("web/c.parquet") + 1));
    // A file whose rows were already read must be unchanged.
    place.job_ok(&[&["web", "more"][..], &UNITS].concat());
    fs::copy(place.path("later/b.parquet"), place.path("web/d.parquet")).unwrap();
    let said = place.fails(1, &["update", "more"]);
    assert!(said.contains("d.parquet") && said.contains("has changed since the job began"), "{said}");
}

#[test]
fn a_unit_that_broke_is_done_anew() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "whole"]);
    let args = place.job(&[slice, "pairs", "--checkpoint-rows", "7"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = place.command(&args).env("CAPFILT_KILL_AT", "unit:4").output().unwrap();
    assert!(!output.status.success());
    let folder = place.path("pairs").join(BOOKKEEPING).join("shard-1-of-1");
    fs::write(folder.join("unit-00000000-000000000007.parquet"), "PAR1 no").unwrap();
    let said = place.job_ok(&[slice, "pairs", "--checkpoint-rows", "7"]);
    assert!(said.contains("done anew") && said.contains("going on after 7 of 40 rows"), "{said}");
    let query = "SELECT id, source, text, kept, round(itm_score, 4) AS score FROM t";
    assert_eq!(place.rows("pairs", query), place.rows("whole", query));
}

#[test]
fn a_budget_stops_a_job_that_goes_wrong() {
    let place = Place::new();
    let slice = place.slice();
    let message = place.job_fails(&[
        slice,
        "pairs",
        "--max-failed",
        "3",
        "--checkpoint-rows",
        "4",
        "--set",
        "datafusion.execution.batch_size=1",
    ]);
    assert!(message.contains("4 of ") && message.contains("--max-failed allows 3"), "{message}");
    assert!(message.contains("no image") || message.contains("truncated"), "the reasons are named: {message}");
    // With a larger budget the job resumes, and ends within it.
    let said = place.job_ok(&[slice, "pairs", "--max-failed", "30%", "--checkpoint-rows", "4"]);
    assert!(said.contains("unusable   12 rows"), "{said}");
    let message = place.job_fails(&[slice, "share", "--max-failed", "29%"]);
    assert!(message.contains("12 of 40 rows cannot be used, and --max-failed allows 29 %"), "{message}");
    assert!(place.fails(2, &["run", slice, "x", "--max-failed", "some"]).contains("100 or 1%"));
}

#[test]
fn folders_and_globs_are_sources() {
    let place = Place::new();
    place.slice();
    let copies = "COPY (SELECT * FROM 'slice.parquet' WHERE id % 2 = 0) TO 'web/day=1/lang=d%2Fe/a.parquet'; \
                  COPY (SELECT * FROM 'slice.parquet' WHERE id % 2 = 1) TO 'web/day=2/lang=__HIVE_DEFAULT_PARTITION__/a.parquet'";
    place.ok(&["sql", "-c", copies]);
    let said = place.job_ok(&["web", "pairs"]);
    assert!(said.contains("read       40 rows in 2 files"), "{said}");
    let wrong =
        "SELECT count(*) FROM t WHERE (day = '1') <> (id % 2 = 0) OR (lang IS NULL) <> (id % 2 = 1) OR lang <> 'd/e'";
    assert_eq!(place.number("pairs", wrong), 0);
    let said = place.job_ok(&["web/day=[12]/*/*.parquet", "globbed"]);
    assert!(said.contains("read       40 rows in 2 files"), "{said}");
    assert!(place.job_fails(&["web/**/*.parquet", "web/here"]).contains("pattern matches"));
    let said = place.job_ok(&["*.parquet", "here"]);
    assert!(said.contains("read       40 rows in 1 file"), "{said}");
    fs::write(place.path("pairs/_capfilt/shard-1-of-1/unit-0.parquet"), "no unit").unwrap();
    let said = place.job_ok(&[
        "pairs/**/*.parquet",
        "again",
        "--rename",
        "source=s",
        "--rename",
        "itm_score=i",
        "--rename",
        "kept=k",
        "--rename",
        "error=e",
        "--rename",
        "provenance=p",
        "--rename",
        "image_sha256=h",
    ]);
    assert!(said.contains("read       80 rows in 1 file"), "bookkeeping is not a source: {said}");
    assert!(place.job_fails(&["web/*/nothing*", "x"]).contains("nothing matches"));
    place.ok(&["sql", "-c", "COPY (SELECT *, 1 AS day FROM 'slice.parquet') TO 'twice/day=1/a.parquet'"]);
    assert!(place.job_fails(&["twice", "x"]).contains("one of its own"));
    assert!(!place.path("x").exists());
}

#[test]
fn a_broken_manifest_is_named() {
    let place = Place::new();
    source(&place);
    place.job_ok(&["web", "pairs"]);
    let manifest = place.path("pairs").join(BOOKKEEPING).join("shard-1-of-1/manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    let message = place.fails(1, &["update", "pairs"]);
    assert!(message.contains("manifest.json: the manifest is damaged"), "{message}");
}

#[test]
fn another_version_of_the_program_goes_on_where_its_results_are_the_same() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs"]);
    let path = place.path("pairs/_capfilt/shard-1-of-1/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["job"]["engine"] = "capfilt 0.0.9".into();
    fs::write(&path, manifest.to_string()).unwrap();
    place.ok(&["update", "pairs"]);
    manifest["job"]["results"] = 1.into();
    fs::write(&path, manifest.to_string()).unwrap();
    let said = place.fails(1, &["update", "pairs"]);
    assert!(said.contains("begun by capfilt 0.0.9, whose results differ") && said.contains("--overwrite"), "{said}");
}

#[test]
fn stray_files_beside_the_bookkeeping_do_no_harm() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "pairs"]);
    for name in [".DS_Store", ".nfs000000000001"] {
        fs::write(place.path("pairs/_capfilt").join(name), "x").unwrap();
    }
    place.ok(&["report", "pairs", "-o", "report.html"]);
    place.ok(&["update", "pairs"]);
    place.job_ok(&[slice, "pairs", "--overwrite"]);
    assert_eq!(place.number("pairs", "SELECT count(*) FROM t"), 80);
}

/// tests/fixtures/tables-of-before has a table that an earlier main finished (44a57ff), and one that was killed in its
/// second unit.
#[test]
fn tables_of_an_earlier_version_are_continued_and_updated() {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let place = Place::new();
    copy(Path::new(&root("tests/fixtures/tables-of-before")), &place.path("."));
    let args = |dest| ["run", "web.parquet", dest, "--recipe", "recipe.sql", "--checkpoint-rows", "2"];
    let output = place.run(&args("begun"));
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("going on after 2 of 4 rows"), "{said}");
    let query = "SELECT id, text, kept, image_sha256, provenance['row'] AS row FROM t ORDER BY id";
    let begun = place.rows("begun", query);
    assert_eq!(begun.len(), 4);
    assert_eq!(begun, place.rows("whole", query));
    let said = place.fails(1, &["update", "whole"]);
    assert!(said.contains("does not record its job") && said.contains("--job FILE"), "{said}");
    let job = "source = 'web.parquet'\nrecipe = 'recipe.sql'\ncheckpoint-rows = 2\n";
    fs::write(place.path("job.toml"), job).unwrap();
    place.ok(&["update", "whole", "--job", "job.toml"]);
    assert_eq!(place.rows("whole", query), begun);
    place.ok(&["select", "whole", "selected", "--min-itm", "0.5", "--source", "web.parquet"]);
    assert_eq!(place.number("selected", "SELECT count(*) FROM t"), 4);
}
