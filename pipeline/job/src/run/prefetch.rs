//! Works a few chunks ahead of the recipe: filters rows and loads images, within a bound on memory.

use std::collections::VecDeque;
use std::sync::Arc;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::chunk::Chunk;
use capfilt_udfs::engine::blocking;
use datafusion::arrow::array::{Array as _, ArrayRef};
use datafusion::common::runtime::SpawnedTask;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc::{self, Receiver};

use crate::images::loader::{ImageLoader, LoadedImages};
use crate::rows::contract::RowFilter;

/// Prefetch limit in bytes: fewer chunks are in flight if the last one was so large that more of its size would exceed
/// this.
const AHEAD_BYTES: u64 = 1 << 30;
/// Target size of a chunk's images in bytes, from the sizes seen so far: chunks of large images have fewer rows.
const CHUNK_BYTES: u64 = 64 << 20;
/// Rows of a chunk before any size is known.
const FIRST_ROWS: usize = 8;

/// A chunk with its images. Rows whose image could not be loaded have that as their problem.
pub(crate) struct Loaded {
    pub(crate) chunk: Chunk,
    /// The loaded images; `None` if the rows hold their images themselves.
    pub(crate) images: Option<ArrayRef>,
}

/// Applies `filters` to `chunks` in order, and loads their images, those of several chunks at a time.
pub(crate) fn prefetch(
    mut chunks: Receiver<Result<Chunk>>,
    mut filters: Vec<Box<dyn RowFilter>>,
    loader: Arc<dyn ImageLoader>,
) -> Receiver<Result<Loaded>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut under_way = FuturesOrdered::new();
        let mut more = true;
        // Sizes are unknown until the first chunk has arrived.
        let (mut most, mut row_bytes) = (2, None::<u64>);
        let mut waiting = VecDeque::new();
        loop {
            while under_way.len() < most
                && let Some(chunk) = waiting.pop_front()
            {
                let loader = Arc::clone(&loader);
                under_way.push_back(SpawnedTask::spawn(async move { load(&*loader, chunk?).await }).join());
            }
            tokio::select! {
                Some(loaded) = under_way.next() => {
                    let loaded = loaded.unwrap_or_else(|e| Err(Error::Internal(format!("a task ended: {e}"))));
                    if let Ok(Loaded { images: Some(images), .. }) = &loaded {
                        let (bytes, rows) = (images.get_array_memory_size() as u64, images.len() as u64);
                        let fit = AHEAD_BYTES / bytes.max(1);
                        most = usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, loader.chunks_ahead());
                        // Decay slowly: a few small images after large ones do not mean the rest are small.
                        row_bytes = Some((bytes / rows.max(1)).max(row_bytes.map_or(0, |old| old - old / 8)));
                    }
                    // If the receiver is gone, the job has already ended.
                    if sender.send(loaded).await.is_err() {
                        return;
                    }
                }
                chunk = chunks.recv(), if more && waiting.is_empty() && under_way.len() < most => match chunk {
                    Some(chunk) => {
                        let chunk = blocking(|| filters.iter_mut().try_fold(chunk?, |chunk, filter| filter.apply(chunk)));
                        match chunk {
                            Ok(chunk) if !loader.is_inline() => {
                                let fit = |bytes: u64| usize::try_from(CHUNK_BYTES / bytes.max(1)).unwrap_or(usize::MAX);
                                let rows = row_bytes.map_or(FIRST_ROWS, fit);
                                waiting.extend(chunk.cut(rows).into_iter().map(Ok));
                            }
                            other => waiting.push_back(other),
                        }
                    }
                    None => more = false,
                },
                else => return,
            }
        }
    });
    receiver
}

async fn load(loader: &dyn ImageLoader, mut chunk: Chunk) -> Result<Loaded> {
    let LoadedImages { images, problems } = loader.load(&chunk).await?;
    chunk.problems.extend(problems);
    Ok(Loaded { chunk, images })
}
