//! The rows that repeat an earlier one, found before a job and read in step with its source.

use std::fs;
use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::failpoint;
use capfilt_tables::file_record::FileRecord;
use capfilt_tables::schema::with_nulls;
use capfilt_tables::source::chunk::Chunk;
use capfilt_tables::source::files::Source;
use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, StructArray};
use datafusion::arrow::compute::nullif;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use serde_json::json;
use tokio::sync::watch;

use crate::options::{Stop, asked};
use crate::rows::contract::RowFilter;
use crate::rows::dedupe::hashes;
use crate::rows::dedupe::pass::{Look, Pass, WAY};
use crate::rows::dedupe::repeats::{self, Rows};
use crate::rows::dedupe::sorted_files::{self, PairFile, Sorter};

const DUPLICATES: &str = "duplicates.parquet";

impl Pass<'_> {
    /// Describes a file of hashes of `files` that begins at row `start`; a later run reuses it if its own description is
    /// the same. The stamps of a Delta table's files also identify deleted rows.
    pub(crate) fn note(&self, how: &str, files: &[FileRecord], start: u64) -> String {
        let Look { image_column, text_column, limits, .. } = &*self.look;
        let limits = [limits.max_bytes, limits.max_pixels];
        json!({
            "way": WAY, "how": how, "image_column": image_column, "text_column": text_column, "limits": limits, "start": start,
            "files": files,
        })
        .to_string()
    }

    /// Writes the duplicates, sorted by row number, unless an up-to-date file exists.
    async fn run(&self, tell: &dyn Fn(u64)) -> Result<()> {
        let found = self.folder.join(DUPLICATES);
        let note = self.note(&self.look.how.to_string(), &self.source.records(), 0);
        if sorted_files::note(&found).as_ref() == Some(&note) {
            tell(self.source.rows());
            return Ok(());
        }
        fs::create_dir_all(self.folder).map_err(|e| Error::write(self.folder, &e))?;
        tidy(self.folder)?;
        let hashes = self.hash(tell).await?;
        let mut duplicates = PairFile::create(&found, Some(&note))?;
        if !hashes.is_empty() {
            let sorter = Sorter::new(self.folder)?;
            let mut parts = vec![self.folder.join("exact.parquet")];
            repeats::exact(&sorter, &hashes, &parts[0]).await?;
            let mut out = Rows::none(0);
            if let Some(least) = self.look.how.texts {
                let texts = self.folder.join("similar.parquet");
                repeats::texts(&sorter, &hashes, least, &texts).await?;
                // A picture first seen with a boilerplate text is dropped with that row, so a later row with a better
                // text must stay.
                out = Rows::none(self.starts.last().copied().unwrap_or_default());
                out.add(&texts)?;
                parts.push(texts);
            }
            if let Some(bits) = self.look.how.near {
                let near = self.folder.join("near.parquet");
                repeats::near(&sorter, &hashes, bits, &out, &near).await?;
                parts.push(near);
            }
            let mut sorted = sorter.pairs(&parts).await?;
            while let Some((at, first)) = sorted.pair().await? {
                duplicates.push(at, first)?;
            }
        }
        failpoint::point("duplicates");
        duplicates.end()?;
        failpoint::point("duplicates-done");
        tidy(self.folder)
    }
}

/// Removes all files but the hashes and the duplicates.
fn tidy(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::dest(folder, e))? {
        let path = entry.map_err(|e| Error::dest(folder, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name != DUPLICATES && !(name.starts_with(hashes::PREFIX) && name.ends_with(".parquet")) {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(|e| Error::write(&path, &e))?;
        }
    }
    Ok(())
}

/// Finds the rows of `source` that repeat an earlier one. Intermediate files are kept in `folder` and reused by a later
/// run. `tell` is called with the number of hashed rows.
pub(crate) async fn find(
    look: Look,
    source: &Arc<Source>,
    folder: &Path,
    stop: &watch::Receiver<Stop>,
    tell: &dyn Fn(u64),
) -> Result<Duplicates> {
    let mut starts = vec![0];
    let mut rows = 0;
    for record in source.records() {
        rows += record.rows;
        starts.push(rows);
    }
    let pass = Pass { look: Arc::new(look), source, starts, folder };
    tokio::select! {
        biased;
        () = asked(stop, Stop::AtUnit) => return Err(Error::Interrupted),
        ended = pass.run(tell) => ended?,
    }
    let Pass { look, starts, .. } = pass;
    let bytes = (!look.named).then(|| look.image_column.clone());
    let pairs: Pairs = Box::new(sorted_files::pairs(&folder.join(DUPLICATES))?);
    Ok(Duplicates { source: Arc::clone(source), bytes, starts, pairs: pairs.peekable(), asked: 0 })
}

type Pairs = Box<dyn Iterator<Item = Result<(u64, u64)>> + Send>;

/// The rows that repeat an earlier one, read in step with the source.
pub(crate) struct Duplicates {
    source: Arc<Source>,
    /// Image column whose bytes are removed from duplicates; `None` if the source only names its images.
    bytes: Option<String>,
    starts: Vec<u64>,
    /// Duplicates that are left: a row, and the earlier row that it repeats.
    pairs: Peekable<Pairs>,
    /// Row number of the last query; later ones must not be smaller.
    asked: u64,
}

impl Duplicates {
    /// The earlier row that row `at` repeats, if any.
    fn first_of(&mut self, at: u64) -> Result<Option<u64>> {
        if at < self.asked {
            return Err(Error::Internal("rows are asked for in another order than the source's".to_owned()));
        }
        self.asked = at;
        while self.pairs.next_if(|pair| matches!(pair, Ok((row, _)) if *row < at)).is_some() {}
        let found = self.pairs.next_if(|pair| !matches!(pair, Ok((row, _)) if *row > at));
        Ok(found.transpose()?.map(|(_, first)| first))
    }
}

impl RowFilter for Duplicates {
    /// Removes the images of the chunk's duplicates and records what they repeat as their problem.
    fn apply(&mut self, mut chunk: Chunk) -> Result<Chunk> {
        let start = self.starts[chunk.unit.file];
        let mut repeats = Vec::with_capacity(chunk.numbers.len());
        for number in &chunk.numbers {
            let first = self.first_of(start + number)?;
            if let Some(first) = first {
                let (file, row) = place(&self.starts, first);
                let problem = format!("duplicate of {}, row {row}", self.source.name(file));
                chunk.problems.insert(*number, problem);
            }
            repeats.push(first.is_some());
        }
        if let Some(column) = &self.bytes {
            let rows = without_images(&chunk.rows, column, &repeats.into());
            chunk.rows = rows.map_err(|e| Error::Internal(format!("images of duplicates: {e}")))?;
        }
        Ok(chunk)
    }
}

/// File number and row within the file, of row number `at`.
fn place(starts: &[u64], at: u64) -> (usize, u64) {
    // An empty file begins where the next one does.
    let file = starts.partition_point(|start| *start <= at).saturating_sub(1);
    (file, at - starts[file])
}

/// Nulls the images of the rows marked in `repeats`. A struct keeps its other fields, such as the path, which may be
/// the row's only key; nulling the struct as a whole would not hide its bytes from SQL.
fn without_images(rows: &RecordBatch, image_column: &str, repeats: &BooleanArray) -> Result<RecordBatch, ArrowError> {
    let schema = Arc::new(with_nulls(rows.schema_ref(), image_column));
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| -> Result<ArrayRef, ArrowError> {
        if field.name() != image_column {
            return Ok(Arc::clone(column));
        }
        let (DataType::Struct(fields), Some(parts)) = (field.data_type(), column.as_struct_opt()) else {
            return nullif(column, repeats);
        };
        let parts_now = fields.iter().zip(parts.columns()).map(|(field, part)| match field.name().as_str() {
            "bytes" => nullif(part, repeats),
            _ => Ok(Arc::clone(part)),
        });
        let parts_now = parts_now.collect::<Result<Vec<_>, ArrowError>>()?;
        Ok(Arc::new(StructArray::try_new(fields.clone(), parts_now, parts.nulls().cloned())?))
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    RecordBatch::try_new(schema, columns)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{BinaryArray, StringArray};

    use super::*;
    use datafusion::arrow::datatypes::Field;

    #[test]
    fn a_number_has_its_place() {
        let starts = [0, 5, 5, 8];
        assert_eq!([0, 4, 5, 7].map(|at| place(&starts, at)), [(0, 0), (0, 4), (2, 0), (2, 2)]);
    }

    #[test]
    fn duplicates_lose_their_image_and_no_more() {
        let image: ArrayRef = Arc::new(BinaryArray::from_iter_values(["a", "b", "c"]));
        let path: ArrayRef = Arc::new(StringArray::from(vec!["1", "2", "3"]));
        let part = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), false));
        let both: ArrayRef = Arc::new(StructArray::from(vec![
            (part("bytes", &image), Arc::clone(&image)),
            (part("path", &path), Arc::clone(&path)),
        ]));
        let repeats = BooleanArray::from(vec![false, true, false]);
        for column in [image, both] {
            let rows =
                RecordBatch::try_from_iter([("image", Arc::clone(&column)), ("text", Arc::clone(&path))]).unwrap();
            let rows = without_images(&rows, "image", &repeats).unwrap();
            assert_eq!(rows.column(1), &path);
            let image = rows.column(0);
            let bytes = match image.as_struct_opt() {
                Some(parts) => {
                    assert_eq!((parts.column(1), parts.null_count()), (&path, 0));
                    parts.column(0)
                }
                None => image,
            };
            assert_eq!(bytes.as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&b"a"[..]), None, Some(&b"c"[..])]);
            // The type is the same without duplicates.
            let none = without_images(&rows, "image", &vec![false; 3].into()).unwrap();
            assert_eq!(none, rows);
        }
    }
}
