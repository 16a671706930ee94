//! Tables partitioned into folders named `column=value`, the layout that Hive, Spark and DuckDB write.
//!
//! DataFusion 55's own scan reads [`HIVE_NULL`] as a text (<https://github.com/apache/datafusion/issues/18083>). If a filter
//! requires a column to equal a value, it lists only the folder with the unencoded value, though other writers encode
//! more characters than it does (<https://github.com/apache/datafusion/issues/19650>). Its writer names the folder of
//! NULL like that of an empty text, or of 0. So DataFusion reads and writes the names of folders as texts here, and
//! values are made of them, in filters too.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, Constraints, DFSchema, Result, ScalarValue, plan_datafusion_err};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::helpers::{expr_applicable_for_cols, parse_partitions_for_path};
use datafusion::datasource::listing::{ListingTable, ListingTableConfig};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, cast, lit, when};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::stream::TryStreamExt as _;

use crate::layout::HIVE_NULL;

/// Folder name for a value, after `column=`; an empty text and NULL get different names.
pub(crate) fn folder_name(value: Expr) -> Result<Expr> {
    when(value.clone().is_null(), lit(HIVE_NULL)).otherwise(cast(value, DataType::Utf8))
}

/// Wraps a table that is partitioned into folders; returns other tables unchanged.
pub(crate) fn table(declared: ListingTable) -> Result<Arc<dyn TableProvider>> {
    let options = declared.options();
    if options.table_partition_cols.is_empty() || options.output_partitioning.is_some() {
        return Ok(Arc::new(declared));
    }
    let all = declared.schema();
    let (files, folders) = all.fields().split_at(all.fields().len() - options.table_partition_cols.len());
    let texts = folders.iter().map(|field| (field.name().clone(), DataType::Utf8)).collect();
    let folders: Fields = folders.iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let schema = |fields: Vec<FieldRef>| Arc::new(Schema::new_with_metadata(fields, all.metadata().clone()));
    let config = ListingTableConfig::new_with_multi_paths(declared.table_paths().clone())
        .with_listing_options(options.clone().with_table_partition_cols(texts))
        .with_schema(schema(files.to_vec()));
    let texts = ListingTable::try_new(config)?.with_constraints(declared.constraints().cloned().unwrap_or_default());
    let schema = schema(files.iter().chain(&folders).map(Arc::clone).collect());
    Ok(Arc::new(HiveTable { declared, texts, folders, schema }))
}

#[derive(Debug)]
struct HiveTable {
    declared: ListingTable,
    /// The table whose partition columns are the names of folders.
    texts: ListingTable,
    /// Partition columns.
    folders: Fields,
    schema: SchemaRef,
}

impl HiveTable {
    /// Value of a column of `texts`.
    fn value(&self, column: Column) -> Result<Expr> {
        let folder = self.folders.find(&column.name).map(|(_, field)| field.data_type().clone());
        let text = Expr::Column(column);
        let Some(data_type) = folder else { return Ok(text) };
        Ok(cast(when(text.clone().not_eq(lit(HIVE_NULL)), text).end()?, data_type))
    }

    /// Refuses a folder whose name cannot be read as the type of its column.
    async fn check(&self, state: &dyn Session) -> Result<()> {
        let is_text = |field: &FieldRef| match field.data_type() {
            DataType::Dictionary(_, value) => value.is_string(),
            other => other.is_string(),
        };
        if self.folders.iter().all(is_text) {
            return Ok(());
        }
        for table in self.texts.table_paths() {
            let store = state.runtime_env().object_store(table)?;
            let ending = &self.texts.options().file_extension;
            let mut files = table.list_all_files(state, store.as_ref(), ending).await?;
            while let Some(file) = files.try_next().await? {
                let names = self.folders.iter().map(|field| field.name().as_str());
                let texts = parse_partitions_for_path(table, &file.location, names).unwrap_or_default();
                for (text, field) in texts.iter().zip(&self.folders).filter(|(text, _)| *text != HIVE_NULL) {
                    ScalarValue::try_from_string(text.to_string(), field.data_type()).map_err(|e| {
                        let (path, name, what) = (&file.location, field.name(), field.data_type());
                        plan_datafusion_err!("{path}: its folder {name}={text} cannot be read as {what}: {e}")
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// `input` with its columns as `of` makes them.
fn mapped(
    state: &dyn Session,
    input: Arc<dyn ExecutionPlan>,
    of: impl Fn(Column) -> Result<Expr>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let given = input.schema();
    let schema = DFSchema::try_from(Arc::clone(&given))?;
    let columns = given.fields().iter().map(|field| {
        let value = of(Column::new_unqualified(field.name()))?;
        Ok((state.create_physical_expr(value, &schema)?, field.name().clone()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(columns, input)?))
}

#[async_trait]
impl TableProvider for HiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.declared.constraints()
    }

    fn table_type(&self) -> TableType {
        self.declared.table_type()
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.declared.get_table_definition()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.declared.get_column_default(column)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.declared.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.check(state).await?;
        let names: Vec<&str> = self.folders.iter().map(|field| field.name().as_str()).collect();
        let filters = filters.iter().map(|filter| {
            let of_texts = filter.clone().transform(|part| match part {
                Expr::Column(column) => self.value(column).map(Transformed::yes),
                other => Ok(Transformed::no(other)),
            });
            let of_texts = of_texts?.data;
            // Where it leaves files out, DataFusion does not ask whether a filter is NULL.
            Ok(if expr_applicable_for_cols(&names, filter) { of_texts.is_true() } else { of_texts })
        });
        let filters = filters.collect::<Result<Vec<_>>>()?;
        let scan = self.texts.scan(state, projection, &filters, limit).await?;
        if !scan.schema().fields().iter().any(|field| names.contains(&field.name().as_str())) {
            return Ok(scan);
        }
        mapped(state, scan, |column| self.value(column))
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let named = mapped(state, input, |column| {
            let is_folder = self.folders.find(&column.name).is_some();
            if is_folder { folder_name(Expr::Column(column)) } else { Ok(Expr::Column(column)) }
        });
        self.texts.insert_into(state, named?, op).await
    }
}
