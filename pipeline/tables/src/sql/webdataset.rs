//! DataFusion file format for `STORED AS WEBDATASET`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{GetExt, Result, Statistics, not_impl_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::write::demux::DemuxedStreamReceiver;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
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
use datafusion::object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr_common::sort_expr::LexRequirement;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr};
use datafusion::prelude::SessionContext;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::format::webdataset::read::{Reader, TarError, samples, schema};
use crate::format::webdataset::write::{Names, Shard};

/// Lets SQL read and write WebDataset: `CREATE EXTERNAL TABLE .. STORED AS WEBDATASET`, `COPY .. TO 'x.tar'`.
pub fn register_webdataset(ctx: &SessionContext) -> Result<()> {
    let state = ctx.state_ref();
    let mut state = state.write();
    for name in NAMES {
        state.register_file_format(Arc::new(WebDatasetFactory::new(name)), true)?;
        state.table_factories_mut().insert(name.to_ascii_uppercase(), Arc::new(WebDatasetTables));
    }
    Ok(())
}

/// Names of the format: in STORED AS, and as file extension.
pub(crate) const NAMES: [&str; 2] = ["webdataset", "tar"];

/// Factory for the format under one of its names.
#[derive(Debug)]
pub(crate) struct WebDatasetFactory {
    name: &'static str,
}

impl WebDatasetFactory {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name }
    }
}

impl GetExt for WebDatasetFactory {
    fn get_ext(&self) -> String {
        self.name.to_owned()
    }
}

impl FileFormatFactory for WebDatasetFactory {
    fn create(&self, _: &dyn Session, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
        if let Some(name) = options.keys().next() {
            return not_impl_err!("WebDataset has no options, and {name} is given");
        }
        Ok(self.default())
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(WebDatasetFormat)
    }
}

/// Table factory. DataFusion takes the name in STORED AS for the extension of a folder's files, so the extension
/// replaces it.
#[derive(Debug)]
pub(crate) struct WebDatasetTables;

#[async_trait]
impl TableProviderFactory for WebDatasetTables {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let cmd = CreateExternalTable { file_type: "TAR".to_owned(), ..cmd.clone() };
        ListingTableFactory::new().create(state, &cmd).await
    }
}

#[derive(Debug)]
struct WebDatasetFormat;

#[async_trait]
impl FileFormat for WebDatasetFormat {
    fn get_ext(&self) -> String {
        "tar".to_owned()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        if compression.is_compressed() {
            return not_impl_err!("WebDataset shards are not compressed: their images are");
        }
        Ok(self.get_ext())
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        None
    }

    async fn infer_schema(&self, _: &dyn Session, _: &Arc<dyn ObjectStore>, _: &[ObjectMeta]) -> Result<SchemaRef> {
        Ok(schema())
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
        _: &dyn Session,
        config: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if config.insert_op != InsertOp::Append {
            return not_impl_err!("a WebDataset shard cannot be overwritten by INSERT");
        }
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(WebDatasetSink { config }), order)))
    }

    fn file_source(&self, table: TableSchema) -> Arc<dyn FileSource> {
        Arc::new(WebDatasetSource::new(table))
    }
}

/// Scan of shards, each read whole by one partition.
#[derive(Clone)]
struct WebDatasetSource {
    table: TableSchema,
    projection: SplitProjection,
    batch_size: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl WebDatasetSource {
    fn new(table: TableSchema) -> Self {
        let projection = SplitProjection::unprojected(&table);
        Self { table, projection, batch_size: capfilt_udfs::BATCH_SIZE, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl FileSource for WebDatasetSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _: &FileScanConfig,
        _: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let opener = Arc::new(WebDatasetOpener {
            store,
            columns: self.projection.file_indices.clone(),
            batch_size: self.batch_size,
        });
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
        "webdataset"
    }

    fn supports_repartitioning(&self) -> bool {
        // A range of bytes would begin inside a sample.
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

struct WebDatasetOpener {
    store: Arc<dyn ObjectStore>,
    columns: Vec<usize>,
    batch_size: usize,
}

impl FileOpener for WebDatasetOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let (store, columns, batch_size) = (Arc::clone(&self.store), self.columns.clone(), self.batch_size);
        Ok(Box::pin(async move {
            let location = file.object_meta.location;
            let all = vec![(0, u64::MAX)];
            let name = location.to_string();
            let batches = match store.get(&location).await?.payload {
                GetResultPayload::File(file, _) => {
                    samples(name, std::io::BufReader::new(file), all, batch_size, Reader::Sql)
                }
                GetResultPayload::Stream(stream) => {
                    let bytes = StreamReader::new(stream.map_err(std::io::Error::other));
                    samples(name, SyncIoBridge::new(Box::pin(bytes)), all, batch_size, Reader::Sql)
                }
            };
            // The reading thread sends one batch at a time; waiting for it would block this async thread.
            let batches = futures::stream::unfold(batches, |mut batches| async {
                let next = tokio::task::spawn_blocking(move || batches.next().map(|batch| (batch, batches))).await;
                next.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
            });
            let named = move |e: TarError| DataFusionError::External(format!("{location}: {e}").into());
            let batches = batches.map(move |batch| {
                let batch = batch.map_err(&named)?;
                Ok(batch.project(&columns)?)
            });
            Ok(batches.boxed())
        }))
    }
}

#[derive(Debug)]
struct WebDatasetSink {
    config: FileSinkConfig,
}

impl DisplayAs for WebDatasetSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebDatasetSink")
    }
}

#[async_trait]
impl DataSink for WebDatasetSink {
    fn schema(&self) -> &SchemaRef {
        self.config.output_schema()
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> Result<u64> {
        FileSink::write_all(self, data, context).await
    }
}

#[async_trait]
impl FileSink for WebDatasetSink {
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
            writers.push(SpawnedTask::spawn(async move {
                let mut out = BufWriter::new(store, path);
                let mut shard = Shard::new(Vec::new(), Names::Column);
                let mut rows = 0;
                while let Some(batch) = batches.recv().await {
                    shard.write(&batch)?;
                    rows += batch.num_rows() as u64;
                    out.write_all(&std::mem::take(shard.writer())).await?;
                }
                out.write_all(&shard.end()?).await?;
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
