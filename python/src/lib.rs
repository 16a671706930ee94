//! `capfilt._lib`, the native module of the Python package `capfilt`.
//!
//! One library holds the module, the functions for datafusion-python and the plugin of Polars, so that all share one
//! engine, and a checkpoint is loaded once.

mod call;
mod column;
mod error;
mod exit;
mod ffi;
mod job;
mod logging;
mod polars;
mod settings;

use std::ffi::OsString;
use std::path::PathBuf;

use capfilt_udfs::engine::ModelStats;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Sets the ONNX Runtime library to load, unless ORT_DYLIB_PATH names another; None if there is no package with one.
/// Without effect once one is loaded.
#[pyfunction]
#[pyo3(signature = (library))]
fn set_runtime(library: Option<PathBuf>) {
    capfilt_udfs::set_runtime(
        library,
        "install it beside capfilt: pip install 'capfilt[cpu]', or 'capfilt[gpu]' for CUDA; or set ORT_DYLIB_PATH to its \
         library",
    );
}

/// Counters of every model that this process has loaded: a dictionary each, with the columns of SQL's `capfilt_stats()`.
#[pyfunction]
fn stats(py: Python<'_>) -> PyResult<Vec<Py<PyDict>>> {
    let rows = capfilt_udfs::engine::Engine::shared().stats();
    let row = |model: ModelStats| {
        let dict = PyDict::new(py);
        dict.set_item("checkpoint", model.checkpoint.display().to_string())?;
        dict.set_item("device", model.device)?;
        dict.set_item("precision", model.precision.to_string())?;
        for (name, count) in [
            ("images_encoded", model.images_encoded),
            ("texts_encoded", model.texts_encoded),
            ("texts_scored", model.texts_scored),
            ("captions", model.captions),
            ("tokens_decoded", model.tokens_decoded),
            ("memo_hits", model.memo_hits),
            ("weight_bytes", model.weight_bytes),
        ] {
            dict.set_item(name, count)?;
        }
        for (name, seconds) in [
            ("decode_seconds", model.decode_seconds),
            ("encode_seconds", model.encode_seconds),
            ("generate_seconds", model.generate_seconds),
            ("score_seconds", model.score_seconds),
            ("wait_seconds", model.wait_seconds),
        ] {
            dict.set_item(name, seconds)?;
        }
        Ok(dict.unbind())
    };
    rows.into_iter().map(row).collect()
}

/// Names of the settings, without the prefix `capfilt.`.
#[pyfunction]
fn setting_names() -> Vec<String> {
    settings::names()
}

/// Cancels the model calls in progress of this process's functions in DataFusion and Polars.
#[pyfunction]
fn cancel() {
    settings::cancel();
}

/// Sets how another process runs the `capfilt` command: the program and its first arguments.
#[pyfunction]
fn set_program(program: Vec<OsString>) {
    capfilt::set_program(program);
}

/// Runs the `capfilt` command with `arguments`, of which the first is its name. Returns its exit status.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<String>) -> u8 {
    py.detach(|| capfilt::main(arguments))
}

#[pymodule(gil_used = true)]
fn _lib(module: &Bound<'_, PyModule>) -> PyResult<()> {
    capfilt::use_hub();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("CapfiltError", module.py().get_type::<error::CapfiltError>())?;
    module.add_class::<column::Column>()?;
    module.add_class::<ffi::ScalarFunction>()?;
    module.add_class::<ffi::AggregateFunction>()?;
    module.add_class::<ffi::Settings>()?;
    module.add_function(wrap_pyfunction!(set_runtime, module)?)?;
    module.add_function(wrap_pyfunction!(stats, module)?)?;
    module.add_function(wrap_pyfunction!(set_program, module)?)?;
    module.add_function(wrap_pyfunction!(setting_names, module)?)?;
    module.add_function(wrap_pyfunction!(cancel, module)?)?;
    module.add_function(wrap_pyfunction!(exit::watch, module)?)?;
    module.add_function(wrap_pyfunction!(column::column_of_ipc, module)?)?;
    module.add_function(wrap_pyfunction!(exit::end, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(call::call, module)?)?;
    module.add_function(wrap_pyfunction!(ffi::scalar_functions, module)?)?;
    module.add_function(wrap_pyfunction!(ffi::aggregate_functions, module)?)?;
    module.add_function(wrap_pyfunction!(job::run, module)?)?;
    module.add_function(wrap_pyfunction!(job::select, module)?)?;
    module.add_function(wrap_pyfunction!(job::report, module)?)
}
