//! Formats that SQL reads row by row, through [`FileFormat::read`]: tables by name, `STORED AS`, COPY and INSERT.

use std::collections::HashMap;
use std::fmt;
use std::slice;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, new_null_array};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{GetExt, Result, Statistics, not_impl_err, plan_err};
use datafusion::datasource::file_format as datafusion_format;
use datafusion::datasource::file_format::FileFormatFactory;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::write::demux::DemuxedStreamReceiver;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::datasource::physical_plan::{
    FileOpenFuture, FileOpener, FileScanConfig, FileSink, FileSinkConfig, FileSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::CreateExternalTable;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::object_store::buffered::BufWriter;
use datafusion::object_store::{GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr_common::sort_expr::LexRequirement;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr};
use datafusion::prelude::SessionContext;
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::adapt::adapt;
use crate::file::{self, DataFile};
use crate::format::contract::{FileFormat, FileInfo, InSql, Inspection, Reader, Scan, Unified};
use crate::format::register::formats;
use crate::format::rows::{Problem, Rows};
use crate::halt;
use crate::schema::{Merged, as_views};
use crate::store::object::Object;

/// Lets SQL create tables of the formats that DataFusion lacks, such as `STORED AS WEBDATASET`, and write those that have
/// a writer, as in `COPY .. TO 'x.tar'`.
///
/// # Errors
/// A format with a name or an extension that DataFusion has.
pub fn register_formats(ctx: &SessionContext) -> Result<()> {
    let state = ctx.state_ref();
    let mut state = state.write();
    for format in formats().into_iter().filter(|format| format.about().in_sql == InSql::Rows) {
        let Some(first) = format.about().extensions.first() else { continue };
        let extensions = format.about().extensions.iter().map(|extension| (extension.to_string(), *extension));
        for (name, extension) in extensions.chain([(format.about().name.to_ascii_lowercase(), *first)]) {
            if state.get_file_format_factory(&name).is_some_and(|known| known.downcast_ref::<RowsFactory>().is_none()) {
                return plan_err!(
                    "the format {} has the name {name}, which is one of DataFusion's",
                    format.about().name
                );
            }
            state.table_factories_mut().insert(name.to_ascii_uppercase(), Arc::new(RowsTables { extension }));
            state.register_file_format(Arc::new(RowsFactory { format, name }), true)?;
        }
    }
    Ok(())
}

/// Factory for a format under one of its names.
#[derive(Debug)]
struct RowsFactory {
    format: &'static dyn FileFormat,
    name: String,
}

impl GetExt for RowsFactory {
    fn get_ext(&self) -> String {
        self.name.clone()
    }
}

impl FileFormatFactory for RowsFactory {
    fn create(
        &self,
        _: &dyn Session,
        options: &HashMap<String, String>,
    ) -> Result<Arc<dyn datafusion_format::FileFormat>> {
        if let Some(name) = options.keys().next() {
            return not_impl_err!("{} has no options, and {name} is given", self.format.about().name);
        }
        Ok(self.default())
    }

    fn default(&self) -> Arc<dyn datafusion_format::FileFormat> {
        Arc::new(RowsFormat::new(self.format))
    }
}

/// Table factory. DataFusion takes the name in STORED AS for the extension of a folder's files, so the extension
/// replaces it.
#[derive(Debug)]
struct RowsTables {
    extension: &'static str,
}

#[async_trait]
impl TableProviderFactory for RowsTables {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let cmd = CreateExternalTable { file_type: self.extension.to_ascii_uppercase(), ..cmd.clone() };
        ListingTableFactory::new().create(state, &cmd).await
    }
}

/// Implements DataFusion's trait for a format of this crate.
#[derive(Debug)]
pub(crate) struct RowsFormat {
    format: &'static dyn FileFormat,
    /// DataFusion's own format, which writes such files in place of this crate's.
    writer: Option<Arc<dyn datafusion_format::FileFormat>>,
}

impl RowsFormat {
    pub(crate) fn new(format: &'static dyn FileFormat) -> Self {
        Self { format, writer: None }
    }

    pub(crate) fn written_by(self, writer: Arc<dyn datafusion_format::FileFormat>) -> Self {
        Self { writer: Some(writer), ..self }
    }
}

#[async_trait]
impl datafusion_format::FileFormat for RowsFormat {
    fn get_ext(&self) -> String {
        match &self.writer {
            Some(writer) => writer.get_ext(),
            None => self.format.about().extensions.first().copied().unwrap_or_default().to_owned(),
        }
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        if compression.is_compressed() {
            return not_impl_err!("{} files are written without compression", self.format.about().name);
        }
        Ok(self.get_ext())
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        None
    }

    async fn infer_schema(
        &self,
        _: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        let format = self.format;
        if let Some(schema) = format.schema() {
            return Ok(Arc::new(as_views(&schema)));
        }
        // A store lists its objects in any order, and the first file has the first columns.
        let mut objects = objects.to_vec();
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        let mut files = Vec::with_capacity(objects.len());
        for object in objects {
            files.push(data_file(store, object).await?);
        }
        let inferred = halt::aside(move |halt| schema(format, &files, &Inspection::until(Some(halt))));
        inferred.await.map_err(|e| DataFusionError::External(Box::new(e)))
    }

    async fn infer_stats(
        &self,
        _: &dyn Session,
        _: &Arc<dyn ObjectStore>,
        table: SchemaRef,
        _: &ObjectMeta,
    ) -> Result<Statistics> {
        Ok(Statistics::new_unknown(&table))
    }

    async fn create_physical_plan(&self, _: &dyn Session, config: FileScanConfig) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(DataSourceExec::from_data_source(config))
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        config: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(writer) = &self.writer {
            return writer.create_writer_physical_plan(input, state, config, order).await;
        }
        if config.insert_op != InsertOp::Append {
            return not_impl_err!("a {} file cannot be overwritten by INSERT", self.format.about().name);
        }
        if self.format.writer().is_none() {
            return not_impl_err!("SQL reads {} files and does not write them", self.format.about().name);
        }
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(RowsSink { format: self.format, config }), order)))
    }

    fn file_source(&self, table: TableSchema) -> Arc<dyn FileSource> {
        Arc::new(RowsSource::new(self.format, table))
    }
}

/// Scan of files, each read whole by one partition.
#[derive(Clone)]
struct RowsSource {
    format: &'static dyn FileFormat,
    /// Name in plans.
    name: String,
    table: TableSchema,
    projection: SplitProjection,
    batch_size: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl RowsSource {
    fn new(format: &'static dyn FileFormat, table: TableSchema) -> Self {
        let projection = SplitProjection::unprojected(&table);
        let metrics = ExecutionPlanMetricsSet::new();
        let name = format.about().name.to_ascii_lowercase();
        Self { format, name, table, projection, batch_size: capfilt_udfs::BATCH_SIZE, metrics }
    }
}

impl FileSource for RowsSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _: &FileScanConfig,
        _: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let schema = Arc::clone(self.table.file_schema());
        let columns = Arc::new(schema.project(&self.projection.file_indices)?);
        let opener = Arc::new(RowsOpener { format: self.format, store, schema, columns, batch_size: self.batch_size });
        ProjectionOpener::try_new(self.projection.clone(), opener, self.table.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_size, ..self.clone() })
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let merged = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.table.file_schema(), &merged);
        Ok(Some(Arc::new(Self { projection, ..self.clone() })))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        &self.name
    }

    fn supports_repartitioning(&self) -> bool {
        // A range of bytes would begin inside a row.
        false
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for projection in self.projection.source.iter() {
            if f(&projection.expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }
}

struct RowsOpener {
    format: &'static dyn FileFormat,
    store: Arc<dyn ObjectStore>,
    /// Columns that the files have in common.
    schema: SchemaRef,
    /// Columns that the query needs.
    columns: SchemaRef,
    batch_size: usize,
}

impl FileOpener for RowsOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let (format, store, batch_rows) = (self.format, Arc::clone(&self.store), self.batch_size);
        let read = format.unify(slice::from_ref(&self.schema), &[]);
        let read = read.map_err(|(_, reason)| DataFusionError::External(reason.into()))?;
        let schema = read.map_or_else(|| Arc::clone(&self.schema), |unified| unified.read);
        let columns = Arc::clone(&self.columns);
        Ok(Box::pin(async move {
            let file = data_file(&store, file.object_meta).await?;
            let failed = move |file: &DataFile, reason: String| {
                let reason = format!("{}: {}", file.shown().display(), file.reason(|| reason));
                DataFusionError::External(reason.into())
            };
            let opened = file.clone();
            let batches = blocking(move || {
                let scan = Scan { schema: &schema, ranges: &[(0, u64::MAX)], batch_rows, reader: Reader::Sql };
                format.read(&opened, &scan)
            });
            let batches = batches.await.map_err(|reason| failed(&file, reason))?;
            // Reading blocks, which this async thread must not.
            let batches = futures::stream::unfold(batches, |mut batches| {
                blocking(move || batches.next().map(|batch| (batch, batches)))
            });
            let (mut row, mut named) = (0, 0);
            let batches = batches.map(move |rows| {
                let Rows { batch, problems } = rows.map_err(|reason| failed(&file, reason))?;
                for Problem { row: at, reason, .. } in problems {
                    let shown = file.shown();
                    match named {
                        0..MOST_NAMED => log::warn!("{}, row {}: {reason}", shown.display(), row + at),
                        MOST_NAMED => log::warn!("{}: further rows of this kind are not named", shown.display()),
                        _ => {}
                    }
                    named += 1;
                }
                row += batch.num_rows();
                shape(&batch, &columns).map_err(|reason| failed(&file, reason))
            });
            Ok(batches.boxed())
        }))
    }
}

/// Damaged rows of a file that warnings name.
const MOST_NAMED: usize = 5;

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

/// An object of a store of DataFusion's, as formats read it.
async fn data_file(store: &Arc<dyn ObjectStore>, object: ObjectMeta) -> Result<DataFile> {
    // Only local files come as such, whatever part of them is asked for.
    let byte = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
    Ok(match store.get_opts(&object.location, byte).await?.payload {
        GetResultPayload::File(_, path) => DataFile::Local(path),
        GetResultPayload::Stream(_) => DataFile::Remote(Object::of(store, object)),
    })
}

/// Schema of files that declare or suggest one each.
fn schema(format: &'static dyn FileFormat, files: &[DataFile], inspection: &Inspection) -> crate::Result<SchemaRef> {
    let infos: Vec<FileInfo> = file::each(files, |file| format.inspect(file, inspection))?;
    inspection.warn();
    let declared: Vec<SchemaRef> = infos.into_iter().map(|info| info.schema).collect();
    let beside = |file: &DataFile, reason: String, other: &DataFile| {
        file.error(|| format!("{reason} {}: convert one of them", other.shown().display()))
    };
    let unified = format.unify(&declared, &[]);
    if let Some(Unified { written, .. }) = unified.map_err(|(at, reason)| beside(&files[at], reason, &files[0]))? {
        return Ok(Arc::new(as_views(&written)));
    }
    let mut merged = Merged::default();
    for (file, schema) in files.iter().zip(&declared) {
        merged.add(schema).map_err(|conflict| beside(file, conflict.reason, &files[conflict.file]))?;
    }
    Ok(Arc::new(as_views(&merged.schema())))
}

/// The columns of a table from a file's batch: NULL for those that the file lacks.
fn shape(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, String> {
    let column = |field: &FieldRef| match batch.column_by_name(field.name()) {
        Some(column) => adapt(column, field.data_type()).map_err(|e| format!("column {}: {e}", field.name())),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    };
    let shaped = columns.fields().iter().map(column).collect::<Result<Vec<ArrayRef>, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), shaped, &rows).map_err(|e| e.to_string())
}

#[derive(Debug)]
struct RowsSink {
    format: &'static dyn FileFormat,
    config: FileSinkConfig,
}

impl DisplayAs for RowsSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowsSink")
    }
}

#[async_trait]
impl DataSink for RowsSink {
    fn schema(&self) -> &SchemaRef {
        self.config.output_schema()
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        FileSink::write_all(self, data, context).await
    }
}

#[async_trait]
impl FileSink for RowsSink {
    fn config(&self) -> &FileSinkConfig {
        &self.config
    }

    async fn spawn_writer_tasks_and_join(
        &self,
        _: &Arc<TaskContext>,
        demux: SpawnedTask<Result<()>>,
        mut files: DemuxedStreamReceiver,
        store: Arc<dyn ObjectStore>,
    ) -> Result<u64> {
        let mut writers = Vec::new();
        while let Some((path, mut batches)) = files.recv().await {
            let store = Arc::clone(&store);
            let Some(mut writer) = self.format.writer() else { continue };
            writers.push(SpawnedTask::spawn(async move {
                let mut out = BufWriter::new(store, path);
                let mut rows = 0;
                while let Some(batch) = batches.recv().await {
                    out.write_all(&writer.write(&batch)?).await?;
                    rows += batch.num_rows() as u64;
                }
                out.write_all(&writer.end()?).await?;
                out.shutdown().await?;
                Ok::<u64, DataFusionError>(rows)
            }));
        }
        let mut rows = 0;
        for writer in writers {
            rows += writer.join().await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??;
        }
        demux.join().await.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))??;
        Ok(rows)
    }
}
