//! `capfilt retry`: reuses the good pairs of a finished table.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use capfilt_tables::source::files::Source;
use datafusion::arrow::array::{Array as _, AsArray as _};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use crate::output::pair_files::read;
use crate::rows::contract::RowFilter;
use crate::tally::counts::{DUPLICATE, origins};

/// Pairs read at a time; their images are in memory together.
const ROWS: usize = 64;
/// Errors that a retry cannot fix.
const FINAL: [&str; 3] = ["no text", "no caption", "no image"];

/// Reader of a table's pairs, in the order of the source's rows.
pub(crate) struct PreviousPairs {
    source: Arc<Source>,
    schema: SchemaRef,
    parts: VecDeque<PathBuf>,
    open: Option<(PathBuf, ParquetRecordBatchReader)>,
    /// Pairs read ahead, one per batch, with their file number and row.
    ahead: VecDeque<((usize, u64), RecordBatch)>,
}

impl PreviousPairs {
    /// Opens `parts`, whose pairs have the schema `schema` and came from `source`.
    pub(crate) fn new(source: Arc<Source>, schema: SchemaRef, parts: Vec<PathBuf>) -> Self {
        Self { source, schema, parts: parts.into(), open: None, ahead: VecDeque::new() }
    }

    fn next(&mut self) -> Result<Option<((usize, u64), RecordBatch)>> {
        loop {
            if let Some(pair) = self.ahead.pop_front() {
                return Ok(Some(pair));
            }
            let (path, reader) = match &mut self.open {
                Some(open) => open,
                none => match self.parts.pop_front() {
                    Some(path) => {
                        let reader = read(&path, &self.schema, ROWS)?;
                        none.insert((path, reader))
                    }
                    None => return Ok(None),
                },
            };
            let broken = |e: &dyn std::fmt::Display| Error::dest(path.as_path(), format!("cannot read: {e}"));
            match reader.next() {
                None => self.open = None,
                Some(batch) => {
                    let batch = batch.map_err(|e| broken(&e))?;
                    for (row, at) in rows(&batch, &self.source).map_err(|e| broken(&e))?.into_iter().enumerate() {
                        self.ahead.push_back((at, batch.slice(row, 1)));
                    }
                }
            }
        }
    }
}

impl RowFilter for PreviousPairs {
    /// Leaves only the failed rows in `chunk`, and attaches the pairs of the others to it.
    fn apply(&mut self, mut chunk: Chunk) -> Result<Chunk> {
        let file = chunk.unit.file;
        let (first, end) = (chunk.row, chunk.row + chunk.count);
        let mut pairs: BTreeMap<u64, Vec<RecordBatch>> = BTreeMap::new();
        while let Some((at, pair)) = self.next()? {
            if at >= (file, end) {
                self.ahead.push_front((at, pair));
                break;
            }
            if at >= (file, first) {
                pairs.entry(at.1).or_default().push(pair);
            }
        }
        let failed = |row: &u64| pairs.get(row).is_none_or(|pairs| pairs.iter().any(may_mend));
        let again: Vec<bool> = chunk.numbers.iter().map(failed).collect();
        chunk.rows = filter_record_batch(&chunk.rows, &again.into()).map_err(|e| Error::Internal(e.to_string()))?;
        chunk.numbers.retain(failed);
        pairs.retain(|row, _| !chunk.numbers.contains(row));
        chunk.previous = pairs.into_iter().flat_map(|(row, pairs)| pairs.into_iter().map(move |p| (row, p))).collect();
        Ok(chunk)
    }
}

/// File number and row of each pair.
fn rows(batch: &RecordBatch, source: &Source) -> Result<Vec<(usize, u64)>, String> {
    let (files, rows) = origins(batch).ok_or("no provenance")?;
    let mut found = Vec::with_capacity(batch.num_rows());
    let mut last: Option<(&str, usize)> = None;
    for (name, row) in files.iter().zip(rows.iter()) {
        let name = name.unwrap_or_default();
        // Pairs of a file are contiguous.
        let file = match last.filter(|(known, _)| *known == name) {
            Some((_, number)) => number,
            None => source.number(name).ok_or("a pair is of a file that is not in the source")?,
        };
        last = Some((name, file));
        found.push((file, row.and_then(|row| u64::try_from(row).ok()).ok_or("a pair has no row")?));
    }
    Ok(found)
}

/// Whether the pair has an error that a retry may fix.
fn may_mend(pair: &RecordBatch) -> bool {
    let errors = pair.column_by_name("error").and_then(|errors| errors.as_string_opt::<i32>());
    errors.is_some_and(|errors| {
        let error = errors.value(0);
        errors.is_valid(0) && !FINAL.contains(&error) && !error.starts_with(DUPLICATE)
    })
}
