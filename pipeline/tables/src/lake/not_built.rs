//! Delta tables in a build without the library that reads them: they are recognised and refused.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::DmlStatement;
use datafusion::prelude::SessionContext;

use crate::error::{Error, Result};
use crate::lake::contract::{Snapshot, TableFormat};
use crate::lake::location::Lake;
use crate::layout::DELTA_LOG;

/// Delta tables.
#[derive(Debug)]
pub(crate) struct Delta;

fn refused(at: &Lake) -> Error {
    at.error("it is a Delta table, and this capfilt is built without the feature delta")
}

/// There is no table that a statement could change.
pub(crate) fn check_write(_: &DmlStatement) -> datafusion::common::Result<()> {
    Ok(())
}

#[async_trait]
impl TableFormat for Delta {
    fn name(&self) -> &'static str {
        "Delta"
    }

    fn is_here(&self, at: &Lake) -> Result<bool> {
        at.has_folder(DELTA_LOG)
    }

    fn snapshot(&self, at: &Lake, _: Option<&str>) -> Result<Snapshot> {
        Err(refused(at))
    }

    async fn in_sql(&self, _: &SessionContext, at: Lake, _: Option<String>) -> Result<Arc<dyn TableProvider>> {
        Err(refused(&at))
    }
}
