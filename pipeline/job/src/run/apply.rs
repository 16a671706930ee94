//! Makes the pairs of a chunk.

use std::collections::BTreeMap;
use std::sync::Arc;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use capfilt_tables::source::files::Source;
use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Array, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::record_batch::RecordBatch;

use crate::output::split_writer::Pairs;
use crate::recipe::plan::Planned;
use crate::recipe::provenance::Provenance;
use crate::run::prefetch::Loaded;
use crate::tally::counts::Tally;

/// Turns rows into pairs.
pub(crate) struct Work {
    pub(crate) planned: Planned,
    pub(crate) provenance: Provenance,
    pub(crate) source: Arc<Source>,
}

impl Work {
    pub(crate) async fn on(self: Arc<Self>, loaded: Loaded) -> Result<Pairs> {
        let Loaded { chunk: Chunk { unit, row, count, rows, numbers, problems, previous }, images } = loaded;
        let made = if numbers.is_empty() {
            Vec::new()
        } else {
            let provenance = self.provenance.of(self.source.name(unit.file), &numbers);
            mark(self.planned.run(&rows, images, provenance).await?, &problems)?
        };
        let mut previous_rows: Vec<u64> = previous.iter().map(|(row, _)| *row).collect();
        previous_rows.dedup();
        let rows = (numbers.len() + previous_rows.len()) as u64;
        let batches = merge(made, previous)?;
        let tally = Tally::of(rows, &batches)?;
        Ok(Pairs { unit, row, rows: count, batches, tally })
    }
}

/// Drops the pairs of rows with a problem, and sets the problem as their error.
fn mark(pairs: Vec<RecordBatch>, problems: &BTreeMap<u64, String>) -> Result<Vec<RecordBatch>> {
    if problems.is_empty() {
        return Ok(pairs);
    }
    let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("pairs of a row with a problem: {e}"));
    pairs
        .into_iter()
        .map(|batch| {
            let part = |name: &str| batch.column_by_name(name).ok_or_else(|| broken(&format!("no column {name}")));
            let provenance = part("provenance")?.as_struct_opt().and_then(|p| p.column_by_name("row"));
            let rows: &Int64Array = provenance
                .and_then(|rows| rows.as_primitive_opt::<Int64Type>())
                .ok_or_else(|| broken(&"no provenance"))?;
            let problem = |row: usize| u64::try_from(rows.value(row)).ok().and_then(|n| problems.get(&n));
            let errors = part("error")?.as_string_opt::<i32>().ok_or_else(|| broken(&"error is not text"))?;
            let kept = part("kept")?.as_boolean_opt().ok_or_else(|| broken(&"kept is not a verdict"))?;
            let errors: StringArray = (0..batch.num_rows())
                .map(|row| match problem(row) {
                    Some(problem) => Some(problem.as_str()),
                    None => errors.is_valid(row).then(|| errors.value(row)),
                })
                .collect();
            let kept: BooleanArray =
                (0..batch.num_rows()).map(|row| Some(kept.value(row) && problem(row).is_none())).collect();
            let schema = batch.schema();
            let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| -> ArrayRef {
                match field.name().as_str() {
                    "error" => Arc::new(errors.clone()),
                    "kept" => Arc::new(kept.clone()),
                    _ => Arc::clone(column),
                }
            });
            let columns = columns.collect();
            RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|e| broken(&e))
        })
        .collect()
}

/// Merges both sets of pairs in row order.
fn merge(made: Vec<RecordBatch>, previous: Vec<(u64, RecordBatch)>) -> Result<Vec<RecordBatch>> {
    if previous.is_empty() {
        return Ok(made);
    }
    let mut all = previous;
    for batch in made {
        let rows = batch.column_by_name("provenance").and_then(|p| p.as_struct_opt());
        let rows = rows.and_then(|p| p.column_by_name("row")).and_then(|r| r.as_primitive_opt::<Int64Type>());
        let rows = rows.ok_or_else(|| Error::Internal("pairs without provenance".to_owned()))?;
        all.extend((0..batch.num_rows()).map(|i| (rows.value(i).unsigned_abs(), batch.slice(i, 1))));
    }
    // The sort is stable, so the pairs of a row keep their order.
    all.sort_by_key(|(row, _)| *row);
    Ok(all.into_iter().map(|(_, pair)| pair).collect())
}
