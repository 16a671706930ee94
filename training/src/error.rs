//! Errors of training.

use std::path::{Path, PathBuf};

/// Result of training.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that cannot be; names it and says what to give.
    #[error("{0}")]
    Option(String),
    /// A file or folder that cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A checkpoint that `capfilt-udfs` refuses.
    #[error(transparent)]
    Checkpoint(#[from] capfilt_udfs::Error),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    pub(crate) fn file(path: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::File { path: path.as_ref().into(), reason: reason.to_string() }
    }
}
