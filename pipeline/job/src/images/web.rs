//! Images on the web.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use capfilt_fetch::client::Fetcher;
use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use capfilt_udfs::engine::CancelToken;
use datafusion::prelude::SessionContext;

use crate::images::loader::{ImageLoader, LoadedImages, names};

/// Maximum number of chunks in flight; the images of all their rows are in memory together.
const MOST_CHUNKS: usize = 16;

/// The web, by the URLs in a column.
pub(crate) struct Web {
    fetcher: Arc<Fetcher>,
    column: String,
    query: CancelToken,
    chunks: usize,
    settings: BTreeMap<String, String>,
}

impl Web {
    /// Uses the session's fetcher.
    pub(crate) fn new(ctx: &SessionContext, column: &str) -> Result<Self> {
        let fetcher = capfilt_fetch::fetcher(ctx).map_err(Error::Option)?;
        let rows = ctx.copied_config().batch_size().max(1);
        // Enough rows to keep all slots busy while the oldest chunk waits for its slowest URL.
        let chunks = (2 * fetcher.concurrency()).div_ceil(rows).clamp(2, MOST_CHUNKS);
        let settings = capfilt_fetch::deciding(ctx);
        Ok(Self { fetcher, column: column.to_owned(), query: CancelToken::new(), chunks, settings })
    }
}

#[async_trait]
impl ImageLoader for Web {
    async fn load(&self, chunk: &Chunk) -> Result<LoadedImages> {
        let urls = names(chunk, &self.column)?;
        let begun = self.fetcher.begin(urls.iter().flatten().cloned(), Some(&self.query)).map_err(Error::Internal)?;
        let mut begun = begun.into_iter();
        let mut images = Vec::with_capacity(urls.len());
        for url in urls {
            let Some(one) = url.and_then(|_| begun.next()) else {
                images.push(None);
                continue;
            };
            let fetched = one.end().await;
            images.push(match &fetched.error {
                Some(error) => Some(Err(format!("fetch: {error}"))),
                None => fetched.bytes.clone().map(Ok),
            });
        }
        LoadedImages::collect(chunk, images)
    }

    fn chunks_ahead(&self) -> usize {
        self.chunks
    }

    fn settings(&self) -> BTreeMap<String, String> {
        self.settings.clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.fetcher.forget(&self.query);
    }
}
