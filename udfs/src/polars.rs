//! Conversion between Polars frames and DataFusion tables and query results.
//!
//! ```no_run
//! # async fn f(frame: polars_core::prelude::DataFrame) -> datafusion::common::Result<()> {
//! use capfilt_udfs::polars::{collect, register};
//!
//! let ctx = capfilt_udfs::session(datafusion::prelude::SessionConfig::new())?;
//! ctx.sql("SET capfilt.filter = '/models/blip-itm'").await?;
//! register(&ctx, "web", &frame)?;
//! let scored = collect(ctx.sql("SELECT *, itm_score(image, text) AS itm FROM web").await?).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Polars and DataFusion both use Arrow's memory layout, through different Rust types. Columns cross by the Arrow C
//! data interface, which passes buffer pointers and a release callback. Numbers, strings, images and vectors are not
//! copied; a buffer is freed when neither side holds it any more. Newly allocated are only
//! - validity bitmaps (a bit a row) of slices that begin within a byte;
//! - the parts that differ where Polars uses another layout: the views (16 bytes a row) of strings and bytes in Arrow's
//!   older types, and list offsets;
//! - values of types that Polars lacks, converted to the nearest: half to single precision, seconds to milliseconds,
//!   times of day to nanoseconds, decimals to 128 bits; also fixed-size binary, and string arrays above 4 GB;
//! - categories, in either direction: a dictionary of strings becomes a `Categorical`, even if it was an `Enum`; within
//!   lists and structs it becomes strings.
//!
//! Polars has no type for maps, unions and intervals, nor SQL for objects and 128-bit integers: such a column is an
//! error.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Display;
use std::mem::transmute;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, NullArray, RecordBatch, RecordBatchOptions, make_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use datafusion::common::{Result, TableReference, exec_datafusion_err, exec_err};
use datafusion::datasource::MemTable;
use datafusion::prelude::{DataFrame as Query, SessionContext};
use polars_core::prelude::{
    ArrayRef as PolarsArray, ArrowField, Column, CompatLevel, DataFrame, DataType as PolarsType, PlSmallStr, Series,
    TimeZone,
};
use polars_core::utils::arrow::ffi as polars_ffi;

/// Registers `frame` as the table `table` of a session. The table shares the frame's current buffers: the frame may be
/// dropped or changed afterwards.
///
/// Rows are read in batches of the session's size, in no guaranteed order without ORDER BY. A name with capitals needs
/// quotes in SQL.
///
/// # Errors
/// A column whose type SQL lacks, by name. A table of that name already exists: call `deregister_table` first.
pub fn register(ctx: &SessionContext, table: impl Into<TableReference>, frame: &DataFrame) -> Result<()> {
    let (schema, batches) = to_batches(frame)?;
    ctx.register_table(table, Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    Ok(())
}

/// Runs a query and returns its rows as a frame.
///
/// Each batch becomes one chunk of every column (64 rows in a session of this crate). For heavy computation on the
/// frame, Polars' `rechunk_mut` merges the chunks, which copies.
///
/// # Errors
/// Those of the query; a column whose type Polars lacks, by name; two columns of one name.
pub async fn collect(query: Query) -> Result<DataFrame> {
    let schema = Arc::clone(query.schema().inner());
    to_frame(&schema, &query.collect().await?)
}

fn to_batches(frame: &DataFrame) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let columns = frame.columns().iter().map(exported).collect::<Result<Vec<_>>>()?;
    let (fields, columns): (Vec<Field>, Vec<Vec<ArrayRef>>) = columns.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    // Columns may be chunked differently. A batch ends wherever a chunk of any column ends, so that no chunks are
    // concatenated.
    let mut ends = BTreeSet::from([frame.height()]);
    for chunks in &columns {
        let mut end = 0;
        ends.extend(chunks.iter().map(|chunk| {
            end += chunk.len();
            end
        }));
    }
    ends.remove(&0);
    let mut batches = Vec::with_capacity(ends.len());
    // Per column: the current chunk, and how many of its rows are already in batches.
    let mut places = vec![(0_usize, 0_usize); columns.len()];
    let mut begin = 0;
    for end in ends {
        let rows = end - begin;
        let arrays = columns.iter().zip(&mut places).map(|(chunks, (chunk, taken))| {
            let array = chunks[*chunk].slice(*taken, rows);
            *taken += rows;
            if *taken == chunks[*chunk].len() {
                (*chunk, *taken) = (*chunk + 1, 0);
            }
            array
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        batches.push(RecordBatch::try_new_with_options(Arc::clone(&schema), arrays.collect(), &options)?);
        begin = end;
    }
    Ok((schema, batches))
}

fn to_frame(schema: &Schema, batches: &[RecordBatch]) -> Result<DataFrame> {
    let column = |(i, field): (usize, &FieldRef)| -> Result<Column> {
        let chunks = batches.iter().filter(|batch| batch.num_rows() > 0).map(|batch| batch.column(i));
        Ok(imported(field, chunks)?.into())
    };
    let columns = schema.fields().iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
    let height = batches.iter().map(RecordBatch::num_rows).sum();
    DataFrame::new(height, columns)
        .map_err(|e| exec_datafusion_err!("{e}. Columns of one name get names of their own by AS in the query"))
}

/// A Polars column's field and its non-empty chunks.
fn exported(column: &Column) -> Result<(Field, Vec<ArrayRef>)> {
    let series = column.as_materialized_series();
    let (name, dtype) = (series.name().as_str(), series.dtype());
    let refused = |why: &dyn Display| {
        exec_datafusion_err!(
            "column {name:?} of Polars' type {dtype} cannot be a column in SQL ({why}): cast or drop it"
        )
    };
    if dtype.contains_objects() {
        return Err(refused(&"Arrow has no objects"));
    }
    if has_zero_byte(dtype) {
        return Err(refused(&"a field's name has a zero byte"));
    }
    // The column's name is not exported: it may contain a zero byte, which would end it in C.
    let field = dtype.to_arrow_field(PlSmallStr::EMPTY, CompatLevel::newest());
    let data_type = type_from_polars(&field).map_err(|e| refused(&e))?;
    let chunk = |(i, chunk): (usize, &PolarsArray)| -> Result<ArrayRef> {
        // Polars gives a null array a buffer, which arrow does not expect.
        if data_type == DataType::Null {
            return Ok(Arc::new(NullArray::new(chunk.len())));
        }
        let array = series.to_arrow_with_field(i, Cow::Borrowed(&field), true).map_err(|e| refused(&e))?;
        array_from_polars(array, &data_type).map_err(|e| refused(&e))
    };
    let chunks = series.chunks().iter().enumerate().filter(|(_, chunk)| !chunk.is_empty());
    let chunks = chunks.map(chunk).collect::<Result<Vec<_>>>()?;
    Ok((Field::new(name, data_type, true), chunks))
}

/// A Polars column with the name of `field` and its [`column_type`]. No chunk is empty.
fn imported<'a>(field: &Field, chunks: impl Iterator<Item = &'a ArrayRef>) -> Result<Series> {
    let (name, data_type) = (field.name(), field.data_type());
    let Some(target) = column_type(data_type) else {
        return exec_err!(
            "column {name:?} is of type {data_type}, which Polars lacks: cast it in the query, or leave it out"
        );
    };
    let refused = |why: &dyn Display| {
        exec_datafusion_err!("column {name:?} of type {data_type} cannot be a column of a frame ({why})")
    };
    let mut field = field_to_polars(&target).map_err(|e| refused(&e))?;
    field.name = PlSmallStr::from_str(name);
    // A value that the new type cannot hold is an error, not a NULL.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let chunk = |chunk: &ArrayRef| -> Result<PolarsArray> {
        let chunk = cast_with_options(chunk, &target, &options).map_err(|e| refused(&e))?;
        array_to_polars(&chunk, &field).map_err(|e| refused(&e))
    };
    let chunks = chunks.map(chunk).collect::<Result<Vec<_>>>()?;
    if chunks.is_empty() {
        return Ok(Series::new_empty(field.name.clone(), &PolarsType::from_arrow_field(&field)));
    }
    Series::try_from((&field, chunks)).map_err(|e| refused(&e))
}

/// [`held`] for a top-level column: only there can Polars import every dictionary.
fn column_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Dictionary(_, values) if held(values)? == DataType::Utf8View => Some(data_type.clone()),
        _ => held(data_type),
    }
}

/// The type under which Polars holds values of `data_type`; `None` if unsupported. Polars must be able to import the
/// result unchanged, because it panics if it has to refuse or convert within lists and structs.
fn held(data_type: &DataType) -> Option<DataType> {
    use DataType::*;
    let field = |field: &FieldRef| Some(Arc::new(Field::new(field.name(), held(field.data_type())?, true)));
    Some(match data_type {
        Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64
        | Date32 => data_type.clone(),
        Float16 => Float32,
        Utf8 | LargeUtf8 | Utf8View => Utf8View,
        Binary | LargeBinary | FixedSizeBinary(_) | BinaryView => BinaryView,
        Date64 => Timestamp(TimeUnit::Millisecond, None),
        Time32(_) | Time64(_) => Time64(TimeUnit::Nanosecond),
        Timestamp(_, Some(zone)) if TimeZone::opt_try_new(Some(&**zone)).is_err() => return None,
        Timestamp(TimeUnit::Second, zone) => Timestamp(TimeUnit::Millisecond, zone.clone()),
        Duration(TimeUnit::Second) => Duration(TimeUnit::Millisecond),
        Timestamp(..) | Duration(_) => data_type.clone(),
        Decimal32(precision, scale)
        | Decimal64(precision, scale)
        | Decimal128(precision, scale)
        | Decimal256(precision, scale)
            if *precision <= 38 && *scale >= 0 =>
        {
            Decimal128(*precision, *scale)
        }
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) => LargeList(field(item)?),
        FixedSizeList(item, width) if *width > 0 => FixedSizeList(field(item)?, *width),
        Struct(fields) => Struct(fields.iter().map(field).collect::<Option<_>>()?),
        Dictionary(_, values) => held(values)?,
        RunEndEncoded(_, values) => held(values.data_type())?,
        _ => return None,
    })
}

/// Whether a struct field's name, at any depth, contains a zero byte.
fn has_zero_byte(dtype: &PolarsType) -> bool {
    let mut found = false;
    dtype.visit_with(|inner| {
        if let PolarsType::Struct(fields) = inner {
            found |= fields.iter().any(|field| field.name().contains('\0'));
        }
    });
    found
}

/// A result whose error the caller prefixes with the column's name.
type Crossed<T> = std::result::Result<T, Box<dyn Error>>;

// The four crossings. Each side declares the interface's structs itself, `repr(C)` with the fields in the order of
// <https://arrow.apache.org/docs/format/CDataInterface.html>; `transmute` checks that the sizes agree. It takes its
// argument by value, so one struct becomes the other without a drop: its buffers are released once, by the last holder
// on the other side, through the exporter's callback. Neither side writes to buffers of the other.

fn type_from_polars(field: &ArrowField) -> Crossed<DataType> {
    let schema = polars_ffi::export_field_to_c(field);
    // SAFETY: both are `struct ArrowSchema`, see above.
    let schema = unsafe { transmute::<polars_ffi::ArrowSchema, FFI_ArrowSchema>(schema) };
    Ok(DataType::try_from(&schema)?)
}

fn array_from_polars(array: PolarsArray, data_type: &DataType) -> Crossed<ArrayRef> {
    let array = polars_ffi::export_array_to_c(array);
    // SAFETY: both are `struct ArrowArray`, see above.
    let array = unsafe { transmute::<polars_ffi::ArrowArray, FFI_ArrowArray>(array) };
    // SAFETY: Polars exported a valid array, of the type that it exported for its field.
    let data = unsafe { from_ffi_and_data_type(array, data_type.clone()) }?;
    Ok(make_array(data))
}

fn field_to_polars(data_type: &DataType) -> Crossed<ArrowField> {
    let schema = FFI_ArrowSchema::try_from(data_type)?;
    // SAFETY: both are `struct ArrowSchema`, see above.
    let schema = unsafe { transmute::<FFI_ArrowSchema, polars_ffi::ArrowSchema>(schema) };
    // SAFETY: arrow exported a valid schema.
    Ok(unsafe { polars_ffi::import_field_from_c(&schema) }?)
}

fn array_to_polars(array: &ArrayRef, field: &ArrowField) -> Crossed<PolarsArray> {
    let array = FFI_ArrowArray::new(&array.to_data());
    // SAFETY: both are `struct ArrowArray`, see above.
    let array = unsafe { transmute::<FFI_ArrowArray, polars_ffi::ArrowArray>(array) };
    // SAFETY: arrow exported a valid array, of the type that became `field`.
    Ok(unsafe { polars_ffi::import_array_from_c(array, field.dtype.clone()) }?)
}

#[cfg(test)]
mod tests;
