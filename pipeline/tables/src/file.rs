//! Location of a source's file, local or in a store, behind one interface for readers.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::reader::{ChunkReader, Length};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::file_record::FileRecord;
use crate::halt::Halt;
use crate::image_names::ImageNames;
use crate::store::object::Object;
use crate::store::read_ahead::{Cursor, Pages};

/// Files inspected or read concurrently: each one in a store takes several requests.
const AT_ONCE: usize = 8;

/// A local file, an object in a store, or a folder of images and their texts.
#[derive(Debug, Clone)]
pub enum DataFile {
    /// A path.
    Local(PathBuf),
    /// An object.
    Remote(Arc<Object>),
    /// A folder of images.
    Folder(Arc<Folder>),
}

/// Sequential input, in which a reader may skip.
pub trait Input: Read + Seek + Send {}

impl<T: Read + Seek + Send> Input for T {}

impl DataFile {
    /// Path or URL for messages.
    pub fn shown(&self) -> PathBuf {
        match self {
            Self::Local(path) => path.clone(),
            Self::Remote(remote) => PathBuf::from(&remote.url),
            Self::Folder(folder) => folder.shown.clone(),
        }
    }

    /// Path relative to `root`.
    pub(crate) fn below<'a>(&'a self, root: &Path) -> &'a Path {
        match self {
            Self::Local(path) => path.strip_prefix(root).unwrap_or(path),
            Self::Remote(remote) => Path::new(&remote.name),
            Self::Folder(folder) => &folder.below,
        }
    }

    /// Name in records: that path, except for folders of images.
    pub(crate) fn name(&self, root: &Path) -> String {
        match self {
            Self::Folder(folder) => folder.name.clone(),
            _ => self.below(root).to_string_lossy().into_owned(),
        }
    }

    /// Files of a folder of images; for a single file, the place itself.
    pub(crate) fn files(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        match self {
            Self::Folder(folder) => Box::new(folder.files()),
            file => Box::new(std::iter::once(file)),
        }
    }

    /// Size, bytes.
    ///
    /// # Errors
    /// A file that is gone, and a folder of images.
    pub fn bytes(&self) -> io::Result<u64> {
        match self {
            Self::Local(path) => fs::metadata(path).map(|meta| meta.len()),
            Self::Remote(remote) => Ok(remote.size),
            Self::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Fingerprint (16 hex digits) of an object's version; `None` for local files, or if the store reports no version.
    pub(crate) fn stamp(&self) -> Option<String> {
        if let Self::Remote(remote) = self { remote.stamp() } else { None }
    }

    /// Whether the store confirms that the object still matches the record.
    pub(crate) fn is_as(&self, record: &FileRecord) -> bool {
        self.stamp().is_some_and(|stamp| stamp == record.stamp) && self.bytes().is_ok_and(|bytes| bytes == record.bytes)
    }

    /// Size (bytes) and fingerprint (16 hex digits) of the content, which is read unless the store has a fingerprint.
    ///
    /// # Errors
    /// A file that cannot be read; [`Error::Interrupted`] once `halt` is set.
    pub fn fingerprint(&self, halt: &Halt) -> Result<(u64, String)> {
        let broken = |e: io::Error| self.error(|| format!("cannot read: {e}"));
        if let Some(stamp) = self.stamp() {
            return Ok((self.bytes().map_err(broken)?, stamp));
        }
        let (mut digest, mut bytes) = (Sha256::new(), 0);
        self.contents(&mut |block| {
            digest.update(block);
            bytes += block.len() as u64;
            halt.check()
        })?;
        Ok((bytes, hex::encode(&digest.finalize()[..8])))
    }

    /// Calls `each` with the content, in order and in blocks of at most 1 MiB.
    pub(crate) fn contents(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let broken = |e: io::Error| self.error(|| format!("cannot read: {e}"));
        let (mut input, mut block) = (self.open().map_err(broken)?, vec![0; 1 << 20]);
        loop {
            match input.read(&mut block).map_err(broken)? {
                0 => return Ok(()),
                n => each(&block[..n])?,
            }
        }
    }

    /// Names of a folder's images, in row order; none for a file.
    pub(crate) fn images(&self) -> ImageNames {
        match self {
            Self::Folder(folder) => {
                ImageNames::new(folder.pictures.iter().map(|picture| picture.name.clone()).collect())
            }
            Self::Local(_) | Self::Remote(_) => ImageNames::default(),
        }
    }

    /// Opens a sequential reader.
    ///
    /// # Errors
    /// A file that is gone or must not be read, and a folder of images.
    pub fn open(&self) -> io::Result<Box<dyn Input>> {
        let input: Box<dyn Input> = match self {
            Self::Local(path) => Box::new(File::open(path)?),
            Self::Remote(remote) => Box::new(Cursor::new(remote)),
            Self::Folder(_) => return Err(io::ErrorKind::IsADirectory.into()),
        };
        Ok(input)
    }

    /// Opens a random-access reader, for Parquet.
    pub(crate) fn chunks(&self) -> io::Result<Chunks> {
        let input = match self {
            Self::Local(path) => Pieces::Local(Arc::new(File::open(path)?)),
            Self::Remote(remote) => Pieces::Remote(Pages::new(remote)),
            Self::Folder(_) => return Err(io::ErrorKind::IsADirectory.into()),
        };
        Ok(Chunks { input, failed: Arc::default() })
    }

    /// Reason for a failure: the store's error if there was one, else `other`, the reader's message.
    pub(crate) fn reason(&self, other: impl FnOnce() -> String) -> String {
        match self {
            Self::Remote(remote) => remote.problem().map_or_else(other, |problem| problem.to_string()),
            Self::Local(_) | Self::Folder(_) => other(),
        }
    }

    /// Error that names this file, with the store's reason if there is one, else `other`.
    pub fn error(&self, other: impl FnOnce() -> String) -> Error {
        Error::source(self.shown(), self.reason(other))
    }
}

/// A file with random access. Clones share what is open and cached.
#[derive(Clone)]
pub(crate) struct Chunks {
    input: Pieces,
    failed: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Pieces {
    Local(Arc<File>),
    Remote(Pages),
}

impl Chunks {
    /// A flag that is set once the disk or the store fails: what a reader reports before is the file's own fault.
    pub(crate) fn failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.failed)
    }

    /// Whether to expect reads of single rows, far apart.
    pub(crate) fn scatter(&self, is_scattered: bool) {
        if let Pieces::Remote(pages) = &self.input {
            pages.scatter(is_scattered);
        }
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
            Pieces::Local(file) => Length::len(file.as_ref()),
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

/// Runs `look` on all places, some of them concurrently, because stores and network disks have latency. Returns the
/// results, or the first error, in the order of the places.
pub(crate) fn each<P: Sync, T: Send>(places: &[P], look: impl Fn(&P) -> Result<T> + Sync) -> Result<Vec<T>> {
    let at_once = AT_ONCE.min(places.len());
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
                    // Places before a failed one are still inspected, so that the first error is found.
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

/// File metadata that reveals a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) bytes: u64,
    pub(crate) modified: Option<SystemTime>,
    /// Device and inode. Some network file systems assign a new inode at each open.
    pub(crate) node: (u64, u64),
}

impl Seen {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self { bytes: meta.len(), modified: meta.modified().ok(), node: (meta.dev(), meta.ino()) }
    }

    pub(crate) fn is_as(&self, other: &Self) -> bool {
        (self.bytes, self.modified) == (other.bytes, other.modified)
    }
}

/// Images of one folder, in row order.
#[derive(Debug)]
pub struct Folder {
    /// Path or URL for messages.
    pub(crate) shown: PathBuf,
    /// Path relative to the source.
    pub(crate) below: PathBuf,
    /// Name in records: that path, followed by `//` and a number for images that were added after a job began.
    pub(crate) name: String,
    pub(crate) pictures: Vec<Picture>,
}

#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) name: String,
    /// `None` if the image has disappeared since the job began; the rows after it keep their numbers.
    pub(crate) image: Option<Beside>,
    pub(crate) text: Option<Beside>,
}

/// File of an image or of its text.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    pub(crate) place: DataFile,
    /// Metadata at the inspection.
    pub(crate) seen: OnceLock<Seen>,
    pub(crate) is_text: bool,
}

impl Folder {
    /// Files, each image followed by its text.
    pub(crate) fn files(&self) -> impl Iterator<Item = &DataFile> {
        self.besides().map(|file| &file.place)
    }

    pub(crate) fn besides(&self) -> impl Iterator<Item = &Beside> {
        self.pictures.iter().flat_map(|picture| picture.image.iter().chain(&picture.text))
    }

    /// First image that has disappeared since a job began.
    pub(crate) fn gone(&self) -> Option<PathBuf> {
        self.pictures.iter().find(|picture| picture.image.is_none()).map(|picture| self.shown.join(&picture.name))
    }
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
        let place = DataFile::Local(path);
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
