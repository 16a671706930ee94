//! The folder that a job writes to.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const LOCK: &str = ".capfilt.lock";

/// A destination that this process alone writes to.
#[derive(Debug)]
pub(crate) struct Dest {
    path: PathBuf,
    created: bool,
    /// Held while the job runs: the system lets go of it even when the process is killed.
    lock: File,
}

/// Says whether a job may write to `dest`, without changing anything.
pub(crate) fn check(source: &Path, dest: &Path, overwrite: bool) -> Result<()> {
    let real = real_path(dest);
    let from = real_path(source);
    if real == from {
        return Err(Error::dest(dest, "it is the source: give another folder"));
    }
    if real.starts_with(&from) {
        return Err(Error::dest(
            dest,
            "it lies inside the source, and would be read as part of it: give another folder",
        ));
    }
    if from.starts_with(&real) {
        return Err(Error::dest(dest, "the source lies inside it: give another folder"));
    }
    match fs::metadata(dest) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::dest(dest, e)),
        Ok(meta) if !meta.is_dir() => return Err(Error::dest(dest, "it is a file: give a folder")),
        Ok(_) => {}
    }
    let names = names(dest)?;
    let held = names.iter().filter(|name| !is_leftover(name)).count();
    if held > 0 && !overwrite {
        let files = if held == 1 { "1 file".to_owned() } else { format!("{held} files") };
        return Err(Error::dest(dest, format!("it holds {files}: give --overwrite or another folder")));
    }
    let foreign: Vec<_> = names.iter().filter(|n| n.ends_with(".parquet") && !is_part(n)).map(String::as_str).collect();
    if let Some(first) = foreign.first() {
        let folder = dest.display();
        log::warn!("{folder} holds {first}, which is no part of a pair table: it stays, and is read with the table");
    }
    Ok(())
}

impl Dest {
    /// Makes the folder, locks it, and removes what a killed job left there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let created = !path.exists();
        fs::create_dir_all(path).map_err(|e| Error::write(path, &e))?;
        let file = path.join(LOCK);
        let lock = File::create(&file).map_err(|e| Error::write(&file, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::dest(path, "another job is writing to it")),
            // A file system without locks: go on without.
            Err(TryLockError::Error(e)) => log::warn!("cannot lock {}: {e}", file.display()),
        }
        for name in names(path)?.iter().filter(|name| is_leftover(name) && *name != LOCK) {
            let leftover = path.join(name);
            fs::remove_file(&leftover).map_err(|e| Error::write(&leftover, &e))?;
        }
        Ok(Self { path: path.to_owned(), created, lock })
    }

    /// Name of part `number`, and of the file that becomes it when it is whole.
    pub(crate) fn part(&self, number: usize) -> (PathBuf, PathBuf) {
        let name = format!("part-{number:05}.parquet");
        (self.path.join(&name), self.path.join(format!(".{name}.tmp")))
    }

    /// The parts that are there.
    pub(crate) fn parts(&self) -> Result<Vec<PathBuf>> {
        Ok(names(&self.path)?.iter().filter(|name| is_part(name)).map(|name| self.path.join(name)).collect())
    }

    /// A renamed file is safe on disk only when its folder is.
    pub(crate) fn sync(&self) -> Result<()> {
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(|e| Error::write(&self.path, &e))
    }
}

impl Drop for Dest {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path.join(LOCK));
        let _ = self.lock.unlock();
        if self.created {
            // Goes only if it is empty: the job failed before it wrote anything.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let read = |e: io::Error| Error::dest(folder, e);
    fs::read_dir(folder)
        .map_err(read)?
        .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(read))
        .collect()
}

fn is_part(name: &str) -> bool {
    let number = name.strip_prefix("part-").and_then(|n| n.strip_suffix(".parquet"));
    number.is_some_and(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit()))
}

fn is_leftover(name: &str) -> bool {
    let part = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
    name == LOCK || part.is_some_and(is_part)
}

/// Where `path` is, also if its last parts do not exist yet.
fn real_path(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|a| fs::canonicalize(a).ok().map(|real| (a, real)));
    match known {
        Some((ancestor, real)) => path.strip_prefix(ancestor).map(|rest| real.join(rest)).unwrap_or(real),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_leftovers_are_known_by_name() {
        assert!(is_part("part-00000.parquet") && is_part("part-123456.parquet"));
        assert!(
            !is_part("part-0.parquet") && !is_part("part-0000a.parquet") && !is_part("part-00000-c000.snappy.parquet")
        );
        assert!(is_leftover(".part-00000.parquet.tmp") && is_leftover(LOCK));
        assert!(!is_leftover("part-00000.parquet") && !is_leftover(".x.tmp"));
    }

    #[test]
    fn one_job_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Dest::open(folder.path()).unwrap();
        assert!(Dest::open(folder.path()).unwrap_err().to_string().contains("another job"));
        drop(first);
        Dest::open(folder.path()).unwrap();
    }

    #[test]
    fn a_path_that_is_not_there_yet_is_resolved() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap();
        assert_eq!(real_path(&folder.path().join("a/b")), real.join("a/b"));
    }
}
