//! Errors of a job; their messages name the file, column or option.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;

/// An error of a job.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be read, or is not a table.
    #[error("source {}: {reason}", path.display())]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A column is missing, has the wrong type, or has a name that is taken.
    #[error("{0}")]
    Column(String),
    /// An option cannot be applied.
    #[error("{0}")]
    Option(String),
    /// The destination cannot be written to, or must not be.
    #[error("destination {}: {reason}", path.display())]
    Dest {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A recipe is invalid.
    #[error("recipe {name}: {reason}")]
    Recipe {
        /// File of the recipe.
        name: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A parameter has no value.
    #[error("parameter ${0} has no value: give --param {0}=VALUE")]
    Parameter(String),
    /// A query failed in planning, at an image under `on_error = 'fail'`, or in the engine.
    #[error("{}", message(.0))]
    Query(#[from] DataFusionError),
    /// A checkpoint or a setting of the models is invalid.
    #[error(transparent)]
    Model(#[from] capfilt_udfs::Error),
    /// More rows failed than are allowed.
    #[error(
        "{failed} of {rows} rows cannot be used, and --max-failed allows {allowed}: look at the source, or allow more{reasons}"
    )]
    TooManyFailed {
        /// Rows whose image or text cannot be used.
        failed: u64,
        /// Rows done.
        rows: u64,
        /// Limit given for failed rows.
        allowed: String,
        /// Most common reasons, one per line.
        reasons: String,
    },
    /// The job was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The job was asked to stop before it had written anything.
    #[error("interrupted while {0}; nothing was written")]
    Halted(&'static str),
    /// A bug in capfilt.
    #[error("internal error of capfilt, please report it: {0}")]
    Internal(String),
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a source: its path or URL, and what is wrong and what to do.
    pub fn source(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Source { path: path.into(), reason: reason.to_string() }
    }

    /// An error of a destination: its path, and what is wrong and what to do.
    pub fn dest(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Dest { path: path.into(), reason: reason.to_string() }
    }

    /// A failed write. A full disk is the one failure that users can mend, so it is named.
    pub fn write(path: &Path, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::StorageFull => "the disk is full".to_owned(),
            io::ErrorKind::QuotaExceeded => "the disk quota is used up".to_owned(),
            io::ErrorKind::FileTooLarge => {
                "the file would exceed the size that the system allows (ulimit -f)".to_owned()
            }
            _ => error.to_string(),
        };
        Self::dest(path, format!("cannot write: {reason}"))
    }

    /// A failed write by the Parquet writer, which wraps the file's I/O error; the user can only act on the latter.
    pub fn write_parquet(path: &Path, error: &ParquetError) -> Self {
        match causes(error).find_map(|cause| cause.downcast_ref()) {
            Some(io) => Self::write(path, io),
            None => Self::dest(path, format!("cannot write: {error}")),
        }
    }
}

/// Causes of an error, the innermost last.
pub(crate) fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// DataFusion's message without its kind and the planner rules that it passed through. If the cause is an error of the
/// models or of this crate, that error's own message: a prefix such as `External error:` tells a user nothing.
pub fn message(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(cause) => cause.to_string(),
        DataFusionError::SQL(cause, _) => cause.to_string(),
        DataFusionError::Plan(text) | DataFusionError::Execution(text) | DataFusionError::Configuration(text) => {
            text.clone()
        }
        root @ DataFusionError::SchemaError(..) => root.strip_backtrace(),
        _ => not_utf8(error.strip_backtrace()),
    }
}

/// Part of the Parquet reader's message for a text that is not UTF-8.
pub const NOT_UTF8: &str = "encountered non UTF-8 data";

/// Adds advice to the Parquet reader's error about a text that is not UTF-8, which names neither the file nor the
/// column.
fn not_utf8(text: String) -> String {
    if !text.contains(NOT_UTF8) {
        return text;
    }
    format!(
        "{text}: a column of text has bytes that are not text. Select the other columns by their names; or have capfilt run read the \
         file, which names file, row and column, puts U+FFFD for such bytes, and goes on"
    )
}
