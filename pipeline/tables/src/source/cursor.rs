//! Images of single rows.

use std::fmt::Display;

use datafusion::arrow::array::{Array as _, BinaryViewArray};

use crate::adapt::image_bytes;
use crate::error::{Error, Result};
use crate::format::rows::{Batches, Rows};
use crate::source::files::{Source, SourceFile};

/// Rows per batch; their images are in memory together.
const ROWS: usize = 64;

/// Reader of an image column, which goes on where it is if a file has no random access.
pub struct Cursor {
    /// Name of the column.
    pub column: String,
    open: Option<Open>,
}

/// Read position in a file without random access.
struct Open {
    file: usize,
    batches: Batches,
    /// Number of the current batch's first row; `images` are the batch's.
    row: u64,
    images: BinaryViewArray,
}

/// Takes the image of a row; `None` if it has none.
pub type Each<'a> = &'a mut dyn FnMut(Option<&[u8]>);

impl Cursor {
    /// A reader of `column` at no file yet.
    pub fn new(column: String) -> Self {
        Self { column, open: None }
    }

    /// Calls `each` with the images of `rows` of a file, sorted numbers.
    pub fn read(&mut self, from: &Source, file: usize, rows: &[u64], each: Each<'_>) -> Result<()> {
        let (Some(first), column) = (rows.first(), &self.column) else { return Ok(()) };
        let source = &from.files[file];
        if from.format.about().seeks {
            let ranges: Vec<(u64, u64)> = rows.iter().map(|row| (*row, 1)).collect();
            for batch in from.batches(file, &ranges, rows.len())? {
                images_of(source, batch, column)?.iter().for_each(&mut *each);
            }
            return Ok(());
        }
        let at = match &mut self.open {
            Some(at) if at.file == file && at.row <= *first => at,
            none => {
                let ranges = [(*first, source.record.rows.saturating_sub(*first))];
                let batches = from.batches(file, &ranges, ROWS)?;
                none.insert(Open { file, batches, row: *first, images: BinaryViewArray::from_iter_values([[]; 0]) })
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
}

impl Source {
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
