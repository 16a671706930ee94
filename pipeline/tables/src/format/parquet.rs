//! Rows of a Parquet file.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::{Array as _, new_null_array};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, ProjectionMask, encode_arrow_schema};
use datafusion::parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData};
use datafusion::parquet::file::reader::Length as _;
use datafusion::parquet::schema::types::{SchemaDescriptor, Type};

use crate::adapt::{adapt, with_lossy_texts};
use crate::error::{Error, Result};
use crate::file::{Chunks, DataFile};
use crate::format::contract::{About, FileFormat, FileInfo, InSql, Inspection, Scan};
use crate::format::footer;
use crate::format::rows::{Batches, Problem, Rows};
use crate::schema;

/// Target size of a batch, bytes: batches of large images have fewer rows.
const BATCH_BYTES: u64 = 64 << 20;
/// Rows per batch when texts are checked.
const LOOKED_AT: usize = 1024;

/// Parquet files.
#[derive(Debug)]
pub(crate) struct Parquet;

static ABOUT: About = About {
    magic: b"PAR1",
    inspects_all: false,
    seeks: true,
    in_sql: InSql::DataFusion("parquet"),
    ..About::new("Parquet", &["parquet"])
};

impl FileFormat for Parquet {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    /// Reads the footer.
    fn inspect(&self, place: &DataFile, _: &Inspection) -> Result<FileInfo> {
        let file = place.chunks().map_err(|e| Error::source(place.shown(), e))?;
        // With a plaintext footer, reading would fail only at the first encrypted column.
        if footer::is_encrypted(&file) {
            return Err(place.error(|| "it is encrypted: write it anew without".to_owned()));
        }
        let broken = |e: &dyn std::fmt::Display| place.error(|| format!("not a Parquet file, or a broken one: {e}"));
        let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| broken(&e))?;
        if let Some(name) = schema::twice(footer.schema()) {
            return Err(place.error(|| format!("it has two columns {name:?}: rename one")));
        }
        let rows = u64::try_from(footer.metadata().file_metadata().num_rows()).unwrap_or(0);
        let stamp = footer::digest(&file).map_err(|e| broken(&e))?;
        Ok(FileInfo { rows, bytes: file.len(), stamp, schema: Arc::new(schema::plain(footer.schema())) })
    }

    /// Makes U+FFFD of invalid UTF-8, which is a problem of its row. A row that cannot be decoded is NULL and has a problem.
    fn read(&self, place: &DataFile, scan: &Scan<'_>) -> Result<Batches, String> {
        let chunks = place.chunks().map_err(|e| e.to_string())?;
        let file = Footer::load(&chunks, scan.batch_rows, |_| true).map_err(|e| e.to_string())?;
        let left = scan.ranges.to_vec().into();
        Ok(Box::new(Reader { place: place.clone(), chunks, file, left, open: None, alone: 0, last_failed: None }))
    }

    fn bad_text(&self, place: &DataFile, rows: u64) -> Result<Option<(u64, String)>, String> {
        let has_text = |column: &Field| schema::as_bytes(&Schema::new(vec![column.clone()])).field(0) != column;
        let chunks = place.chunks().map_err(|e| e.to_string())?;
        let file = Footer::load(&chunks, LOOKED_AT, has_text).map_err(|e| e.to_string())?;
        let opened = file.open(&chunks, &[(0, rows)]).map_err(|e| e.to_string())?;
        let mut row = 0;
        for batch in opened.reader {
            let Rows { batch, problems } =
                texts(&batch.map_err(|e| e.to_string())?, &file.wanted).map_err(|e| e.to_string())?;
            if let Some(Problem { row: at, reason, .. }) = problems.into_iter().next() {
                return Ok(Some((row + at as u64, reason)));
            }
            row += batch.num_rows() as u64;
        }
        Ok(None)
    }
}

/// Reads rows of a file and goes on behind a page that cannot be decoded.
///
/// Whether a row fails is a function of the row: the rows of a batch that fails are read again, each alone. The batch
/// would not do, since its rows depend on units, shards and kills.
struct Reader {
    place: DataFile,
    chunks: Chunks,
    file: Footer,
    /// First row and number of rows of what has not been read yet.
    left: VecDeque<(u64, u64)>,
    /// Stands at the first row of `left`.
    open: Option<Opened>,
    /// Number of next rows that are read alone.
    alone: usize,
    /// The last row that failed.
    last_failed: Option<u64>,
}

impl Iterator for Reader {
    type Item = Result<Rows, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (row, _) = *self.left.front()?;
            let is_alone = self.alone > 0;
            self.chunks.scatter(is_alone);
            let opened = match self.open.take() {
                Some(opened) => Ok(opened),
                None if is_alone => self.file.open(&self.chunks, &[(row, 1)]),
                None => self.file.open(&self.chunks, self.left.make_contiguous()),
            };
            let mut opened = match opened {
                Ok(opened) => opened,
                Err(e) => return Some(Err(e.to_string())),
            };
            // The decoders of some encodings panic on bytes that no writer wrote. The reader is not used again.
            DECODING.set(true);
            let read = catch_unwind(AssertUnwindSafe(|| opened.reader.next()));
            DECODING.set(false);
            let read = read.unwrap_or_else(|_| Some(Err(ArrowError::ParquetError("its decoder panicked".to_owned()))));
            let failed = match read? {
                Ok(batch) => {
                    self.taken(batch.num_rows() as u64);
                    if is_alone {
                        self.alone -= 1;
                    } else {
                        self.open = Some(opened);
                    }
                    return Some(texts(&batch, &self.file.wanted).map_err(|e| e.to_string()));
                }
                Err(e) if opened.failed.load(Ordering::Relaxed) => return Some(Err(e.to_string())),
                Err(e) => e.to_string(),
            };
            if is_alone {
                self.alone -= 1;
                return Some(self.lose(row, &failed));
            }
            self.alone = self.file.batch_rows;
        }
    }
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of the current thread would be one of a Parquet decoder, which costs rows and is reported as their
/// error: a program's panic hook may leave it out.
pub fn is_decoding() -> bool {
    DECODING.get()
}

impl Reader {
    /// `rows` more rows are read, which may span ranges.
    fn taken(&mut self, mut rows: u64) {
        while rows > 0
            && let Some((start, count)) = self.left.front_mut()
        {
            let these = rows.min(*count);
            (*start, *count, rows) = (*start + these, *count - these, rows - these);
            if *count == 0 {
                self.left.pop_front();
            }
        }
    }

    /// The row that cannot be decoded, as NULL with a problem.
    fn lose(&mut self, row: u64, reason: &str) -> Result<Rows, String> {
        if self.last_failed.is_none_or(|last| last + 1 != row) {
            log::warn!(
                "{}: damaged from row {row} on, whose page cannot be decoded: {reason}",
                self.place.shown().display()
            );
        }
        self.last_failed = Some(row);
        self.taken(1);
        let wanted = &self.file.wanted;
        let columns = wanted.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let batch = RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options);
        let reason = format!("the file is damaged here: {reason}");
        let problems = vec![Problem { row: 0, column: None, reason }];
        Ok(Rows { batch: batch.map_err(|e| e.to_string())?, problems })
    }
}

/// What is known of a file before its rows are read, with bytes in the place of texts.
struct Footer {
    bare: ArrowReaderMetadata,
    mask: ProjectionMask,
    /// The schema that the rows are to have; all columns are nullable.
    wanted: SchemaRef,
    batch_rows: usize,
    /// The row behind the last one of each row group.
    group_ends: Vec<u64>,
}

struct Opened {
    reader: ParquetRecordBatchReader,
    /// Set once the disk or the store has failed.
    failed: Arc<AtomicBool>,
}

impl Footer {
    /// For columns that `is_asked` accepts, in batches of at most `most` rows.
    fn load(chunks: &Chunks, most: usize, is_asked: impl Fn(&Field) -> bool) -> Result<Self, ParquetError> {
        let footer = ArrowReaderMetadata::load(chunks, ArrowReaderOptions::new())?;
        let groups = footer.metadata().row_groups();
        let bytes: i64 = groups.iter().map(|group| group.total_byte_size()).sum();
        let ends = groups.iter().scan(0, |end, group| {
            *end += group.num_rows().unsigned_abs();
            Some(*end)
        });
        let group_ends = ends.collect();
        let rows = footer.metadata().file_metadata().num_rows();
        let wanted = Arc::new(schema::as_views(&schema::plain(footer.schema())));
        let bare = Arc::new(without_texts(footer.metadata(), &schema::as_bytes(&wanted))?);
        let bare = ArrowReaderMetadata::try_new(bare, ArrowReaderOptions::new())?;
        let columns: Vec<usize> = (0..wanted.fields().len()).filter(|column| is_asked(wanted.field(*column))).collect();
        let mask = ProjectionMask::roots(bare.parquet_schema(), columns.iter().copied());
        let wanted = Arc::new(schema::nullable(&wanted.project(&columns)?));
        let batch_rows = batch_rows(bytes.unsigned_abs(), rows.unsigned_abs(), most);
        Ok(Self { bare, mask, wanted, batch_rows, group_ends })
    }

    fn open(&self, chunks: &Chunks, ranges: &[(u64, u64)]) -> Result<Opened, ParquetError> {
        let file = chunks.clone();
        let failed = file.failed();
        let (groups, rows) = selection(&self.group_ends, ranges);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.bare.clone())
            .with_projection(self.mask.clone())
            .with_batch_size(self.batch_rows)
            .with_row_groups(groups)
            .with_row_selection(rows)
            .build()?;
        Ok(Opened { reader, failed })
    }
}

/// File metadata that declares texts as bytes: the reader rejects a whole page of texts for one that is not UTF-8,
/// without saying which. `read_as` has the columns' Arrow types.
fn without_texts(metadata: &ParquetMetaData, read_as: &Schema) -> Result<ParquetMetaData, ParquetError> {
    let file = metadata.file_metadata();
    let schema = SchemaDescriptor::new(Arc::new(without_text(file.schema())?));
    let notes_of_file =
        file.key_value_metadata().into_iter().flatten().filter(|note| note.key != ARROW_SCHEMA_META_KEY);
    let own = KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(read_as));
    let (created_by, orders) = (file.created_by().map(str::to_owned), file.column_orders().cloned());
    let notes = Some(notes_of_file.cloned().chain([own]).collect());
    let file = FileMetaData::new(file.version(), file.num_rows(), created_by, notes, Arc::new(schema), orders);
    Ok(ParquetMetaData::new(file, metadata.row_groups().to_vec()))
}

fn without_text(of: &Type) -> Result<Type, ParquetError> {
    let info = of.get_basic_info();
    let id = info.has_id().then(|| info.id());
    match of {
        Type::GroupType { fields, .. } => {
            let fields = fields.iter().map(|field| without_text(field).map(Arc::new)).collect::<Result<_, _>>()?;
            let group = Type::group_type_builder(info.name())
                .with_converted_type(info.converted_type())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_fields(fields)
                .with_id(id);
            if info.has_repetition() { group.with_repetition(info.repetition()).build() } else { group.build() }
        }
        Type::PrimitiveType { physical_type: Physical::BYTE_ARRAY, .. } if is_text(of) => {
            Type::primitive_type_builder(info.name(), Physical::BYTE_ARRAY)
                .with_repetition(info.repetition())
                .with_id(id)
                .build()
        }
        other => Ok(other.clone()),
    }
}

/// Whether Arrow reads the type as text.
fn is_text(of: &Type) -> bool {
    let info = of.get_basic_info();
    match info.logical_type_ref() {
        Some(logical) => matches!(logical, LogicalType::String | LogicalType::Json),
        None => matches!(info.converted_type(), ConvertedType::UTF8 | ConvertedType::JSON),
    }
}

/// Converts the bytes of a batch to the texts of `wanted`; rows with invalid UTF-8 become problems.
fn texts(batch: &RecordBatch, wanted: &SchemaRef) -> Result<Rows, ArrowError> {
    let mut problems = Vec::new();
    let columns = wanted.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if let Ok(column) = adapt(column, field.data_type()) {
            return Ok(column);
        }
        let lossy = with_lossy_texts(column, field.data_type())?;
        let is_bad = |row: &usize| adapt(&column.slice(*row, 1), field.data_type()).is_err();
        for row in (0..column.len()).filter(is_bad) {
            problems.push(Problem::not_utf8(row, field.name(), &array_value_to_string(&lossy, row)?));
        }
        Ok(lossy)
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    problems.sort_by_key(|problem| problem.row);
    Ok(Rows { batch: RecordBatch::try_new(Arc::clone(wanted), columns)?, problems })
}

fn batch_rows(bytes: u64, rows: u64, most: usize) -> usize {
    let row = (bytes / rows.max(1)).max(1);
    usize::try_from(BATCH_BYTES / row).unwrap_or(most).clamp(1, most)
}

/// The row groups, whose ends are given, that have rows of `ranges`, and which of their rows these are. The reader would look
/// for rows to skip in the others too, and fail in one that is damaged.
fn selection(group_ends: &[u64], ranges: &[(u64, u64)]) -> (Vec<usize>, RowSelection) {
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let all = group_ends.last().copied().unwrap_or_default();
    let within = ranges.iter().map(|(start, rows)| count(*start)..count((start + rows).min(all)));
    let mut left = RowSelection::from_consecutive_ranges(within.filter(|range| !range.is_empty()), count(all));
    let mut at = 0;
    let groups = group_ends.iter().enumerate().filter_map(|(group, end)| {
        let rows = left.split_off(count(end - at));
        at = *end;
        rows.selects_any().then_some((group, rows))
    });
    let (groups, rows): (Vec<usize>, Vec<RowSelection>) = groups.unzip();
    (groups, rows.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::contract;
    use datafusion::parquet::arrow::arrow_reader::RowSelector;

    #[test]
    fn row_groups_without_a_wanted_row_are_not_read() {
        let (groups, rows) = selection(&[10, 20, 20, 30, 40], &[(12, 3), (16, 1), (18, 15)]);
        assert_eq!(groups, [1, 3, 4]);
        let of: Vec<RowSelector> = rows.into();
        let (skip, take) = (RowSelector::skip, RowSelector::select);
        assert_eq!(of, [skip(2), take(3), skip(1), take(1), skip(1), take(15), skip(7)]);
        assert_eq!(selection(&[10, 20], &[(3, 0), (20, 0)]).0, [0; 0]);
    }

    /// Whatever byte is another one, a reader ends, its rows are as many as before, and one that has no problem is as it was.
    #[test]
    fn a_damaged_file_is_read_to_its_end() {
        use datafusion::arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
        use datafusion::parquet::arrow::ArrowWriter;
        use datafusion::parquet::basic::Compression;
        use datafusion::parquet::file::properties::WriterProperties;

        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(Int64Array::from_iter_values(0..60))),
            ("text", Arc::new(StringArray::from_iter_values((0..60).map(|n| format!("text {}", n % 7))))),
            ("image", Arc::new(BinaryArray::from_iter_values((0..60).map(|n| vec![n as u8; 40])))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        for compression in [Compression::SNAPPY, Compression::ZSTD(Default::default())] {
            let properties = WriterProperties::builder().set_compression(compression).set_data_page_row_count_limit(10);
            let properties = properties.set_write_batch_size(10).set_max_row_group_row_count(Some(30)).build();
            let mut whole = Vec::new();
            let mut writer = ArrowWriter::try_new(&mut whole, batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            let footer = writer.close().unwrap();
            let pages = usize::try_from(footer.row_group(1).column(2).byte_range().0).unwrap();
            let mut failed = 0;
            for place in 4..pages {
                let mut broken = whole.clone();
                broken[place] ^= 0xff;
                std::fs::write(&path, &broken).unwrap();
                let failing = |ranges: &[(u64, u64)], most: usize| -> Vec<u64> {
                    let numbers: Vec<u64> = ranges.iter().flat_map(|(start, rows)| *start..start + rows).collect();
                    let (mut rows, mut failing) = (0, Vec::new());
                    let (schema, reader) = (Arc::new(Schema::empty()), contract::Reader::Sql);
                    let scan = Scan { schema: &schema, ranges, batch_rows: most, reader };
                    for read in Parquet.read(&DataFile::Local(path.clone()), &scan).unwrap() {
                        let Rows { batch, problems } = read.unwrap_or_else(|e| panic!("byte {place}: {e}"));
                        failing.extend(problems.iter().map(|problem| numbers[rows + problem.row]));
                        rows += batch.num_rows();
                    }
                    assert_eq!(rows, numbers.len(), "byte {place}");
                    failing
                };
                let all = failing(&[(0, 60)], 8);
                failed += all.len();
                // However the rows are cut, the same ones fail. This is the slow part.
                if place % 3 > 0 {
                    continue;
                }
                assert_eq!(failing(&[(0, 60)], 64), all, "byte {place}");
                let mut shards = failing(&[(0, 7), (14, 7), (28, 7), (42, 7), (56, 4)], 64);
                shards.extend(failing(&[(7, 7), (21, 7), (35, 7), (49, 7)], 64));
                shards.sort_unstable();
                assert_eq!(shards, all, "byte {place}");
            }
            assert!(failed > pages, "{failed}");
        }
    }

    #[test]
    fn batches_of_large_images_are_short() {
        assert_eq!(batch_rows(1000, 10, 64), 64);
        assert_eq!(batch_rows(100 << 30, 1000, 64), 1);
        assert_eq!(batch_rows(10 * (8 << 20), 10, 64), 8);
        assert_eq!(batch_rows(0, 0, 64), 64);
    }
}
