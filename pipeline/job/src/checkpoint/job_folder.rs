//! A job's destination folder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::image_names::is_image_names;
use capfilt_tables::layout;
use capfilt_tables::pair_table::{self, BOOKKEEPING, MANIFEST, State};

use crate::checkpoint::contract::{Contents, JobStore};
use crate::checkpoint::manifest::{Manifest, Part};
use crate::checkpoint::manifests;

/// Folder of the intermediate files of deduplication, within the shard's folder.
const DEDUPE_FOLDER: &str = "dedupe";
const LOCK: &str = "lock";
/// Wait before the one retry of a lock that another process may hold briefly.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const PARTS: &str = "parts";
const TEMP: &str = "tmp";

/// A shard of a destination on disk, locked by this process.
#[derive(Debug)]
pub(crate) struct JobFolder {
    path: PathBuf,
    /// The job's bookkeeping folder: `_capfilt/shard-1-of-1`.
    folder: PathBuf,
    created: bool,
    /// This shard's number, from 1, and the number of shards.
    shard: (u64, u64),
    /// Held while the job runs; the system releases it even if the process is killed. `None` if only read.
    lock: Option<File>,
}

impl JobFolder {
    /// Creates and locks the folder of shard `shard` of `shards`. Dropping it before anything is written removes the
    /// folder.
    pub(crate) fn open(path: &Path, shard: u64, shards: u64) -> Result<Self> {
        let created = !path.exists();
        let folder = pair_table::shard_folder(path, shard, shards);
        let file = folder.join(LOCK);
        let lock = create_lock(&folder, &file).map_err(|e| Error::write(&file, &e))?;
        let locked = match lock.try_lock() {
            // A process that replaces the table holds the lock briefly while testing whether it is free.
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(AGAIN_AFTER);
                lock.try_lock()
            }
            locked => locked,
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if shards > 1 => {
                return Err(Error::dest(path, format!("another process is writing shard {shard} of {shards}")));
            }
            Err(TryLockError::WouldBlock) => return Err(Error::dest(path, "another job is writing to it")),
            // The file system does not support locks: continue without one.
            Err(TryLockError::Error(e)) => log::warn!("cannot lock {}: {e}", file.display()),
        }
        Ok(Self { path: path.to_owned(), folder, created, shard: (shard, shards), lock: Some(lock) })
    }

    /// A handle for reading: creates, locks and removes nothing.
    pub(crate) fn peek(path: &Path, shard: u64, shards: u64) -> Self {
        let folder = pair_table::shard_folder(path, shard, shards);
        Self { path: path.to_owned(), folder, created: false, shard: (shard, shards), lock: None }
    }

    fn manifest_path(&self) -> PathBuf {
        self.folder.join(MANIFEST)
    }

    /// Path of a staged part.
    fn staged(&self, part: &str) -> PathBuf {
        self.folder.join(PARTS).join(part)
    }

    /// Gives a finished scratch file its place, on the same disk.
    fn place(&self, name: &str, to: &Path) -> Result<()> {
        create_folder_of(to)?;
        fs::rename(self.scratch(name), to).map_err(|e| Error::write(to, &e))?;
        sync_folder_of(to)
    }
}

impl JobStore for JobFolder {
    fn table(&self) -> &Path {
        &self.path
    }

    fn shard(&self) -> (u64, u64) {
        self.shard
    }

    fn contents(&self) -> Result<Contents> {
        let files = names(&self.path)?.iter().filter(|name| *name != BOOKKEEPING).count();
        Ok(Contents { is_table: !self.parts()?.is_empty() || layout::is_delta(&self.path), files })
    }

    fn has_other_writer(&self, except: Option<u64>) -> Result<bool> {
        let except = except.map(|shards| format!("-of-{shards}"));
        let folder = self.path.join(BOOKKEEPING);
        for name in names(&folder)? {
            let shard = folder.join(&name);
            let counts = except.as_ref().is_none_or(|except| !name.ends_with(except));
            if counts
                && shard != self.folder
                && let Ok(file) = File::open(shard.join(LOCK))
                && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn manifests(&self) -> Result<Vec<Manifest>> {
        manifests::manifests(&self.path)
    }

    fn manifest(&self) -> Option<Manifest> {
        Manifest::read(&self.manifest_path()).ok().flatten()
    }

    fn save(&self, manifest: &Manifest) -> Result<()> {
        let path = self.manifest_path();
        let is_first = !path.exists();
        manifest.write(&path)?;
        // The folders on the way to it may be new, too.
        if is_first {
            [&self.folder, &self.path.join(BOOKKEEPING)].into_iter().try_for_each(|f| sync_folder_of(f))
        } else {
            Ok(())
        }
    }

    fn remove_manifest(&self) -> Result<()> {
        remove(&self.manifest_path())
    }

    /// Warns of foreign Parquet files, which would be read with the table.
    fn clear(&self) -> Result<()> {
        let whole = self.manifest().is_some_and(|manifest| manifest.state == State::Finished);
        // Hashes of a job that was stopped before its first unit stay too: each file notes what it was made from.
        let stays =
            |name: &str| name == LOCK || name == DEDUPE_FOLDER || (whole && (name == MANIFEST || is_image_names(name)));
        for name in names(&self.folder)?.iter().filter(|name| !stays(name)) {
            remove(&self.folder.join(name))?;
        }
        for name in names(&self.path)? {
            if name.ends_with(".parquet") && !pair_table::is_part(&name) && !layout::is_delta(&self.path) {
                let folder = self.path.display();
                log::warn!(
                    "{folder} holds {name}, which is not part of a pair table: it stays, and is read with the table"
                );
            }
        }
        Ok(())
    }

    fn clear_other_shards(&self) -> Result<()> {
        let folder = self.path.join(BOOKKEEPING);
        let others = names(&folder)?.into_iter().map(|name| folder.join(name));
        others.filter(|path| *path != self.folder && path.is_dir()).try_for_each(|path| remove(&path))
    }

    fn remove_unfinished(&self, manifest: &Manifest) -> Result<()> {
        let (known, parts) = (manifest.part_names(), self.folder.join(PARTS));
        let staged = names(&parts)?.into_iter().filter(|name| !known.contains(&name.as_str()));
        staged.map(|name| parts.join(name)).try_for_each(|path| remove(&path))?;
        let unfinished = names(&self.folder)?.into_iter().map(|name| self.folder.join(name));
        unfinished.filter(|path| path.extension().is_some_and(|e| e == TEMP)).try_for_each(|path| remove(&path))
    }

    fn scratch(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{TEMP}"))
    }

    fn dedupe_folder(&self) -> PathBuf {
        self.folder.join(DEDUPE_FOLDER)
    }

    fn keep_unit(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        self.place(name, &path)?;
        Ok(path)
    }

    fn units(&self) -> Result<Vec<PathBuf>> {
        let mut names = names(&self.folder)?;
        names.retain(|name| name.starts_with("unit-") && !name.ends_with(TEMP));
        names.sort();
        Ok(names.iter().map(|name| self.folder.join(name)).collect())
    }

    fn stage(&self, part: &str) -> Result<()> {
        self.place(part, &self.staged(part))
    }

    /// Hard-links the unit, or copies it if the file system has no links.
    fn stage_unit(&self, unit: &Path, part: &str) -> Result<()> {
        let path = self.staged(part);
        create_folder_of(&path)?;
        match fs::hard_link(unit, &path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                let temp = self.scratch(part);
                fs::copy(unit, &temp).map_err(|e| Error::write(&temp, &e))?;
                File::open(&temp).and_then(|f| f.sync_all()).map_err(|e| Error::write(&temp, &e))?;
                self.stage(part)
            }
            _ => sync_folder_of(&path),
        }
    }

    fn publish(&self, part: &Part) -> Result<()> {
        let (from, to) = (self.staged(&part.name), self.path.join(&part.name));
        match fs::metadata(&from) {
            Ok(meta) if meta.len() == part.bytes => fs::rename(&from, &to).map_err(|e| Error::write(&to, &e)),
            Ok(_) => {
                Err(Error::dest(from, "this part was changed: write the table anew with `capfilt run --overwrite`"))
            }
            Err(_) => self.part(part).map(drop),
        }
    }

    fn part(&self, part: &Part) -> Result<PathBuf> {
        let path = self.path.join(&part.name);
        match fs::metadata(&path) {
            Ok(meta) if meta.len() == part.bytes => Ok(path),
            _ => Err(Error::dest(
                path,
                "this part of the table is lost or was changed: put it back, or write the table anew with `capfilt run --overwrite`",
            )),
        }
    }

    fn parts(&self) -> Result<Vec<String>> {
        Ok(names(&self.path)?.into_iter().filter(|name| pair_table::is_part(name)).collect())
    }

    fn remove_part(&self, name: &str) -> Result<()> {
        remove(&self.path.join(name))
    }

    fn settle(&self) -> Result<()> {
        // All staged parts have been moved.
        let _ = fs::remove_dir(self.folder.join(PARTS));
        [&self.folder, &self.path].into_iter().try_for_each(|folder| sync(folder))
    }
}

impl Drop for JobFolder {
    fn drop(&mut self) {
        let Some(lock) = &self.lock else { return };
        if !self.manifest_path().exists() {
            // The job failed before it wrote anything: remove the folders it created, each only if empty.
            let _ = fs::remove_file(self.folder.join(LOCK));
            let _ = fs::remove_dir(&self.folder);
            let _ = fs::remove_dir(self.path.join(BOOKKEEPING));
            if self.created {
                let _ = fs::remove_dir(&self.path);
            }
        }
        let _ = lock.unlock();
    }
}

/// Creates the folder and its lock file. Retries once: a process that ends without having written may remove the empty
/// folder in between.
fn create_lock(folder: &Path, file: &Path) -> io::Result<File> {
    let create = || fs::create_dir_all(folder).and_then(|()| File::create(file));
    match create() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => create(),
        created => created,
    }
}

fn create_folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))
}

/// Makes a rename or a new file durable.
fn sync_folder_of(file: &Path) -> Result<()> {
    sync(file.parent().unwrap_or(file))
}

/// Removes a file, or a folder with its contents, if it is there.
fn remove(path: &Path) -> Result<()> {
    match if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::write(path, &e)),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::write(folder, &e))
}

/// Names in a folder; empty if it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let read = |e: io::Error| Error::dest(folder, e);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(read)?,
    };
    entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(read)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("a/b");
        let first = JobFolder::open(&dest, 1, 1).unwrap();
        assert!(JobFolder::open(&dest, 1, 1).unwrap_err().to_string().contains("another job"));
        drop(first);
        assert!(!dest.exists(), "what holds nothing goes");
        let _one = JobFolder::open(&dest, 1, 2).unwrap();
        let _two = JobFolder::open(&dest, 2, 2).unwrap();
        assert!(JobFolder::open(&dest, 2, 2).unwrap_err().to_string().contains("shard 2 of 2"));
    }

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let shard = pair_table::shard_folder(folder.path(), 1, 2);
        let held = create_lock(&shard, &shard.join(LOCK)).unwrap();
        held.lock().unwrap();
        let letting_go = std::thread::spawn(move || {
            std::thread::sleep(AGAIN_AFTER / 4);
            held.unlock().unwrap();
        });
        JobFolder::open(folder.path(), 1, 2).unwrap();
        letting_go.join().unwrap();
    }
}
