//! Jobs killed as by `kill -9` at the worst points, and restarted until they finish.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use super::{BOOKKEEPING, Place, text};

/// Kill points (pipeline/tables/src/failpoint.rs), and the number of the pass at which the job is killed.
const KILLS: [(&str, u64); 40] = [
    // While captions are written, and a file is open.
    ("pairs", 1),
    ("pairs", 2),
    ("pairs", 3),
    ("pairs", 5),
    ("pairs", 4),
    ("pairs", 6),
    // The unit's file is complete, just before and just after its rename.
    ("unit", 1),
    ("unit-done", 1),
    ("unit", 2),
    ("unit-done", 2),
    ("unit", 3),
    ("unit-done", 3),
    // The manifest is half written.
    ("manifest", 1),
    ("manifest", 1),
    ("manifest", 2),
    ("manifest", 1),
    // Units are joined: the part is written, or renamed, or in the manifest while its units still exist.
    ("part", 1),
    ("part-done", 1),
    ("part-saved", 1),
    ("part", 1),
    ("part-done", 1),
    ("part-saved", 1),
    ("part", 2),
    ("part-done", 2),
    ("part-saved", 2),
    ("pairs", 4),
    ("unit", 1),
    ("unit-done", 1),
    ("manifest", 1),
    ("part-saved", 1),
    ("pairs", 7),
    ("unit", 2),
    ("manifest", 2),
    ("part-saved", 1),
    ("part", 1),
    ("part-done", 1),
    // The parts are moved into place.
    ("place", 1),
    ("place", 2),
    ("place", 1),
    ("place", 1),
];

/// A job without models, which makes 40 runs fast; the code that survives kills is the same.
fn job<'a>(dest: &'a str, recipe: &'a str) -> [&'a str; 9] {
    ["run", "web", dest, "--recipe", recipe, "--checkpoint-rows", "3", "--target-file-size", "40kB"]
}

const RECIPE: &str = "SELECT * EXCLUDE (image, text, candidate), encode(sha256(image), 'hex') AS image_sha256, \
    candidate['source'] AS source, candidate['text'] AS text, octet_length(encode(image, 'hex')) % 1000 / 1000.0 AS itm_score, \
    id % 2 = 0 AS kept, image_error(image) AS error, image \
    FROM (SELECT *, unnest([named_struct('source', 'web', 'text', text), \
    named_struct('source', 'synthetic', 'text', encode(sha256(image), 'hex'))]) AS candidate FROM web)";

#[test]
fn a_job_survives_forty_kills() {
    let place = Place::new();
    place.slice();
    // Several files, so that units also end at the end of a file: 160 rows, 56 units.
    let copies = "COPY (SELECT * FROM 'slice.parquet') TO 'web/a.parquet'; \
                  COPY (SELECT * REPLACE (id + 10000 AS id) FROM 'slice.parquet') TO 'web/b.parquet'; \
                  COPY (SELECT * REPLACE (id + 20000 AS id) FROM 'slice.parquet') TO 'web/c.parquet'; \
                  COPY (SELECT * REPLACE (id + 30000 AS id) FROM 'slice.parquet') TO 'web/d.parquet'";
    place.ok(&["sql", "-c", copies]);
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    let whole = place.run(&job("whole", "recipe.sql"));
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    assert!(place.parts("whole").len() > 3, "{:?}", place.parts("whole"));

    let mut killed = 0;
    for (point, count) in KILLS {
        let mut command = place.command(&job("pairs", "recipe.sql"));
        let batch = ["--set", "datafusion.execution.batch_size=2"];
        let output = command.args(batch).env("CAPFILT_KILL_AT", format!("{point}:{count}")).output().unwrap();
        let said = text(&output.stderr);
        if output.status.signal() == Some(9) {
            killed += 1;
            continue;
        }
        // The job ended before it passed the point that often.
        assert!(output.status.success(), "{point}:{count}: {said}");
        assert!(killed >= 30, "only {killed} kills before the job ended");
        fs::remove_dir_all(place.path("pairs")).unwrap();
    }
    assert!(killed >= 36, "{killed}");
    let last = place.run(&job("pairs", "recipe.sql"));
    assert!(last.status.success(), "{}", text(&last.stderr));
    same_table(&place, "whole", "pairs");
    assert_eq!(place.names(&format!("pairs/{BOOKKEEPING}/shard-1-of-1")), ["lock", "manifest.json"]);
    assert_eq!(place.parts("pairs"), place.parts("whole"));
}

#[test]
fn captions_and_scores_survive_kills() {
    let place = Place::new();
    let slice = place.slice();
    place.job_ok(&[slice, "whole"]);
    let args = place.job(&[slice, "pairs", "--checkpoint-rows", "7", "--set", "datafusion.execution.batch_size=3"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // Between two chunks, with others in flight; with a unit's file half written; with the manifest half written.
    for at in ["pairs:1", "manifest:1", "pairs:4", "unit:1", "pairs:5"] {
        let output = place.command(&args).env("CAPFILT_KILL_AT", at).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{at}: {}", text(&output.stderr));
    }
    let last = place.run(&args);
    let said = text(&last.stderr);
    assert!(last.status.success() && said.contains("going on after"), "{said}");
    same_table(&place, "whole", "pairs");
}

/// A source and two recipes over it.
fn two_jobs() -> Place {
    let place = Place::new();
    let slice = place.slice();
    fs::create_dir(place.path("web")).unwrap();
    fs::copy(place.path(slice), place.path("web/a.parquet")).unwrap();
    fs::write(place.path("recipe.sql"), RECIPE).unwrap();
    fs::write(place.path("other.sql"), RECIPE.replace("id % 2 = 0", "id % 2 = 1")).unwrap();
    place
}

#[test]
fn a_table_that_is_replaced_survives_kills() {
    let place = two_jobs();
    place.ok(&job("whole", "other.sql"));
    place.ok(&job("pairs", "recipe.sql"));
    let before = place.rows("pairs", "SELECT id, source, kept FROM t");
    let killed = |args: &[&str], at: &str| {
        let output = place.command(args).env("CAPFILT_KILL_AT", at).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{at}: {}", text(&output.stderr));
    };
    let anew = [&job("pairs", "other.sql")[..], &["--overwrite"]].concat();
    for at in ["pairs:1", "manifest:1", "unit-done:2"] {
        killed(&anew, at);
        assert_eq!(
            place.rows("pairs", "SELECT id, source, kept FROM t"),
            before,
            "the old table until the new one is whole"
        );
    }
    // The replacement resumes, with --overwrite and without.
    let output = place.command(&anew).env("CAPFILT_KILL_AT", "place:2").output().unwrap();
    assert!(text(&output.stderr).contains("going on after"), "{}", text(&output.stderr));
    assert_eq!(output.status.signal(), Some(9));
    place.ok(&job("pairs", "other.sql"));
    same_table(&place, "whole", "pairs");
    assert_eq!(place.parts("pairs"), place.parts("whole"));
}

#[test]
fn a_replacement_that_did_nothing_leaves_the_table_whole() {
    let place = two_jobs();
    place.ok(&job("pairs", "recipe.sql"));
    let anew = [&job("pairs", "other.sql")[..], &["--overwrite"]].concat();
    let output = place.command(&anew).env("CAPFILT_KILL_AT", "pairs:1").output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    place.ok(&["report", "pairs", "-o", "report.html"]);
    place.ok(&["update", "pairs"]);
}

/// Asserts that two tables hold the same pairs in the same order, with scores within 1e-5.
#[track_caller]
pub(crate) fn same_table(place: &Place, one: &str, other: &str) {
    let query = "SELECT id, source, text, kept, error, itm_score, image_sha256, \
                 provenance['file'] AS file, provenance['row'] AS row, encode(sha256(image), 'hex') AS image FROM t";
    let [one, other] = [one, other].map(|table| place.rows(table, query));
    assert_eq!(one.len(), other.len());
    for (mut a, mut b) in one.into_iter().zip(other) {
        let [score, expected] = [&mut a, &mut b].map(|row| row["itm_score"].take().as_f64());
        assert_eq!(score.is_some(), expected.is_some(), "{a}");
        assert!(
            (score.unwrap_or_default() - expected.unwrap_or_default()).abs() <= 1e-5,
            "{score:?}, {expected:?}: {a}"
        );
        assert_eq!(a, b);
    }
}
