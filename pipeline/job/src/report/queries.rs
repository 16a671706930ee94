//! The page's numbers, from SQL over the pair table.

use std::collections::BTreeMap;

use capfilt_tables::error::Result;
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Float64Type, Int64Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;

use crate::checkpoint::manifest::Manifest;
use crate::report::data::{Histogram, Numbers, Reason, SourceRow, Text};
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
    let mut failures: Vec<Reason> =
        tally.reasons().into_iter().map(|(reason, count)| Reason { reason: reason.to_owned(), count }).collect();
    if tally.duplicates > 0 {
        failures.push(Reason { reason: "duplicate of an earlier row".to_owned(), count: tally.duplicates });
    }
    Ok(Numbers {
        sources: sources(ctx).await?,
        histograms: histograms(ctx).await?,
        failures,
        captions: captions(ctx).await?,
        threshold: manifests[0].verdicts.min_itm,
        images: tally.rows,
    })
}

async fn rows(ctx: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
    Ok(ctx.sql(sql).await?.collect().await?)
}

fn count(batch: &RecordBatch, column: usize, row: usize) -> u64 {
    u64::try_from(batch.column(column).as_primitive::<Int64Type>().value(row)).unwrap_or(0)
}

fn word(batch: &RecordBatch, row: usize) -> String {
    batch.column(0).as_string::<i32>().value(row).to_owned()
}

async fn sources(ctx: &SessionContext) -> Result<Vec<SourceRow>> {
    let sql = format!(
        "SELECT arrow_cast(source, 'Utf8'), count(*), count(*) FILTER (WHERE kept), count(itm_score), avg(itm_score) FROM {PAIRS} \
         GROUP BY source ORDER BY source DESC"
    );
    let mut found = Vec::new();
    for batch in rows(ctx, &sql).await? {
        let means = batch.column(4).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            found.push(SourceRow {
                source: word(&batch, row),
                pairs: count(&batch, 1, row),
                kept: count(&batch, 2, row),
                scored: count(&batch, 3, row),
                mean_itm: means.is_valid(row).then(|| means.value(row) as f32),
            });
        }
    }
    Ok(found)
}

async fn histograms(ctx: &SessionContext) -> Result<Vec<Histogram>> {
    let last = BINS - 1;
    let sql = format!(
        "SELECT arrow_cast(source, 'Utf8'), CAST(least(greatest(floor(itm_score * {BINS}), 0), {last}) AS BIGINT) AS bin, count(*) \
         FROM {PAIRS} WHERE itm_score IS NOT NULL GROUP BY 1, 2"
    );
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for batch in rows(ctx, &sql).await? {
        for row in 0..batch.num_rows() {
            let counts = found.entry(word(&batch, row)).or_insert_with(|| vec![0; BINS]);
            let bin = usize::try_from(count(&batch, 1, row)).unwrap_or(last).min(last);
            counts[bin] += count(&batch, 2, row);
        }
    }
    // Web texts first.
    Ok(found.into_iter().rev().map(|(source, counts)| Histogram { source, counts }).collect())
}

async fn captions(ctx: &SessionContext) -> Result<Vec<Text>> {
    let sql = format!(
        "SELECT arrow_cast(text, 'Utf8'), count(*) AS n FROM {PAIRS} WHERE source = 'synthetic' AND text IS NOT NULL GROUP BY text \
         ORDER BY n DESC, text LIMIT {CAPTIONS}"
    );
    let mut found = Vec::new();
    for batch in rows(ctx, &sql).await? {
        found.extend((0..batch.num_rows()).map(|row| Text { text: word(&batch, row), count: count(&batch, 1, row) }));
    }
    Ok(found)
}
