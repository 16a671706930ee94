//! CREATE EXTERNAL TABLE.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Result, internal_datafusion_err, plan_err};
use datafusion::datasource::listing::ListingTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::CreateExternalTable;

use crate::halt;
use crate::layout::is_delta;
use crate::sql::hive;
use crate::sql::named::{Kind, files, literal};
use crate::store::location::Location;
use crate::store::url::is_url;

/// The factory behind CREATE EXTERNAL TABLE, which also reads stores. It refuses a Delta table's folder: only the log
/// says which of the files in it are current.
#[derive(Debug)]
pub(crate) struct ExternalTables(pub(crate) Arc<dyn TableProviderFactory>);

#[async_trait]
impl TableProviderFactory for ExternalTables {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let mut cmd = cmd.clone();
        for location in &mut cmd.locations {
            let path = location.strip_prefix("file://").unwrap_or(location);
            if is_delta(Path::new(path)) {
                return plan_err!(
                    "{location} is a Delta table, and not all files below it are of its latest version: name it as it is, \
                     FROM '{path}', or register it with --table NAME={path}"
                );
            }
            if is_url(path) {
                let asked = path.to_owned();
                let found = halt::aside(move |_| {
                    let store = Location::open(&asked)?;
                    if store.has_log()? {
                        return Err(store.error("it is a Delta table: name it as it is, FROM '..', or with --table"));
                    }
                    store.files()
                });
                let (store, url, _) = found.await.map_err(|e| DataFusionError::External(Box::new(e)))?;
                state.runtime_env().register_object_store(&url, store);
                *location = url.to_string();
            } else {
                *location = literal(Path::new(path));
            }
        }
        let table = match (self.0.create(state, &cmd).await, cmd.locations.as_slice()) {
            // DataFusion takes files of the same types alone; those of a named table have common ones.
            (Err(_), [location]) if is_bare_parquet(&cmd) => {
                let state = state.as_any().downcast_ref().ok_or_else(|| internal_datafusion_err!("no SessionState"))?;
                files(state, location, &Kind::parquet()).await?
            }
            (table, _) => table?,
        };
        Ok(match table.downcast_ref::<ListingTable>() {
            Some(listed) => hive::table(listed.clone()),
            None => table,
        })
    }
}

/// Whether the statement gives a place alone.
fn is_bare_parquet(cmd: &CreateExternalTable) -> bool {
    cmd.file_type.eq_ignore_ascii_case("parquet")
        && cmd.schema.fields().is_empty()
        && cmd.order_exprs.is_empty()
        && cmd.table_partition_cols.is_empty()
}
