//! The functions as expression plugins of Polars, over its C interface (polars-ffi, version 0.1), which needs no crate of
//! Polars and so no version of it.
//!
//! Polars calls `_polars_plugin_field_NAME` for the type of a result when it plans, and `_polars_plugin_NAME` with
//! columns when it runs. Its keyword arguments are a pickle of a dictionary, which is parsed and never executed.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, make_array};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF};
use serde::Deserialize;

use crate::error::in_python;
use crate::exit;
use crate::settings::{self, CLIENTS, Settings};

/// A series as it crosses: its field, and a pointer to each of its chunks.
#[repr(C)]
pub(crate) struct SeriesExport {
    field: *mut FFI_ArrowSchema,
    arrays: *mut *mut FFI_ArrowArray,
    len: usize,
    release: Option<unsafe extern "C" fn(*mut Self)>,
    private_data: *mut c_void,
}

impl Drop for SeriesExport {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: by the interface, called once, by the one that has the series.
            unsafe { release(self) }
        }
    }
}

/// What a series of ours points to.
struct Exported {
    field: FFI_ArrowSchema,
    array: *mut FFI_ArrowArray,
}

/// # Safety
/// `series` is one of [`export`].
unsafe extern "C" fn release(series: *mut SeriesExport) {
    // SAFETY: the caller's. Polars takes the array out of its place, and leaves the memory of the place, whose array must
    // not be released again.
    unsafe {
        let exported = Box::from_raw((*series).private_data.cast::<Exported>());
        drop(Box::from_raw(exported.array.cast::<std::mem::ManuallyDrop<FFI_ArrowArray>>()));
        (*series).release = None;
    }
}

/// Keyword arguments of a plugin.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    settings: Settings,
    /// The number of captions that `captions` writes.
    count: Option<i64>,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

fn fail(message: &str) {
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with_borrow_mut(|last| *last = message);
}

/// Version of the interface: 0 in the upper half, 1 in the lower.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn _polars_plugin_get_version() -> u32 {
    1
}

/// Message of the last error on this thread.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn _polars_plugin_get_last_error_message() -> *const c_char {
    LAST_ERROR.with_borrow(|last| last.as_ptr())
}

/// A function with the arguments that are not columns.
struct Call {
    function: Arc<ScalarUDF>,
    count: Option<ScalarValue>,
}

impl Call {
    fn new(name: &str, pickle: &[u8]) -> Result<Self> {
        let arguments: Arguments = match pickle {
            [] => Arguments::default(),
            pickle => serde_pickle::from_slice(pickle, serde_pickle::DeOptions::default())
                .map_err(|e| DataFusionError::Plan(format!("{name}: keyword arguments: {e}")))?,
        };
        let options = settings::options(&arguments.settings)?.with_client(CLIENTS.polars.clone());
        let function = settings::function(name, options)?;
        Ok(Self { function, count: arguments.count.map(|n| ScalarValue::Int64(Some(n))) })
    }

    /// Fields of all arguments, and the result's.
    fn fields(&self, columns: &[FieldRef]) -> Result<(Vec<FieldRef>, FieldRef)> {
        let mut fields = columns.to_vec();
        let mut scalars = vec![None; fields.len()];
        if let Some(count) = &self.count {
            fields.push(Arc::new(Field::new("", DataType::Int64, false)));
            scalars.push(Some(count));
        }
        let result = self
            .function
            .return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &scalars })?;
        Ok((fields, result))
    }

    fn run(&self, columns: &[(FieldRef, ArrayRef)]) -> Result<ArrayRef> {
        let of: Vec<FieldRef> = columns.iter().map(|(field, _)| Arc::clone(field)).collect();
        let (arg_fields, return_field) = self.fields(&of)?;
        // A literal is a column of one row.
        let rows = columns.iter().map(|(_, array)| array.len()).find(|&len| len != 1).unwrap_or(1);
        let mut args = vec![];
        for (field, array) in columns {
            args.push(match array.len() {
                len if len == rows => ColumnarValue::Array(Arc::clone(array)),
                1 => ColumnarValue::Scalar(ScalarValue::try_from_array(array, 0)?),
                len => {
                    return plan_err!(
                        "{}: column {} has {len} rows, and another has {rows}: give columns of equal length",
                        self.function.name(),
                        field.name()
                    );
                }
            });
        }
        args.extend(self.count.iter().cloned().map(ColumnarValue::Scalar));
        let config_options = Arc::new(ConfigOptions::default());
        let args = ScalarFunctionArgs { args, arg_fields, number_rows: rows, return_field, config_options };
        self.function.invoke_with_args(args)?.into_array(rows)
    }
}

/// Type that Polars has for a result, of which it knows no other for texts.
fn polars_type(result: &DataType) -> DataType {
    match result {
        DataType::Utf8 => DataType::Utf8View,
        DataType::List(item) => {
            DataType::LargeList(Arc::new(Field::new(item.name(), polars_type(item.data_type()), true)))
        }
        other => other.clone(),
    }
}

/// Runs the body of an entry point. An error and a panic become its message.
fn entry(body: impl FnOnce() -> Result<()>) {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => fail(&in_python(&capfilt_tables::error::message(&error))),
        Err(_) => fail("capfilt panicked; its message is on stderr"),
    }
}

/// Arguments that Polars passes to both entry points.
///
/// # Safety
/// `pickle` is valid for `len` bytes, unless it is null.
unsafe fn bytes<'a>(pickle: *const u8, len: usize) -> &'a [u8] {
    if pickle.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(pickle, len) }
}

/// # Safety
/// As the interface says: `fields` are `count` schemas, and `to` is where one may be written.
unsafe fn field(
    name: &str,
    fields: *mut FFI_ArrowSchema,
    count: usize,
    to: *mut FFI_ArrowSchema,
    pickle: *const u8,
    len: usize,
) {
    entry(|| {
        // SAFETY: the caller's.
        let call = Call::new(name, unsafe { bytes(pickle, len) })?;
        let columns = (0..count).map(|i| {
            // SAFETY: the caller's.
            let schema = unsafe { &*fields.add(i) };
            Ok(Arc::new(Field::try_from(schema)?))
        });
        let columns: Vec<FieldRef> = columns.collect::<Result<_>>()?;
        let (_, result) = call.fields(&columns)?;
        let name = columns.first().map_or("", |first| first.name());
        let result = FFI_ArrowSchema::try_from(&Field::new(name, polars_type(result.data_type()), true))?;
        // SAFETY: the caller's.
        unsafe { ptr::write(to, result) };
        Ok(())
    });
}

/// # Safety
/// As the interface says: `columns` are `count` series, which are taken over, and `to` is where one may be written.
unsafe fn compute(
    name: &str,
    columns: *mut SeriesExport,
    count: usize,
    pickle: *const u8,
    len: usize,
    to: *mut SeriesExport,
) {
    // SAFETY: the caller's.
    let series: Vec<SeriesExport> = (0..count).map(|i| unsafe { ptr::read(columns.add(i)) }).collect();
    // Before anything can fail: arrays that are left in their places are never released.
    let arrays: Vec<Vec<FFI_ArrowArray>> = series.iter().map(take_arrays).collect();
    entry(|| {
        // SAFETY: the caller's.
        let call = Call::new(name, unsafe { bytes(pickle, len) })?;
        let columns = series.iter().zip(arrays).map(|(series, arrays)| import(series, arrays));
        let columns: Vec<(FieldRef, ArrayRef)> = columns.collect::<Result<_>>()?;
        exit::check()?;
        let result = call.run(&columns)?;
        let result = cast(&result, &polars_type(result.data_type()))?;
        let name = columns.first().map_or("", |(field, _)| field.name());
        let exported = export(name, &result)?;
        // SAFETY: the caller's.
        unsafe { ptr::write(to, exported) };
        Ok(())
    });
}

/// The chunks of a series, which are ours from now on. Call it once for a series.
fn take_arrays(series: &SeriesExport) -> Vec<FFI_ArrowArray> {
    // SAFETY: the interface guarantees `len` pointers to arrays; each array is read once.
    (0..series.len).map(|i| unsafe { ptr::read(*series.arrays.add(i)) }).collect()
}

/// The values of a series, of which several chunks are joined.
fn import(series: &SeriesExport, arrays: Vec<FFI_ArrowArray>) -> Result<(FieldRef, ArrayRef)> {
    // SAFETY: by the interface a valid schema.
    let schema = unsafe { &*series.field };
    let field = Field::try_from(schema)?;
    let chunks = arrays.into_iter().map(|mut array| {
        // SAFETY: the array is of this schema, and borrowed mutably.
        unsafe { forget_buffers_of_nulls(ptr::from_mut(&mut array).cast(), schema) };
        // SAFETY: by the interface a valid array of the schema.
        Ok(make_array(unsafe { from_ffi(array, schema) }?))
    });
    let chunks = chunks.collect::<Result<Vec<ArrayRef>>>()?;
    let chunks: Vec<_> = chunks.iter().map(|chunk| &**chunk).collect();
    let array = if chunks.is_empty() { arrow::array::new_empty_array(field.data_type()) } else { concat(&chunks)? };
    Ok((Arc::new(field), array))
}

/// `ArrowArray` of Arrow's C data interface. The interface fixes its layout; the fields of arrow's own type are private.
#[repr(C)]
struct CArray {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *const c_void,
    children: *mut *mut Self,
    dictionary: *mut Self,
    release: Option<unsafe extern "C" fn(*mut Self)>,
    private_data: *mut c_void,
}

/// Takes from arrays of type Null the buffer that Polars gives them and arrow refuses. What Polars releases is in its
/// private data.
///
/// # Safety
/// `array` is a valid array of type `schema`, which nothing else has.
unsafe fn forget_buffers_of_nulls(array: *mut CArray, schema: &FFI_ArrowSchema) {
    // SAFETY: the caller's; a struct's and a list's children are arrays of the schema's children.
    unsafe {
        if schema.format() == "n" {
            (*array).n_buffers = 0;
        }
        for (i, child) in schema.children().enumerate().take(usize::try_from((*array).n_children).unwrap_or(0)) {
            forget_buffers_of_nulls(*(*array).children.add(i), child);
        }
    }
}

fn export(name: &str, array: &ArrayRef) -> Result<SeriesExport> {
    let field = FFI_ArrowSchema::try_from(&Field::new(name, array.data_type().clone(), true))?;
    let (array, _) = to_ffi(&array.to_data())?;
    let exported = Box::into_raw(Box::new(Exported { field, array: Box::into_raw(Box::new(array)) }));
    // SAFETY: just made.
    let (field, arrays) = unsafe { (&raw mut (*exported).field, &raw mut (*exported).array) };
    Ok(SeriesExport { field, arrays, len: 1, release: Some(release), private_data: exported.cast() })
}

/// The two entry points of a function.
macro_rules! plugin {
    ($($name:literal: $field:ident, $compute:ident;)*) => {$(
        /// Type of the function's result.
        ///
        /// # Safety
        /// As Polars' interface says.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $field(
            fields: *mut FFI_ArrowSchema,
            count: usize,
            to: *mut FFI_ArrowSchema,
            pickle: *const u8,
            len: usize,
        ) {
            // SAFETY: the caller's.
            unsafe { field($name, fields, count, to, pickle, len) }
        }

        /// The function's result.
        ///
        /// # Safety
        /// As Polars' interface says.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $compute(
            columns: *mut SeriesExport,
            count: usize,
            pickle: *const u8,
            len: usize,
            to: *mut SeriesExport,
            _context: *mut c_void,
        ) {
            // SAFETY: the caller's.
            unsafe { compute($name, columns, count, pickle, len, to) }
        }
    )*};
}

plugin! {
    "caption": _polars_plugin_field_caption, _polars_plugin_caption;
    "captions": _polars_plugin_field_captions, _polars_plugin_captions;
    "embed_image": _polars_plugin_field_embed_image, _polars_plugin_embed_image;
    "embed_text": _polars_plugin_field_embed_text, _polars_plugin_embed_text;
    "image_error": _polars_plugin_field_image_error, _polars_plugin_image_error;
    "image_info": _polars_plugin_field_image_info, _polars_plugin_image_info;
    "image_phash": _polars_plugin_field_image_phash, _polars_plugin_image_phash;
    "itc_score": _polars_plugin_field_itc_score, _polars_plugin_itc_score;
    "itm_score": _polars_plugin_field_itm_score, _polars_plugin_itm_score;
    "vqa": _polars_plugin_field_vqa, _polars_plugin_vqa;
    "vqa_score": _polars_plugin_field_vqa_score, _polars_plugin_vqa_score;
}
