//! Makes the pairs of a chunk.

use std::collections::BTreeMap;
use std::sync::Arc;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use capfilt_tables::source::files::Source;
use datafusion::arrow::array::{AsArray as _, BooleanArray, StringArray};
use datafusion::arrow::record_batch::RecordBatch;

use crate::output::split_writer::Pairs;
use crate::recipe::plan::Planned;
use crate::recipe::provenance::Provenance;
use crate::run::prefetch::Loaded;
use crate::tally::counts::{Tally, origins};

/// Turns rows into pairs.
pub(crate) struct Work {
    pub(crate) planned: Planned,
    pub(crate) provenance: Provenance,
    pub(crate) source: Arc<Source>,
    /// Maximum number of chunks under way.
    pub(crate) workers: usize,
}

impl Work {
    pub(crate) async fn on(self: Arc<Self>, loaded: Loaded) -> Result<Pairs> {
        let Loaded { chunk: Chunk { unit, row, count, rows, numbers, problems, previous }, images } = loaded;
        let made = if numbers.is_empty() {
            Vec::new()
        } else {
            let provenance = self.provenance.of(self.source.name(unit.file), &numbers);
            let more = images.into_iter().chain([provenance]).collect();
            mark(self.planned.run(&rows, more).await?, &problems)?
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
    let mark = |batch: RecordBatch| {
        let (_, rows) = origins(&batch).ok_or_else(|| broken(&"no provenance"))?;
        let problem = |row: &i64| problems.get(&u64::try_from(*row).ok()?).map(String::as_str);
        let problems: Vec<Option<&str>> = rows.values().iter().map(problem).collect();
        let (schema, mut columns, _) = batch.into_parts();
        let place = |name: &str| schema.index_of(name).map_err(|_| broken(&format!("no column {name}")));
        let (error, kept) = (place("error")?, place("kept")?);
        let errors = columns[error].as_string_opt::<i32>().ok_or_else(|| broken(&"error is not text"))?;
        let errors: StringArray = errors.iter().zip(&problems).map(|(error, problem)| problem.or(error)).collect();
        let verdicts = columns[kept].as_boolean_opt().ok_or_else(|| broken(&"kept is not a verdict"))?;
        let verdicts = verdicts.iter().zip(&problems).map(|(kept, problem)| kept == Some(true) && problem.is_none());
        let verdicts = BooleanArray::from(verdicts.collect::<Vec<bool>>());
        (columns[error], columns[kept]) = (Arc::new(errors), Arc::new(verdicts));
        RecordBatch::try_new(schema, columns).map_err(|e| broken(&e))
    };
    pairs.into_iter().map(mark).collect()
}

/// Merges both sets of pairs in row order.
fn merge(made: Vec<RecordBatch>, previous: Vec<(u64, RecordBatch)>) -> Result<Vec<RecordBatch>> {
    if previous.is_empty() {
        return Ok(made);
    }
    let mut all = previous;
    for batch in made {
        let (_, rows) = origins(&batch).ok_or_else(|| Error::Internal("pairs without provenance".to_owned()))?;
        all.extend((0..batch.num_rows()).map(|i| (rows.value(i).unsigned_abs(), batch.slice(i, 1))));
    }
    // The sort is stable, so the pairs of a row keep their order.
    all.sort_by_key(|(row, _)| *row);
    Ok(all.into_iter().map(|(_, pair)| pair).collect())
}
