//! Intermediate files, and sorting them on disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec;

use capfilt_tables::error::{Error, Result, message};
use capfilt_tables::sql::spilling_session::bounded;
use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Column;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::disk_manager::DiskManagerMode;
use datafusion::logical_expr::Expr;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use datafusion::parquet::arrow::arrow_writer::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::StreamExt as _;
use url::Url;

/// Pairs written at a time.
const ROWS: usize = 8192;
/// Rows read at a time; few, because the set of a long text is large.
const READ_ROWS: usize = 64;
/// Metadata key of the note.
const NOTE: &str = "capfilt.dedupe";

/// Column names of a pair file.
const LEFT: &str = "left";
const RIGHT: &str = "right";

/// Note of a complete file; `None` if the file is missing or unreadable, or has no note.
pub(crate) fn note(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).ok()?;
    let notes = footer.metadata().file_metadata().key_value_metadata()?;
    notes.iter().find(|note| note.key == NOTE)?.value.clone()
}

/// A Parquet file that gets its final name once it is complete.
pub(crate) struct NewFile {
    writer: ArrowWriter<File>,
    temp: PathBuf,
    path: PathBuf,
}

impl NewFile {
    pub(crate) fn create(path: &Path, schema: &SchemaRef, note: Option<&str>) -> Result<Self> {
        let temp = path.with_extension("parquet.tmp");
        let file = File::create(&temp).map_err(|e| Error::write(&temp, &e))?;
        // All hashes are different, so a dictionary would not help.
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            // The sets of long texts are large, and a row group is in memory until it is written.
            .set_max_row_group_bytes(Some(64 << 20))
            .set_key_value_metadata(note.map(|note| vec![KeyValue::new(NOTE.to_owned(), note.to_owned())]))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties));
        Ok(Self { writer: writer.map_err(|e| Error::write_parquet(&temp, &e))?, temp, path: path.to_owned() })
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer.write(rows).map_err(|e| Error::write_parquet(&self.temp, &e))
    }

    /// Closes, syncs and renames the file.
    pub(crate) fn end(mut self) -> Result<()> {
        self.writer.finish().map_err(|e| Error::write_parquet(&self.temp, &e))?;
        let sync = || {
            self.writer.inner().sync_all()?;
            fs::rename(&self.temp, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        sync().map_err(|e| Error::write(&self.path, &e))
    }
}

/// A file of pairs of u64.
pub(crate) struct PairFile {
    file: NewFile,
    schema: SchemaRef,
    left: Vec<u64>,
    right: Vec<u64>,
}

impl PairFile {
    pub(crate) fn create(path: &Path, note: Option<&str>) -> Result<Self> {
        let schema = pair_schema();
        let file = NewFile::create(path, &schema, note)?;
        Ok(Self { file, schema, left: Vec::new(), right: Vec::new() })
    }

    pub(crate) fn push(&mut self, left: u64, right: u64) -> Result<()> {
        self.left.push(left);
        self.right.push(right);
        if self.left.len() < ROWS { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let column = |numbers: &mut Vec<u64>| -> ArrayRef { Arc::new(UInt64Array::from(std::mem::take(numbers))) };
        let (left, right) = (column(&mut self.left), column(&mut self.right));
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), vec![left, right]);
        self.file.write(&rows.map_err(|e| Error::Internal(e.to_string()))?)
    }

    /// Closes, syncs and renames the file.
    pub(crate) fn end(mut self) -> Result<()> {
        self.flush()?;
        self.file.end()
    }
}

fn pair_schema() -> SchemaRef {
    let field = |name: &str| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![field(LEFT), field(RIGHT)]))
}

/// Reads columns of a file, in the file's column and row order.
pub(crate) fn read(path: &Path, columns: &[&str]) -> Result<ParquetRecordBatchReader> {
    let file = File::open(path).map_err(|e| Error::dest(path, format!("cannot read: {e}")))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| {
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        builder.with_projection(mask).with_batch_size(READ_ROWS).build()
    });
    reader.map_err(|e| Error::dest(path, format!("cannot read: {e}")))
}

/// Values of a non-null u64 column.
pub(crate) fn numbers(rows: &RecordBatch, column: usize) -> Result<&UInt64Array> {
    let found = rows.columns().get(column).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    found.filter(|found| found.null_count() == 0).ok_or_else(|| wrong(&format!("column {column} is not a number")))
}

/// Reads a pair file, in the file's order.
pub(crate) fn pairs(path: &Path) -> Result<impl Iterator<Item = Result<(u64, u64)>> + Send + use<>> {
    let (rows, path) = (read(path, &[LEFT, RIGHT])?, path.to_owned());
    Ok(rows.flat_map(move |rows| {
        let rows = rows.map_err(|e| Error::dest(&path, format!("cannot read: {e}")));
        match rows.and_then(|rows| pairs_of(&rows)) {
            Ok(pairs) => pairs.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    }))
}

/// All pairs of a pair file, sorted.
#[cfg(test)]
pub(crate) fn sorted_pairs(path: &Path) -> Vec<(u64, u64)> {
    let mut all: Vec<_> = pairs(path).unwrap().map(Result::unwrap).collect();
    all.sort_unstable();
    all
}

/// Values of the first two columns.
fn pairs_of(rows: &RecordBatch) -> Result<Vec<(u64, u64)>> {
    let (left, right) = (numbers(rows, 0)?, numbers(rows, 1)?);
    Ok(left.values().iter().copied().zip(right.values().iter().copied()).collect())
}

/// Error for an intermediate file with unexpected contents.
pub(crate) fn wrong(what: &str) -> Error {
    Error::Internal(format!("a file of --dedupe is not as it was written: {what}"))
}

pub(crate) fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// An external sorter: sorts files in bounded memory.
pub(crate) struct Sorter {
    ctx: SessionContext,
    /// Folder of the intermediate files.
    pub(crate) folder: PathBuf,
}

impl Sorter {
    /// Creates a sorter that spills to a subfolder of `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let spill = folder.join("spill");
        fs::create_dir_all(&spill).map_err(|e| Error::write(&spill, &e))?;
        Ok(Self { ctx: bounded(DiskManagerMode::Directories(vec![spill]))?, folder: folder.to_owned() })
    }

    /// Sorts two columns of `files` by both, after `filter`. `files` have the schema `schema`, and there is at least
    /// one.
    pub(crate) async fn sorted(
        &self,
        files: &[PathBuf],
        schema: &Schema,
        filter: Option<Expr>,
        columns: [&str; 2],
    ) -> Result<Sorted> {
        // Pass URLs: in a path, characters such as * would be read as patterns.
        let urls = files.iter().map(|file| {
            let url = std::path::absolute(file).ok().and_then(|path| Url::from_file_path(path).ok());
            url.map(String::from).ok_or_else(|| Error::dest(file, "its path cannot be read from"))
        });
        let urls = urls.collect::<Result<Vec<String>>>()?;
        let begin = async {
            let rows = self.ctx.read_parquet(urls, ParquetReadOptions::default().schema(schema)).await?;
            let rows = if let Some(filter) = filter { rows.filter(filter)? } else { rows };
            let order = columns.iter().map(|name| column(name).sort(true, false)).collect();
            rows.select_columns(&columns)?.sort(order)?.execute_stream().await
        };
        let stream = begin.await.map_err(|e| failed(&self.folder, &e))?;
        Ok(Sorted { stream, folder: self.folder.clone(), ahead: Vec::new().into_iter() })
    }

    /// Like `sorted`, for pair files.
    pub(crate) async fn pairs(&self, files: &[PathBuf]) -> Result<Sorted> {
        self.sorted(files, &pair_schema(), None, [LEFT, RIGHT]).await
    }
}

/// A sorted stream of rows.
pub(crate) struct Sorted {
    stream: SendableRecordBatchStream,
    folder: PathBuf,
    /// Pairs read ahead by [`Self::pair`].
    ahead: vec::IntoIter<(u64, u64)>,
}

impl Sorted {
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.stream.next().await.transpose().map_err(|e| failed(&self.folder, &e))
    }

    /// Next pair.
    pub(crate) async fn pair(&mut self) -> Result<Option<(u64, u64)>> {
        loop {
            if let Some(pair) = self.ahead.next() {
                return Ok(Some(pair));
            }
            match self.next().await? {
                Some(rows) => self.ahead = pairs_of(&rows)?.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

fn failed(folder: &Path, error: &DataFusionError) -> Error {
    Error::dest(folder, format!("--dedupe cannot sort its hashes there: {}", message(error)))
}
