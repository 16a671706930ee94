//! Rows of a Parquet file.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::reader::{ChunkReader as _, Length as _};
use sha2::{Digest as _, Sha256};

use super::place::{Chunks, Place};
use super::{Batches, FileRecord, schema};
use crate::error::{Error, Result};

/// Batches of large images have fewer rows, so that about this much is read at once.
const BATCH_BYTES: u64 = 64 << 20;

/// What the footer says.
pub(super) fn look(root: &Path, place: &Place) -> Result<(FileRecord, SchemaRef)> {
    let file = place.chunks().map_err(|e| Error::source(place.shown(), e))?;
    let broken = |e: &dyn std::fmt::Display| place.error(|| format!("not a Parquet file, or a broken one: {e}"));
    let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| broken(&e))?;
    let rows = u64::try_from(footer.metadata().file_metadata().num_rows()).unwrap_or(0);
    let stamp = footer_digest(&file).map_err(|e| broken(&e))?;
    Ok((
        FileRecord { name: place.name(root), bytes: file.len(), stamp, rows, images: Vec::new() },
        Arc::clone(footer.schema()),
    ))
}

/// The footer tells sizes, places and statistics of all that is in the file; a copy of the file has the same.
fn footer_digest(file: &Chunks) -> Result<String, ParquetError> {
    let tail = file.get_bytes(file.len().saturating_sub(8), 8)?;
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let footer = file.get_bytes(file.len().saturating_sub(8 + u64::from(length)), length as usize)?;
    Ok(hex::encode(&Sha256::digest(&footer)[..8]))
}

/// The rows of `ranges`, as [`super::Kind::read`] has them.
pub(super) fn read(place: &Place, ranges: &[(u64, u64)], most: usize) -> Result<Batches, String> {
    let reader = open(place, ranges, most).map_err(|e| e.to_string())?;
    Ok(Box::new(reader.map(|batch| batch.map_err(|e| e.to_string()))))
}

fn open(place: &Place, ranges: &[(u64, u64)], most: usize) -> Result<ParquetRecordBatchReader, ParquetError> {
    let file = place.chunks()?;
    let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let bytes: i64 = footer.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
    let rows = footer.metadata().file_metadata().num_rows();
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema::as_views(footer.schema())));
    // What is annotated as other than UTF-8, and is a text all the same, would not be looked at.
    let checked = capfilt_udfs::checked_texts(Arc::clone(footer.metadata()), footer.schema())?;
    ParquetRecordBatchReaderBuilder::new_with_metadata(file, ArrowReaderMetadata::try_new(checked, options)?)
        .with_batch_size(batch_rows(bytes.unsigned_abs(), rows.unsigned_abs(), most))
        .with_row_selection(selection(ranges))
        .build()
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
    use std::fs::File;

    use datafusion::arrow::array::{ArrayRef, AsArray as _, BinaryArray};
    use datafusion::arrow::record_batch::RecordBatch;
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
    use datafusion::parquet::basic::{LogicalType, Repetition, Type as Physical};
    use datafusion::parquet::schema::types::{SchemaDescriptor, Type};

    use super::*;

    /// A JSON column of DuckDB's is a text, and is looked at as one.
    #[test]
    fn json_that_is_no_utf8_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let column = Type::primitive_type_builder("j", Physical::BYTE_ARRAY).with_logical_type(Some(LogicalType::Json));
        let column = column.with_repetition(Repetition::REQUIRED);
        let fields = vec![Arc::new(column.build().unwrap())];
        let root = Type::group_type_builder("duckdb_schema").with_fields(fields).build().unwrap();
        let written = Arc::new(SchemaDescriptor::new(Arc::new(root)));
        let read_all = |name: &str, value: &[u8]| {
            let path = folder.path().join(name);
            let values: ArrayRef = Arc::new(BinaryArray::from_vec(vec![value]));
            let rows = RecordBatch::try_from_iter([("j", values)]).unwrap();
            let options = ArrowWriterOptions::new()
                .with_skip_arrow_metadata(true)
                .with_parquet_schema(SchemaDescriptor::clone(&written));
            let mut writer =
                ArrowWriter::try_new_with_options(File::create(&path).unwrap(), rows.schema(), options).unwrap();
            writer.write(&rows).unwrap();
            writer.close().unwrap();
            read(&Place::Local(path), &[(0, 1)], 8)?.collect::<Result<Vec<_>, _>>()
        };
        let good = read_all("good.parquet", b"{\"a\": \"caf\xc3\xa9\"}").unwrap();
        assert_eq!(good[0].column(0).as_string_view().value(0), "{\"a\": \"café\"}");
        let error = read_all("bad.parquet", b"{\"a\": \"Latin-1, caf\xe9\"}").unwrap_err();
        assert!(error.to_lowercase().contains("utf-8"), "{error}");
    }

    #[test]
    fn batches_of_large_images_are_short() {
        assert_eq!(batch_rows(1000, 10, 64), 64);
        assert_eq!(batch_rows(100 << 30, 1000, 64), 1);
        assert_eq!(batch_rows(10 * (8 << 20), 10, 64), 8);
        assert_eq!(batch_rows(0, 0, 64), 64);
    }
}
