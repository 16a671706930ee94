//! Errors below the SQL edge. Functions convert them into `DataFusionError`.

use std::path::PathBuf;

/// An error of a checkpoint, of ONNX Runtime or of the engine, which fails the query. A bad image is a value instead
/// ([`crate::image::ImageError`]).
///
/// Cloneable, because one failed batch fails every call with work in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A folder that is not a valid checkpoint; the error names the file or tensor.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The folder or file.
        path: PathBuf,
        /// The fault and its remedy.
        reason: String,
    },
    /// ONNX Runtime is missing, too old, or lacks the requested device.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// A model failed while it ran.
    #[error("model {model} failed in {stage}: {reason}")]
    Model {
        /// Folder of the checkpoint.
        model: String,
        /// Graph that failed: vision encoder, decoder, ..
        stage: &'static str,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// Memory ran out, according to the allocator or `capfilt.memory_limit`. The engine first halves the batch and
    /// retries.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// An invalid setting or option of a call.
    #[error("{0}")]
    Option(String),
    /// An unusable image or video, under `capfilt.on_error = 'fail'`.
    #[error("{function}: row {row} of the batch: {reason}")]
    Image {
        /// The SQL function.
        function: &'static str,
        /// Index of the row in its batch.
        row: usize,
        /// What is wrong with it, which one it is, and what to do.
        reason: String,
    },
    /// The query was cancelled or dropped.
    #[error("query cancelled")]
    Cancelled,
    /// A bug in this crate.
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
