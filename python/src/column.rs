//! Columns that cross between Python and Rust.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, BinaryBuilder, StringBuilder, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, UInt8Type, UInt32Type};
use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMemoryView, PyString, PyTuple};
use pyo3_arrow::ffi::{to_array_pycapsules, to_schema_pycapsule};
use pyo3_arrow::{PyArray, PyChunkedArray};

use crate::error::failed;

/// A column of results: a sequence of Python values, and an Arrow array for whatever speaks the Arrow PyCapsule
/// interface (`pyarrow.array(column)`, `polars.Series(column)`), which takes it without a copy.
#[pyclass(frozen, sequence, module = "capfilt")]
pub(crate) struct Column(pub(crate) ArrayRef);

#[pymethods]
impl Column {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __getitem__(&self, py: Python<'_>, index: isize) -> PyResult<Py<PyAny>> {
        let len = self.0.len();
        let index = if index < 0 { index + len as isize } else { index };
        match usize::try_from(index) {
            Ok(row) if row < len => value(py, &self.0, row),
            _ => Err(PyIndexError::new_err("the index is out of the column's range")),
        }
    }

    /// The values as a list; None for NULL.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let values = (0..self.0.len()).map(|row| value(py, &self.0, row)).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, values)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        const SHOWN: usize = 10;
        let mut values = vec![];
        for row in 0..self.0.len().min(SHOWN) {
            values.push(value(py, &self.0, row)?.bind(py).repr()?.to_string());
        }
        if self.0.len() > SHOWN {
            values.push(format!(".. {} in all", self.0.len()));
        }
        Ok(format!("<capfilt.Column of {}: [{}]>", self.0.data_type(), values.join(", ")))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(to_schema_pycapsule(py, self.field())?.into_any())
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, pyo3::types::PyCapsule>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        Ok(to_array_pycapsules(py, Arc::new(self.field()), &self.0, requested_schema)?)
    }
}

impl Column {
    fn field(&self) -> Field {
        Field::new("", self.0.data_type().clone(), true)
    }
}

/// A value of a result.
fn value(py: Python<'_>, array: &ArrayRef, row: usize) -> PyResult<Py<PyAny>> {
    if array.is_null(row) {
        return Ok(py.None());
    }
    let list = |values: ArrayRef| -> PyResult<Py<PyAny>> {
        let values = (0..values.len()).map(|row| value(py, &values, row)).collect::<PyResult<Vec<_>>>()?;
        Ok(PyList::new(py, values)?.into_any().unbind())
    };
    Ok(match array.data_type() {
        DataType::Utf8 => PyString::new(py, array.as_string::<i32>().value(row)).into_any().unbind(),
        DataType::Utf8View => PyString::new(py, array.as_string_view().value(row)).into_any().unbind(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).into_pyobject(py)?.into_any().unbind(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into_pyobject(py)?.into_any().unbind(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into_pyobject(py)?.into_any().unbind(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into_pyobject(py)?.into_any().unbind(),
        DataType::List(_) => list(array.as_list::<i32>().value(row))?,
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row))?,
        DataType::Struct(fields) => {
            let of = PyDict::new(py);
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                of.set_item(field.name(), value(py, column, row)?)?;
            }
            of.into_any().unbind()
        }
        other => return Err(failed(format!("a column of {other} has no Python values; take it as an Arrow array"))),
    })
}

/// An argument: chunks of one type, without copies where they come as Arrow data.
pub(crate) struct Argument {
    chunks: Vec<ArrayRef>,
    rows: usize,
}

impl Argument {
    /// Takes anything with `__arrow_c_array__` or `__arrow_c_stream__`, or a sequence of bytes or of strings, in which
    /// None is NULL.
    pub(crate) fn new(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Self> {
        let chunks = if given.hasattr("__arrow_c_stream__")? {
            given.extract::<PyChunkedArray>()?.into_inner().0
        } else if given.hasattr("__arrow_c_array__")? {
            vec![given.extract::<PyArray>()?.into_inner().0]
        } else {
            vec![listed(name, given)?]
        };
        let rows = chunks.iter().map(|chunk| chunk.len()).sum();
        Ok(Self { chunks, rows })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Type of the values; Null for a stream without a chunk.
    pub(crate) fn data_type(&self) -> DataType {
        self.chunks.first().map_or(DataType::Null, |chunk| chunk.data_type().clone())
    }

    /// Rows from `first` on. Only rows of more than one chunk are copied.
    pub(crate) fn slice(&self, first: usize, count: usize) -> arrow::error::Result<ArrayRef> {
        let (mut begin, mut parts) = (0, vec![]);
        for chunk in &self.chunks {
            let from = first.max(begin);
            let to = (first + count).min(begin + chunk.len());
            if from < to {
                parts.push(chunk.slice(from - begin, to - from));
            }
            begin += chunk.len();
        }
        match &*parts {
            [] => Ok(new_null_array(&self.data_type(), 0)),
            [one] => Ok(Arc::clone(one)),
            many => concat(&many.iter().map(|part| &**part).collect::<Vec<_>>()),
        }
    }
}

/// The values of a Python sequence.
fn listed(name: &str, given: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let wrong = |what: &Bound<'_, PyAny>| {
        PyTypeError::new_err(format!(
            "{name}: a column is an Arrow array or a list of bytes or of strings, not of {}",
            what.get_type()
        ))
    };
    if given.is_instance_of::<PyBytes>() || given.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err(format!("{name}: give a list, also for one value: [value]")));
    }
    let items = given.try_iter().map_err(|_| wrong(given))?.collect::<PyResult<Vec<_>>>()?;
    let first = items.iter().find(|item| !item.is_none());
    let Some(first) = first else {
        return Ok(new_null_array(&DataType::Null, items.len()));
    };
    if first.is_instance_of::<PyString>() {
        let mut texts = StringBuilder::new();
        for item in &items {
            match item {
                none if none.is_none() => texts.append_null(),
                text => texts.append_value(text.cast::<PyString>().map_err(|_| wrong(text))?.to_str()?),
            }
        }
        return Ok(Arc::new(texts.finish()));
    }
    let mut bytes = BinaryBuilder::new();
    for item in &items {
        if item.is_none() {
            bytes.append_null();
        } else if item.is_instance_of::<PyMemoryView>() {
            bytes.append_value(item.call_method0("tobytes")?.extract::<PyBackedBytes>()?);
        } else if item.is_instance_of::<PyBytes>() || item.is_instance_of::<PyByteArray>() {
            bytes.append_value(item.extract::<PyBackedBytes>()?);
        } else {
            return Err(wrong(item));
        }
    }
    Ok(Arc::new(bytes.finish()))
}
