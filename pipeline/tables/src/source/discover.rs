//! Discovery of a source's files.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::register;
use crate::halt::Halt;
use crate::layout::{HIVE_NULL, Role};
use crate::pair_table;
use crate::store::url::MAGIC;

/// Folder that names are relative to, and the files below it, sorted.
pub(crate) fn find(path: &Path, halt: &Halt) -> Result<(PathBuf, Vec<PathBuf>)> {
    let text = path.to_string_lossy();
    if !path.exists() && text.contains(MAGIC) {
        return matching(path, &text, halt);
    }
    let meta = fs::metadata(path).map_err(|e| Error::source(path, e))?;
    if !meta.is_dir() {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        return Ok((folder, vec![path.to_owned()]));
    }
    let mut files = Vec::new();
    let skipped = collect(path, halt, &mut files)?;
    files.sort();
    warn_of(&files, &skipped);
    if files.is_empty()
        && let Some(reason) = pair_table::unfinished(path)?
    {
        return Err(Error::source(path, reason));
    }
    Ok((path.to_owned(), whole(files)?))
}

/// Warns of files that are not read beside `files`, which are.
fn warn_of(files: &[PathBuf], skipped: &[PathBuf]) {
    if let Some(first) = skipped.iter().min().filter(|_| !files.is_empty()) {
        log::warn!(
            "{}: not read, nor are other such files of the folder ({} in all): a file of JSON lines in a folder ends in .jsonl, and \
             compressed files are to be unpacked",
            first.display(),
            skipped.len()
        );
    }
}

/// Refuses files that are parts of an unfinished pair table.
fn whole(files: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    for together in files.chunk_by(|a, b| a.parent() == b.parent()) {
        let folder = together[0].parent().unwrap_or(Path::new(""));
        if let Some(reason) = pair_table::unfinished(folder)? {
            return Err(Error::source(folder, reason));
        }
    }
    Ok(files)
}

fn matching(path: &Path, pattern: &str, halt: &Halt) -> Result<(PathBuf, Vec<PathBuf>)> {
    let magic = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(MAGIC);
    let root: PathBuf = path.components().take_while(|part| !magic(part)).collect();
    let root = if root.as_os_str().is_empty() { PathBuf::from(".") } else { root };
    let found = glob::glob(pattern).map_err(|e| Error::source(path, format!("not a pattern: {e}")))?;
    let (mut files, mut skipped) = (Vec::new(), Vec::new());
    for entry in found {
        halt.check()?;
        let entry = entry.map_err(|e| Error::source(e.path().to_owned(), e.error()))?;
        let below = entry.strip_prefix(&root).unwrap_or(&entry);
        if below.components().any(|part| is_bookkeeping(Path::new(part.as_os_str()))) {
            continue;
        }
        if entry.is_dir() {
            skipped.extend(collect(&entry, halt, &mut files)?);
        } else {
            files.push(entry);
        }
    }
    files.sort();
    files.dedup();
    warn_of(&files, &skipped);
    if files.is_empty() {
        return Err(Error::source(path, "nothing matches this pattern"));
    }
    Ok((root, whole(files)?))
}

/// Whether a name begins with a dot or an underscore.
fn is_bookkeeping(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']))
}

/// Collects every file of a known format below `folder` that is not bookkeeping. Returns the files whose extension is
/// that of a format only if they are named themselves.
fn collect(folder: &Path, halt: &Halt, files: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut skipped = Vec::new();
    walk(folder, halt, &mut |path| {
        if register::of_path(&path).is_some() {
            files.push(path);
        } else if is_skipped(&path) {
            skipped.push(path);
        }
    })?;
    Ok(skipped)
}

/// Whether a file has the extension of a format that is only read by name, or is compressed.
fn is_skipped(path: &Path) -> bool {
    let known =
        |path: &Path| path.extension().is_some_and(|e| register::of_extension(&e.to_string_lossy(), true).is_some());
    known(path) || (register::is_packed(path) && known(&path.with_extension("")))
}

/// Calls `each` for everything below `root` that is neither a folder nor bookkeeping.
///
/// Each folder is walked once: by its own path if that is below `root`, else by the first link to it. A link to a
/// folder that is walked anyway, or that contains `root`, is not followed: its files would come twice or endlessly. A
/// warning names it.
///
/// # Errors
/// A folder that cannot be read.
pub(crate) fn walk(root: &Path, halt: &Halt, each: &mut dyn FnMut(PathBuf)) -> Result<()> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|e| Error::source(path, e));
    let top = real(root)?;
    let (mut walked, mut links) = (HashSet::from([top.clone()]), Vec::new());
    let mut repeated: Option<(PathBuf, u64)> = None;
    let mut left = vec![(root.to_owned(), top.clone())];
    loop {
        while let Some((folder, real)) = left.pop() {
            for entry in fs::read_dir(&folder).map_err(|e| Error::source(&folder, e))? {
                halt.check()?;
                let entry = entry.map_err(|e| Error::source(&folder, e))?;
                let path = entry.path();
                if is_bookkeeping(&path) {
                    continue;
                }
                let kind = entry.file_type().map_err(|e| Error::source(&path, e))?;
                if kind.is_dir() {
                    let real = real.join(entry.file_name());
                    if walked.insert(real.clone()) {
                        left.push((path, real));
                    }
                } else if kind.is_symlink() && path.is_dir() {
                    links.push(path);
                } else {
                    each(path);
                }
            }
        }
        // Sort by name: the order of directory entries depends on the file system.
        links.sort();
        let Some(link) = (!links.is_empty()).then(|| links.remove(0)) else { break };
        let target = real(&link)?;
        if top.starts_with(&target) || !walked.insert(target.clone()) {
            repeated.get_or_insert((link, 0)).1 += 1;
        } else {
            left.push((link, target));
        }
    }
    if let Some((first, links)) = repeated {
        let more = if links > 1 { format!(" and {} more links", links - 1) } else { String::new() };
        log::warn!(
            "{}{more}: not followed, since it leads to a folder that is read anyway or that the source is in",
            first.display()
        );
    }
    Ok(())
}

/// Images and texts in a folder and below it. A warning counts other files, except bookkeeping, and dangling links.
pub(crate) fn pictures(root: &Path, halt: &Halt) -> Result<Vec<PathBuf>> {
    let (mut files, mut texts) = (Vec::new(), Vec::new());
    let mut passed: Option<(PathBuf, u64)> = None;
    walk(root, halt, &mut |path| match register::role(&path).filter(|_| path.is_file()) {
        Some(Role::Image) => files.push(path),
        Some(Role::Text) => texts.push(path),
        _ => passed.get_or_insert((path, 0)).1 += 1,
    })?;
    if files.is_empty() {
        return Ok(files);
    }
    files.append(&mut texts);
    if let Some((first, files)) = passed {
        let (root, first) = (root.display(), first.display());
        log::warn!(
            "{root}: passed over what is not an image by its name, or links to nothing: {files} files, the first is {first}"
        );
    }
    Ok(files)
}

/// Hive partition columns: names and values of the folders `name=value` on a file's path below the source.
pub(crate) fn partitions(below: &Path) -> Result<Vec<(String, Option<String>)>, String> {
    let folders = below.parent().into_iter().flat_map(Path::components);
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for folder in folders {
        let folder = folder.as_os_str().to_string_lossy().into_owned();
        let Some((name, value)) = folder.split_once('=') else { continue };
        let plain = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(|t| t.into_owned()).map_err(|e| format!("its folder {folder}: {e}"))
        };
        let value = if value == HIVE_NULL { None } else { Some(plain(value)?) };
        found.push((plain(name)?, value));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_tell_columns() {
        let of = |file: &str| partitions(Path::new(file)).unwrap();
        assert!(of("x.parquet").is_empty());
        let some = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(of("split=train/day=a%2Fb/x.parquet"), [some("split", "train"), some("day", "a/b")]);
        assert_eq!(of("day=__HIVE_DEFAULT_PARTITION__/x.parquet"), [("day".to_owned(), None)]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_walked_once_however_often_it_is_linked() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for below in ["in/a/b", "in/_no", "far/deep"] {
            fs::create_dir_all(at(below)).unwrap();
        }
        for file in ["in/1", "in/a/2", "in/a/b/3", "in/_no/4", "far/5", "far/deep/6"] {
            fs::write(at(file), file).unwrap();
        }
        let links =
            [(".", "in/self"), ("..", "in/a/x"), ("..", "in/a/y"), ("../..", "in/a/above"), ("../in/a", "in/c")];
        for (target, link) in
            links.into_iter().chain([("../far", "in/far"), ("../far", "in/again"), ("nowhere", "in/lost")])
        {
            symlink(target, at(link)).unwrap();
        }
        symlink("..", at("far/deep/up")).unwrap();
        let mut found = Vec::new();
        walk(&at("in"), &Halt::default(), &mut |path| {
            found.push(path.strip_prefix(at("in")).unwrap().to_str().unwrap().to_owned());
        })
        .unwrap();
        found.sort();
        assert_eq!(found, ["1", "a/2", "a/b/3", "again/5", "again/deep/6", "lost"]);
        // A link given as the source stands for the folder that it leads to.
        symlink("in", at("source")).unwrap();
        let mut files = 0;
        walk(&at("source"), &Halt::default(), &mut |_| files += 1).unwrap();
        assert_eq!(files, 6);
    }
}
