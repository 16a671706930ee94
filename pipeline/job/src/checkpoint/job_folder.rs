//! A job's destination folder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capfilt_tables::error::{Error, Result};
use capfilt_tables::file_record::FileRecord;
use capfilt_tables::image_names::is_image_names;
use capfilt_tables::layout;
use capfilt_tables::pair_table::{self, BOOKKEEPING, MANIFEST, State};

use crate::checkpoint::manifest::{Identity, Manifest};
use crate::checkpoint::manifests;
use crate::options::Mode;

/// Folder of the intermediate files of deduplication, within the shard's folder.
pub(crate) const DEDUPE_FOLDER: &str = "dedupe";
const LOCK: &str = "lock";
/// Wait before the one retry of a lock that another process may hold briefly.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const PARTS: &str = "parts";

/// A shard of a destination, locked by this process.
#[derive(Debug)]
pub(crate) struct JobFolder {
    path: PathBuf,
    /// The job's bookkeeping folder: `_capfilt/shard-1-of-1`.
    folder: PathBuf,
    created: bool,
    /// This shard's number, from 1, and the number of shards.
    shard: (u64, u64),
    /// Held while the job runs; the system releases it even if the process is killed. `None` for a dry run.
    lock: Option<File>,
}

/// State of a destination before the job starts.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing of this job. `replaces`: an existing table is to be removed once the new one is complete.
    Nothing { replaces: bool },
    /// Only other shards of this job; contains the manifest of one of them.
    Shards(Box<Manifest>),
    /// This shard of this job: unfinished, or finished and about to be updated or retried.
    Begun(Box<Manifest>),
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

    /// Read-only handle for a dry run: creates, locks and removes nothing.
    pub(crate) fn peek(path: &Path, shard: u64, shards: u64) -> Self {
        let folder = pair_table::shard_folder(path, shard, shards);
        Self { path: path.to_owned(), folder, created: false, shard: (shard, shards), lock: None }
    }

    /// Inspects the destination. Errors if this job must not touch what it holds.
    pub(crate) fn look(&self, job: &Identity, mode: Mode) -> Result<Found> {
        let overwrite = mode == Mode::Overwrite;
        let all = match manifests::manifests(&self.path) {
            // An unreadable manifest can still be replaced.
            Err(_) if overwrite => Vec::new(),
            all => all?,
        };
        let own = all.iter().find(|m| m.shard == self.shard.0 && m.job.shards == self.shard.1).cloned();
        let parts = self.parts()?;
        if overwrite {
            self.check_alone()?;
            // A replacement that was stopped resumes instead of starting over.
            let same = own.filter(|own| {
                own.state != State::Finished
                    && own.replaces
                    && own.retried.is_none()
                    && own.job.difference(job).is_none()
            });
            return Ok(match same {
                Some(own) => Found::Begun(Box::new(own)),
                None => {
                    Found::Nothing { replaces: !parts.is_empty() || !all.is_empty() || layout::is_delta(&self.path) }
                }
            });
        }
        for other in &all {
            if let Some(difference) = other.job.difference(job) {
                let reason = format!("the job there is another one: {difference}: give --overwrite or another folder");
                return Err(Error::dest(&self.path, reason));
            }
        }
        self.check_shards()?;
        let retry = mode == Mode::Retry;
        if retry && let Some(reason) = job.retry_refused() {
            return Err(Error::dest(&self.path, reason));
        }
        match own {
            Some(own) if own.state == State::Finished && mode == Mode::Create => {
                let table = self.path.display();
                // Suggest a retry only if it would be accepted.
                let retry = match own.job.retry_refused() {
                    None => format!("`capfilt retry {table}` does failed rows again, "),
                    Some(_) => String::new(),
                };
                let reason = format!(
                    "its table is finished: `capfilt update {table}` adds what is new in the source, {retry}--overwrite replaces it"
                );
                Err(Error::dest(&self.path, reason))
            }
            // Its good rows are still in the old table, and only a retry copies them from there.
            Some(own) if own.retried.is_some() && !retry => {
                Err(Error::dest(&self.path, "a retry was stopped there: `capfilt resume` ends it"))
            }
            Some(own) if retry && own.state != State::Finished && own.retried.is_none() => {
                let reason = "its table is not finished: end it first, with `capfilt resume`";
                Err(Error::dest(&self.path, reason))
            }
            None if retry && !all.is_empty() => {
                let (shard, shards) = self.shard;
                let reason = format!(
                    "shard {shard} of {shards} of its table has not begun: run it first, with `capfilt resume`"
                );
                Err(Error::dest(&self.path, reason))
            }
            None if retry => Err(Error::dest(&self.path, "there is no table whose failed rows could be done again")),
            Some(own) => Ok(Found::Begun(Box::new(own))),
            None if let Some(first) = all.into_iter().next() => Ok(Found::Shards(Box::new(first))),
            None => {
                let held = names(&self.path)?.iter().filter(|name| *name != BOOKKEEPING).count();
                if held > 0 {
                    let files = if held == 1 { "1 file".to_owned() } else { format!("{held} files") };
                    let reason = format!("it holds {files}: give --overwrite or another folder");
                    return Err(Error::dest(&self.path, reason));
                }
                Ok(Found::Nothing { replaces: false })
            }
        }
    }

    /// Removes the files of another job except its table. Warns of foreign Parquet files, which would be read with the
    /// table.
    pub(crate) fn clear(&self) -> Result<()> {
        let remove = |path: PathBuf| {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(|e| Error::write(&path, &e))
        };
        // The manifest of a complete table stays until the new table's manifest replaces it.
        let whole = self.begun().is_some_and(|manifest| manifest.state == State::Finished);
        // Hashes of a job that was stopped before its first unit stay too: each file notes what it was made from.
        let stays =
            |name: &str| name == LOCK || name == DEDUPE_FOLDER || (whole && (name == MANIFEST || is_image_names(name)));
        for name in names(&self.folder)?.iter().filter(|name| !stays(name)) {
            remove(self.folder.join(name))?;
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

    /// Restores the manifest `old`, whose table is still in place, and discards the intended replacement.
    pub(crate) fn give_back(&self, old: &Manifest) -> Result<()> {
        old.write(&self.manifest())?;
        self.clear()
    }

    /// Removes the bookkeeping of the replaced table's other shards.
    pub(crate) fn clear_other_shards(&self) -> Result<()> {
        let folder = self.path.join(BOOKKEEPING);
        for path in names(&folder)?.iter().map(|name| folder.join(name)).filter(|path| *path != self.folder) {
            if path.is_dir() {
                fs::remove_dir_all(&path).map_err(|e| Error::write(&path, &e))?;
            }
        }
        Ok(())
    }

    /// Errors if another process is writing a shard of the table to be replaced.
    fn check_alone(&self) -> Result<()> {
        self.check_unlocked(&|_| true)
    }

    /// Errors if another process writes the table in another number of shards: before its first unit, it has no manifest
    /// that would say so.
    fn check_shards(&self) -> Result<()> {
        let count = format!("-of-{}", self.shard.1);
        self.check_unlocked(&|shard| !shard.to_string_lossy().ends_with(&count))
    }

    fn check_unlocked(&self, is_other: &dyn Fn(&Path) -> bool) -> Result<()> {
        let folder = self.path.join(BOOKKEEPING);
        let others = names(&folder)?.into_iter().map(|name| folder.join(name));
        for shard in others.filter(|shard| *shard != self.folder && is_other(shard)) {
            if let Ok(file) = File::open(shard.join(LOCK))
                && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
            {
                return Err(Error::dest(&self.path, "another job is writing to it"));
            }
        }
        Ok(())
    }

    /// The existing manifest, if it is readable.
    pub(crate) fn begun(&self) -> Option<Manifest> {
        Manifest::read(&self.manifest()).ok().flatten()
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.folder.join(MANIFEST)
    }

    /// The table's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in the shard's folder.
    pub(crate) fn kept(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Names in the shard's folder.
    pub(crate) fn kept_names(&self) -> Result<Vec<String>> {
        names(&self.folder)
    }

    /// Errors if other shards belong to another job, or read another source.
    pub(crate) fn agree(&self, manifest: &Manifest) -> Result<()> {
        let own = |other: &Manifest| (other.shard, other.job.shards) == (manifest.shard, manifest.job.shards);
        for other in manifests::manifests(&self.path)?.iter().filter(|other| !own(other)) {
            if let Some(difference) = other.job.difference(&manifest.job) {
                let reason = format!("shard {} there is of another job: {difference}", other.shard);
                return Err(Error::dest(&self.path, reason));
            }
            // One of them may have been updated before the other, so only the common prefix is compared.
            let both = other.files.len().min(manifest.files.len());
            // A retry takes a mended file, and the shards are retried one after another.
            let is_retry = manifest.retried.is_some();
            let same = |(a, b): (&FileRecord, &FileRecord)| a == b || is_retry && a.has_rows_of(b);
            if !other.files[..both].iter().zip(&manifest.files[..both]).all(same) {
                let reason = format!(
                    "shard {} there has another source, or its files in another order: give all shards the same files, or write the table anew",
                    other.shard
                );
                return Err(Error::dest(&self.path, reason));
            }
        }
        Ok(())
    }

    /// Staging path of a part until all parts are written; creates the folder.
    pub(crate) fn waiting(&self, part: &str) -> Result<PathBuf> {
        let folder = self.folder.join(PARTS);
        fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, &e))?;
        Ok(folder.join(part))
    }

    /// Names of the staged parts.
    pub(crate) fn waiting_names(&self) -> Result<Vec<String>> {
        let folder = self.folder.join(PARTS);
        if folder.is_dir() { names(&folder) } else { Ok(Vec::new()) }
    }

    /// Final path of a part.
    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names of the table's existing parts.
    pub(crate) fn parts(&self) -> Result<Vec<String>> {
        Ok(names(&self.path)?.into_iter().filter(|name| pair_table::is_part(name)).collect())
    }

    /// Syncs the folders: a rename is durable only once its folder is synced.
    pub(crate) fn sync(&self) -> Result<()> {
        let parts = self.folder.join(PARTS);
        self.sync_kept()?;
        if parts.is_dir() {
            sync(&parts)?;
        }
        sync(&self.path)
    }

    /// Like `sync`, for a rename within the shard's folder, which itself has long been durable.
    pub(crate) fn sync_kept(&self) -> Result<()> {
        sync(&self.folder)
    }

    /// Removes the staging folder, which is empty by now.
    pub(crate) fn end_waiting(&self) {
        let _ = fs::remove_dir(self.folder.join(PARTS));
    }
}

impl Drop for JobFolder {
    fn drop(&mut self) {
        let Some(lock) = &self.lock else { return };
        if !self.manifest().exists() {
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
