//! Messages of Arrow's readers.

use datafusion::arrow::error::ArrowError;

/// Arrow's message without the name of the error variant.
pub(crate) fn plain(error: &ArrowError) -> String {
    match error {
        ArrowError::CastError(text) | ArrowError::JsonError(text) | ArrowError::ParseError(text) => text.clone(),
        other => other.to_string(),
    }
}
