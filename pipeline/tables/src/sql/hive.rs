//! Tables partitioned into folders named `column=value`, the layout that Hive, Spark and DuckDB write.
//!
//! DataFusion 55's own scan reads [`HIVE_NULL`] as a text (<https://github.com/apache/datafusion/issues/18083>). If a filter
//! requires a column to equal a value, it lists only the folder with the unencoded value, though other writers encode
//! more characters than it does (<https://github.com/apache/datafusion/issues/19650>). Its writer names the folder of
//! NULL like that of an empty text, or of 0.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{
    ColumnStatistics, Constraints, DFSchema, Result, ScalarValue, Statistics, plan_datafusion_err,
};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::helpers::{expr_applicable_for_cols, parse_partitions_for_path};
use datafusion::datasource::listing::{ListingTable, ListingTableConfig, ListingTableUrl, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, cast, col, lit, when};
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::layout::HIVE_NULL;
use crate::sql::restamp::Restamp;

/// Folder name for a value, after `column=`; an empty text and NULL get different names.
pub(crate) fn folder_name(value: Expr) -> Result<Expr> {
    when(value.clone().is_null(), lit(HIVE_NULL)).otherwise(cast(value, DataType::Utf8))
}

/// Wraps a table that is partitioned into folders; returns other tables unchanged.
pub(crate) fn table(listed: ListingTable) -> Arc<dyn TableProvider> {
    let options = listed.options();
    if options.table_partition_cols.is_empty() || options.output_partitioning.is_some() {
        return Arc::new(listed);
    }
    let all = listed.schema();
    let (file, folders) = all.fields().split_at(all.fields().len() - options.table_partition_cols.len());
    let folders: Fields = folders.iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let files = Arc::new(Schema::new_with_metadata(file.to_vec(), all.metadata().clone()));
    let whole: Vec<FieldRef> = file.iter().chain(&folders).map(Arc::clone).collect();
    let schema = Arc::new(Schema::new_with_metadata(whole, all.metadata().clone()));
    Arc::new(HiveTable { listed, files, folders, schema })
}

#[derive(Debug)]
struct HiveTable {
    listed: ListingTable,
    /// Columns in the files.
    files: SchemaRef,
    /// Partition columns.
    folders: Fields,
    schema: SchemaRef,
}

impl HiveTable {
    fn folder_names(&self) -> Vec<&str> {
        self.folders.iter().map(|field| field.name().as_str()).collect()
    }

    /// File with its partition values; `None` if it is not in partition folders.
    fn partitioned_file(&self, meta: ObjectMeta, table: &ListingTableUrl) -> Result<Option<PartitionedFile>> {
        let values = match parse_partitions_for_path(table, &meta.location, self.folder_names()) {
            Some(values) if values.len() == self.folders.len() => values,
            _ => return Ok(None),
        };
        let value = |(text, field): (&str, &FieldRef)| match text {
            HIVE_NULL => ScalarValue::try_from(field.data_type()),
            _ => ScalarValue::try_from_string(text.to_owned(), field.data_type()).map_err(|e| {
                let (path, name, what) = (&meta.location, field.name(), field.data_type());
                plan_datafusion_err!("{path}: its folder {name}={text} cannot be read as {what}: {e}")
            }),
        };
        let values = values.iter().map(AsRef::as_ref).zip(&self.folders).map(value).collect::<Result<Vec<_>>>()?;
        Ok(Some(PartitionedFile::new_from_meta(meta).with_partition_values(values)))
    }

    /// Partition pruning: files of the table that pass `filters`, which refer to partition columns only.
    async fn list(
        &self,
        state: &dyn Session,
        store: &dyn ObjectStore,
        filters: &[Expr],
    ) -> Result<Vec<PartitionedFile>> {
        let (mut files, mut seen) = (Vec::new(), HashSet::new());
        for table in self.listed.table_paths() {
            let ending = &self.listed.options().file_extension;
            let mut all = table.list_all_files(state, store, ending).await?;
            while let Some(meta) = all.try_next().await? {
                if meta.size > 0 && seen.insert(meta.location.clone()) {
                    files.extend(self.partitioned_file(meta, table)?);
                }
            }
        }
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(files) };
        let columns = (0..self.folders.len()).map(|column| {
            let values = files.iter().map(|file| file.partition_values[column].clone());
            if files.is_empty() { Ok(None) } else { ScalarValue::iter_to_array(values).map(Some) }
        });
        // Without files there is nothing to prune.
        let Some(columns) = columns.collect::<Result<Option<Vec<_>>>>()? else { return Ok(files) };
        let schema = DFSchema::from_unqualified_fields(self.folders.clone(), Default::default())?;
        let rows = RecordBatchOptions::new().with_row_count(Some(files.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(schema.inner()), columns, &rows)?;
        let passed = state.create_physical_expr(filter, &schema)?.evaluate(&rows)?.into_array(files.len())?;
        let passed = passed.as_boolean();
        Ok(files.into_iter().zip(passed).filter(|(_, passed)| *passed == Some(true)).map(|(file, _)| file).collect())
    }

    /// File with the statistics and ordering from its footer.
    async fn look(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        file: PartitionedFile,
    ) -> Result<PartitionedFile> {
        let (statistics, ordering) = if state.config().collect_statistics() {
            let format = &self.listed.options().format;
            let files = Arc::clone(&self.files);
            let said = format.infer_stats_and_ordering(state, store, files, &file.object_meta).await?;
            (said.statistics, said.ordering)
        } else {
            (Statistics::new_unknown(&self.files), None)
        };
        let rows = statistics.num_rows;
        let mut file = file.with_statistics(Arc::new(statistics)).with_ordering(ordering);
        if let Some(statistics) = &mut file.statistics {
            // DataFusion's statistics do not treat any partition value as NULL.
            let columns = Arc::make_mut(statistics).column_statistics.iter_mut().skip(self.files.fields().len());
            for (column, _) in columns.zip(&file.partition_values).filter(|(_, value)| value.is_null()) {
                *column = ColumnStatistics { null_count: rows, ..ColumnStatistics::new_unknown() };
            }
        }
        Ok(file)
    }
}

#[async_trait]
impl TableProvider for HiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.listed.constraints()
    }

    fn table_type(&self) -> TableType {
        self.listed.table_type()
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.listed.get_table_definition()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.listed.get_column_default(column)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.listed.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let names = self.folder_names();
        let (of_folders, of_rows): (Vec<Expr>, Vec<Expr>) =
            filters.iter().cloned().partition(|filter| expr_applicable_for_cols(&names, filter));
        let url = self.listed.table_paths()[0].object_store();
        let store = state.runtime_env().object_store(&url)?;
        let listed = self.list(state, store.as_ref(), &of_folders).await?;
        if listed.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let all = listed.len();
        let at_once = state.config_options().execution.meta_fetch_concurrency.get();
        let looks = listed.into_iter().map(|file| self.look(state, &store, file));
        let mut looks = stream::iter(looks).buffered(at_once);
        let (mut files, mut rows) = (Vec::with_capacity(all), Precision::Exact(0));
        while let Some(file) = looks.try_next().await? {
            if let Some(statistics) = &file.statistics {
                rows = rows.add(&statistics.num_rows);
            }
            files.push(file);
            if let (true, Some(limit), Precision::Exact(rows)) = (of_rows.is_empty(), limit, rows)
                && rows > limit
            {
                break;
            }
        }
        drop(looks);
        let is_cut = files.len() < all;
        let groups =
            FileGroup::new(files).split_files(state.config().target_partitions().max(1)).into_iter().map(|group| {
                let said = group.iter().filter_map(|file| file.statistics.as_deref());
                let said = Statistics::try_merge_iter(said, &self.schema)?;
                Ok(group.with_statistics(Arc::new(said)))
            });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let all = groups.iter().filter_map(|group| group.file_statistics(None));
        let all = Statistics::try_merge_iter(all, &self.schema)?;
        let statistics = if is_cut { all.to_inexact() } else { all };
        let ordering = self.listed.try_create_output_ordering(state.execution_props(), &groups)?;
        let format = &self.listed.options().format;
        let columns = TableSchema::builder(Arc::clone(&self.files)).with_table_partition_cols(self.folders.clone());
        let source = format.file_source(columns.build());
        let config = FileScanConfigBuilder::new(url, source)
            .with_file_groups(groups)
            .with_constraints(self.listed.constraints().cloned().unwrap_or_default())
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_output_ordering(ordering)
            .build();
        let scan = format.create_physical_plan(state, config).await?;
        let is_parquet = format.get_ext().ends_with("parquet");
        Ok(if is_parquet { scan } else { Arc::new(Restamp(scan)) })
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Declared as text, the values are the folder names.
        let options = self.listed.options();
        let texts = self.folder_names().into_iter().map(|name| (name.to_owned(), DataType::Utf8)).collect();
        let config = ListingTableConfig::new_with_multi_paths(self.listed.table_paths().clone())
            .with_listing_options(options.clone().with_table_partition_cols(texts))
            .with_schema(Arc::clone(&self.files));
        let given = input.schema();
        let schema = DFSchema::try_from(Arc::clone(&given))?;
        let columns = given.fields().iter().map(|field| {
            let column = col(datafusion::common::Column::new_unqualified(field.name()));
            let is_folder = self.folders.find(field.name()).is_some();
            let value = if is_folder { folder_name(column)? } else { column };
            Ok((state.create_physical_expr(value, &schema)?, field.name().clone()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let named = ProjectionExec::try_new(columns, input)?;
        ListingTable::try_new(config)?.insert_into(state, Arc::new(named), op).await
    }
}
