//! The Parquet files that a job reads.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// Parquet files of one schema, in the order of their names.
#[derive(Debug)]
pub struct Source {
    files: Vec<PathBuf>,
    rows: u64,
    /// As the rows are read: texts and images as views, so that a second copy of an image is 16 bytes.
    schema: SchemaRef,
    /// As the first file says.
    written: SchemaRef,
}

/// Rows of one file.
pub(crate) struct Chunk {
    pub(crate) file: usize,
    pub(crate) rows: RecordBatch,
}

impl Source {
    /// Opens a Parquet file, or a folder of them, and reads the footers.
    pub fn open(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).map_err(|e| Error::source(path, e))?;
        let mut files = Vec::new();
        if meta.is_dir() {
            collect(path, &mut files)?;
            files.sort();
        } else {
            files.push(path.to_owned());
        }
        let Some(first) = files.first() else {
            return Err(Error::source(path, "the folder holds no .parquet file"));
        };
        let written = Arc::clone(footer(first)?.schema());
        let mut fields: Vec<Field> = as_views(&written).fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut rows = 0;
        for file in &files {
            let footer = footer(file)?;
            rows += u64::try_from(footer.metadata().file_metadata().num_rows()).unwrap_or(0);
            let these = as_views(footer.schema());
            let same = these.fields().len() == fields.len()
                && these
                    .fields()
                    .iter()
                    .zip(&fields)
                    .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
            if !same {
                let reason = format!("its columns differ from those of {}: convert one of them", first.display());
                return Err(Error::source(file, reason));
            }
            for (field, this) in fields.iter_mut().zip(these.fields()) {
                field.set_nullable(field.is_nullable() || this.is_nullable());
            }
        }
        Ok(Self { files, rows, schema: Arc::new(Schema::new(fields)), written })
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Number of rows, by the files' footers.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn written_schema(&self) -> &SchemaRef {
        &self.written
    }

    /// Reads the rows in order, on a thread of their own, at most a few chunks ahead.
    pub(crate) fn read(self: &Arc<Self>, rows: usize) -> mpsc::Receiver<Result<Chunk>> {
        let (sender, receiver) = mpsc::channel(2);
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            for (file, path) in this.files.iter().enumerate() {
                if let Err(error) = this.read_file(file, path, rows, &sender) {
                    // Nobody listens any more: the job has failed elsewhere.
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        });
        receiver
    }

    fn read_file(&self, file: usize, path: &Path, rows: usize, sender: &mpsc::Sender<Result<Chunk>>) -> Result<()> {
        let broken = |e: &dyn std::fmt::Display| Error::source(path, format!("cannot read: {e}"));
        let handle = File::open(path).map_err(|e| broken(&e))?;
        let footer = footer(path)?;
        let options = ArrowReaderOptions::new().with_schema(Arc::new(as_views(footer.schema())));
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(handle, options)
            .and_then(|builder| builder.with_batch_size(rows).build())
            .map_err(|e| broken(&e))?;
        for batch in reader {
            let batch = batch.map_err(|e| broken(&e))?;
            let columns = batch.columns().to_vec();
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|e| broken(&e))?;
            if sender.blocking_send(Ok(Chunk { file, rows })).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn footer(path: &Path) -> Result<ArrowReaderMetadata> {
    let file = File::open(path).map_err(|e| Error::source(path, e))?;
    ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
        .map_err(|e| Error::source(path, format!("not a Parquet file, or a broken one: {e}")))
}

/// Every `.parquet` below `folder`; names that begin with a dot or an underscore are bookkeeping.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::source(folder, e))? {
        let path = entry.map_err(|e| Error::source(folder, e))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            // Its value is a column that the files lack; to leave it out silently would lose data.
            if name.contains('=') {
                return Err(Error::source(path, "partition folders are not read: give one of them as the source"));
            }
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet")) {
            files.push(path);
        }
    }
    Ok(())
}

/// Texts and images as views, as DataFusion's own reader has them.
fn as_views(schema: &Schema) -> Schema {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match view_of(field.data_type()) {
            Some(view) => field.as_ref().clone().with_data_type(view),
            None => field.as_ref().clone(),
        })
        .collect();
    Schema::new(fields)
}

fn view_of(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Utf8 | DataType::LargeUtf8 => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary => Some(DataType::BinaryView),
        _ => None,
    }
}

/// The schema that an output file records: its columns as the source wrote them, and no views, which few other readers know.
pub(crate) fn recorded(output: &Schema, source: &Schema) -> Schema {
    let fields: Vec<Field> = output
        .fields()
        .iter()
        .map(|field| {
            let before = source.field_with_name(field.name()).ok().map(Field::data_type);
            let plain = match (before, field.data_type()) {
                (Some(before), now) if view_of(before).as_ref() == Some(now) => before.clone(),
                (_, DataType::Utf8View) => DataType::Utf8,
                (_, DataType::BinaryView) => DataType::Binary,
                (_, other) => other.clone(),
            };
            field.as_ref().clone().with_data_type(plain)
        })
        .collect();
    Schema::new(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_types_are_the_sources() {
        let schema = |types: &[(&str, DataType)]| {
            Schema::new(types.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>())
        };
        let source = schema(&[("a", DataType::LargeUtf8), ("b", DataType::Binary), ("c", DataType::Int64)]);
        let output = schema(&[
            ("a", DataType::Utf8View),
            ("b", DataType::BinaryView),
            ("c", DataType::Int64),
            ("new", DataType::Utf8View),
        ]);
        let got = recorded(&output, &source);
        let types: Vec<_> = got.fields().iter().map(|f| f.data_type().clone()).collect();
        assert_eq!(types, [DataType::LargeUtf8, DataType::Binary, DataType::Int64, DataType::Utf8]);
    }
}
