//! Images in the rows themselves.

use std::collections::BTreeMap;

use async_trait::async_trait;
use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use datafusion::arrow::array::{Array as _, AsArray as _};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;

use crate::images::loader::{ImageLoader, LoadedImages};

/// The source's own column, of bytes or structs that contain them.
pub(crate) struct Inline {
    pub(crate) column: String,
}

#[async_trait]
impl ImageLoader for Inline {
    async fn load(&self, chunk: &Chunk) -> Result<LoadedImages> {
        Ok(LoadedImages { images: None, problems: only_paths(chunk, &self.column)? })
    }

    fn is_inline(&self) -> bool {
        true
    }
}

/// Errors for rows whose Hugging Face struct {bytes, path} has a path but no bytes, by row number.
fn only_paths(chunk: &Chunk, column: &str) -> Result<BTreeMap<u64, String>> {
    let images = chunk.rows.column_by_name(column).and_then(|images| images.as_struct_opt());
    let part = |name: &str| images.and_then(|images| images.column_by_name(name));
    let (Some(images), Some(bytes), Some(paths)) = (images, part("bytes"), part("path")) else {
        return Ok(BTreeMap::new());
    };
    let Some(bytes) = bytes.logical_nulls() else { return Ok(BTreeMap::new()) };
    let paths = cast(paths, &DataType::Utf8View).map_err(|e| Error::Internal(format!("column {column}: {e}")))?;
    let rows = chunk.numbers.iter().copied().zip(paths.as_string_view()).enumerate();
    let alone = rows.filter(|(row, (number, _))| {
        images.is_valid(*row) && bytes.is_null(*row) && !chunk.problems.contains_key(number)
    });
    let reason = |path: &str| {
        format!(
            "no bytes: only a path ({path}), which is not read here: make it a column of its own, {column}['path'], and give \
             that with --image-column and --image-is path"
        )
    };
    Ok(alone.filter_map(|(_, (number, path))| Some((number, reason(path?)))).collect())
}
