//! Prefetch of an object's bytes for sequential readers, like an operating system's read-ahead for files.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use datafusion::common::runtime::SpawnedTask;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::reader::{ChunkReader, Length};
use futures::executor::block_on;
use tokio::task::unconstrained;

use crate::store::object::{Object, begin};
use crate::store::problem::Problem;

/// First window at a position that was not prefetched, bytes. Most Parquet footers fit.
const FIRST: u64 = 512 << 10;
/// The same for a reader that takes single rows, which skips from page header to page header. All headers fit in the
/// cache.
const SCATTERED: u64 = 8 << 10;
/// Maximum window, bytes; each prefetched window is twice as long as the one before.
const LONGEST: u64 = 8 << 20;
/// Maximum size of the window cache, bytes. Parquet columns are read in turn, each from a window of its own.
const KEPT: u64 = 64 << 20;

/// Windows of an object, received or in flight.
struct Ahead {
    object: Arc<Object>,
    /// By their first byte.
    windows: BTreeMap<u64, Window>,
    /// Minimum window at a position that was not prefetched, bytes.
    shortest: u64,
    /// Number of reads so far, for least-recently-used eviction.
    clock: u64,
}

struct Window {
    range: Range<u64>,
    content: Content,
    /// Whether the window was prefetched because the one before it was read.
    foreseen: bool,
    used: u64,
}

enum Content {
    Coming(SpawnedTask<Result<Bytes, Problem>>),
    Here(Bytes),
}

impl Window {
    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl Ahead {
    fn new(object: &Arc<Object>) -> Self {
        Self { object: Arc::clone(object), windows: BTreeMap::new(), shortest: FIRST, clock: 0 }
    }

    /// Returns at least one of the `wanted` bytes from `at`, which must lie within the object.
    fn get(&mut self, at: u64, wanted: u64) -> io::Result<Bytes> {
        self.clock += 1;
        let key = match self.window_at(at) {
            Some(key) => key,
            None => self.begin(self.unforeseen(at, wanted), false)?,
        };
        let lost = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let window = self.windows.get_mut(&key).ok_or_else(lost)?;
        window.used = self.clock;
        let (start, end, bytes) = (window.range.start, window.range.end, window.bytes());
        // Sequential reads keep a second request in flight.
        let ahead = self.shortest == FIRST && (window.foreseen || at + wanted > start + bytes / 2);
        if ahead && end < self.object.size && self.window_at(end).is_none() {
            self.begin(end..(end + (2 * bytes).min(LONGEST)).min(self.object.size), true)?;
        }
        let window = self.windows.get_mut(&key).ok_or_else(lost)?;
        if let Content::Coming(coming) = &mut window.content {
            match block_on(unconstrained(coming)).unwrap_or_else(|_| Err(Problem::unanswered())) {
                Ok(bytes) => window.content = Content::Here(bytes),
                Err(problem) => {
                    self.windows.remove(&key);
                    return Err(io::Error::other(problem));
                }
            }
        }
        let Content::Here(bytes) = &window.content else { return Err(lost()) };
        let offset = usize::try_from(at - start).map_err(io::Error::other)?;
        let bytes = bytes.slice(offset..);
        self.shrink();
        Ok(bytes)
    }

    /// Key of the window that covers a position.
    fn window_at(&self, at: u64) -> Option<u64> {
        let (key, window) = self.windows.range(..=at).next_back()?;
        window.range.contains(&at).then_some(*key)
    }

    /// Window to request at a position that no window covers.
    fn unforeseen(&self, at: u64, wanted: u64) -> Range<u64> {
        let size = self.object.size;
        // Parquet readers read the end of a file backwards in small pieces.
        let start = if at + self.shortest >= size { size.saturating_sub(self.shortest) } else { at };
        let end = (at + wanted.clamp(self.shortest, LONGEST)).min(size);
        let next = self.windows.range(at + 1..).next().map(|(start, _)| *start);
        start..end.min(next.unwrap_or(end))
    }

    /// Requests a window. Returns its key.
    fn begin(&mut self, range: Range<u64>, foreseen: bool) -> io::Result<u64> {
        let (object, asked) = (Arc::clone(&self.object), range.clone());
        let coming = begin(async move { object.fetch(asked).await }).map_err(io::Error::other)?;
        let key = range.start;
        self.windows.insert(key, Window { range, content: Content::Coming(coming), foreseen, used: self.clock });
        Ok(key)
    }

    /// Evicts the least recently used windows above the cache size.
    fn shrink(&mut self) {
        let mut kept: u64 = self.windows.values().map(Window::bytes).sum();
        while kept > KEPT {
            let old = self.windows.iter().filter(|(_, window)| window.used < self.clock);
            let Some((key, _)) = old.min_by_key(|(_, window)| window.used) else { return };
            let key = *key;
            kept -= self.windows.remove(&key).map_or(0, |window| window.bytes());
        }
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        if at >= self.object.size || into.is_empty() {
            return Ok(0);
        }
        let bytes = self.get(at, into.len() as u64)?;
        let read = bytes.len().min(into.len());
        into[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }
}

/// Sequential reader.
pub(crate) struct Cursor {
    ahead: Arc<Mutex<Ahead>>,
    at: u64,
    /// Whether no other reader needs the windows that this one has left behind.
    is_alone: bool,
}

impl Cursor {
    pub(crate) fn new(object: &Arc<Object>) -> Self {
        Self { ahead: Arc::new(Mutex::new(Ahead::new(object))), at: 0, is_alone: true }
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Cursor {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (at, is_alone) = (self.at, self.is_alone);
        let mut ahead = self.ahead();
        ahead.windows.retain(|_, window| !is_alone || window.range.end > at);
        let read = ahead.read(at, into)?;
        drop(ahead);
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.ahead().object.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Random-access reader for Parquet columns. Clones share their windows.
#[derive(Clone)]
pub(crate) struct Pages {
    ahead: Arc<Mutex<Ahead>>,
    size: u64,
}

impl Pages {
    pub(crate) fn new(object: &Arc<Object>) -> Self {
        Self { ahead: Arc::new(Mutex::new(Ahead::new(object))), size: object.size }
    }

    /// Whether to expect reads of single rows, far apart.
    pub(crate) fn scatter(&self, is_scattered: bool) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.shortest = if is_scattered { SCATTERED } else { FIRST };
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Pages {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(Cursor { ahead: Arc::clone(&self.ahead), at: start, is_alone: false }))
    }

    /// Copies the bytes: a page must not keep its window in memory.
    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start}, and there are {}", self.size)));
        }
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let mut got = BytesMut::with_capacity(length);
        while got.len() < length {
            let left = length - got.len();
            let bytes = ahead.get(start + got.len() as u64, left as u64)?;
            got.extend_from_slice(&bytes[..bytes.len().min(left)]);
        }
        Ok(got.freeze())
    }
}
