//! Table provider of a Delta table, for SQL.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::datasource::TableType;
use datafusion::logical_expr::dml::{InsertOp, MergeIntoClause};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

/// Read-only wrapper of the library's table provider.
///
/// The library's INSERT ignores the table's rules (CHECK constraints, generated columns, required writer features) and
/// adds to the latest version even if the table is an earlier one, so writes are refused. Filters on floats are not
/// pushed down: the library skips files by the minima and maxima in the log, which leave NaN out.
#[derive(Debug)]
pub(crate) struct LakeTable {
    pub(crate) table: Arc<dyn TableProvider>,
    pub(crate) name: String,
}

impl LakeTable {
    fn refuse<T>(&self, statement: &str) -> Result<T> {
        plan_err!(
            "{statement}: {} is a Delta table, which SQL reads and does not write: capfilt run --table-format delta writes one, and keeps \
             to its rules",
            self.name
        )
    }

    fn is_of_floats(&self, filter: &Expr) -> bool {
        let schema = self.table.schema();
        filter.column_refs().iter().any(|column| {
            let field = schema.field_with_name(column.name());
            field.is_ok_and(|field| field.data_type().is_floating() || field.data_type().is_nested())
        })
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        self.table.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let mut supported = self.table.supports_filters_pushdown(filters)?;
        for (supported, filter) in supported.iter_mut().zip(filters) {
            if self.is_of_floats(filter) {
                *supported = TableProviderFilterPushDown::Unsupported;
            }
        }
        Ok(supported)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.table.scan(state, projection, filters, limit).await
    }

    async fn insert_into(
        &self,
        _: &dyn Session,
        _: Arc<dyn ExecutionPlan>,
        _: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.refuse("INSERT")
    }

    async fn delete_from(&self, _: &dyn Session, _: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        self.refuse("DELETE")
    }

    async fn update(&self, _: &dyn Session, _: Vec<(String, Expr)>, _: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        self.refuse("UPDATE")
    }

    async fn truncate(&self, _: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        self.refuse("TRUNCATE")
    }

    async fn merge_into(
        &self,
        _: &dyn Session,
        _: Arc<dyn ExecutionPlan>,
        _: DFSchemaRef,
        _: Expr,
        _: Vec<MergeIntoClause>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.refuse("MERGE")
    }
}
