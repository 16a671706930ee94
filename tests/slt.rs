//! SQL logic tests: each file of tests/slt demonstrates and checks one function or one subject.

use std::collections::BTreeSet;
use std::path::PathBuf;

use async_trait::async_trait;
use datafusion::arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

use crate::common;

struct Db(SessionContext);

#[async_trait]
impl AsyncDB for Db {
    type Error = DataFusionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, DataFusionError> {
        let frame = self.0.sql(sql).await?;
        let types: Vec<DefaultColumnType> = frame
            .schema()
            .fields()
            .iter()
            .map(|f| match f.data_type() {
                t if t.is_integer() => DefaultColumnType::Integer,
                t if t.is_floating() => DefaultColumnType::FloatingPoint,
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean => {
                    DefaultColumnType::Text
                }
                _ => DefaultColumnType::Any,
            })
            .collect();
        if types.is_empty() {
            frame.collect().await?;
            return Ok(DBOutput::StatementComplete(0));
        }
        let mut rows = common::try_rows(&self.0, sql).await?;
        for cell in rows.iter_mut().flatten() {
            if cell.is_empty() {
                *cell = "(empty)".into();
            }
        }
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "datafusion"
    }
}

fn folder() -> PathBuf {
    common::root().join("tests/slt")
}

fn check(name: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut runner = Runner::new(|| async { Ok(Db(common::session().await)) });
        runner.with_column_validator(sqllogictest::strict_column_validator);
        if let Err(e) = runner.run_file_async(folder().join(format!("{name}.slt"))).await {
            panic!("{}", e.display(false));
        }
    });
}

macro_rules! files {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn every_file_is_run() {
            let known: BTreeSet<String> = [$(stringify!($name)),*].map(String::from).into();
            let there = std::fs::read_dir(folder()).unwrap();
            let there: BTreeSet<String> =
                there.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string()).collect();
            assert_eq!(known, there);
        }
    };
}

files!(
    bad_input,
    bleu,
    caption,
    captions,
    cider,
    embed_image,
    embed_text,
    fetch_url,
    hamming,
    image_error,
    image_info,
    image_phash,
    itc_score,
    itm_score,
    planner,
    recall_at,
    refused,
    rouge_l,
    settings,
    stats,
    traps,
    types,
    vqa,
    vqa_score,
);

#[test]
fn every_function_has_its_file() {
    let scalars = capfilt_udfs::functions().into_iter().map(|f| f.name().to_string());
    let aggregates = capfilt_udfs::aggregate_functions().into_iter().map(|f| f.name().to_string());
    for name in scalars.chain(aggregates) {
        // bleu1 to bleu4, cider and cider_plain share a file each, as they do in the code.
        let file = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches("_plain");
        let text = std::fs::read_to_string(folder().join(format!("{file}.slt"))).unwrap_or_default();
        assert!(text.contains(&format!("{name}(")), "{name}");
    }
}
