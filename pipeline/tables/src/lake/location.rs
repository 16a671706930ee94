//! Location of a Delta table, local or in a store.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::register;
use crate::layout;
use crate::store::location::Location;
use crate::store::url::is_url;

/// The folder of a Delta table.
pub enum Lake {
    /// A folder on a disk.
    Disk(PathBuf),
    /// A prefix of a store.
    Store(Location),
}

impl Lake {
    /// Delta table that a path or URL names; `None` if it names something else or nothing.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let text = path.to_string_lossy();
        if !is_url(&text) {
            return Ok(layout::is_delta(path).then(|| Self::Disk(path.to_owned())));
        }
        let location = Location::open(&text)?;
        Ok(if location.has_log(&register::ROLES)? { Some(Self::Store(location)) } else { None })
    }

    /// Path or URL for messages.
    #[cfg(feature = "delta")]
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Disk(path) => path.display().to_string(),
            Self::Store(location) => location.root().display().to_string(),
        }
    }

    /// Source error that names this table.
    pub(crate) fn error(&self, reason: impl ToString) -> Error {
        match self {
            Self::Disk(path) => Error::source(path, reason),
            Self::Store(location) => location.error(reason),
        }
    }
}
