//! What a job records of a source file, to recognise it later.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image_names::{ImageNames, is_image_names};

/// Identity of a source's file, kept by a job to recognise it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path relative to the source; the file's name if the source is that file.
    pub name: String,
    /// Size, bytes.
    pub bytes: u64,
    /// Fingerprint, hex: a digest of the Parquet footer, tar headers, text or image listing, or the store's stamp.
    pub stamp: String,
    /// Number of rows, deleted ones included.
    pub rows: u64,
    /// Image names of a folder of images, in row order.
    #[serde(default, skip_serializing_if = "ImageNames::is_empty")]
    pub images: ImageNames,
}

impl FileRecord {
    /// Whether the file has the name and the number of rows of `other`, and the same images if it is a folder of them: a
    /// mended file does, though its contents differ.
    pub fn has_rows_of(&self, other: &Self) -> bool {
        self.name == other.name && self.rows == other.rows && self.images == other.images
    }
}

/// Reads the names that `records`, of a manifest in `folder`, have digests of.
pub fn load<'a>(records: impl IntoIterator<Item = &'a mut FileRecord>, folder: &Path) -> io::Result<()> {
    records.into_iter().try_for_each(|record| record.images.load(folder))
}

/// Writes the names beside the manifest that is about to have `records`, once each.
pub fn save<'a>(records: impl IntoIterator<Item = &'a FileRecord>, folder: &Path) -> io::Result<()> {
    records.into_iter().try_for_each(|record| record.images.save(folder))
}

/// Removes the names that the manifest in `folder`, which has `records`, no longer needs.
pub fn clean<'a>(records: impl IntoIterator<Item = &'a FileRecord>, folder: &Path) -> io::Result<()> {
    let needed: BTreeSet<PathBuf> =
        records.into_iter().filter_map(|record| record.images.file_name()).map(|name| folder.join(name)).collect();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_names = path.file_name().is_some_and(|name| is_image_names(&name.to_string_lossy()));
        if is_names && !needed.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(names: &[&str]) -> FileRecord {
        let images = ImageNames::new(names.iter().map(|name| (*name).to_owned()).collect());
        FileRecord { name: "a".to_owned(), bytes: 1, stamp: String::new(), rows: names.len() as u64, images }
    }

    #[test]
    fn names_are_beside_what_has_their_digest() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second, none) = (record(&["a.png", "b.png"]), record(&["a.pngb.png"]), record(&[]));
        save([&first, &second, &none], folder.path()).unwrap();
        let written = serde_json::to_string(&[&first, &second, &none]).unwrap();
        assert!(!written.contains("png"), "{written}");
        let mut read: Vec<FileRecord> = serde_json::from_str(&written).unwrap();
        assert_eq!(read, [first.clone(), second.clone(), none.clone()]);
        load(&mut read, folder.path()).unwrap();
        assert_eq!(read[0].images.as_slice(), ["a.png", "b.png"]);
        assert_eq!(read[1].images.as_slice(), ["a.pngb.png"]);
        clean([&second], folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mut gone: Vec<FileRecord> = serde_json::from_str(&written).unwrap();
        let error = load(&mut gone, folder.path()).unwrap_err().to_string();
        assert!(error.contains("images-"), "{error}");
    }
}
