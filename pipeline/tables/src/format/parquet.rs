//! Rows of a Parquet file.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::{Array as _, new_null_array};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, ProjectionMask, encode_arrow_schema};
use datafusion::parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData};
use datafusion::parquet::file::reader::Length as _;
use datafusion::parquet::schema::types::{SchemaDescriptor, Type};

use crate::adapt::{adapt, with_lossy_texts};
use crate::error::{Error, Result};
use crate::file::Place;
use crate::file_record::FileRecord;
use crate::format::footer;
use crate::format::rows::{Batches, Problem, Rows};
use crate::image_names::ImageNames;
use crate::schema;

/// Target size of a batch, bytes: batches of large images have fewer rows.
const BATCH_BYTES: u64 = 64 << 20;
/// Rows per batch when texts are checked.
const LOOKED_AT: usize = 1024;

/// Record and schema, from the footer.
pub(crate) fn look(root: &Path, place: &Place) -> Result<(FileRecord, SchemaRef)> {
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
    Ok((
        FileRecord { name: place.name(root), bytes: file.len(), stamp, rows, images: ImageNames::default() },
        Arc::new(schema::plain(footer.schema())),
    ))
}

/// Rows of `ranges`; see [`crate::kind::Kind::read`]. Invalid UTF-8 becomes U+FFFD and a problem of its row.
pub(crate) fn read(place: &Place, ranges: &[(u64, u64)], most: usize) -> Result<Batches, String> {
    let first = open(place, ranges, most, |_| true).map_err(|e| e.to_string())?;
    let (wanted, batch_rows, group_ends) = (Arc::clone(&first.wanted), first.batch_rows, first.group_ends.clone());
    let (place, left) = (place.clone(), ranges.to_vec().into());
    Ok(Box::new(Reader { place, left, most, wanted, batch_rows, group_ends, open: Some(first), lost: None }))
}

/// Reads rows of a file and goes on behind a page that cannot be decoded.
struct Reader {
    place: Place,
    /// First row and number of rows of what has not been read yet.
    left: VecDeque<(u64, u64)>,
    most: usize,
    wanted: SchemaRef,
    batch_rows: usize,
    group_ends: Vec<u64>,
    /// Stands at the first row of `left`.
    open: Option<Opened>,
    /// Rows that are given up, the last ones of a run of them.
    lost: Option<Lost>,
}

struct Lost {
    /// Number of rows.
    rows: u64,
    /// The row behind the last one.
    end: u64,
    reason: String,
}

impl Iterator for Reader {
    type Item = Result<Rows, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let (row, _) = *self.left.front()?;
        if self.lost.as_ref().is_none_or(|lost| lost.end <= row) {
            let mut opened = match self.open.take() {
                Some(opened) => opened,
                None => match open(&self.place, self.left.make_contiguous(), self.most, |_| true) {
                    Ok(opened) => opened,
                    Err(e) => return Some(Err(e.to_string())),
                },
            };
            // The decoders of some encodings panic on bytes that no writer wrote. The reader is not used again.
            let read = catch_unwind(AssertUnwindSafe(|| opened.reader.next()));
            let read = read.unwrap_or_else(|_| Some(Err(ArrowError::ParquetError("its decoder panicked".to_owned()))));
            match read? {
                Ok(batch) => {
                    self.taken(batch.num_rows() as u64);
                    self.open = Some(opened);
                    return Some(texts(&batch, &self.wanted).map_err(|e| e.to_string()));
                }
                Err(e) if opened.failed.load(Ordering::Relaxed) => return Some(Err(e.to_string())),
                Err(e) => self.give_up(row, e.to_string()),
            }
        }
        Some(self.lose())
    }
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

    /// Gives up some rows from `row` on. The next row group may be whole.
    fn give_up(&mut self, row: u64, reason: String) {
        let end = self.group_ends.iter().copied().find(|end| row < *end).unwrap_or(u64::MAX);
        // Each try begins at the row group's beginning: twice as many rows are given up as in the try before.
        let lost = self.lost.as_ref().filter(|lost| lost.end == row);
        if lost.is_none() {
            log::warn!(
                "{}: damaged from row {row} on, whose page cannot be decoded: {reason}",
                self.place.shown().display()
            );
        }
        let rows = lost.map_or(self.batch_rows as u64, |lost| 2 * lost.rows).min(end - row);
        self.lost = Some(Lost { rows, end: row + rows, reason });
    }

    /// The next rows of those that were given up.
    fn lose(&mut self) -> Result<Rows, String> {
        let Some(((row, count), lost)) = self.left.front().zip(self.lost.as_ref()) else {
            return Err("no row is left to be given up".to_owned());
        };
        let rows = (*count).min(lost.end - row).min(self.batch_rows as u64);
        let reason = format!("the file is damaged here: {}", lost.reason);
        self.taken(rows);
        let rows = usize::try_from(rows).map_err(|e| e.to_string())?;
        let columns = self.wanted.fields().iter().map(|field| new_null_array(field.data_type(), rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.wanted), columns, &options);
        let problems = (0..rows).map(|row| Problem { row, column: None, reason: reason.clone() }).collect();
        Ok(Rows { batch: batch.map_err(|e| e.to_string())?, problems })
    }
}

/// Row and reason of the first text that is not UTF-8.
pub(crate) fn bad_text(place: &Place, rows: u64) -> Result<Option<(u64, String)>, String> {
    let has_text = |column: &Field| schema::as_bytes(&Schema::new(vec![column.clone()])).field(0) != column;
    let Opened { reader, wanted, .. } = open(place, &[(0, rows)], LOOKED_AT, has_text).map_err(|e| e.to_string())?;
    let mut row = 0;
    for batch in reader {
        let Rows { batch, problems } = texts(&batch.map_err(|e| e.to_string())?, &wanted).map_err(|e| e.to_string())?;
        if let Some(Problem { row: at, reason, .. }) = problems.into_iter().next() {
            return Ok(Some((row + at as u64, reason)));
        }
        row += batch.num_rows() as u64;
    }
    Ok(None)
}

/// A reader of some columns, with bytes in the place of texts.
struct Opened {
    reader: ParquetRecordBatchReader,
    /// The schema that the rows are to have; all columns are nullable.
    wanted: SchemaRef,
    batch_rows: usize,
    /// The row behind the last one of each row group.
    group_ends: Vec<u64>,
    failed: Arc<AtomicBool>,
}

fn open(
    place: &Place,
    ranges: &[(u64, u64)],
    most: usize,
    is_asked: impl Fn(&Field) -> bool,
) -> Result<Opened, ParquetError> {
    let file = place.chunks()?;
    let failed = file.failed();
    let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let of = footer.metadata().row_groups();
    let bytes: i64 = of.iter().map(|group| group.total_byte_size()).sum();
    let ends = of.iter().scan(0, |end, group| {
        *end += group.num_rows().unsigned_abs();
        Some(*end)
    });
    let group_ends: Vec<u64> = ends.collect();
    let (groups, rows_of_groups) = selection(&group_ends, ranges);
    let rows = footer.metadata().file_metadata().num_rows();
    let wanted = Arc::new(schema::as_views(&schema::plain(footer.schema())));
    let bare = Arc::new(without_texts(footer.metadata(), &schema::as_bytes(&wanted))?);
    let bare = ArrowReaderMetadata::try_new(bare, ArrowReaderOptions::new())?;
    let columns: Vec<usize> = (0..wanted.fields().len()).filter(|column| is_asked(wanted.field(*column))).collect();
    let mask = ProjectionMask::roots(bare.parquet_schema(), columns.iter().copied());
    let wanted = Arc::new(schema::nullable(&wanted.project(&columns)?));
    let batch_rows = batch_rows(bytes.unsigned_abs(), rows.unsigned_abs(), most);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, bare)
        .with_projection(mask)
        .with_batch_size(batch_rows)
        .with_row_groups(groups)
        .with_row_selection(rows_of_groups)
        .build()?;
    Ok(Opened { reader, wanted, batch_rows, group_ends, failed })
}

/// File metadata that declares texts as bytes: the reader rejects a whole page of texts for one that is not UTF-8,
/// without saying which. `read_as` has the columns' Arrow types.
fn without_texts(metadata: &ParquetMetaData, read_as: &Schema) -> Result<ParquetMetaData, ParquetError> {
    let file = metadata.file_metadata();
    let schema = SchemaDescriptor::new(Arc::new(without_text(file.schema())?));
    let told = file.key_value_metadata().into_iter().flatten().filter(|note| note.key != ARROW_SCHEMA_META_KEY);
    let own = KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(read_as));
    let (created_by, orders) = (file.created_by().map(str::to_owned), file.column_orders().cloned());
    let notes = Some(told.cloned().chain([own]).collect());
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
    let (mut groups, mut selectors) = (Vec::new(), Vec::new());
    let mut at = 0;
    for (group, end) in group_ends.iter().enumerate() {
        let first = ranges.partition_point(|(start, rows)| start + rows <= at);
        let these = ranges[first..].iter().take_while(|(start, _)| start < end);
        let these: Vec<(u64, u64)> =
            these.map(|(start, rows)| (*start.max(&at), (start + rows).min(*end))).filter(|(a, b)| a < b).collect();
        if these.is_empty() {
            at = *end;
            continue;
        }
        groups.push(group);
        for (start, behind) in these {
            selectors.push(RowSelector::skip(count(start - at)));
            selectors.push(RowSelector::select(count(behind - start)));
            at = behind;
        }
        selectors.push(RowSelector::skip(count(end - at)));
        at = *end;
    }
    (groups, RowSelection::from(selectors))
}

#[cfg(test)]
mod tests {
    use super::*;

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
                let mut rows = 0;
                for read in read(&Place::Local(path.clone()), &[(0, 60)], 8).unwrap() {
                    let Rows { batch, problems } = read.unwrap_or_else(|e| panic!("byte {place}: {e}"));
                    rows += batch.num_rows();
                    failed += problems.len();
                }
                assert_eq!(rows, 60, "byte {place}");
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
