//! The job as a library: what a program that embeds it relies on.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use capfilt_job::{Images, Job, JobFile, Mode, Stop, Summary};
use capfilt_tables::file::DataFile;
use capfilt_tables::format::contract::{About, FileFormat, Scan};
use capfilt_tables::format::register::register;
use capfilt_tables::format::rows::{Batches, Rows, select};
use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use tokio::sync::watch;

use crate::common::{self, fixture, session};

const RECIPE: &str = "SELECT * EXCLUDE (image, text), encode(sha256(image), 'hex') AS image_sha256, 'web' AS source, text, \
                      1.0 AS itm_score, image_error(image) IS NULL AS kept, image_error(image) AS error, image FROM web";

/// A job over the fixtures' table that needs no model.
fn job(dest: PathBuf) -> Job {
    let file = JobFile {
        source: fixture("web.parquet").to_string_lossy().into_owned(),
        dest,
        recipe_sql: Some(RECIPE.to_owned()),
        write_images: Some(Images::None),
        checkpoint_rows: 500,
        ..JobFile::default()
    };
    file.job(Mode::Create).unwrap()
}

async fn run(ctx: &SessionContext, job: &Job) -> Summary {
    let (_sender, stop) = watch::channel(Stop::No);
    capfilt_job::run(ctx, job, stop, &|_| ()).await.unwrap()
}

async fn count(ctx: &SessionContext, table: &Path) -> i64 {
    capfilt_tables::register_pairs(ctx, "pairs", table, None).await.unwrap();
    let rows = ctx.sql("SELECT count(*) FROM pairs WHERE kept").await.unwrap().collect().await.unwrap();
    ctx.deregister_table("pairs").unwrap();
    rows[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// As a Python program or a test has it: every request and every file is waited for on other threads.
#[tokio::test]
async fn a_job_runs_on_a_current_thread_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let ctx = session().await;
    let job = job(folder.path().join("pairs"));
    let summary = run(&ctx, &job).await;
    assert_eq!(summary.tally.rows, 1512);
    assert!(count(&ctx, &job.dest).await > 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_jobs_run_at_once_and_leave_the_session_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let ctx = session().await;
    let partitions = ctx.copied_config().target_partitions();
    let before = ctx.table("web").await.unwrap().schema().clone();
    let jobs = ["one", "two"].map(|name| job(folder.path().join(name)));
    let (one, two) = tokio::join!(run(&ctx, &jobs[0]), run(&ctx, &jobs[1]));
    assert_eq!((one.tally.rows, two.tally.rows), (1512, 1512));
    let [first, second] = jobs.map(|job| job.dest);
    let part = |table: &Path| fs::read(table.join("part-00000.parquet")).unwrap().len();
    assert_eq!(part(&first), part(&second));
    assert_eq!(count(&ctx, &first).await, count(&ctx, &second).await);
    // The recipe's view `web` is not the caller's table of that name.
    assert_eq!(*ctx.table("web").await.unwrap().schema(), before);
    assert_eq!(ctx.copied_config().target_partitions(), partitions);
}

/// Files of which each line is base64 of an image.
#[derive(Debug)]
struct Base64Lines;

impl FileFormat for Base64Lines {
    fn about(&self) -> &'static About {
        static ABOUT: About = About::new("base64", &["b64"]);
        &ABOUT
    }

    fn read(&self, file: &DataFile, scan: &Scan<'_>) -> Result<Batches, String> {
        let row = |line: io::Result<String>| {
            let line = line.map_err(|e| e.to_string())?;
            let image: ArrayRef =
                Arc::new(BinaryArray::from(vec![&*STANDARD.decode(&line).map_err(|e| e.to_string())?]));
            let text: ArrayRef = Arc::new(StringArray::from(vec![&line[..8]]));
            let row = RecordBatch::try_from_iter([("image", image), ("text", text)]);
            row.map(Rows::from).map_err(|e| e.to_string())
        };
        let lines = BufReader::new(file.open().map_err(|e| e.to_string())?).lines();
        Ok(select(lines.map(row), scan.ranges))
    }
}

/// A format is a type and its registration: SQL, jobs and dry runs read files and folders of it, as of all others.
#[tokio::test]
async fn a_format_is_added_by_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let images = fs::read_dir(fixture("images")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let mut images: Vec<String> = images.map(|image| STANDARD.encode(image)).collect();
    images.sort();
    let web = folder.path().join("web");
    fs::create_dir(&web).unwrap();
    for (name, images) in ["1.b64", "2.b64"].into_iter().zip(images.chunks(images.len().div_ceil(2))) {
        fs::write(web.join(name), images.join("\n")).unwrap();
    }
    let file = web.join("1.b64");
    let job = Job { source: web.clone(), ..job(folder.path().join("pairs")) };
    let ctx = capfilt_tables::enable_named_tables(session().await);
    let unknown = capfilt_job::dry_run(&ctx, &job, 8).await.unwrap_err().to_string();
    assert!(unknown.contains("holds no .parquet, .tar, .csv or .jsonl file"), "{unknown}");

    register(&Base64Lines).unwrap();
    assert!(register(&Base64Lines).unwrap_err().to_string().contains("taken by base64"));
    let all = images.len();
    let sql = |table: &Path| {
        format!(
            "SELECT count(*), count(image), min(octet_length(text)) FROM '{}' WHERE image IS NOT NULL",
            table.display()
        )
    };
    let counts = |rows: usize| vec![vec![rows.to_string(), rows.to_string(), "8".to_owned()]];
    assert_eq!(common::run(&ctx, &sql(&web)).await, counts(all));
    assert_eq!(common::run(&ctx, &sql(&file)).await, counts(all.div_ceil(2)));
    let estimate = capfilt_job::dry_run(&ctx, &job, 8).await.unwrap().to_string();
    assert!(estimate.contains(&format!("{all} rows in 2 files")) && estimate.contains("unusable   0 of"), "{estimate}");
    assert_eq!(run(&ctx, &job).await.tally.rows, all as u64);
    assert_eq!(count(&ctx, &job.dest).await, all as i64);
}
