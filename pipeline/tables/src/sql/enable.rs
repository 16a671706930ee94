//! A session that finds tables by their path or URL.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::catalog::{DynamicFileCatalog, TableProvider, UrlTableFactory};
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

use crate::error::Result;
use crate::sql::copy::CheckedCopy;
use crate::sql::external::ExternalTables;
use crate::sql::named::named_table;

/// Session that resolves an unregistered table name as the path or URL of a file or folder.
///
/// Folders `column=value` are read and written as Hive does (`__HIVE_DEFAULT_PARTITION__` is NULL), also by CREATE
/// EXTERNAL TABLE, which accepts URLs of stores too. COPY refuses targets where its output would be lost: folders of
/// Delta tables, and stores. Register formats beyond DataFusion's own ([`crate::register_formats`]) before.
pub fn enable_named_tables(ctx: SessionContext) -> SessionContext {
    let named = Arc::new(Named::default());
    let catalogs = Arc::clone(ctx.state_ref().read().catalog_list());
    let catalogs = DynamicFileCatalog::new(catalogs, Arc::clone(&named) as Arc<dyn UrlTableFactory>);
    let id = ctx.session_id();
    let builder = ctx.into_state_builder().with_session_id(id).with_catalog_list(Arc::new(catalogs));
    let mut state = builder.with_analyzer_rule(Arc::new(CheckedCopy)).build();
    for factory in state.table_factories_mut().values_mut() {
        *factory = Arc::new(ExternalTables(Arc::clone(factory)));
    }
    let ctx = SessionContext::new_with_state(state);
    let state = ctx.state_weak_ref();
    // `set` cannot fail, since the cell was created above.
    let _ = named.0.set(Box::new(move || Some(SessionContext::new_with_state(state.upgrade()?.read().clone()))));
    ctx
}

pub(crate) type Current = dyn Fn() -> Option<SessionContext> + Send + Sync;

/// Resolves table names in a session, which it does not keep alive.
#[derive(Default)]
pub(crate) struct Named(OnceLock<Box<Current>>);

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Named")
    }
}

#[async_trait]
impl UrlTableFactory for Named {
    async fn try_new(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let Some(ctx) = self.0.get().and_then(|session| session()) else { return Ok(None) };
        named_table(&ctx, name).await.map_err(|e| DataFusionError::External(Box::new(e)))
    }
}
