//! The list of all formats of lakehouse tables.

use std::path::Path;

use crate::error::Result;
use crate::lake::contract::TableFormat;
#[cfg(feature = "delta")]
use crate::lake::delta::snapshot::Delta;
use crate::lake::location::Lake;
#[cfg(not(feature = "delta"))]
use crate::lake::not_built::Delta;

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

/// Lakehouse table that a path or URL names; `None` if it names something else or nothing.
///
/// # Errors
/// A store that does not answer.
pub fn find(path: &Path) -> Result<Option<(&'static dyn TableFormat, Lake)>> {
    let at = Lake::open(path)?;
    Ok(of(&at)?.map(|format| (format, at)))
}
