//! The job as a library: what a program that embeds it relies on.

use std::fs;
use std::path::{Path, PathBuf};

use capfilt_job::{Again, Images, Job, JobFile, Stop, Summary};
use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use tokio::sync::watch;

use crate::common::{fixture, session};

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
    file.job(Again::No).unwrap()
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
