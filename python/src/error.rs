//! Errors as Python sees them.

use std::fmt::Display;

use datafusion::error::DataFusionError;
use pyo3::PyErr;
use pyo3::exceptions::PyException;

pyo3::create_exception!(
    capfilt,
    CapfiltError,
    PyException,
    "An error of capfilt, in the words of the command: it names the file, row or option, and says what to do."
);

/// A [`CapfiltError`] with a message.
pub(crate) fn failed(error: impl Display) -> PyErr {
    CapfiltError::new_err(error.to_string())
}

/// A [`CapfiltError`] with the message of an error of a query or a function.
pub(crate) fn of_query(error: &DataFusionError) -> PyErr {
    CapfiltError::new_err(capfilt_tables::error::message(error))
}
