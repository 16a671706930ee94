//! The SQL functions on columns.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

use arrow::array::{ArrayRef, new_empty_array};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, FieldRef};
use capfilt_tables::hub;
use capfilt_udfs::Error;
use capfilt_udfs::engine::Client;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::column::{Argument, Column};
use crate::error::{failed, in_python, of_query};
use crate::exit::{self, CHECK_EVERY};
use crate::settings::{self, Settings};

/// Rows of one invocation: few enough that Ctrl-C and an error are soon noticed.
const ROWS: usize = 64;

/// Invocations at once: while one waits for its models, the others decode their images.
const AT_ONCE: usize = 4;

/// Applies the SQL function `name` to columns of equal length, under `settings`. `count` is the number of captions that
/// `captions` takes as its second argument.
///
/// Raises CapfiltError with the words that SQL would have; KeyboardInterrupt after Ctrl-C, with the models' work cancelled.
#[pyfunction]
#[pyo3(signature = (name, columns, settings, count=None))]
pub(crate) fn call(
    py: Python<'_>,
    name: &str,
    columns: Vec<(String, Bound<'_, PyAny>)>,
    settings: Settings,
    count: Option<i64>,
) -> PyResult<Column> {
    let columns = columns.into_iter().map(|(name, given)| Argument::new(name, &given)).collect::<PyResult<Vec<_>>>()?;
    let rows = columns.first().map_or(0, Argument::rows);
    if let Some(other) = columns.iter().find(|column| column.rows() != rows) {
        return Err(PyValueError::new_err(format!(
            "{} has {rows} rows, and {} has {}: give columns of equal length",
            columns.first().map_or("", Argument::name),
            other.name(),
            other.rows()
        )));
    }
    exit::check().map_err(|e| of_query(&e))?;
    let client = Client::new();
    let plan = || {
        let options = settings::options(&settings)?.with_client(client.clone());
        Invocation::new(settings::function(name, options)?, columns, count)
    };
    // A checkpoint of the hub is downloaded in planning.
    let invocation = exit::interruptible(py, || plan().map_err(|e| of_query(&e)), hub::interrupt)?;
    let array = invocation.run(py, rows, &client)?;
    Ok(Column(array))
}

/// A function with its arguments.
struct Invocation {
    function: Arc<ScalarUDF>,
    columns: Vec<Argument>,
    count: Option<ScalarValue>,
    fields: Vec<FieldRef>,
    result: FieldRef,
    config: Arc<ConfigOptions>,
}

impl Invocation {
    /// Checks the arguments' types as planning does.
    fn new(function: Arc<ScalarUDF>, columns: Vec<Argument>, count: Option<i64>) -> Result<Self> {
        let count = count.map(|n| ScalarValue::Int64(Some(n)));
        let field = |data_type: DataType| Arc::new(Field::new("", data_type, true));
        let mut fields: Vec<FieldRef> = columns.iter().map(|column| field(column.data_type())).collect();
        let mut scalars = vec![None; fields.len()];
        if count.is_some() {
            fields.push(field(DataType::Int64));
            scalars.push(count.as_ref());
        }
        let types: Vec<DataType> = fields.iter().map(|field| field.data_type().clone()).collect();
        let fields: Vec<FieldRef> = function.coerce_types(&types)?.into_iter().map(field).collect();
        let result =
            function.return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &scalars })?;
        Ok(Self { function, columns, count, fields, result, config: Arc::default() })
    }

    fn rows(&self, first: usize, count: usize) -> Result<ArrayRef> {
        let columns =
            self.columns.iter().zip(&self.fields).map(|(column, field)| {
                Ok(ColumnarValue::Array(cast(&column.slice(first, count)?, field.data_type())?))
            });
        let mut args = columns.collect::<Result<Vec<_>>>()?;
        args.extend(self.count.iter().cloned().map(ColumnarValue::Scalar));
        let args = ScalarFunctionArgs {
            args,
            arg_fields: self.fields.clone(),
            number_rows: count,
            return_field: Arc::clone(&self.result),
            config_options: Arc::clone(&self.config),
        };
        self.function.invoke_with_args(args)?.into_array(count)
    }

    /// Invokes the function on all rows, with the interpreter's lock released.
    fn run(&self, py: Python<'_>, rows: usize, client: &Client) -> PyResult<ArrayRef> {
        let slices = rows.div_ceil(ROWS);
        if slices == 0 {
            return Ok(new_empty_array(self.result.data_type()));
        }
        let at_once = slices.min(AT_ONCE);
        let (next, working, stop) = (AtomicUsize::new(0), AtomicUsize::new(at_once), AtomicBool::new(false));
        let done: Mutex<Vec<Option<Result<ArrayRef>>>> = Mutex::new((0..slices).map(|_| None).collect());
        let take = || {
            while !stop.load(Ordering::Acquire) {
                let slice = next.fetch_add(1, Ordering::AcqRel);
                if slice >= slices {
                    return;
                }
                let first = slice * ROWS;
                let result = self.rows(first, ROWS.min(rows - first));
                if result.is_err() {
                    stop.store(true, Ordering::Release);
                }
                done.lock().unwrap_or_else(PoisonError::into_inner)[slice] = Some(result);
            }
        };
        let interrupted = py.detach(|| {
            let caller = thread::current();
            thread::scope(|scope| {
                for _ in 0..at_once {
                    scope.spawn(|| {
                        let _worker = Worker { working: &working, caller: &caller };
                        take();
                    });
                }
                let mut interrupted = None;
                while working.load(Ordering::Acquire) > 0 {
                    thread::park_timeout(CHECK_EVERY);
                    interrupted = interrupted.or_else(exit::signal);
                    if interrupted.is_some() || exit::is_ending() {
                        stop.store(true, Ordering::Release);
                        // Each time, since a slice may only now have come to its models.
                        client.cancel_running();
                    }
                }
                interrupted
            })
        });
        if let Some(signal) = interrupted {
            return Err(signal);
        }
        exit::check().map_err(|e| of_query(&e))?;
        let mut arrays = Vec::with_capacity(slices);
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (slice, result) in done.into_iter().enumerate() {
            // What comes after an error was not begun.
            let Some(result) = result else { continue };
            arrays.push(result.map_err(|e| of_slice(&e, slice * ROWS))?);
        }
        let arrays: Vec<&dyn arrow::array::Array> = arrays.iter().map(|array| &**array).collect();
        concat(&arrays).map_err(failed)
    }
}

/// The error of the slice that begins at the column's row `first`. A bad image is named by its row in the column.
fn of_slice(error: &DataFusionError, first: usize) -> PyErr {
    if let DataFusionError::External(cause) = error.find_root()
        && let Some(Error::Image { function, row, reason }) = cause.downcast_ref()
    {
        return failed(format!("{function}: row {}: {}", first + row, in_python(reason)));
    }
    of_query(error)
}

/// A worker at work: its end is noticed by the calling thread at once, also if it panics.
struct Worker<'a> {
    working: &'a AtomicUsize,
    caller: &'a Thread,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.working.fetch_sub(1, Ordering::AcqRel);
        self.caller.unpark();
    }
}
