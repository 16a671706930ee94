//! The command as a user runs it: the binary in a folder of its own, on real pictures and small real checkpoints.

#[cfg(unix)]
mod changes;
#[cfg(unix)]
mod columns;
mod compose;
mod dedupe;
mod default_model;
mod delta;
#[cfg(unix)]
mod ends;
#[cfg(unix)]
mod examples;
mod fetch;
mod files;
mod hub;
mod jobs;
#[cfg(unix)]
mod kills;
mod lakes;
#[cfg(unix)]
mod prompt;
mod recipes;
mod report;
mod resume;
#[cfg(unix)]
mod retry;
#[cfg(unix)]
mod rounds;
#[cfg(unix)]
mod select;
mod sources;
mod statements;
mod stores;
mod tables;
mod verbs;
#[cfg(unix)]
mod watching;
mod webdataset;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::without_settings;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// A recipe that calls no model and keeps every pair whose image decodes.
/// Whether `capfilt-train` is built, which needs libtorch. `make test` requires it.
fn has_trainer(trainer: &Path) -> bool {
    let is_built = trainer.is_file();
    if !is_built {
        assert!(std::env::var_os("REQUIRE_CAPFILT_TRAIN").is_none(), "there is no {}", trainer.display());
        eprintln!("skipped: there is no {}: `make build-training` makes it", trainer.display());
    }
    is_built
}

const KEEP_ALL: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                        1.0 AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";
const CAT: &str = "tests/fixtures/images/emoji_cat_face_google.png";
/// All columns of the pair table from the default recipe; the web table's own come first.
const PAIR_COLUMNS: [&str; 11] = [
    "id",
    "url",
    "text_is_true",
    "image_sha256",
    "source",
    "text",
    "itm_score",
    "kept",
    "error",
    "provenance",
    "image",
];
/// Folder beside the parts of a table.
const BOOKKEEPING: &str = "_capfilt";

fn root(path: &str) -> String {
    let path = Path::new(ROOT).join(path);
    fs::canonicalize(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).display().to_string()
}

/// `capfilt resume`, `update` or `retry` of the job that `run` begins: the table records all but the shard.
fn verb<'a>(name: &'a str, run: &[&'a str]) -> Vec<&'a str> {
    let operation = run.windows(2).filter(|pair| ["--shard", "--max-failed"].contains(&pair[0]));
    [name, run[2]].into_iter().chain(operation.flatten().copied()).collect()
}

fn web() -> String {
    root("tests/fixtures/web.parquet")
}

/// The working folder of the command.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capfilt"));
        without_settings(&mut command).args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed. Returns its standard output.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?} failed:\n{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a command that must fail with exit code `code`. Returns its message, and asserts that nothing panicked.
    #[track_caller]
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}:\n{message}");
        assert!(message.contains("error: "), "{args:?}: no message:\n{message}");
        assert!(!message.contains("panicked"), "{args:?}:\n{message}");
        message
    }

    /// Rows of a query over the table `t`, in the order of its files.
    #[track_caller]
    fn rows(&self, table: &str, query: &str) -> Vec<Value> {
        let table = format!("t={table}");
        let order = "datafusion.execution.target_partitions=1";
        let out = self.ok(&["sql", "--table", &table, "--set", order, "--format", "json", "-c", query]);
        serde_json::from_str::<Vec<Value>>(&out).unwrap()
    }

    #[track_caller]
    fn number(&self, table: &str, query: &str) -> i64 {
        let rows = self.rows(table, &format!("SELECT ({query}) AS n"));
        rows[0]["n"].as_i64().unwrap()
    }

    /// A table of 40 rows: some good ones, and the web table's rows with a missing or broken image or text.
    fn slice(&self) -> &'static str {
        // Made only once, since finding the broken images means decoding all of them.
        static SLICE: OnceLock<Vec<u8>> = OnceLock::new();
        let slice = SLICE.get_or_init(|| {
            let copy = "COPY (SELECT * FROM (SELECT * FROM web WHERE text IS NULL OR image_error(image) IS NOT NULL LIMIT 12) \
                        UNION ALL SELECT * FROM \
                        (SELECT * FROM web WHERE image_error(image) IS NULL AND text IS NOT NULL ORDER BY id LIMIT 28)) \
                        TO 'slice.parquet'";
            let table = format!("web={}", web());
            self.ok(&["sql", "--table", &table, "-c", copy]);
            assert_eq!(self.number("slice.parquet", "SELECT count(*) FROM t"), 40);
            fs::read(self.path("slice.parquet")).unwrap()
        });
        fs::write(self.path("slice.parquet"), slice).unwrap();
        "slice.parquet"
    }

    /// `capfilt run` with the small checkpoints.
    fn job(&self, args: &[&str]) -> Vec<String> {
        let models = [root("tests/fixtures/models/captioner"), root("tests/fixtures/models/matcher")];
        let mut all: Vec<String> = vec!["run".into()];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        all.extend(["--captioner".into(), models[0].clone(), "--filter".into(), models[1].clone()]);
        all
    }

    /// Runs a job that must succeed and print nothing to standard output. Returns its messages.
    #[track_caller]
    fn job_ok(&self, args: &[&str]) -> String {
        let args = self.job(args);
        let output = self.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let said = text(&output.stderr);
        assert!(output.status.success(), "{args:?} failed:\n{said}");
        assert!(output.stdout.is_empty(), "a job has no data to print");
        said
    }

    #[track_caller]
    fn job_fails(&self, args: &[&str]) -> String {
        let args = self.job(args);
        self.fails(1, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a job over the whole web table, in units of 64 rows, and waits until some are done.
    fn started(&self, dest: &str) -> Child {
        let args = self.job(&[&web(), dest, "--checkpoint-rows", "64"]);
        let mut command = self.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let temp = self.path(dest).join("_capfilt/shard-1-of-1/unit-00000000-000000000128.parquet");
        let patience = Instant::now();
        while !temp.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the job ended before it could be stopped");
            assert!(patience.elapsed() < Duration::from_secs(120), "the job wrote nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }

    /// Names in a table's folder, without the bookkeeping.
    fn parts(&self, folder: &str) -> Vec<String> {
        self.names(folder).into_iter().filter(|name| name != BOOKKEEPING).collect()
    }

    /// Names in a folder, including hidden ones.
    fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
}
