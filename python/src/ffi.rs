//! The functions in sessions of datafusion-python, which has a DataFusion of its own: they cross over its C interface.
//!
//! The session's settings arrive as text with every function that is planned. SET checks them where the session has the
//! options of [`Settings`]; a host that merged these into another library's accepts any name, and drops the error of a
//! function that refuses a value, so each function keeps the error, and returns it when it is planned next.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use capfilt_udfs::CapfiltOptions;
use datafusion::common::config::{ConfigOptions, ExtensionOptions as _};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    AggregateUDF, ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};
use datafusion_ffi::config::extension_options::{ExtensionOptionsPrivateData, FFI_ExtensionOptions};
use datafusion_ffi::udaf::FFI_AggregateUDF;
use datafusion_ffi::udf::FFI_ScalarUDF;
use datafusion_ffi::util::FFI_Result;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use stabby::str::Str;

use crate::error::of_query;
use crate::exit;
use crate::settings::{self, PREFIX, Settings as Values};

/// Prefix under which a host passes the settings of foreign extensions.
const FOREIGN: &str = "datafusion_ffi.";

/// A function for `SessionContext.register_udf(datafusion.udf(function))`.
#[pyclass(frozen, module = "capfilt._lib")]
pub(crate) struct ScalarFunction(Arc<ScalarUDF>);

#[pymethods]
impl ScalarFunction {
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    fn __datafusion_scalar_udf__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        PyCapsule::new_with_value(py, FFI_ScalarUDF::from(Arc::clone(&self.0)), c"datafusion_scalar_udf")
    }
}

/// An aggregate for `SessionContext.register_udaf(datafusion.udaf(function))`.
#[pyclass(frozen, module = "capfilt._lib")]
pub(crate) struct AggregateFunction(Arc<AggregateUDF>);

#[pymethods]
impl AggregateFunction {
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    fn __datafusion_aggregate_udf__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        PyCapsule::new_with_value(py, FFI_AggregateUDF::from(Arc::clone(&self.0)), c"datafusion_aggregate_udf")
    }
}

/// Settings for `SessionConfig.with_extension`, without which SET of `capfilt.` fails.
#[pyclass(frozen, module = "capfilt._lib")]
pub(crate) struct Settings(Values);

#[pymethods]
impl Settings {
    #[new]
    fn new(values: Values) -> PyResult<Self> {
        settings::options(&values).map_err(|e| of_query(&e))?;
        Ok(Self(values))
    }

    fn __datafusion_extension_options__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let mut options = FFI_ExtensionOptions::default();
        // Without an entry, SET would not find the name space.
        let entries = CapfiltOptions::new().entries().into_iter().filter_map(|entry| Some((entry.key, entry.value?)));
        let given = self.0.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()));
        for (name, value) in entries.chain(given) {
            options.set(&name, &value).map_err(|e| of_query(&e))?;
        }
        checked(&mut options);
        PyCapsule::new_with_value(py, options, c"datafusion_extension_options")
    }
}

/// Makes options refuse settings that capfilt does not have, and values that a setting does not take. Those of others,
/// which a host merges into them, are accepted.
fn checked(options: &mut FFI_ExtensionOptions) {
    extern "C" fn clone_checked(options: &FFI_ExtensionOptions) -> FFI_ExtensionOptions {
        let entries = options.entries().into_iter().filter_map(|entry| Some((entry.key, entry.value?)));
        let mut clone = FFI_ExtensionOptions::from(entries.collect::<HashMap<_, _>>());
        checked(&mut clone);
        clone
    }
    extern "C" fn set_checked(options: &mut FFI_ExtensionOptions, key: Str<'_>, value: Str<'_>) -> FFI_Result<()> {
        let (key, value): (&str, &str) = (key.as_str(), value.as_str());
        if let Some(name) = key.strip_prefix(PREFIX)
            && let Err(error) = CapfiltOptions::new().with(name, value)
        {
            return FFI_Result::Err(error.strip_backtrace().as_str().into());
        }
        let data = options.private_data.cast::<ExtensionOptionsPrivateData>();
        // SAFETY: made by FFI_ExtensionOptions::from, in this library, and borrowed mutably.
        unsafe { (*data).options.insert(key.to_owned(), value.to_owned()) };
        FFI_Result::Ok(())
    }
    options.cloned = clone_checked;
    options.set = set_checked;
}

/// All scalar functions under `values`.
#[pyfunction]
pub(crate) fn scalar_functions(values: Values) -> PyResult<Vec<ScalarFunction>> {
    let options = settings::options(&values).map_err(|e| of_query(&e))?;
    let functions = capfilt_udfs::functions().into_iter().map(|function| {
        let name = function.name().to_owned();
        let inner = settings::function(&name, options.clone()).map_err(|e| of_query(&e))?;
        let function = Crossing { inner, given: options.clone(), wrong: None };
        Ok(ScalarFunction(Arc::new(ScalarUDF::from(function))))
    });
    functions.collect()
}

/// All aggregates.
#[pyfunction]
pub(crate) fn aggregate_functions() -> Vec<AggregateFunction> {
    capfilt_udfs::aggregate_functions().into_iter().map(|function| AggregateFunction(Arc::new(function))).collect()
}

/// A function of a foreign session.
#[derive(Debug)]
struct Crossing {
    inner: Arc<ScalarUDF>,
    /// The settings that it was registered with; those of the session override them.
    given: CapfiltOptions,
    /// Why the session's settings are refused.
    wrong: Option<String>,
}

impl Crossing {
    fn checked(&self) -> Result<()> {
        match &self.wrong {
            Some(why) => Err(DataFusionError::Configuration(why.clone())),
            None => Ok(()),
        }
    }
}

impl PartialEq for Crossing {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner && self.given == other.given && self.wrong == other.wrong
    }
}

impl Eq for Crossing {}

impl Hash for Crossing {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
        self.wrong.hash(state);
    }
}

impl ScalarUDFImpl for Crossing {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.checked()?;
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.checked()?;
        self.inner.return_field_from_args(args)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let mut options = self.given.clone();
        let mut wrong = None;
        for (name, value) in session_settings(config) {
            match options.clone().with(&name, &value) {
                Ok(changed) => options = changed,
                Err(why) => wrong = Some(why.strip_backtrace()),
            }
        }
        let mut config = ConfigOptions::default();
        config.extensions.insert(options);
        let inner = match self.inner.inner().with_updated_config(&config) {
            Some(inner) => Arc::new(inner),
            None => Arc::clone(&self.inner),
        };
        Some(ScalarUDF::from(Self { inner, given: self.given.clone(), wrong }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exit::check()?;
        self.checked()?;
        self.inner.invoke_with_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Settings of the session, by name without prefix. A host passes each twice, under both prefixes.
fn session_settings(config: &ConfigOptions) -> Values {
    let entries = config.extensions.iter().flat_map(|(_, extension)| extension.entries());
    let ours = entries.filter_map(|entry| {
        let name = entry.key.strip_prefix(FOREIGN).unwrap_or(&entry.key).strip_prefix(PREFIX)?.to_owned();
        Some((name, entry.value?))
    });
    ours.collect()
}
