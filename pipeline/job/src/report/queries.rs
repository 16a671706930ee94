//! The page's numbers, from SQL over the pair table.

use std::collections::BTreeMap;

use capfilt_tables::error::{Error, Result};
use datafusion::arrow::json::ArrayWriter;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::checkpoint::manifest::Manifest;
use crate::report::data::Numbers;
use crate::tally::counts::Tally;

/// Table name of the pair table.
pub(crate) const PAIRS: &str = "pairs";
const BINS: usize = 40;
/// Maximum number of captions listed.
const CAPTIONS: usize = 100;

/// Computes the page's numbers.
pub(crate) async fn numbers(ctx: &SessionContext, manifests: &[Manifest]) -> Result<Numbers> {
    let mut tally = Tally::default();
    manifests.iter().for_each(|manifest| tally.merge(&manifest.tally));
    let duplicates = (tally.duplicates > 0).then_some(("duplicate of an earlier row", tally.duplicates));
    let failures = tally.reasons().into_iter().chain(duplicates);
    let failures = failures.map(|(reason, count)| json!({"reason": reason, "count": count})).collect();
    Ok(Numbers {
        sources: sources(ctx).await?,
        histograms: histograms(ctx).await?,
        failures,
        captions: captions(ctx).await?,
        threshold: manifests[0].verdicts.min_itm,
        images: tally.rows,
    })
}

/// Deserialises the rows of a query into values of `T`. Fields are matched to columns by name.
pub(crate) async fn rows<T: DeserializeOwned>(ctx: &SessionContext, sql: &str) -> Result<Vec<T>> {
    objects(&ctx.sql(sql).await?.collect().await?)
}

/// Rows as objects. A NULL is left out.
pub(crate) fn objects<T: DeserializeOwned>(batches: &[RecordBatch]) -> Result<Vec<T>> {
    let mut json = ArrayWriter::new(Vec::new());
    let written = json.write_batches(&batches.iter().collect::<Vec<_>>()).and_then(|()| json.finish());
    written.map_err(|e| Error::Internal(e.to_string()))?;
    serde_json::from_slice(&json.into_inner()).map_err(|e| Error::Internal(e.to_string()))
}

async fn sources(ctx: &SessionContext) -> Result<Vec<Value>> {
    let sql = format!(
        "SELECT source, count(*) AS pairs, count(*) FILTER (WHERE kept) AS kept, count(itm_score) AS scored, \
         CAST(avg(itm_score) AS REAL) AS mean_itm FROM {PAIRS} GROUP BY source ORDER BY source DESC"
    );
    rows(ctx, &sql).await
}

async fn histograms(ctx: &SessionContext) -> Result<Vec<Value>> {
    #[derive(Deserialize)]
    struct Bin {
        source: String,
        bin: usize,
        pairs: u64,
    }
    let last = BINS - 1;
    let sql = format!(
        "SELECT source, CAST(least(greatest(floor(itm_score * {BINS}), 0), {last}) AS BIGINT) AS bin, count(*) AS pairs \
         FROM {PAIRS} WHERE itm_score IS NOT NULL GROUP BY 1, 2"
    );
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for Bin { source, bin, pairs } in rows(ctx, &sql).await? {
        found.entry(source).or_insert_with(|| vec![0; BINS])[bin.min(last)] += pairs;
    }
    // Web texts first.
    Ok(found.into_iter().rev().map(|(source, counts)| json!({"source": source, "counts": counts})).collect())
}

async fn captions(ctx: &SessionContext) -> Result<Vec<Value>> {
    let sql = format!(
        "SELECT text, count(*) AS \"count\" FROM {PAIRS} WHERE source = 'synthetic' AND text IS NOT NULL GROUP BY text \
         ORDER BY \"count\" DESC, text LIMIT {CAPTIONS}"
    );
    rows(ctx, &sql).await
}
