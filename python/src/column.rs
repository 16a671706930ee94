//! Columns that cross between Python and Rust.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryViewBuilder, Int64Array, RecordBatch, StringViewBuilder, StructArray,
    new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, concat, take};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema, UInt8Type, UInt32Type};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{
    PyByteArray, PyBytes, PyCapsule, PyDict, PyList, PyMemoryView, PySlice, PySliceIndices, PyString, PyTuple,
};
use pyo3_arrow::ffi::{to_array_pycapsules, to_schema_pycapsule};
use pyo3_arrow::{PyArray, PyChunkedArray, PyField};

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

    fn __getitem__(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let len = self.0.len();
        if let Ok(slice) = index.cast::<PySlice>() {
            let PySliceIndices { start, step, slicelength, .. } = slice.indices(isize::try_from(len)?)?;
            let rows = (0..slicelength as i64).map(|i| start as i64 + i * step as i64);
            let taken = take(&self.0, &Int64Array::from_iter_values(rows), None).map_err(failed)?;
            return Ok(Py::new(py, Self(taken))?.into_any());
        }
        let index: isize = index.extract()?;
        let index = if index < 0 { index + len as isize } else { index };
        match usize::try_from(index) {
            Ok(row) if row < len => value(py, &self.0, row),
            _ => Err(PyIndexError::new_err("the index is out of the column's range")),
        }
    }

    fn __iter__(&self) -> ColumnIterator {
        ColumnIterator { column: Arc::clone(&self.0), next: 0 }
    }

    /// Index of the first row with this value. Raises ValueError if no row has it.
    #[pyo3(signature = (value, *range))]
    fn index<'py>(
        &self,
        py: Python<'py>,
        value: Bound<'py, PyAny>,
        range: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let arguments = PyTuple::new(py, [value])?.into_sequence().concat(range.as_sequence())?.to_tuple()?;
        self.to_pylist(py)?.call_method1("index", arguments)
    }

    /// Number of rows with this value.
    fn count<'py>(&self, py: Python<'py>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.to_pylist(py)?.call_method1("count", (value,))
    }

    /// For pickle: the column in Arrow's IPC format.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let schema = Arc::new(Schema::new(vec![self.field()]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&self.0)]).map_err(failed)?;
        let mut writer = StreamWriter::try_new(vec![], &schema).map_err(failed)?;
        writer.write(&batch).map_err(failed)?;
        let stream = writer.into_inner().map_err(failed)?;
        Ok((py.import("capfilt._lib")?.getattr("column_of_ipc")?, (PyBytes::new(py, &stream),)))
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

    /// Raises ValueError if the values do not fit into the type of `requested_schema`.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let requested = match requested_schema {
            Some(capsule) => PyField::from_arrow_pycapsule(&capsule)?.into_inner().data_type().clone(),
            None => self.0.data_type().clone(),
        };
        let array = cast_exactly(&self.0, &requested)?;
        let field = Field::new("", array.data_type().clone(), true);
        Ok(to_array_pycapsules(py, Arc::new(field), &array, None)?)
    }
}

/// The values as another type, if none is changed by it but for a float's precision.
fn cast_exactly(array: &ArrayRef, to: &DataType) -> PyResult<ArrayRef> {
    let from = array.data_type();
    if from == to {
        return Ok(Arc::clone(array));
    }
    let strict = CastOptions { safe: false, ..Default::default() };
    let exact = cast_with_options(array, to, &strict).ok().filter(|cast| {
        item(from).is_floating() && item(to).is_floating()
            || cast_with_options(cast, from, &strict).is_ok_and(|back| back.to_data() == array.to_data())
    });
    exact.ok_or_else(|| {
        PyValueError::new_err(format!(
            "a column of {from} has values that {to} cannot hold: convert without a type, then cast"
        ))
    })
}

/// The type of a list's items; any other type itself.
fn item(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            item(field.data_type())
        }
        other => other,
    }
}

/// A pickled column.
#[pyfunction]
pub(crate) fn column_of_ipc(stream: &[u8]) -> PyResult<Column> {
    let mut batches = StreamReader::try_new(stream, None).map_err(failed)?;
    match batches.next() {
        Some(batch) => Ok(Column(Arc::clone(batch.map_err(failed)?.column(0)))),
        None => Err(failed("not a pickled column")),
    }
}

/// An iterator over the values of a [`Column`].
#[pyclass(module = "capfilt._lib")]
pub(crate) struct ColumnIterator {
    column: ArrayRef,
    next: usize,
}

#[pymethods]
impl ColumnIterator {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.next >= self.column.len() {
            return Ok(None);
        }
        self.next += 1;
        value(py, &self.column, self.next - 1).map(Some)
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
    name: String,
    chunks: Vec<ArrayRef>,
    rows: usize,
}

impl Argument {
    /// Takes anything with `__arrow_c_array__` or `__arrow_c_stream__`, or a sequence of bytes or of strings, in which
    /// None is NULL.
    pub(crate) fn new(name: String, given: &Bound<'_, PyAny>) -> PyResult<Self> {
        let chunks = if given.hasattr("__arrow_c_stream__")? {
            given.extract::<PyChunkedArray>()?.into_inner().0
        } else if given.hasattr("__arrow_c_array__")? {
            vec![given.extract::<PyArray>()?.into_inner().0]
        } else {
            vec![listed(&name, given)?]
        };
        // A struct of images has their bytes; a table is a struct of its columns.
        if let Some(DataType::Struct(columns)) = chunks.first().map(|chunk| chunk.data_type())
            && columns.find("bytes").is_none()
        {
            let names: Vec<_> = columns.iter().map(|column| format!("{:?}", column.name())).collect();
            return Err(PyTypeError::new_err(format!("{name}: give one column of the table, of {}", names.join(", "))));
        }
        let rows = chunks.iter().map(|chunk| chunk.len()).sum();
        Ok(Self { name, chunks, rows })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
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
        let mut texts = StringViewBuilder::new();
        for item in &items {
            match item {
                none if none.is_none() => texts.append_null(),
                text => texts.append_value(text.cast::<PyString>().map_err(|_| wrong(text))?.to_str()?),
            }
        }
        return Ok(Arc::new(texts.finish()));
    }
    // Views, since offsets of 32 bits end at 2 GiB.
    let (mut bytes, mut paths) = (BinaryViewBuilder::new(), StringViewBuilder::new());
    for (row, item) in items.iter().enumerate() {
        // As Hugging Face's datasets have undecoded images.
        let (content, path) = match item.cast::<PyDict>() {
            Ok(image) => {
                let content = image.get_item("bytes")?.ok_or_else(|| wrong(item))?;
                let path = image.get_item("path")?.filter(|path| !path.is_none());
                (content, path.map(|path| path.str()).transpose()?)
            }
            Err(_) => (item.clone(), None),
        };
        paths.append_option(path.map(|path| path.to_string()));
        let content: Option<PyBackedBytes> = if content.is_none() {
            None
        } else if content.is_instance_of::<PyMemoryView>() {
            Some(content.call_method0("tobytes")?.extract()?)
        } else if content.is_instance_of::<PyBytes>() || content.is_instance_of::<PyByteArray>() {
            Some(content.extract()?)
        } else {
            return Err(wrong(&content));
        };
        if content.as_ref().is_some_and(|content| content.len() > i32::MAX as usize) {
            return Err(PyValueError::new_err(format!("{name}: row {row} has more than 2 GiB")));
        }
        bytes.append_option(content);
    }
    let bytes: ArrayRef = Arc::new(bytes.finish());
    if !items.iter().any(|item| item.is_instance_of::<PyDict>()) {
        return Ok(bytes);
    }
    let field = |name: &str, array: &ArrayRef| Field::new(name, array.data_type().clone(), true);
    let paths: ArrayRef = Arc::new(paths.finish());
    let fields = vec![field("bytes", &bytes), field("path", &paths)];
    let nulls = items.iter().map(|item| !item.is_none()).collect::<Vec<_>>();
    Ok(Arc::new(StructArray::new(fields.into(), vec![bytes, paths], Some(nulls.into()))))
}
