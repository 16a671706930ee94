//! Names of a folder's images, which a manifest names by their digest: it is written again with each part, and they are many.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "images-";

/// Names in the order of the rows; none for a file that is no folder of images. Equal where their digests are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub struct ImageNames {
    /// Empty in a record that was read, until [`Self::load`].
    names: Vec<String>,
    /// 16 hex digits.
    pub(crate) digest: Option<String>,
}

impl From<Option<String>> for ImageNames {
    fn from(digest: Option<String>) -> Self {
        Self { names: Vec::new(), digest }
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

    pub(crate) fn file_name(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{PREFIX}{digest}.json"))
    }

    pub(crate) fn load(&mut self, folder: &Path) -> io::Result<()> {
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

    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
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
