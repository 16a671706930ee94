//! Images of single rows.

use std::fmt::Display;

use datafusion::arrow::array::{Array as _, BinaryViewArray};

use crate::adapt::image_bytes;
use crate::error::{Error, Result};
use crate::format::rows::{Batches, Rows};
use crate::source::files::{Source, SourceFile};

/// Rows per batch; their images are in memory together.
const ROWS: usize = 64;

/// Read position in a file without random access.
pub struct Cursor {
    file: usize,
    batches: Batches,
    /// Number of the current batch's first row; `images` are the batch's.
    row: u64,
    images: BinaryViewArray,
}

impl Source {
    /// Calls `each` with the images of `rows` of a file, sorted numbers; `None` for a row without an image. Continues from
    /// `cursor` if possible, and leaves it at the last row.
    pub fn next_images(
        &self,
        cursor: &mut Option<Cursor>,
        file: usize,
        column: &str,
        rows: &[u64],
        each: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let source = &self.files[file];
        if self.format.seeks() {
            let ranges: Vec<(u64, u64)> = rows.iter().map(|row| (*row, 1)).collect();
            for batch in self.batches(file, &ranges, rows.len())? {
                images_of(source, batch, column)?.iter().for_each(&mut *each);
            }
            return Ok(());
        }
        let at = match cursor {
            Some(at) if at.file == file && at.row <= *first => at,
            none => {
                let ranges = [(*first, source.record.rows.saturating_sub(*first))];
                let batches = self.batches(file, &ranges, ROWS)?;
                none.insert(Cursor { file, batches, row: *first, images: BinaryViewArray::from_iter_values([[]; 0]) })
            }
        };
        for row in rows {
            while *row >= at.row + at.images.len() as u64 {
                let Some(batch) = at.batches.next() else { return Ok(()) };
                at.row += at.images.len() as u64;
                at.images = images_of(source, batch, column)?;
            }
            let place = usize::try_from(row - at.row).unwrap_or(usize::MAX);
            each(at.images.is_valid(place).then(|| at.images.value(place)));
        }
        Ok(())
    }

    fn batches(&self, file: usize, ranges: &[(u64, u64)], rows: usize) -> Result<Batches> {
        let source = &self.files[file];
        self.batches_of(source, ranges, rows.clamp(1, ROWS)).map_err(|e| broken(source, &e))
    }
}

fn images_of(source: &SourceFile, rows: Result<Rows, String>, column: &str) -> Result<BinaryViewArray> {
    let Rows { batch, .. } = rows.map_err(|e| broken(source, &e))?;
    let found = batch.column_by_name(column).ok_or_else(|| broken(source, &format!("there is no column {column}")))?;
    image_bytes(found).map_err(|e| broken(source, &e))
}

fn broken(source: &SourceFile, e: &dyn Display) -> Error {
    source.place.error(|| format!("cannot read: {e}"))
}
