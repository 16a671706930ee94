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

/// A [`CapfiltError`] with the message of an error of a function, in Python's words.
pub(crate) fn of_query(error: &DataFusionError) -> PyErr {
    failed(in_python(&capfilt_tables::error::message(error)))
}

/// Replaces the functions' advice to use SET, as in `SET capfilt.on_error = 'null'`, by the keyword argument.
pub(crate) fn in_python(message: &str) -> String {
    let mut parts = message.split("SET capfilt.");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += "give ";
        match part.split_once(" = ") {
            Some((name, value)) if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                text += &format!("{name}={value}");
            }
            _ => text += part,
        }
    }
    text
}
