//! Opening a table with the Delta library.

use std::fs;
use std::path::Path;

use deltalake_core::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use url::Url;

use crate::error::{Error, Result};
use crate::layout::is_delta;
use crate::store::object::runtime;

/// Error without the table's name, which callers add.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Runs the library on a thread of its own, so that callers may be on any thread.
pub(crate) fn apart<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> Result<T> {
    let run = || Ok(runtime().map_err(|e| Error::Internal(e.to_string()))?.block_on(work()));
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_| Err(Error::Internal("a thread of the Delta library panicked".to_owned())))
}

/// Latest version; `None` if there is none yet.
pub(crate) async fn load(path: &Path) -> Result<Option<DeltaTable>, DeltaTableError> {
    if !is_delta(path) {
        return Ok(None);
    }
    match builder(path)?.load().await {
        // The folder's creator was killed before the first version.
        Err(DeltaTableError::NotATable(_)) => Ok(None),
        loaded => loaded.map(Some),
    }
}

pub(crate) fn builder(path: &Path) -> Result<DeltaTableBuilder, DeltaTableError> {
    let url = Url::from_directory_path(fs::canonicalize(path).map_err(DeltaTableError::generic)?);
    DeltaTableBuilder::from_url(url.map_err(|()| DeltaTableError::InvalidTableLocation(path.display().to_string()))?)
}

pub(crate) async fn recorded(table: &DeltaTable, app_id: &str) -> Result<Option<i64>, DeltaTableError> {
    table.snapshot()?.transaction_version(&table.log_store(), app_id).await
}
