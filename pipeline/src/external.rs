//! CREATE EXTERNAL TABLE.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Result, plan_err};
use datafusion::datasource::listing::ListingTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::CreateExternalTable;

use crate::hive;
use crate::named::literal;
use crate::source::{Location, is_url};
use crate::table::is_delta;

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
                let found = Location::open(path).and_then(|store| {
                    if store.has_log()? {
                        return Err(store.error("it is a Delta table: name it as it is, FROM '..', or with --table"));
                    }
                    store.files()
                });
                let (store, url, _) = found.map_err(|e| DataFusionError::External(Box::new(e)))?;
                state.runtime_env().register_object_store(&url, store);
                *location = url.to_string();
            } else {
                *location = literal(Path::new(path));
            }
        }
        let table = self.0.create(state, &cmd).await?;
        Ok(match table.downcast_ref::<ListingTable>() {
            Some(listed) => hive::table(listed.clone()),
            None => table,
        })
    }
}
