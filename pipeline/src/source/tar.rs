//! Rows of a WebDataset shard: its samples.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{Batches, FileRecord};
use crate::error::{Error, Result};
use crate::webdataset;

/// What the members' headers say.
pub(super) fn look(root: &Path, path: &Path) -> Result<(FileRecord, SchemaRef)> {
    let bytes = fs::metadata(path).map_err(|e| Error::source(path, e))?.len();
    let (rows, stamp) = webdataset::count(path).map_err(|e| Error::source(path, e))?;
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    // As other readers are to see what comes of it: no views.
    let schema = webdataset::schema();
    let plain = schema.fields().iter().map(|field| {
        let to = if field.data_type() == &DataType::BinaryView { DataType::Binary } else { DataType::Utf8 };
        field.as_ref().clone().with_data_type(to)
    });
    let written = Schema::new(plain.collect::<Vec<Field>>());
    Ok((FileRecord { name, bytes, stamp, rows }, Arc::new(written)))
}

/// The samples of `ranges`, as [`super::Kind::read`] has them.
pub(super) fn read(path: &Path, ranges: &[(u64, u64)], most: usize) -> Result<Batches, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let batches = webdataset::samples(BufReader::new(file), ranges.to_vec(), most);
    Ok(Box::new(batches.map(|batch| batch.map_err(|e| e.to_string()))))
}
