//! Rows of a Parquet file.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::Array as _;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
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

use super::adapt::{adapt, with_lossy_texts};
use super::place::Place;
use super::rows::{Problem, Rows};
use super::{Batches, FileRecord, footer, schema};
use crate::error::{Error, Result};

/// Target size of a batch, bytes: batches of large images have fewer rows.
const BATCH_BYTES: u64 = 64 << 20;
/// Rows per batch when texts are checked.
const LOOKED_AT: usize = 1024;

/// Record and schema, from the footer.
pub(super) fn look(root: &Path, place: &Place) -> Result<(FileRecord, SchemaRef)> {
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
        FileRecord { name: place.name(root), bytes: file.len(), stamp, rows, images: Vec::new() },
        Arc::new(schema::plain(footer.schema())),
    ))
}

/// Rows of `ranges`; see [`super::Kind::read`]. Invalid UTF-8 becomes U+FFFD and a problem of its row.
pub(super) fn read(place: &Place, ranges: &[(u64, u64)], most: usize) -> Result<Batches, String> {
    let (reader, wanted) = open(place, ranges, most, |_| true).map_err(|e| e.to_string())?;
    Ok(Box::new(reader.map(move |batch| {
        let batch = batch.map_err(|e| e.to_string())?;
        texts(&batch, &wanted).map_err(|e| e.to_string())
    })))
}

/// Row and reason of the first text that is not UTF-8.
pub(super) fn bad_text(place: &Place, rows: u64) -> Result<Option<(u64, String)>, String> {
    let has_text = |column: &Field| schema::as_bytes(&Schema::new(vec![column.clone()])).field(0) != column;
    let (reader, wanted) = open(place, &[(0, rows)], LOOKED_AT, has_text).map_err(|e| e.to_string())?;
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

/// Reader of the columns that `is_asked` selects, with bytes in place of texts, and the schema to convert its rows to.
fn open(
    place: &Place,
    ranges: &[(u64, u64)],
    most: usize,
    is_asked: impl Fn(&Field) -> bool,
) -> Result<(ParquetRecordBatchReader, SchemaRef), ParquetError> {
    let file = place.chunks()?;
    let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let bytes: i64 = footer.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
    let rows = footer.metadata().file_metadata().num_rows();
    let wanted = Arc::new(schema::as_views(&schema::plain(footer.schema())));
    let bare = Arc::new(without_texts(footer.metadata(), &schema::as_bytes(&wanted))?);
    let bare = ArrowReaderMetadata::try_new(bare, ArrowReaderOptions::new())?;
    let columns: Vec<usize> = (0..wanted.fields().len()).filter(|column| is_asked(wanted.field(*column))).collect();
    let mask = ProjectionMask::roots(bare.parquet_schema(), columns.iter().copied());
    let wanted = Arc::new(wanted.project(&columns)?);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, bare)
        .with_projection(mask)
        .with_batch_size(batch_rows(bytes.unsigned_abs(), rows.unsigned_abs(), most))
        .with_row_selection(selection(ranges))
        .build()?;
    Ok((reader, wanted))
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

fn selection(ranges: &[(u64, u64)]) -> RowSelection {
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut at = 0;
    let mut selectors = Vec::new();
    for (start, rows) in ranges {
        selectors.push(RowSelector::skip(count(start - at)));
        selectors.push(RowSelector::select(count(*rows)));
        at = start + rows;
    }
    RowSelection::from(selectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_large_images_are_short() {
        assert_eq!(batch_rows(1000, 10, 64), 64);
        assert_eq!(batch_rows(100 << 30, 1000, 64), 1);
        assert_eq!(batch_rows(10 * (8 << 20), 10, 64), 8);
        assert_eq!(batch_rows(0, 0, 64), 64);
    }
}
