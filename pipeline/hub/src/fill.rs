//! Cache of huggingface_hub, written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Cache, Error, Name};

impl Cache {
    /// Notes which commit a name has. The reference is replaced as a whole, so that none is ever read in part.
    pub(crate) fn refer(&self, name: &Name, commit: &str) -> Result<(), Error> {
        // A commit has none, and one that is unchanged is left alone: the cache may be read-only.
        if self.commit(name).is_ok_and(|known| known.as_deref() == Some(commit)) {
            return Ok(());
        }
        let path = self.reference(name);
        create_parent(&path)?;
        let draft = draft_of(&path);
        fs::write(&draft, commit).map_err(Error::file(&draft))?;
        fs::rename(&draft, &path).map_err(Error::file(&path))
    }

    /// Makes `pointer` in a snapshot show the blob: as a link, or else as a file, for which a `fresh` blob is moved.
    pub(crate) fn point(&self, pointer: &Path, file: &str, blob: &Path, fresh: bool) -> Result<(), Error> {
        create_parent(pointer)?;
        let etag = blob.file_name().map(Path::new).unwrap_or(blob);
        let up = "../".repeat(2 + file.matches('/').count());
        let draft = draft_of(pointer);
        // What a killed process of the same number left.
        let _ = fs::remove_file(&draft);
        if self.links && link(&Path::new(&up).join("blobs").join(etag), &draft).is_ok() {
            return fs::rename(&draft, pointer).map_err(Error::file(pointer));
        }
        if fresh {
            return fs::rename(blob, pointer).map_err(Error::file(pointer));
        }
        let copied = fs::copy(blob, &draft).and_then(|_| fs::rename(&draft, pointer));
        copied.map_err(|e| {
            // What is left of it is of no use.
            let _ = fs::remove_file(&draft);
            Error::file(pointer)(e)
        })
    }
}

/// Creates the folder of a file.
pub(crate) fn create_parent(path: &Path) -> Result<(), Error> {
    path.parent().map_or(Ok(()), |folder| fs::create_dir_all(folder).map_err(Error::file(folder)))
}

/// Name beside `path` that no other thread or process uses.
fn draft_of(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    name.into()
}

#[cfg(unix)]
fn link(target: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(windows)]
fn link(target: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, at)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
