//! Printing of query results.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Result;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StructArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{JsonArray, JsonFormat, LineDelimited, Writer, WriterBuilder};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use crate::args::command::Format;
use crate::session::readable;

/// Where results are printed.
pub(crate) type Out<'a> = &'a mut (dyn Write + Send);

/// Prints a result batch by batch; a table only when it is complete, since its widths depend on every row. Returns the
/// number of rows.
pub(crate) async fn print(format: Format, mut rows: SendableRecordBatchStream, out: Out<'_>) -> Result<usize> {
    let schema = rows.schema();
    // SET, CREATE and the like return no columns.
    let silent = schema.fields().is_empty();
    let mut printer = Printer::new(format, out);
    let mut count = 0;
    while let Some(batch) = rows.try_next().await.map_err(|e| readable(&e))? {
        count += batch.num_rows();
        if !silent {
            printer.write(&batch)?;
        }
    }
    if !silent {
        printer.end(&schema)?;
    }
    Ok(count)
}

enum Printer<'a> {
    /// Batches with binary values replaced, so that a column of images is not kept in memory.
    Table(Vec<RecordBatch>, Out<'a>),
    Csv(bool, Out<'a>),
    Json(Writer<Out<'a>, JsonArray>),
    NdJson(Writer<Out<'a>, LineDelimited>),
}

impl<'a> Printer<'a> {
    fn new(format: Format, out: Out<'a>) -> Self {
        match format {
            Format::Table => Self::Table(Vec::new(), out),
            Format::Csv => Self::Csv(true, out),
            Format::Json => Self::Json(json(out)),
            Format::NdJson => Self::NdJson(json(out)),
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Table(batches, _) => batches.push(map_columns(batch, &shorten).map_err(plain)?),
            Self::Csv(first, out) => {
                let header = std::mem::take(first);
                let flat = map_columns(batch, &flatten).map_err(plain)?;
                csv::WriterBuilder::new().with_header(header).build(&mut *out).write(&flat).map_err(plain)?;
                out.flush()?;
            }
            Self::Json(writer) => {
                writer.write(batch).map_err(plain)?;
                writer.get_mut().flush()?;
            }
            Self::NdJson(writer) => {
                writer.write(batch).map_err(plain)?;
                writer.get_mut().flush()?;
            }
        }
        Ok(())
    }

    fn end(&mut self, schema: &Arc<Schema>) -> Result<()> {
        match self {
            Self::Table(batches, out) => {
                if batches.is_empty() {
                    batches.push(map_columns(&RecordBatch::new_empty(Arc::clone(schema)), &shorten).map_err(plain)?);
                }
                writeln!(out, "{}", pretty_format_batches(batches).map_err(plain)?)?;
                out.flush()?;
            }
            Self::Csv(true, _) => self.write(&RecordBatch::new_empty(Arc::clone(schema)))?,
            Self::Csv(false, _) => {}
            Self::Json(writer) => {
                writer.finish().map_err(plain)?;
                let out = writer.get_mut();
                writeln!(out)?;
                out.flush()?;
            }
            Self::NdJson(writer) => writer.finish().map_err(plain)?,
        }
        Ok(())
    }
}

fn json<W: Write, F: JsonFormat>(out: W) -> Writer<W, F> {
    // Each row has all its names, so that readers need not know the schema.
    WriterBuilder::new().with_explicit_nulls(true).build(out)
}

/// Recovers the I/O error of a closed pipe, which `main` looks for: Arrow's writers wrap it, or keep only its message.
fn plain(error: ArrowError) -> anyhow::Error {
    match error {
        ArrowError::IoError(_, io) => io.into(),
        ArrowError::CsvError(text) if text.contains("Broken pipe") => io::Error::from(io::ErrorKind::BrokenPipe).into(),
        ArrowError::ExternalError(inner) => match inner.downcast::<io::Error>() {
            Ok(io) => (*io).into(),
            Err(other) => anyhow::anyhow!(other.to_string()),
        },
        other => other.into(),
    }
}

fn map_columns(
    batch: &RecordBatch,
    map: &dyn Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(map).collect::<Result<Vec<_>, _>>()?;
    let schema = batch.schema();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Replaces binary values by their length, also inside structs and lists.
fn shorten(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let bytes = match array.data_type() {
                DataType::FixedSizeBinary(_) => cast(array, &DataType::Binary)?,
                _ => Arc::clone(array),
            };
            let bytes = cast(&bytes, &DataType::BinaryView)?;
            let short = bytes.as_binary_view().iter().map(|v| v.map(|v| format!("<{} bytes>", v.len())));
            Ok(Arc::new(short.collect::<StringArray>()))
        }
        DataType::Struct(fields) => {
            let parts = array.as_struct();
            if parts.num_columns() == 0 {
                return Ok(Arc::clone(array));
            }
            let columns = parts.columns().iter().map(shorten).collect::<Result<Vec<_>, _>>()?;
            let fields = fields.iter().zip(&columns).map(|(f, c)| Field::new(f.name(), c.data_type().clone(), true));
            let nulls = parts.nulls().cloned();
            Ok(Arc::new(StructArray::try_new(fields.collect::<Vec<_>>().into(), columns, nulls)?))
        }
        DataType::List(field) => {
            let list = array.as_list::<i32>();
            let values = shorten(list.values())?;
            let field = Arc::new(Field::new(field.name(), values.data_type().clone(), true));
            Ok(Arc::new(ListArray::try_new(field, list.offsets().clone(), values, list.nulls().cloned())?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

/// Converts nested values, which CSV lacks, to the text that a table shows.
fn flatten(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !array.data_type().is_nested() {
        return Ok(Arc::clone(array));
    }
    let options = FormatOptions::default();
    let cells = ArrayFormatter::try_new(array, &options)?;
    let texts = (0..array.len()).map(|row| array.is_valid(row).then(|| cells.value(row).to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}
