//! The list of all formats of lakehouse tables.

use std::path::Path;

use crate::error::{Error, Result};
use crate::lake::contract::TableFormat;
#[cfg(feature = "delta")]
use crate::lake::delta::snapshot::Delta;
use crate::lake::location::Lake;
#[cfg(not(feature = "delta"))]
use crate::lake::not_built::Delta;
use crate::store::url::{is_url, whereabouts};

#[cfg(feature = "delta")]
pub(crate) use crate::lake::delta::provider::check_write;
#[cfg(not(feature = "delta"))]
pub(crate) use crate::lake::not_built::check_write;

static TABLE_FORMATS: &[&dyn TableFormat] = &[&Delta];

/// Format of the lakehouse table at a place; `None` if there is none.
///
/// # Errors
/// A store that does not answer.
pub fn of(at: &Lake) -> Result<Option<&'static dyn TableFormat>> {
    for format in TABLE_FORMATS {
        if format.is_here(at)? {
            return Ok(Some(*format));
        }
    }
    Ok(None)
}

/// The error of asking for a version of a path that is not a lakehouse table.
pub(crate) fn no_versions(path: &Path) -> Error {
    let reason = if path.exists() || is_url(&path.to_string_lossy()) {
        "it is not a Delta table, and only those have versions: leave @ and the version out"
    } else {
        "there is no such file or folder (what follows @ is the version of a Delta table)"
    };
    Error::source(whereabouts(path), reason)
}

/// Lakehouse table that a path or URL names; `None` if it names something else or nothing.
///
/// # Errors
/// A store that does not answer.
pub fn find(path: &Path) -> Result<Option<(&'static dyn TableFormat, Lake)>> {
    let at = Lake::open(path)?;
    Ok(of(&at)?.map(|format| (format, at)))
}
