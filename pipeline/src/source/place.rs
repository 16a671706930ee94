//! Where a file of a source is: on a disk, or in a store. Its readers need not know.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::reader::{ChunkReader, Length};

use super::images::Folder;
use super::store::{Pages, Remote};
use crate::error::{Error, Result};

/// Files that are looked at at a time: each of a store costs some answers of it.
const AT_ONCE: usize = 8;

/// A file on a disk, an object of a store, or many of them that are images and their texts.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Local(PathBuf),
    Remote(Remote),
    Folder(Arc<Folder>),
}

/// What is read from its beginning to its end, or skipped.
pub(super) trait Input: Read + Seek + Send {}

impl<T: Read + Seek + Send> Input for T {}

impl AsRef<Self> for Place {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Place {
    /// As errors name it.
    pub(super) fn shown(&self) -> PathBuf {
        match self {
            Self::Local(path) => path.clone(),
            Self::Remote(remote) => PathBuf::from(remote.url()),
            Self::Folder(folder) => folder.shown.clone(),
        }
    }

    /// Its path below `root`.
    pub(super) fn below<'a>(&'a self, root: &Path) -> &'a Path {
        match self {
            Self::Local(path) => path.strip_prefix(root).unwrap_or(path),
            Self::Remote(remote) => Path::new(remote.name()),
            Self::Folder(folder) => &folder.below,
        }
    }

    /// As a record names it: that path, for most.
    pub(super) fn name(&self, root: &Path) -> String {
        match self {
            Self::Folder(folder) => folder.name.clone(),
            _ => self.below(root).to_string_lossy().into_owned(),
        }
    }

    /// What is read, where it is one file; else those that it has.
    pub(super) fn files(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        match self {
            Self::Folder(folder) => Box::new(folder.files()),
            file => Box::new(std::iter::once(file)),
        }
    }

    pub(super) fn bytes(&self) -> io::Result<u64> {
        match self {
            Self::Local(path) => fs::metadata(path).map(|meta| meta.len()),
            Self::Remote(remote) => Ok(remote.size()),
            Self::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// 16 hex digits by which a store tells the object from another of its name; `None` where nothing does.
    pub(super) fn stamp(&self) -> Option<String> {
        match self {
            Self::Remote(remote) => remote.stamp(),
            Self::Local(_) | Self::Folder(_) => None,
        }
    }

    /// To be read in order.
    pub(super) fn open(&self) -> io::Result<Box<dyn Input>> {
        let input: Box<dyn Input> = match self {
            Self::Local(path) => Box::new(File::open(path)?),
            Self::Remote(remote) => Box::new(remote.open()),
            Self::Folder(_) => return Err(io::ErrorKind::IsADirectory.into()),
        };
        Ok(input)
    }

    /// To be read as Parquet files are.
    pub(super) fn chunks(&self) -> io::Result<Chunks> {
        let input = match self {
            Self::Local(path) => Pieces::Local(File::open(path)?),
            Self::Remote(remote) => Pieces::Remote(remote.pages()),
            Self::Folder(_) => return Err(io::ErrorKind::IsADirectory.into()),
        };
        Ok(Chunks { input, failed: Arc::default() })
    }

    /// Where the store is why something failed, its reason; else `other`, what a reader made of it.
    pub(super) fn reason(&self, other: impl FnOnce() -> String) -> String {
        match self {
            Self::Remote(remote) => remote.problem().unwrap_or_else(other),
            Self::Local(_) | Self::Folder(_) => other(),
        }
    }

    /// An error that names it.
    pub(super) fn error(&self, other: impl FnOnce() -> String) -> Error {
        Error::source(self.shown(), self.reason(other))
    }
}

/// A file with random access.
pub(super) struct Chunks {
    input: Pieces,
    failed: Arc<AtomicBool>,
}

enum Pieces {
    Local(File),
    Remote(Pages),
}

impl Chunks {
    /// A flag that is set once the disk or the store fails: what a reader reports before is the file's own fault.
    pub(super) fn failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failed)
    }

    /// Sets the flag unless `error` says that the file has fewer bytes than were asked for.
    fn noted<T>(&self, read: ParquetResult<T>) -> ParquetResult<T> {
        if let Err(ParquetError::External(_)) = &read {
            self.failed.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        match &self.input {
            Pieces::Local(file) => Length::len(file),
            Pieces::Remote(pages) => pages.len(),
        }
    }
}

impl ChunkReader for Chunks {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let read: ParquetResult<Box<dyn Read>> = match &self.input {
            Pieces::Local(file) => file.get_read(start).map(|read| Box::new(read) as _),
            Pieces::Remote(pages) => pages.get_read(start).map(|read| Box::new(read) as _),
        };
        Ok(Box::new(Noted { read: self.noted(read)?, failed: self.failed() }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.noted(match &self.input {
            Pieces::Local(file) => file.get_bytes(start, length),
            Pieces::Remote(pages) => pages.get_bytes(start, length),
        })
    }
}

/// A reader that sets the flag of its [`Chunks`] when it fails.
struct Noted {
    read: Box<dyn Read>,
    failed: Arc<AtomicBool>,
}

impl Read for Noted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read.read(into).inspect_err(|_| self.failed.store(true, Ordering::Relaxed))
    }
}

/// Looks at all places in their order, at some at a time: an answer of a store, or of a disk elsewhere, is waited for. The first
/// error, in that order, is the answer.
pub(super) fn each<P: AsRef<Place> + Sync, T: Send>(
    places: &[P],
    look: impl Fn(&P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let is_remote = places.iter().any(|place| matches!(place.as_ref(), Place::Remote(_)));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let at_once = if is_remote { AT_ONCE } else { cores.min(AT_ONCE) }.min(places.len());
    if at_once < 2 {
        return places.iter().map(look).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let seen: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(places.len()));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // What comes before a failure is still looked at.
                    let Some(place) = places.get(number).filter(|_| number < failed.load(Ordering::Relaxed)) else {
                        return;
                    };
                    let one = look(place);
                    if one.is_err() {
                        failed.fetch_min(number, Ordering::Relaxed);
                    }
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push((number, one));
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    seen.sort_by_key(|(number, _)| *number);
    seen.into_iter().map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_a_disk_is_named_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a=1/x.csv");
        fs::create_dir(folder.path().join("a=1")).unwrap();
        fs::write(&path, "0123456789").unwrap();
        let place = Place::Local(path);
        assert_eq!((place.name(folder.path()).as_str(), place.bytes().unwrap()), ("a=1/x.csv", 10));
        let mut text = String::new();
        place.open().unwrap().read_to_string(&mut text).unwrap();
        let chunks = place.chunks().unwrap();
        assert_eq!((text.as_str(), chunks.len()), ("0123456789", 10));
        assert_eq!(&chunks.get_bytes(3, 4).unwrap()[..], b"3456");
        text.clear();
        chunks.get_read(8).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "89");
    }
}
