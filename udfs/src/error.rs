//! What can go wrong below the SQL edge. Functions turn these into `DataFusionError`.

use std::path::PathBuf;

/// An error of a checkpoint, of ONNX Runtime or of the engine. It fails the query; a bad image is no such error but a
/// value ([`crate::image::ImageError`]).
///
/// Cloneable, since one failed batch answers every call that had work in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A folder that is no checkpoint, or one that is broken: names the file or tensor.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// ONNX Runtime is missing, too old, or lacks the device that was asked for.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// A model failed while it ran.
    #[error("model {model} failed in {stage}: {reason}")]
    Model {
        /// Folder of the checkpoint.
        model: String,
        /// Which graph: vision encoder, decoder, ..
        stage: &'static str,
        /// ONNX Runtime's words.
        reason: String,
    },
    /// Memory ran out, by the allocator's word or by `capfilt.memory_limit`. The engine halves the batch and tries again before
    /// anyone sees this.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// A setting or an option of a call that does not fit.
    #[error("{0}")]
    Option(String),
    /// An image that cannot be used, under `capfilt.on_error = 'fail'`.
    #[error("{0}")]
    Image(String),
    /// The query was cancelled or dropped.
    #[error("query cancelled")]
    Cancelled,
    /// A bug of ours.
    #[error("internal error of capfilt, please report it: {0}")]
    Internal(String),
}

impl Error {
    /// An error of the checkpoint at `path`.
    pub fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.into(), reason: reason.into() }
    }
}

/// A result of this crate below the SQL edge.
pub type Result<T, E = Error> = std::result::Result<T, E>;
