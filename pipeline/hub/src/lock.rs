//! Locks on files, which exclude huggingface_hub's downloads too: both are flock on Linux.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;
use crate::fill::create_parent;

/// Pause between two tries.
const EVERY: Duration = Duration::from_millis(100);
/// Pause between two lines in the log.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Locks the file at `path`, which is created if need be, until the result is dropped. `None` means that the file system
/// has no locks; the caller must then be correct without one.
pub(crate) async fn lock(path: &Path) -> Result<Option<File>, Error> {
    create_parent(path)?;
    let begun = Instant::now();
    let mut told = begun;
    loop {
        let file = open(path)?;
        match file.try_lock() {
            // A lock on a file that was deleted meanwhile excludes nobody.
            Ok(()) if is_linked(&file) => return Ok(Some(file)),
            Ok(()) => continue,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => {
                log::warn!("{}: no lock ({e}): files may be fetched twice", path.display());
                return Ok(None);
            }
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            log::info!("{}: another download has the lock, for {} s now", path.display(), begun.elapsed().as_secs());
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(unix)]
fn is_linked(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

#[cfg(not(unix))]
fn is_linked(_: &File) -> bool {
    true
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // As huggingface_hub does, for those who share a cache.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o664);
    // The lock file of another user may be readable only.
    options.open(path).or_else(|e| File::open(path).map_err(|_| e)).map_err(Error::file(path))
}
