//! Parquet readers that correct the footers of their files.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::{FileMetaData, ParquetMetaData};
use datafusion::parquet::file::page_index::column_index::ColumnIndexMetaData;
use datafusion::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt as _;
use futures::future::BoxFuture;

/// Reader factory for the files of one table.
#[derive(Debug)]
pub(super) struct SoundReaders {
    inner: Arc<dyn ParquetFileReaderFactory>,
    /// Schema that the table declares for the files.
    table: SchemaRef,
}

impl SoundReaders {
    pub(super) fn new(inner: Arc<dyn ParquetFileReaderFactory>, table: SchemaRef) -> Self {
        Self { inner, table }
    }
}

impl ParquetFileReaderFactory for SoundReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let name = file.object_meta.location.to_string();
        let inner = self.inner.create_reader(partition, file, hint, metrics)?;
        Ok(Box::new(SoundReader { inner, table: Arc::clone(&self.table), name }))
    }
}

struct SoundReader {
    inner: Box<dyn AsyncFileReader + Send>,
    table: SchemaRef,
    name: String,
}

impl AsyncFileReader for SoundReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.inner.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.inner.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let footer = self.inner.get_metadata(options).await?;
            let footer = without_floats(footer).and_then(|footer| checked_texts(footer, &self.table));
            footer.map_err(|e| ParquetError::General(format!("{}: {e}", self.name)))
        }
        .boxed()
    }
}

/// Removes minima and maxima of floats, which ignore NaN, from a footer's row groups and page index.
fn without_floats(footer: Arc<ParquetMetaData>) -> ParquetResult<Arc<ParquetMetaData>> {
    let floats: Vec<bool> = footer.file_metadata().schema_descr().columns().iter().map(|leaf| is_float(leaf)).collect();
    if !floats.contains(&true) {
        return Ok(footer);
    }
    let mut builder = Arc::unwrap_or_clone(footer).into_builder();
    let groups = builder.take_row_groups().into_iter().map(|group| {
        let mut group = group.into_builder();
        let columns = group.take_columns().into_iter().zip(&floats).map(|(column, float)| {
            if !*float {
                return Ok(column);
            }
            // If the page index has not been read yet, remove its location too.
            let column = column.into_builder().clear_statistics().set_column_index_offset(None);
            column.set_column_index_length(None).build()
        });
        let columns = columns.collect::<ParquetResult<_>>()?;
        group.set_column_metadata(columns).build()
    });
    let groups = groups.collect::<ParquetResult<_>>()?;
    let mut index = builder.take_column_index();
    for column in index.iter_mut().flatten().flat_map(|group| group.iter_mut().zip(&floats)) {
        if let (column, true) = column {
            *column = ColumnIndexMetaData::NONE;
        }
    }
    Ok(Arc::new(builder.set_row_groups(groups).set_column_index(index).build()))
}

fn is_float(leaf: &ColumnDescriptor) -> bool {
    matches!(leaf.physical_type(), Physical::FLOAT | Physical::DOUBLE)
        || matches!(leaf.logical_type_ref(), Some(LogicalType::Float16))
}

/// Annotates as UTF-8 all columns of a footer that are read as text. The Parquet reader validates only annotated
/// columns and takes others for UTF-8 unchecked, such as those that the table declares as text
/// (`datafusion.execution.parquet.binary_as_string`, a declared type,
/// <https://github.com/apache/datafusion/issues/25509>) or annotated as JSON. `table` says which top-level columns are
/// read as text.
///
/// # Errors
/// A file whose own Arrow schema declares bytes within a struct or list as text.
fn checked_texts(footer: Arc<ParquetMetaData>, table: &Schema) -> ParquetResult<Arc<ParquetMetaData>> {
    let file = footer.file_metadata();
    let descriptor = file.schema_descr();
    // Decimals are stored in bytes too, but are not text to their readers.
    let is_bytes = |leaf: &ColumnDescriptor| {
        use ConvertedType::{BSON, ENUM, JSON, NONE};
        leaf.physical_type() == Physical::BYTE_ARRAY && matches!(leaf.converted_type(), NONE | ENUM | JSON | BSON)
    };
    if !descriptor.columns().iter().any(|leaf| is_bytes(leaf)) {
        return Ok(footer);
    }
    let is_json = |leaf: &ColumnDescriptor| {
        leaf.converted_type() == ConvertedType::JSON || matches!(leaf.logical_type_ref(), Some(LogicalType::Json))
    };
    let texts = descriptor.columns().iter().map(|leaf| {
        let is_text = || match leaf.path().parts() {
            [name] => table.field_with_name(name).is_ok_and(|field| texts_in(field.data_type()) > 0),
            _ => false,
        };
        is_bytes(leaf) && (is_json(leaf) || is_text())
    });
    let texts: Vec<bool> = texts.collect();
    let descriptor = if texts.contains(&true) {
        let mut leaves = texts.into_iter();
        Arc::new(SchemaDescriptor::new(Arc::new(annotated(descriptor.root_schema(), &mut leaves)?)))
    } else {
        file.schema_descr_ptr()
    };
    // Within structs and lists, only the Arrow schema that a file may carry can turn bytes into text.
    let count = |schema: Schema| schema.fields().iter().map(|field| texts_in(field.data_type())).sum::<usize>();
    let plain = count(parquet_to_arrow_schema(&descriptor, None)?);
    if count(parquet_to_arrow_schema(&descriptor, file.key_value_metadata())?) > plain {
        return Err(ParquetError::General(
            "its Arrow schema takes bytes for text that its Parquet schema does not call text: write it anew"
                .to_owned(),
        ));
    }
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        descriptor,
        file.column_orders().cloned(),
    );
    let mut old = Arc::unwrap_or_clone(footer).into_builder();
    let (groups, column_index, offset_index) =
        (old.take_row_groups(), old.take_column_index(), old.take_offset_index());
    let new = ParquetMetaData::new(file, groups).into_builder();
    Ok(Arc::new(new.set_column_index(column_index).set_offset_index(offset_index).build()))
}

/// The schema with the leaves selected by `leaves`, in order, annotated as UTF-8.
fn annotated(of: &Type, leaves: &mut dyn Iterator<Item = bool>) -> ParquetResult<Type> {
    let info = of.get_basic_info();
    let id = info.has_id().then(|| info.id());
    match of {
        Type::PrimitiveType { .. } if leaves.next() == Some(true) => {
            Type::primitive_type_builder(info.name(), Physical::BYTE_ARRAY)
                .with_repetition(info.repetition())
                .with_logical_type(Some(LogicalType::String))
                .with_converted_type(ConvertedType::UTF8)
                .with_id(id)
                .build()
        }
        Type::PrimitiveType { .. } => Ok(of.clone()),
        Type::GroupType { fields, .. } => {
            let fields = fields.iter().map(|field| annotated(field, leaves).map(Arc::new));
            let group = Type::group_type_builder(info.name())
                .with_converted_type(info.converted_type())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_id(id)
                .with_fields(fields.collect::<ParquetResult<_>>()?);
            // The root has no repetition.
            if info.has_repetition() { group.with_repetition(info.repetition()).build() } else { group.build() }
        }
    }
}

/// Number of text types within a type.
fn texts_in(data_type: &DataType) -> usize {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 1,
        DataType::Dictionary(_, values) => texts_in(values),
        DataType::Struct(fields) => fields.iter().map(|field| texts_in(field.data_type())).sum(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => texts_in(item.data_type()),
        _ => 0,
    }
}
