//! Errors of training.

use std::path::{Path, PathBuf};

/// Result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of training.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An invalid option; the message names it and a valid value.
    #[error("{0}")]
    Option(String),
    /// A file or folder that cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Reason, and how to fix it.
        reason: String,
    },
    /// A checkpoint rejected by `capfilt-udfs`.
    #[error(transparent)]
    Checkpoint(#[from] capfilt_udfs::Error),
    /// An error of libtorch.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    pub(crate) fn file(path: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::File { path: path.as_ref().into(), reason: reason.to_string() }
    }
}
