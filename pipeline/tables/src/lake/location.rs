//! Location of a lakehouse table, local or in a store.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::register::ROLES;
use crate::store::location::Location;
use crate::store::url::is_url;

/// A folder, which may be that of a lakehouse table.
pub enum Lake {
    /// A folder on a disk.
    Disk(PathBuf),
    /// A prefix of a store.
    Store(Location),
}

impl Lake {
    /// Location of a path or URL.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let text = path.to_string_lossy();
        if is_url(&text) { Location::open(&text).map(Self::Store) } else { Ok(Self::Disk(path.to_owned())) }
    }

    /// Whether a folder `name` lies in this one.
    pub(crate) fn has_folder(&self, name: &str) -> Result<bool> {
        match self {
            Self::Disk(path) => Ok(path.join(name).is_dir()),
            Self::Store(location) => location.has_folder(name, &ROLES),
        }
    }

    /// Source error that names this folder.
    pub(crate) fn error(&self, reason: impl ToString) -> Error {
        match self {
            Self::Disk(path) => Error::source(path, reason),
            Self::Store(location) => location.error(reason),
        }
    }
}
