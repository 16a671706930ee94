//! Which files a source is.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{Kind, images};
use crate::error::{Error, Result};
use crate::{hive, table};

/// The folder that names are counted from, and the files below it, sorted.
pub(super) fn find(path: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let text = path.to_string_lossy();
    if !path.exists() && text.contains(['*', '?', '[']) {
        return matching(path, &text);
    }
    let meta = fs::metadata(path).map_err(|e| Error::source(path, e))?;
    if !meta.is_dir() {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        return Ok((folder, vec![path.to_owned()]));
    }
    let mut files = Vec::new();
    collect(path, &mut files)?;
    files.sort();
    if files.is_empty()
        && let Some(reason) = table::unfinished(path)?
    {
        return Err(Error::source(path, reason));
    }
    Ok((path.to_owned(), whole(files)?))
}

/// Refuses files that are parts of an unfinished pair table.
fn whole(files: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut last = None;
    for folder in files.iter().filter_map(|file| file.parent()) {
        if last != Some(folder)
            && let Some(reason) = table::unfinished(folder)?
        {
            return Err(Error::source(folder, reason));
        }
        last = Some(folder);
    }
    Ok(files)
}

fn matching(path: &Path, pattern: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
    let magic = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let root: PathBuf = path.components().take_while(|part| !magic(part)).collect();
    let root = if root.as_os_str().is_empty() { PathBuf::from(".") } else { root };
    let found = glob::glob(pattern).map_err(|e| Error::source(path, format!("not a pattern: {e}")))?;
    let mut files = Vec::new();
    for entry in found {
        let entry = entry.map_err(|e| Error::source(e.path().to_owned(), e.error()))?;
        let below = entry.strip_prefix(&root).unwrap_or(&entry);
        if below.components().any(|part| is_bookkeeping(Path::new(part.as_os_str()))) {
            continue;
        }
        if entry.is_dir() {
            collect(&entry, &mut files)?;
        } else {
            files.push(entry);
        }
    }
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Err(Error::source(path, "nothing matches this pattern"));
    }
    Ok((root, whole(files)?))
}

/// Names that begin with a dot or an underscore.
fn is_bookkeeping(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']))
}

/// Every file of a known kind below `folder` that is not bookkeeping.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::source(folder, e))? {
        let path = entry.map_err(|e| Error::source(folder, e))?.path();
        if is_bookkeeping(&path) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if Kind::of(&path).is_some() {
            files.push(path);
        }
    }
    Ok(())
}

/// The images in a folder and below it, and their texts. A warning counts what is no image, no text and no bookkeeping, and links to
/// nothing.
pub(super) fn pictures(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut texts) = (Vec::new(), Vec::new());
    let mut passed: Option<(PathBuf, u64)> = None;
    let mut left = vec![root.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::source(&folder, e))? {
            let path = entry.map_err(|e| Error::source(&folder, e))?.path();
            if is_bookkeeping(&path) {
                continue;
            }
            if path.is_dir() {
                left.push(path);
                continue;
            }
            match path.is_file() {
                true if images::is_image(&path) => files.push(path),
                true if images::is_text(&path) => texts.push(path),
                _ => passed.get_or_insert((path, 0)).1 += 1,
            }
        }
    }
    if files.is_empty() {
        return Ok(files);
    }
    files.append(&mut texts);
    if let Some((first, files)) = passed {
        let (root, first) = (root.display(), first.display());
        log::warn!(
            "{root}: passed over what is no image by its name, or links to nothing: {files} files, the first is {first}"
        );
    }
    Ok(files)
}

/// Columns and values of the folders `name=value` on a file's path below the source, as Hive writes them.
pub(super) fn partitions(below: &Path) -> Result<Vec<(String, Option<String>)>, String> {
    let folders = below.parent().into_iter().flat_map(Path::components);
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for folder in folders {
        let folder = folder.as_os_str().to_string_lossy().into_owned();
        let Some((name, value)) = folder.split_once('=') else { continue };
        let plain = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(|t| t.into_owned()).map_err(|e| format!("its folder {folder}: {e}"))
        };
        let value = if value == hive::NULL { None } else { Some(plain(value)?) };
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
}
