//! Names of a folder's images, which a manifest names by their digest: it is written again with each part, and they are many.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::source::files::FileRecord;

const PREFIX: &str = "images-";

/// Names in the order of the rows; none for a file that is no folder of images. Equal where their digests are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Written", into = "Option<String>")]
pub struct ImageNames {
    /// Empty in a record that was read, until [`Self::load`].
    names: Vec<String>,
    /// 16 hex digits.
    digest: Option<String>,
}

/// As a manifest has them: earlier ones list the names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Digest(String),
    Names(Vec<String>),
}

impl From<Written> for ImageNames {
    fn from(written: Written) -> Self {
        match written {
            Written::Digest(digest) => Self { names: Vec::new(), digest: Some(digest) },
            Written::Names(names) => Self::new(names),
        }
    }
}

impl From<ImageNames> for Option<String> {
    fn from(names: ImageNames) -> Self {
        names.digest
    }
}

impl PartialEq for ImageNames {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ImageNames {}

impl ImageNames {
    pub(crate) fn new(names: Vec<String>) -> Self {
        let mut digest = Sha256::new();
        for name in &names {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
        }
        let digest = (!names.is_empty()).then(|| hex::encode(&digest.finalize()[..8]));
        Self { names, digest }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.digest.is_none()
    }

    pub(crate) fn as_slice(&self) -> &[String] {
        &self.names
    }

    fn file_name(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{PREFIX}{digest}.json"))
    }

    fn load(&mut self, folder: &Path) -> io::Result<()> {
        let Some(name) = self.file_name().filter(|_| self.names.is_empty()) else { return Ok(()) };
        let path = folder.join(name);
        let read = fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other));
        let read = read.map(Self::new).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        if read != *self {
            return Err(io::Error::other(format!("{}: it was changed", path.display())));
        }
        *self = read;
        Ok(())
    }

    fn save(&self, folder: &Path) -> io::Result<()> {
        let Some(name) = self.file_name() else { return Ok(()) };
        let (path, temp) = (folder.join(&name), folder.join(name + ".tmp"));
        if path.exists() {
            return Ok(());
        }
        let mut file = File::create(&temp)?;
        serde_json::to_writer(io::BufWriter::new(&file), &self.names)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(temp, path)?;
        // The manifest that needs it comes later.
        File::open(folder)?.sync_all()
    }
}

/// Whether a file of a shard's folder has names of images.
pub fn is_image_names(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(".json")
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
        // As manifests had them.
        let listed =
            written.replacen(&format!("{:?}", first.images.digest.as_deref().unwrap()), "[\"a.png\",\"b.png\"]", 1);
        let read: Vec<FileRecord> = serde_json::from_str(&listed).unwrap();
        assert_eq!((&read[0], read[0].images.as_slice()), (&first, first.images.as_slice()));
        clean([&second], folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mut gone: Vec<FileRecord> = serde_json::from_str(&written).unwrap();
        let error = load(&mut gone, folder.path()).unwrap_err().to_string();
        assert!(error.contains("images-"), "{error}");
    }
}
