//! Images in files that a column names.

use std::path::Path;

use async_trait::async_trait;
use capfilt_tables::error::Result;
use capfilt_tables::halt;
use capfilt_tables::image_root::Root;
use capfilt_tables::source::chunk::Chunk;
use datafusion::prelude::SessionContext;

use crate::images::loader::{ImageLoader, LoadedImages, names};

/// Files below a folder, named by a column.
pub(crate) struct Files {
    root: Root,
    column: String,
    /// Maximum size of a file in bytes.
    limit: u64,
}

impl Files {
    /// Opens the folder `root`, with the session's limit on image sizes.
    pub(crate) async fn open(ctx: &SessionContext, column: &str, root: &Path) -> Result<Self> {
        let limit = capfilt_udfs::options(ctx).image_limits().max_bytes;
        let root = root.to_owned();
        let root = halt::aside(move |_| Root::open(&root)).await?;
        Ok(Self { root, column: column.to_owned(), limit })
    }
}

#[async_trait]
impl ImageLoader for Files {
    async fn load(&self, chunk: &Chunk) -> Result<LoadedImages> {
        let files = self.root.read(names(chunk, &self.column)?, self.limit).await?;
        let files = files.into_iter().map(|file| file.map(|file| file.map_err(|e| format!("file: {e}"))));
        LoadedImages::collect(chunk, files.collect())
    }
}
