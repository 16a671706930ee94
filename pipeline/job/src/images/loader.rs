//! Contract of image loaders.

use std::collections::BTreeMap;

use async_trait::async_trait;
use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use capfilt_udfs::image::binary_view;
use datafusion::arrow::array::{ArrayRef, AsArray as _};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;

/// Loads the images of a source's rows.
#[async_trait]
pub(crate) trait ImageLoader: Send + Sync {
    /// Loads the images of a chunk. A row that already has a problem needs none. An error ends the job, whereas an image
    /// that cannot be loaded is a problem of its row.
    async fn load(&self, chunk: &Chunk) -> Result<LoadedImages>;

    /// Maximum number of chunks, from 1, whose images are loaded at a time and are in memory together.
    fn chunks_ahead(&self) -> usize {
        2
    }

    /// Whether the rows hold their images themselves, so that a chunk's images are in memory whatever is loaded.
    fn is_inline(&self) -> bool {
        false
    }

    /// Settings that determine which images are loaded; they are part of the job's identity.
    fn settings(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// Images of a chunk's rows.
pub(crate) struct LoadedImages {
    /// Image of each row, or NULL; `None` if the rows hold their images themselves.
    pub(crate) images: Option<ArrayRef>,
    /// Reasons why images could not be loaded, by row number in the file.
    pub(crate) problems: BTreeMap<u64, String>,
}

impl LoadedImages {
    /// Collects the bytes of each row's image, or the reason why it could not be loaded; `None` for a row without a
    /// name.
    pub(crate) fn collect<B: Into<Buffer> + AsRef<[u8]>>(
        chunk: &Chunk,
        images: Vec<Option<Result<B, String>>>,
    ) -> Result<Self> {
        let mut problems = BTreeMap::new();
        let images = chunk
            .numbers
            .iter()
            .zip(images)
            .map(|(row, image)| image?.map_err(|reason| problems.insert(*row, reason)).ok());
        let images = binary_view(images).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(Self { images: Some(images), problems })
    }
}

/// Names of images in a column, without those of rows that already have a problem.
pub(crate) fn names(chunk: &Chunk, column: &str) -> Result<Vec<Option<String>>> {
    let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("column {column}: {e}"));
    let found = chunk.rows.column_by_name(column).ok_or_else(|| broken(&"it is not there"))?;
    let found = cast(found, &DataType::Utf8View).map_err(|e| broken(&e))?;
    let names = chunk.numbers.iter().zip(found.as_string_view());
    Ok(names.map(|(row, name)| name.filter(|_| !chunk.problems.contains_key(row)).map(str::to_owned)).collect())
}
