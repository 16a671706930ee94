//! Loads images that the source only names, by URL or by path.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::halt;
use capfilt_tables::image_root::Root;
use capfilt_tables::source::chunk::Chunk;
use capfilt_udfs::CapfiltOptions;
use capfilt_udfs::engine::blocking;
use capfilt_udfs::image::binary_view;
use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::runtime::SpawnedTask;
use datafusion::prelude::SessionContext;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc::{self, Receiver};

use crate::options::ImageIs;
use crate::rows::contract::RowFilter;

/// Maximum number of chunks in flight; the images of all their rows are in memory together.
#[cfg(feature = "fetch")]
const MOST_CHUNKS: usize = 16;
/// Prefetch limit in bytes: fewer chunks are in flight if the last one was so large that more of its size would exceed
/// this.
const AHEAD_BYTES: u64 = 1 << 30;
/// Target size of a chunk's images in bytes, from the sizes seen so far: chunks of large images have fewer rows.
const CHUNK_BYTES: u64 = 64 << 20;
/// Rows of a chunk before any size is known.
const FIRST_ROWS: usize = 8;

/// A chunk with its images.
pub(crate) struct Loaded {
    pub(crate) chunk: Chunk,
    /// The loaded images, if the source only names them.
    pub(crate) images: Option<ArrayRef>,
    /// Why rows failed, by row number in the file.
    pub(crate) problems: BTreeMap<u64, String>,
}

/// Source of the images.
pub(crate) enum Loader {
    /// The source's own column, of bytes or structs that contain them.
    Source { column: String },
    /// Files below a folder, named by a column.
    Files { root: Root, column: String, limit: u64 },
    /// The web, by the URLs in a column.
    #[cfg(feature = "fetch")]
    Web {
        fetcher: Arc<capfilt_fetch::client::Fetcher>,
        column: String,
        query: capfilt_udfs::engine::CancelToken,
        chunks: usize,
    },
}

impl Drop for Loader {
    fn drop(&mut self) {
        #[cfg(feature = "fetch")]
        if let Self::Web { fetcher, query, .. } = self {
            fetcher.forget(query);
        }
    }
}

impl Loader {
    pub(crate) async fn new(ctx: &SessionContext, is: ImageIs, column: &str, root: &Path) -> Result<Self> {
        match is {
            ImageIs::Bytes => Ok(Self::Source { column: column.to_owned() }),
            ImageIs::Path => {
                let options = ctx.copied_config().options().extensions.get::<CapfiltOptions>().cloned();
                let limit = options.unwrap_or_default().image_limits().max_bytes;
                let root = root.to_owned();
                let root = halt::aside(move |_| Root::open(&root)).await?;
                Ok(Self::Files { root, column: column.to_owned(), limit })
            }
            #[cfg(feature = "fetch")]
            ImageIs::Url => {
                let fetcher = capfilt_fetch::fetcher(ctx).map_err(Error::Option)?;
                let rows = ctx.copied_config().batch_size().max(1);
                // Enough rows to keep all slots busy while the oldest chunk waits for its slowest URL.
                let chunks = (2 * fetcher.concurrency()).div_ceil(rows).clamp(2, MOST_CHUNKS);
                let query = capfilt_udfs::engine::CancelToken::new();
                Ok(Self::Web { fetcher, column: column.to_owned(), query, chunks })
            }
            #[cfg(not(feature = "fetch"))]
            ImageIs::Url => {
                let _ = ctx;
                Err(Error::Option(
                    "this capfilt is built without the feature fetch, which --url-column needs".to_owned(),
                ))
            }
        }
    }

    /// Whether the source only names the images.
    fn loads(&self) -> bool {
        !matches!(self, Self::Source { .. })
    }

    fn chunks(&self) -> usize {
        match self {
            #[cfg(feature = "fetch")]
            Self::Web { chunks, .. } => *chunks,
            _ => 2,
        }
    }

    /// Loads the images of `chunks` in order, prefetching some chunks, after `filters` have been applied to each.
    pub(crate) fn load(
        self,
        mut chunks: Receiver<Result<Chunk>>,
        mut filters: Vec<Box<dyn RowFilter>>,
    ) -> Receiver<Result<Loaded>> {
        let (sender, receiver) = mpsc::channel(1);
        let this = Arc::new(self);
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
                    let this = Arc::clone(&this);
                    under_way.push_back(SpawnedTask::spawn(async move { this.on(chunk?).await }).join());
                }
                tokio::select! {
                    Some(loaded) = under_way.next() => {
                        let loaded = match loaded {
                            Ok(loaded) => loaded,
                            Err(e) => Err(Error::Internal(format!("a task ended: {e}"))),
                        };
                        if let Ok(Loaded { images: Some(images), .. }) = &loaded {
                            let (bytes, rows) = (images.get_array_memory_size() as u64, images.len() as u64);
                            let fit = AHEAD_BYTES / bytes.max(1);
                            most = usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, this.chunks());
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
                                Ok(chunk) if this.loads() => {
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

    async fn on(&self, chunk: Chunk) -> Result<Loaded> {
        let mut problems = chunk.problems.clone();
        let images = match self {
            Self::Source { column } => {
                problems.extend(only_paths(&chunk, column)?);
                None
            }
            Self::Files { root, column, limit } => {
                let files = root.read(texts(&chunk, column)?, *limit).await?;
                let mut all = Vec::with_capacity(files.len());
                for (row, file) in chunk.numbers.iter().copied().zip(files) {
                    all.push(match file {
                        Some(Err(e)) => {
                            problems.insert(row, format!("file: {e}"));
                            None
                        }
                        file => file.and_then(std::result::Result::ok),
                    });
                }
                Some(binary_view(all).map_err(|e| Error::Internal(e.to_string()))?)
            }
            #[cfg(feature = "fetch")]
            Self::Web { fetcher, column, query, .. } => {
                let urls = texts(&chunk, column)?;
                let begun = fetcher.begin(urls.iter().flatten().cloned(), Some(query)).map_err(Error::Internal)?;
                let mut begun = begun.into_iter();
                let mut all = Vec::with_capacity(urls.len());
                for (row, url) in chunk.numbers.iter().copied().zip(&urls) {
                    let Some(one) = url.as_ref().and_then(|_| begun.next()) else {
                        all.push(None);
                        continue;
                    };
                    let fetched = one.end().await;
                    if let Some(error) = &fetched.error {
                        problems.insert(row, format!("fetch: {error}"));
                    }
                    all.push(fetched.bytes.clone());
                }
                Some(binary_view(all).map_err(|e| Error::Internal(e.to_string()))?)
            }
        };
        Ok(Loaded { chunk, images, problems })
    }
}

/// Errors for rows whose Hugging Face struct {bytes, path} has a path but no bytes, by row number.
fn only_paths(chunk: &Chunk, column: &str) -> Result<Vec<(u64, String)>> {
    let images = chunk.rows.column_by_name(column).and_then(|images| images.as_struct_opt());
    let part = |name: &str| images.and_then(|images| images.column_by_name(name));
    let (Some(images), Some(bytes), Some(paths)) = (images, part("bytes"), part("path")) else { return Ok(Vec::new()) };
    let Some(bytes) = bytes.logical_nulls() else { return Ok(Vec::new()) };
    let paths = cast(paths, &DataType::Utf8View).map_err(|e| Error::Internal(format!("column {column}: {e}")))?;
    let rows = chunk.numbers.iter().copied().zip(paths.as_string_view()).enumerate();
    let alone = rows.filter(|(row, (number, _))| {
        images.is_valid(*row) && bytes.is_null(*row) && !chunk.problems.contains_key(number)
    });
    let told = |path: &str| {
        format!(
            "no bytes: only a path ({path}), which is not read here: make it a column of its own, {column}['path'], and give \
             that with --path-column"
        )
    };
    Ok(alone.filter_map(|(_, (number, path))| Some((number, told(path?)))).collect())
}

/// Image names, without those of rows that already have a problem.
fn texts(chunk: &Chunk, column: &str) -> Result<Vec<Option<String>>> {
    let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("column {column}: {e}"));
    let found = chunk.rows.column_by_name(column).ok_or_else(|| broken(&"it is not there"))?;
    let found = cast(found, &DataType::Utf8View).map_err(|e| broken(&e))?;
    let texts = chunk.numbers.iter().zip(found.as_string_view());
    Ok(texts.map(|(row, text)| text.filter(|_| !chunk.problems.contains_key(row)).map(str::to_owned)).collect())
}
