//! Shared helpers: paths, and sessions with their own engine.

use std::path::PathBuf;
use std::sync::Arc;

use capfilt_udfs::engine::{Engine, EngineOptions};
use capfilt_udfs::{CapfiltOptions, blip};
use datafusion::arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Removes the variables of the developer's shell that would change what the command does.
pub(crate) fn without_settings(command: &mut std::process::Command) -> &mut std::process::Command {
    let settings = ["CAPFILT_CAPTIONER", "CAPFILT_FILTER", "CAPFILT_DEVICE", "CAPFILT_TRAINER", "RUST_LOG"];
    settings.into_iter().fold(command, |command, name| command.env_remove(name))
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

pub(crate) fn model(name: &str) -> String {
    root().join("tests/fixtures/models").join(name).to_str().unwrap().to_string()
}

/// A separate engine for a test.
pub(crate) fn engine(options: EngineOptions) -> Arc<Engine> {
    Engine::new(options, Box::new(blip::load))
}

/// A session on `engine` with the example models and the tables `web` (tests/fixtures/web.parquet) and `pictures` (all
/// fixtures).
pub(crate) async fn session_on(engine: Arc<Engine>, partitions: usize, batch_size: usize) -> SessionContext {
    let config = SessionConfig::new()
        .with_information_schema(true)
        .with_target_partitions(partitions)
        .with_batch_size(batch_size);
    let ctx = SessionContext::new_with_config(config);
    capfilt_udfs::register_with(&ctx, CapfiltOptions::default().with_engine(engine)).unwrap();
    capfilt_fetch::register_fetch(&ctx).unwrap();
    for (setting, name) in [("captioner", "captioner"), ("filter", "matcher"), ("answerer", "answerer")] {
        run(&ctx, &format!("SET capfilt.{setting} = '{}'", model(name))).await;
    }
    run(&ctx, "SET capfilt.device = 'cpu'").await;
    let web = root().join("tests/fixtures/web.parquet");
    ctx.register_parquet("web", web.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
    ctx.register_batch("pictures", pictures()).unwrap();
    ctx
}

pub(crate) async fn session() -> SessionContext {
    session_on(engine(EngineOptions::default()), 2, 64).await
}

/// Every file of fixtures/images and fixtures/bad: folder, name, image.
fn pictures() -> RecordBatch {
    let mut rows = vec![];
    for folder in ["images", "bad"] {
        for entry in std::fs::read_dir(fixture(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            rows.push((folder, name, std::fs::read(&path).unwrap()));
        }
    }
    rows.sort();
    let folder: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)));
    let name: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.1)));
    let image: ArrayRef = Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| &r.2)));
    RecordBatch::try_from_iter([("folder", folder), ("name", name), ("image", image)]).unwrap()
}

/// Rows of a statement as strings; NULL is "NULL".
pub(crate) async fn try_rows(ctx: &SessionContext, sql: &str) -> datafusion::error::Result<Vec<Vec<String>>> {
    let batches = ctx.sql(sql).await?.collect().await?;
    let cell = |batch: &RecordBatch, column: usize, row: usize| {
        let column = batch.column(column);
        if column.is_null(row) { "NULL".to_string() } else { array_value_to_string(column, row).unwrap() }
    };
    Ok(batches
        .iter()
        .flat_map(|b| (0..b.num_rows()).map(move |r| (0..b.num_columns()).map(|c| cell(b, c, r)).collect()))
        .collect())
}

pub(crate) async fn run(ctx: &SessionContext, sql: &str) -> Vec<Vec<String>> {
    match try_rows(ctx, sql).await {
        Ok(rows) => rows,
        Err(e) => panic!("{sql}: {e}"),
    }
}
