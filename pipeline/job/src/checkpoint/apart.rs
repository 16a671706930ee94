//! Source and destination of a job must not contain each other.

use std::path::{Path, PathBuf};
use std::{fs, io};

use capfilt_tables::error::{Error, Result};
use capfilt_tables::source::files::Source;
use capfilt_tables::store::url::is_url;

/// Refuses a destination inside the source, or one that contains it.
pub(crate) fn check_apart(source: &Source, dest: &Path) -> Result<()> {
    let given = &source.given;
    if is_url(&given.to_string_lossy()) {
        return check_folder(dest);
    }
    if given.exists() {
        return check(given, dest);
    }
    source.paths().try_for_each(|path| check(&path, dest))?;
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // Match as the files were found: `*` stays within one path component.
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let pattern = glob::Pattern::new(&whole(given).to_string_lossy());
    if pattern.is_ok_and(|pattern| pattern.matches_path_with(&whole(dest).join("part-00000.parquet"), options)) {
        return Err(Error::dest(dest, "the source's pattern matches what would be written there: give another folder"));
    }
    Ok(())
}

/// Errors unless source and destination are separate.
fn check(source: &Path, dest: &Path) -> Result<()> {
    let real = real_path(dest);
    let from = real_path(source);
    let reason = if real == from {
        "it is the source: give another folder"
    } else if real.starts_with(&from) {
        "it lies inside the source, and would be read as part of it: give another folder"
    } else if from.starts_with(&real) {
        "the source lies inside it: give another folder"
    } else {
        return check_folder(dest);
    };
    Err(Error::dest(dest, reason))
}

/// Errors if the destination cannot be a folder.
fn check_folder(dest: &Path) -> Result<()> {
    if is_url(&dest.to_string_lossy()) {
        return Err(Error::dest(dest, "a table is written to a disk: give a folder"));
    }
    match fs::metadata(dest) {
        Ok(meta) if !meta.is_dir() => Err(Error::dest(dest, "it is a file: give a folder")),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::dest(dest, e)),
        _ => Ok(()),
    }
}

/// Resolves `path`, even if its last components do not exist yet.
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
    fn a_path_that_is_not_there_yet_is_resolved() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap();
        assert_eq!(real_path(&folder.path().join("a/b")), real.join("a/b"));
    }
}
