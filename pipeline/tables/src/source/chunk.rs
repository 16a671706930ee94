//! Chunks: the pieces in which a source is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringViewArray, new_null_array};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Field;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use tokio::sync::mpsc;

use crate::adapt::adapt;
use crate::error::Result;
use crate::format::rows::{Problem, Rows};
use crate::format::text::message;
use crate::format::watch::Watch;
use crate::source::files::{Source, SourceFile};
use crate::split::{RowPosition, Units};

/// Some rows of one unit, in the order of the source.
pub struct Chunk {
    /// Start of the unit.
    pub unit: RowPosition,
    /// First row of the file that the chunk covers, and the number of rows covered, including those not in `rows`.
    pub row: u64,
    /// Rows of the file that the chunk stands for, deleted ones included.
    pub count: u64,
    /// Rows to process; `numbers` are their numbers in the file.
    pub rows: RecordBatch,
    /// Number in the file of each of `rows`.
    pub numbers: Vec<u64>,
    /// Reasons why rows cannot be processed, by row number; these rows get no image.
    pub problems: BTreeMap<u64, String>,
    /// Pairs that a table already had of the other rows, in row order and with the row number.
    pub previous: Vec<(u64, RecordBatch)>,
}

impl Chunk {
    /// Splits the chunk into chunks of at most `most` rows to process.
    pub fn cut(mut self, most: usize) -> Vec<Self> {
        let most = most.max(1);
        let mut cut = Vec::new();
        while let Some(number) = self.numbers.get(most).copied() {
            // Rows of a sample may be far apart.
            let before = (number - self.row).min(self.count);
            let previous = self.previous.partition_point(|(row, _)| *row < number);
            let rest = Self {
                unit: self.unit,
                row: number,
                count: self.count - before,
                rows: self.rows.slice(most, self.rows.num_rows() - most),
                numbers: self.numbers.split_off(most),
                problems: self.problems.split_off(&number),
                previous: self.previous.split_off(previous),
            };
            (self.rows, self.count) = (self.rows.slice(0, most), before);
            cut.push(std::mem::replace(&mut self, rest));
        }
        cut.push(self);
        cut
    }
}

/// Takes a chunk; returns false if the receiver is gone.
pub type Take<'a> = &'a mut dyn FnMut(Result<Chunk>) -> bool;

impl Source {
    /// Reads the rows of `units` from `from` in order, on a blocking thread and in chunks of at most `rows` rows. A
    /// bounded channel limits how many chunks it reads ahead.
    pub fn read(self: &Arc<Self>, units: Units, from: RowPosition, rows: usize) -> mpsc::Receiver<Result<Chunk>> {
        let (sender, receiver) = mpsc::channel(2);
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            for file in from.file..this.files.len() {
                let mut send = |chunk: Result<Chunk>| sender.blocking_send(chunk).is_ok();
                let ranges: Vec<(u64, u64)> = units.ranges(file, from, this.files[file].record.rows).collect();
                if let Err(error) = this.read_ranges(file, units, &ranges, rows, &mut send) {
                    // The receiver is gone if the job has failed elsewhere.
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        });
        receiver
    }

    /// Sends the rows of `ranges` of a file (first row and number of rows, sorted), in chunks that each lie within one
    /// range; stops when `send` returns false because the receiver is gone.
    pub fn read_ranges(
        &self,
        file: usize,
        units: Units,
        ranges: &[(u64, u64)],
        most: usize,
        send: Take<'_>,
    ) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let source = &self.files[file];
        let broken = |e: &dyn std::fmt::Display| source.place.error(|| format!("cannot read: {e}"));
        let watch = Watch::begin(&source.place, source.seen)?;
        let mut batches = self.batches_of(source, ranges, most).map_err(|e| broken(&e))?;
        let mut rest: Option<Rows> = None;
        let mut replaced = Replaced::default();
        for &(start, rows) in ranges {
            let unit = RowPosition { file, row: units.start_of(start) };
            let mut row = start;
            while row < start + rows {
                let batch = match rest.take() {
                    Some(batch) => batch,
                    None => {
                        let next = batches.next();
                        // Confirms that the batch belongs to the file as it was inspected.
                        watch.check()?;
                        let Some(next) = next else {
                            return Err(broken(&"it has fewer rows than it had when the job began"));
                        };
                        let Rows { batch, problems } = next.map_err(|e| broken(&e))?;
                        Rows { batch: self.shape(batch, source).map_err(|e| broken(&e))?, problems }
                    }
                };
                let left = usize::try_from(start + rows - row).unwrap_or(usize::MAX);
                let all = batch.batch.num_rows();
                let taken = left.min(all);
                if taken < all {
                    rest = Some(batch.slice(taken, all - taken));
                }
                let Rows { batch, problems } = batch.slice(0, taken);
                let count = taken as u64;
                let (rows, numbers) = source.left_of(batch, row).map_err(|e| broken(&e))?;
                let mut failed = BTreeMap::new();
                for Problem { row: at, column, reason } in problems {
                    let number = row + at as u64;
                    match column {
                        // Problems of deleted rows do not count.
                        _ if numbers.binary_search(&number).is_err() => {}
                        Some(column) if !self.texts.contains(&column) => replaced.add(column, number, reason),
                        _ => {
                            failed.entry(number).or_insert(reason);
                        }
                    }
                }
                if !send(Ok(Chunk { unit, row, count, rows, numbers, problems: failed, previous: Vec::new() })) {
                    return Ok(());
                }
                row += count;
            }
        }
        replaced.warn(&source.place.shown());
        Ok(())
    }

    /// Converts a file's batch to the common schema: adds partition columns and NULL for columns that only other files
    /// have, and casts to the common types.
    fn shape(&self, batch: RecordBatch, file: &SourceFile) -> Result<RecordBatch, ArrowError> {
        let rows = batch.num_rows();
        let column = |field: &Arc<Field>| -> Result<ArrayRef, ArrowError> {
            let partition = file.partitions.iter().find(|(name, _)| name == field.name());
            let column: ArrayRef = match (partition, batch.column_by_name(field.name())) {
                (Some((_, Some(value))), _) => {
                    Arc::new(std::iter::repeat_n(Some(value.as_str()), rows).collect::<StringViewArray>())
                }
                (Some((_, None)), _) | (None, None) => new_null_array(field.data_type(), rows),
                (None, Some(column)) => Arc::clone(column),
            };
            let named =
                |e: ArrowError| ArrowError::CastError(format!("column {}: {}", field.name(), message::plain(&e)));
            adapt(&column, field.data_type()).map_err(named)
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<_, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

impl SourceFile {
    /// Rows of a batch that are not deleted, with their numbers; the batch begins at row number `row`.
    fn left_of(&self, batch: RecordBatch, row: u64) -> Result<(RecordBatch, Vec<u64>), ArrowError> {
        let numbers = row..row + batch.num_rows() as u64;
        if self.deleted.is_empty() {
            return Ok((batch, numbers.collect()));
        }
        let there: Vec<bool> = numbers.clone().map(|n| self.deleted.binary_search(&n).is_err()).collect();
        let left = numbers.zip(&there).filter(|(_, there)| **there).map(|(n, _)| n).collect();
        Ok((filter_record_batch(&batch, &there.into())?, left))
    }
}

/// Texts with U+FFFD in place of invalid UTF-8, in columns that a job only passes through: the first of each column,
/// and their number.
#[derive(Default)]
struct Replaced(BTreeMap<String, (u64, String, u64)>);

impl Replaced {
    fn add(&mut self, column: String, row: u64, reason: String) {
        self.0.entry(column).or_insert((row, reason, 0)).2 += 1;
    }

    fn warn(self, file: &Path) {
        for (row, reason, count) in self.0.into_values() {
            let more = if count > 1 { format!(", and {} rows more", count - 1) } else { String::new() };
            log::warn!("{}, row {row}{more}: {reason}; U+FFFD stands for them", file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray as _, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn a_chunk_that_is_cut_has_all_it_had() {
        let batch = |values: Vec<i64>| {
            RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
        };
        // Rows 10 to 19: 12 and 16 have pairs already, and 19 is deleted.
        let numbers = vec![10, 11, 13, 14, 15, 17, 18];
        let chunk = Chunk {
            unit: RowPosition { file: 3, row: 8 },
            row: 10,
            count: 10,
            rows: batch(numbers.iter().map(|n| *n as i64).collect()),
            numbers,
            problems: BTreeMap::from([(11, "a".to_owned()), (15, "b".to_owned())]),
            previous: vec![(12, batch(vec![12])), (16, batch(vec![16, 16]))],
        };
        let cut = chunk.cut(3);
        let found: Vec<_> = cut
            .iter()
            .map(|c| {
                let rows = c.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
                let (problems, previous): (Vec<u64>, Vec<u64>) =
                    (c.problems.keys().copied().collect(), c.previous.iter().map(|(row, _)| *row).collect());
                (c.unit.row, c.row, c.count, rows, problems, previous)
            })
            .collect();
        let wanted = [
            (8, 10, 4, vec![10, 11, 13], vec![11], vec![12]),
            (8, 14, 4, vec![14, 15, 17], vec![15], vec![16]),
            (8, 18, 2, vec![18], vec![], vec![]),
        ];
        assert_eq!(found, wanted);
        assert!(cut.iter().all(|c| {
            c.numbers.iter().map(|n| *n as i64).eq(c
                .rows
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .copied())
        }));
    }
}
