//! Table provider of a Delta table, for SQL.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, plan_err};
use datafusion::datasource::{TableType, source_as_provider};
use datafusion::logical_expr::{DmlStatement, Expr, TableProviderFilterPushDown, WriteOp};
use datafusion::physical_plan::ExecutionPlan;

/// Read-only wrapper of the library's table provider.
///
/// The library's INSERT ignores the table's rules (CHECK constraints, generated columns, required writer features) and
/// adds to the latest version even if the table is an earlier one, so `sql/copy.rs` refuses writes. Filters on floats
/// are not pushed down: the library skips files by the minima and maxima in the log, which leave NaN out.
#[derive(Debug)]
pub(crate) struct LakeTable {
    pub(crate) table: Arc<dyn TableProvider>,
    pub(crate) name: String,
}

/// Refuses a statement that would change a lakehouse table.
pub(crate) fn check_write(write: &DmlStatement) -> Result<()> {
    let provider = source_as_provider(&write.target).ok();
    let Some(table) = provider.as_ref().and_then(|provider| provider.downcast_ref::<LakeTable>()) else {
        return Ok(());
    };
    let name = match &write.op {
        WriteOp::Insert(_) => "INSERT".to_owned(),
        WriteOp::MergeInto(_) => "MERGE".to_owned(),
        other => other.name().to_uppercase(),
    };
    plan_err!(
        "{name}: {} is a Delta table, which SQL reads and does not write: capfilt run --table-format delta writes one, and keeps \
         to its rules",
        table.name
    )
}

impl LakeTable {
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
}
