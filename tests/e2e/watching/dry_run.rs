//! `--dry-run`: its estimate agrees with the actual run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::{Place, text};

/// A recipe without models, which keeps rows by their id.
const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
    0.5 AS itm_score, id % 2 = 0 AS kept, image_error(image) AS error, image FROM web";

/// Names, sizes and modification times of everything below a folder.
fn listing(folder: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::metadata(&path).unwrap();
        found.push((path.clone(), meta.len(), meta.modified().unwrap()));
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found
}

impl Place {
    /// Output of `capfilt run --dry-run` with these arguments; asserts that it changes nothing.
    #[track_caller]
    fn estimate(&self, args: &[String]) -> String {
        let before = listing(self.folder.path());
        let said = self.ok(&args.iter().map(String::as_str).chain(["--dry-run"]).collect::<Vec<_>>());
        assert_eq!(listing(self.folder.path()), before, "{said}");
        said
    }

    fn without_models(&self, args: &[&str]) -> Vec<String> {
        fs::write(self.path("recipe.sql"), RECIPE).unwrap();
        ["run"].iter().chain(args).chain(&["--recipe", "recipe.sql"]).map(|arg| (*arg).to_owned()).collect()
    }
}

/// The rest of the line that begins with `word`.
#[track_caller]
fn line<'a>(said: &'a str, word: &str) -> &'a str {
    said.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("no {word}:\n{said}")).trim()
}

/// A size such as 12.5 kB, in bytes.
fn bytes(words: &str) -> f64 {
    let (number, unit) = words.split_once(' ').unwrap();
    number.parse::<f64>().unwrap() * if unit.starts_with("kB") { 1e3 } else { 1e6 }
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let slice = place.slice();
    // Keep all usable pairs: among the unusable ones, one image is larger than all others.
    let args = ["--min-itm", "0"];
    let said = place.estimate(&place.job(&[&[slice, "pairs"][..], &args].concat()));
    assert!(line(&said, "source").starts_with("40 rows in 1 file ("), "{said}");
    assert_eq!(line(&said, "left"), "40 rows", "{said}");
    // Of 10 places, 2 are the warm-up.
    let sample = line(&said, "sample");
    assert!(
        sample.starts_with("32 rows at 8 places in 1 file: ") && sample.contains(" rows/s, after 8 others"),
        "{said}"
    );
    for source in ["web", "synthetic"] {
        let kept = line(&said, source);
        assert!(kept.contains(" of 32 texts kept (") && kept.contains(" %, 95 % interval "), "{said}");
    }
    assert!(line(&said, "unusable").contains(" of 32 rows ("), "{said}");
    assert!(line(&said, "time").starts_with("about "), "{said}");
    let about = bytes(line(&said, "size").strip_prefix("about ").unwrap());

    let run = place.job_ok(&[&[slice, "pairs"][..], &args].concat());
    assert!(run.contains("read       40 rows in 1 file"), "{run}");
    let whole = fs::metadata(place.path("pairs/part-00000.parquet")).unwrap().len() as f64;
    assert!((0.5..2.0).contains(&(about / whole)), "{about} and {whole}");
    assert!(place.job_fails(&[slice, "pairs", "--min-itm", "0", "--dry-run"]).contains("its table is finished"));
    let anew = place.estimate(&place.job(&[slice, "pairs", "--overwrite"]));
    assert_eq!(line(&anew, "left"), "40 rows; the table that is there would be replaced");
}

/// Images are looked up as in the job, and sizes are measured in the job's format.
#[test]
fn a_dry_run_reads_paths_and_measures_lines() {
    let place = Place::new();
    let slice = place.slice();
    fs::create_dir(place.path("pictures")).unwrap();
    fs::copy(super::super::root("tests/fixtures/images/emoji_cat_face_google.png"), place.path("pictures/cat.png"))
        .unwrap();
    let paths = "COPY (SELECT * EXCLUDE (image), 'cat.png' AS path FROM t CROSS JOIN generate_series(1, 50)) TO 'paths.parquet'";
    place.ok(&["sql", "--table", &format!("t={slice}"), "-c", paths]);
    let args = [
        "paths.parquet",
        "pairs",
        "--image-column",
        "path",
        "--image-is",
        "path",
        "--image-root",
        "pictures",
        "--table-format",
        "jsonl",
    ];
    let args = place.without_models(&args);
    let said = place.estimate(&args);
    assert!(line(&said, "unusable").starts_with("0 of 64 rows"), "{said}");
    place.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let written: u64 =
        place.parts("pairs").iter().map(|name| fs::metadata(place.path("pairs").join(name)).unwrap().len()).sum();
    let told = bytes(line(&said, "size").strip_prefix("about ").unwrap());
    assert!((0.8..1.25).contains(&(told / written as f64)), "{told} for {written}: {said}");
}

#[test]
fn a_dry_run_knows_what_is_done() {
    let place = Place::new();
    let slice = place.slice();
    let args = place.without_models(&[slice, "pairs", "--checkpoint-rows", "7"]);
    let mut command = place.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let killed =
        command.args(["--set", "datafusion.execution.batch_size=3"]).env("CAPFILT_KILL_AT", "unit-done:2").output();
    assert!(!killed.unwrap().status.success());
    let said = place.estimate(&args);
    assert_eq!(line(&said, "left"), "26 rows; the job would go on after 14 rows");
    assert!(line(&said, "sample").contains(" rows at "), "{said}");
    let other = [&args[..], &["--round".to_owned(), "2".to_owned()]].concat();
    same_error(&place, &other, "round was 1 and is 2");
    let run = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let run = text(&run.stderr);
    assert!(run.contains("going on after 14 of 40 rows") && run.contains("read       40 rows"), "{run}");
}

#[test]
fn a_dry_run_takes_its_sample_from_all_files() {
    let place = Place::new();
    place.slice();
    for (file, rest) in [("a", 0), ("b", 1), ("c", 2)] {
        place.ok(&[
            "sql",
            "-c",
            &format!("COPY (SELECT * FROM 'slice.parquet' WHERE id % 3 = {rest}) TO 'web/{file}.parquet'"),
        ]);
    }
    let said = place.estimate(&place.without_models(&["web", "pairs"]));
    assert!(line(&said, "source").starts_with("40 rows in 3 files"), "{said}");
    assert!(line(&said, "sample").starts_with("32 rows at 8 places in 3 files: "), "{said}");
    assert!(line(&said, "web").contains(" of 32 texts kept ("), "{said}");
    assert!(!said.contains("synthetic"), "{said}");
    let tar = place.estimate(&place.without_models(&[
        "web",
        "tars",
        "--table-format",
        "webdataset",
        "--write-pairs",
        "kept",
    ]));
    assert!(bytes(line(&tar, "size").strip_prefix("about ").unwrap()) > 1e3, "{tar}");

    // Each shard has its own rows.
    let mut all = 0;
    for shard in ["1/2", "2/2"] {
        let args = place.without_models(&["web", "shards", "--checkpoint-rows", "5", "--shard", shard]);
        let said = place.estimate(&args);
        let (rows, which) = line(&said, "left").split_once(' ').unwrap();
        assert_eq!(which, format!("rows of shard {}", shard.replace('/', " of ")));
        let run = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(
            text(&run.stderr).contains(&format!("read       {rows} rows in 3 files")),
            "{said}\n{}",
            text(&run.stderr)
        );
        all += rows.parse::<u64>().unwrap();
    }
    assert_eq!(all, 40);

    // The sample has the requested size, if there are enough rows.
    let mut few = place.without_models(&["web", "pairs"]);
    few.push("--dry-run=16".to_owned());
    let said = place.ok(&few.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(line(&said, "sample").starts_with("16 rows at 4 places"), "{said}");
    place.ok(&["sql", "-c", "COPY (SELECT * FROM 'slice.parquet' WHERE false) TO 'empty.parquet'"]);
    let said = place.estimate(&place.without_models(&["empty.parquet", "pairs"]));
    assert!(said.ends_with("left       0 rows\n"), "{said}");
}

/// Asserts that a run and a dry run fail with the same message, which contains `reason`, and change nothing.
#[track_caller]
fn same_error(place: &Place, args: &[String], reason: &str) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let error = |args: &[&str]| {
        let said = place.fails(1, args);
        let (_, error) = said.split_once("error: ").unwrap();
        error.to_owned()
    };
    let before = listing(place.folder.path());
    let dry = error(&[&args[..], &["--dry-run"]].concat());
    assert_eq!(listing(place.folder.path()), before, "{dry}");
    assert!(dry.contains(reason), "{reason}: {dry}");
    assert_eq!(dry, error(&args));
}

#[test]
fn a_dry_run_has_a_runs_errors() {
    let place = Place::new();
    let slice = place.slice();
    fs::create_dir(place.path("held")).unwrap();
    fs::write(place.path("held/mine.txt"), "mine").unwrap();
    fs::write(place.path("mine.sql"), "SELECT id FROM web").unwrap();
    for (args, reason) in [
        (&["missing.parquet", "pairs"][..], "missing.parquet"),
        (&[slice, "pairs", "--image-column", "picture"], "--image-column"),
        (&[slice, "pairs", "--recipe", "mine.sql"], "no column image_sha256"),
        (&[slice, "held"], "holds 1 file: give --overwrite or another folder"),
        (&[slice, slice], "it is the source"),
        (&[slice, "mine.sql"], "it is a file"),
        (&["mine.sql", "pairs"], "mine.sql"),
    ] {
        same_error(&place, &place.job(args), reason);
    }
    let no_model = ["run", slice, "pairs"].map(str::to_owned);
    same_error(&place, &no_model, "give --captioner DIR");
    assert!(!place.path("pairs").exists());
    let both = place.fails(2, &["run", slice, "pairs", "--dry-run", "--dedupe", "exact"]);
    assert!(both.contains("--dedupe"), "{both}");
    assert!(place.fails(2, &["run", slice, "pairs", "--dry-run=0"]).contains("--dry-run"));
}
